"""Temporal smoothing of class probabilities, and the scene cuts at which it starts anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.errors import CheckpointError, ConfigError
from vidapt.flow import checked_dis_flow, sampling_grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

BINS = 8
"""Histogram bins per colour channel."""

SAMPLES = 96
"""At most this many rows and columns of a frame enter its histogram."""

FLOW_SIDE = 512
"""Pixels of the longer side of the picture that optical flow is computed on; smaller frames stay as they are."""


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


def flow_picture(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey picture of a frame uint8 (H,W,3), at most ``FLOW_SIDE`` pixels long, for optical flow."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = FLOW_SIDE / max(grey.shape)
    if scale >= 1:
        return grey.astype(np.uint8, copy=False)
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def fetch_along(maps: Tensor, picture: NDArray[np.uint8], other: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Bring maps of another frame onto this one along the optical flow.

    Args:
        maps: float (C,h,w) of the other frame.
        picture: uint8 (H,W) grey picture of this frame.
        other: uint8 (H,W) of the other frame.

    Returns:
        (C,h,w), and bool (h,w), where the flow there and back agree; elsewhere the maps mean nothing.
    """
    grid, valid = (
        torch.from_numpy(part).to(maps.device, non_blocking=True)
        for part in sampling_grid(*checked_dis_flow(picture, other), (maps.shape[-2], maps.shape[-1]))
    )
    fetched = F.grid_sample(maps[None], grid[None].to(maps), padding_mode="border", align_corners=False)[0]
    return fetched, valid


class Stabiliser:
    """Smooths the maps of a video; the state is one half-precision map, one histogram and one small picture.

    Args:
        alpha: Weight of the past in 0..1 (1 excluded); 0 switches smoothing off, scene cuts are found all the same.
        cut_distance: Histogram distance between frames from which they belong to different scenes.
        warp: The past follows the optical flow; where that is uncertain, as where something comes into sight, it does
            not count. Else it stays at its pixel.

    Raises:
        ConfigError: If ``alpha`` is out of range.
    """

    def __init__(self, alpha: float = 0.5, cut_distance: float = 0.5, *, warp: bool = False) -> None:
        if not 0 <= alpha < 1:
            raise ConfigError(f"smoothing must lie in 0..1 with 1 excluded, got {alpha}")
        self.alpha = alpha
        self.cut_distance = cut_distance
        self.warp = warp
        self._picture: NDArray[np.uint8] | None = None
        self._previous: Tensor | None = None
        self._histogram: NDArray[np.float32] | None = None

    def reset(self) -> None:
        """Forget the past: the next frame starts a new video."""
        self._previous = None
        self._picture = None
        self._histogram = None

    def update(self, probabilities: Tensor, frame: NDArray[np.uint8], *, frame_gap: int = 1) -> tuple[Tensor, bool]:
        """Smooth the maps of the next frame.

        Args:
            probabilities: Floating (C,h,w): class probabilities, and whatever else shall be smoothed with them.
            frame: uint8 (H,W,3) RGB, the frame itself.
            frame_gap: Frames since the previous update; the past loses weight over a hole.

        Returns:
            The smoothed maps (C,h,w) and whether a new scene starts with this frame.
        """
        histogram = colour_histogram(frame)
        cut = self._histogram is not None and histogram_distance(self._histogram, histogram) > self.cut_distance
        self._histogram = histogram
        if self.alpha == 0:
            return probabilities, cut
        previous, before = self._previous, self._picture
        self._picture = flow_picture(frame) if self.warp else None
        if not cut and previous is not None and previous.shape == probabilities.shape:
            weight = self.alpha**frame_gap
            if self._picture is None:
                probabilities = smooth(previous, probabilities, weight)
            elif before is not None and before.shape == self._picture.shape:
                moved, valid = fetch_along(previous.to(probabilities), self._picture, before)
                probabilities = torch.where(valid, smooth(moved, probabilities, weight), probabilities)
        self._previous = probabilities.detach().half()
        return probabilities, cut

    def state_dict(self) -> dict[str, NDArray]:
        """The state as plain arrays; an array is empty where there is no past."""
        map_ = np.zeros((0, 0, 0), np.float16) if self._previous is None else self._previous.cpu().numpy().copy()
        histogram = np.zeros(0, np.float32) if self._histogram is None else self._histogram.copy()
        picture = np.zeros((0, 0), np.uint8) if self._picture is None else self._picture.copy()
        return {"probabilities": map_, "histogram": histogram, "picture": picture}

    def load_state_dict(self, state: Mapping[str, NDArray]) -> None:
        """Take over a state that ``state_dict`` gave.

        Raises:
            CheckpointError: If it lacks an array.
        """
        if missing := {"probabilities", "histogram", "picture"} - set(state):
            raise CheckpointError(f"stabiliser state lacks {', '.join(sorted(missing))}; another version wrote it")
        map_, histogram = np.array(state["probabilities"], np.float16), np.array(state["histogram"], np.float32)
        self._previous = torch.from_numpy(map_) if map_.size else None
        self._histogram = histogram if histogram.size else None
        picture = np.array(state["picture"], np.uint8)
        self._picture = picture if picture.size else None
