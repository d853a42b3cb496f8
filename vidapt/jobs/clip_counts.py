"""Pixels per class of every clip of a labelled data set, for rare class sampling."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.clip_dataset import ClipDataset
from vidapt.datasets.stored import StoredDataset
from vidapt.datasets.views import IgnoredRows, Mixture, Relabelled, SkipDamaged
from vidapt.errors import InputError
from vidapt.jobs.data_stats import statistics_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class ClipCounts:
    """How much of each class the clips of a data set show.

    Attributes:
        clips: int64 (N,C) pixels of each class in the frame of a clip that shows most of it; frames without labels
            and damaged ones show nothing.
        pixels: int64 (N,) pixels of a frame of each clip; 0 where no frame could be counted.
        frequencies: float64 (C,) share of each class among all labelled pixels, every frame counted once; zeros
            without any. Data sets of a mixture count as often as it reads them.
    """

    clips: NDArray[np.int64]
    pixels: NDArray[np.int64]
    frequencies: NDArray[np.float64]


@dataclass(frozen=True)
class _Frames:
    """Pixels int64 (F,256) of each frame by id, and the frames int64 (N,T) of each clip."""

    counts: NDArray[np.int64]
    clips: NDArray[np.int64]


def clip_class_counts(dataset: Any, classes: int, *, jobs: int | None = None) -> ClipCounts:
    """Count the labelled pixels of each class in every clip, at the size that the data set gives.

    Each frame of stored footage is decoded once, however many clips show it; counts of published data sets are kept
    as by ``vidapt data stats``.

    Args:
        dataset: Labelled clips of any kind, views and mixtures of them.
        classes: Number C of classes of its label space.
        jobs: Processes that read published data sets; None takes one a core.

    Raises:
        InputError: If a clip has no labels, or a frame is damaged that is not to be skipped.
    """
    if isinstance(dataset, Mixture):
        return _mixed(dataset, [clip_class_counts(part, classes, jobs=jobs) for part in dataset.datasets])
    table = np.arange(IGNORE + 1)
    skip_damaged = False
    while isinstance(dataset, Relabelled | SkipDamaged | IgnoredRows):
        skip_damaged |= isinstance(dataset, SkipDamaged)
        table = table[dataset.mapping.table] if isinstance(dataset, Relabelled) else table
        dataset = dataset.dataset
    frames = _read(dataset, jobs, skip_damaged)
    # int64 (256,C): which ids count for which class.
    members = (table[:, None] == np.arange(classes)).astype(np.int64)
    counts = frames.counts @ members
    pixels = frames.counts.sum(1)[frames.clips].max(1)
    return ClipCounts(counts[frames.clips].max(1), pixels, _shares(counts.sum(0)))


def _shares(pixels: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(pixels / max(1.0, float(pixels.sum())), np.float64)


def _mixed(mixture: Mixture, parts: list[ClipCounts]) -> ClipCounts:
    """Counts by the clip numbers of a mixture, which repeats and interleaves the clips of its parts."""
    clips = _rearranged(mixture, [part.clips for part in parts])
    owners = _rearranged(mixture, [np.full(len(part.clips), number) for number, part in enumerate(parts)])
    reads = np.bincount(owners, minlength=len(parts)) / len(owners)
    pixels = _rearranged(mixture, [part.pixels for part in parts])
    return ClipCounts(clips, pixels, reads @ np.stack([part.frequencies for part in parts]))


def _rearranged(mixture: Mixture, values: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The values that belong to the clips of the mixture, in its order, from those of the clips of its parts."""
    same = copy(mixture)
    same.datasets = values
    return np.stack([same[index] for index in range(len(same))])


def _read(dataset: Any, jobs: int | None, skip_damaged: bool) -> _Frames:
    if isinstance(dataset, StoredDataset):
        return _stored(dataset, jobs, skip_damaged)
    if isinstance(dataset, ClipDataset):
        return _footage(dataset)
    return _generated(dataset)


def _stored(dataset: StoredDataset, jobs: int | None, skip_damaged: bool) -> _Frames:
    """Frames of a published data set, from kept statistics; the last row is that of frames without labels."""
    statistics = statistics_of(dataset, jobs=jobs, skip_damaged=skip_damaged).statistics
    rows = {name: row for row, name in enumerate(statistics.names)}
    clips = [
        [rows.get(dataset.frame_name(video, position), len(rows)) for position in positions]
        for video, positions in map(dataset.clip_frames, range(len(dataset)))
    ]
    return _Frames(np.pad(statistics.counts, ((0, 1), (0, 0))), np.array(clips))


def _footage(dataset: ClipDataset) -> _Frames:
    """Frames of footage in plain folders, video by video."""
    counts: list[NDArray[np.int64]] = []
    first = []
    for video, name in enumerate(dataset.videos):
        first.append(len(counts))
        targets = (target for _, target in dataset.iterate_video(video))
        counts += [_count(None if target is None else target.semantic, name) for target in targets]
    places = map(dataset.clip_frames, range(len(dataset)))
    clips = [[first[video] + position for position in positions] for video, positions in places]
    return _Frames(np.stack(counts), np.array(clips))


def _generated(dataset: Any) -> _Frames:
    """Frames of clips that cost little to read again; a frame is known by the name of its video and its number."""
    rows: dict[tuple[str, int], int] = {}
    counts: list[NDArray[np.int64]] = []
    clips = []
    for clip in map(dataset.__getitem__, range(len(dataset))):
        keys = [(clip.video, index) for index in clip.indices.tolist()]
        for place, key in enumerate(keys):
            if key not in rows:
                rows[key] = len(rows)
                counts.append(_count(None if clip.target is None else clip.target.semantic[place], clip.video))
        clips.append([rows[key] for key in keys])
    return _Frames(np.stack(counts), np.array(clips))


def _count(semantic: Tensor | None, video: str) -> NDArray[np.int64]:
    """int64 (256,) pixels of a frame by train id."""
    if semantic is None:
        raise InputError(f"video {video} has frames without labels; classes are counted on labelled data")
    return np.bincount(semantic.numpy().reshape(-1), minlength=IGNORE + 1)
