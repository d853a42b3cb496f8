"""Walk over a similarity matrix block by block, so that the whole matrix never exists.

Masks are floating 0/1 blocks rather than bool: comparing and multiplying in one dtype is vectorised on the CPU, mixing
dtypes is not, and the masks would otherwise cost as much as the exponentials.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Added to a logit, this leaves nothing of its exponential; unlike -inf it never makes a NaN.
MASKED = -1e30
# The exponential of less is 0 here: logits with a fixed maximum stay above -80, and with an online one it is lost in
# the sum. On a CPU exponentials that underflow take many times as long.
LEAST_EXPONENT = -86.0
LEAST_EXPONENTIAL = 1e-37
CPU_BLOCK_ELEMENTS = 2**18
GPU_BLOCK_ELEMENTS = 2**22
MIN_ROWS = 128


class Blocks:
    """Row and column blocks of query @ key^T for query (P,N,D) and key (P,M,D), written into reusable buffers.

    A buffer is valid until it is asked for again; `scores` and every `spare(index, ...)` are different buffers.
    """

    def __init__(self, query: Tensor, key: Tensor) -> None:
        self.query, self.key = query, key
        pairs, self.row_total = query.shape[:2]
        self.column_total = key.shape[1]
        budget = CPU_BLOCK_ELEMENTS if query.device.type == "cpu" else GPU_BLOCK_ELEMENTS
        self.column_step = _step(self.column_total, budget // max(1, pairs * MIN_ROWS))
        self.row_step = _step(self.row_total, budget // max(1, pairs * self.column_step))
        self._buffers: dict[int, Tensor] = {}
        self._held: tuple[int, int] | None = None

    def rows(self) -> Iterator[slice]:
        """Yield the row slices in order."""
        return _slices(self.row_total, self.row_step)

    def columns(self) -> Iterator[slice]:
        """Yield the column slices in order."""
        return _slices(self.column_total, self.column_step)

    def scores(self, rows: slice, columns: slice) -> Tensor:
        """Return the (P,r,c) block of similarities; asking for it again costs nothing, so it must not be changed."""
        scores = self.spare(-1, rows, columns)
        if self._held != (rows.start, columns.start):
            torch.bmm(self.query[:, rows], self.key[:, columns].mT, out=scores)
            self._held = (rows.start, columns.start)
        return scores

    def spare(self, index: int, rows: slice, columns: slice) -> Tensor:
        """Return an uninitialised (P,r,c) buffer; equal `index` means equal memory."""
        shape = (self.query.shape[0], rows.stop - rows.start, columns.stop - columns.start)
        if index not in self._buffers:
            size = shape[0] * self.row_step * self.column_step
            self._buffers[index] = self.query.new_empty(size)
        return self._buffers[index][: shape[0] * shape[1] * shape[2]].view(shape)


class LogSumExp:
    """Running log-sum-exp of each row over column blocks, with a fixed maximum where the logits are bounded.

    `bound` is an upper bound of all logits, or None for an online maximum. Rows without any unmasked logit give -inf.
    """

    def __init__(self, rows: Tensor, bound: float | None) -> None:
        self.online = bound is None
        self.maximum = torch.full_like(rows, -torch.inf if bound is None else bound)
        self.total = torch.zeros_like(rows)

    def add(self, masked: Tensor) -> None:
        """Take in a (P,r,c) block of masked logits, which is overwritten."""
        if self.online:
            maximum = torch.maximum(self.maximum, masked.amax(-1, keepdim=True))
            self.total *= torch.exp(self.maximum - maximum)
            self.maximum = maximum
        self.total += exponential_(masked.sub_(self.maximum)).sum(-1, keepdim=True)

    def result(self) -> Tensor:
        """Return the log-sum-exp so far, (P,r,1)."""
        return torch.where(self.maximum > MASKED / 2, self.maximum + self.total.log(), -torch.inf)


def exponential_(block: Tensor, largest: float | None = None) -> Tensor:
    """Replace a block by its exponential, capped at that of `largest`, and 0 where it is masked; return it."""
    return torch.threshold_(block.clamp_(LEAST_EXPONENT, largest).exp_(), LEAST_EXPONENTIAL, 0.0)


def accumulate_gradients(
    blocks: Blocks,
    rows: slice,
    columns: slice,
    score_grad: Tensor,
    query_grad: Tensor | None,
    key_grad: Tensor | None,
    scale: float,
) -> None:
    """Add what a block of score gradients (P,r,c) sends to query and key; `blocks.query` is the query times `scale`."""
    if query_grad is not None:
        query_grad[:, rows].baddbmm_(score_grad, blocks.key[:, columns], alpha=scale)
    if key_grad is not None:
        key_grad[:, columns].baddbmm_(score_grad.mT, blocks.query[:, rows])


def mask_diagonal(block: Tensor, rows: slice, columns: slice, value: float) -> None:
    """Write `value` where the row number in the whole matrix equals the column number."""
    if rows.start < columns.stop and columns.start < rows.stop:
        block.diagonal(rows.start - columns.start, dim1=-2, dim2=-1).fill_(value)


def _step(total: int, wanted: int) -> int:
    return max(1, min(total, wanted))


def _slices(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, total)) for start in range(0, total, step))
