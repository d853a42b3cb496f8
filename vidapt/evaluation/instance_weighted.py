"""Instance-weighted intersection over union (iIoU): small objects weigh as much as large ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.errors import UserError
from vidapt.evaluation.histogram import category_of, compress_runs, joint_histogram, target_codes, track_of
from vidapt.evaluation.semantic import CategoryScores, ScoredClasses, categories_of, confusion_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace

CITYSCAPES_AVERAGE_SIZES: Mapping[str, float] = MappingProxyType(
    {
        "bicycle": 4672.3249222261,
        "caravan": 36771.8241758242,
        "motorcycle": 6298.7200839748,
        "rider": 3930.4788056518,
        "bus": 35732.1511111111,
        "train": 67583.7075812274,
        "car": 12794.0202738185,
        "person": 3462.4756337644,
        "truck": 27855.1264367816,
        "trailer": 16926.9763313609,
    }
)
"""Mean pixels of an instance by class in Cityscapes at 2048x1024, as its scorer states them."""


def size_table(space: LabelSpace, average_sizes: Mapping[str, float]) -> NDArray[np.float64]:
    """float64 (C,) mean pixels of an instance by train id, NaN for stuff and void classes.

    >>> from vidapt.labels import CITYSCAPES
    >>> size_table(CITYSCAPES, CITYSCAPES_AVERAGE_SIZES)[[0, 13]].round().tolist()
    [nan, 12794.0]

    Raises:
        UserError: If a thing has no size above 0.
    """
    sizes = np.full(len(space), np.nan)
    for index, label in enumerate(space.classes):
        if label.is_thing and not label.is_void:
            sizes[index] = average_sizes.get(label.name, 0.0)
    missing = [space.names[index] for index in np.flatnonzero(sizes <= 0)]
    if missing:
        raise UserError(
            f"instance-weighted IoU needs the average size in pixels, above 0, of every thing; "
            f"{', '.join(missing)} of {space.name!r} has none: pass average_sizes"
        )
    return sizes


def weighted_confusion(
    target: NDArray[np.uint8],
    instance: NDArray[Any],
    predicted: NDArray[np.uint8],
    sizes: NDArray[np.float64],
    counts: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Pixels of instances by target and predicted class, each weighted by average size / size of its instance.

    >>> semantic, instance = np.array([[1, 1, 1, 1, 1]], np.uint8), np.array([[7, 7, 7, 7, 8]])  # sizes 4 and 1
    >>> predicted = np.array([[1, 1, 0, 255, 1]], np.uint8)
    >>> weighted_confusion(semantic, instance, predicted, np.array([np.nan, 4.0])).tolist()
    [[0.0, 0.0, 0.0], [1.0, 6.0, 1.0]]

    Args:
        target: uint8 (...) train ids, 255 = ignore.
        instance: int (...) instance ids, 0 = group region, which does not count; not read where ``sizes`` is NaN.
        predicted: uint8 (...) train ids, 255 = no class.
        sizes: float64 (C,), see ``size_table``.
        counts: Pixels that each element stands for, see ``compress_runs``; None for one each.

    Returns:
        float64 (C, C+1) as ``confusion_matrix`` lays it out; the rows of classes without a size are 0.
    """
    classes = sizes.size
    has_size = np.zeros(256, bool)
    has_size[:classes] = ~np.isnan(sizes)
    histogram = joint_histogram(target_codes(target, instance, has_size), predicted, counts)
    category = category_of(histogram.target)
    weighted = (category >= 0) & (track_of(histogram.target) > 0)
    weight = np.zeros(category.size)
    weight[weighted] = sizes[category[weighted]] / histogram.target_area[weighted]
    pairs = weighted[histogram.rows]
    row, column = category[histogram.rows[pairs]], np.minimum(histogram.predicted[histogram.columns[pairs]], classes)
    pixels = weight[histogram.rows[pairs]] * histogram.counts[pairs]
    sums = np.bincount(row * (classes + 1) + column, pixels, classes * (classes + 1)).astype(np.float64)
    return sums.reshape(classes, classes + 1)


def instance_weighted_iou(confusion: NDArray[np.int64], weighted: NDArray[np.float64]) -> NDArray[np.float64]:
    """iIoU of each class, iTP / (iTP + FP + iFN); NaN where it has neither instances nor false positives.

    iTP and iFN are weighted pixels of instances; FP are plain pixels of other classes (rule of the Cityscapes scorer).

    >>> confusion, weighted = np.array([[8, 2, 0], [1, 3, 1]]), np.array([[0.0, 0, 0], [1.0, 6.0, 1.0]])
    >>> instance_weighted_iou(confusion, weighted).round(4).tolist()  # the first class has no instances
    [0.0, 0.6]

    Args:
        confusion: int64 (C, C+1) of ``confusion_matrix``.
        weighted: float64 (C, C+1) of ``weighted_confusion``, summed over the same frames.

    Returns:
        float64 (C,) in 0..1; for classes without instances, like stuff, it means nothing.
    """
    hits = np.diagonal(weighted)
    union = weighted.sum(1) + confusion[:, :-1].sum(0) - np.diagonal(confusion)
    return np.divide(hits, union, out=np.full(hits.size, np.nan), where=union > 0)


class InstanceWeightedIou:
    """Sums what iIoU of classes and categories is made of; the state is two matrices (C, C+1).

    Equal to the instance scores of Cityscapes' evalPixelLevelSemanticLabeling (Cordts et al., 2016).

    >>> from vidapt.labels import CITYSCAPES
    >>> quality = InstanceWeightedIou(CITYSCAPES)
    >>> semantic, instance = np.full((1, 4), 13, np.uint8), np.array([[1, 1, 1, 2]])  # a large and a small car
    >>> quality.update(semantic, instance, np.array([[13, 13, 13, 0]], np.uint8))  # the small one is missed
    >>> float(quality.iou()[13]), quality.categories(ScoredClasses.of(CITYSCAPES)).averaged
    (0.5, ('vehicle',))

    Args:
        space: Label space of target and prediction.
        average_sizes: Mean pixels of an instance by class name.

    Raises:
        UserError: If a thing of the space has no average size.
    """

    def __init__(self, space: LabelSpace, average_sizes: Mapping[str, float] = CITYSCAPES_AVERAGE_SIZES) -> None:
        self.sizes = size_table(space, average_sizes)
        self.confusion = np.zeros((len(space), len(space) + 1), np.int64)
        self.weighted = np.zeros(self.confusion.shape)

    def update(
        self,
        target: NDArray[np.uint8],
        instance: NDArray[Any],
        predicted: NDArray[np.uint8],
        counts: NDArray[np.int64] | None = None,
    ) -> None:
        """Add a frame, or its runs (``compress_runs``); arguments as in ``weighted_confusion``.

        Raises:
            UserError: If sizes differ, or a train id is neither below C nor 255.
        """
        if counts is None:
            (target, instance, predicted), counts = compress_runs(target, instance, predicted)
        self.confusion += confusion_matrix(target, predicted, len(self.sizes), counts)
        self.weighted += weighted_confusion(target, instance, predicted, self.sizes, counts)

    def merge(self, other: InstanceWeightedIou) -> None:
        """Add what another process has counted."""
        self.confusion += other.confusion
        self.weighted += other.weighted

    def iou(self) -> NDArray[np.float64]:
        """float64 (C,) iIoU, NaN where undefined and for all classes without instances."""
        return np.where(np.isnan(self.sizes), np.nan, instance_weighted_iou(self.confusion, self.weighted))

    def categories(self, scored: ScoredClasses) -> CategoryScores:
        """iIoU of the categories that consist of things, void classes aside.

        The instances are those of the scored classes of a category; predicting any of its things is right, void ones
        included (the category mask of the Cityscapes scorer).

        Raises:
            UserError: If no class of the space has a group.
        """
        classes, iou = scored.space.classes, {}
        for category in categories_of(scored):
            if not all(classes[index].is_thing or classes[index].is_void for index in category.members):
                continue
            things = [index for index in category.members if classes[index].is_thing]
            instances = self.weighted[list(category.scored)]
            wrong = int(self.confusion[np.ix_(category.others, things)].sum())
            hits, union = float(instances[:, things].sum()), float(instances.sum()) + wrong
            iou[category.name] = hits / union if union else float("nan")
        return CategoryScores.of(iou)
