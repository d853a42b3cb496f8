"""The usual way to score panoptic frames, as panopticapi and deeplab2 do: np.unique over pixels, loops over segments.

Benchmarks time it beside ours and check our counts with it; it shares no code with ``vidapt.evaluation``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace

VOID = 0
_OFFSET = np.uint64(1 << 32)


@dataclass(frozen=True)
class Overlaps:
    """What one frame, or the sum of several, holds.

    Attributes:
        areas: Pixels of each predicted id.
        shared: Pixels of each pair of target id and predicted id.
        categories: Train id of each predicted id.
    """

    areas: Counter[int]
    shared: Counter[tuple[int, int]]
    categories: Mapping[int, int]

    def __add__(self, later: Overlaps) -> Overlaps:
        """Tubes of this and later frames; an id keeps the class of the first frame in which it appears."""
        return Overlaps(self.areas + later.areas, self.shared + later.shared, {**later.categories, **self.categories})


@dataclass(frozen=True)
class UniqueCounts:
    """Matches by class, as in ``vidapt.evaluation.panoptic.PanopticCounts``."""

    iou: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]

    def __add__(self, other: UniqueCounts) -> UniqueCounts:
        return UniqueCounts(self.iou + other.iou, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


def target_ids(semantic: NDArray[np.uint8], instance: NDArray[np.int32], space: LabelSpace) -> NDArray[np.uint32]:
    """Target ids (...): 0 = void, ``256 · track + train id + 1`` else, with track 0 for stuff and crowd regions."""
    track = np.where(space.is_thing[semantic], instance, 0).astype(np.uint32)
    return np.where(semantic == 255, np.uint32(VOID), track * np.uint32(256) + semantic + np.uint32(1))


def overlaps_by_unique(
    target: NDArray[np.uint32], predicted: NDArray[np.int32], categories: Mapping[int, int]
) -> Overlaps:
    """Count the pixels of a frame.

    Args:
        target: uint32 (H,W), see ``target_ids``.
        predicted: int32 (H,W) ids, 0 = void.
        categories: Train id of each predicted id.
    """
    ids, areas = np.unique(predicted, return_counts=True)
    pairs, pixels = np.unique(target.astype(np.uint64) * _OFFSET + predicted.astype(np.uint64), return_counts=True)
    keys = zip((pairs // _OFFSET).tolist(), (pairs % _OFFSET).tolist(), strict=True)
    return Overlaps(
        Counter(dict(zip(ids.tolist(), areas.tolist(), strict=True))),
        Counter(dict(zip(keys, pixels.tolist(), strict=True))),
        categories,
    )


def count_by_unique(found: Overlaps, space: LabelSpace) -> UniqueCounts:
    """Match the segments of a frame or the tubes of a window by the rules of panopticapi."""
    counts = UniqueCounts(np.zeros(len(space)), *(np.zeros(len(space), np.int64) for _ in range(3)))
    target_areas: Counter[int] = Counter()
    for (target, _), pixels in found.shared.items():
        target_areas[target] += pixels
    matched_targets, matched = set(), set()
    for (target, predicted), pixels in found.shared.items():
        category = _category(target)
        if VOID in (target, predicted) or _is_crowd(target, space) or category != found.categories[predicted]:
            continue
        union = target_areas[target] + found.areas[predicted] - pixels - found.shared[VOID, predicted]
        if pixels / union > 0.5:
            counts.tp[category] += 1
            counts.iou[category] += pixels / union
            matched_targets.add(target)
            matched.add(predicted)
    for target in set(target_areas) - matched_targets - {VOID}:
        counts.fn[_category(target)] += not _is_crowd(target, space)
    for predicted in set(found.areas) - matched - {VOID}:
        category = found.categories[predicted]
        crowd = found.shared[category + 1, predicted] if space.is_thing[category] else 0
        counts.fp[category] += (found.shared[VOID, predicted] + crowd) / found.areas[predicted] <= 0.5
    return counts


def _category(target: int) -> int:
    return target % 256 - 1


def _is_crowd(target: int, space: LabelSpace) -> bool:
    return 0 < target < 256 and bool(space.is_thing[_category(target)])


def miou_by_unique(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> float:
    """Mean IoU of target and predicted train ids (H,W) over the classes that occur; 255 = ignore in the target."""
    pixels: Counter[tuple[int, int]] = Counter()
    for target, predicted in pairs:
        keys, counts = np.unique(target.astype(np.uint16) * np.uint16(256) + predicted, return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            pixels[key // 256, key % 256] += count if key // 256 != 255 else 0
    ious = _ious(pixels)
    return sum(ious) / len(ious)


def _ious(pixels: Counter[tuple[int, int]]) -> list[float]:
    """IoU of each class that occurs; -1 is a prediction without a class."""
    occurring = [pair for pair, count in pixels.items() if count]
    classes = {label for pair in occurring for label in pair if label >= 0}
    ious = []
    for label in classes:
        union = sum(count for pair, count in pixels.items() if label in pair)
        ious.append(pixels[label, label] / union)
    return ious


def stq_by_unique(video: Sequence[Overlaps], space: LabelSpace) -> float:
    """STQ of one video by the rules of deeplab2; predicted tracks are pairs of id and class."""
    pixels: Counter[tuple[int, int]] = Counter()
    targets: Counter[int] = Counter()
    tracks: Counter[tuple[int, int]] = Counter()
    both: Counter[tuple[int, tuple[int, int]]] = Counter()
    for frame in video:
        for (target, predicted), count in frame.shared.items():
            category, label = _category(target), frame.categories[predicted] if predicted else -1
            is_track = target >= 256
            if target != VOID:
                pixels[category, label] += count
            if is_track:
                targets[target] += count
            if label >= 0 and space.is_thing[label] and not _is_crowd(target, space):
                tracks[predicted, label] += count
                if is_track:
                    both[target, (predicted, label)] += count
    association = sum(
        shared * shared / (targets[target] + tracks[track] - shared) / targets[target]
        for (target, track), shared in both.items()
    )
    ious = _ious(pixels)
    has_void = any(label < 0 for _, label in pixels)
    return sqrt(association / len(targets) * sum(ious) / (len(ious) + has_void))
