"""Processes and devices: one all-reduce per step instead of a wrapper around the network.

Several backward passes per step and parameters that a step does not use are both awkward under
``DistributedDataParallel``. Here every process finishes its backward passes and the gradients are averaged once.
"""

from __future__ import annotations

import atexit
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from vidapt.errors import TrainingError, UserError, VidaptError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

Precision = Literal["auto", "fp32", "bf16"]


def make_accelerator(precision: Precision = "auto", device: Literal["auto", "cpu", "cuda"] = "auto") -> Accelerator:
    """Return accelerate's view of devices and processes.

    Args:
        precision: ``auto`` is bf16 on GPUs that have it and fp32 otherwise.
        device: ``auto`` takes the GPU where there is one.

    Raises:
        UserError: If ``cuda`` is asked for and there is none, or bf16 on a GPU without it.
        TrainingError: If the processes that torchrun started cannot reach each other.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but torch sees no GPU; use cpu or auto")
    cpu = device == "cpu" or not torch.cuda.is_available()
    # accelerate keeps its settings in process-wide state that refuses other settings later in the same process.
    AcceleratorState._reset_state(reset_partial_state=not is_distributed())
    # The other processes wait while the main one evaluates, which may take longer than the default of minutes.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    with _collective():
        accelerator = Accelerator(mixed_precision=_mixed_precision(precision, cpu), cpu=cpu, kwargs_handlers=[patience])
    atexit.register(_leave_group)
    return accelerator


def _leave_group() -> None:
    # A group that is still open when the interpreter ends now and then aborts the process.
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _mixed_precision(precision: Precision, cpu: bool) -> str:
    supported = cpu or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not supported:
        raise UserError("precision bf16 was asked for, but this GPU has no bf16; use fp32 or auto")
    if precision == "auto":
        return "bf16" if supported and not cpu else "no"
    return "bf16" if precision == "bf16" else "no"


def is_distributed() -> bool:
    """Tell whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return this process's number, 0 for the main process."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def restarted() -> bool:
    """Tell whether torchrun started these processes again after one of them failed.

    torchrun --max-restarts needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment: the store that it shares by
    default still holds the addresses of the processes before the restart (pytorch issue 135712).
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"process {rank()} has no contact with another process: {first_line}") from error


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Return the mean of ``tensor`` over all processes, as a new tensor; every process must call it."""
    result = tensor.detach().clone()
    if is_distributed():
        with _collective():
            dist.all_reduce(result)
        result /= world_size()
    return result


def gather_tensor(tensor: Tensor) -> Tensor:
    """Join the tensors of all processes along their first axis, in the order of the processes.

    Every process must call it with the same shape and dtype.
    """
    if not is_distributed():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    with _collective():
        dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def all_reduce_max(values: list[int], device: torch.device) -> list[int]:
    """Return the largest value over all processes for each entry."""
    if not is_distributed():
        return values
    packed = torch.tensor(values, dtype=torch.int64, device=device)
    with _collective():
        dist.all_reduce(packed, op=dist.ReduceOp.MAX)
    return [int(value) for value in packed.tolist()]


def gather_objects(value: Any) -> list[Any]:
    """Return every process's ``value``, in the order of the processes."""
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * world_size()
    with _collective():
        dist.all_gather_object(gathered, value)
    return gathered


def from_main(value: Any) -> Any:
    """Return the main process's ``value`` on every process."""
    if not is_distributed():
        return value
    box = [value]
    with _collective():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def on_main(action: Callable[[], Result]) -> Result:
    """Run ``action`` on the main process only; every process gets its result, or raises its error."""
    outcome: tuple[Any, VidaptError | None] = (None, None)
    if rank() == 0:
        try:
            outcome = (action(), None)
        except VidaptError as error:
            outcome = (None, error)
    result, failure = from_main(outcome)
    if failure is not None:
        raise failure
    return result


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over processes with one flattened all-reduce.

    A parameter that only some processes used counts as zero on the others; one that no process used keeps no
    gradient, as in a single process, so that the optimiser leaves it alone everywhere.
    """
    if not is_distributed():
        return
    parameters = list(parameters)
    used = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
    pieces = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    flat = torch.cat([*pieces, used.to(pieces[0])])
    with _collective():
        dist.all_reduce(flat)
    flat /= world_size()
    sizes = [piece.numel() for piece in pieces]
    *means, used = flat.split([*sizes, len(parameters)])
    for parameter, mean, anywhere in zip(parameters, means, used.tolist(), strict=True):
        parameter.grad = mean.view_as(parameter) if anywhere else None


def synchronise_modules(modules: Iterable[nn.Module]) -> None:
    """Copy parameters and buffers of the main process to all others and check that they arrived.

    Raises:
        TrainingError: If the processes hold different modules or different values afterwards.
    """
    if not is_distributed():
        return
    tensors = [tensor.data for module in modules for tensor in (*module.parameters(), *module.buffers())]
    shapes = gather_objects([(tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors])
    if any(other != shapes[0] for other in shapes):
        raise TrainingError("the processes built different networks; all must run the same code and configuration")
    for tensor in tensors:
        with _collective():
            dist.broadcast(tensor, src=0)
    digests = gather_objects(digest(tensors))
    if len(set(digests)) > 1:
        raise TrainingError(f"initial weights differ between processes after the broadcast: {digests}")


def digest(tensors: Iterable[Tensor]) -> int:
    """Return a checksum of the tensors' bytes."""
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(), value)
    return value


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Make batch normalisation see the batch of all processes, in place, where the device can do that.

    ``SyncBatchNorm`` exists on GPUs only; elsewhere each process normalises with its own share and a warning says so.
    With it every process must make the same forward passes.
    """
    if not is_distributed() or not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    elif rank() == 0:
        logger.warning(
            "batch normalisation uses each process's own %s share of the batch on %s; results differ from one process "
            "(use norm: group to avoid that)",
            f"1/{world_size()}",
            device.type,
        )
