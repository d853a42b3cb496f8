"""The stride-4 grid of the heads: enlarging maps so that cells keep their place, and norm layers."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4
"""Pixels per output cell of every head; cell c covers pixels 4c .. 4c+3, its middle is pixel coordinate 4c + 1.5."""

Size = tuple[int, int]


def cells(pixels: int, stride: int = STRIDE) -> int:
    """Number of cells of ``stride`` pixels that cover ``pixels``."""
    return -(-pixels // stride)


def cell_factor(length: int, target: int) -> int | None:
    """Power of two that splits ``length`` cells into ``target`` finer ones, the last of them cut; None if none does."""
    factor = 1
    while length * factor < target:
        factor *= 2
    return factor if cells(target, factor) == length else None


def enlarge(maps: Tensor, size: Size) -> Tensor:
    """Interpolate (N,C,h,w) bilinearly to ``size`` (corners not aligned).

    Where ``size`` is a finer grid over the same image (for example 33 cells of stride 4 to 130 pixels), every cell
    keeps its place and what lies beyond the image is cut; else the whole map is stretched to ``size``.
    """
    if maps.shape[-2:] == size:
        return maps
    factors = [cell_factor(length, target) for length, target in zip(maps.shape[-2:], size, strict=True)]
    if None in factors:
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)
    full = [length * factor for length, factor in zip(maps.shape[-2:], factors, strict=True) if factor]
    return F.interpolate(maps, full, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]


def cell_scale(length: int, target: int) -> float:
    """Pixels of a grid of ``target`` rows (or columns) that one of ``length`` cells spans after ``enlarge``."""
    return float(cell_factor(length, target) or target / length)


def pick_pixels(maps: Tensor, stride: int = STRIDE) -> Tensor:
    """Take from (...,H,W) the pixel right below the middle of every cell, or the last where the image ends before."""
    rows, columns = (
        (stride * torch.arange(cells(length, stride), device=maps.device) + stride // 2).clamp(max=length - 1)
        for length in maps.shape[-2:]
    )
    return maps[..., rows[:, None], columns]


def norm_layer(kind: Literal["batch", "group"], channels: int) -> nn.Module:
    """Batch norm, or group norm with at most 32 groups of at least 4 channels."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    fitting = (count for count in (32, 16, 8, 4, 2) if channels % count == 0 and channels // count >= 4)
    return nn.GroupNorm(next(fitting, 1), channels)


def conv_norm_relu(
    source: int, target: int, kernel: int, norm: Literal["batch", "group"], *, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias that keeps the size, then norm and ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(source, target, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
    return nn.Sequential(conv, norm_layer(norm, target), nn.ReLU(inplace=True))


def separable_conv(
    source: int, target: int, kernel: int, norm: Literal["batch", "group"], *, dilation: int = 1
) -> nn.Sequential:
    """Depthwise then 1×1 convolution, each with norm and ReLU."""
    return nn.Sequential(
        conv_norm_relu(source, source, kernel, norm, dilation=dilation, groups=source),
        conv_norm_relu(source, target, 1, norm),
    )
