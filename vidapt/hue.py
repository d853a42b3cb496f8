"""Turning the hue of frames: torchvision's ``adjust_hue`` to the bit, at about a third of its cost on a CPU.

Masks are floating 0 and 1, because comparing and choosing cost five to ten times as much there as arithmetic does.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

_LEVELS = 256.0
"""Two values of uint8 that differ, differ by 1 after they were scaled to 0..1 and by this."""
_TINY = 1e-9


def turn_hue(frames: Tensor, turn: float) -> Tensor:
    """Turn the hue in HSV space.

    Args:
        frames: uint8 (...,3,H,W) RGB.
        turn: Share of the whole circle, -0.5..0.5.

    Returns:
        uint8 (...,3,H,W).
    """
    planes = tv.to_dtype(frames, torch.float32, scale=True).unbind(-3)
    red, green, blue = planes
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    hue = _fraction(_hue(planes, value, spread).add_(turn))
    colours = _colours(hue, spread / value.clamp_min(_TINY), value)
    return tv.to_dtype(colours, torch.uint8, scale=True)


def _hue(planes: tuple[Tensor, ...], value: Tensor, spread: Tensor) -> Tensor:
    """Hue in 0..1 of RGB planes (...,H,W) with their largest value and its distance to the smallest; 0 for greys."""
    below = [value - plane for plane in planes]
    not_red, not_green = (distance.mul(_LEVELS).clamp_max_(1.0) for distance in below[:2])
    divisor = spread.clamp_min(_TINY)
    red, green, blue = (distance.div_(divisor) for distance in below)
    from_green = red.add(2.0).sub_(blue).mul_(not_red - not_red * not_green)
    from_blue = green.add(4.0).sub_(red).mul_(not_red * not_green)
    from_red = blue.sub_(green).mul_(1.0 - not_red)
    return _fraction(from_red.add_(from_green).add_(from_blue).mul_(1 / 6).add_(1.0))


def _fraction(numbers: Tensor) -> Tensor:
    """Distance to the whole number below, in place."""
    return numbers.sub_(numbers.floor())


def _colours(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB (...,3,H,W) in 0..1 of planes (...,H,W); ``hue`` is overwritten."""
    hue = hue.mul_(6)
    sector = hue.floor()
    part = hue.sub_(sector).mul_(saturation)
    rest = 1.0 - saturation
    falling = (1.0 - part).mul_(value)
    rising = part.add_(rest).mul_(value)
    lowest = rest.mul_(value)
    reached = [(sector - (bound - 1)).clamp_(0.0, 1.0) for bound in range(1, 7)]
    inside = [before - after for before, after in pairwise(reached)]
    # rounding can lead to sector 6, which is sector 0
    first = (1.0 - reached[0]).add_(reached[-1])
    one, two, three, four, five = inside
    red = (value * (first + five)).addcmul_(falling, one).addcmul_(lowest, two + three).addcmul_(rising, four)
    green = (rising * first).addcmul_(value, one + two).addcmul_(falling, three).addcmul_(lowest, four + five)
    blue = (lowest * (first + one)).addcmul_(rising, two).addcmul_(value, three + four).addcmul_(falling, five)
    return torch.stack([red, green, blue], -3)
