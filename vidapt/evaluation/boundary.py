"""Boundary IoU of masks, and panoptic quality that asks for right outlines too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vidapt.errors import UserError
from vidapt.evaluation.histogram import VOID, FrameHistogram, compact, compress_runs, joint_histogram
from vidapt.evaluation.panoptic import (
    PanopticCounts,
    SegmentMatches,
    count_outcomes,
    match_segments,
    matchable_pairs,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

COCO_RATIO = 0.02
"""Width of the boundary relative to the image's diagonal, for COCO and LVIS."""

CITYSCAPES_RATIO = 0.005
"""The same for Cityscapes."""


def boundary_width(shape: tuple[int, ...], ratio: float = COCO_RATIO) -> int:
    """Width of the boundary in pixels, max(1, round(ratio · diagonal)).

    >>> boundary_width((480, 640)), boundary_width((1024, 2048), CITYSCAPES_RATIO), boundary_width((5, 5))
    (16, 11, 1)

    Args:
        shape: (H, W) of the image.
        ratio: Above 0.

    Raises:
        UserError: If the ratio is not a number above 0 or the shape is not that of an image.
    """
    if len(shape) != 2 or not (math.isfinite(ratio) and ratio > 0):
        raise UserError(f"a boundary needs a (H, W) mask and a ratio above 0 such as 0.02, got {shape} and {ratio}")
    return max(1, round(ratio * math.hypot(*shape)))


def mask_boundary(mask: NDArray[Any], ratio: float = COCO_RATIO) -> NDArray[np.bool_]:
    """Pixels of a mask that lie within the boundary width of a pixel outside of it; so does the image's border.

    >>> mask_boundary(np.ones((5, 5), bool)).astype(int)
    array([[1, 1, 1, 1, 1],
           [1, 0, 0, 0, 1],
           [1, 0, 0, 0, 1],
           [1, 0, 0, 0, 1],
           [1, 1, 1, 1, 1]])

    Args:
        mask: bool (H,W), or numbers of which all but 0 are inside.
        ratio: Width of the boundary relative to the diagonal.

    Returns:
        bool (H,W).
    """
    width = boundary_width(mask.shape, ratio)
    inside = np.ascontiguousarray(mask != 0)
    boundary = np.zeros(mask.shape, bool)
    if inside.any():
        left, top, columns, rows = cv2.boundingRect(inside.view(np.uint8))
        box = np.s_[top : top + rows, left : left + columns]
        boundary[box] = inside[box] & _near_change(inside[box].astype(np.uint8) + 1, width)
    return boundary


def boundary_iou(first: NDArray[Any], second: NDArray[Any], ratio: float = COCO_RATIO) -> float:
    """IoU of the boundaries of two masks (Cheng et al., Boundary IoU, 2021, equation 2); NaN if both masks are empty.

    >>> mask = np.zeros((20, 20), bool); mask[5:15, 5:15] = True
    >>> moved = np.roll(mask, 1, axis=1)
    >>> boundary_iou(mask, mask), round(boundary_iou(mask, moved), 4)  # their mask IoU is 0.8182
    (1.0, 0.3333)

    Args:
        first: bool (H,W), or numbers of which all but 0 are inside.
        second: Same shape.
        ratio: Width of the boundary relative to the diagonal.

    Raises:
        UserError: If the shapes differ.
    """
    if first.shape != second.shape:
        raise UserError(f"boundary IoU needs two masks of one size, got {first.shape} and {second.shape}")
    one, other = mask_boundary(first, ratio), mask_boundary(second, ratio)
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else float("nan")


def segment_boundaries(codes: NDArray[Any], ratio: float = COCO_RATIO) -> NDArray[np.bool_]:
    """The boundaries of all segments of a label map at once: the union of ``mask_boundary`` over its codes.

    >>> segment_boundaries(np.repeat([[1, 2]], 4, axis=1).repeat(3, axis=0)).astype(int)
    array([[1, 1, 1, 1, 1, 1, 1, 1],
           [1, 0, 0, 1, 1, 0, 0, 1],
           [1, 1, 1, 1, 1, 1, 1, 1]])

    Args:
        codes: int (H,W) segment codes or any other ids.
        ratio: Width of the boundary relative to the diagonal.

    Returns:
        bool (H,W).
    """
    width = boundary_width(codes.shape, ratio)
    (runs,), lengths = compress_runs(codes)
    unique, position = compact(runs)
    # OpenCV compares these types only; 0 is kept for what is outside of the image.
    dtype = np.uint8 if unique.size < 2**8 else np.uint16 if unique.size < 2**16 else np.float64
    return _near_change((position + 1).astype(dtype).repeat(lengths).reshape(codes.shape), width)


def _near_change(labels: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Pixels with another label, or the outside, within ``width`` pixels in both directions.

    A window of one label is one whose smallest and largest label agree; eroding every segment ``width`` times with a
    3x3 window leaves exactly its centres.
    """
    if labels.size == 0:
        return np.zeros(labels.shape, bool)
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    smallest = cv2.erode(labels, window, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    largest = cv2.dilate(labels, window, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    return np.asarray(smallest != largest)


def boundary_panoptic(
    target: NDArray[Any],
    predicted: NDArray[Any],
    is_thing: NDArray[np.bool_],
    classes: int,
    ratio: float = COCO_RATIO,
) -> PanopticCounts:
    """Count matched and unmatched segments of a frame by min(mask IoU, boundary IoU) instead of the mask IoU.

    All else as in ``count_matches``: void target pixels leave both unions, and predictions are excused by the void and
    crowd under their whole area. Source: boundary PQ of Cheng et al., Boundary IoU (2021).

    >>> target = np.ones((20, 20), int); target[5:15, 5:15] = 2
    >>> predicted = np.ones((20, 20), int); predicted[4:15, 5:15] = 2
    >>> counts = boundary_panoptic(target, predicted, np.zeros(256, bool), classes=2)
    >>> counts.tp.tolist(), counts.iou.round(4).tolist()
    ([1, 1], [0.8333, 0.6087])

    Args:
        target: int (H,W) segment codes (``target_codes``).
        predicted: int (H,W) segment codes (``predicted_codes``).
        is_thing: bool (256,), True where the train id is a thing.
        classes: Number of classes C.
        ratio: Width of the boundary relative to the diagonal.

    Raises:
        UserError: If the sizes differ or the maps are not (H,W).
    """
    histogram = joint_histogram(target, predicted)
    matches = match_segments(histogram, matchable_pairs(histogram, is_thing))
    outlines = joint_histogram(_without_interiors(target, ratio), _without_interiors(predicted, ratio))
    iou = np.minimum(matches.iou, _outline_iou(outlines, matches))
    right = iou > 0.5
    kept = SegmentMatches(matches.target[right], matches.predicted[right], iou[right])
    return count_outcomes(histogram, kept, is_thing, classes)


def _without_interiors(codes: NDArray[Any], ratio: float) -> NDArray[Any]:
    """Codes with the interiors of segments replaced by a code above all others, so that positions stay; void stays."""
    interior = ~segment_boundaries(codes, ratio) & (codes != VOID)
    return np.where(interior, codes.max(initial=0) + 1, codes)


def _outline_iou(outlines: FrameHistogram, matches: SegmentMatches) -> NDArray[np.float64]:
    """Boundary IoU of each match; every segment has a boundary, so positions are those of the whole segments."""
    shared = _shared(outlines, matches.target, matches.predicted)
    void = np.flatnonzero(outlines.target == VOID)
    on_void = _shared(outlines, void, matches.predicted) if void.size else 0
    areas = outlines.target_area[matches.target] + outlines.predicted_area[matches.predicted]
    return shared / (areas - shared - on_void)


def _shared(histogram: FrameHistogram, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.int64]:
    """int64 (M,) pixels that the pairs (rows, columns) share; one row may stand for all."""
    width = histogram.predicted.size
    # Pairs that share nothing are not in the histogram; a closing entry keeps the search within it.
    keys = np.append(histogram.rows * width + histogram.columns, -1)
    wanted = rows * width + columns
    place = np.searchsorted(keys[:-1], wanted)
    return np.where(keys[place] == wanted, np.append(histogram.counts, 0)[place], 0)
