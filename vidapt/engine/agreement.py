"""How the processes that work on one step learn that one of them failed.

A process that fails while it computes takes part in one last exchange, ``agree``. The others reach the same exchange
after their losses, or within them before a value that all processes share, so that nobody waits for a reduction that
never comes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidapt.engine import distributed
from vidapt.errors import TrainingError


class OtherProcessError(TrainingError):
    """Raised within the losses of a step that another process could not compute."""


@dataclass(frozen=True)
class Status:
    """What a process tells the others.

    Attributes:
        broken: A loss or gradient is not finite.
        stop: Number of the stop signal that arrived, 0 = none.
        save: A checkpoint was asked for.
        failed: An exception ended the step.
    """

    broken: bool = False
    stop: int = 0
    save: bool = False
    failed: bool = False


def agree(status: Status, device: torch.device) -> Status:
    """Return what holds for any process, in ``stop`` the largest number; every process must call it.

    Raises:
        TrainingError: If a process is gone.
    """
    mine = [int(status.broken), status.stop, int(status.save), int(status.failed)]
    broken, stop, save, failed = distributed.all_reduce_max(mine, device)
    return Status(bool(broken), stop, bool(save), bool(failed))


def mean_in_losses(tensor: Tensor) -> Tensor:
    """``distributed.all_reduce_mean`` for ``Step.losses``, where another process may have failed.

    With several processes on GPUs this waits for the device. Every process must call it equally often in a step.

    Raises:
        OtherProcessError: If one did.
        TrainingError: If a process is gone.
    """
    if distributed.is_distributed() and agree(Status(), tensor.device).failed:
        raise OtherProcessError("another process failed while it computed its losses; its message says why")
    return distributed.all_reduce_mean(tensor)


def waits_in_forward(network: nn.Module) -> bool:
    """Tell whether other processes may wait in a forward or backward pass, where no ``agree`` reaches them."""
    return any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
