"""How well a single frame is segmented, for finding the frames that are segmented worst."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vidapt.evaluation.panoptic import PanopticCounts
from vidapt.evaluation.semantic import ScoredClasses, iou_per_class

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class FrameQuality:
    """Scores of one frame over the scored classes that occur in it.

    Attributes:
        miou: Mean IoU; NaN if no scored class occurs.
        pq: Panoptic quality, NaN likewise; None if the target has no instances.
    """

    miou: float
    pq: float | None


def frame_quality(confusion: NDArray[np.int64], counts: PanopticCounts | None, scored: ScoredClasses) -> FrameQuality:
    """The quality of one frame.

    >>> from vidapt.labels import LabelClass, LabelSpace
    >>> space = LabelSpace("toy", (LabelClass("road", False, (0, 0, 0)), LabelClass("car", True, (0, 0, 142))))
    >>> counts = PanopticCounts(np.array([0.8, 0.0]), *(np.array(n) for n in ([1, 0], [0, 1], [0, 1])))
    >>> frame_quality(np.array([[6, 1, 0], [1, 2, 0]]), counts, ScoredClasses.of(space))
    FrameQuality(miou=0.625, pq=0.4)

    Args:
        confusion: int64 (C, C+1) of its ``confusion_matrix``.
        counts: Its ``count_matches``; None without instances.
        scored: Classes that the protocol averages over.
    """
    miou = scored.mean(iou_per_class(confusion)).value
    if counts is None:
        return FrameQuality(miou, None)
    weight = counts.tp + 0.5 * counts.fp + 0.5 * counts.fn
    pq = np.divide(counts.iou, weight, out=np.full(weight.size, np.nan), where=weight > 0)
    return FrameQuality(miou, scored.mean(pq).value)
