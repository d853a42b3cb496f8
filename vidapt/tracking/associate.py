"""Which detection continues which track: mask overlap with the predicted shape, then appearance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from vidapt.tracking.tracks import GRID, Tracks

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mask_iou(
    labels: NDArray[np.int32], areas: NDArray[np.float64], tracks: Tracks, boxes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Intersection over union of predicted tracks and detections, all pairs from one joint histogram.

    Each cell of a track's mask is looked up in the label map at its predicted place. The predictions may overlap one
    another. The values are exact for tracks of up to 64×64 pixels whose size does not change; otherwise a cell stands
    for its share of the area. What a prediction has outside the image does not count.

    Args:
        labels: int32 (h,w): 0 = none, k + 1 = detection k.
        areas: float64 (K,) pixels of the detections.
        tracks: T tracks; those that are not located overlap nothing.
        boxes: float64 (T,4) predicted boxes.

    Returns:
        float64 (T,K) in 0..1.
    """
    count = len(areas)
    if not len(tracks) or not count:
        return np.zeros((len(tracks), count))
    track, below = _look_up(labels, tracks, boxes)
    cells = np.bincount(track * (count + 1) + below, minlength=len(tracks) * (count + 1))
    joint = cells.reshape(len(tracks), count + 1) * _cell_area(tracks, boxes)[:, None]
    shared = np.minimum(joint[:, 1:], areas)
    union = np.maximum(joint.sum(1), shared.max(1))[:, None] + areas - shared
    return np.where(tracks.located[:, None], shared / np.maximum(union, 1e-9), 0.0)


def _look_up(
    labels: NDArray[np.int32], tracks: Tracks, boxes: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Track row and label of every cell of every predicted mask that lies inside the image."""
    index = np.flatnonzero(tracks.grids)
    track, row, column = index // (GRID * GRID), index // GRID % GRID, index % GRID
    step = (boxes[:, 2:] - boxes[:, :2]) / np.maximum(tracks.cells[:, ::-1], 1)
    x = np.floor((boxes[:, 0] + step[:, 0] / 2)[track] + column * step[track, 0]).astype(np.int64)
    y = np.floor((boxes[:, 1] + step[:, 1] / 2)[track] + row * step[track, 1]).astype(np.int64)
    height, width = labels.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return track[inside], labels.ravel()[y[inside] * width + x[inside]].astype(np.int64)


def _cell_area(tracks: Tracks, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels that one cell of each predicted mask stands for: float64 (T,)."""
    now, before = ((box[:, 2:] - box[:, :2]).prod(1) for box in (boxes, tracks.boxes))
    return tracks.areas * now / np.maximum(before, 1e-9) / np.maximum(tracks.grids.sum((1, 2)), 1)


def assign(similarity: NDArray[np.float64], allowed: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair rows with columns so that the summed similarity of allowed pairs is largest (Hungarian method).

    Args:
        similarity: float64 (T,K), positive where allowed.
        allowed: bool (T,K).

    Returns:
        Rows and columns of the pairs, rising by row; the same input always gives the same pairs.
    """
    rows, columns = np.flatnonzero(allowed.any(1)), np.flatnonzero(allowed.any(0))
    if not len(rows):
        return rows, columns
    block = np.ix_(rows, columns)
    left, right = linear_sum_assignment(np.where(allowed[block], similarity[block], 0.0), maximize=True)
    rows, columns = rows[left], columns[right]
    keep = allowed[rows, columns]
    return rows[keep], columns[keep]


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine similarity float64 (T,K) of unit vectors (T,D) and (K,D); -inf where a vector is zero."""
    products = left.astype(np.float64) @ right.astype(np.float64).T
    known = np.any(left, axis=1)[:, None] & np.any(right, axis=1)
    return np.where(known, products, -np.inf)


def normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows (K,D) to unit length; zero and non-finite rows become zero."""
    vectors = np.where(np.isfinite(vectors).all(1, keepdims=True), vectors, 0.0).astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12).astype(np.float32)


def within_reach(
    boxes: NDArray[np.float64], detections: NDArray[np.float64], lost: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """bool (T,K): centre distance below the diagonal of the track's box times 1 + 0.15 per frame without detection.

    Args:
        boxes: float64 (T,4) predicted boxes.
        detections: float64 (K,4) boxes.
        lost: int64 (T,), frames that each track was missed before this one.
    """
    offset = (boxes[:, None, :2] + boxes[:, None, 2:] - detections[None, :, :2] - detections[None, :, 2:]) / 2
    diagonal = np.hypot(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return np.less(np.hypot(offset[..., 0], offset[..., 1]), (diagonal * (1 + 0.15 * lost))[:, None])


def duplicates(
    iou: NDArray[np.float64], tracks: Tracks, track_of: NDArray[np.int64], threshold: float
) -> NDArray[np.bool_]:
    """bool (T,): lost tracks whose prediction covers a detection that continues a track born after they were lost.

    Two tracks that existed side by side are different objects, one behind the other; those are no duplicates.

    Args:
        iou: float64 (T,K) of the predictions with the detections.
        tracks: The tracks before this frame.
        track_of: int64 (K,), the track row that each detection continues, -1 for none.
        threshold: IoU above which two masks count as one.
    """
    if not len(tracks):
        return np.zeros(0, bool)
    newer = (track_of >= 0) & (tracks.born[track_of] > tracks.seen[:, None])
    return np.any((iou > threshold) & newer, axis=1)
