"""DAFormer semantic head: per-level embedding, then context from parallel dilated separable convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vidapt.config import SemanticConfig
from vidapt.models.grid import conv_norm_relu, enlarge, separable_conv


class SemanticHead(nn.Module):
    """DAFormer head without image pooling (Hoyer et al., CVPR 2022, section 3.2 and its published configuration).

    Every feature map is embedded by a 1×1 convolution and brought to stride 4; the concatenation passes one branch per
    dilation (1: a 1×1 convolution, else depthwise separable 3×3), then a 3×3 convolution.

    Args:
        config: Channels, dilations, dropout and norm.
        channels: Channels of the feature maps, finest first.
        classes: Number of classes C.
    """

    def __init__(self, config: SemanticConfig, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        width, norm = config.channels, config.norm
        joint = width * len(channels)
        self.channels = width
        self.embed = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.branches = nn.ModuleList(
            conv_norm_relu(joint, width, 1, norm)
            if dilation == 1
            else separable_conv(joint, width, 3, norm, dilation=dilation)
            for dilation in config.dilations
        )
        self.fuse = conv_norm_relu(width * len(config.dilations), width, 3, norm)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(width, classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.constant_(cast(Tensor, self.classify.bias), 0.0)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the fused map (N,channels,h,w) and the logits (N,C,h,w) at the size of the finest feature map."""
        size = (features[0].shape[-2], features[0].shape[-1])
        levels = [enlarge(embed(level), size) for embed, level in zip(self.embed, features, strict=True)]
        joint = torch.cat(levels, dim=1)
        fused = self.fuse(torch.cat([branch(joint) for branch in self.branches], dim=1))
        return fused, self.classify(self.dropout(fused))
