"""Triton kernels of a stable counting sort by label, so that tiles of sorted rows rarely mix labels.

Labels fall into 127 buckets by their value modulo 127; ignored ones form bucket 127, the last. Equal labels share a
bucket, which is all that the contrast kernels rely on: within the range of a bucket they compare the labels themselves.
"""

import triton
import triton.language as tl

BUCKETS = tl.constexpr(128)
IGNORED = tl.constexpr(127)


@triton.jit
def bucket_of(labels, ignore):
    """Return the bucket 0..127 of each label."""
    low = (labels.to(tl.int64) & 0x7FFFFFFF).to(tl.int32)
    return tl.where(labels == ignore, IGNORED, low % IGNORED)


@triton.jit
def count_buckets(label_ptr, stride_p, stride_n, count_ptr, N, chunk, ignore, BLOCK: tl.constexpr):
    """Count the labels of one chunk of one row of (P,N) labels in each bucket, into (P,chunks,128) int32."""
    index, pair = tl.program_id(0), tl.program_id(1)
    counts = tl.zeros((BUCKETS,), tl.int32)
    start = index * chunk
    for first in range(start, tl.minimum(start + chunk, N), BLOCK):
        rows = first + tl.arange(0, BLOCK)
        inside = (rows < N) & (rows < start + chunk)
        labels = tl.load(
            label_ptr + pair.to(tl.int64) * stride_p + rows.to(tl.int64) * stride_n, mask=inside, other=ignore
        )
        # Rows outside are counted as ignored ones and taken off again.
        counts += tl.histogram(tl.where(inside, bucket_of(labels, ignore), IGNORED), BUCKETS)
        outside = BLOCK - tl.sum(inside.to(tl.int32))
        counts -= tl.where(tl.arange(0, BUCKETS) == IGNORED, outside, 0)
    tl.store(count_ptr + (pair * tl.num_programs(0) + index) * BUCKETS + tl.arange(0, BUCKETS), counts)


@triton.jit
def place_rows(
    label_ptr,
    stride_p,
    stride_n,
    count_ptr,
    start_ptr,
    order_ptr,
    place_ptr,
    sorted_ptr,
    N,
    chunk,
    ignore,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the stable order of one chunk: start (P,129), order and its inverse place (P,N), sorted labels (P,N)."""
    index, pair, chunks = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(0)
    buckets = tl.arange(0, BUCKETS)
    each = tl.arange(0, CHUNKS)
    counts = tl.load(
        count_ptr + (pair * chunks + each[:, None]) * BUCKETS + buckets[None, :],
        mask=(each < chunks)[:, None],
        other=0,
    )
    total = tl.sum(counts, 0)
    starts = tl.cumsum(total, 0) - total
    if index == 0:
        tl.store(start_ptr + pair * (BUCKETS + 1) + buckets, starts)
        tl.store(start_ptr + pair * (BUCKETS + 1) + BUCKETS, N)
    base = starts + tl.sum(tl.where((each < index)[:, None], counts, 0), 0)
    start = index * chunk
    lanes = tl.arange(0, BLOCK)
    for first in range(start, tl.minimum(start + chunk, N), BLOCK):
        rows = first + lanes
        inside = (rows < N) & (rows < start + chunk)
        labels = tl.load(label_ptr + pair * stride_p + rows.to(tl.int64) * stride_n, mask=inside, other=ignore)
        bucket = tl.where(inside, bucket_of(labels, ignore), BUCKETS)
        # Rows outside sort last; their bucket is clipped only to look something up.
        keys = tl.sort(bucket * BLOCK + lanes)
        row = first + keys % BLOCK
        bucket = keys // BLOCK
        inside = bucket < BUCKETS
        bucket = tl.minimum(bucket, BUCKETS - 1)
        here = tl.histogram(bucket, BUCKETS) - tl.where(buckets == IGNORED, BLOCK - tl.sum(inside.to(tl.int32)), 0)
        target = lanes + tl.gather(base - (tl.cumsum(here, 0) - here), bucket, 0)
        tl.store(order_ptr + pair * N + target, row, mask=inside)
        tl.store(place_ptr + pair * N + row, target, mask=inside)
        moved = tl.load(label_ptr + pair * stride_p + row.to(tl.int64) * stride_n, mask=inside, other=ignore)
        tl.store(sorted_ptr + pair * N + target, moved, mask=inside)
        base += here
