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


def matchable_pairs(histogram: FrameHistogram, is_thing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (N,), the pairs of one class whose target segment is scored and is no crowd region.

    >>> from vidapt.evaluation.histogram import joint_histogram
    >>> things = np.arange(256) == 1
    >>> histogram = joint_histogram(np.array([0, 1, 2, 258]), np.array([1, 1, 514, 514]))  # void, stuff, crowd, thing
    >>> matchable_pairs(histogram, things).tolist()
    [False, True, False, True]

    Args:
        histogram: Joint histogram of segment codes.
        is_thing: bool (256,), True where the train id is a thing.
    """
    same_class = category_of(histogram.target)[histogram.rows] == category_of(histogram.predicted)[histogram.columns]
    return same_class & _is_scored(histogram, is_thing)[histogram.rows]


def _is_scored(histogram: FrameHistogram, is_thing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (G,), target segments with a class that are no crowd region."""
    category = category_of(histogram.target)
    return (category >= 0) & ~_is_crowd(histogram, is_thing)


def _is_crowd(histogram: FrameHistogram, is_thing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (G,), target segments that are crowd regions."""
    category = category_of(histogram.target)
    return (category >= 0) & (track_of(histogram.target) == 0) & is_thing[category]


def match_segments(histogram: FrameHistogram, allowed: NDArray[np.bool_]) -> SegmentMatches:
    """Match target and predicted segments whose IoU is above 0.5; void target pixels do not count in the union.

    >>> from vidapt.evaluation.histogram import joint_histogram
    >>> histogram = joint_histogram(np.array([[1, 1, 1, 2, 0]]), np.array([[1, 1, 2, 2, 2]]))
    >>> match_segments(histogram, np.ones(histogram.counts.size, bool)).iou.round(4).tolist()
    [0.6667]

    Args:
        histogram: Joint histogram of a frame or of a window of frames.
        allowed: bool (N,), the pairs that may match.
    """
    shared, union = histogram.counts[allowed], _unions(histogram, allowed)
    matched = 2 * shared > union
    rows, columns = histogram.rows[allowed][matched], histogram.columns[allowed][matched]
    return SegmentMatches(rows, columns, shared[matched] / union[matched])


def _unions(histogram: FrameHistogram, pairs: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pixels that either segment of each chosen pair covers, void target pixels left out."""
    rows, columns = histogram.rows[pairs], histogram.columns[pairs]
    on_void = _covered(histogram, histogram.target[histogram.rows] == VOID)
    both = histogram.target_area[rows] + histogram.predicted_area[columns]
    return both - histogram.counts[pairs] - on_void[columns]


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
    return count_outcomes(histogram, match_segments(histogram, matchable_pairs(histogram, is_thing)), is_thing, classes)


def count_outcomes(
    histogram: FrameHistogram, matches: SegmentMatches, is_thing: NDArray[np.bool_], classes: int
) -> PanopticCounts:
    """Count given matches, and what they leave over on both sides, by the rules of ``count_matches``.

    >>> from vidapt.evaluation.histogram import joint_histogram
    >>> histogram = joint_histogram(np.array([[1, 1, 1, 2]]), np.array([[1, 1, 2, 2]]))
    >>> nothing = SegmentMatches(np.empty(0, int), np.empty(0, int), np.empty(0))
    >>> counts = count_outcomes(histogram, nothing, np.zeros(256, bool), classes=2)
    >>> counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()
    ([0, 0], [1, 1], [1, 1])

    Args:
        histogram: Joint histogram of segment codes.
        matches: Pairs of it, each segment in at most one.
        is_thing: bool (256,), True where the train id is a thing.
        classes: Number of classes C.
    """
    target_class, predicted_class = category_of(histogram.target), category_of(histogram.predicted)
    missed = _is_scored(histogram, is_thing)
    missed[matches.target] = False

    same_class = target_class[histogram.rows] == predicted_class[histogram.columns]
    on_crowd = same_class & _is_crowd(histogram, is_thing)[histogram.rows]
    excused = _covered(histogram, (histogram.target == VOID)[histogram.rows] | on_crowd)
    wrong = (predicted_class >= 0) & (2 * excused <= histogram.predicted_area)
    wrong[matches.predicted] = False

    hit_class = target_class[matches.target]
    return PanopticCounts(
        iou=np.bincount(hit_class, matches.iou, classes).astype(np.float64),
        tp=np.bincount(hit_class, minlength=classes),
        fp=np.bincount(predicted_class[wrong], minlength=classes),
        fn=np.bincount(target_class[missed], minlength=classes),
    )


def count_stuff_overlaps(histogram: FrameHistogram, is_thing: NDArray[np.bool_], classes: int) -> PanopticCounts:
    """Count the stuff of a frame as PQ-dagger does: the IoU of every overlap, however small, and the target segments.

    Source: Porzi et al., Seamless Scene Segmentation (2019), equation 5. The counts add up over frames and processes
    and replace those of stuff in ``dagger_counts``.

    >>> from vidapt.evaluation.histogram import joint_histogram
    >>> histogram = joint_histogram(np.array([[1, 1, 1, 2]]), np.array([[1, 2, 2, 2]]))
    >>> overlaps = count_stuff_overlaps(histogram, np.zeros(256, bool), classes=2)
    >>> overlaps.iou.round(4).tolist(), overlaps.tp.tolist()
    ([0.3333, 0.3333], [1, 1])

    Args:
        histogram: Joint histogram of segment codes.
        is_thing: bool (256,), True where the train id is a thing.
        classes: Number of classes C.

    Returns:
        ``iou`` is the sum over overlaps, ``tp`` the number of target segments, both 0 for things; ``fp`` and ``fn``
        are 0.
    """
    category = category_of(histogram.target)
    stuff = (category >= 0) & ~is_thing[category]
    pairs = matchable_pairs(histogram, is_thing) & stuff[histogram.rows]
    iou = histogram.counts[pairs] / _unions(histogram, pairs)
    none = np.zeros(classes, np.int64)
    return PanopticCounts(
        iou=np.bincount(category[histogram.rows[pairs]], iou, classes).astype(np.float64),
        tp=np.bincount(category[stuff], minlength=classes),
        fp=none,
        fn=none.copy(),
    )


def dagger_counts(counts: PanopticCounts, overlaps: PanopticCounts, is_thing: NDArray[np.bool_]) -> PanopticCounts:
    """Counts whose ``panoptic_scores`` are PQ-dagger: things as in PQ, stuff from its overlaps.

    >>> from vidapt.evaluation.histogram import joint_histogram
    >>> from vidapt.labels import CAMVID
    >>> things, classes = CAMVID.is_thing, len(CAMVID)
    >>> histogram = joint_histogram(np.array([[1, 1, 1, 2]]), np.array([[1, 2, 2, 2]]))  # sky and building
    >>> counts, overlaps = count_matches(histogram, things, classes), count_stuff_overlaps(histogram, things, classes)
    >>> for name, kind in (("PQ", counts), ("PQ-dagger", dagger_counts(counts, overlaps, things))):
    ...     mean = panoptic_scores(kind, ScoredClasses.of(CAMVID)).all
    ...     print(name, round(mean.pq, 4), mean.classes)
    PQ 0.0 ('sky', 'building')
    PQ-dagger 0.3333 ('sky', 'building')

    Args:
        counts: Sums of ``count_matches``.
        overlaps: Sums of ``count_stuff_overlaps`` over the same frames.
        is_thing: bool (256,), True where the train id is a thing.
    """
    thing = is_thing[: counts.tp.size]
    return PanopticCounts(
        iou=np.where(thing, counts.iou, overlaps.iou),
        tp=np.where(thing, counts.tp, overlaps.tp),
        fp=np.where(thing, counts.fp, overlaps.fp),
        fn=np.where(thing, counts.fn, overlaps.fn),
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

    >>> from vidapt.evaluation.histogram import joint_histogram, target_codes
    >>> from vidapt.labels import CAMVID
    >>> semantic = np.array([[0, 0, 8, 8, 8, 8, 255]], np.uint8)  # sky, car, ignored
    >>> target = target_codes(semantic, np.array([[0, 0, 1, 1, 2, 0, 0]]), CAMVID.is_thing)  # two cars, a crowd of cars
    >>> predicted = np.array([[1, 1, 256 * 256 + 9, 256 * 256 + 9, 1, 1, 1]])  # one car, the rest is sky
    >>> counts = count_matches(joint_histogram(target, predicted), CAMVID.is_thing, len(CAMVID))
    >>> scores = panoptic_scores(counts, ScoredClasses.of(CAMVID))
    >>> scores.all.pq, scores.all.classes
    (0.3333333333333333, ('sky', 'car'))
    >>> scores.per_class["car"]
    ClassQuality(pq=0.6666666666666666, sq=1.0, rq=0.6666666666666666, tp=1, fp=0, fn=1)

    Args:
        counts: Sums of ``count_matches`` over a data set.
        scored: Classes that the protocol averages over.
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
