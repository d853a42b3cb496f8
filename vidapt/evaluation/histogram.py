"""One joint histogram of segments per frame, which PQ, VPQ, STQ and the id switches are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from vidapt.clip import FIRST_THING_ID, IGNORE
from vidapt.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace

VOID = 0
"""Segment code of pixels without a segment."""

_CODE_STRIDE = 256
_FEW = 4096
_SLOT_BITS = 18
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_TABLE_LIMIT = 1 << 20


@overload
def category_of(codes: int) -> int: ...


@overload
def category_of(codes: NDArray[np.int64]) -> NDArray[np.int64]: ...


def category_of(codes: int | NDArray[np.int64]) -> int | NDArray[np.int64]:
    """Train id of a segment code or of each of many, -1 for void and for segments that are not scored."""
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

    Sorting is avoided where it would be slow: in long arrays of few different values, each has a slot of a small
    look-up table. Should two have the same one, they are sorted after all.

    >>> compact(np.array([[7, 2], [2, 300]]))
    (array([  2,   7, 300]), array([[1, 0],
           [0, 2]]))
    """
    flat = values.reshape(-1).astype(np.int64)
    found = _compact_by_slot(flat) if flat.size > _FEW else None
    if found is None:
        unique = np.unique(flat)
        found = unique, np.searchsorted(unique, flat)
    return found[0], found[1].reshape(values.shape)


def _compact_by_slot(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]] | None:
    """``compact`` of a flat array without sorting it; None if two different values have one slot."""
    slots = _slots(values)
    is_used = np.zeros(1 << _SLOT_BITS, bool)
    is_used[slots] = True
    unique = used = np.flatnonzero(is_used)
    if slots is not values:
        owner = np.empty(1 << _SLOT_BITS, np.int64)
        owner[slots] = values
        if not np.array_equal(owner[slots], values):
            return None
        used = used[np.argsort(owner[used])]
        unique = owner[used]
    position = np.empty(1 << _SLOT_BITS, np.intp)
    position[used] = np.arange(used.size)
    return unique, position[slots]


def _slots(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Slot of each value, below 2^18: ``values`` itself if all fit, else its hash by Knuth (TAOCP 3, section 6.4)."""
    if values.min() >= 0 and values.max() < 1 << _SLOT_BITS:
        return values
    return (values.view(np.uint64) * _MULTIPLIER >> np.uint64(64 - _SLOT_BITS)).view(np.int64)


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
    return _histogram(*compact(target), *compact(predicted), counts)


def frame_histogram(
    semantic: NDArray[np.uint8],
    instance: NDArray[Any],
    ids: NDArray[Any],
    categories: Mapping[int, int],
    space: LabelSpace,
    *,
    counts: NDArray[np.int64] | None = None,
    left_out: NDArray[np.bool_] | None = None,
) -> FrameHistogram:
    """Joint histogram of a labelled frame and its prediction.

    Equal to ``joint_histogram`` of ``target_codes`` (``unscored_codes`` where left out) and ``predicted_codes``, but
    codes are made once per segment instead of once per pixel or run.

    >>> from vidapt.labels import CAMVID
    >>> semantic, instance = np.array([[0, 0, 8, 255]], np.uint8), np.array([[0, 0, 7, 0]])
    >>> histogram = frame_histogram(semantic, instance, np.array([[1, 1, 300, 300]]), {300: 8}, CAMVID)
    >>> category_of(histogram.target).tolist(), track_of(histogram.target).tolist(), histogram.target_area.tolist()
    ([-1, 0, 8], [0, 0, 7], [1, 2, 1])

    Args:
        semantic: uint8 (...) target train ids, 255 = ignore.
        instance: int (...) target track ids, things with 0 are crowd.
        ids: int (...) predicted panoptic ids.
        categories: Train id of each predicted thing id.
        space: Label space of target and prediction.
        counts: Pixels that each element stands for, as ``compress_runs`` returns them; None for maps of pixels.
        left_out: bool (256,), True for train ids whose target segments are neither void nor scored; None for none.

    Raises:
        UserError: If shapes differ, a thing has a negative track id, or a predicted id is unknown.
    """
    if counts is None:
        (semantic, instance, ids), counts = compress_runs(semantic, instance, ids)
    labels, row = compact(instance.astype(np.int64) * _CODE_STRIDE + semantic)
    train_ids = (labels % _CODE_STRIDE).astype(np.uint8)
    codes = target_codes(train_ids, labels // _CODE_STRIDE, space.is_thing)
    if left_out is not None:
        codes = np.where(left_out[train_ids], unscored_codes(codes), codes)
    target, position = np.unique(codes, return_inverse=True)
    unique, column = compact(ids)
    # Codes rise with panoptic ids, so that they are sorted as well.
    return _histogram(target, position[row], predicted_codes(unique, categories, len(space)), column, counts)


def _histogram(
    target: NDArray[np.int64],
    row: NDArray[np.intp],
    predicted: NDArray[np.int64],
    column: NDArray[np.intp],
    counts: NDArray[np.int64],
) -> FrameHistogram:
    """Add ``counts`` by row and column, the position of each element's segments in ``target`` and ``predicted``."""
    width = max(predicted.size, 1)
    key = row * width + column
    if target.size * width <= _TABLE_LIMIT:
        total = np.bincount(key, counts, target.size * width)
        pairs = np.flatnonzero(total)
        total = total[pairs]
    else:
        pairs, position = compact(key)
        total = np.bincount(position, counts, pairs.size)
    return FrameHistogram(target, predicted, pairs // width, pairs % width, total.astype(np.int64))


def join_frames(frames: Sequence[FrameHistogram]) -> FrameHistogram:
    """Histogram of a window of frames of one video: segments of one code become tubes.

    A predicted thing whose class changes within the window stays one tube and has the class of the first frame in
    which it appears (rule of the VPQ scorer of Cityscapes-VPS).

    Args:
        frames: At least one histogram, in temporal order.
    """
    if len(frames) == 1:
        return frames[0]
    targets = np.concatenate([frame.target for frame in frames])
    codes = np.concatenate([frame.predicted for frame in frames])
    # Without its class, a thing's code is the same in every frame.
    tubes = np.where(codes < _CODE_STRIDE, codes, codes - codes % _CODE_STRIDE)
    target_first, row = _renumber(targets, [frame.target.size for frame in frames], [frame.rows for frame in frames])
    first, column = _renumber(tubes, [frame.predicted.size for frame in frames], [frame.columns for frame in frames])
    counts = np.concatenate([frame.counts for frame in frames])
    return _histogram(targets[target_first], row, codes[first], column, counts)


def _renumber(
    keys: NDArray[np.int64], sizes: Sequence[int], positions: Sequence[NDArray[np.intp]]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where each key occurs first, in the order of the keys, and the positions (N,) among them.

    Args:
        keys: Segments of all frames, one frame after the other.
        sizes: How many of them each frame has.
        positions: Positions among the frame's own segments, for each frame.
    """
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    starts = accumulate(sizes, initial=0)
    return first, place[np.concatenate([own + start for own, start in zip(positions, starts, strict=False)])]
