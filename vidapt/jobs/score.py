"""Scoring a network or stored predictions by the protocol of a recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.clip import PanopticFrame
from vidapt.config import Recipe
from vidapt.datasets.stored import StoredDataset
from vidapt.datasets.views import Relabelled
from vidapt.engine.distributed import gather_objects, rank, world_size
from vidapt.evaluation.runner import VideoEvaluator
from vidapt.evaluation.scores import Scores
from vidapt.evaluation.semantic import ScoredClasses
from vidapt.jobs.parallel import in_processes
from vidapt.jobs.predictions import Lookup, Predictions, open_predictions
from vidapt.jobs.progress import progress_bar
from vidapt.jobs.scored_videos import frame_name, labelled_frames, scored_space, scored_videos
from vidapt.jobs.worst_frames import WorstFrame, WorstFrames
from vidapt.mapping import find_mapping
from vidapt.segmenter import Segmenter, Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

Find = Callable[[int, str, Any], PanopticFrame]
"""The prediction for a frame of a video, by its position, name and picture uint8 (H,W,3)."""


@dataclass(frozen=True)
class Evaluated:
    """Scores, and the frames that score worst, worst first."""

    scores: Scores
    worst: tuple[WorstFrame, ...]


@dataclass(frozen=True)
class _Scored:
    """The counts of one video and its worst frames."""

    evaluator: VideoEvaluator
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
        spread: Share the videos among the processes of torchrun; every process must call it and gets the same result,
            which is that of one process to the last bit.
    """
    videos = scored_videos(recipe)
    first, step = (rank(), world_size()) if spread else (0, 1)
    numbers = range(first, len(videos.videos), step)
    parts: Iterable[_Scored] = _segment_videos(segmenter, recipe, videos, numbers, worst)
    if step > 1:
        shares = gather_objects(_share(recipe, parts, worst))
        parts = (part for turn in zip_longest(*shares) for part in turn if part is not None)
    return _joined(recipe, parts, worst)


def _segment_videos(
    segmenter: Segmenter, recipe: Recipe, videos: Any, numbers: Sequence[int], worst: int
) -> Iterator[_Scored]:
    with progress_bar("evaluating", len(numbers)) as advance:
        for number in numbers:
            find = partial(_segment_next, segmenter.stream())
            yield _score_video(recipe, videos, number, find, worst)
            advance()


def _segment_next(stream: Stream, position: int, name: str, image: NDArray[np.uint8]) -> PanopticFrame:
    del name
    return stream.push(image, index=position)


def _share(recipe: Recipe, parts: Iterable[_Scored], worst: int) -> list[_Scored]:
    """All parts of one process, with the pictures of its worst frames only, at the first."""
    frames, counts = _no_frames(recipe, worst), []
    for part in parts:
        frames.extend(part.worst)
        counts.append(replace(part, worst=()))
    return [replace(part, worst=frames.worst_first()) for part in counts[:1]] + counts[1:]


@dataclass(frozen=True)
class _Scoring:
    """What every process that scores predictions needs."""

    recipe: Recipe
    videos: Any
    predictions: Predictions
    worst: int


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
    own = videos.mapping if isinstance(videos, Relabelled) else find_mapping(scored, scored)
    stored = videos.dataset if isinstance(videos, Relabelled) else videos
    first_category = stored.first_category if isinstance(stored, StoredDataset) else 0
    predictions = open_predictions(folder, videos.videos, own, first_category)
    lost = [] if predictions.mapping.source.names == own.source.names else predictions.mapping.ignored
    if lost:
        print(f"predicted classes that are not scored and become void: {', '.join(lost)}", file=sys.stderr)
    work = _Scoring(recipe, videos, predictions, worst)
    parts = in_processes(_score_predicted, work, range(len(videos.videos)), jobs=jobs, title="scoring")
    return _joined(recipe, parts, worst)


def _score_predicted(work: _Scoring, number: int) -> _Scored:
    find = partial(_look_up, work.predictions.video(number))
    return _score_video(work.recipe, work.videos, number, find, work.worst)


def _look_up(lookup: Lookup, position: int, name: str, image: NDArray[np.uint8]) -> PanopticFrame:
    return lookup(position, name, (image.shape[0], image.shape[1]))


def _score_video(recipe: Recipe, videos: Any, number: int, find: Find, worst: int) -> _Scored:
    evaluator, frames = new_evaluator(recipe), _no_frames(recipe, worst)
    for position, (image, target, flow) in enumerate(labelled_frames(videos, number)):
        name = frame_name(videos, number, position)
        frame = find(position, name, image)
        labelled = target[0] is not None
        quality = evaluator.update(frame, *target, labelled=labelled, flow=flow, image=image, name=name)
        frames.add(name, quality, image, target, frame)
    evaluator.end_video()
    return _Scored(evaluator, frames.worst_first())


def _joined(recipe: Recipe, parts: Iterable[_Scored], worst: int) -> Evaluated:
    """Add up what videos have counted, in their order."""
    evaluator, frames = new_evaluator(recipe), _no_frames(recipe, worst)
    for part in parts:
        evaluator.merge(part.evaluator)
        frames.extend(part.worst)
    return Evaluated(evaluator.result(), frames.worst_first())


def _no_frames(recipe: Recipe, worst: int) -> WorstFrames:
    """Nothing kept yet; pixels that the protocol ignores are not shown as wrong."""
    space, protocol = scored_space(recipe), recipe.scoring
    scored = set(ScoredClasses.of(space, protocol.classes).ids)
    ignored = set(range(len(space))) - scored if protocol.unscored == "ignored" else set()
    return WorstFrames(worst, space, ignored=sorted(ignored))
