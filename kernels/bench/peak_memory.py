"""Peak memory of a call on the CPU, from the resident memory of a process that does nothing else."""

import ctypes
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from vidapt.kernels.bench.contrast_rows import ContrastRow
from vidapt.kernels.bench.rows import Street

# Writing 5 to the first resets the high-water mark that the second tells.
CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def extra_bytes_on_cpu(row: ContrastRow, provider: str, mode: str) -> int | None:
    """Return what a call adds to inputs and gradients, measured in a new process; None where the system cannot tell."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, row, provider, mode, torch.get_num_threads()).result()


def measure(row: ContrastRow, name: str, mode: str, threads: int) -> int | None:
    """Return the same in this process, which should be a new one."""
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    warm_up = row.small(device)
    provider = next(provider for provider in row.providers(device, None) if provider.name == name)
    with provider.conditions():
        provider.calls[mode](warm_up.inputs(device, 0, _no_streets))
        inputs = row.inputs(device, 0, _no_streets)
        before = reset_high_water()
        if before is None:
            return None
        provider.calls[mode](inputs)
    return max(0, high_water() - before - row.kept_bytes(mode, inputs))


def reset_high_water() -> int | None:
    """Forget the highest resident memory so far; return the present one in bytes, None where that cannot be done."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that the heap kept from before would hide what the call needs
        CLEAR.write_text("5")
        return high_water()
    except (OSError, AttributeError):
        return None


def high_water() -> int:
    """Return the highest resident memory since the last reset, in bytes."""
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _no_streets(world: int, frames: int, height: int, width: int) -> Street:
    raise AssertionError("contrast needs no streets")
