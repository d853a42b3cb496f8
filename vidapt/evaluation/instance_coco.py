"""Average precision and recall of instances as COCO defines them (COCOeval, "segm")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from vidapt.evaluation.instance_matches import (
    HIT,
    IGNORED,
    WRONG,
    ImageMatches,
    InstanceAccumulator,
    count_by_class,
    rank_by_score,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.evaluation.instance_overlaps import InstanceOverlaps

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""A pair matches from this IoU on, equality included."""

RECALL_POINTS = np.linspace(0.0, 1.0, 101)
"""Recalls at which precision is averaged."""

AREA_RANGES = {"all": (0, 10**10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 10**10)}
"""Least and largest area in pixels of each group of instances, both included."""

MAX_DETECTIONS = 100
"""Predictions of one class that count in one image."""


def coco_outcomes(overlaps: InstanceOverlaps, rank: NDArray[np.int64]) -> NDArray[np.int8]:
    """Match the predictions of one image for each area range A and IoU threshold T.

    In the order of ``rank``, each prediction takes the free target of its class with the highest IoU, the later one if
    two are equal. Crowd regions and targets outside the area range are taken only if no other target is left, and make
    the prediction ignored; crowd regions stay free. An unmatched prediction outside the area range is ignored too.

    Args:
        overlaps: K predictions against G targets.
        rank: int64 (K,) as ``rank_by_score`` gives it.

    Returns:
        int8 (A,T,K).
    """
    iou = overlaps.iou(crowd_by_prediction=True)
    ignored = overlaps.crowd | _outside(overlaps.target_area)
    # Preferences are whole numbers from 1 up: counted targets before ignored ones, then by IoU, then by position.
    by_iou = np.argsort(np.argsort(iou, axis=1, kind="stable"), axis=1)
    preference = by_iou[:, None] + 1 + ignored.shape[1] * ~ignored
    reached = iou[:, None] >= IOU_THRESHOLDS[:, None]
    free = np.ones((len(AREA_RANGES), IOU_THRESHOLDS.size, overlaps.crowd.size), bool)
    outcome = np.where(_outside(overlaps.area), IGNORED, WRONG).astype(np.int8)[:, None].repeat(IOU_THRESHOLDS.size, 1)
    candidates = np.flatnonzero(reached.any((1, 2)))
    for k in candidates[np.argsort(rank[candidates], kind="stable")]:
        wish = np.where(free & reached[k], preference[k][:, None], 0)
        ranges, thresholds = np.nonzero(wish.any(-1))
        taken = wish.argmax(-1)[ranges, thresholds]
        free[ranges, thresholds, taken] = overlaps.crowd[taken]
        outcome[ranges, thresholds, k] = np.where(ignored[ranges, taken], IGNORED, HIT)
    return outcome


def _outside(area: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool (A,N): True where an area (N,) is outside the range."""
    least, most = np.array(list(AREA_RANGES.values())).T[..., None]
    return (area < least) | (area > most)


def interpolated_precision(outcome: NDArray[np.int8], targets: int) -> NDArray[np.float64]:
    """Mean over the 101 recall points of the highest precision at that recall or a higher one.

    >>> interpolated_precision(np.array([[HIT, WRONG, HIT]], np.int8), targets=2).round(4).tolist()
    [0.835]

    Args:
        outcome: int8 (T,K) of predictions by descending score.
        targets: Number of instances to be found.

    Returns:
        float64 (T,) in 0..1, NaN without targets.
    """
    if targets == 0:
        return np.full(len(outcome), np.nan)
    hits, wrong = (np.cumsum(outcome == kind, axis=1) for kind in (HIT, WRONG))
    precision = hits / (hits + wrong + np.spacing(1))
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([highest, np.zeros((len(outcome), 1))], axis=1)
    places = [np.searchsorted(recall, RECALL_POINTS) for recall in hits / targets]
    return np.take_along_axis(padded, np.asarray(places), axis=1).mean(1)


@dataclass(frozen=True)
class CocoQuality:
    """The twelve numbers of COCO, fractions 0..1; NaN where there is no instance to be found (COCOeval prints -1).

    Attributes:
        ap: Average precision, mean over the IoU thresholds 0.50, 0.55 … 0.95.
        ap50: Average precision at IoU 0.50.
        ap75: Average precision at IoU 0.75.
        ap_small: Like ``ap``, of instances up to 32² pixels.
        ap_medium: Like ``ap``, of instances of 32² to 96² pixels.
        ap_large: Like ``ap``, of instances from 96² pixels.
        ar_1: Recall with one prediction per class and image, mean over the IoU thresholds.
        ar_10: Recall with ten.
        ar_100: Recall with a hundred.
        ar_small: Like ``ar_100``, of small instances.
        ar_medium: Like ``ar_100``, of medium instances.
        ar_large: Like ``ar_100``, of large instances.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float


@dataclass(frozen=True)
class CocoScores:
    """Average precision and recall over a data set.

    Attributes:
        all: Means over the classes that have instances to be found.
        per_class: Every thing of the label space, scored or not, by name.
        averaged: Names of the classes that the means average, by area range "all", "small", "medium" and "large".
    """

    all: CocoQuality
    per_class: dict[str, CocoQuality]
    averaged: dict[str, tuple[str, ...]]

    @property
    def ap(self) -> float:
        """Average precision, mean over classes and IoU thresholds."""
        return self.all.ap

    @property
    def ap50(self) -> float:
        """Average precision at IoU 0.50, mean over classes."""
        return self.all.ap50

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that ``ap`` averages."""
        return self.averaged["all"]


class CocoAveragePrecision(InstanceAccumulator):
    """Average precision and recall of instances by the rules of COCOeval.

    Areas are numbers of pixels. COCO's own files give some targets the area of a polygon instead, which may put an
    instance into another size range there.

    >>> from vidapt.evaluation.instance import overlaps_of_masks
    >>> from vidapt.labels import LabelClass, LabelSpace
    >>> space = LabelSpace("toy", (LabelClass("road", False, (0, 0, 0)), LabelClass("car", True, (0, 0, 142))))
    >>> semantic = np.zeros((8, 10), np.uint8); semantic[:, 2:] = 1
    >>> instance = np.zeros((8, 10), np.int32); instance[:, 2:6] = 1; instance[:, 6:] = 2
    >>> masks = np.zeros((3, 8, 10), bool)
    >>> masks[0, :, 2:6] = masks[1, :, :2] = masks[2, :, 7:] = True
    >>> precision = CocoAveragePrecision(space)
    >>> precision.update("frame 0", overlaps_of_masks(masks, [0.9, 0.8, 0.7], [1, 1, 1], semantic, instance, space))
    >>> scores = precision.result()
    >>> round(scores.ap50, 4), round(scores.ap, 4), scores.all.ar_1, scores.classes
    (0.835, 0.703, 0.5, ('car',))

    Args:
        space: Label space of target and predictions.
        scored_classes: Names or train ids that the protocol scores; their things are averaged. None for all.

    Raises:
        UserError: If a class is not in the space, or no thing is among them.
    """

    def _match(self, overlaps: InstanceOverlaps) -> ImageMatches:
        rank = rank_by_score(overlaps.category, overlaps.score)
        overlaps, rank = overlaps.keep(rank < MAX_DETECTIONS), rank[rank < MAX_DETECTIONS]
        counted = ~(overlaps.crowd | _outside(overlaps.target_area))
        targets = count_by_class(overlaps.target_category, counted, len(self.scored.space))
        return ImageMatches(overlaps.category, overlaps.score, rank, coco_outcomes(overlaps, rank), targets)

    def result(self, classes: Sequence[str | int] | None = None) -> CocoScores:
        """Scores over all images.

        Args:
            classes: Names or train ids to average, some of the scored things; None for all of them.

        Raises:
            UserError: If a class is asked for that the protocol leaves out, or that is no thing.
        """
        space, chosen, matches = self.scored.space, self._averaged(classes), self._joined()
        per_class = {index: _class_quality(matches, index) for index in space.things}
        table = np.full((len(fields(CocoQuality)), len(space)), np.nan)
        for index, quality in per_class.items():
            table[:, index] = astuple(quality)
        means = [self.scored.mean(values, chosen) for values in table]
        by_range = zip(AREA_RANGES, (means[0], *means[3:6]), strict=True)
        return CocoScores(
            all=CocoQuality(*(mean.value for mean in means)),
            per_class={space.names[index]: quality for index, quality in per_class.items()},
            averaged={size: self.scored.names(mean.classes) for size, mean in by_range},
        )


def _class_quality(matches: ImageMatches, category: int) -> CocoQuality:
    chosen = np.flatnonzero(matches.category == category)
    chosen = chosen[np.argsort(-matches.score[chosen], kind="stable")]
    outcome, rank, targets = matches.outcome[..., chosen], matches.rank[chosen], matches.targets[:, category]
    precision = [interpolated_precision(kept, number) for kept, number in zip(outcome, targets.tolist(), strict=True)]
    wanted = np.where(targets > 0, targets, np.nan)
    recall = {n: (outcome[..., rank < n] == HIT).sum(-1).mean(-1) / wanted for n in (1, 10, MAX_DETECTIONS)}
    return CocoQuality(
        ap=float(precision[0].mean()),
        ap50=float(precision[0][0]),
        ap75=float(precision[0][5]),
        ap_small=float(precision[1].mean()),
        ap_medium=float(precision[2].mean()),
        ap_large=float(precision[3].mean()),
        ar_1=float(recall[1][0]),
        ar_10=float(recall[10][0]),
        ar_100=float(recall[MAX_DETECTIONS][0]),
        ar_small=float(recall[MAX_DETECTIONS][1]),
        ar_medium=float(recall[MAX_DETECTIONS][2]),
        ar_large=float(recall[MAX_DETECTIONS][3]),
    )
