"""Projection head and mask pooling: one embedding per place for contrast, one per instance for the tracker."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidapt.config import ProjectionConfig
from vidapt.models.grid import cell_factor

_MASKS_AT_ONCE = 16


class ProjectionHead(nn.Sequential):
    """Two 1×1 convolutions with a ReLU between them; the output is not normalised (the losses do that).

    Args:
        config: Hidden and output width.
        channels: Channels of the semantic head's fused map.
    """

    def __init__(self, config: ProjectionConfig, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, config.hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(config.hidden, config.dim, 1)
        )


def pool_masks(embedding: Tensor, masks: Tensor) -> Tensor:
    """Mean embedding under each mask, L2-normalised.

    Masks are downsampled by area, so a mask smaller than a cell still weighs the cell it lies in.

    Args:
        embedding: (D,h,w) map of one frame.
        masks: bool (K,H,W) on the frame's own grid or on any other grid over the same frame.

    Returns:
        float32 (K,D); zeros for an empty mask.
    """
    flat = embedding.float().flatten(1).T
    with torch.autocast(embedding.device.type, enabled=False):
        sums = [_area(part, embedding.shape[1:]).flatten(1) @ flat for part in masks.split(_MASKS_AT_ONCE)]
    return F.normalize(torch.cat(sums) if sums else flat.new_zeros(0, flat.shape[1]), dim=1)


def _area(masks: Tensor, size: torch.Size) -> Tensor:
    """Share of every cell of ``size`` that each mask covers, float32 (K,h,w)."""
    height, width = (
        length * (cell_factor(length, pixels) or 0) for length, pixels in zip(size, masks.shape[1:], strict=True)
    )
    values = masks.float()
    if height and width:
        values = F.pad(values, (0, width - masks.shape[2], 0, height - masks.shape[1]))
    return F.interpolate(values[None], size, mode="area")[0]
