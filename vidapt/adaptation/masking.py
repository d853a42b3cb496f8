"""Masked image consistency (MIC): blocks of a clip that the student does not see, the same on all of its frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidapt.config_method import MaskedConsistencyConfig
from vidapt.models.network import IMAGENET_MEAN

HIDDEN = tuple(round(255 * value) for value in IMAGENET_MEAN)
"""RGB of hidden pixels, 0 up to rounding once the network has normalised it."""


def mask_blocks(frames: Tensor, config: MaskedConsistencyConfig, rngs: Sequence[np.random.Generator]) -> Tensor:
    """Hide blocks of each clip behind the mean colour of ImageNet (MIC, equations 5 and 6).

    One mask holds for all frames of a clip, so that what is hidden cannot be copied from a neighbouring frame. Unlike
    MIC, a clip always keeps a block, because nothing can be learnt from one that is hidden whole.

    Args:
        frames: uint8 (B,T,3,H,W) RGB.
        config: Share and side of the hidden blocks.
        rngs: Generator of each clip.

    Returns:
        uint8 (B,T,3,H,W), a new tensor.
    """
    height, width = frames.shape[-2:]
    grid = (block_count(height, config.block), block_count(width, config.block))
    drawn = np.stack([visible_blocks(grid, config.ratio, rng) for rng in rngs])
    rows, columns = (
        torch.arange(pixels, device=frames.device) * blocks // pixels
        for pixels, blocks in zip((height, width), grid, strict=True)
    )
    visible = torch.from_numpy(drawn).to(frames.device, non_blocking=True)[:, rows[:, None], columns]
    hidden = torch.tensor(HIDDEN, dtype=torch.uint8).to(frames.device, non_blocking=True).view(3, 1, 1)
    return torch.where(visible[:, None, None], frames, hidden)


def block_count(pixels: int, block: int) -> int:
    """Blocks along a side of ``pixels``: the nearest whole number, at least 1; they share the side evenly."""
    return max(1, round(pixels / block))


def visible_blocks(grid: tuple[int, int], ratio: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw which blocks of a grid (rows, columns) stay visible: each with probability 1 - ratio, and at least one.

    Returns:
        bool (rows, columns).
    """
    noise = rng.random(grid)
    return noise >= min(ratio, noise.max())
