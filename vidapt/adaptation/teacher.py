"""Mean teacher: an exponential moving average of the student (Tarvainen and Valpola 2017; ramp of DAFormer 1.1)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)


def ema_momentum(update: int, alpha: float) -> float:
    """Momentum of update number ``update`` (from 0): min(1 - 1/(update + 1), alpha); 0 copies the student."""
    return min(1 - 1 / (update + 1), alpha)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float, *, statistics: bool = True) -> None:
    """Move the teacher's parameters and floating-point buffers towards the student's in place.

    Integer buffers (counters) are copied. Both modules must have the same structure.

    Args:
        teacher: What is moved.
        student: What it follows.
        momentum: Share of the teacher that stays.
        statistics: False leaves the buffers of the teacher's batch normalisation alone.
    """
    own, other = teacher.state_dict(keep_vars=True), student.state_dict(keep_vars=True)
    kept = set() if statistics else statistics_names(teacher)
    floating = [name for name, value in own.items() if value.is_floating_point() and name not in kept]
    teachers = [own[name].detach() for name in floating]
    torch._foreach_lerp_(teachers, [other[name].detach() for name in floating], 1 - momentum)
    for name in own.keys() - set(floating) - kept:
        own[name].copy_(other[name])


def statistics_names(network: nn.Module) -> set[str]:
    """Names of the batch-normalisation buffers in the state dict of a network."""
    norms = ((name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm))
    return {f"{name}.{buffer}" for name, module in norms for buffer, _ in module.named_buffers()}


@torch.no_grad()
def average_statistics(network: nn.Module, reduce: Callable[[Tensor], Tensor]) -> None:
    """Average the means and variances of batch normalisation over the processes in place, all at once.

    Args:
        network: Its other buffers stay; the counters of batches are equal in all processes.
        reduce: Averages a tensor over processes; called once, or never without batch normalisation.
    """
    buffers = network.state_dict(keep_vars=True)
    own = [buffers[name] for name in sorted(statistics_names(network)) if buffers[name].is_floating_point()]
    if not own:
        return
    means = reduce(torch.cat([values.flatten() for values in own])).split([values.numel() for values in own])
    for values, mean in zip(own, means, strict=True):
        values.copy_(mean.view_as(values))


@contextmanager
def own_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch normalisation use and keep the statistics of the batches inside the block (AdaBN, Li et al. 2016)."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for module in norms:
        module.train()
    try:
        yield
    finally:
        for module in norms:
            module.eval()


def make_teacher(student: M) -> M:
    """Return a frozen copy of the student in evaluation mode."""
    return copy.deepcopy(student).requires_grad_(False).eval()
