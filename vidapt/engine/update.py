"""One update of the network: all backward passes, the mean over processes, and a way back if it must not happen."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vidapt.config import TrainingConfig
from vidapt.engine import distributed, optimisation
from vidapt.engine.step import Part, Step

Losses = dict[str, list[Tensor]]
"""Detached values of each loss, one per part that yielded it; ``loss`` is the sum of those with a gradient."""


class Update:
    """The optimiser of a step's network and what surrounds it."""

    def __init__(self, step: Step, config: TrainingConfig, accelerator: Accelerator) -> None:
        self._step, self._config, self._accelerator = step, config, accelerator
        self._parameters = [parameter for parameter in step.network.parameters() if parameter.requires_grad]
        self.optimizer = optimisation.make_optimizer(step.network, config)

    def backward(self, parts: list[Part]) -> tuple[Losses, bool]:
        """Run every backward pass; return the losses and whether those with a gradient are finite."""
        self._step.begin_step()
        values: Losses = {}
        finite = torch.ones((), dtype=torch.bool, device=self._accelerator.device)
        for part in parts:
            total = torch.zeros((), device=self._accelerator.device)
            for name, loss, optimised in self._passes(part):
                values.setdefault(name, []).append(loss)
                if optimised:
                    finite &= torch.isfinite(loss)
                    total += loss
            values.setdefault("loss", []).append(total)
        return values, bool(finite)

    def _passes(self, part: Part) -> Iterator[tuple[str, Tensor, bool]]:
        """Yield each loss after its backward pass, so that no two graphs live at the same time."""
        source, target = part
        device = self._accelerator.device
        losses = iter(self._step.losses(source.to(device), None if target is None else target.to(device)))
        while (item := self._forward(losses)) is not None:
            name, loss = item
            if loss.requires_grad:
                (loss / self._config.accumulate).backward()
            yield name, loss.detach(), loss.requires_grad
            del item, loss

    def _forward(self, losses: Iterator[tuple[str, Tensor]]) -> tuple[str, Tensor] | None:
        with self._accelerator.autocast():
            return next(losses, None)

    def reduce(self) -> Tensor:
        """Average the gradients over the processes, clip them, and return their norm before clipping, a scalar."""
        distributed.average_gradients(self._parameters)
        return optimisation.clip_gradients(self._parameters, self._config.max_grad_norm)

    def apply(self, index: int) -> None:
        """Take the optimiser step number ``index`` (from 0) and let the method follow."""
        optimisation.update(self.optimizer, optimisation.learning_rate(index, self._config))
        self.optimizer.zero_grad(set_to_none=True)
        self._step.after_update()

    def keep_buffers(self) -> list[Tensor]:
        """Return copies of all buffers, which forward passes change (running statistics)."""
        return [buffer.clone() for buffer in self._buffers()]

    def undo(self, buffers: list[Tensor]) -> None:
        """Drop the gradients and put the buffers back."""
        for buffer, old in zip(self._buffers(), buffers, strict=True):
            buffer.copy_(old)
        self.optimizer.zero_grad(set_to_none=True)

    def _buffers(self) -> list[Tensor]:
        networks = nn.ModuleList([self._step.network, *self._step.weights().values()])
        return list(networks.buffers())
