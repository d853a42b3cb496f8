"""Stability over time: flicker and temporal consistency along the optical flow, and id switches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vidapt.errors import UserError
from vidapt.evaluation.histogram import FrameHistogram, track_of
from vidapt.evaluation.panoptic import match_segments
from vidapt.evaluation.semantic import count_pairs
from vidapt.flow import inside_frame, warp_nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray


def label_pairs(
    labels: NDArray[np.uint8],
    other: NDArray[np.uint8],
    flow: NDArray[np.float32],
    valid: NDArray[np.bool_],
    classes: int,
) -> NDArray[np.int64]:
    """Count the pairs (label at x, other frame's label nearest to x + flow) over the pixels with valid flow.

    Serves both directions: with an exact flow from frame t to t+1 pass ``labels`` of t and ``other`` of t+1; with a
    flow from t back to t-1 pass ``labels`` of t and ``other`` of t-1.

    >>> labels, following = np.array([[1, 0, 0]], np.uint8), np.array([[0, 1, 0]], np.uint8)
    >>> flow = np.zeros((1, 3, 2), np.float32); flow[0, 0, 0] = 1  # the first pixel moves right, over the second
    >>> label_pairs(labels, following, flow, np.array([[True, False, True]]), classes=2).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 0]]

    Args:
        labels: uint8 (H,W) train ids of the frame on whose grid the flow is given, 255 = no class.
        other: uint8 (H,W) train ids of the frame that the flow points to.
        flow: float32 (H,W,2) pixels, x first.
        valid: bool (H,W), False where the point is not visible in both frames.
        classes: Number of classes C.

    Returns:
        int64 (C+1, C+1); the last row and column are "no class".

    Raises:
        UserError: If the sizes differ, or a train id is neither below C nor 255.
    """
    if not labels.shape == other.shape == valid.shape == flow.shape[:2]:
        raise UserError(
            f"flow {flow.shape}, its mask {valid.shape} and both label maps {labels.shape} and {other.shape} must have "
            "the size of the frames; resize them first"
        )
    used = valid & inside_frame(flow)
    return count_pairs(labels[used], warp_nearest(other, flow)[used], classes)


class TemporalConsistency:
    """Sums label pairs along the flow; flicker and TC are read from the same matrix int64 (C+1, C+1).

    >>> consistency = TemporalConsistency(classes=2)
    >>> still, visible = np.zeros((1, 4, 2), np.float32), np.ones((1, 4), bool)
    >>> consistency.update(np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 1, 0]], np.uint8), still, visible)
    >>> consistency.flicker(), consistency.iou().round(4).tolist()
    (0.25, [0.6667, 0.5])
    """

    def __init__(self, classes: int) -> None:
        self.pairs = np.zeros((classes + 1, classes + 1), np.int64)

    def update(
        self,
        labels: NDArray[np.uint8],
        other: NDArray[np.uint8],
        flow: NDArray[np.float32],
        valid: NDArray[np.bool_],
    ) -> None:
        """Add two neighbouring frames; arguments as in ``label_pairs``."""
        self.pairs += label_pairs(labels, other, flow, valid, len(self.pairs) - 1)

    def merge(self, other: TemporalConsistency) -> None:
        """Add what another process has counted."""
        self.pairs += other.pairs

    def flicker(self) -> float:
        """Share of pixels with valid flow, 0..1, whose label differs from the one they came from; NaN without any."""
        total = int(self.pairs.sum())
        return 1.0 - int(np.trace(self.pairs)) / total if total else float("nan")

    def iou(self) -> NDArray[np.float64]:
        """float64 (C,) IoU of each class between the warped and the current labels, NaN where it is in neither.

        Their mean is TC (Liu et al., Efficient Semantic Video Segmentation, 2020), here with nearest warping, occluded
        pixels left out, and absent classes left out instead of counted as 0.
        """
        hits = np.diagonal(self.pairs).astype(np.float64)
        union = self.pairs.sum(0) + self.pairs.sum(1) - hits
        return np.divide(hits, union, out=np.full(hits.size, np.nan), where=union > 0)[:-1]


class IdSwitches:
    """Counts how often a target object is taken over by another predicted id.

    In each frame a target thing is matched to the predicted thing with IoU > 0.5, whatever its class; a switch is a
    match whose id differs from that object's last match, however long ago (IDSW of Bernardin and Stiefelhagen, 2008).

    >>> from vidapt.evaluation.histogram import joint_histogram
    >>> switches = IdSwitches()
    >>> for panoptic_id in (300, 300, 301):  # one car, three frames; codes are id * 256 + train id + 1
    ...     switches.update(joint_histogram(np.array([[7 * 256 + 14]]), np.array([[panoptic_id * 256 + 14]])))
    >>> switches.count
    1
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: dict[int, int] = {}

    def update(self, histogram: FrameHistogram) -> None:
        """Add the next labelled frame of the current video."""
        target, predicted = histogram.target[histogram.rows], histogram.predicted[histogram.columns]
        matches = match_segments(histogram, (track_of(target) > 0) & (track_of(predicted) > 0))
        objects = histogram.target[matches.target].tolist()
        tracks = track_of(histogram.predicted[matches.predicted]).tolist()
        self.count += sum(self._last.get(key, track) != track for key, track in zip(objects, tracks, strict=True))
        self._last.update(zip(objects, tracks, strict=True))

    def end_video(self) -> None:
        """Close the current video: ids of the next one mean other objects."""
        self._last.clear()

    def merge(self, other: IdSwitches) -> None:
        """Add what another process has counted on other videos."""
        self.count += other.count
