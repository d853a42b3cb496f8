"""Triton kernels that prepare the operands of the contrastive losses, and how every kernel reads their rows."""

import triton
import triton.language as tl

NORM_EPS = tl.constexpr(1e-6)
DEAD = tl.constexpr(-2)


@triton.jit
def load_rows(base, rows, count, DEPTH: tl.constexpr, first, WIDTH: tl.constexpr):
    """Return columns first..first+WIDTH of contiguous operand rows (., DEPTH); zeros from row `count` on."""
    columns = first + tl.arange(0, WIDTH)
    return tl.load(
        base + rows.to(tl.int64)[:, None] * DEPTH + columns[None, :], mask=(rows < count)[:, None], other=0.0
    )


@triton.jit
def similarity(
    row_tile,
    column_tile,
    row_base,
    rows,
    row_count,
    column_base,
    columns,
    column_count,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the inner products of two tiles of rows; wider rows than the tiles are walked in chunks of WIDTH."""
    if DEPTH == WIDTH:
        product = tl.dot(row_tile, tl.trans(column_tile), input_precision=PRECISION)
    else:
        product = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
        for first in range(0, DEPTH, WIDTH):
            left = load_rows(row_base, rows, row_count, DEPTH, first, WIDTH)
            right = load_rows(column_base, columns, column_count, DEPTH, first, WIDTH)
            product = tl.dot(left, tl.trans(right), product, input_precision=PRECISION)
    return product


@triton.jit
def load_raw(base, rows, inside, stride_n, stride_d, D, DEPTH: tl.constexpr):
    """Return whole feature rows of the caller's tensor as float32, zeros beyond D."""
    columns = tl.arange(0, DEPTH)
    places = rows.to(tl.int64)[:, None] * stride_n + columns.to(tl.int64)[None, :] * stride_d
    return tl.load(base + places, mask=inside[:, None] & (columns < D)[None, :], other=0.0).to(tl.float32)


@triton.jit
def inverse_norm(raw):
    """Return 1 / max(L2 norm, 1e-6) of each row and whether the norm was that long."""
    norm = tl.sqrt_rn(tl.sum(raw * raw, 1))
    return 1.0 / tl.maximum(norm, NORM_EPS), norm >= NORM_EPS


@triton.jit
def prepare_operand(
    raw_ptr,
    stride_p,
    stride_n,
    stride_d,
    order_ptr,
    operand_ptr,
    N,
    D,
    NORMALIZE: tl.constexpr,
    SORTED: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write rows (P,N,DEPTH) in operand order and dtype, normalised on request and padded with zeros beyond D."""
    pair = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < N
    source = rows
    if SORTED:
        source = tl.load(order_ptr + pair * N + rows, mask=inside, other=0)
    raw = load_raw(raw_ptr + pair * stride_p, source, inside, stride_n, stride_d, D, DEPTH)
    if NORMALIZE:
        inverse, _ = inverse_norm(raw)
        raw = raw * inverse[:, None]
    places = (pair * N + rows.to(tl.int64))[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :]
    tl.store(operand_ptr + places, raw.to(operand_ptr.dtype.element_ty), mask=inside[:, None])


@triton.jit
def prepare_skip(
    label_ptr,
    positive_ptr,
    gate_ptr,
    order_ptr,
    key_place_ptr,
    skip_ptr,
    N,
    M,
    ignore,
    LABELS: tl.constexpr,
    GATE: tl.constexpr,
    SKIP: tl.constexpr,
    SORTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write `skip` (P,N): where each row's own or positive key stands among the sorted keys, -1 or DEAD."""
    pair = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < N
    source = rows
    if SORTED:
        source = tl.load(order_ptr + pair * N + rows, mask=inside, other=0)
    live = inside
    if LABELS:
        live &= tl.load(label_ptr + pair * N + rows, mask=inside, other=ignore) != ignore
    if GATE:
        live &= tl.load(gate_ptr + pair * N + source, mask=inside, other=0) != 0
    skip = tl.full((BLOCK,), -1, tl.int32)
    if SKIP != "none":
        place = source.to(tl.int64)
        if SKIP == "index":
            place = tl.load(positive_ptr + pair * N + source, mask=inside, other=-1).to(tl.int64)
            live &= (place >= 0) & (place < M)
        if SORTED:
            place = tl.load(key_place_ptr + pair * M + place, mask=live, other=0)
        skip = place.to(tl.int32)
    tl.store(skip_ptr + pair * N + rows, tl.where(live, skip, DEAD), mask=inside)
