"""The cosine from which two embeddings count as the same object, measured on labelled source clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vidapt.tracking.associate import cosines, normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_PAIRS = 20
"""Fewer pairs of one kind give no threshold."""

MIN_SEPARATION = 1.0
"""Smallest distance of the two means in pooled standard deviations; below it embeddings confuse objects."""


@dataclass(frozen=True)
class CosineMoments:
    """Count, sum and sum of squares of cosines; moments add up over clips and processes."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @staticmethod
    def of(values: NDArray[np.floating]) -> CosineMoments:
        """The moments of an array; values that are not finite do not count."""
        values = np.asarray(values, np.float64).ravel()
        values = values[np.isfinite(values)]
        return CosineMoments(len(values), float(values.sum()), float(np.square(values).sum()))

    def __add__(self, other: CosineMoments) -> CosineMoments:
        return CosineMoments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """Mean cosine, 0 without values."""
        return self.total / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Population variance, 0 without values."""
        return max(self.squares / self.count - self.mean**2, 0.0) if self.count else 0.0


def calibrate_threshold(same: NDArray[np.floating], other: NDArray[np.floating]) -> float | None:
    """Midpoint between the mean cosine of same-instance pairs and that of other-instance pairs.

    Args:
        same: Cosines of pairs that show one object.
        other: Cosines of pairs that show two objects.

    Returns:
        The threshold, or None (appearance off) with fewer than 20 pairs of a kind or if the means lie less than one
        pooled standard deviation apart.
    """
    return threshold_from_moments(CosineMoments.of(same), CosineMoments.of(other))


def threshold_from_moments(same: CosineMoments, other: CosineMoments) -> float | None:
    """``calibrate_threshold`` for pairs that were already summed up."""
    if min(same.count, other.count) < MIN_PAIRS:
        return None
    pooled = (same.count * same.variance + other.count * other.variance) / (same.count + other.count)
    gap = same.mean - other.mean
    if gap <= 1e-6 or gap < MIN_SEPARATION * np.sqrt(pooled):
        return None
    return (same.mean + other.mean) / 2


class CosinePairs:
    """Collects cosines between consecutive frames of clips whose instances carry ground-truth track ids.

    Memory does not grow with the number of frames: only moments and the latest frame are kept.
    """

    def __init__(self) -> None:
        self.same = CosineMoments()
        self.other = CosineMoments()
        self._previous: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None

    def start_clip(self) -> None:
        """Say that the next frame does not follow the one before."""
        self._previous = None

    def add(self, embeddings: NDArray[np.float32], ids: NDArray[np.integer]) -> None:
        """Pair the instances of the next frame with those of the frame before.

        Args:
            embeddings: float32 (K,D) of any length; zero rows do not count.
            ids: (K,) ground-truth track ids; entries up to 0 do not count.

        Raises:
            ValueError: If the lengths differ.
        """
        if embeddings.ndim != 2 or ids.shape != embeddings.shape[:1]:
            raise ValueError(f"embeddings must be (K,D) and ids (K,), got {embeddings.shape} and {ids.shape}")
        current = normalise(embeddings[ids > 0]), ids[ids > 0].astype(np.int64)
        if self._previous is not None and len(current[1]) and len(self._previous[1]):
            cosine = cosines(self._previous[0], current[0])
            equal = self._previous[1][:, None] == current[1][None]
            self.same += CosineMoments.of(cosine[equal])
            self.other += CosineMoments.of(cosine[~equal])
        self._previous = current

    def threshold(self) -> float | None:
        """The calibrated threshold so far, or None where appearance should stay off."""
        return threshold_from_moments(self.same, self.other)
