"""``vidapt demo``: the whole job on generated street video, in minutes on a laptop's CPU."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Console

from vidapt.config import Recipe, StreetWorldData
from vidapt.errors import ConfigError
from vidapt.io.encoder import write_video
from vidapt.io.reader import open_video
from vidapt.jobs.adapt import adapt
from vidapt.jobs.evaluate import evaluation_videos, labelled_frames
from vidapt.jobs.segment import write_segmentation
from vidapt.recipe import load_recipe
from vidapt.segmenter import load

WORLDS = ("source", "target", "validation", "evaluation")


def run_demo(*, out: str | Path, seed: int = 0, device: str | None = None) -> None:
    """Adapt to generated fog, compare, segment a target video, write a report, print the table and the next command.

    Args:
        out: Run folder.
        seed: Seed of the training and of the generated worlds.
        device: ``cpu`` or ``cuda``; None picks a GPU if there is one.

    Raises:
        ConfigError: If ``out`` already holds a run.
    """
    begin, run = time.monotonic(), Path(out)
    adapt(seeded(load_recipe("demo"), seed), out=run, device=device)
    example = write_example(load_recipe(run / "config.yaml"), run / "example.mp4")
    with open_video(str(example)) as reader:
        write_segmentation(load(run, device=device), reader, run / "example_segmented", overlay=True)
    say = Console(soft_wrap=True).print
    say(f"report: {run / 'report.html'}   example video: {run / 'example_segmented'}")
    say(f"done in {time.monotonic() - begin:.0f} s; segment your own video with the adapted model:")
    say(f"vidapt segment YOUR_VIDEO.mp4 --checkpoint {run} --out segmented")


def seeded(recipe: Recipe, seed: int) -> Recipe:
    """Give a recipe on street_world its training seed and generated worlds of its own: seeds 10·seed to 10·seed + 3."""
    changes: dict[str, object] = {"training": recipe.training.model_copy(update={"seed": seed})}
    for number, name in enumerate(WORLDS):
        data = getattr(recipe, name)
        if isinstance(data, StreetWorldData):
            changes[name] = data.model_copy(update={"seed": 10 * seed + number})
    if isinstance(recipe.upper_bound, StreetWorldData):
        changes["upper_bound"] = recipe.upper_bound.model_copy(update={"seed": 10 * seed + WORLDS.index("target")})
    return recipe.model_copy(update=changes)


def write_example(recipe: Recipe, path: Path) -> Path:
    """Write the last evaluation video as an MP4 file, as a user's video would come.

    Raises:
        ConfigError: If the recipe has no evaluation videos.
    """
    if recipe.evaluation is None:
        raise ConfigError("the demo recipe has no evaluation videos")
    videos = evaluation_videos(recipe.evaluation)
    frames = (np.ascontiguousarray(image) for image, _, _ in labelled_frames(videos, len(videos.videos) - 1))
    write_video(frames, path, fps=10)
    return path
