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
    single = is_thing[semantic] & (instance > 0)
    low, high = int(instance.min(initial=0)), int(instance.max(initial=0))
    if low < 0 or high >= ID_LIMIT - FIRST_THING_ID:
        raise ValueError(f"instance ids must be 0..{ID_LIMIT - FIRST_THING_ID - 1}, got {low}..{high}")
    ids = np.where(semantic == IGNORE, 0, semantic.astype(np.int32) + 1)
    ids = np.where(single, instance + FIRST_THING_ID, ids).astype(np.int32)
    present, first, areas = np.unique(ids, return_index=True, return_counts=True)
    boxes = _boxes(ids, present)
    segments = []
    for index, (panoptic_id, area) in enumerate(zip(present.tolist(), areas.tolist(), strict=True)):
        if panoptic_id == 0:
            continue
        category = int(semantic.reshape(-1)[first[index]])
        crowd = bool(is_thing[category]) and panoptic_id < FIRST_THING_ID
        segments.append(
            {"id": panoptic_id, "category_id": category, "area": area, "bbox": boxes[index], "iscrowd": int(crowd)}
        )
    _check_classes(ids, semantic, segments)
    return ids, segments


def _check_classes(ids: NDArray[np.int32], semantic: NDArray[np.uint8], segments: list[dict[str, Any]]) -> None:
    known = np.array([0, *(item["id"] for item in segments)])
    category = np.array([IGNORE, *(item["category_id"] for item in segments)])
    wrong = category[np.searchsorted(known, ids)] != semantic
    if wrong.any():
        given = int(ids[wrong][0]) - FIRST_THING_ID
        raise ValueError(f"instance {given} has pixels of several classes; instance ids must be unique over classes")


def _boxes(ids: NDArray[np.int32], present: NDArray[np.int32]) -> list[list[int]]:
    """x, y, width, height of each present id, by the rows and columns that it touches."""
    place = np.searchsorted(present, ids)
    height, width = ids.shape
    found = []
    rows, columns = (np.zeros((present.size, size), bool) for size in (height, width))
    rows[place, np.arange(height)[:, None]] = True
    columns[place, np.arange(width)] = True
    for in_rows, in_columns in zip(rows, columns, strict=True):
        y, x = np.flatnonzero(in_rows), np.flatnonzero(in_columns)
        found.append([int(x[0]), int(y[0]), int(x[-1] - x[0] + 1), int(y[-1] - y[0] + 1)])
    return found
