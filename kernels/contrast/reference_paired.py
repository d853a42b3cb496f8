"""Plain PyTorch definition of the paired contrast, blockwise: memory grows with N + M, never with N × M.

loss_i = softplus(L_i - s_ip) with L_i the log-sum-exp over the negatives of query i: only L_i needs blocks and a
backward of its own, the rest is linear in N and left to autograd.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vidapt.kernels.contrast.blocks import MASKED, Blocks, LogSumExp, accumulate_gradients, exponential_
from vidapt.kernels.contrast.operands import (
    FIXED_MAXIMUM_LIMIT,
    comparable_labels,
    compute_dtype,
    features,
    logit_bound,
    without_autocast,
)

# From here on softplus(x) = x to the last bit of a float64.
LINEAR_FROM = 40.0


def paired_contrast(
    query: Tensor,
    key: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    query_label: Tensor | None,
    key_label: Tensor | None,
    gate: Tensor | None,
    ignore_label: int,
    normalize: bool,
    precision: str | None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each query, 0 where it does not count, and whether it counts, both (P,N).

    Labels are given where the negatives are those of another label, and None where they are all keys. Every `precision`
    is computed exactly.
    """
    indexed = not positive.is_floating_point()
    dtype = compute_dtype(query, key) if indexed else compute_dtype(query, key, positive)
    q, k = features(query, dtype, normalize), features(key, dtype, normalize)
    counted = torch.ones(query.shape[:2], dtype=torch.bool, device=query.device) if gate is None else gate
    index = None
    if indexed:
        index = torch.where((positive >= 0) & (positive < key.shape[1]), positive, -1).long()
        counted = counted & (index >= 0)
    labels: tuple[Tensor | None, ...] = (None, None, None)
    if query_label is not None and key_label is not None:
        counted = counted & (query_label.long() != ignore_label)
        labels = (*comparable_labels(query_label, key_label, dtype), (key_label.long() != ignore_label).to(dtype))
    L = NegativeLogSumExp.apply(q, k, index, *labels, temperature, logit_bound(temperature, normalize))
    p = features(positive, dtype, normalize) if index is None else gather_rows(k, index)
    margin = L - (q / temperature * p).sum(-1)
    losses = F.softplus(margin, threshold=LINEAR_FROM)
    return torch.where(counted, losses, 0), counted


def gather_rows(key: Tensor, index: Tensor) -> Tensor:
    """Return key[p, index[p, n]] as (P,N,D); any row, or zeros if there is none, where the index is -1."""
    if key.shape[1] == 0:
        return key.new_zeros(*index.shape, key.shape[2])
    return key.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, key.shape[2]))


class NegativeLogSumExp(torch.autograd.Function):
    """Log-sum-exp over the negatives of each query, (P,N), differentiable once with respect to query and key.

    The negatives are all keys, or with labels the valid keys of another label, but never the key `index` names.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        index: Tensor | None,
        query_label: Tensor | None,
        key_label: Tensor | None,
        key_valid: Tensor | None,
        temperature: float,
        bound: float | None,
    ) -> Tensor:
        """Walk the blocks once; rows without a negative give -inf."""
        ctx.save_for_backward(query, key, index, query_label, key_label, key_valid)
        blocks = Blocks(query / temperature, key)
        result = query.new_zeros(*query.shape[:2], 1)
        for rows in blocks.rows():
            log_sum = LogSumExp(result[:, rows], bound)
            for columns in blocks.columns():
                log_sum.add(negative_scores(blocks, rows, columns, index, query_label, key_label, key_valid))
            result[:, rows] = log_sum.result()
        ctx.log_sum, ctx.temperature = result, temperature
        return result[..., 0].clone()

    @staticmethod
    @without_autocast
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Recompute each block and send grad_i * exp(s_ik - L_i) to query and key."""
        query, key, *masks = ctx.saved_tensors
        blocks = Blocks(query / ctx.temperature, key)
        query_grad = torch.zeros_like(query) if ctx.needs_input_grad[0] else None
        key_grad = torch.zeros_like(key) if ctx.needs_input_grad[1] else None
        for rows in blocks.rows():
            for columns in blocks.columns():
                block = negative_scores(blocks, rows, columns, *masks).sub_(ctx.log_sum[:, rows])
                share = exponential_(block, FIXED_MAXIMUM_LIMIT).mul_(grad[:, rows, None])
                accumulate_gradients(blocks, rows, columns, share, query_grad, key_grad, 1 / ctx.temperature)
        return query_grad, key_grad, *[None] * 6


def negative_scores(
    blocks: Blocks,
    rows: slice,
    columns: slice,
    index: Tensor | None,
    query_label: Tensor | None,
    key_label: Tensor | None,
    key_valid: Tensor | None,
) -> Tensor:
    """Return a block of scores in which everything but the negatives is masked."""
    scores = blocks.scores(rows, columns)
    masked = blocks.spare(0, rows, columns)
    if query_label is not None and key_label is not None and key_valid is not None:
        same = blocks.spare(1, rows, columns)
        torch.eq(query_label[:, rows, None], key_label[:, None, columns], out=same)
        torch.add(scores, same, alpha=MASKED, out=masked).add_((1 - key_valid[:, None, columns]) * MASKED)
    else:
        masked.copy_(scores)
    if index is not None:
        mask_positive(masked, index[:, rows] - columns.start)
    return masked


def mask_positive(block: Tensor, position: Tensor) -> None:
    """Mask one column per row of a block (P,r,c), where `position` (P,r) lies inside it."""
    inside = (position >= 0) & (position < block.shape[2])
    place = position.clamp(0, block.shape[2] - 1)[..., None]
    block.scatter_add_(2, place, torch.where(inside, MASKED, 0.0).to(block.dtype)[..., None])
