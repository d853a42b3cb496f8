"""Centre/offset instance head on its own light decoder (Panoptic-DeepLab, Cheng et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vidapt.clip import Instances, PanopticTarget
from vidapt.config import CenterOffsetConfig
from vidapt.errors import ConfigError
from vidapt.labels import LabelSpace
from vidapt.models.grid import STRIDE, cell_scale, conv_norm_relu, enlarge, separable_conv
from vidapt.models.instance.grouping import find_peaks, group_pixels
from vidapt.models.instance.targets import center_targets

_BRANCH = 32
_OFFSET_UNIT = 16.0
_REFERENCE_ROWS = 1024


class CenterOffsetHead(nn.Module):
    """Predicts where instances have their centre, and for every place the way to its instance's centre.

    The decoder goes from the coarsest map to the finest and shares nothing with the semantic head (EDAPS).

    Args:
        config: Width, norm, radius of the Gaussians, loss weights and the search for centres.
        channels: Channels of the feature maps, finest first.
        space: Says which classes are things.

    Raises:
        ConfigError: If ``config.kernel`` is even.
    """

    is_thing: Tensor

    def __init__(self, config: CenterOffsetConfig, channels: Sequence[int], space: LabelSpace) -> None:
        super().__init__()
        if config.kernel % 2 == 0:
            raise ConfigError(f"model.instance.kernel must be odd, got {config.kernel}; take {config.kernel + 1}")
        self.config = config
        width, norm = config.channels, config.norm
        self.lateral = nn.ModuleList(conv_norm_relu(count, width, 1, norm) for count in channels)
        self.merge = nn.ModuleList(separable_conv(width, width, 5, norm) for _ in channels[1:])
        self.center = nn.Sequential(separable_conv(width, _BRANCH, 5, norm), _last_conv(1))
        self.offset = nn.Sequential(separable_conv(width, _BRANCH, 5, norm), _last_conv(2))
        self._things = torch.from_numpy(space.is_thing.copy())
        self.register_buffer("is_thing", self._things.clone(), persistent=False)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return heat (N,1,h,w), 1 at a centre, and offsets (N,2,h,w): rows and columns, in pixels, to the centre.

        Both are float32 at the size of the finest feature map; offsets count pixels of the network's input.
        """
        levels = [lateral(level) for lateral, level in zip(self.lateral, features, strict=True)]
        joint = levels[-1]
        for merge, level in zip(self.merge, reversed(levels[:-1]), strict=True):
            joint = merge(level + enlarge(joint, (level.shape[-2], level.shape[-1])))
        return self.center(joint).float(), self.offset(joint).float() * _OFFSET_UNIT

    def loss(
        self,
        features: Sequence[Tensor],
        target: PanopticTarget,
        *,
        instance_weight: Tensor | None = None,
        pixel_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of N frames, weighted by the configuration: squared error of the heat, L1 of the offsets.

        Each is the mean over frames of a frame's own mean (heat: over labelled pixels that are no crowd; offset: over
        pixels on instances), so it does not depend on which frames share a process. Weights scale a pixel's error and
        leave the number of pixels alone; a frame without labels or without instances counts as 0.

        Args:
            features: Maps of the N frames.
            target: Labels (N,H,W).
            instance_weight: float (N,K+1) by instance id (column 0: pixels without instance); ids beyond K weigh 1.
            pixel_weight: float (N,H,W); 0 masks a pixel.

        Returns:
            ``center`` and ``offset``, float32 scalars.
        """
        config = self.config
        heat, offset = self(features)
        sigma = max(config.minimum_sigma, config.sigma * target.semantic.shape[1] / _REFERENCE_ROWS)
        goal = center_targets(target, self.is_thing, sigma, instance_weight=instance_weight, pixel_weight=pixel_weight)
        squared = (heat[:, 0] - goal.heat) ** 2 * goal.heat_weight
        distance = (offset - goal.offset).abs().sum(1) * goal.offset_weight
        return {
            "center": config.center_weight * _mean_over_frames(squared, goal.heat_count),
            "offset": config.offset_weight * _mean_over_frames(distance, goal.offset_count),
        }

    @torch.no_grad()
    def maps(self, features: Sequence[Tensor]) -> Tensor:
        """What ``predict`` groups by, float32 (N,3,h,w): heat, and offsets in rows and columns; see ``forward``."""
        return torch.cat(self(features), dim=1)

    @torch.no_grad()
    def predict(self, features: Sequence[Tensor], semantic: Tensor, *, maps: Tensor | None = None) -> list[Instances]:
        """Group thing pixels into instances, one result per frame.

        Args:
            features: Maps of N frames.
            semantic: float (N,C,H,W) class probabilities; masks have its size, which need not be the input's.
            maps: Instead of ``self.maps(features)``: the same, calmed over time.

        Returns:
            N ``Instances`` without embeddings, sorted by score (the heat at the centre); masks do not overlap.
        """
        heat, offset = (self.maps(features) if maps is None else maps).float().split((1, 2), dim=1)
        size = (semantic.shape[-2], semantic.shape[-1])
        scale = torch.tensor([cell_scale(*lengths) for lengths in zip(heat.shape[-2:], size, strict=True)])
        scale = scale.to(heat.device, non_blocking=True)
        # with two channels last, a CPU takes eight times as long
        offset = enlarge(offset.contiguous(), size) * (scale / STRIDE)[:, None, None]
        return [self._predict_frame(heat[i, 0], offset[i], semantic[i], scale) for i in range(len(heat))]

    def _predict_frame(self, heat: Tensor, offset: Tensor, semantic: Tensor, scale: Tensor) -> Instances:
        config = self.config
        peaks, scores = find_peaks(heat, threshold=config.threshold, kernel=config.kernel, top_k=config.top_k)
        return group_pixels((peaks + 0.5) * scale - 0.5, scores, offset, semantic, self._things[: len(semantic)])


def _last_conv(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(_BRANCH, channels, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(cast(Tensor, conv.bias), 0.0)
    return conv


def _mean_over_frames(errors: Tensor, counts: Tensor) -> Tensor:
    """Mean over frames of each frame's sum of errors (N,h,w) divided by its count (N,)."""
    return (errors.sum((1, 2)) / counts.clamp(min=1.0)).mean()
