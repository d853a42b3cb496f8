"""One joint histogram of segments per frame, which PQ, VPQ, STQ and the id switches are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.clip import FIRST_THING_ID, IGNORE
from vidapt.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOID = 0
"""Segment code of pixels without a segment."""

_CODE_STRIDE = 256
_TABLE_LIMIT = 1 << 22


def category_of(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Train id of each segment code, -1 for void and for segments that are not scored."""
    return codes % _CODE_STRIDE - 1


def track_of(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Track id of each segment code, 0 for void, stuff and crowd regions."""
    return codes // _CODE_STRIDE


def target_codes(semantic: NDArray[np.uint8], instance: NDArray[Any], is_thing: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Segment codes of a labelled frame: ``track id · 256 + train id + 1``.

    Stuff has track id 0 whatever ``instance`` says; a thing with track id 0 is a crowd region of its class.

    Args:
        semantic: uint8 (...) train ids, 255 = ignore.
        instance: int (...) track ids.
        is_thing: bool (256,), True where the train id is a thing.

    Returns:
        int64 (...), 0 where the semantic label is 255.

    Raises:
        UserError: If a thing has a negative track id.
    """
    track = np.where(is_thing[semantic], instance, 0).astype(np.int64)
    if track.size and track.min() < 0:
        raise UserError(f"track ids must not be negative, got {track.min()}; use 0 for crowd regions")
    return np.where(semantic == IGNORE, VOID, track * _CODE_STRIDE + semantic + 1)


def unscored_codes(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes of the same target segments as segments without a class: neither void nor scored."""
    return codes * _CODE_STRIDE


def predicted_codes(ids: NDArray[Any], categories: Mapping[int, int], classes: int) -> NDArray[np.int64]:
    """Segment codes of panoptic ids: ``id · 256 + train id + 1`` for things, ``train id + 1`` for stuff.

    Args:
        ids: int (...) panoptic ids: 0 = void, train id + 1 for stuff, from 256 up for things.
        categories: Train id of each thing id (``{segment.id: segment.category}``).
        classes: Number of classes C.

    Returns:
        int64 (...).

    Raises:
        UserError: If an id is no stuff id of the C classes and no thing with a category among them.
    """
    unique, position = compact(ids)
    codes = [_predicted_code(panoptic_id, categories, classes) for panoptic_id in unique.tolist()]
    return np.asarray(codes, np.int64)[position]


def _predicted_code(panoptic_id: int, categories: Mapping[int, int], classes: int) -> int:
    if 0 <= panoptic_id <= classes:
        return panoptic_id
    category = categories.get(panoptic_id, -1)
    if panoptic_id >= FIRST_THING_ID and 0 <= category < classes:
        return panoptic_id * _CODE_STRIDE + category + 1
    raise UserError(
        f"panoptic id {panoptic_id} is neither void (0), nor stuff (1..{classes}), nor a thing (from {FIRST_THING_ID} "
        f"up) that is listed among the frame's segments with a train id of 0..{classes - 1}"
    )


def compact(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Sorted unique values, and for each element its position among them (shape of ``values``).

    A look-up table replaces sorting as long as the values are small and not negative.
    """
    if values.size == 0:
        return np.empty(0, np.int64), np.empty(values.shape, np.intp)
    if int(values.min()) < 0 or int(values.max()) >= _TABLE_LIMIT:
        unique, position = np.unique(values, return_inverse=True)
        return unique.astype(np.int64), position.reshape(values.shape)
    present = np.zeros(int(values.max()) + 1, bool)
    present[values] = True
    unique = np.flatnonzero(present).astype(np.int64)
    table = np.zeros(present.size, np.intp)
    table[unique] = np.arange(unique.size)
    return unique, table[values]


def compress_runs(*maps: NDArray[Any]) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
    """Merge neighbouring pixels that are equal in all maps; label maps shrink by a factor of 20 to 100.

    Args:
        maps: Arrays of one shape, read in C order.

    Returns:
        For each map its value per run (R,), and the run lengths int64 (R,).

    Raises:
        UserError: If the shapes differ.
    """
    if len({label_map.shape for label_map in maps}) > 1:
        shapes = ", ".join(str(label_map.shape) for label_map in maps)
        raise UserError(f"label maps of one frame must have one size, got {shapes}; resize prediction to target")
    flat = [np.ascontiguousarray(label_map).reshape(-1) for label_map in maps]
    if flat[0].size == 0:
        return flat, np.empty(0, np.int64)
    change = flat[0][1:] != flat[0][:-1]
    for values in flat[1:]:
        change |= values[1:] != values[:-1]
    starts = np.concatenate((np.zeros(1, np.int64), np.flatnonzero(change) + 1))
    return [values[starts] for values in flat], np.diff(starts, append=flat[0].size)


@dataclass(frozen=True)
class FrameHistogram:
    """How many pixels each pair of target and predicted segments shares; pairs that share none are left out.

    Attributes:
        target: int64 (G,) segment codes of the target.
        predicted: int64 (P,) segment codes of the prediction.
        rows: (N,) position of each pair's target segment in ``target``.
        columns: (N,) position of each pair's predicted segment in ``predicted``.
        counts: int64 (N,) pixels, all positive.
    """

    target: NDArray[np.int64]
    predicted: NDArray[np.int64]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    counts: NDArray[np.int64]

    @cached_property
    def target_area(self) -> NDArray[np.int64]:
        """int64 (G,) pixels of each target segment."""
        return sum_by(self.rows, self.counts, self.target.size)

    @cached_property
    def predicted_area(self) -> NDArray[np.int64]:
        """int64 (P,) pixels of each predicted segment."""
        return sum_by(self.columns, self.counts, self.predicted.size)


def sum_by(position: NDArray[np.intp], counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Sum ``counts`` (N,) by ``position`` (N,) into an int64 array (size,); exact below 2^53."""
    return np.bincount(position, counts, size).astype(np.int64)


def joint_histogram(
    target: NDArray[Any], predicted: NDArray[Any], counts: NDArray[np.int64] | None = None
) -> FrameHistogram:
    """Joint histogram of two maps of segment codes.

    >>> histogram = joint_histogram(np.array([[1, 1, 0]]), np.array([[1, 2, 2]]))
    >>> histogram.target.tolist(), histogram.predicted.tolist(), histogram.counts.tolist()
    ([0, 1], [1, 2], [1, 1, 1])

    Args:
        target: int (...) segment codes; any ids will do where only the counts matter.
        predicted: int (...) segment codes, same shape.
        counts: Pixels that each element stands for, as ``compress_runs`` returns them; None for maps of pixels.
    """
    if counts is None:
        (target, predicted), counts = compress_runs(target, predicted)
    target_ids, row = compact(target)
    predicted_ids, column = compact(predicted)
    width = max(predicted_ids.size, 1)
    key = row * width + column
    cells = target_ids.size * width
    if cells <= _TABLE_LIMIT:
        total = sum_by(key, counts, cells)
        pairs = np.flatnonzero(total)
        return FrameHistogram(target_ids, predicted_ids, pairs // width, pairs % width, total[pairs])
    pairs, position = np.unique(key, return_inverse=True)
    total = sum_by(position, counts, pairs.size)
    return FrameHistogram(target_ids, predicted_ids, pairs // width, pairs % width, total)


def join_frames(frames: Sequence[FrameHistogram]) -> FrameHistogram:
    """Histogram of a window of frames of one video: segments of one code become tubes.

    A predicted thing whose class changes within the window stays one tube and has the class of the first frame in
    which it appears (rule of the VPQ scorer of Cityscapes-VPS).

    Args:
        frames: At least one histogram, in temporal order.
    """
    if len(frames) == 1:
        return frames[0]
    target = np.concatenate([frame.target[frame.rows] for frame in frames])
    predicted = np.concatenate([frame.predicted[frame.columns] for frame in frames])
    counts = np.concatenate([frame.counts for frame in frames])
    return joint_histogram(target, _first_class(predicted), counts)


def _first_class(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Replace each thing code by the first code of the same track."""
    things = track_of(codes) > 0
    _, first, position = np.unique(track_of(codes[things]), return_index=True, return_inverse=True)
    joined = codes.copy()
    joined[things] = codes[things][first][position]
    return joined
