"""``vidapt evaluate``: score a run, or a folder of predictions, on labelled videos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vidapt.config import Data, Recipe, StreetWorldData
from vidapt.errors import ConfigError
from vidapt.evaluation.runner import Scores, VideoEvaluator
from vidapt.io.writer import read_segmentation
from vidapt.jobs.data import build_dataset
from vidapt.jobs.progress import progress_bar
from vidapt.segmenter import Segmenter, load


def evaluate(
    recipe: Recipe,
    *,
    checkpoint: str | Path | None = None,
    predictions: str | Path | None = None,
    weights: Literal["student", "teacher"] | None = None,
    out: str | Path | None = None,
    device: str | None = None,
) -> Scores:
    """Score the recipe's evaluation videos.

    Args:
        recipe: Its ``evaluation`` names the labelled videos.
        checkpoint: Run, checkpoint folder or ``.safetensors`` file to segment them with.
        predictions: Instead: a folder with one segmentation folder per video (or one itself).
        weights: Which weights of a run; None uses what its recipe says.
        out: JSON file for the scores.
        device: Where the network runs.

    Raises:
        ConfigError: If the recipe has no evaluation videos, or not exactly one of checkpoint and predictions is given.
    """
    if recipe.evaluation is None:
        raise ConfigError("the recipe has no evaluation videos; set 'evaluation' to labelled footage")
    if (checkpoint is None) == (predictions is None):
        raise ConfigError("evaluate needs exactly one of --checkpoint and --predictions")
    if checkpoint is not None:
        space = evaluation_videos(recipe.evaluation).label_space
        scores = score_segmenter(load(checkpoint, weights, device, space), recipe)
    else:
        scores = _score_predictions(Path(str(predictions)), recipe)
    if out is not None:
        Path(out).write_text(json.dumps(scores.to_dict(), indent=2), "utf-8")
    return scores


def score_segmenter(segmenter: Segmenter, recipe: Recipe) -> Scores:
    """Segment and score the evaluation videos; ``segmenter`` answers in their label space."""
    videos = evaluation_videos(_evaluation(recipe))
    evaluator = VideoEvaluator(videos.label_space, windows=recipe.scoring.windows)
    with progress_bar("evaluating", len(videos.videos)) as advance:
        for number in range(len(videos.videos)):
            stream = segmenter.stream()
            for position, (image, target, flow) in enumerate(labelled_frames(videos, number)):
                frame = stream.push(image, index=position)
                evaluator.update(frame, *target, flow=flow, image=image)
            evaluator.end_video()
            advance()
    return evaluator.result()


@lru_cache(maxsize=4)
def evaluation_videos(data: Data) -> Any:
    """The data set of labelled videos that a section describes; kept, because generated videos are rendered once."""
    return build_dataset(data, clip_length=1, interval=1)


@lru_cache(maxsize=64)
def _exact_flow(videos: Any, number: int) -> Any:
    """Exact flow of one generated video, which is costly and asked for by every stage."""
    return videos.exact_flow(number)


Frame = tuple[Any, tuple[Any, Any], Any]


def labelled_frames(videos: Any, number: int) -> Iterator[Frame]:
    """Yield (image, (semantic, instance or None), flow from the previous frame or None) of one video.

    The flow is exact on street_world; elsewhere it is None and the evaluator computes DIS flow from the images.
    """
    clip = videos.video_clip(number)
    generated = hasattr(videos, "exact_flow")
    exact = _exact_flow(videos, number) if generated else None
    has_instances = getattr(videos, "has_instances", generated)
    for index in range(len(clip.frames)):
        image = np.ascontiguousarray(clip.frames[index].permute(1, 2, 0).numpy())
        instance = clip.target.instance[index].numpy() if has_instances else None
        known = None if exact is None or index == 0 else (exact[0][index - 1], exact[1][index - 1])
        yield image, (clip.target.semantic[index].numpy(), instance), known


def _evaluation(recipe: Recipe) -> Data:
    if recipe.evaluation is None:
        raise ConfigError("the recipe has no evaluation videos; set 'evaluation' to labelled footage")
    return recipe.evaluation


def _score_predictions(folder: Path, recipe: Recipe) -> Scores:
    videos = evaluation_videos(_evaluation(recipe))
    evaluator = VideoEvaluator(videos.label_space, windows=recipe.scoring.windows)
    for number, name in enumerate(videos.videos):
        own = folder / name if (folder / name).is_dir() else folder
        found = {frame.index: frame for frame in read_segmentation(own)}
        for index, (image, target, flow) in enumerate(labelled_frames(videos, number)):
            if index not in found:
                raise ConfigError(f"{own} has no prediction for frame {index} of {name}; segment every frame")
            evaluator.update(found[index], *target, flow=flow, image=image)
        evaluator.end_video()
    return evaluator.result()


def is_generated(data: Data | None) -> bool:
    """True for generated footage, whose scores every table labels as a test bed."""
    return isinstance(data, StreetWorldData)
