"""``vidapt demo``: the whole job on generated street video, in minutes on a laptop's CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console

from vidapt.config import Recipe
from vidapt.errors import ConfigError
from vidapt.io.encoder import write_video
from vidapt.io.reader import open_video
from vidapt.io.segmentation_folder import encode_png, write_bytes
from vidapt.jobs.adapt import adapt
from vidapt.jobs.scored_videos import labelled_frames, scored_videos
from vidapt.jobs.segment import write_segmentation
from vidapt.jobs.worlds import seeded
from vidapt.recipe import load_recipe
from vidapt.segmenter import load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def run_demo(*, out: str | Path, seed: int = 0, device: str | None = None) -> None:
    """Adapt to generated fog, compare, segment a target video, write a report, print the table and the next command.

    Args:
        out: Run folder; an earlier demo of the same seed in it is continued, its finished stages are not run again.
        seed: Seed of the training and of the generated worlds.
        device: ``cpu`` or ``cuda``; None picks a GPU if there is one.

    Raises:
        ConfigError: If ``out`` already holds another run.
    """
    begin, run = time.monotonic(), Path(out)
    recipe = seeded(load_recipe("demo"), seed)
    adapt(recipe, out=run, resume=_holds(run, recipe), device=device)
    example = write_example(load_recipe(run / "config.yaml"), run / "example.mp4")
    with open_video(str(example)) as reader:
        write_segmentation(load(run, device=device), reader, run / "example_segmented", overlay=True)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"segmented example: {run / 'example_segmented'}")
    console.print(f"done in {time.monotonic() - begin:.0f} s; segment your own video with the adapted model:")
    console.print(f"vidapt segment YOUR_VIDEO.mp4 --checkpoint {quote(str(run))} --out segmented")


def _holds(run: Path, recipe: Recipe) -> bool:
    """Whether a run folder was started with this recipe."""
    config = run / "config.yaml"
    return config.is_file() and load_recipe(config) == recipe


def write_example(recipe: Recipe, path: Path) -> Path:
    """Write the last evaluation video as an MP4 file, as a user's video would come; as images where PyAV is missing.

    Returns:
        The file, or a folder beside it.

    Raises:
        ConfigError: If the recipe has no evaluation videos.
    """
    if recipe.evaluation is None:
        raise ConfigError("the demo recipe has no evaluation videos")
    videos = scored_videos(recipe)
    frames = [image for image, _, _ in labelled_frames(videos, len(videos.videos) - 1)]
    written = write_video(frames, path, fps=10)
    return _write_images(frames, path.with_suffix("")) if written is None else written


def _write_images(frames: Sequence[NDArray[np.uint8]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(frames):
        write_bytes(folder / f"{index:06d}.png", encode_png(image))
    return folder
