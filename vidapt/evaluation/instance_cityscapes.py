"""Average precision of instances as the Cityscapes benchmark defines it (evalInstanceLevelSemanticLabeling)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vidapt.errors import UserError
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
    from vidapt.labels import LabelSpace

OVERLAPS = np.arange(0.5, 1.0, 0.05)
"""A pair matches above this IoU, equality excluded; the rounding of ``arange`` is part of the official values."""

MIN_AREA = 100
"""Pixels below which a target instance is not to be found."""


def cityscapes_outcomes(overlaps: InstanceOverlaps, rank: NDArray[np.int64], min_area: int) -> NDArray[np.int8]:
    """Match the predictions of one image for each overlap threshold T.

    Counted targets are single instances of at least ``min_area`` pixels. Of the predictions of one class above the
    threshold on a counted target, the best by ``rank`` is a hit and the others are wrong. Any other prediction is wrong
    unless its share of pixels on void, on group regions and on small targets of its class is above the threshold;
    pixels on a group region smaller than ``min_area`` count twice there, as in the official scorer.

    Args:
        overlaps: K predictions, none of them empty, against G targets.
        rank: int64 (K,) as ``rank_by_score`` gives it.
        min_area: Least area of a counted target in pixels.

    Returns:
        int8 (T,K).
    """
    small = overlaps.target_area < min_area
    counted = ~(overlaps.crowd | small)
    matched = (overlaps.iou(crowd_by_prediction=False) > OVERLAPS[:, None, None]) & counted
    best = np.where(matched, rank[:, None], rank.size).min(1, initial=rank.size)
    hit = (matched & (rank[:, None] == best[:, None])).any(2)
    same_class = np.where(overlaps.same_class, overlaps.shared, 0)
    excused = overlaps.void + same_class[:, overlaps.crowd].sum(1) + same_class[:, small].sum(1)
    wrong = matched.any(2) | (excused / overlaps.area <= OVERLAPS[:, None])
    return np.where(hit, HIT, np.where(wrong, WRONG, IGNORED)).astype(np.int8)


def step_precision(score: NDArray[np.float64], is_hit: NDArray[np.bool_], targets: int) -> float:
    """Area under precision over recall at each distinct score, from precision 1 at recall 0, in steps.

    The width of a step is half the distance between its neighbours. Nothing predicted gives 0.

    >>> step_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), targets=2)
    0.7916666666666666

    Args:
        score: float64 (K,) of the predictions that are right or wrong, in any order.
        is_hit: bool (K,) True for those that are right.
        targets: Number of instances to be found, at least 1.
    """
    if score.size == 0:
        return 0.0
    order = np.argsort(score)
    _, first = np.unique(score[order], return_index=True)
    hits = np.cumsum(is_hit[order][::-1])[::-1][first]
    precision = np.append(hits / (score.size - first), 1.0)
    recall = np.append(hits / targets, 0.0)
    bounds = np.concatenate((recall[:1], recall, [0.0]))
    return float(precision @ ((bounds[:-2] - bounds[2:]) / 2))


@dataclass(frozen=True)
class CityscapesQuality:
    """Average precision as a fraction 0..1; NaN where there is no instance to be found.

    Attributes:
        ap: Mean over the overlap thresholds.
        ap50: Average precision at overlap 0.5.
        by_overlap: Average precision at 0.50, 0.55 … 0.95.
    """

    ap: float
    ap50: float
    by_overlap: tuple[float, ...]


@dataclass(frozen=True)
class CityscapesScores:
    """Average precision over a data set.

    Attributes:
        all: Mean over ``classes``.
        per_class: Every thing of the label space, scored or not, by name.
        classes: Names of the classes that the mean averages.
    """

    all: CityscapesQuality
    per_class: dict[str, CityscapesQuality]
    classes: tuple[str, ...]

    @property
    def ap(self) -> float:
        """Average precision, mean over classes and overlap thresholds."""
        return self.all.ap

    @property
    def ap50(self) -> float:
        """Average precision at overlap 0.5, mean over classes."""
        return self.all.ap50


class CityscapesAveragePrecision(InstanceAccumulator):
    """Average precision of instances by the rules of the Cityscapes benchmark.

    A class with instances to be found and without predictions scores 0, one without instances to be found is NaN and
    not averaged. (Where every prediction of a class is ignored the official script stops with an error; here it is 0.)
    The result does not depend on the order of images, nor on that of equal scores.

    >>> from vidapt.evaluation.instance import overlaps_of_masks
    >>> from vidapt.labels import CITYSCAPES
    >>> semantic = np.zeros((16, 20), np.uint8); semantic[:, 4:] = CITYSCAPES.index("car")
    >>> instance = np.zeros((16, 20), np.int32); instance[:, 4:12] = 1; instance[:, 12:] = 2
    >>> masks = np.zeros((2, 16, 20), bool); masks[0, :, 4:12] = masks[1, :, 13:] = True
    >>> cars = [CITYSCAPES.index("car")] * 2
    >>> precision = CityscapesAveragePrecision(CITYSCAPES)
    >>> precision.update("frame 0", overlaps_of_masks(masks, [0.9, 0.8], cars, semantic, instance, CITYSCAPES))
    >>> scores = precision.result()
    >>> round(scores.ap, 4), scores.ap50, scores.classes
    (0.9, 1.0, ('car',))

    Args:
        space: Label space of target and predictions.
        scored_classes: Names or train ids that the protocol scores; their things are averaged. None for all.
        min_area: Pixels below which a target instance is not to be found, at least 1.

    Raises:
        UserError: If a class is not in the space, no thing is among them, or ``min_area`` is below 1.
    """

    def __init__(
        self, space: LabelSpace, scored_classes: Sequence[str | int] | None = None, *, min_area: int = MIN_AREA
    ) -> None:
        super().__init__(space, scored_classes)
        if min_area < 1:
            raise UserError(f"min_area must be at least 1 pixel, got {min_area}; the benchmark uses {MIN_AREA}")
        self.min_area = min_area

    def _settings(self) -> tuple[object, ...]:
        return (*super()._settings(), self.min_area)

    def _match(self, overlaps: InstanceOverlaps) -> ImageMatches:
        overlaps = overlaps.keep(overlaps.area > 0)
        rank = rank_by_score(overlaps.category, overlaps.score)
        outcome = cityscapes_outcomes(overlaps, rank, self.min_area)
        counted = ~overlaps.crowd & (overlaps.target_area >= self.min_area)
        targets = count_by_class(overlaps.target_category, counted, len(self.scored.space))
        return ImageMatches(overlaps.category, overlaps.score, rank, outcome, targets)

    def result(self, classes: Sequence[str | int] | None = None) -> CityscapesScores:
        """Scores over all images.

        Args:
            classes: Names or train ids to average, some of the scored things; None for all of them.

        Raises:
            UserError: If a class is asked for that the protocol leaves out, or that is no thing.
        """
        space, chosen, matches = self.scored.space, self._averaged(classes), self._joined()
        table = np.full((OVERLAPS.size, len(space)), np.nan)
        for category in space.things:
            table[:, category] = _class_precision(matches, category)
        means = [self.scored.mean(values, chosen) for values in table]
        return CityscapesScores(
            all=_quality([mean.value for mean in means]),
            per_class={space.names[category]: _quality(table[:, category].tolist()) for category in space.things},
            classes=self.scored.names(means[0].classes),
        )


def _class_precision(matches: ImageMatches, category: int) -> list[float]:
    """Average precision of one class at each overlap threshold."""
    targets = int(matches.targets[category])
    if targets == 0:
        return [float("nan")] * OVERLAPS.size
    chosen = matches.category == category
    score = matches.score[chosen]
    return [
        step_precision(score[outcome != IGNORED], outcome[outcome != IGNORED] == HIT, targets)
        for outcome in matches.outcome[:, chosen]
    ]


def _quality(by_overlap: list[float]) -> CityscapesQuality:
    return CityscapesQuality(float(np.mean(by_overlap)), by_overlap[0], tuple(by_overlap))
