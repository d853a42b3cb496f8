"""Panoptic quality: PQ, SQ and RQ with the void and crowd rules of the official scorers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vidapt.evaluation.histogram import VOID, FrameHistogram, category_of, sum_by, track_of
from vidapt.evaluation.semantic import ScoredClasses

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PanopticCounts:
    """Matches by class; sums over frames, videos and processes.

    Attributes:
        iou: float64 (C,) sum of the IoU of matched segments.
        tp: int64 (C,) matched pairs.
        fp: int64 (C,) predicted segments without a match.
        fn: int64 (C,) target segments without a match.
    """

    iou: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]

    @staticmethod
    def zeros(classes: int) -> PanopticCounts:
        """Counts of nothing."""
        return PanopticCounts(np.zeros(classes), *(np.zeros(classes, np.int64) for _ in range(3)))

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(self.iou + other.iou, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


@dataclass(frozen=True)
class SegmentMatches:
    """Pairs of one histogram with an IoU above 0.5, each segment in at most one of them.

    Attributes:
        target: (M,) position in ``FrameHistogram.target``.
        predicted: (M,) position in ``FrameHistogram.predicted``.
        iou: float64 (M,).
    """

    target: NDArray[np.intp]
    predicted: NDArray[np.intp]
    iou: NDArray[np.float64]


def match_segments(histogram: FrameHistogram, allowed: NDArray[np.bool_]) -> SegmentMatches:
    """Match target and predicted segments whose IoU is above 0.5; void target pixels do not count in the union.

    Args:
        histogram: Joint histogram of a frame or of a window of frames.
        allowed: bool (N,), the pairs that may match.
    """
    rows, columns, shared = (array[allowed] for array in (histogram.rows, histogram.columns, histogram.counts))
    union = (
        histogram.target_area[rows]
        + histogram.predicted_area[columns]
        - shared
        - _covered(histogram, histogram.target[histogram.rows] == VOID)[columns]
    )
    matched = 2 * shared > union
    return SegmentMatches(rows[matched], columns[matched], shared[matched] / union[matched])


def _covered(histogram: FrameHistogram, pairs: NDArray[np.bool_]) -> NDArray[np.int64]:
    """int64 (P,) pixels of each predicted segment within the chosen pairs."""
    return sum_by(histogram.columns[pairs], histogram.counts[pairs], histogram.predicted.size)


def count_matches(histogram: FrameHistogram, is_thing: NDArray[np.bool_], classes: int) -> PanopticCounts:
    """Count matched and unmatched segments of a frame (PQ) or of a window of frames (VPQ).

    Rules of panopticapi: a pair matches if the classes agree and IoU > 0.5, with void target pixels taken out of the
    union; crowd regions neither match nor count as missed; an unmatched prediction is no false positive if more than
    half of it lies on void or on the crowd region of its class. Target segments without a class
    (``unscored_codes``) only take part in the areas.

    >>> from vidapt.evaluation.histogram import joint_histogram
    >>> target, predicted = np.array([[1, 1, 1, 2]]), np.array([[1, 1, 2, 2]])
    >>> counts = count_matches(joint_histogram(target, predicted), np.zeros(256, bool), classes=2)
    >>> counts.tp.tolist(), counts.iou.round(4).tolist(), counts.fp.tolist(), counts.fn.tolist()
    ([1, 0], [0.6667, 0.0], [0, 1], [0, 1])

    Args:
        histogram: Joint histogram of segment codes.
        is_thing: bool (256,), True where the train id is a thing.
        classes: Number of classes C.
    """
    target_class, predicted_class = category_of(histogram.target), category_of(histogram.predicted)
    scored = target_class >= 0
    crowd = scored & (track_of(histogram.target) == 0) & is_thing[target_class]
    same_class = target_class[histogram.rows] == predicted_class[histogram.columns]
    matches = match_segments(histogram, same_class & (scored & ~crowd)[histogram.rows])

    missed = scored & ~crowd
    missed[matches.target] = False
    excused = _covered(histogram, (histogram.target == VOID)[histogram.rows] | (same_class & crowd[histogram.rows]))
    wrong = (predicted_class >= 0) & (2 * excused <= histogram.predicted_area)
    wrong[matches.predicted] = False

    hit_class = target_class[matches.target]
    return PanopticCounts(
        iou=np.bincount(hit_class, matches.iou, classes).astype(np.float64),
        tp=np.bincount(hit_class, minlength=classes),
        fp=np.bincount(predicted_class[wrong], minlength=classes),
        fn=np.bincount(target_class[missed], minlength=classes),
    )


@dataclass(frozen=True)
class QualityMean:
    """PQ, SQ and RQ averaged over the classes that occur (NaN if none does), and those classes' names."""

    pq: float
    sq: float
    rq: float
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ClassQuality:
    """PQ, SQ and RQ of one class (NaN if it occurs neither in target nor in prediction) and its counts."""

    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int


@dataclass(frozen=True)
class PanopticScores:
    """Panoptic quality over a data set.

    Attributes:
        all: Mean over the scored classes.
        things: Mean over the scored things.
        stuff: Mean over the scored stuff classes.
        per_class: Every class of the label space, scored or not, by name.
    """

    all: QualityMean
    things: QualityMean
    stuff: QualityMean
    per_class: dict[str, ClassQuality]


def panoptic_scores(counts: PanopticCounts, scored: ScoredClasses) -> PanopticScores:
    """PQ = ΣIoU / (TP + FP/2 + FN/2), SQ = ΣIoU / TP, RQ = TP / (TP + FP/2 + FN/2) and their class means.

    Classes with TP + FP + FN = 0 are undefined and left out of the means; SQ of a class without a match is 0.
    """
    weight = counts.tp + 0.5 * counts.fp + 0.5 * counts.fn
    undefined = np.where(weight > 0, 0.0, np.nan)
    pq, rq = (np.divide(value, weight, out=undefined.copy(), where=weight > 0) for value in (counts.iou, counts.tp))
    sq = np.divide(counts.iou, counts.tp, out=undefined.copy(), where=counts.tp > 0)

    def mean(classes: tuple[int, ...]) -> QualityMean:
        pq_mean, sq_mean, rq_mean = (scored.mean(values, classes) for values in (pq, sq, rq))
        return QualityMean(pq_mean.value, sq_mean.value, rq_mean.value, scored.names(pq_mean.classes))

    columns = (array.tolist() for array in (pq, sq, rq, counts.tp, counts.fp, counts.fn))
    per_class = {
        name: ClassQuality(*row) for name, row in zip(scored.space.names, zip(*columns, strict=True), strict=True)
    }
    return PanopticScores(mean(scored.ids), mean(scored.things), mean(scored.stuff), per_class)
