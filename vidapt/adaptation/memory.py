"""A memory of pixel features for each class, from which pixel contrast takes further samples (PiPa++)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vidapt.adaptation.cells import at_cells, rows_at
from vidapt.clip import IGNORE
from vidapt.config_method import MemoryBankConfig
from vidapt.errors import CheckpointError


def draw_cells(
    labels: Tensor, classes: int, count: int, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Draw up to ``count`` cells of every class from every clip, without replacement and all of them equally likely.

    Args:
        labels: uint8 (B,L) classes of the clips' cells; 255 and everything from ``classes`` on is never drawn.
        classes: Number C of classes.
        count: Most cells K of a class in a clip.
        generators: One per clip, on the device of the labels.

    Returns:
        Index int64 (B,C,K) of the cells, and bool (B,C,K), False where a class has fewer cells; the index means
        nothing there.
    """
    length = labels.shape[1]
    noise = torch.stack([torch.rand(length, generator=generator, device=labels.device) for generator in generators])
    order = (labels + noise.double()).argsort(1)
    sizes = torch.zeros(len(labels), IGNORE + 1, dtype=torch.int64, device=labels.device)
    sizes.scatter_add_(1, labels.long(), torch.ones_like(order))
    start = (sizes.cumsum(1) - sizes)[:, :classes, None]
    rank = torch.arange(count, device=labels.device)
    index = order.gather(1, (start + rank).clamp_max(length - 1).flatten(1))
    return index.unflatten(1, (classes, count)), rank < sizes[:, :classes, None]


class MemoryBank:
    """A ring of L2-normalised, detached features for each class.

    Nothing changes between ``stage`` and ``commit``: a step that is skipped discards what it staged. With several
    processes every process holds an equal bank, because ``commit`` pushes the clips of all of them.

    Args:
        classes: Number C of classes; labels from C on, 255 among them, are never stored.
        dim: Width D of the features.
        config: Rows per class, and rows that each clip adds.
        device: Where the bank lives.
    """

    def __init__(self, classes: int, dim: int, config: MemoryBankConfig, device: torch.device | str) -> None:
        self._classes, self._size, self._per_step = classes, config.size, config.per_step
        # the last row takes what is not to be stored, so that pushing needs no selection of valid rows
        self._rows = torch.zeros(classes * config.size + 1, dim, device=device)
        self._filled = torch.zeros(classes, dtype=torch.int64, device=device)
        self._next = torch.zeros(classes, dtype=torch.int64, device=device)
        self._staged: list[tuple[Tensor, Tensor]] = []

    def rows(self) -> tuple[Tensor, Tensor]:
        """All rows, float32 (C·size,D), and their classes, int64 (C·size,), 255 where a row is not filled yet.

        The features are a view that the next ``commit`` changes: use them before.
        """
        slot = torch.arange(self._size, device=self._filled.device)
        category = torch.arange(self._classes, device=self._filled.device)[:, None]
        return self._rows[:-1], torch.where(slot < self._filled[:, None], category, IGNORE).flatten()

    @torch.no_grad()
    def stage(self, embedding: Tensor, semantic: Tensor, generators: Sequence[torch.Generator]) -> None:
        """Draw cells of each clip and class and keep their features for the next ``commit``.

        Args:
            embedding: (B,T,D,h,w) projected features, not normalised; they are detached.
            semantic: uint8 (B,T,H,W) labels, 255 = ignore.
            generators: One per clip, on the embedding's device.
        """
        labels = at_cells(semantic, (embedding.shape[-2], embedding.shape[-1])).flatten(1)
        index, valid = draw_cells(labels, self._classes, self._per_step, generators)
        rows = rearrange(embedding, "b t d h w -> b (t h w) d")
        drawn = F.normalize(rows_at(rows, index.flatten(1)).float(), dim=-1, eps=1e-6)
        self._staged.append((drawn.unflatten(1, valid.shape[1:]), valid))

    @torch.no_grad()
    def commit(self, gather: Callable[[Tensor], Tensor] | None = None) -> None:
        """Push what was staged, clip after clip; the oldest rows of a class are overwritten first.

        Args:
            gather: Concatenates a tensor (float32 or bool, of one shape) over the processes along dimension 0 in the
                order of their ranks, which is the global order of the clips; None for one process.
        """
        if not self._staged:
            return
        features, valid = (torch.cat(parts) for parts in zip(*self._staged, strict=True))
        if gather is not None:
            features, valid = gather(features), gather(valid)
        self._push(rearrange(features, "b c k d -> c (b k) d"), rearrange(valid, "b c k -> c (b k)"))
        self.discard()

    def discard(self) -> None:
        """Forget what was staged."""
        self._staged.clear()

    def state_dict(self) -> dict[str, Any]:
        """Copies of the rows (C,size,D), of the number of filled ones (C,) and of the next slot (C,)."""
        rows = self._rows[:-1].view(self._classes, self._size, -1)
        return {"rows": rows.clone(), "filled": self._filled.clone(), "next": self._next.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned, from any device; staged rows are forgotten.

        Raises:
            CheckpointError: If the stored bank has another number of classes or rows, or another width.
        """
        stored, own = tuple(state["rows"].shape), (self._classes, self._size, self._rows.shape[1])
        if stored != own:
            raise CheckpointError(
                f"the checkpoint's memory bank has (classes, rows, width) {stored}, this recipe asks for {own}; "
                "set method.pixel_contrast.bank.size and model.pixel_projection.dim to those of the run"
            )
        self._rows[:-1] = state["rows"].flatten(0, 1).to(self._rows)
        self._filled.copy_(state["filled"])
        self._next.copy_(state["next"])
        self.discard()

    def _push(self, features: Tensor, valid: Tensor) -> None:
        """Write the valid ones of (C,N,D) features into their classes' rings in order; the last ``size`` stay."""
        rank, pushed = valid.cumsum(1) - 1, valid.sum(1)
        kept = valid & (rank >= pushed[:, None] - self._size)
        slot = (self._next[:, None] + rank) % self._size
        first = torch.arange(self._classes, device=valid.device)[:, None] * self._size
        row = torch.where(kept, first + slot, len(self._rows) - 1)
        self._rows.index_copy_(0, row.flatten(), features.flatten(0, 1))
        self._next.copy_((self._next + pushed) % self._size)
        self._filled.copy_((self._filled + pushed).clamp_max(self._size))
