"""What the engine trains (``Step``) and what it feeds it (the parts of a step's batch)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from vidapt.clip import ClipBatch
from vidapt.errors import TrainingError

Loader = Callable[[int], Iterator[ClipBatch]]
"""Returns the endless stream of batches from a given step on, ``accumulate`` parts per step."""

Part = tuple[ClipBatch, ClipBatch | None]
"""Source and target clips of one part of a step's batch."""


class Step(Protocol):
    """A training method. The engine knows nothing else about it.

    With several processes every process holds an equal copy: whatever ``after_update`` derives from the data must be
    reduced over the processes by the step itself (``distributed.all_reduce_mean``).
    """

    @property
    def network(self) -> nn.Module:
        """What is optimised; it has a submodule ``encoder``. The engine keeps it in training mode."""
        ...

    def weights(self) -> dict[str, nn.Module]:
        """Return the networks that are saved as ``<name>.safetensors``, among them ``network``."""
        ...

    def begin_step(self) -> None:
        """Drop what the previous step left for ``after_update``, which does not follow a step that is skipped."""
        ...

    def losses(self, source: ClipBatch, target: ClipBatch | None) -> Iterable[tuple[str, Tensor]]:
        """Yield scalar losses, already weighted, one graph at a time; one that needs no gradient is only logged.

        A skipped step must leave no trace: buffers of the networks are put back by the engine, anything else may
        change in ``after_update`` only. The names ``loss`` and ``grad_norm`` are the engine's. A value that all
        processes share comes from ``agreement.mean_in_losses``: another reduction would hang where a process fails.
        """
        ...

    def after_update(self) -> None:
        """Follow an optimiser step: teacher, memory bank, counters."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return state outside ``weights()``: nested dicts and lists of tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned; tensors arrive on the CPU."""
        ...


def read_parts(
    source: Iterator[ClipBatch], target: Iterator[ClipBatch] | None, accumulate: int
) -> Generator[list[Part], None, None]:
    """Yield the parts of each step, all loaded before any is used, so that a failing loader leaves no half step."""
    while True:
        try:
            yield [(next(source), None if target is None else next(target)) for _ in range(accumulate)]
        except StopIteration:
            raise TrainingError("the training data ended before the run did; loaders must be endless") from None


def clip_names(part: Part) -> list[str]:
    """Return one readable name per clip of a part."""
    named = []
    for domain, batch in zip(("source", "target"), part, strict=True):
        if batch is not None:
            for video, frames, sample in zip(batch.videos, batch.indices.tolist(), batch.samples.tolist(), strict=True):
                named.append(f"{domain} {video} frames {frames[0]}-{frames[-1]} (sample {sample})")
    return named
