"""Triton kernels of the contrastive losses: row sums over negatives and positives, and the losses of the rows.

Logits are in units of log2: s2_ij = <q_i, k_j> * log2(e) / temperature. Rows are queries in operand order (sorted by
label or as given). `skip` names one column per row that is no negative of it: the row itself, or its positive; -1 is
none, and -2 marks a row that takes no part. Tiles of columns without a label of the row tile and without a skipped
column hold negatives only and are summed without any mask.
"""

import triton
import triton.language as tl

from vidapt.kernels.contrast.kernel_operand import DEAD, inverse_norm, load_raw, load_rows, similarity
from vidapt.kernels.contrast.kernel_sort import BUCKETS, IGNORED, bucket_of

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def masked_range(
    labels, skip, start_ptr, count, ignore, LABELS: tl.constexpr, SKIP: tl.constexpr, SORTED: tl.constexpr
):
    """Return the column range that holds every label and every skipped column of the rows that take part."""
    live = skip != DEAD
    low = count
    high = count * 0
    if LABELS:
        if SORTED:
            bucket = bucket_of(labels, ignore)
            low = tl.min(tl.where(live, tl.load(start_ptr + bucket), count))
            high = tl.max(tl.where(live, tl.load(start_ptr + bucket + 1), 0))
        else:
            low = count * 0
            high = count
    if SKIP != "none":
        low = tl.minimum(low, tl.min(tl.where(skip >= 0, skip, count)))
        high = tl.maximum(high, tl.max(skip + 1))
    return low, high


@triton.jit
def valid_columns(start_ptr, count, LABELS: tl.constexpr, SORTED: tl.constexpr):
    """Return how many of the leading columns can be negatives; sorted columns with the ignore label stand last."""
    valid = count
    if LABELS and SORTED:
        valid = tl.load(start_ptr + IGNORED)
    return valid


@triton.jit
def split_range(first, last, BLOCK: tl.constexpr):
    """Return the part of first..last, in whole blocks, that falls to this program of axis 1."""
    splits = tl.num_programs(1)
    blocks = tl.cdiv(tl.cdiv(tl.maximum(last - first, 0), BLOCK), splits)
    begin = first + tl.program_id(1) * blocks * BLOCK
    return begin, tl.minimum(begin + blocks * BLOCK, last)


@triton.jit
def add_exponentials(total, peak, logits, FIXED: tl.constexpr):
    """Add 2^(logits - peak) of each row to its total, raising the peak first where it is not fixed."""
    if FIXED:
        return total + tl.sum(tl.exp2(logits - peak[:, None]), 1), peak
    higher = tl.maximum(peak, tl.max(logits, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    return total * tl.exp2(peak - base) + tl.sum(tl.exp2(logits - base[:, None]), 1), higher


@triton.jit
def add_three(a, b, c, d, e, f):
    """Return the sums of two triples."""
    return a + d, b + e, c + f


@triton.jit
def sum_three(first, second, third):
    """Return the row sums of three tiles; reduced together, they and their masks keep one layout."""
    return tl.reduce((first, second, third), 1, add_three)


@triton.jit
def sum_rows(
    query_ptr,
    key_ptr,
    query_label_ptr,
    key_label_ptr,
    start_ptr,
    skip_ptr,
    partial_ptr,
    N,
    M,
    scale,
    bound,
    ignore,
    FORM: tl.constexpr,
    LABELS: tl.constexpr,
    SKIP: tl.constexpr,
    SORTED: tl.constexpr,
    FIXED: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Sum the exponentials of each row over its split of the columns, into planes (4,splits,P,N) of float32.

    Planes: total and peak (log-sum-exp = peak + log2(total)); for supcon also the sum and the number of positive
    logits. The log-sum-exp runs over the negatives, for supcon over positives and negatives.
    """
    pair, pairs = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    query_base = query_ptr + pair * N * DEPTH
    key_base = key_ptr + pair * M * DEPTH
    start_base = start_ptr + pair * (BUCKETS + 1)
    skip = tl.load(skip_ptr + pair * N + rows, mask=rows < N, other=DEAD)
    labels = rows
    if LABELS:
        labels = tl.load(query_label_ptr + pair * N + rows, mask=rows < N, other=ignore)
    low, high = masked_range(labels, skip, start_base, M, ignore, LABELS, SKIP, SORTED)
    valid = valid_columns(start_base, M, LABELS, SORTED)
    last = tl.where(tl.max((skip != DEAD).to(tl.int32)) > 0, valid, 0)
    begin, end = split_range(0, last, BLOCK_N)
    query = load_rows(query_base, rows, N, DEPTH, 0, WIDTH)
    total = tl.zeros((BLOCK_M,), tl.float32)
    peak = tl.full((BLOCK_M,), bound, tl.float32)
    pulled = tl.zeros((BLOCK_M,), tl.float32)
    positives = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(begin, end, BLOCK_N):
        columns = first + tl.arange(0, BLOCK_N)
        key = load_rows(key_base, columns, M, DEPTH, 0, WIDTH)
        logits = scale * similarity(query, key, query_base, rows, N, key_base, columns, M, DEPTH, WIDTH, PRECISION)
        if ((first < high) & (first + BLOCK_N > low)) | (first + BLOCK_N > valid):
            counts = (columns < valid)[None, :]
            if LABELS:
                key_labels = tl.load(key_label_ptr + pair * M + columns, mask=columns < M, other=ignore)
                same = labels[:, None] == key_labels[None, :]
                counts = counts & (key_labels != ignore)[None, :]
            if SKIP != "none":
                counts = counts & (columns[None, :] != skip[:, None])
            if FORM == "supcon":
                positive = same & counts
                sums = sum_three(tl.where(positive, logits, 0.0), positive.to(tl.float32), logits)
                pulled += sums[0]
                positives += sums[1]
            elif LABELS:
                counts = counts & (same == 0)
            logits = tl.where(counts, logits, float("-inf"))
        total, peak = add_exponentials(total, peak, logits, FIXED)
    plane = tl.num_programs(1) * pairs * N
    out = partial_ptr + (tl.program_id(1) * pairs + pair) * N + rows
    tl.store(out, total, mask=rows < N)
    tl.store(out + plane, peak, mask=rows < N)
    if FORM == "supcon":
        tl.store(out + 2 * plane, pulled, mask=rows < N)
        tl.store(out + 3 * plane, positives, mask=rows < N)


@triton.jit
def joined_log_sum(partial_ptr, offset, step, inside, splits, FIXED: tl.constexpr):
    """Return the log-sum-exp (log2) of rows from the totals and peaks of all splits; -inf without any term."""
    plane = splits * step
    peak = tl.load(partial_ptr + plane + offset, mask=inside, other=0.0)
    total = tl.load(partial_ptr + offset, mask=inside, other=0.0)
    for split in range(1, splits):
        other = tl.load(partial_ptr + split * step + offset, mask=inside, other=0.0)
        if FIXED:
            total += other
        else:
            other_peak = tl.load(partial_ptr + plane + split * step + offset, mask=inside, other=0.0)
            higher = tl.maximum(peak, other_peak)
            base = tl.where(higher == float("-inf"), 0.0, higher)
            total = total * tl.exp2(peak - base) + other * tl.exp2(other_peak - base)
            peak = higher
    return tl.where(total == 0, float("-inf"), peak + tl.log2(tl.where(total == 0, 1.0, total)))


@triton.jit
def soft_plus(margin):
    """Return log2(1 + 2^margin) and 1 / (1 + 2^-margin) of margins in log2 units, -inf included; NaN stays NaN."""
    # Beyond the bound the sum is its margin to the last bit.
    power = tl.exp2(tl.minimum(margin, 126.0, tl.PropagateNan.ALL))
    return tl.maximum(margin, tl.log2(1.0 + power), tl.PropagateNan.ALL), power * (1.0 / (1.0 + power))


@triton.jit(do_not_specialize=["row_splits"])
def sum_positives(
    query_ptr,
    key_ptr,
    query_label_ptr,
    key_label_ptr,
    start_ptr,
    skip_ptr,
    partial_ptr,
    positive_ptr,
    N,
    M,
    row_splits,
    scale,
    ignore,
    SKIP: tl.constexpr,
    SORTED: tl.constexpr,
    FIXED: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Sum softplus(L_i - s_ij), its slope and 1 over the positives of each row, into planes (3,splits,P,N)."""
    pair, pairs = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < N
    query_base = query_ptr + pair * N * DEPTH
    key_base = key_ptr + pair * M * DEPTH
    skip = tl.load(skip_ptr + pair * N + rows, mask=inside, other=DEAD)
    labels = tl.load(query_label_ptr + pair * N + rows, mask=inside, other=ignore)
    low, high = masked_range(labels, skip, start_ptr + pair * (BUCKETS + 1), M, ignore, True, "none", SORTED)
    last = tl.where(tl.max((skip != DEAD).to(tl.int32)) > 0, high, low)
    # Whole blocks keep the loads of the labels wide.
    begin, end = split_range(low // BLOCK_N * BLOCK_N, last, BLOCK_N)
    log_sum = joined_log_sum(partial_ptr, pair * N + rows, pairs * N, inside, row_splits, FIXED)
    query = load_rows(query_base, rows, N, DEPTH, 0, WIDTH)
    loss = tl.zeros((BLOCK_M,), tl.float32)
    slope = tl.zeros((BLOCK_M,), tl.float32)
    positives = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(begin, end, BLOCK_N):
        columns = first + tl.arange(0, BLOCK_N)
        key = load_rows(key_base, columns, M, DEPTH, 0, WIDTH)
        logits = scale * similarity(query, key, query_base, rows, N, key_base, columns, M, DEPTH, WIDTH, PRECISION)
        key_labels = tl.load(key_label_ptr + pair * M + columns, mask=columns < M, other=ignore)
        positive = (labels[:, None] == key_labels[None, :]) & ((columns < end) & (key_labels != ignore))[None, :]
        if SKIP != "none":
            positive = positive & (columns[None, :] != skip[:, None])
        each, slopes = soft_plus(log_sum[:, None] - logits)
        sums = sum_three(tl.where(positive, each, 0.0), tl.where(positive, slopes, 0.0), positive.to(tl.float32))
        loss += sums[0]
        slope += sums[1]
        positives += sums[2]
    plane = tl.num_programs(1) * pairs * N
    out = positive_ptr + (tl.program_id(1) * pairs + pair) * N + rows
    tl.store(out, loss, mask=inside)
    tl.store(out + plane, slope, mask=inside)
    tl.store(out + 2 * plane, positives, mask=inside)


@triton.jit
def positive_logits(
    query_ptr,
    key_ptr,
    positive_ptr,
    stride_p,
    stride_n,
    stride_d,
    pair,
    rows,
    source,
    skip,
    N,
    M,
    D,
    FEATURES: tl.constexpr,
    NORMALIZE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Return <q_i, p_i> of rows that take part, p_i being the caller's positive or the key that `skip` names."""
    live = skip != DEAD
    query = load_rows(query_ptr + pair * N * DEPTH, rows, N, DEPTH, 0, DEPTH).to(tl.float32)
    if FEATURES:
        positive = load_raw(positive_ptr + pair * stride_p, source, live, stride_n, stride_d, D, DEPTH)
        if NORMALIZE:
            inverse, _ = inverse_norm(positive)
            positive = positive * inverse[:, None]
    else:
        positive = load_rows(key_ptr + pair * M * DEPTH, tl.where(live, skip, M), M, DEPTH, 0, DEPTH).to(tl.float32)
    return tl.sum(query * positive, 1)


@triton.jit
def sum_splits(partial_ptr, offset, step, inside, splits):
    """Return the sum over splits of one plane of row values."""
    total = tl.load(partial_ptr + offset, mask=inside, other=0.0)
    for split in range(1, splits):
        total += tl.load(partial_ptr + split * step + offset, mask=inside, other=0.0)
    return total


@triton.jit(do_not_specialize=["row_splits", "positive_splits"])
def finish_rows(
    query_ptr,
    key_ptr,
    raw_positive_ptr,
    stride_p,
    stride_n,
    stride_d,
    order_ptr,
    skip_ptr,
    partial_ptr,
    positive_ptr,
    loss_ptr,
    counted_ptr,
    scalar_ptr,
    N,
    M,
    D,
    row_splits,
    positive_splits,
    scale,
    FORM: tl.constexpr,
    FEATURES: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SORTED: tl.constexpr,
    FIXED: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write losses and counted rows in the caller's order, and the row scalars of the backward in operand order.

    Scalars (3,P,N): log-sum-exp (log2 units; +inf for rows that do not count), push = the weight of a negative's
    exponential, pull = the weight of a positive.
    """
    pair, pairs = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < N
    offset = pair * N + rows
    step = pairs * N
    source = rows
    if SORTED:
        source = tl.load(order_ptr + offset, mask=inside, other=0)
    skip = tl.load(skip_ptr + offset, mask=inside, other=DEAD)
    log_sum = joined_log_sum(partial_ptr, offset, step, inside, row_splits, FIXED)
    counted = skip != DEAD
    if FORM == "paired":
        product = positive_logits(
            query_ptr, key_ptr, raw_positive_ptr, stride_p, stride_n, stride_d, pair, rows, source, skip, N, M, D,
            FEATURES, NORMALIZE, DEPTH,
        )  # fmt: skip
        loss, push = soft_plus(log_sum - scale * product)
        pull = push
    else:
        if FORM == "supcon":
            plane = row_splits * step
            pulled = sum_splits(partial_ptr + 2 * plane, offset, step, inside, row_splits)
            positives = sum_splits(partial_ptr + 3 * plane, offset, step, inside, row_splits)
            pull = 1.0 / tl.maximum(positives, 1.0)
            loss = log_sum - pulled * pull
            push = tl.full((BLOCK,), 1.0, tl.float32)
        else:
            plane = positive_splits * step
            positives = sum_splits(positive_ptr + 2 * plane, offset, step, inside, positive_splits)
            pull = 1.0 / tl.maximum(positives, 1.0)
            loss = sum_splits(positive_ptr, offset, step, inside, positive_splits) * pull
            push = sum_splits(positive_ptr + plane, offset, step, inside, positive_splits) * pull
            # Without negatives nothing pulls.
            pull = tl.where(log_sum == float("-inf"), 0.0, pull)
        counted &= positives > 0
    places = pair * N + source
    tl.store(loss_ptr + places, tl.where(counted, loss * LN2, 0.0), mask=inside)
    tl.store(counted_ptr + places, counted, mask=inside)
    tl.store(scalar_ptr + offset, tl.where(counted, log_sum, float("inf")), mask=inside)
    tl.store(scalar_ptr + step + offset, tl.where(counted, push, 0.0), mask=inside)
    tl.store(scalar_ptr + 2 * step + offset, tl.where(counted, pull, 0.0), mask=inside)
