"""HRDA (Hoyer et al., ECCV 2022): a context view of whole frames and detail crops at full size, joined by attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from vidapt.clip import PanopticTarget
from vidapt.config_model import MultiResolutionConfig, Norm
from vidapt.models.grid import STRIDE, Size, conv_norm_relu, enlarge, pick_pixels
from vidapt.models.views import Views, Window, shrink_factor


@dataclass(frozen=True)
class Detail:
    """What the network says about one detail crop, before it is joined with the context.

    Attributes:
        logits: (N,C,h,w) on the stride-4 cells of the window that lie on the frame.
        window: Where the crop lies, the same on all N frames.
    """

    logits: Tensor
    window: Window


class ScaleAttention(nn.Module):
    """Says for every class and context cell how far the detail view is to be trusted (HRDA's scale attention).

    Every feature map is embedded by a 1×1 convolution and brought to stride 4; a 1×1 convolution joins them. It starts
    near an even mean of both views, whichever of them shows objects at the size that given weights were trained on.

    Args:
        config: Width.
        channels: Channels of the feature maps, finest first.
        classes: Number of classes C.
        norm: Norm of the joining convolution.

    Attributes:
        shrink: Pixels of the frame per pixel of the context view.

    Raises:
        ConfigError: If the scale of the context view does not fit.
    """

    def __init__(self, config: MultiResolutionConfig, channels: Sequence[int], classes: int, norm: Norm) -> None:
        super().__init__()
        self.config = config
        self.shrink = shrink_factor(config)
        width = config.attention_channels
        self.embed = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.fuse = conv_norm_relu(width * len(channels), width, 1, norm)
        self.classify = nn.Conv2d(width, classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.constant_(cast(Tensor, self.classify.bias), 0.0)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Trust in the detail view, float32 (N,C,h,w) in 0..1, from the feature maps of the context view."""
        size = (features[0].shape[-2], features[0].shape[-1])
        levels = [enlarge(embed(level), size) for embed, level in zip(self.embed, features, strict=True)]
        trust: Tensor = self.classify(self.fuse(torch.cat(levels, dim=1))).float().sigmoid()
        return trust


def view_details(
    classify: Callable[[Tensor], Tensor], padded: Tensor, views: Views, window: Window | None, *, at_once: bool = False
) -> Detail:
    """Classify one window of padded frames (N,3,H,W), or for None all of them by sliding windows.

    Args:
        classify: Gives logits (M,C,h/4,w/4) of crops (M,3,h,w).
        padded: ``views.pad`` of the frames.
        views: Where the views lie.
        window: Where to look.
        at_once: Classify all sliding windows in one call.

    Raises:
        ValueError: If the window does not fit the frames.
    """
    if window is None:
        window, logits = Window(0, 0, *views.padded), slide_logits(classify, padded, views.sliding(), at_once=at_once)
    else:
        views.check(window)
        logits = classify(window.cut(padded))
    height, width = views.grid[0] - window.top // STRIDE, views.grid[1] - window.left // STRIDE
    return Detail(logits[..., :height, :width], window)


def slide_logits(
    classify: Callable[[Tensor], Tensor], padded: Tensor, windows: Sequence[Window], *, at_once: bool = False
) -> Tensor:
    """Mean logits of windows that cover the frames, before softmax.

    As many windows share one call as have no more pixels than the frames, so that sliding needs about the memory of one
    plain pass.

    Args:
        classify: Gives logits (M,C,h/4,w/4) of crops (M,3,h,w).
        padded: Frames (N,3,H,W).
        windows: All of one size; every cell of the frames lies in at least one of them.
        at_once: Put all windows into one call, as a batch that is normalised by its own statistics must be.

    Returns:
        float32 (N,C,H/4,W/4).
    """
    height, width = padded.shape[-2:]
    fitting = max(1, height * width // (windows[0].height * windows[0].width))
    together = len(windows) if at_once else fitting
    parts: list[Tensor] = []
    for start in range(0, len(windows), together):
        group = windows[start : start + together]
        parts += classify(torch.cat([window.cut(padded) for window in group])).float().chunk(len(group))
    total = parts[0].new_zeros(*parts[0].shape[:2], height // STRIDE, width // STRIDE)
    count = torch.zeros_like(total[0, 0])
    for window, logits in zip(windows, parts, strict=True):
        window.cut(total, STRIDE).add_(logits)
        window.cut(count, STRIDE).add_(1)
    return total / count


def fuse_views(context: Tensor, trust: Tensor, detail: Detail, grid: Size) -> Tensor:
    """Join the logits of both views (HRDA): up((1 - trust) · context) + up(trust) · detail inside the window.

    Outside it the result is up(context) to the last bit. (HRDA sets the trust to 0 there before enlarging it, which
    weakens the logits of the cells that touch the window.)

    Args:
        context: (N,C,h',w').
        trust: float32 (N,C,h',w') in 0..1.
        detail: Logits of the window.
        grid: h and w of the frame's stride-4 grid.

    Returns:
        float32 (N,C,h,w).
    """
    context = context.float()
    fused = enlarge(context, grid).clone()
    kept = detail.window.cut(enlarge((1 - trust) * context, grid), STRIDE)
    taken = detail.window.cut(enlarge(trust, grid), STRIDE) * detail.logits.float()
    detail.window.cut(fused, STRIDE).copy_(kept + taken)
    return fused


def shrink_target(target: PanopticTarget, factor: int) -> PanopticTarget:
    """Labels (N,H,W) of the context view: those of one pixel near the middle of ``factor`` × ``factor`` pixels."""
    semantic, instance = (pick_pixels(labels, factor) for labels in (target.semantic, target.instance))
    return PanopticTarget(semantic, instance, target.labelled)
