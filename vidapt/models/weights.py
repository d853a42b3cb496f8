"""Weights files: safetensors with a header of strings, written atomically and loaded strictly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vidapt.errors import CheckpointError, StorageError

_NAMES_SHOWN = 3


def write_weights(state: Mapping[str, Tensor], path: Path, header: Mapping[str, str]) -> None:
    """Write tensors and header under a temporary name beside ``path``, then rename.

    Raises:
        StorageError: If writing fails; an older file at ``path`` is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, temporary, dict(header))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written ({error}); free space or choose another folder") from error


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors (on the CPU) and header.

    Raises:
        CheckpointError: If the file is missing, truncated or no safetensors file.
    """
    if not path.is_file():
        raise CheckpointError(f"weights file {path} does not exist; give a .safetensors file")
    try:
        with safe_open(path, "pt") as file:
            header = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"weights file {path} cannot be read: it is truncated or no safetensors file ({error})"
        ) from error


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], source: str, *, optional: tuple[str, ...] = ()
) -> None:
    """Load a state dict that must name every tensor of ``module``, each of its shape, and nothing else.

    Args:
        module: What is loaded into.
        state: Tensors by name.
        source: Where they come from, for the error.
        optional: Beginnings of names that either side may have alone; ``module`` keeps what ``state`` lacks.

    Raises:
        CheckpointError: Otherwise, with the first names that differ; ``module`` is unchanged.
    """
    expected = module.state_dict()
    alone = {name for name in expected.keys() ^ state.keys() if name.startswith(optional)} if optional else set()
    problems = {
        "missing": sorted(expected.keys() - state.keys() - alone),
        "unexpected": sorted(state.keys() - expected.keys() - alone),
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
            for name, value in expected.items()
            if name in state and state[name].shape != value.shape
        ],
    }
    if any(problems.values()):
        text = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:_NAMES_SHOWN])}" for kind, names in problems.items() if names
        )
        raise CheckpointError(f"weights {source} belong to another architecture ({text})")
    module.load_state_dict(expected | {name: value for name, value in state.items() if name in expected})
