"""What became of predicted instances, image by image: the state of the average precisions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from vidapt.errors import UserError
from vidapt.evaluation.instance_overlaps import InstanceOverlaps, check_categories
from vidapt.evaluation.semantic import ScoredClasses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace

IGNORED, HIT, WRONG = range(3)
"""Outcomes of a prediction: neither right nor wrong, true positive, false positive."""


@dataclass(frozen=True)
class ImageMatches:
    """Outcomes of the predictions of one image, or of many images one after the other.

    Attributes:
        category: int64 (K,) train id of each prediction.
        score: float64 (K,) confidence.
        rank: int64 (K,) position among the image's predictions of the class, 0 = highest score.
        outcome: int8 (...,K) ``IGNORED``, ``HIT`` or ``WRONG`` for each setting of the metric.
        targets: int64 (...,C) target instances to be found, by class.
    """

    category: NDArray[np.int64]
    score: NDArray[np.float64]
    rank: NDArray[np.int64]
    outcome: NDArray[np.int8]
    targets: NDArray[np.int64]

    @staticmethod
    def join(images: Sequence[ImageMatches]) -> ImageMatches:
        """Concatenate the predictions and add up the targets of at least one image."""
        category, score, rank = (
            np.concatenate([getattr(image, name) for image in images]) for name in ("category", "score", "rank")
        )
        outcome = np.concatenate([image.outcome for image in images], axis=-1)
        return ImageMatches(category, score, rank, outcome, np.sum([image.targets for image in images], axis=0))


def rank_by_score(category: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Position of each prediction among those of its class, highest score first, ties in the given order.

    >>> rank_by_score(np.array([3, 3, 8, 3]), np.array([0.5, 0.9, 0.1, 0.5])).tolist()
    [1, 0, 0, 2]
    """
    order = np.lexsort((-score, category))
    _, first, size = np.unique(category[order], return_index=True, return_counts=True)
    rank = np.empty(category.size, np.int64)
    rank[order] = np.arange(category.size) - np.repeat(first, size)
    return rank


def count_by_class(category: NDArray[np.int64], counted: NDArray[np.bool_], classes: int) -> NDArray[np.int64]:
    """int64 (...,C) number of targets of each class where ``counted`` (...,G) is True."""
    return counted.astype(np.int64) @ (category[:, None] == np.arange(classes)).astype(np.int64)


class InstanceAccumulator(ABC):
    """Matches instances image by image and keeps the outcomes: a few bytes for each prediction.

    Args:
        space: Label space of target and predictions.
        scored_classes: Names or train ids that the protocol scores; their things are averaged. None for all.

    Raises:
        UserError: If a class is not in the space, or no thing is among them.
    """

    def __init__(self, space: LabelSpace, scored_classes: Sequence[str | int] | None = None) -> None:
        scored = ScoredClasses.of(space, scored_classes)
        if not scored.things:
            raise UserError(
                f"average precision is for things, and {', '.join(scored.names(scored.ids))} are none; "
                f"the things of {space.name!r} are {', '.join(scored.names(space.things)) or 'none'}"
            )
        self.scored = ScoredClasses(space, scored.things)
        self._images: dict[str | int, ImageMatches] = {}

    def __len__(self) -> int:
        return len(self._images)

    def update(self, image: str | int, overlaps: InstanceOverlaps) -> None:
        """Add one image; predictions that are no things have no effect.

        Args:
            image: Name or number of the image. The images are joined in its order, whatever order and process they
                come from, so that equal scores in different images always rank alike (COCOeval joins them by image id).
            overlaps: Its predicted against its target instances.

        Raises:
            UserError: If the image was added before, or a train id is not in the label space.
        """
        self._refuse_known([image])
        for ids in (overlaps.category, overlaps.target_category):
            check_categories(ids, self.scored.space)
        self._images[image] = self._match(overlaps)

    def merge(self, other: Self) -> None:
        """Add the images of another process; the result is that of one process to the last bit.

        Raises:
            UserError: If the two score differently, or have an image in common.
        """
        if self._settings() != other._settings():
            raise UserError("average precisions of different settings cannot be merged; give both the same arguments")
        self._refuse_known(other._images)
        self._images |= other._images

    def _refuse_known(self, images: Iterable[str | int]) -> None:
        known = [image for image in images if image in self._images]
        if known:
            raise UserError(f"image {known[0]!r} has been added before; add each image once, under a name of its own")

    def _settings(self) -> tuple[object, ...]:
        return (type(self), self.scored)

    @abstractmethod
    def _match(self, overlaps: InstanceOverlaps) -> ImageMatches:
        """Decide what becomes of the predictions of one image."""

    def _joined(self) -> ImageMatches:
        """Outcomes of all images in their order."""
        order = sorted(self._images, key=lambda image: (isinstance(image, str), image))
        return ImageMatches.join([self._match(InstanceOverlaps.nothing()), *(self._images[image] for image in order)])

    def _averaged(self, classes: Sequence[str | int] | None) -> tuple[int, ...]:
        """Train ids to average; ``ScoredClasses.mean`` refuses those that the protocol leaves out."""
        return self.scored.ids if classes is None else ScoredClasses.of(self.scored.space, classes).ids
