"""Projection head and mask pooling: one embedding per place for contrast, one per instance for the tracker."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidapt.config_model import ProjectionConfig, TextProjectionConfig
from vidapt.errors import ConfigError
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


class TextProjection(nn.Module):
    """Brings a feature map into the space of text embeddings: a 1×1 convolution, or nothing where it is there already.

    Args:
        config: Width of the embeddings, and which map.
        decoder_channels: Channels of the semantic head's fused map.
        encoder_channels: Channels of the last encoder map.

    Raises:
        ConfigError: If the map is to be used as it is and has another width.
    """

    def __init__(self, config: TextProjectionConfig, decoder_channels: int, encoder_channels: int) -> None:
        super().__init__()
        self.at = config.at
        channels = decoder_channels if config.at == "decoder" else encoder_channels
        if not config.project and channels != config.dim:
            other = (
                "model.semantic.channels to the width of the embeddings"
                if config.at == "decoder"
                else "method.text_alignment.at to decoder, whose width model.semantic.channels sets"
            )
            raise ConfigError(
                f"text embeddings have {config.dim} values and the {config.at} map {channels} channels; set "
                f"method.text_alignment.project to true, or {other}"
            )
        self.convolution = nn.Conv2d(channels, config.dim, 1) if config.project else nn.Identity()

    def forward(self, fused: Tensor, last: Tensor) -> Tensor:
        """Project the fused map (N,C,h,w) or the last encoder map (N,C',h',w') to (N,dim,...)."""
        projected: Tensor = self.convolution(fused if self.at == "decoder" else last)
        return projected


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
    factors = [cell_factor(length, pixels) or 0 for length, pixels in zip(size, masks.shape[1:], strict=True)]
    height, width = (length * factor for length, factor in zip(size, factors, strict=True))
    if (height, width) == masks.shape[1:] and factors[0] * factors[1] <= torch.iinfo(torch.uint8).max:
        return _counts(masks.view(torch.uint8), factors[0], factors[1]).float() / (factors[0] * factors[1])
    values = masks.float()
    if height and width:
        values = F.pad(values, (0, width - masks.shape[2], 0, height - masks.shape[1]))
    return F.interpolate(values[None], size, mode="area")[0]


def _counts(values: Tensor, rows: int, columns: int) -> Tensor:
    """Sums (K,h,w) over cells of rows × columns pixels, in the type of ``values``; on a CPU faster than pooling."""
    high = values[:, ::rows].clone()
    for row in range(1, rows):
        high += values[:, row::rows]
    cells = high[..., ::columns].clone()
    for column in range(1, columns):
        cells += high[..., column::columns]
    return cells
