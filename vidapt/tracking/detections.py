"""What goes into the tracker and what comes out of it, for one frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FusedFrame(Protocol):
    """The part of a fused frame that tracking reads."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 (h,w): 0 = none, k + 1 = detection k."""

    @property
    def classes(self) -> NDArray[np.float32]:
        """float32 (K,C) class probabilities."""

    @property
    def categories(self) -> NDArray[np.int64]:
        """int64 (K,) train ids."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """float32 (K,)."""

    @property
    def embeddings(self) -> NDArray[np.float32] | None:
        """float32 (K,D) or None."""


@dataclass(frozen=True)
class Detections:
    """K things of one frame, painted into one label map.

    Attributes:
        labels: int32 (h,w): 0 = none, k + 1 = detection k; every frame of a video has the same size.
        classes: float32 (K,C), what each detection adds to its track's class vote: probabilities, or one-hot rows.
        scores: float32 (K,) in 0..1.
        embeddings: float32 (K,D) appearance vectors of any length, or None.
    """

    labels: NDArray[np.int32]
    classes: NDArray[np.float32]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def from_fused(fused: FusedFrame) -> Detections:
        """Take the detections of a fused frame, each with one vote for its class."""
        votes = np.zeros(fused.classes.shape, np.float32)
        votes[np.arange(len(fused.scores)), fused.categories] = 1
        return Detections(fused.labels, votes, fused.scores, fused.embeddings)


@dataclass(frozen=True)
class TrackedFrame:
    """What the tracker says of the K detections of one frame.

    Attributes:
        ids: int32 (K,) track ids; 0 = not emitted: no track continues and the score is below the birth score.
        categories: int64 (K,) class by the vote of the track so far; of the detection alone where ``ids`` is 0.
        scores: float32 (K,) scores of the detections.
        hits: int32 (K,) detections of the track so far, 0 where ``ids`` is 0.
        ages: int32 (K,) frames since the birth of the track, this one included, 0 where ``ids`` is 0.
        agreement: float32 (K,) share of the votes that the winning class has, 0 where ``ids`` is 0.
    """

    ids: NDArray[np.int32]
    categories: NDArray[np.int64]
    scores: NDArray[np.float32]
    hits: NDArray[np.int32]
    ages: NDArray[np.int32]
    agreement: NDArray[np.float32]
