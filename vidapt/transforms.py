"""Clip transforms: one random draw per clip, the same on all of its frames.

Geometry runs in the loader on the host; strong augmentation runs on the device on mixed clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from vidapt.clip import IGNORE, Clip, PanopticTarget
from vidapt.hue import turn_hue


@dataclass(frozen=True)
class TrainTransform:
    """Random resize, crop and horizontal flip of a clip.

    Attributes:
        crop: Height and width of the result. Labelled clips that are smaller are padded (image 0, semantic 255,
            instance 0); unlabelled ones are enlarged until they fill it, because nothing would mark their padding.
        scale: Range of the resize factor, drawn log-uniformly.
        flip: Probability of a horizontal flip.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Transform ``clip`` with the draws of ``rng``."""
        low, high = self.scale
        factor = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if high > low else low
        height, width = clip.frames.shape[-2:]
        if clip.target is None:
            factor = max(factor, self.crop[0] / height, self.crop[1] / width)
        clip = resize_clip(clip, (max(1, round(height * factor)), max(1, round(width * factor))))
        clip = self._random_crop(pad_clip(clip, self.crop), rng)
        return flip_clip(clip) if rng.random() < self.flip else clip

    def _random_crop(self, clip: Clip, rng: np.random.Generator) -> Clip:
        height, width = clip.frames.shape[-2:]
        top = int(rng.integers(height - self.crop[0] + 1))
        left = int(rng.integers(width - self.crop[1] + 1))
        return crop_clip(clip, top, left, self.crop)


def resize_clip(clip: Clip, size: tuple[int, int]) -> Clip:
    """Resize a clip to (height, width): frames bilinear with antialiasing, labels nearest and exact."""
    if tuple(clip.frames.shape[-2:]) == tuple(size):
        return clip
    frames = tv.resize(clip.frames, list(size), antialias=True)
    target = clip.target
    if target is not None:
        semantic, instance = (resize_nearest(field, size) for field in (target.semantic, target.instance))
        target = PanopticTarget(semantic, instance, target.labelled)
    ignored = None if clip.ignored is None else resize_nearest(clip.ignored, size)
    return replace(clip, frames=frames, target=target, ignored=ignored)


def resize_nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize integer maps (...,H,W) by picking the pixel under each new pixel's centre; any integer type is exact."""
    height, width = labels.shape[-2:]
    rows = ((torch.arange(size[0], device=labels.device) + 0.5) * (height / size[0])).long().clamp_max(height - 1)
    columns = ((torch.arange(size[1], device=labels.device) + 0.5) * (width / size[1])).long().clamp_max(width - 1)
    return labels[..., rows[:, None], columns]


def pad_clip(clip: Clip, size: tuple[int, int]) -> Clip:
    """Pad a clip at the bottom and right to at least (height, width): image 0, semantic 255, instance 0, ignored."""
    height, width = clip.frames.shape[-2:]
    bottom, right = max(0, size[0] - height), max(0, size[1] - width)
    if not bottom and not right:
        return clip
    target = clip.target
    if target is not None:
        semantic = _pad(target.semantic, bottom, right, IGNORE)
        target = PanopticTarget(semantic, _pad(target.instance, bottom, right, 0), target.labelled)
    ignored = None if clip.ignored is None else _pad(clip.ignored, bottom, right, True)
    return replace(clip, frames=_pad(clip.frames, bottom, right, 0), target=target, ignored=ignored)


def _pad(image: Tensor, bottom: int, right: int, value: int | bool) -> Tensor:
    return torch.nn.functional.pad(image, (0, right, 0, bottom), value=value)


def crop_clip(clip: Clip, top: int, left: int, size: tuple[int, int]) -> Clip:
    """Cut the window of ``size`` (height, width) at (top, left) out of all frames."""
    window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    target = clip.target
    if target is not None:
        target = PanopticTarget(target.semantic[window], target.instance[window], target.labelled)
    ignored = None if clip.ignored is None else clip.ignored[window]
    return replace(clip, frames=clip.frames[window], target=target, ignored=ignored)


def flip_clip(clip: Clip) -> Clip:
    """Mirror all frames left to right."""
    target = clip.target
    if target is not None:
        target = PanopticTarget(target.semantic.flip(-1), target.instance.flip(-1), target.labelled)
    ignored = None if clip.ignored is None else clip.ignored.flip(-1)
    return replace(clip, frames=clip.frames.flip(-1), target=target, ignored=ignored)


@dataclass(frozen=True)
class StrongAugment:
    """Colour jitter and blur with one draw per clip (DAFormer 1.1, strong augmentation of mixed images).

    Attributes:
        jitter: Strength of brightness, contrast, saturation and hue (hue is scaled to its ±0.5 range).
        jitter_probability: Share of the clips that are jittered.
        blur_probability: Share of the clips that are blurred, sigma drawn from 0.15..1.15 pixels.
    """

    jitter: float
    jitter_probability: float
    blur_probability: float

    def __call__(self, frames: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Augment uint8 (B,T,3,H,W) frames; clip b draws from ``rngs[b]``. Returns uint8 of the same shape."""
        return torch.stack([self._one(clip, rng) for clip, rng in zip(frames, rngs, strict=True)])

    def _one(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        jittered, blurred = rng.random() < self.jitter_probability, rng.random() < self.blur_probability
        factors = 1 + self.jitter * rng.uniform(-1, 1, 3)
        hue, sigma = 0.5 * self.jitter * rng.uniform(-1, 1), rng.uniform(0.15, 1.15)
        if jittered and self.jitter > 0:
            clip = tv.adjust_brightness(clip, factors[0])
            clip = tv.adjust_contrast(clip, factors[1])
            clip = tv.adjust_saturation(clip, factors[2])
            clip = turn_hue(clip, hue)
        return tv.gaussian_blur(clip, [5, 5], [sigma, sigma]) if blurred else clip
