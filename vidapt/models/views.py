"""Where the context view and the detail windows of a multi-resolution network lie on its frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vidapt.config_model import MultiResolutionConfig
from vidapt.errors import ConfigError
from vidapt.models.grid import STRIDE, Size, cells


@dataclass(frozen=True)
class Window:
    """A rectangle of a frame, in pixels; it may reach beyond the frame by less than ``Views.grain``."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, maps: Tensor, stride: int = 1) -> Tensor:
        """The part of maps (...,h,w) with ``stride`` pixels per cell that lies in the window and on the frame."""
        rows = slice(self.top // stride, (self.top + self.height) // stride)
        return maps[..., rows, self.left // stride : (self.left + self.width) // stride]


@dataclass(frozen=True)
class Views:
    """Where the two views of frames of one size lie; see ``plan_views``.

    Frames are continued (border pixels repeated) to a multiple of ``grain``, so that every window starts and ends with
    a cell of both views.

    Attributes:
        size: H and W of the frames.
        shrink: Pixels of the frame per pixel of the context view, a power of two.
        detail: Height and width of every detail window, multiples of ``grain``.
        step: Rows and columns from one window to the next where windows slide over the frame, multiples of ``grain``.
    """

    size: Size
    shrink: int
    detail: Size
    step: Size

    @property
    def grain(self) -> int:
        """Pixels per stride-4 cell of the context view (8 at half size, as in HRDA): where windows may start."""
        return STRIDE * self.shrink

    @property
    def padded(self) -> Size:
        """Height and width of the continued frames."""
        return _round_up(self.size[0], self.grain), _round_up(self.size[1], self.grain)

    @property
    def grid(self) -> Size:
        """Stride-4 cells of a frame."""
        return cells(self.size[0]), cells(self.size[1])

    def pad(self, frames: Tensor) -> Tensor:
        """Continue frames (N,3,H,W) at the bottom and right."""
        missing = (self.padded[1] - self.size[1], self.padded[0] - self.size[0])
        return F.pad(frames, (0, missing[0], 0, missing[1]), mode="replicate") if any(missing) else frames

    def context(self, padded: Tensor) -> Tensor:
        """The context view of padded frames: the mean of ``shrink`` × ``shrink`` pixels (bilinear at half size)."""
        return F.avg_pool2d(padded, self.shrink) if self.shrink > 1 else padded

    def center(self) -> Window:
        """The detail window nearest to the middle of the frame."""
        top, left = ((last // self.grain + 1) // 2 * self.grain for last in self._last())
        return Window(top, left, *self.detail)

    def draw(self, rng: np.random.Generator) -> Window:
        """A random detail window; all places are equally likely."""
        top, left = (int(rng.integers(last // self.grain + 1)) * self.grain for last in self._last())
        return Window(top, left, *self.detail)

    def sliding(self) -> list[Window]:
        """Detail windows that cover the padded frame, row by row; the last of a row or column is moved inside."""
        tops, lefts = (
            [min(start, last) for start in range(0, last + step, step)]
            for last, step in zip(self._last(), self.step, strict=True)
        )
        return [Window(top, left, *self.detail) for top in tops for left in lefts]

    def check(self, window: Window) -> None:
        """Raise ValueError unless ``window`` starts and ends with a cell of both views and lies on the padded frame."""
        numbers = (window.top, window.left, window.height, window.width)
        bottom, right = window.top + window.height, window.left + window.width
        fits = min(numbers) >= 0 < min(numbers[2:]) and bottom <= self.padded[0] and right <= self.padded[1]
        if not fits or any(number % self.grain for number in numbers):
            raise ValueError(
                f"{window} does not fit frames of {self.size[0]}x{self.size[1]}: its numbers must be multiples of "
                f"{self.grain} within {self.padded[0]}x{self.padded[1]}; take one from draw_window"
            )

    def _last(self) -> Size:
        """Last row and column where a detail window may start."""
        return self.padded[0] - self.detail[0], self.padded[1] - self.detail[1]


def shrink_factor(config: MultiResolutionConfig) -> int:
    """Pixels of the frame per pixel of the context view.

    Raises:
        ConfigError: If it is no power of two: then the cells of the two views would not fall onto each other.
    """
    factor = round(1 / config.context_scale)
    if 1 / factor != config.context_scale or factor & (factor - 1):
        raise ConfigError(
            f"model.multi_resolution.context_scale must be 1, 0.5, 0.25 or a further half of it, got "
            f"{config.context_scale}; take 0.5"
        )
    return factor


def plan_views(config: MultiResolutionConfig, size: Size) -> Views:
    """Lay out the views of frames of ``size``; detail windows are rounded up to the grain and at most the frame."""
    shrink = shrink_factor(config)
    grain = STRIDE * shrink
    wanted = config.detail or (-(-size[0] // 2), -(-size[1] // 2))
    height, width = (_round_up(min(pixels), grain) for pixels in zip(wanted, size, strict=True))
    rows, columns = (max(grain, int(length * (1 - config.overlap)) // grain * grain) for length in (height, width))
    return Views(size, shrink, (height, width), (rows, columns))


def _round_up(pixels: int, grain: int) -> int:
    return cells(pixels, grain) * grain
