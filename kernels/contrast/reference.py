"""Plain PyTorch definition of the supervised contrast, blockwise: memory grows with N + M, never with N × M.

Notation: s_ij = <q_i, k_j> / temperature; P_i are the positives and N_i the negatives of query i; L_i is the
log-sum-exp over N_i (`per_positive`) or over P_i and N_i (`supcon`).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vidapt.kernels.contrast.blocks import MASKED, Blocks, LogSumExp, accumulate_gradients, mask_diagonal
from vidapt.kernels.contrast.operands import (
    FIXED_MAXIMUM_LIMIT,
    comparable_labels,
    compute_dtype,
    features,
    logit_bound,
    without_autocast,
)

# exp(60) and log(sigmoid(-60)) are finite and exact in float32; beyond it the softplus is its argument.
LINEAR_FROM = 60.0


def supervised_contrast(
    query: Tensor,
    key: Tensor | None,
    query_label: Tensor,
    key_label: Tensor,
    *,
    temperature: float,
    form: str,
    exclude_self: bool,
    ignore_label: int,
    normalize: bool,
    precision: str | None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each query, 0 where it does not count, and whether it counts, both (N,).

    `key` None means that the keys are the queries themselves. Every `precision` is computed exactly.
    """
    dtype = compute_dtype(query) if key is None else compute_dtype(query, key)
    q = features(query, dtype, normalize)[None]
    k = None if key is None else features(key, dtype, normalize)[None]
    labels = comparable_labels(query_label[None], key_label[None], dtype)
    key_valid = (key_label.long() != ignore_label)[None].to(dtype)
    losses, positives = SupervisedLosses.apply(
        q, k, *labels, key_valid, temperature, logit_bound(temperature, normalize), form, exclude_self
    )
    counted = (query_label.long() != ignore_label) & (positives[0] > 0)
    return torch.where(counted, losses[0], 0), counted


class SupervisedLosses(torch.autograd.Function):
    """Loss of each query (P,N) and its number of positives (P,N), differentiable once with respect to query and key."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor | None,
        query_label: Tensor,
        key_label: Tensor,
        key_valid: Tensor,
        temperature: float,
        bound: float | None,
        form: str,
        exclude_self: bool,
    ) -> tuple[Tensor, Tensor]:
        """Fill the row scalars row block by row block."""
        blocks = Blocks(query / temperature, query if key is None else key)
        masks = LabelMasks(blocks, query_label, key_label, key_valid, exclude_self)
        row_losses = per_positive_rows if form == "per_positive" else supcon_rows
        losses, positives, log_sum, push = query.new_zeros(4, *query.shape[:2], 1)
        for rows in blocks.rows():
            values = row_losses(blocks, masks, rows, bound)
            for column, value in zip((losses, positives, log_sum, push), values, strict=True):
                column[:, rows] = value
        ctx.save_for_backward(query, key, query_label, key_label, key_valid, positives, log_sum, push)
        ctx.temperature, ctx.form, ctx.exclude_self = temperature, form, exclude_self
        counts = positives[..., 0].clone()
        ctx.mark_non_differentiable(counts)
        return losses[..., 0].clone(), counts

    @staticmethod
    @without_autocast
    @once_differentiable
    def backward(ctx: Any, loss_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Recompute each block and send its score gradients to query and key."""
        query, key, query_label, key_label, key_valid, positives, log_sum, push = ctx.saved_tensors
        blocks = Blocks(query / ctx.temperature, query if key is None else key)
        masks = LabelMasks(blocks, query_label, key_label, key_valid, ctx.exclude_self)
        score_grads = per_positive_score_grads if ctx.form == "per_positive" else supcon_score_grads
        row_grad = loss_grad[..., None]
        pull = row_grad / positives.clamp(min=1)
        query_grad = torch.zeros_like(query) if ctx.needs_input_grad[0] else None
        key_grad = torch.zeros_like(key) if key is not None and ctx.needs_input_grad[1] else None
        for rows in blocks.rows():
            scalars = [column[:, rows] for column in (row_grad, pull, log_sum, push)]
            for columns in blocks.columns():
                block = score_grads(blocks, masks, rows, columns, *scalars)
                target = query_grad if key is None else key_grad
                accumulate_gradients(blocks, rows, columns, block, query_grad, target, 1 / ctx.temperature)
        return query_grad, key_grad, *[None] * 7


class LabelMasks:
    """Masks of the blocks by label; with `exclude_self` key i is query i, neither its positive nor its negative."""

    def __init__(
        self, blocks: Blocks, query_label: Tensor, key_label: Tensor, key_valid: Tensor, exclude_self: bool
    ) -> None:
        self.blocks, self.exclude_self = blocks, exclude_self
        self.query_label, self.key_label = query_label[:, :, None], key_label[:, None]
        self.valid = key_valid[:, None]
        self.bias = (1 - self.valid) * MASKED

    def same(self, rows: slice, columns: slice, spare: int) -> Tensor:
        """Return 1 where key and query have one label, else 0, in the given spare buffer."""
        out = self.blocks.spare(spare, rows, columns)
        return torch.eq(self.query_label[:, rows], self.key_label[:, :, columns], out=out)

    def different(self, rows: slice, columns: slice, spare: int) -> Tensor:
        """Return 1 where the labels of key and query differ, else 0, in the given spare buffer."""
        out = self.blocks.spare(spare, rows, columns)
        return torch.ne(self.query_label[:, rows], self.key_label[:, :, columns], out=out)

    def without_self(self, block: Tensor, rows: slice, columns: slice, value: float) -> Tensor:
        """Write `value` into the block where the key is the query itself, if that is excluded; return the block."""
        if self.exclude_self:
            mask_diagonal(block, rows, columns, value)
        return block


def per_positive_rows(
    blocks: Blocks, masks: LabelMasks, rows: slice, bound: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss, number of positives, L_i and mean over P_i of sigmoid(L_i - s_ij) of a row block, each (P,r,1).

    loss_i = mean over P_i of softplus(L_i - s_ij).
    """
    count = torch.zeros_like(masks.query_label[:, rows])
    log_sum = LogSumExp(count, bound)
    for columns in blocks.columns():
        same = masks.same(rows, columns, 0)
        masked = torch.add(blocks.scores(rows, columns), same, alpha=MASKED, out=blocks.spare(1, rows, columns))
        log_sum.add(masks.without_self(masked.add_(masks.bias[:, :, columns]), rows, columns, MASKED))
        count += masks.without_self(same, rows, columns, 0).sum(-1, keepdim=True)
    L = log_sum.result()
    loss, push = torch.zeros_like(count), torch.zeros_like(count)
    for columns in blocks.columns():
        positive = masks.without_self(masks.same(rows, columns, 0), rows, columns, 0)
        margin = torch.sub(blocks.scores(rows, columns), L, out=blocks.spare(1, rows, columns))
        sigmoid = torch.neg(margin, out=blocks.spare(2, rows, columns)).sigmoid_()
        push += sigmoid.mul_(positive).sum(-1, keepdim=True)
        loss -= log_sigmoid_(margin, blocks.spare(2, rows, columns)).mul_(positive).sum(-1, keepdim=True)
    each = count.clamp(min=1)
    return loss / each, count, L, push / each


def supcon_rows(
    blocks: Blocks, masks: LabelMasks, rows: slice, bound: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss, number of positives, L_i and 1 of a row block, each (P,r,1).

    loss_i = L_i - mean over P_i of s_ij.
    """
    count = torch.zeros_like(masks.query_label[:, rows])
    pulled = torch.zeros_like(count)
    log_sum = LogSumExp(count, bound)
    for columns in blocks.columns():
        positive = masks.without_self(masks.same(rows, columns, 0), rows, columns, 0)
        count += positive.sum(-1, keepdim=True)
        scores = blocks.scores(rows, columns)
        pulled += positive.mul_(scores).sum(-1, keepdim=True)
        masked = torch.add(scores, masks.bias[:, :, columns], out=blocks.spare(1, rows, columns))
        log_sum.add(masks.without_self(masked, rows, columns, MASKED))
    L = log_sum.result()
    return L - pulled / count.clamp(min=1), count, L, torch.ones_like(count)


def log_sigmoid_(margin: Tensor, spare: Tensor) -> Tensor:
    """Return log(sigmoid(margin)) in the memory of `margin`; many times faster on the CPU than the one of PyTorch."""
    tail = torch.add(margin, LINEAR_FROM, out=spare).clamp_(max=0)
    return margin.clamp_(min=-LINEAR_FROM).sigmoid_().log_().add_(tail)


def per_positive_score_grads(
    blocks: Blocks,
    masks: LabelMasks,
    rows: slice,
    columns: slice,
    row_grad: Tensor,
    pull: Tensor,
    log_sum: Tensor,
    push: Tensor,
) -> Tensor:
    """Return the gradient of the loss with respect to a block of s_ij.

    -sigmoid(L_i - s_ij) / |P_i| on positives and exp(s_ik - L_i) * mean over P_i of sigmoid(L_i - s_ij) on negatives.
    """
    ratio = exp_ratio(blocks, rows, columns, log_sum)
    positive = torch.add(ratio, 1, out=blocks.spare(1, rows, columns)).reciprocal_()
    positive.mul_(masks.same(rows, columns, 2)).mul_(torch.where(log_sum > -torch.inf, -pull, 0))
    negative = ratio.mul_(masks.different(rows, columns, 2)).mul_(masks.valid[:, :, columns]).mul_(row_grad * push)
    return masks.without_self(negative.add_(positive), rows, columns, 0)


def supcon_score_grads(
    blocks: Blocks,
    masks: LabelMasks,
    rows: slice,
    columns: slice,
    row_grad: Tensor,
    pull: Tensor,
    log_sum: Tensor,
    push: Tensor,
) -> Tensor:
    """Return the gradient of the loss with respect to a block of s_ij.

    exp(s_ij - L_i) on positives and negatives, minus 1 / |P_i| on positives.
    """
    share = exp_ratio(blocks, rows, columns, log_sum).mul_(masks.valid[:, :, columns]).mul_(row_grad * push)
    share.sub_(masks.same(rows, columns, 2).mul_(pull))
    return masks.without_self(share, rows, columns, 0)


def exp_ratio(blocks: Blocks, rows: slice, columns: slice, log_sum: Tensor) -> Tensor:
    """Return exp(s_ij - L_i) of a block, capped where it is so large that only 1 / (1 + it) = 0 matters."""
    difference = torch.sub(blocks.scores(rows, columns), log_sum, out=blocks.spare(0, rows, columns))
    return difference.clamp_(max=FIXED_MAXIMUM_LIMIT).exp_()
