"""Patch contrast (PiPa): a place looks alike in two overlapping crops of one frame, whatever surrounds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vidapt.adaptation.cells import at_cells, best_classes, mean_over_clips, rows_at
from vidapt.clip import IGNORE
from vidapt.config_method import PatchContrastConfig
from vidapt.kernels.contrast import paired_contrast
from vidapt.models.grid import STRIDE, Size

TRIES = 50
"""Pairs of windows that are drawn before identical ones are taken (PiPa's sampler)."""

Corner = tuple[int, int]
"""Top and left of a window in pixels."""


@dataclass(frozen=True)
class PatchWindows:
    """Two windows of equal size per clip, the same on all of its frames.

    Attributes:
        first: Corner of the first window of each clip.
        second: Corner of the second window of each clip.
        size: Height and width of all windows in pixels.
        stride: Pixels per cell of the feature maps; corners and size are multiples of it.
    """

    first: tuple[Corner, ...]
    second: tuple[Corner, ...]
    size: Size
    stride: int = STRIDE


def draw_windows(
    size: Size, config: PatchContrastConfig, rngs: Sequence[np.random.Generator], *, stride: int = STRIDE
) -> PatchWindows:
    """Draw two windows for each clip until they overlap enough; after 50 pairs the second becomes the first.

    Args:
        size: Height and width of the frames in pixels.
        config: Size of the windows relative to the frame, and their smallest overlap (IoU).
        rngs: One per clip.
        stride: Pixels per cell of the feature maps that are compared; windows lie on this grid.

    Raises:
        ValueError: If a frame is smaller than a cell.
    """
    if min(size) < stride:
        raise ValueError(f"frames of {size[0]}x{size[1]} pixels are smaller than a cell of {stride}: give larger ones")
    # 0.29 * 100 is 28.999999999999996
    height, width = (max(1, math.floor(config.crop * length / stride + 1e-9)) * stride for length in size)
    room = ((size[0] - height) // stride, (size[1] - width) // stride)
    pairs = [_draw_pair(rng, room, (height // stride, width // stride), config.min_overlap) for rng in rngs]
    first, second = ([(top * stride, left * stride) for top, left in corners] for corners in zip(*pairs, strict=True))
    return PatchWindows(tuple(first), tuple(second), (height, width), stride)


def cut_views(frames: Tensor, windows: PatchWindows) -> tuple[Tensor, Tensor]:
    """Cut both windows out of all frames: (B,T,...,H,W) of any type to two (B,T,...,h,w)."""
    return _cut(frames, windows.first, windows.size), _cut(frames, windows.second, windows.size)


def patch_contrast(
    first: Tensor,
    second: Tensor,
    windows: PatchWindows,
    *,
    logits_first: Tensor,
    logits_second: Tensor,
    config: PatchContrastConfig,
    generators: Sequence[torch.Generator],
    ignored: Tensor | None = None,
) -> Tensor:
    """Pull each place towards the view of it that is more certain, and push it from places of other classes.

    Both directions count. A place of one view is followed by the other only where its confidence exceeds
    ``config.confidence`` and that of the other view (CAC, Lai et al. 2021); it gets no gradient. Negatives of an
    anchor are the drawn places of the followed view, and places that only one view shows, from both views, wherever
    the pseudo-class differs from the anchor's. Confidence and pseudo-class are those of the trained classifier.

    Args:
        first: (B,T,D,h,w) projected student features of the first windows, not normalised.
        second: (B,T,D,h,w) of the second windows.
        windows: Where they were cut; ``windows.size`` is (h,w) times ``windows.stride``.
        logits_first: (B,T,C,h',w') of the student's classifier on the first windows; no gradient.
        logits_second: (B,T,C,h',w') on the second windows.
        config: Temperature, confidence, and the number of places drawn in the overlap of each frame; as many are
            drawn outside of it, half of them in each view.
        generators: One per clip, on the features' device.
        ignored: bool (B,T,H,W) of the whole frames, True where places neither count nor serve as negatives.

    Returns:
        Mean over the clips of the mean over the places that count in either direction, a scalar of at least float32;
        0 for a clip without such places.

    Raises:
        ValueError: If the features are not on the windows' grid.
    """
    grid = (first.shape[-2], first.shape[-1])
    if grid != tuple(length // windows.stride for length in windows.size):
        raise ValueError(
            f"features of {grid[0]}x{grid[1]} cells do not fit windows of {windows.size[0]}x{windows.size[1]} pixels "
            f"with {windows.stride} pixels per cell: pass the features' stride to draw_windows"
        )
    covered = (None, None) if ignored is None else cut_views(ignored, windows)
    one, two = _view(first, logits_first, covered[0]), _view(second, logits_second, covered[1])
    shift = _corners(windows.first, first.device) - _corners(windows.second, first.device)
    shift = shift // windows.stride
    shown_by_two, shown_by_one = _overlap(shift, grid), _overlap(-shift, grid)
    size = (3, first.shape[1], grid[0] * grid[1])
    noise = torch.stack([torch.rand(size, generator=generator, device=first.device) for generator in generators])
    place, valid = _draw(noise[:, 0], shown_by_two, config.total)
    moved = torch.where(valid, place + (shift[:, :1] * grid[1] + shift[:, 1:])[..., None], 0)
    here, there = one.at(place, valid), two.at(moved, valid)
    half = max(1, config.total // 2)
    rest = (one.at(*_draw(noise[:, 1], ~shown_by_two, half)), two.at(*_draw(noise[:, 2], ~shown_by_one, half)))
    losses, counted = zip(_followed(here, there, rest, config), _followed(there, here, rest, config), strict=True)
    return mean_over_clips(torch.cat(losses, 1), torch.cat(counted, 1))


@dataclass(frozen=True)
class _Places:
    """N places of each frame of a view.

    Attributes:
        rows: (B,T,N,D) features.
        category: uint8 (B,T,N) pseudo-classes, 255 where a place takes no part.
        confidence: float32 (B,T,N).
    """

    rows: Tensor
    category: Tensor
    confidence: Tensor

    def at(self, place: Tensor, valid: Tensor) -> _Places:
        """The places (B,T,M) among these; those that are not valid take no part."""
        category = torch.where(valid, self.category.gather(2, place), IGNORE)
        return _Places(rows_at(self.rows, place), category, self.confidence.gather(2, place))


def _view(embedding: Tensor, logits: Tensor, ignored: Tensor | None) -> _Places:
    """All cells of one view."""
    grid = (embedding.shape[-2], embedding.shape[-1])
    best, classes = best_classes(logits.detach().float().softmax(2))
    confidence, category = at_cells(best, grid), at_cells(classes, grid)
    if ignored is not None:
        category = category.masked_fill(at_cells(ignored, grid), IGNORE)
    return _Places(rearrange(embedding, "b t d h w -> b t (h w) d"), category.flatten(2), confidence.flatten(2))


def _followed(
    anchor: _Places, target: _Places, rest: Sequence[_Places], config: PatchContrastConfig
) -> tuple[Tensor, Tensor]:
    """Losses (B,T,N) of the anchors that follow the same places of the other view, and which of them count."""
    surer = (target.confidence > config.confidence) & (target.confidence > anchor.confidence)
    counted = surer & (anchor.category != IGNORE)
    keys = (target, *rest)
    losses = paired_contrast(
        anchor.rows.flatten(0, 1),
        torch.cat([places.rows for places in keys], 2).flatten(0, 1),
        torch.arange(counted.shape[2], device=counted.device).expand_as(counted).flatten(0, 1),
        temperature=config.temperature,
        query_label=anchor.category.flatten(0, 1),
        key_label=torch.cat([places.category for places in keys], 2).flatten(0, 1),
        negatives="different_label",
        gate=counted.flatten(0, 1),
        key_grad=False,
        normalize=True,
        reduction="none",
    )
    return losses.view(counted.shape), counted


def _draw_pair(rng: np.random.Generator, room: Size, window: Size, min_overlap: float) -> tuple[Corner, Corner]:
    """Two corners in cells, up to ``room`` below and right of the frame's own."""
    for _ in range(TRIES):
        first, second = ((int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))) for _ in range(2))
        shared = math.prod(max(0, side - abs(a - b)) for a, b, side in zip(first, second, window, strict=True))
        if shared >= min_overlap * (2 * math.prod(window) - shared):
            return first, second
    return first, first


def _cut(frames: Tensor, corners: Sequence[Corner], size: Size) -> Tensor:
    height, width = size
    cut = (
        clip[..., top : top + height, left : left + width] for clip, (top, left) in zip(frames, corners, strict=True)
    )
    return torch.stack(list(cut))


def _corners(corners: Sequence[Corner], device: torch.device) -> Tensor:
    """int64 (B,2)."""
    return torch.tensor(corners, dtype=torch.int64).to(device, non_blocking=True)


def _overlap(shift: Tensor, grid: Size) -> Tensor:
    """bool (B,h·w): cells that stay inside the grid when they move down and right by ``shift`` (B,2)."""
    down, right = (
        (moved >= 0) & (moved < length)
        for length, moved in (
            (length, torch.arange(length, device=shift.device) + step[:, None])
            for length, step in zip(grid, shift.unbind(1), strict=True)
        )
    )
    return (down[:, :, None] & right[:, None]).flatten(1)


def _draw(noise: Tensor, allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to ``count`` places (B,T,N) of least noise (B,T,L) among the allowed (B,L), and which of them are allowed."""
    least = noise.masked_fill(~allowed[:, None], 2.0).topk(min(count, noise.shape[2]), largest=False)
    return least.indices, least.values < 2.0
