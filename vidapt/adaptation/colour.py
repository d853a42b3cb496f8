"""Colour transfer: source clips take the colour statistics of target clips (Reinhard et al. 2001, in CIE Lab)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidapt.config_method import ColourTransferConfig

LEAST_SPREAD = 0.5
"""Lab units; a channel that varies less is stretched as if it varied so much, which keeps noise of grey clips small."""

_WITHIN = (1, 3, 4)
_WHITE = np.array([0.950456, 1.0, 1.088754])
_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_RATIO = _XYZ / _WHITE[:, None]
_LAB = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_RATIO_BACK, _LAB_BACK = np.linalg.inv(_RATIO), np.linalg.inv(_LAB)
_L_OFFSET = 16.0
_KNEE, _SLOPE = 0.008856, 7.787
_SRGB_KNEE, _SRGB_SLOPE = 0.0031308, 12.92


def transfer_colours(
    frames: Tensor, target: Tensor, config: ColourTransferConfig, rngs: Sequence[np.random.Generator]
) -> Tensor:
    """Give source clips the mean and the spread that the Lab channels of the target clips have (Reinhard et al. 2001).

    Clip b follows target clip b. Its statistics are those of all its frames, so one transform holds for the clip and
    its colours stay constant over time. Source pixels that are black on all frames, as the padding of small clips is,
    do not count.

    Args:
        frames: uint8 (B,T,3,H,W) source frames, RGB.
        target: uint8 (B,T',3,H',W') target frames.
        config: Share of the clips that are changed, and how far.
        rngs: Generator of each clip.

    Returns:
        uint8 (B,T,3,H,W); clips that are not drawn are unchanged to the bit.
    """
    drawn = [clip for clip, rng in enumerate(rngs) if rng.random() < config.probability]
    if not drawn or config.strength == 0:
        return frames
    if len(drawn) == len(frames):
        return _matched(frames, target, config.strength)
    numbers = torch.tensor(drawn, device=frames.device)
    return frames.index_copy(0, numbers, _matched(frames[numbers], target[numbers], config.strength))


def _matched(frames: Tensor, target: Tensor, strength: float) -> Tensor:
    """``transfer_colours`` of every clip."""
    # Half precision cannot hold Lab to a grey level.
    with torch.autocast(frames.device.type, enabled=False):
        lab = to_lab(frames)
        mean, spread = clip_statistics(lab, frames.amax((1, 2), keepdim=True) > 0)
        wanted_mean, wanted_spread = clip_statistics(to_lab(target))
        gain = torch.lerp(torch.ones_like(spread), wanted_spread / spread.clamp_min(LEAST_SPREAD), strength)
        return from_lab(lab.mul_(gain).add_(torch.lerp(mean, wanted_mean, strength) - mean * gain))


def clip_statistics(lab: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B,1,3,1,1) of each channel over the frames and pixels of a clip.

    Args:
        lab: float32 (B,T,3,H,W).
        counted: bool (B,1,1,H,W), False for pixels that are left out; None counts all. A clip without any gets zeros.
    """
    if counted is None:
        mean = lab.mean(_WITHIN, keepdim=True)
        return mean, (lab - mean).square_().mean(_WITHIN, keepdim=True).sqrt()
    number = counted.sum(_WITHIN, keepdim=True).clamp_min(1) * lab.shape[1]
    mean = (lab * counted).sum(_WITHIN, keepdim=True) / number
    return mean, ((lab - mean).square_().mul_(counted).sum(_WITHIN, keepdim=True) / number).sqrt()


def to_lab(frames: Tensor) -> Tensor:
    """CIE Lab (white D65, as OpenCV) of sRGB frames.

    Args:
        frames: uint8 (...,3,H,W) RGB.

    Returns:
        float32 (...,3,H,W): L in 0..100, a and b about -127..127.
    """
    levels = torch.arange(256, device=frames.device, dtype=torch.float32) / 255
    linear = torch.where(levels > _SRGB_SLOPE * _SRGB_KNEE, ((levels + 0.055) / 1.055) ** 2.4, levels / _SRGB_SLOPE)
    light = linear.index_select(0, frames.flatten().int()).view(frames.shape)
    ratio = _mix(_RATIO, light)
    # The line below the knee meets the root there, so that the two pieces add up.
    line = (ratio - _KNEE).clamp_max_(0)
    root = ratio.clamp_min_(_KNEE).pow_(1 / 3).add_(line, alpha=_SLOPE)
    lab = _mix(_LAB, root)
    lab.select(-3, 0).sub_(_L_OFFSET)
    return lab


def from_lab(lab: Tensor) -> Tensor:
    """sRGB frames uint8 (...,3,H,W) of CIE Lab float32 (...,3,H,W), the inverse of ``to_lab`` to the bit.

    Colours that sRGB lacks are cut channel by channel.
    """
    # The offset of L lifts the roots of X, Y and Z alike.
    root = _mix(_LAB_BACK, lab).add_(_L_OFFSET / 116)
    knee = _KNEE ** (1 / 3)
    line = (root - knee).clamp_max_(0)
    ratio = root.clamp_min_(knee).pow_(3).add_(line, alpha=1 / _SLOPE)
    light = _mix(_RATIO_BACK, ratio).clamp_(0, 1)
    line = (light - _SRGB_KNEE).clamp_max_(0)
    light = light.clamp_min_(_SRGB_KNEE).pow_(1 / 2.4).mul_(1.055).sub_(0.055).add_(line, alpha=_SRGB_SLOPE)
    return light.mul_(255).round_().to(torch.uint8)


def _mix(matrix: NDArray[np.float64], planes: Tensor) -> Tensor:
    """Multiply the channels of float32 (...,3,H,W) by a matrix (3,3)."""
    factors = torch.from_numpy(matrix.astype(np.float32)).to(planes.device)
    return (factors @ planes.flatten(-2)).view(planes.shape)
