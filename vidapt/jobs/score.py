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

from vidapt.clip import IGNORE, PanopticFrame
from vidapt.config import Recipe
from vidapt.datasets.stored import StoredDataset
from vidapt.datasets.views import Relabelled
from vidapt.engine.distributed import gather_objects, rank, world_size
from vidapt.errors import InputError
from vidapt.evaluation.runner import VideoEvaluator
from vidapt.evaluation.scores import Scores
from vidapt.evaluation.semantic import ScoredClasses
from vidapt.jobs.parallel import in_processes
from vidapt.jobs.predicted_frames import ClassPixels, Lookup, Predictions, VideoFrames
from vidapt.jobs.predictions import open_predictions
from vidapt.jobs.progress import progress_bar
from vidapt.jobs.scored_videos import frame_name, frame_names, labelled_frames, scored_space, scored_videos
from vidapt.jobs.worst_frames import WorstFrame, WorstFrames
from vidapt.mapping import ClassMapping, find_mapping, unmapped_counts
from vidapt.segmenter import Segmenter, Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

Find = Callable[[int, str, Any, tuple[int, int]], PanopticFrame]
"""The prediction for a frame of a video, by its position, name, picture uint8 (H,W,3) or None, and size (H, W)."""

LARGE_SHARE = 0.5
"""Share of predicted pixels without a scored class above which a line says so."""


@dataclass(frozen=True)
class Evaluated:
    """Scores, and the frames that score worst, worst first."""

    scores: Scores
    worst: tuple[WorstFrame, ...]


@dataclass(frozen=True)
class _Scored:
    """The counts of one video, its worst frames, and int64 (256,) predicted pixels by class before mapping."""

    evaluator: VideoEvaluator
    worst: tuple[WorstFrame, ...]
    pixels: NDArray[np.int64] | None = None


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
            yield _score_video(recipe, videos, number, find, worst, images=True)
            advance()


def _segment_next(
    stream: Stream, position: int, name: str, image: NDArray[np.uint8], size: tuple[int, int]
) -> PanopticFrame:
    del name, size
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

    Classes of the predictions that are not scored become void; a line on stderr names them and their pixels.

    Raises:
        InputError: If predictions are missing or damaged, or name no classes and have none that is scored.
    """
    videos, scored = scored_videos(recipe), scored_space(recipe)
    own = videos.mapping if isinstance(videos, Relabelled) else find_mapping(scored, scored)
    stored = videos.dataset if isinstance(videos, Relabelled) else videos
    first_category = stored.first_category if isinstance(stored, StoredDataset) else 0
    frames = [VideoFrames(*frame_names(videos, number)) for number in range(len(videos.videos))]
    predictions = open_predictions(folder, videos.videos, own, first_category, frames=frames)
    predictions.refuse_missing(frames)
    work, pixels = _Scoring(recipe, videos, predictions, worst), ClassPixels()
    parts = in_processes(_score_predicted, work, range(len(videos.videos)), jobs=jobs, title="scoring")
    done = _joined(recipe, _counting(parts, pixels), worst)
    scored_ids = ScoredClasses.of(scored, recipe.scoring.classes).ids
    _refuse_foreign(folder, predictions, pixels.counts, scored_ids)
    for line in lost_pixels(predictions.mapping, pixels.counts, scored_ids):
        print(line, file=sys.stderr)
    return done


def _counting(parts: Iterable[_Scored], pixels: ClassPixels) -> Iterator[_Scored]:
    """The same parts, whose predicted pixels are added to ``pixels`` on the way."""
    for part in parts:
        if part.pixels is not None:
            pixels.counts += part.pixels
        yield part


def _scored_pixels(mapping: ClassMapping, pixels: NDArray[np.int64], scored: Sequence[int]) -> int:
    return int(pixels[np.isin(mapping.table, list(scored))].sum())


def _refuse_foreign(folder: Path, predictions: Predictions, pixels: NDArray[np.int64], scored: Sequence[int]) -> None:
    """Refuse predictions whose ids, read as those of the ground truth, are no scored class anywhere."""
    mapping = predictions.mapping
    if not predictions.names_classes and pixels[:IGNORE].any() and not _scored_pixels(mapping, pixels, scored):
        found = [label.name for label, count in zip(mapping.source.classes, pixels, strict=False) if count]
        raise InputError(
            f"{folder}: no segment has a class that is scored; without 'categories' the ids are read as those of "
            f"{mapping.source.name} ({', '.join(found[:5])}); list the categories in the JSON"
        )


def lost_pixels(mapping: ClassMapping, pixels: NDArray[np.int64], scored: Sequence[int]) -> list[str]:
    """What to say about predicted pixels without a scored class: a line each, none where there is nothing to say.

    Args:
        mapping: From the classes of the predictions.
        pixels: int64 (256,) predicted pixels by class, void last.
        scored: Train ids that are scored.
    """
    lines = []
    lost = unmapped_counts(mapping, pixels)
    if lost:
        names = ", ".join(f"{name} ({count} pixels)" for name, count in lost.items())
        lines.append(f"predicted classes without a counterpart in {mapping.target.name}, scored as void: {names}")
    total = int(pixels.sum())
    outside = total - _scored_pixels(mapping, pixels, scored)
    if total and outside / total > LARGE_SHARE:
        share = f"{100 * outside / total:.0f} %"
        lines.append(f"warning: {share} of the predicted pixels are void or of no scored class; check the categories")
    return lines


def _score_predicted(work: _Scoring, number: int) -> _Scored:
    pixels = ClassPixels()
    find = partial(_look_up, work.predictions.video(number, pixels))
    # Single images have no flow, and only the worst frames are drawn: else labels are enough.
    needs_flow = work.recipe.scoring.flow and len(frame_names(work.videos, number)[0]) > 1
    images = needs_flow or work.worst > 0
    return replace(
        _score_video(work.recipe, work.videos, number, find, work.worst, images=images), pixels=pixels.counts
    )


def _look_up(lookup: Lookup, position: int, name: str, image: Any, size: tuple[int, int]) -> PanopticFrame:
    del image
    return lookup(position, name, size)


def _score_video(recipe: Recipe, videos: Any, number: int, find: Find, worst: int, *, images: bool) -> _Scored:
    evaluator, frames = new_evaluator(recipe), _no_frames(recipe, worst)
    for position, (image, target, flow) in enumerate(labelled_frames(videos, number, images=images)):
        name = frame_name(videos, number, position)
        height, width = (target[0] if image is None else image).shape[:2]
        frame = find(position, name, image, (height, width))
        moved = {"flow": flow, "image": image} if recipe.scoring.flow else {}
        quality = evaluator.update(frame, *target, labelled=target[0] is not None, name=name, **moved)
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
