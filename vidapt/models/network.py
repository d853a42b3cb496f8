"""The panoptic network: one encoder, a semantic, an instance and a projection head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidapt.clip import Instances, PanopticTarget
from vidapt.config import ModelConfig
from vidapt.labels import LabelSpace
from vidapt.models.encoder import build_encoder
from vidapt.models.grid import STRIDE, Size, enlarge, pick_pixels
from vidapt.models.instance.build import build_instance_head
from vidapt.models.instance.center_offset import CenterOffsetHead
from vidapt.models.losses import semantic_loss
from vidapt.models.multi_resolution import Detail, ScaleAttention, fuse_views, shrink_target, view_details
from vidapt.models.projection import ProjectionHead, TextProjection, pool_masks
from vidapt.models.semantic import SemanticHead
from vidapt.models.views import Window, plan_views

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class NetworkOutput:
    """What one pass over N frames gives; heads run on it on demand.

    With ``model.multi_resolution``, ``features`` and ``fused`` are those of the context view: what the instance head
    and the projections say is then coarser than ``logits``.

    Attributes:
        features: Four maps (N,channels,ceil(H/stride),ceil(W/stride)), finest (stride 4) first.
        fused: (N,channels,h,w), the semantic head's map before classification; h = ceil(H/4), w = ceil(W/4).
        logits: (N,C,h,w), always at a quarter of the frame.
        size: H and W of the frames.
        detail: The detail crop of a multi-resolution network, where one was taken.
    """

    features: list[Tensor]
    fused: Tensor
    logits: Tensor
    size: Size
    detail: Detail | None = None


class PanopticNetwork(nn.Module):
    """Encoder and heads; frames of any size.

    Args:
        config: Architecture.
        space: Classes to predict.

    Raises:
        ConfigError: If the encoder does not exist or gives no feature pyramid, or an option does not fit.
        CheckpointError: If pretrained encoder weights cannot be loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, space: LabelSpace) -> None:
        super().__init__()
        self.config = config
        self.space = space
        self.encoder = build_encoder(config.encoder)
        channels = self.encoder.channels
        self.semantic = SemanticHead(config.semantic, channels, len(space))
        self.instance = build_instance_head(config.instance, channels, space)
        self.projection = ProjectionHead(config.projection, self.semantic.channels)
        pixels, text, views = config.pixel_projection, config.text, config.multi_resolution
        self.pixel_projection = None if pixels is None else ProjectionHead(pixels, self.semantic.channels)
        self.text = None if text is None else TextProjection(text, self.semantic.channels, channels[-1])
        self.attention = None if views is None else ScaleAttention(views, channels, len(space), config.semantic.norm)
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor, window: Window | None = None) -> NetworkOutput:
        """Encode frames and classify every stride-4 cell.

        A multi-resolution network looks at a context view of the whole frames and at details: in ``window`` if there is
        one (in training the middle of the frames, if there is none), else in windows that slide over the frames.

        Args:
            frames: (N,3,H,W) RGB, uint8 or float in 0..1.
            window: Detail crop of all frames; see ``draw_window``.

        Raises:
            ValueError: If the window does not fit the frames, or the network has one resolution.
        """
        normalised = self._normalise(frames)
        if self.attention is not None:
            return self._two_views(normalised, window, self.attention)
        if window is not None:
            raise ValueError("the network has one resolution and takes no window: set model.multi_resolution")
        features = self.encoder(normalised)
        fused, logits = self.semantic(features)
        return NetworkOutput(features, fused, logits, (frames.shape[-2], frames.shape[-1]))

    def encoder_input(self, frames: Tensor) -> Tensor:
        """What ``features`` are computed from: the normalised frames (N,3,H,W), or the context view of them."""
        normalised = self._normalise(frames)
        if self.attention is None:
            return normalised
        views = plan_views(self.attention.config, (frames.shape[-2], frames.shape[-1]))
        return views.context(views.pad(normalised))

    def _normalise(self, frames: Tensor) -> Tensor:
        values = frames / 255.0 if frames.dtype == torch.uint8 else frames
        # a third faster on CPUs than the default layout, and what tensor cores want
        return ((values - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    @property
    def stride(self) -> int:
        """Pixels per cell of the embeddings."""
        return STRIDE if self.attention is None else STRIDE * self.attention.shrink

    def draw_window(self, size: Size, rng: np.random.Generator) -> Window | None:
        """Draw where the next forward of frames of ``size`` looks at details; None, and no draw, for one resolution."""
        return None if self.attention is None else plan_views(self.attention.config, size).draw(rng)

    def _two_views(self, frames: Tensor, window: Window | None, attention: ScaleAttention) -> NetworkOutput:
        views = plan_views(attention.config, (frames.shape[-2], frames.shape[-1]))
        padded = views.pad(frames)
        features = self.encoder(views.context(padded))
        fused, context = self.semantic(features)
        if window is None and self.training:
            window = views.center()
        at_once = any(module.training for module in self.modules() if isinstance(module, _BatchNorm))
        detail = view_details(self._classify, padded, views, window, at_once=at_once)
        logits = fuse_views(context, attention(features), detail, views.grid)
        return NetworkOutput(features, fused, logits, views.size, None if window is None else detail)

    def _classify(self, crops: Tensor) -> Tensor:
        """Logits (N,C,h/4,w/4) of normalised crops (N,3,h,w)."""
        logits: Tensor = self.semantic(self.encoder(crops))[1]
        return logits

    def project(self, output: NetworkOutput) -> Tensor:
        """Embedding (N,dim,h,w) of every stride-4 cell that tells instances apart, not normalised."""
        return self.projection(output.fused)

    def project_pixels(self, output: NetworkOutput) -> Tensor:
        """Embedding (N,dim,h,w) of every stride-4 cell that tells classes apart, not normalised.

        Raises:
            ValueError: If the network has no such projection.
        """
        if self.pixel_projection is None:
            raise ValueError("the network has no pixel projection: set model.pixel_projection")
        return self.pixel_projection(output.fused)

    def project_text(self, output: NetworkOutput) -> Tensor:
        """Features (N,dim,h,w) in the space of text embeddings, not normalised; see ``model.text``.

        Raises:
            ValueError: If the network has no such projection.
        """
        if self.text is None:
            raise ValueError("the network has no text projection: set model.text")
        return self.text(output.fused, output.features[-1])

    def semantic_loss(
        self,
        output: NetworkOutput,
        semantic: Tensor,
        weight: Tensor | None = None,
        class_weight: Tensor | None = None,
    ) -> Tensor:
        """Loss of the semantic head on uint8 (N,H,W) labels; see ``models.losses.semantic_loss``.

        Where a detail crop was taken, its own loss against the labels in its window has the share ``detail_weight``.
        """
        loss = semantic_loss(output.logits, semantic, weight, class_weight)
        detail = output.detail
        if detail is None or self.attention is None:
            return loss
        labels, trust = detail.window.cut(semantic), None if weight is None else detail.window.cut(weight)
        closer = semantic_loss(detail.logits, labels, trust, class_weight)
        return torch.lerp(loss, closer, self.attention.config.detail_weight)

    def instance_loss(
        self,
        output: NetworkOutput,
        target: PanopticTarget,
        *,
        instance_weight: Tensor | None = None,
        pixel_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the instance head by name, see its ``loss``; ``target`` is flat (N,H,W)."""
        if self.attention is not None:
            target = shrink_target(target, self.attention.shrink)
            pixel_weight = None if pixel_weight is None else pick_pixels(pixel_weight, self.attention.shrink)
        return self.instance.loss(output.features, target, instance_weight=instance_weight, pixel_weight=pixel_weight)

    def probabilities(self, output: NetworkOutput) -> Tensor:
        """Class probabilities of every stride-4 cell, float32 (N,C,h,w)."""
        return output.logits.float().softmax(1)

    def upsample(self, probabilities: Tensor, size: Size) -> Tensor:
        """Interpolate stride-4 probabilities (N,C,h,w) to ``size``: that of the frames, or any other."""
        return enlarge(probabilities, size)

    def instance_maps(self, output: NetworkOutput) -> Tensor | None:
        """Maps (N,M,h,w) that instances are grouped by, on the grid of ``logits``; None if there are no such maps."""
        if not isinstance(self.instance, CenterOffsetHead) or self.attention is not None:
            return None
        return self.instance.maps(output.features)

    @torch.no_grad()
    def instances(self, output: NetworkOutput, probabilities: Tensor, *, maps: Tensor | None = None) -> list[Instances]:
        """Instances of every frame, with embeddings.

        Args:
            output: The pass over N frames.
            probabilities: float (N,C,H,W) at the size that the masks shall have.
            maps: What ``instance_maps`` gave, calmed over time; None takes it as it is.
        """
        if maps is not None and isinstance(self.instance, CenterOffsetHead):
            found = self.instance.predict(output.features, probabilities, maps=maps)
        else:
            found = self.instance.predict(output.features, probabilities)
        return self._with_embeddings(found, self.project(output))

    @torch.no_grad()
    def observe(self, output: NetworkOutput) -> None:
        """Let the instance head see a pass whose instances nobody asks for, if it keeps statistics of its batches.

        Else a teacher with statistics of its own (``own_statistics``) would find instances with those of its start.
        """
        if not any(module.training for module in self.instance.modules() if isinstance(module, _BatchNorm)):
            return
        if isinstance(self.instance, CenterOffsetHead):
            self.instance(output.features)
        else:
            self.instance.predict(output.features, self.probabilities(output))

    def _with_embeddings(self, found: Sequence[Instances], embedding: Tensor) -> list[Instances]:
        pooled = [pool_masks(place, frame.masks) for place, frame in zip(embedding, found, strict=True)]
        return [replace(frame, embeddings=mean) for frame, mean in zip(found, pooled, strict=True)]


def build_network(config: ModelConfig, space: LabelSpace) -> PanopticNetwork:
    """Build the network on the CPU in training mode."""
    return PanopticNetwork(config, space)
