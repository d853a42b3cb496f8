"""Launch the Triton kernels of the gradients of the contrastive operations."""

import torch
import triton
from torch import Tensor

from vidapt.kernels.contrast import kernel_grad
from vidapt.kernels.contrast.launch import (
    ROW_BLOCK,
    Settings,
    Side,
    dot_precision,
    dot_tile,
    row_block,
    split_count,
)
from vidapt.kernels.tiles import LAUNCH

Strided = tuple[Tensor | None, int, int, int]


def strided(features: Tensor | None) -> Strided:
    """Return a tensor (P,N,D) and its strides as kernel arguments."""
    if features is None:
        return None, 0, 0, 0
    stride_p, stride_n, stride_d = features.stride()
    return features, stride_p, stride_n, stride_d


def scaled_scalars(grad: Tensor, query: Side, scalars: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return the row scalars (3,P,N) with push and pull times grad over its peak, and that peak, the largest |grad|."""
    pairs, rows = grad.shape
    peak = torch.linalg.vector_norm(grad, torch.inf)
    scaled = torch.empty_like(scalars)
    kernel_grad.scale_rows[(triton.cdiv(rows, ROW_BLOCK), pairs)](
        grad, peak, query.order, scalars, scaled, rows, SORTED=settings.sort, BLOCK=ROW_BLOCK, **LAUNCH
    )
    return scaled, peak


def query_gradient(
    grad: Tensor, raw: Tensor, positive: Tensor | None, query: Side, key: Side, skip: Tensor, scalars: Tensor,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """Return the gradient of the caller's queries `raw` (P,N,D), where they are not the keys as well.

    `grad` (P,N) float32 is that of the losses, `positive` (P,N,D) the caller's positives where they are features.
    """
    return _gradient(
        raw, query, key, settings, skips=(skip, None), scalars=(scalars, None), grad=grad, positive=positive
    )


def key_gradient(
    grad: Tensor, raw: Tensor, query: Side, key: Side, skip: Tensor, scalars: Tensor, settings: Settings
) -> Tensor:
    """Return the gradient of the caller's keys `raw` (P,M,D), where they are not the queries as well."""
    scaled, peak = scaled_scalars(grad, query, scalars, settings)
    return _gradient(raw, key, query, settings, skips=(None, skip), scalars=(None, scaled), peak=peak)


def symmetric_gradient(
    grad: Tensor, raw: Tensor, query: Side, skip: Tensor, scalars: Tensor, settings: Settings
) -> Tensor:
    """Return the whole gradient of features (P,N,D) that are queries and keys at once."""
    scaled, peak = scaled_scalars(grad, query, scalars, settings)
    return _gradient(raw, query, query, settings, skips=(skip, skip), scalars=(scaled, scaled), peak=peak)


def positive_gradient(
    grad: Tensor, raw: Tensor, positive: Tensor, query: Side, scalars: Tensor, settings: Settings
) -> Tensor:
    """Return the gradient of positives (P,N,D) that the caller gave as features."""
    pairs, rows, length = positive.shape
    out = torch.empty((pairs, rows, length), dtype=positive.dtype, device=positive.device)
    depth = query.features.shape[-1]
    block = row_block(depth)
    kernel_grad.positive_gradients[(triton.cdiv(rows, block), pairs)](
        *strided(raw), *strided(positive), query.order, grad, scalars, out, rows, length, settings.scale,
        NORMALIZE=settings.normalize, SORTED=settings.sort, DEPTH=depth, BLOCK=block, **LAUNCH,
    )  # fmt: skip
    return out


def _gradient(
    raw: Tensor,
    rows: Side,
    columns: Side,
    settings: Settings,
    *,
    skips: tuple[Tensor | None, Tensor | None],
    scalars: tuple[Tensor | None, Tensor | None],
    grad: Tensor | None = None,
    peak: Tensor | None = None,
    positive: Tensor | None = None,
) -> Tensor:
    """Return the gradient of `raw`, the caller's form of `rows`; skips and scalars are those of rows and columns."""
    pairs, count, depth = rows.features.shape
    queries, keys = scalars[0] is not None, scalars[1] is not None
    chosen = dot_tile("sum_gradients_symmetric" if queries and keys else "sum_gradients", rows.features)
    chunks = depth // chosen["WIDTH"]
    programs = triton.cdiv(count, chosen["BLOCK_M"]) * chunks
    bytes_per_split = 4 * pairs * count * depth
    splits = split_count(pairs * programs, columns.rows, chosen["BLOCK_N"], bytes_per_split)
    whole = splits == 1 and chunks == 1
    partial = None
    if not whole:
        partial = torch.empty((splits, pairs, count, depth), dtype=torch.float32, device=raw.device)
    out = torch.empty(raw.shape, dtype=raw.dtype, device=raw.device)
    flags = dict(
        KEYS=keys, FEATURES=positive is not None, NORMALIZE=settings.normalize, SORTED=settings.sort, DEPTH=depth
    )
    sources = (*strided(raw), *strided(positive), rows.order, grad, peak)
    kernel_grad.sum_gradients[(programs, splits, pairs)](
        rows.features, columns.features, rows.labels, columns.labels, columns.start, *skips, *scalars, partial,
        *sources, out, count, columns.rows, raw.shape[-1], settings.scale, settings.ignore_label, FORM=settings.form,
        LABELS=rows.labels is not None, SKIP=settings.skip, QUERIES=queries, PARTIAL=not whole,
        PRECISION=dot_precision(rows.features), **flags, **chosen,
    )  # fmt: skip
    if partial is not None:
        block = row_block(depth)
        kernel_grad.join_gradients[(triton.cdiv(count, block), pairs)](
            partial,
            *sources,
            scalars[0],
            out,
            count,
            raw.shape[-1],
            splits,
            settings.scale,
            BLOCK=block,
            **flags,
            **LAUNCH,
        )
    return out
