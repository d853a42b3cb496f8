"""Scoring a network or stored predictions by the protocol of a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vidapt.clip import PanopticFrame
from vidapt.config import Recipe
from vidapt.datasets.views import Relabelled
from vidapt.engine.distributed import gather_objects, rank, world_size
from vidapt.evaluation.runner import FrameQuality, VideoEvaluator
from vidapt.evaluation.scores import Scores
from vidapt.jobs.parallel import in_processes
from vidapt.jobs.predictions import Predictions, open_predictions
from vidapt.jobs.progress import progress_bar
from vidapt.jobs.scored_videos import labelled_frames, scored_space, scored_videos
from vidapt.jobs.worst_frames import WorstFrame, WorstFrames
from vidapt.segmenter import Segmenter


@dataclass(frozen=True)
class Evaluated:
    """Scores, and the frames that score worst, worst first."""

    scores: Scores
    worst: tuple[WorstFrame, ...]


def new_evaluator(recipe: Recipe) -> VideoEvaluator:
    """An evaluator for the protocol of a recipe."""
    protocol = recipe.scoring
    return VideoEvaluator(
        scored_space(recipe),
        windows=protocol.windows,
        long_windows=protocol.long_windows,
        scored_classes=protocol.classes,
        unscored=protocol.unscored,
        means=protocol.means,
        metrics=protocol.metrics,
    )


def score_segmenter(segmenter: Segmenter, recipe: Recipe, *, worst: int = 0, spread: bool = False) -> Evaluated:
    """Segment and score the evaluation videos; ``segmenter`` answers in the space that is scored.

    Args:
        segmenter: The network.
        recipe: Its ``evaluation`` and ``scoring``.
        worst: Number of the worst frames to keep.
        spread: Share the videos among the processes of torchrun; every process must call it and gets the same result.
    """
    videos = scored_videos(recipe)
    evaluator, frames = new_evaluator(recipe), WorstFrames(worst, scored_space(recipe))
    first, step = (rank(), world_size()) if spread else (0, 1)
    numbers = range(first, len(videos.videos), step)
    with progress_bar("evaluating", len(numbers)) as advance:
        for number in numbers:
            stream = segmenter.stream()
            for position, (image, target, flow) in enumerate(labelled_frames(videos, number)):
                name = videos.frame_name(number, position)
                frame = stream.push(image, index=position)
                frames.add(name, _update(evaluator, frame, target, flow, image, name), image, target, frame)
            evaluator.end_video()
            advance()
    if not spread:
        return Evaluated(evaluator.result(), frames.worst_first())
    return _joined(recipe, gather_objects(_Scored(evaluator, frames.worst_first())), worst)


@dataclass(frozen=True)
class _Scoring:
    """What every process that scores predictions needs."""

    recipe: Recipe
    videos: Any
    predictions: Predictions


@dataclass(frozen=True)
class _Scored:
    """The counts of one video and its worst frames."""

    evaluator: VideoEvaluator
    worst: tuple[WorstFrame, ...]


def score_predictions(folder: Path, recipe: Recipe, *, jobs: int | None = None, worst: int = 0) -> Evaluated:
    """Score predictions in parallel over the videos (or single images) of the evaluation data.

    Args:
        folder: Segmentation folders, or panoptic PNG and JSON; see ``open_predictions``.
        recipe: Its ``evaluation`` and ``scoring``.
        jobs: Processes; None takes one a core.
        worst: Number of the worst frames to keep.

    Raises:
        InputError: If a prediction is missing or damaged.
    """
    videos, scored = scored_videos(recipe), scored_space(recipe)
    own = videos.mapping.source if isinstance(videos, Relabelled) else scored
    predictions = open_predictions(folder, videos.videos, own, scored)
    work = _Scoring(recipe, videos, predictions)
    numbers = range(len(videos.videos))
    return _joined(
        recipe, in_processes(partial(_score_video, worst=worst), work, numbers, jobs=jobs, title="scoring"), worst
    )


def _joined(recipe: Recipe, parts: Iterable[_Scored], worst: int) -> Evaluated:
    """Add up what several processes or videos have counted."""
    evaluator, frames = new_evaluator(recipe), WorstFrames(worst, scored_space(recipe))
    for part in parts:
        evaluator.merge(part.evaluator)
        frames.extend(part.worst)
    return Evaluated(evaluator.result(), frames.worst_first())


def _score_video(work: _Scoring, number: int, *, worst: int) -> _Scored:
    evaluator, frames = new_evaluator(work.recipe), WorstFrames(worst, scored_space(work.recipe))
    find = work.predictions.video(number)
    for position, (image, target, flow) in enumerate(labelled_frames(work.videos, number)):
        name = work.videos.frame_name(number, position)
        frame = find(position, name)
        quality = _update(evaluator, frame, target, flow, image, name)
        frames.add(name, quality, image, target, frame)
    evaluator.end_video()
    return _Scored(evaluator, frames.worst_first())


def _update(
    evaluator: VideoEvaluator, frame: PanopticFrame, target: tuple[Any, Any], flow: Any, image: Any, name: str
) -> FrameQuality | None:
    labelled = target[0] is not None
    return evaluator.update(frame, *target, labelled=labelled, flow=flow, image=image, name=name)
