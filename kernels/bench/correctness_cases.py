"""What a case of a correctness check is, and the conditions under which our operations are judged."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch

from vidapt.kernels import dispatch
from vidapt.kernels.bench.gates import Gate
from vidapt.kernels.bench.rows import conditions
from vidapt.kernels.paste import reference


class Case(NamedTuple):
    """One problem: what it is called, and what judges it; nothing is on the device before it is judged."""

    text: str
    judge: Callable[[], Gate]


Cases = Callable[[torch.device, bool], Iterable[Case]]
"""The cases of a check on a device; few and small ones if the second argument is true."""


def named(*parts: object, **options: object) -> str:
    """Return what a case is called: its parts, then its options."""
    return " ".join([*map(str, parts), *(f"{name}={value}" for name, value in options.items())])


def size(*axes: int) -> str:
    """Return a size as the text of a case has it, such as "3x200x333"."""
    return "x".join(map(str, axes))


def truth() -> AbstractContextManager[None]:
    """Return a context in which the references run."""
    return conditions("reference", "highest")


def ours(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which dispatch chooses: the kernels on a GPU; on the CPU the caller's environment counts."""
    return conditions("" if device.type == "cuda" else os.environ.get("VIDAPT_KERNELS", ""), "highest")


def kernels_run(device: torch.device) -> bool:
    """Tell whether dispatch chooses the kernels on a device."""
    with ours(device):
        one = torch.empty(0, device=device)
        return dispatch.implementation("paste_instances", reference.paste_instances, one) is not (
            reference.paste_instances
        )


@contextmanager
def poisoned() -> Iterator[None]:
    """Let new tensors hold NaN or the largest integer, so that what an operation does not write is seen."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        deterministic.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
