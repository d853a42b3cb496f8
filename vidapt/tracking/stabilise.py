"""Temporal smoothing of class probabilities, and the scene cuts at which it starts anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vidapt.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

BINS = 8
"""Histogram bins per colour channel."""

SAMPLES = 96
"""At most this many rows and columns of a frame enter its histogram."""


def smooth(previous: Tensor, current: Tensor, alpha: float) -> Tensor:
    """Mean alpha · previous + (1 - alpha) · current of two probability maps, in the dtype of ``current``."""
    return torch.lerp(current, previous.to(current), alpha)


def colour_histogram(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of the pixels in each of 8×8×8 colour bins: float32 (512,), sum 1.

    Args:
        frame: uint8 (H,W,3) RGB; about 96×96 evenly spaced pixels are read.
    """
    height, width = frame.shape[:2]
    small = frame[:: max(1, height // SAMPLES), :: max(1, width // SAMPLES)] // (256 // BINS)
    index = (small[..., 0].astype(np.intp) * BINS + small[..., 1]) * BINS + small[..., 2]
    return (np.bincount(index.ravel(), minlength=BINS**3) / max(index.size, 1)).astype(np.float32)


def histogram_distance(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Half the absolute difference of two histograms: 0 (equal) to 1 (no colour in common)."""
    return float(np.abs(left - right).sum() / 2)


class Stabiliser:
    """Smooths the class probabilities of a video; the state is one half-precision map and one histogram.

    Args:
        alpha: Weight of the past in 0..1 (1 excluded); 0 switches smoothing off, scene cuts are found all the same.
        cut_distance: Histogram distance between frames from which they belong to different scenes.

    Raises:
        ConfigError: If ``alpha`` is out of range.
    """

    def __init__(self, alpha: float = 0.5, cut_distance: float = 0.5) -> None:
        if not 0 <= alpha < 1:
            raise ConfigError(f"smoothing must lie in 0..1 with 1 excluded, got {alpha}")
        self.alpha = alpha
        self.cut_distance = cut_distance
        self._previous: Tensor | None = None
        self._histogram: NDArray[np.float32] | None = None

    def reset(self) -> None:
        """Forget the past: the next frame starts a new video."""
        self._previous = None
        self._histogram = None

    def update(self, probabilities: Tensor, frame: NDArray[np.uint8], *, frame_gap: int = 1) -> tuple[Tensor, bool]:
        """Smooth the probabilities of the next frame.

        Args:
            probabilities: Floating (C,h,w).
            frame: uint8 (H,W,3) RGB, the frame itself.
            frame_gap: Frames since the previous update; the past loses weight over a hole.

        Returns:
            The smoothed probabilities (C,h,w) and whether a new scene starts with this frame.
        """
        histogram = colour_histogram(frame)
        cut = self._histogram is not None and histogram_distance(self._histogram, histogram) > self.cut_distance
        self._histogram = histogram
        if self.alpha == 0:
            return probabilities, cut
        previous = self._previous
        if not cut and previous is not None and previous.shape == probabilities.shape:
            probabilities = smooth(previous, probabilities, self.alpha**frame_gap)
        self._previous = probabilities.detach().half()
        return probabilities, cut

    def state_dict(self) -> dict[str, NDArray]:
        """The state as plain arrays; an array is empty where there is no past."""
        map_ = np.zeros((0, 0, 0), np.float16) if self._previous is None else self._previous.cpu().numpy().copy()
        histogram = np.zeros(0, np.float32) if self._histogram is None else self._histogram.copy()
        return {"probabilities": map_, "histogram": histogram}

    def load_state_dict(self, state: Mapping[str, NDArray]) -> None:
        """Take over a state that ``state_dict`` gave.

        Raises:
            CheckpointError: If it lacks an array.
        """
        if not {"probabilities", "histogram"} <= set(state):
            raise CheckpointError("stabiliser state needs 'probabilities' and 'histogram'; another version wrote it")
        map_, histogram = np.array(state["probabilities"], np.float16), np.array(state["histogram"], np.float32)
        self._previous = torch.from_numpy(map_) if map_.size else None
        self._histogram = histogram if histogram.size else None
