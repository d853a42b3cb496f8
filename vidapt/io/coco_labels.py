"""Labels in the COCO panoptic format: from classes and instances to ids and segment records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.clip import FIRST_THING_ID, IGNORE
from vidapt.io.coco import ID_LIMIT

if TYPE_CHECKING:
    from numpy.typing import NDArray


def panoptic_labels(
    semantic: NDArray[np.uint8], instance: NDArray[np.int32], is_thing: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
    """Panoptic ids and segment records of a labelled frame.

    0 is void, a stuff segment has the id ``train id + 1``, a single thing ``256 + instance``; the pixels of a thing
    class without an instance are one crowd segment with the id ``train id + 1``.

    >>> is_thing = np.zeros(256, bool); is_thing[1] = True
    >>> semantic, instance = np.array([[0, 1, 1, 255]], np.uint8), np.array([[0, 7, 0, 0]], np.int32)
    >>> ids, segments = panoptic_labels(semantic, instance, is_thing)
    >>> ids.tolist(), [(item["id"], item["category_id"], item["iscrowd"], item["area"]) for item in segments]
    ([[1, 263, 2, 0]], [(1, 0, 0, 1), (2, 1, 1, 1), (263, 1, 0, 1)])

    Args:
        semantic: uint8 (H,W) train ids, 255 = void.
        instance: int32 (H,W) ids of single instances, 0 = none; ignored on stuff and void.
        is_thing: bool (256,), True where the train id is a thing.

    Returns:
        int32 (H,W) ids, and the ``segments_info`` of the frame sorted by id: id, category_id, area, bbox (x, y, width,
        height), iscrowd.

    Raises:
        ValueError: If an instance id is negative or too large for a picture of three bytes, or has two classes.
    """
    low, high = int(instance.min(initial=0)), int(instance.max(initial=0))
    if low < 0 or high >= ID_LIMIT - FIRST_THING_ID:
        raise ValueError(f"instance ids must be 0..{ID_LIMIT - FIRST_THING_ID - 1}, got {low}..{high}")
    # Runs of equal pixels are a hundredth of the pixels: all rules are applied to those.
    start, length = _runs(instance.astype(np.int64) * 256 + semantic)
    category, own = semantic.reshape(-1)[start].astype(np.int64), instance.reshape(-1)[start].astype(np.int64)
    single = is_thing[category] & (own > 0)
    codes = np.where(single, own + FIRST_THING_ID, np.where(category == IGNORE, 0, category + 1))
    _refuse_two_classes(own[single], category[single])
    present, first, place = np.unique(codes, return_index=True, return_inverse=True)
    areas = np.bincount(place, length, present.size).astype(int)
    boxes = _boxes(start, length, place, semantic.shape[1])
    segments = [
        {
            "id": panoptic_id,
            "category_id": int(category[run]),
            "area": area,
            "bbox": box,
            "iscrowd": int(panoptic_id < FIRST_THING_ID and bool(is_thing[category[run]])),
        }
        for panoptic_id, run, area, box in zip(present.tolist(), first, areas.tolist(), boxes, strict=True)
        if panoptic_id
    ]
    return np.repeat(codes.astype(np.int32), length).reshape(semantic.shape), segments


def _runs(values: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Flat places (R,) where runs of equal pixels begin, none over the end of a row, and their lengths (R,)."""
    begins = np.ones(values.shape, bool)
    begins[:, 1:] = values[:, 1:] != values[:, :-1]
    start = np.flatnonzero(begins)
    return start, np.diff(start, append=values.size)


def _refuse_two_classes(instances: NDArray[np.int64], category: NDArray[np.int64]) -> None:
    pairs = np.unique(instances * 256 + category) // 256
    twice = pairs[1:][pairs[1:] == pairs[:-1]]
    if twice.size:
        raise ValueError(f"instance {twice[0]} has pixels of several classes; instance ids must be unique over classes")


def _boxes(start: NDArray[np.intp], length: NDArray[np.intp], place: NDArray[np.intp], width: int) -> list[list[int]]:
    """x, y, width, height of each segment; ``place`` (R,) says which one a run belongs to."""
    y, left = np.divmod(start, width)
    count = int(place.max(initial=-1)) + 1
    low, high = np.full((2, count), np.iinfo(np.intp).max), np.full((2, count), -1)
    for axis, (begin, end) in enumerate(((left, left + length - 1), (y, y))):
        np.minimum.at(low[axis], place, begin)
        np.maximum.at(high[axis], place, end)
    return np.concatenate([low, high - low + 1]).T.tolist()
