"""What a row of the suite is: a problem, its inputs, who computes it, what is right, and what it costs at least."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from vidapt.kernels.bench.floors import Work
from vidapt.kernels.bench.gates import Answer, Gate

OURS = "vidapt"
CALL = "call"  # the mode of operations that have one


class Street(NamedTuple):
    """Labels of a street video: semantic uint8 (T,H,W) train ids and ids int32 (T,H,W), 0 = none, at most 60 others."""

    semantic: Tensor
    ids: Tensor


class Streets(Protocol):
    """Where the rows that paste and measure instances get their label maps from."""

    def __call__(self, world: int, frames: int, height: int, width: int) -> Street:
        """Return `frames` frames of the street number `world`, height x width, on the CPU."""


@dataclass(frozen=True)
class Provider:
    """One implementation of a row's operation.

    Attributes:
        name: as tables show it; those of ours begin with `OURS`.
        calls: by mode, what is timed; each takes the row's inputs.
        answer: what the gate judges, from the row's inputs.
        precision: number format of the operands, a key of `gates.FROBENIUS`; the gate goes by it.
        kernels: what `VIDAPT_KERNELS` is set to while it runs.
        needs_bytes: estimated peak of memory; where there is less the provider is skipped.
        compiles: whether its first call compiles for long; then only the problem that is timed is judged.
    """

    name: str
    calls: Mapping[str, Callable[[Any], Any]]
    answer: Callable[[Any], Answer]
    precision: str = "exact"
    kernels: str = "reference"
    needs_bytes: int = 0
    compiles: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is the package's own operation as dispatch chooses it on this device."""
        return self.name.startswith(OURS)

    def conditions(self) -> AbstractContextManager[None]:
        """Return a context in which the provider runs as it should."""
        return conditions(self.kernels, "high" if self.precision == "tf32" else "highest")

    def judged_answer(self, inputs: Any) -> Answer:
        """Return its answer under its conditions."""
        with self.conditions():
            return self.answer(inputs)


@contextmanager
def conditions(kernels: str, products: str) -> Iterator[None]:
    """Set `VIDAPT_KERNELS`, and how precisely PyTorch multiplies float32 matrices on a GPU ("highest" or "high")."""
    before = os.environ.get("VIDAPT_KERNELS"), torch.get_float32_matmul_precision()
    os.environ["VIDAPT_KERNELS"] = kernels
    torch.set_float32_matmul_precision(products)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[1])
        os.environ.pop("VIDAPT_KERNELS")
        if before[0] is not None:
            os.environ["VIDAPT_KERNELS"] = before[0]


@dataclass(frozen=True)
class Row(ABC):
    """One problem of the suite.

    Attributes:
        id: such as "P2" or "K1.512t4.fp32.20"; what stands before the first dot names the family.
        about: what it stands for.
    """

    modes: ClassVar[tuple[str, ...]]
    """What is timed; the last one is what charts and ratios go by."""
    baseline: ClassVar[str]
    """Provider that ratios are taken over."""
    group: ClassVar[str]
    """Title of the table in which the row stands."""

    id: str
    about: str

    @property
    def family(self) -> str:
        """The first part of the id, by which `--only` takes all rows of a kind."""
        return self.id.partition(".")[0]

    @abstractmethod
    def shape(self) -> dict[str, int | float | str]:
        """Return the sizes of the problem by name, as tables and JSON show them."""

    @abstractmethod
    def scaled(self, limit: int) -> "Row":
        """Return the same structure with sizes divided by powers of two, so that the row costs at most `limit`."""

    @abstractmethod
    def small(self, device: torch.device) -> "Row | None":
        """Return a smaller problem of the same structure for the gate; None if the row itself is judged cheaply."""

    @abstractmethod
    def inputs(self, device: torch.device, seed: int, streets: Streets) -> Any:
        """Return one set of inputs."""

    def clear(self, inputs: Any) -> None:  # noqa: B027 - most rows have nothing to clear
        """Undo between two calls what must not pile up, such as gradients."""

    @abstractmethod
    def providers(self, device: torch.device, compiled: str | None) -> list[Provider]:
        """Return who is compared, ours first; `compiled` is the mode of torch.compile, None to leave it out."""

    @abstractmethod
    def judge(self, problem: str, inputs: Any) -> Callable[[Provider], Gate]:
        """Return the gate on these inputs; `problem` is what it is called in the result."""

    @abstractmethod
    def work(self, mode: str, inputs: Any) -> tuple[Work, ...]:
        """Return the passes that a mode needs at least; empty where no floor makes sense."""

    def measured(self, inputs: Any) -> dict[str, int | float | str]:
        """Return what only the inputs tell about the problem, to be shown with its sizes."""
        return {}

    @abstractmethod
    def kept_bytes(self, mode: str, inputs: Any) -> int:
        """Return the bytes of outputs and gradients that a call leaves, which are no extra memory."""


def halvings(cost: float, limit: float, by: int) -> int:
    """Return the least power of two f with cost / f ** by <= limit."""
    factor = 1
    while cost / factor**by > limit:
        factor *= 2
    return factor
