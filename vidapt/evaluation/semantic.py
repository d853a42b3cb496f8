"""Mean intersection over union of classes and categories, and which classes a protocol may average over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.clip import IGNORE
from vidapt.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace


@dataclass(frozen=True)
class ClassMean:
    """A mean over classes, and the train ids that it averages; NaN over no class."""

    value: float
    classes: tuple[int, ...]


@dataclass(frozen=True)
class ScoredClasses:
    """The classes of a label space that a protocol averages over.

    Attributes:
        space: The label space of target and prediction.
        ids: Sorted train ids that the protocol scores.
    """

    space: LabelSpace
    ids: tuple[int, ...]

    @staticmethod
    def of(space: LabelSpace, classes: Sequence[str | int] | None = None) -> ScoredClasses:
        """Read the protocol's classes by name or train id; None scores all that are not void.

        >>> from vidapt.labels import CITYSCAPES
        >>> ScoredClasses.of(CITYSCAPES, ["car", "road"]).ids
        (0, 13)

        Raises:
            UserError: If a class is not in the space or is void, or none is given.
        """
        void = {index for index, label in enumerate(space.classes) if label.is_void}
        if classes is None:
            classes = [index for index in range(len(space)) if index not in void]
        ids = sorted({space.index(entry) if isinstance(entry, str) else int(entry) for entry in classes})
        if not ids or ids[0] < 0 or ids[-1] >= len(space):
            raise UserError(f"scored classes must be one or more of the train ids 0..{len(space) - 1}, got {ids}")
        if void.intersection(ids):
            names = ", ".join(space.names[index] for index in ids if index in void)
            raise UserError(f"class {names} of {space.name!r} is void, so no target pixel has it; leave it out")
        return ScoredClasses(space, tuple(ids))

    @property
    def things(self) -> tuple[int, ...]:
        """Scored train ids that are things."""
        return tuple(index for index in self.ids if self.space.is_thing[index])

    @property
    def stuff(self) -> tuple[int, ...]:
        """Scored train ids that are stuff."""
        return tuple(index for index in self.ids if not self.space.is_thing[index])

    def names(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Class names of train ids."""
        return tuple(self.space.names[index] for index in ids)

    def mean(self, values: NDArray[np.float64], classes: Sequence[int] | None = None) -> ClassMean:
        """Average per-class values (C,) over scored classes, leaving out those that are NaN (undefined).

        >>> from vidapt.labels import CITYSCAPES
        >>> scored = ScoredClasses.of(CITYSCAPES, ["road", "sky", "train"])
        >>> values = np.full(19, 0.5); values[CITYSCAPES.index("train")] = np.nan
        >>> mean = scored.mean(values)
        >>> mean.value, scored.names(mean.classes)
        (0.5, ('road', 'sky'))

        Args:
            values: float64 (C,) by train id.
            classes: Train ids to average, a subset of the scored ones; None for all of them.

        Raises:
            UserError: If a class is asked for that the protocol leaves out.
        """
        wanted = self.ids if classes is None else tuple(classes)
        outside = [index for index in wanted if index not in self.ids]
        if outside:
            raise UserError(
                f"class {', '.join(self.names(outside))} is not scored by this protocol; "
                f"it averages over {', '.join(self.names(self.ids))}"
            )
        averaged = tuple(index for index in wanted if not np.isnan(values[index]))
        return ClassMean(float(np.mean(values[list(averaged)])) if averaged else float("nan"), averaged)


def count_pairs(
    first: NDArray[Any], second: NDArray[Any], classes: int, counts: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Count pixels by the labels of two maps.

    >>> count_pairs(np.array([0, 0, 1], np.uint8), np.array([0, 1, 255], np.uint8), classes=2).tolist()
    [[1, 1, 0], [0, 0, 1], [0, 0, 0]]

    Args:
        first: uint8 (...) train ids, 255 = no label.
        second: uint8 (...) train ids, same shape.
        classes: Number of classes C.
        counts: Pixels that each element stands for; None for one each.

    Returns:
        int64 (C+1, C+1): rows are labels of ``first``, columns of ``second``, the last of each is "no label".

    Raises:
        UserError: If a train id is neither below C nor 255.
    """
    key = first.reshape(-1).astype(np.intp) * 256 + second.reshape(-1)
    pairs = np.bincount(key, None if counts is None else counts.reshape(-1), 256 * 256).reshape(256, 256)
    seen = pairs.sum(0) + pairs.sum(1)
    outside = np.flatnonzero(seen[classes:IGNORE]) + classes
    if outside.size:
        raise UserError(
            f"train ids {outside[:5].tolist()} occur in target or prediction, but the label space has {classes} "
            f"classes; allowed are 0..{classes - 1} and {IGNORE}; map the labels first"
        )
    kept = [*range(classes), IGNORE]
    return pairs[np.ix_(kept, kept)].astype(np.int64)


def confusion_matrix(
    target: NDArray[Any], predicted: NDArray[Any], classes: int, counts: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Count labelled pixels by target and predicted class; arguments and errors as in ``count_pairs``.

    >>> target, predicted = np.array([0, 0, 1, 255], np.uint8), np.array([0, 1, 255, 1], np.uint8)
    >>> confusion_matrix(target, predicted, classes=2).tolist()
    [[1, 1, 0], [0, 0, 1]]

    Returns:
        int64 (C, C+1): rows are target classes, columns predicted classes, the last column is "no label".
    """
    return count_pairs(target, predicted, classes, counts)[:-1]


def iou_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class, NaN for classes that neither target nor prediction contains.

    TP / (TP + FP + FN) with FN counting pixels predicted as no class, and FP counting only pixels that have a label
    (rule of the Cityscapes scorer).

    >>> iou_per_class(np.array([[93, 1, 0], [4, 2, 0]])).round(4).tolist()
    [0.949, 0.2857]

    Args:
        confusion: int64 (C, C+1) as ``confusion_matrix`` returns it.

    Returns:
        float64 (C,) in 0..1.
    """
    hits = np.diagonal(confusion).astype(np.float64)
    union = confusion.sum(1) + confusion[:, :-1].sum(0) - hits
    return np.divide(hits, union, out=np.full(hits.size, np.nan), where=union > 0)


@dataclass(frozen=True)
class CategoryScores:
    """Scores of categories, which are the groups of a label space's classes.

    Attributes:
        mean: Mean over ``averaged``; NaN over no category.
        iou: Score of each category by name, NaN where undefined.
        averaged: Names of the categories whose score is defined.
    """

    mean: float
    iou: dict[str, float]
    averaged: tuple[str, ...]

    @staticmethod
    def of(iou: dict[str, float]) -> CategoryScores:
        """Average the defined ones of the scores by name.

        >>> CategoryScores.of({"flat": 0.5, "sky": float("nan")}).averaged
        ('flat',)
        """
        averaged = tuple(name for name, value in iou.items() if not np.isnan(value))
        mean = float(np.mean([iou[name] for name in averaged])) if averaged else float("nan")
        return CategoryScores(mean, iou, averaged)


@dataclass(frozen=True)
class Category:
    """A group of classes, split as the Cityscapes scorer does.

    Attributes:
        name: Name of the group.
        members: Train ids of all its classes.
        scored: Train ids of those that the protocol scores.
        others: Train ids of the classes outside the group.
    """

    name: str
    members: tuple[int, ...]
    scored: tuple[int, ...]
    others: tuple[int, ...]


def categories_of(scored: ScoredClasses) -> tuple[Category, ...]:
    """Groups with at least one scored class, in the order of the label space.

    >>> from vidapt.labels import CITYSCAPES
    >>> [category.name for category in categories_of(ScoredClasses.of(CITYSCAPES, ["road", "wall", "rider"]))]
    ['flat', 'construction', 'human']

    Raises:
        UserError: If no class of the space has a group.
    """
    groups = [label.group for label in scored.space.classes]
    if not any(groups):
        raise UserError(
            f"label space {scored.space.name!r} has no groups, so there is no category mean; "
            "add 'group' to the classes of its table or score classes only"
        )
    ids = range(len(groups))
    return tuple(
        Category(
            name,
            members=tuple(index for index in ids if groups[index] == name),
            scored=tuple(index for index in scored.ids if groups[index] == name),
            others=tuple(index for index in ids if groups[index] != name),
        )
        for name in dict.fromkeys(groups[index] for index in scored.ids)
        if name
    )


def category_scores(confusion: NDArray[np.int64], scored: ScoredClasses) -> CategoryScores:
    """Intersection over union of categories: classes of one group may be taken for each other.

    TP are the pixels of scored classes of a group predicted as one of them; FN the other pixels of these classes; FP
    the pixels of classes outside the group predicted as one of its scored classes (rule of the Cityscapes scorer).

    >>> from vidapt.labels import CITYSCAPES
    >>> target, predicted = np.array([[0, 0, 1, 10, 11, 11]], np.uint8), np.array([[1, 0, 0, 10, 11, 10]], np.uint8)
    >>> scores = category_scores(confusion_matrix(target, predicted, 19), ScoredClasses.of(CITYSCAPES))
    >>> {name: scores.iou[name] for name in scores.averaged}
    {'flat': 1.0, 'sky': 0.5, 'human': 0.5}

    Args:
        confusion: int64 (C, C+1) as ``confusion_matrix`` returns it.
        scored: Classes that the protocol scores.

    Raises:
        UserError: If no class of the space has a group.
    """
    iou = {}
    for category in categories_of(scored):
        ids = list(category.scored)
        hits = int(confusion[np.ix_(ids, ids)].sum())
        union = int(confusion[ids].sum() + confusion[np.ix_(category.others, ids)].sum())
        iou[category.name] = hits / union if union else float("nan")
    return CategoryScores.of(iou)


class SemanticConfusion:
    """Sums the confusion of frames; the state is one int64 matrix (C, C+1).

    >>> confusion = SemanticConfusion(classes=2)
    >>> for _ in range(2):
    ...     confusion.update(np.array([0, 0, 1, 255], np.uint8), np.array([0, 1, 1, 0], np.uint8))
    >>> confusion.iou().tolist()
    [0.5, 0.5]
    """

    def __init__(self, classes: int) -> None:
        self.confusion = np.zeros((classes, classes + 1), np.int64)

    def update(self, target: NDArray[Any], predicted: NDArray[Any], counts: NDArray[np.int64] | None = None) -> None:
        """Add one frame (or its runs, see ``compress_runs``); arguments as in ``confusion_matrix``."""
        self.confusion += confusion_matrix(target, predicted, len(self.confusion), counts)

    def merge(self, other: SemanticConfusion) -> None:
        """Add what another process has counted."""
        self.confusion += other.confusion

    def iou(self) -> NDArray[np.float64]:
        """float64 (C,) intersection over union, NaN where undefined."""
        return iou_per_class(self.confusion)
