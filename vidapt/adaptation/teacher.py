"""Mean teacher: an exponential moving average of the student (Tarvainen and Valpola 2017; ramp of DAFormer 1.1)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def ema_momentum(update: int, alpha: float) -> float:
    """Momentum of update number ``update`` (from 0): min(1 - 1/(update + 1), alpha); 0 copies the student."""
    return min(1 - 1 / (update + 1), alpha)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters and floating-point buffers towards the student's in place.

    Integer buffers (counters) are copied. Both modules must have the same structure.
    """
    own, other = teacher.state_dict(keep_vars=True), student.state_dict(keep_vars=True)
    floating = [name for name, value in own.items() if value.is_floating_point()]
    torch._foreach_lerp_(
        [own[name].detach() for name in floating], [other[name].detach() for name in floating], 1 - momentum
    )
    for name in own.keys() - set(floating):
        own[name].copy_(other[name])


def make_teacher(student: M) -> M:
    """Return a frozen copy of the student in evaluation mode."""
    return copy.deepcopy(student).requires_grad_(False).eval()
