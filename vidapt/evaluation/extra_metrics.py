"""Metrics that cost extra, for those who ask: instance AP, iIoU, boundary PQ and video constancy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vidapt.errors import UserError
from vidapt.evaluation.boundary import CITYSCAPES_RATIO, boundary_panoptic
from vidapt.evaluation.constancy import VideoConstancy
from vidapt.evaluation.frame_runs import FrameRuns, InstanceRuns
from vidapt.evaluation.histogram import joint_histogram
from vidapt.evaluation.instance import (
    CityscapesAveragePrecision,
    CityscapesScores,
    CocoAveragePrecision,
    CocoScores,
    InstanceOverlaps,
    instance_codes,
    overlaps_of_histogram,
)
from vidapt.evaluation.instance_weighted import InstanceWeightedIou
from vidapt.evaluation.panoptic import PanopticCounts, PanopticScores, panoptic_scores
from vidapt.evaluation.semantic import CategoryScores, ScoredClasses

if TYPE_CHECKING:
    from vidapt.labels import LabelSpace

METRICS = ("ap_coco", "ap_cityscapes", "instance_weighted", "boundary", "constancy")
"""Their names, as in the configuration."""

_RATE_ALL = "average precision ranks all things, so give each a score"


@dataclass(frozen=True)
class InstanceWeightedScores:
    """Instance-weighted IoU over a data set, fractions 0..1; NaN where undefined.

    Attributes:
        mean: Mean over the scored classes that have instances.
        iou: Every class by name, NaN for stuff.
        classes: Names of the classes that the mean averages.
        categories: Categories of things; None if the label space has no groups.
    """

    mean: float
    iou: dict[str, float]
    classes: tuple[str, ...]
    categories: CategoryScores | None


@dataclass(frozen=True)
class ExtraScores:
    """Scores that cost extra; None where they were not asked for or the target has no instances.

    Attributes:
        boundary: Boundary PQ.
        boundary_ratio: Width of its boundaries relative to the image's diagonal.
        coco: Average precision of instances by COCO's definition.
        cityscapes: The same by the definition of Cityscapes.
        instance_weighted: Instance-weighted IoU.
        constancy: VC by window length in frames; NaN where no window of that length counts.
        unrated: True if average precision was asked for and no predicted thing has a score to rank it by.
    """

    boundary: PanopticScores | None
    boundary_ratio: float
    coco: CocoScores | None
    cityscapes: CityscapesScores | None
    instance_weighted: InstanceWeightedScores | None
    constancy: dict[int, float] | None
    unrated: bool = False

    @property
    def averaged(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes, or categories, that each mean averages."""
        weighted = self.instance_weighted
        categories = None if weighted is None else weighted.categories
        means = {
            "boundary_pq": None if self.boundary is None else self.boundary.all.classes,
            "ap_coco": None if self.coco is None else self.coco.classes,
            "ap_cityscapes": None if self.cityscapes is None else self.cityscapes.classes,
            "iiou": None if weighted is None else weighted.classes,
            "iiou_categories": None if categories is None else categories.averaged,
        }
        return {name: classes for name, classes in means.items() if classes is not None}


def has_groups(space: LabelSpace) -> bool:
    """Tell whether the classes of a label space belong to categories."""
    return any(label.group for label in space.classes)


class ExtraMetrics:
    """Accumulates the metrics that are asked for, and does nothing for the others.

    Target pixels of classes that are left out (``FrameRuns.is_left_out``) are void here, the single instances of these
    classes too; in boundary PQ they are neither void nor scored, as in PQ.

    Args:
        scored: Classes that the protocol averages over.
        metrics: Some of ``METRICS``.
        boundary_ratio: Width of the boundary relative to the image's diagonal.

    Raises:
        UserError: If a metric is unknown, or the label space or the scored classes lack what it needs.
    """

    def __init__(
        self, scored: ScoredClasses, metrics: Sequence[str] = (), *, boundary_ratio: float = CITYSCAPES_RATIO
    ) -> None:
        unknown = [name for name in metrics if name not in METRICS]
        if unknown:
            raise UserError(f"unknown metric {unknown[0]!r}; those that can be added are {', '.join(METRICS)}")
        space, classes = scored.space, scored.ids
        self.scored = scored
        self.metrics = tuple(name for name in METRICS if name in metrics)
        self.boundary_ratio = boundary_ratio
        self._coco = CocoAveragePrecision(space, classes) if "ap_coco" in metrics else None
        self._cityscapes = CityscapesAveragePrecision(space, classes) if "ap_cityscapes" in metrics else None
        self._weighted = InstanceWeightedIou(space) if "instance_weighted" in metrics else None
        self._boundary = PanopticCounts.zeros(len(space)) if "boundary" in metrics else None
        self._constancy = VideoConstancy() if "constancy" in metrics else None
        self._rating: tuple[bool, str] | None = None

    def update(self, name: str, runs: FrameRuns) -> None:
        """Add the next frame of the current video.

        Args:
            name: Name of the frame, unique in the data set.
            runs: The frame.

        Raises:
            UserError: If a frame of this name was added before, its size differs from that before, or some predicted
                things have a score and some have none (NaN) where average precision ranks them; the frame counts
                nowhere then.
        """
        if self._constancy is not None:
            self._constancy.check_size(runs.shape)
        if isinstance(runs, InstanceRuns):
            self._update_precision(name, runs)
            if self._weighted is not None:
                self._weighted.update(runs.labels, runs.instance, runs.predicted, runs.counts)
            if self._boundary is not None:
                self._boundary += self._boundary_counts(runs)
        if self._constancy is not None:
            self._constancy.update(runs.pixels(runs.labels), runs.pixels(runs.predicted))

    def _update_precision(self, name: str, runs: InstanceRuns) -> None:
        precisions = [precision for precision in (self._coco, self._cityscapes) if precision is not None]
        if precisions:
            rating = _rating_of(name, runs, self._rating)
            overlaps = _instance_overlaps(runs, self.scored.space)
            for precision in precisions:
                precision.update(name, overlaps)
            self._rating = rating

    def _boundary_counts(self, runs: InstanceRuns) -> PanopticCounts:
        space = self.scored.space
        target, predicted = runs.pixels(runs.target_codes(space)), runs.pixels(runs.predicted_codes(space))
        return boundary_panoptic(target, predicted, space.is_thing, len(space), self.boundary_ratio)

    def end_stretch(self) -> None:
        """Tell that the next frame does not follow the last one: a frame without labels, or the end of a video."""
        if self._constancy is not None:
            self._constancy.end_video()

    def merge(self, other: ExtraMetrics) -> None:
        """Add what ``other``, of the same settings, has counted on other videos.

        Raises:
            UserError: If both have a frame of one name, or the predictions of one have scores and those of the other
                have none; nothing is added then.
        """
        _check_ratings(self._rating, other._rating)
        # Average precision first: it alone can refuse, before it adds anything.
        if self._coco is not None and other._coco is not None:
            self._coco.merge(other._coco)
        if self._cityscapes is not None and other._cityscapes is not None:
            self._cityscapes.merge(other._cityscapes)
        self._rating = other._rating if self._rating is None else self._rating
        if self._weighted is not None and other._weighted is not None:
            self._weighted.merge(other._weighted)
        if self._boundary is not None and other._boundary is not None:
            self._boundary += other._boundary
        if self._constancy is not None and other._constancy is not None:
            self._constancy.merge(other._constancy)

    def result(self, *, has_instances: bool) -> ExtraScores:
        """Scores over all videos; those that need instances are None without them, AP also without any score."""
        unrated = self._rating is not None and not self._rating[0]
        scores = ExtraScores(
            boundary=None if self._boundary is None else panoptic_scores(self._boundary, self.scored),
            boundary_ratio=self.boundary_ratio,
            coco=None if self._coco is None or unrated else self._coco.result(),
            cityscapes=None if self._cityscapes is None or unrated else self._cityscapes.result(),
            instance_weighted=None if self._weighted is None else _weighted_scores(self._weighted, self.scored),
            constancy=None if self._constancy is None else self._constancy.result(),
            unrated=unrated,
        )
        if has_instances:
            return scores
        return replace(scores, boundary=None, coco=None, cityscapes=None, instance_weighted=None)


def _weighted_scores(weighted: InstanceWeightedIou, scored: ScoredClasses) -> InstanceWeightedScores:
    iou = weighted.iou()
    mean = scored.mean(iou)
    categories = weighted.categories(scored) if has_groups(scored.space) else None
    by_name = dict(zip(scored.space.names, iou.tolist(), strict=True))
    return InstanceWeightedScores(mean.value, by_name, scored.names(mean.classes), categories)


def _rating_of(name: str, runs: InstanceRuns, before: tuple[bool, str] | None) -> tuple[bool, str] | None:
    """Whether the predicted things of a frame have scores and its name; ``before``, that of others, if it has none."""
    rated = {not np.isnan(segment.score) for segment in runs.segments if segment.is_thing}
    if len(rated) > 1:
        raise UserError(f"frame {name!r}: some predicted things have a score and some have none; {_RATE_ALL}")
    found = (rated.pop(), name) if rated else None
    _check_ratings(before, found)
    return found if before is None else before


def _check_ratings(first: tuple[bool, str] | None, second: tuple[bool, str] | None) -> None:
    if first is not None and second is not None and first[0] != second[0]:
        (_, rated), (_, bare) = sorted((first, second), reverse=True)
        raise UserError(
            f"frame {bare!r}: predicted things have no score, but those of frame {rated!r} have; {_RATE_ALL}"
        )


def _instance_overlaps(runs: InstanceRuns, space: LabelSpace) -> InstanceOverlaps:
    # What is left out has no instance here, which makes it void, unlike the single instances of ignored classes.
    codes = instance_codes(runs.labels, np.where(runs.left_out, 0, runs.instance), space.is_thing)
    histogram = joint_histogram(codes, runs.predicted_codes(space), runs.counts)
    # Without scores all rank alike; the outcome is not reported.
    scores = {segment.id: 1.0 if np.isnan(segment.score) else segment.score for segment in runs.segments}
    return overlaps_of_histogram(histogram, scores, space)
