"""A Triton driver without a GPU: real launch functions compile their kernels for a chosen GPU, and launch nothing.

Triton compiles when a kernel is launched, with the specialisations that the tensors of that launch ask for. Under
`fake_driver` the tensors lie on the CPU, so that a machine without a GPU compiles exactly what a GPU would run.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from vidapt.kernels import tiles


@dataclass(frozen=True)
class Chip:
    """A GPU as Triton sees it: its architecture, the bytes of shared memory of a block, its multiprocessors."""

    target: GPUTarget
    shared_bytes: int
    multiprocessors: int


CHIPS = {
    "sm_80": Chip(GPUTarget("cuda", 80, 32), 166912, 108),
    "sm_89": Chip(GPUTarget("cuda", 89, 32), 101376, 142),
    "sm_90": Chip(GPUTarget("cuda", 90, 32), 232448, 132),
    "sm_100": Chip(GPUTarget("cuda", 100, 32), 232448, 148),
    "sm_120": Chip(GPUTarget("cuda", 120, 32), 101376, 170),
    "gfx90a": Chip(GPUTarget("hip", "gfx90a", 64), 65536, 104),
    "gfx942": Chip(GPUTarget("hip", "gfx942", 64), 65536, 304),
}

MOST_THREADS = 1024  # of one block, on every chip above

# Triton keeps compiled kernels and device properties by device number, so each driver has a number of its own.
_numbers = count()


@dataclass(frozen=True)
class Compiled:
    """One kernel as it was compiled for one chip.

    `key` is its hash in Triton's cache; `settings` are its constexpr arguments, num_warps and num_stages; `types` are
    those of its other arguments, such as "*fp16"; `shared_bytes` the shared memory that its launch asks for.
    """

    key: str
    kernel: str
    target: str
    settings: dict[str, Any]
    types: frozenset[str]
    shared_bytes: int
    files: dict[str, Path] = field(repr=False)

    def asm(self, stage: str) -> bytes:
        """Return what a stage of the compiler left: "ttgir", "ptx" and "cubin", or "amdgcn" and "hsaco"."""
        return self.files[stage].read_bytes()


@dataclass
class Recording:
    """What happened under a driver: the kernels that were compiled, by their hash, and the launches in their order.

    Where `only` names kernels, launches of others are passed over before they are compiled.
    """

    compiled: dict[str, Compiled] = field(default_factory=dict)
    launched: list[Compiled] = field(default_factory=list)
    only: Collection[str] | None = None

    def passes_over(self, *, fn: Any, **_: Any) -> bool:
        """Tell whether a kernel is not to be compiled, as Triton's hook before compilation."""
        return self.only is not None and fn.name not in self.only


@contextmanager
def fake_driver(target: str, device_name: str | None = None) -> Iterator[Recording]:
    """Make Triton believe that the current device is a `target` such as "sm_90"; yield what it compiles and launches.

    Args:
        target: a name in `CHIPS`.
        device_name: the GPU's product name, whose tiles then win over those of its architecture.

    Raises:
        ValueError: the target is unknown.
        RuntimeError: Triton is interpreting; that cannot share a process with compilation.
    """
    if target not in CHIPS:
        raise ValueError(f"target {target!r} is unknown; choose one of {', '.join(CHIPS)}")
    if knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET=1 turns compilation off; unset it and start a new process")
    recording = Recording()
    previous = _active_driver()
    driver.set_active(_FakeDriver(target, recording))
    names = () if device_name is None else (device_name,)
    try:
        with (
            knobs.compilation.scope(),
            knobs.runtime.scope(),
            mock.patch.object(tiles, "_device_name", return_value=names),
        ):
            knobs.compilation.listener = _listener(target, recording)
            knobs.runtime.jit_cache_hook = lambda *, fn, **_: (
                recording.only is not None and fn.name not in recording.only
            )
            yield recording
    finally:
        driver.set_active(previous)


def _active_driver() -> Any:
    """Return the driver to restore; None lets Triton look for a GPU again."""
    try:
        return driver.active
    except RuntimeError:
        return None


def _listener(target: str, recording: Recording) -> Any:
    """Return a compilation listener, which Triton also calls for kernels out of its cache on disk."""

    def listen(*, src: Any, metadata: dict[str, Any], metadata_group: dict[str, str], **_: Any) -> None:
        names = src.fn.arg_names
        settings = {names[path[0]]: value for path, value in src.constants.items() if len(path) == 1}
        recording.compiled[metadata["hash"]] = Compiled(
            key=metadata["hash"],
            kernel=src.fn.__name__,
            target=target,
            settings=settings | {name: metadata[name] for name in ("num_warps", "num_stages")},
            types=frozenset(_flat(src.signature.values())),
            shared_bytes=metadata["shared"],
            files={path.rpartition(".")[2]: Path(path) for path in metadata_group.values()},
        )

    return listen


def _flat(types: Iterable[Any]) -> Iterator[str]:
    for kind in types:
        if isinstance(kind, str):
            yield kind
        else:
            yield from _flat(kind)


class _FakeDriver:
    """The part of Triton's driver that compiling and launching a kernel touches (Triton 3.6 to 3.9)."""

    def __init__(self, target: str, recording: Recording) -> None:
        self.target = CHIPS[target].target
        self.recording = recording
        self.device = next(_numbers)
        self.utils = _FakeUtils(CHIPS[target])

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        """Return the launcher of one compiled kernel, which only notes that it was called."""

        def launch(*_: Any) -> None:
            self.recording.launched.append(self.recording.compiled[metadata.hash])

        return launch

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cpu


class _FakeUtils:
    def __init__(self, chip: Chip) -> None:
        self.properties = {"max_shared_mem": chip.shared_bytes, "multiprocessor_count": chip.multiprocessors}

    def get_device_properties(self, device: int) -> dict[str, int]:
        return self.properties

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[None, None, int, int, int]:
        return None, None, 0, 0, MOST_THREADS
