"""The optimiser and its learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vidapt.config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the encoder's learning rate of a step (counted from 0): linear warm-up times polynomial decay.

    A pure function, so that resuming needs no scheduler state. Source: DAFormer's schedule (mmseg ``poly`` with
    linear warm-up), except that the warm-up counts from 1 so that the first update is not lost.
    """
    decay = (1 - step / config.steps) ** config.power
    warmup = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return config.lr * decay * warmup


def parameter_groups(network: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Split trainable parameters by learning rate and weight decay.

    ``network.encoder`` has the base learning rate, everything else ``head_lr_factor`` times that. Parameters with one
    axis (norms, biases) are not decayed.
    """
    encoder = {id(parameter) for parameter in network.get_submodule("encoder").parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            factor = 1.0 if id(parameter) in encoder else config.head_lr_factor
            decay = 0.0 if parameter.ndim <= 1 else config.weight_decay
            groups.setdefault((factor, decay), []).append(parameter)
    return [{"params": group, "factor": factor, "weight_decay": decay} for (factor, decay), group in groups.items()]


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over the network's parameter groups."""
    return torch.optim.AdamW(parameter_groups(network, config), lr=config.lr)


def update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Take one optimiser step at the given encoder learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    optimizer.step()


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Return the norm of all gradients, a scalar, and scale them down to ``max_norm`` if that is above 0."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
