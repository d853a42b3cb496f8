"""Triton kernels of the gradients of the contrastive losses; see kernel.py for rows, columns and `skip`.

One kernel serves three roles. Rows as queries: G_ij from the scalars of row i. Rows as keys: G_ji from the scalars of
column j. Both, where queries and keys are one set: the sum of the two, from one tile of similarities, so that a single
pass yields the whole gradient without atomics. The tile of G is scaled by 2^14, and by the largest upstream gradient
where it holds upstream gradients, so that what matters in the sums survives half precision.
"""

import triton
import triton.language as tl

from vidapt.kernels.contrast.kernel import LN2, masked_range, split_range, valid_columns
from vidapt.kernels.contrast.kernel_operand import DEAD, inverse_norm, load_raw, load_rows, similarity
from vidapt.kernels.contrast.kernel_sort import BUCKETS

GRAD_SCALE = tl.constexpr(16384.0)


@triton.jit
def scale_rows(grad_ptr, peak_ptr, order_ptr, scalar_ptr, scaled_ptr, N, SORTED: tl.constexpr, BLOCK: tl.constexpr):
    """Write log-sum-exp, push and pull (3,P,N) with push and pull times the upstream gradient over its peak."""
    pair, pairs = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < N
    offset = pair * N + rows
    step = pairs * N
    source = rows
    if SORTED:
        source = tl.load(order_ptr + offset, mask=inside, other=0)
    peak = tl.load(peak_ptr)
    log_sum = tl.load(scalar_ptr + offset, mask=inside, other=float("inf"))
    grad = tl.load(grad_ptr + pair * N + source, mask=inside, other=0.0)
    share = tl.where(log_sum == float("inf"), 0.0, grad / tl.where(peak == 0.0, 1.0, peak))
    tl.store(scaled_ptr + offset, log_sum, mask=inside)
    for plane in tl.static_range(1, 3):
        value = tl.load(scalar_ptr + plane * step + offset, mask=inside, other=0.0)
        tl.store(scaled_ptr + plane * step + offset, value * share, mask=inside)


@triton.jit
def logit_gradient(logits, log_sum, push, pull, same, valid, skipped, FORM: tl.constexpr, INDEXED: tl.constexpr):
    """Return the gradient with respect to a tile of logits that may hold positives and skipped columns.

    per_positive: push e^(s-L) on negatives, -pull / (1 + e^(s-L)) on positives; supcon: push e^(s-L) on both, -pull on
    positives; paired: push e^(s-L) on negatives and -pull on the indexed positive.
    """
    # The bound, which only positives far above the negatives reach, keeps this and its product with the push finite.
    share = tl.exp2(tl.minimum(logits - log_sum, 100.0, tl.PropagateNan.ALL))
    counts = valid & (skipped == 0)
    if FORM == "supcon":
        return tl.where(counts, push * share, 0.0) - tl.where(counts & same, pull, 0.0)
    result = tl.where(counts & (same == 0), push * share, 0.0)
    if FORM == "per_positive":
        result -= tl.where(counts & same, pull / (1.0 + share), 0.0)
    elif INDEXED:
        result -= tl.where(skipped, pull, 0.0)
    return result


@triton.jit
def row_factors(grad_ptr, peak_ptr, scalar_ptr, pair, pairs, rows, source, N, scale, KEYS: tl.constexpr):
    """Return what turns sums of the tiles of G into gradients of the features, per row, and -g_i push_i / temperature.

    Where rows are keys the tiles hold the upstream gradients over their peak; where they are queries only, none.
    """
    inside = rows < N
    slope = scale * LN2
    if KEYS:
        factor = tl.where(inside, tl.load(peak_ptr) * (slope / GRAD_SCALE), 0.0)
        coefficient = factor
    else:
        base = scalar_ptr + pair * N + rows
        counted = tl.load(base, mask=inside, other=float("inf")) != float("inf")
        push = tl.load(base + pairs * N, mask=inside, other=0.0)
        grad = tl.where(counted, tl.load(grad_ptr + pair * N + source, mask=inside, other=0.0), 0.0)
        factor = grad * (slope / GRAD_SCALE)
        coefficient = -slope * grad * push
    return factor, coefficient


@triton.jit
def scaled_rows(base, rows, inside, stride_n, stride_d, D, factor, NORMALIZE: tl.constexpr, DEPTH: tl.constexpr):
    """Return the caller's rows in float32, normalised on request, each times its factor."""
    raw = load_raw(base, rows, inside, stride_n, stride_d, D, DEPTH)
    if NORMALIZE:
        inverse, _ = inverse_norm(raw)
        factor = factor * inverse
    return raw * factor[:, None]


@triton.jit
def store_gradient(
    gradient,
    raw_ptr,
    raw_stride_n,
    raw_stride_d,
    out_ptr,
    source,
    inside,
    D,
    NORMALIZE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Write the gradient of the caller's rows from that of the prepared rows; (., D) contiguous output."""
    if NORMALIZE:
        unit = load_raw(raw_ptr, source, inside, raw_stride_n, raw_stride_d, D, DEPTH)
        inverse, long = inverse_norm(unit)
        unit *= inverse[:, None]
        along = tl.where(long, tl.sum(gradient * unit, 1), 0.0)
        gradient = (gradient - along[:, None] * unit) * inverse[:, None]
    features = tl.arange(0, DEPTH)
    places = source.to(tl.int64)[:, None] * D + features[None, :]
    tl.store(out_ptr + places, gradient.to(out_ptr.dtype.element_ty), mask=inside[:, None] & (features < D)[None, :])


@triton.jit
def finish_gradient(
    total,
    raw_ptr,
    raw_stride_p,
    raw_stride_n,
    raw_stride_d,
    positive_ptr,
    positive_stride_p,
    positive_stride_n,
    positive_stride_d,
    order_ptr,
    grad_ptr,
    peak_ptr,
    scalar_ptr,
    out_ptr,
    pair,
    pairs,
    rows,
    N,
    D,
    scale,
    KEYS: tl.constexpr,
    FEATURES: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SORTED: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Turn sums of G times features into the gradient of the caller's rows and write it to their places."""
    inside = rows < N
    source = rows
    if SORTED:
        source = tl.load(order_ptr + pair * N + rows, mask=inside, other=0)
    factor, coefficient = row_factors(grad_ptr, peak_ptr, scalar_ptr, pair, pairs, rows, source, N, scale, KEYS)
    total *= factor[:, None]
    if FEATURES:
        total += scaled_rows(
            positive_ptr + pair * positive_stride_p, source, inside, positive_stride_n, positive_stride_d, D,
            coefficient, NORMALIZE, DEPTH,
        )  # fmt: skip
    store_gradient(
        total, raw_ptr + pair * raw_stride_p, raw_stride_n, raw_stride_d, out_ptr + pair * N * D, source, inside, D,
        NORMALIZE, DEPTH,
    )  # fmt: skip


@triton.jit
def sum_gradients(
    row_ptr,
    column_ptr,
    row_label_ptr,
    column_label_ptr,
    start_ptr,
    row_skip_ptr,
    column_skip_ptr,
    row_scalar_ptr,
    column_scalar_ptr,
    partial_ptr,
    raw_ptr,
    raw_stride_p,
    raw_stride_n,
    raw_stride_d,
    positive_ptr,
    positive_stride_p,
    positive_stride_n,
    positive_stride_d,
    order_ptr,
    grad_ptr,
    peak_ptr,
    out_ptr,
    N,
    M,
    D,
    scale,
    ignore,
    FORM: tl.constexpr,
    LABELS: tl.constexpr,
    SKIP: tl.constexpr,
    SORTED: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    FEATURES: tl.constexpr,
    NORMALIZE: tl.constexpr,
    PARTIAL: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Sum G times the column features for N rows in operand order, then finish their gradient.

    QUERIES and KEYS say which role the rows have; column scalars are needed for KEYS, row scalars for QUERIES. With
    PARTIAL the sums go to (splits,P,N,DEPTH) float32 instead, for `join_gradients` to finish.
    """
    chunks: tl.constexpr = DEPTH // WIDTH
    pair, pairs = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    row_first = tl.program_id(0) // chunks * BLOCK_M
    rows = row_first + tl.arange(0, BLOCK_M)
    chunk = tl.program_id(0) % chunks * WIDTH
    inside = rows < N
    row_base = row_ptr + pair * N * DEPTH
    column_base = column_ptr + pair * M * DEPTH
    start_base = start_ptr + pair * (BUCKETS + 1)
    labels = rows
    row_valid = inside
    if LABELS:
        labels = tl.load(row_label_ptr + pair * N + rows, mask=inside, other=ignore)
        row_valid = labels != ignore
    skip = tl.full((BLOCK_M,), -1, tl.int32)
    if QUERIES:
        skip = tl.load(row_skip_ptr + pair * N + rows, mask=inside, other=DEAD)
        scalars = row_scalar_ptr + pair * N + rows
        log_sum = tl.load(scalars, mask=inside, other=float("inf"))
        push = GRAD_SCALE * tl.load(scalars + pairs * N, mask=inside, other=0.0)
        pull = GRAD_SCALE * tl.load(scalars + 2 * pairs * N, mask=inside, other=0.0)
    low, high = masked_range(labels, tl.where(inside, skip, DEAD), start_base, M, ignore, LABELS, SKIP, SORTED)
    valid = valid_columns(start_base, M, LABELS, SORTED)
    # A positive counts whatever its label, also among the ignored keys that stand last.
    begin, end = split_range(0, tl.maximum(valid, high) if QUERIES else valid, BLOCK_N)
    row_tile = load_rows(row_base, rows, N, DEPTH, 0, WIDTH)
    total = tl.zeros((BLOCK_M, WIDTH), tl.float32)
    for first in range(begin, end, BLOCK_N):
        columns = first + tl.arange(0, BLOCK_N)
        column_tile = load_rows(column_base, columns, M, DEPTH, 0, WIDTH)
        logits = scale * similarity(
            row_tile, column_tile, row_base, rows, N, column_base, columns, M, DEPTH, WIDTH, PRECISION
        )
        masked = ((first < high) & (first + BLOCK_N > low)) | (first + BLOCK_N > valid)
        if KEYS:
            column_scalars = column_scalar_ptr + pair * M + columns
            column_log_sum = tl.load(column_scalars, mask=columns < M, other=float("inf"))
            column_push = GRAD_SCALE * tl.load(column_scalars + pairs * M, mask=columns < M, other=0.0)
            if SKIP != "none" and not QUERIES:
                column_skip = tl.load(column_skip_ptr + pair * M + columns, mask=columns < M, other=DEAD)
                here = (column_skip >= row_first) & (column_skip < row_first + BLOCK_M)
                masked = masked | (tl.max(here.to(tl.int32)) > 0)
        if masked:
            column_valid = columns < valid
            same = tl.zeros((BLOCK_M, BLOCK_N), tl.int1)
            if LABELS:
                column_labels = tl.load(column_label_ptr + pair * M + columns, mask=columns < M, other=ignore)
                same = labels[:, None] == column_labels[None, :]
                column_valid = column_valid & (column_labels != ignore)
            # Where rows are both, a row skips itself only, so that the column skips what the row skips.
            skipped = columns[None, :] == skip[:, None]
            if SKIP != "none" and not QUERIES:
                skipped = rows[:, None] == column_skip[None, :]
            gradient = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            if QUERIES:
                gradient += logit_gradient(
                    logits, log_sum[:, None], push[:, None], pull[:, None], same, column_valid[None, :], skipped, FORM,
                    SKIP == "index",
                )  # fmt: skip
            if KEYS:
                column_pull = GRAD_SCALE * tl.load(column_scalars + 2 * pairs * M, mask=columns < M, other=0.0)
                gradient += logit_gradient(
                    logits, column_log_sum[None, :], column_push[None, :], column_pull[None, :], same,
                    row_valid[:, None], skipped, FORM, SKIP == "index",
                )  # fmt: skip
        else:
            gradient = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            if QUERIES:
                gradient += push[:, None] * tl.exp2(logits - log_sum[:, None])
            if KEYS:
                share = column_push[None, :] * tl.exp2(logits - column_log_sum[None, :])
                gradient += tl.where(row_valid[:, None], share, 0.0)
        if chunks > 1:
            column_tile = load_rows(column_base, columns, M, DEPTH, chunk, WIDTH)
        total = tl.dot(gradient.to(column_tile.dtype), column_tile, total, input_precision=PRECISION)
    if PARTIAL:
        features = chunk + tl.arange(0, WIDTH)
        places = ((tl.program_id(1) * pairs + pair) * N + rows)[:, None] * DEPTH + features[None, :]
        tl.store(partial_ptr + places, total, mask=inside[:, None])
    else:
        finish_gradient(
            total, raw_ptr, raw_stride_p, raw_stride_n, raw_stride_d, positive_ptr, positive_stride_p,
            positive_stride_n, positive_stride_d, order_ptr, grad_ptr, peak_ptr, row_scalar_ptr, out_ptr, pair, pairs,
            rows, N, D, scale, KEYS, FEATURES, NORMALIZE, SORTED, DEPTH,
        )  # fmt: skip


@triton.jit(do_not_specialize=["splits"])
def join_gradients(
    partial_ptr,
    raw_ptr,
    raw_stride_p,
    raw_stride_n,
    raw_stride_d,
    positive_ptr,
    positive_stride_p,
    positive_stride_n,
    positive_stride_d,
    order_ptr,
    grad_ptr,
    peak_ptr,
    scalar_ptr,
    out_ptr,
    N,
    D,
    splits,
    scale,
    KEYS: tl.constexpr,
    FEATURES: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SORTED: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the partial sums of all splits in order and finish the gradients of the rows."""
    pair, pairs = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, DEPTH), tl.float32)
    for split in range(splits):
        total += load_rows(partial_ptr + (split * pairs + pair) * N * DEPTH, rows, N, DEPTH, 0, DEPTH)
    finish_gradient(
        total, raw_ptr, raw_stride_p, raw_stride_n, raw_stride_d, positive_ptr, positive_stride_p,
        positive_stride_n, positive_stride_d, order_ptr, grad_ptr, peak_ptr, scalar_ptr, out_ptr, pair, pairs,
        rows, N, D, scale, KEYS, FEATURES, NORMALIZE, SORTED, DEPTH,
    )  # fmt: skip


@triton.jit
def positive_gradients(
    raw_ptr,
    raw_stride_p,
    raw_stride_n,
    raw_stride_d,
    positive_ptr,
    positive_stride_p,
    positive_stride_n,
    positive_stride_d,
    order_ptr,
    grad_ptr,
    scalar_ptr,
    out_ptr,
    N,
    D,
    scale,
    NORMALIZE: tl.constexpr,
    SORTED: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradient of positives that were given as features: -g_i push_i / temperature times the query."""
    pair, pairs = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < N
    source = rows
    if SORTED:
        source = tl.load(order_ptr + pair * N + rows, mask=inside, other=0)
    _, coefficient = row_factors(grad_ptr, grad_ptr, scalar_ptr, pair, pairs, rows, source, N, scale, False)
    gradient = scaled_rows(
        raw_ptr + pair * raw_stride_p, source, inside, raw_stride_n, raw_stride_d, D, coefficient, NORMALIZE, DEPTH
    )
    store_gradient(
        gradient, positive_ptr + pair * positive_stride_p, positive_stride_n, positive_stride_d,
        out_ptr + pair * N * D, source, inside, D, NORMALIZE, DEPTH,
    )  # fmt: skip
