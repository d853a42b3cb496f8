"""Block sizes, warps and pipeline stages of every kernel and GPU, from the tables that ship beside the kernels.

Each operation has a `tiles.json`: `{target: {kernel: {problem: {"BLOCK_M": 128, ..., "num_warps": 8}}}}`. A target is
the name of a GPU ("NVIDIA H200"), its architecture ("sm_90", "gfx942") or a fallback ("cuda", "hip", "interpreter").
The first that lists the problem wins, so that a tuned GPU overrides its architecture and nothing is tuned at run time.
"""

import json
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.resources import files
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import driver

Tile = dict[str, int]

# Every launch gets these, which the default of a coming Triton would change.
LAUNCH: Tile = {"enable_fp_fusion": True}

# What the interpreter pretends to have, so that small problems are split as large ones are on a GPU.
INTERPRETER_MULTIPROCESSORS = 8


def tile(operation: str, kernel: str, problem: str) -> Tile:
    """Return all launch settings of `kernel` for a problem class such as "16bit_d128" on the current device.

    Raises:
        KeyError: no target of this machine lists the problem.
    """
    table = tile_table(operation)
    for target in targets():
        settings = table.get(target, {}).get(kernel, {}).get(problem)
        if settings is not None:
            return settings | LAUNCH
    raise KeyError(f"kernels/{operation}/tiles.json lists no {kernel} for {problem} on any of {', '.join(targets())}")


@cache
def tile_table(operation: str) -> dict[str, dict[str, dict[str, Tile]]]:
    """Return the tile table that ships with an operation."""
    text = files(f"vidapt.kernels.{operation}").joinpath("tiles.json").read_text(encoding="utf-8")
    table: dict[str, dict[str, dict[str, Tile]]] = json.loads(text)["targets"]
    return table


def targets() -> tuple[str, ...]:
    """Return the names under which tiles for the current device are listed, the most specific first."""
    if interpreted():
        return ("interpreter",)
    return _targets(driver.active.get_current_device(), driver.active)


@cache
def _targets(device: int, active: Any) -> tuple[str, ...]:
    target = active.get_current_target()
    if target.backend == "hip":
        return (*_device_name(), str(target.arch).split(":")[0], "hip")
    return (*_device_name(), f"sm_{target.arch}", "cuda")


def multiprocessors() -> int:
    """Return how many multiprocessors the current device has."""
    if interpreted():
        return INTERPRETER_MULTIPROCESSORS
    return _multiprocessors(driver.active.get_current_device(), driver.active)


def interpreted() -> bool:
    """Tell whether kernels run in Triton's interpreter."""
    return bool(triton.knobs.runtime.interpret)


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the GPU of `tensor` the current one, on which Triton launches; does nothing for CPU tensors."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@cache
def _multiprocessors(device: int, active: Any) -> int:
    return int(active.utils.get_device_properties(device)["multiprocessor_count"])


def _device_name() -> tuple[str, ...]:
    return (torch.cuda.get_device_name(),) if torch.cuda.is_available() else ()
