"""Triton kernels of class-balanced anchor sampling: a counting sort of only the pixels that may be drawn.

A part is the easy or the hard pixels of one class of one image: part = 2 * (256 * image + class) + hard. The noise of a
pixel falls into one of BINS bins. The bins that hold the least noise of a part, up to the one in which its quota is
reached, give its candidates; a candidate's rank is the size of the bins before its own plus its rank within the bin.
Atomics decide only where a candidate is kept meanwhile, so that the result is the same in every run.

Two int32 buffers, zero at first, carry the state from kernel to kernel:
- `bins` (parts, BINS): pixels per bin; then where the candidates of the bin begin; then where they end.
- `plan` (5 * parts + 1): the five rows below, and the number of candidates of all parts.
"""

import triton
import triton.language as tl

CLASSES = tl.constexpr(256)
SIZE = tl.constexpr(0)  # pixels of the part
LAST_BIN = tl.constexpr(1)  # last bin of candidates, -1 if there are none
SEGMENT = tl.constexpr(2)  # where the candidates of the part begin
FIRST = tl.constexpr(3)  # where its anchors begin in the result
END = tl.constexpr(4)  # where they end
ROWS = tl.constexpr(5)


@triton.jit
def noise_bin(noise, BINS: tl.constexpr):
    """Return the bin of each noise value; monotone, and finite work for any value.

    The bins are even in the square root of the noise: the few anchors of a large part have little noise, where narrow
    bins keep the candidates few, while no bin gets more than 2 / BINS of the pixels.
    """
    root = tl.sqrt_rn(tl.maximum(noise.to(tl.float32), 0.0))
    return tl.minimum(root * BINS, BINS - 1.0).to(tl.int32)


@triton.jit
def part_in_image(label_ptr, prediction_ptr, position, inside, ignore):
    """Return 2 * class + hard of the pixels at `position`, 0 where they are never drawn, and whether they may be."""
    label = tl.load(label_ptr + position, mask=inside, other=0).to(tl.int64)
    usable = inside & (label != ignore) & (label >= 0) & (label < CLASSES)
    part = tl.where(usable, 2 * label, 0).to(tl.int32)
    if prediction_ptr is not None:
        prediction = tl.load(prediction_ptr + position, mask=inside, other=0).to(tl.int64)
        part += (usable & (prediction != label)).to(tl.int32)
    return part, usable


@triton.jit
def image_block(length, blocks, BLOCK: tl.constexpr):
    """Return the image of this program, the positions of its pixels in (B·L) and which of them are inside."""
    image = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    return image, image * length + column, column < length


@triton.jit(do_not_specialize=["blocks", "ignore"])
def count_pixels(
    label_ptr,
    prediction_ptr,
    noise_ptr,
    bins_ptr,
    plan_ptr,
    length,
    blocks,
    ignore,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Count the pixels of each part, in all and per bin; a block lies in one image."""
    image, position, inside = image_block(length, blocks, BLOCK)
    part, usable = part_in_image(label_ptr, prediction_ptr, position, inside, ignore)
    noise = tl.load(noise_ptr + position, mask=inside, other=0.0)
    parts = image * (2 * CLASSES)
    cell = (parts + part).to(tl.int64) * BINS + noise_bin(noise, BINS)
    tl.atomic_add(bins_ptr + cell, 1, mask=usable, sem="relaxed")
    sizes = tl.histogram(part, 2 * CLASSES, mask=usable)
    tl.atomic_add(plan_ptr + parts + tl.arange(0, 2 * CLASSES), sizes, mask=sizes > 0, sem="relaxed")


@triton.jit
def group_sizes(plan_ptr, group, groups):
    """Return how many easy and how many hard pixels each group has, 0 from group `groups` on."""
    part = 2 * group[:, None] + tl.arange(0, 2)[None, :]
    return tl.split(tl.load(plan_ptr + SIZE * 2 * groups + part, mask=(group < groups)[:, None], other=0))


@triton.jit
def group_quota(plan_ptr, group, groups, wanted, min_pixels):
    """Return how many easy and hard anchors each group gives: n // 2 hard ones, and what one lacks from the other."""
    easy, hard = group_sizes(plan_ptr, group, groups)
    wanted = tl.where(easy + hard > min_pixels, wanted, 0)
    from_hard = tl.minimum(hard, tl.maximum(wanted // 2, wanted - easy))
    return tl.minimum(easy, wanted - from_hard), from_hard


@triton.jit
def anchors_per_group(plan_ptr, groups, per_class, total, min_pixels, BLOCK: tl.constexpr):
    """Return n = min(total // groups of more than `min_pixels` pixels, per_class)."""
    sampled = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, groups, BLOCK):
        easy, hard = group_sizes(plan_ptr, first + tl.arange(0, BLOCK), groups)
        sampled += (easy + hard > min_pixels).to(tl.int32)
    # No group has more pixels than an int32 can count, so a larger n changes nothing.
    return tl.minimum(tl.minimum(total // tl.maximum(tl.sum(sampled), 1), per_class), 0x7FFFFFFF).to(tl.int32)


@triton.jit(do_not_specialize=["per_class", "total", "min_pixels"])
def plan_parts(
    bins_ptr,
    plan_ptr,
    index_ptr,
    valid_ptr,
    parts,
    per_class,
    total,
    min_pixels,
    BINS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Give the parts of GROUPS groups their places in the result and among the candidates; set valid, zero indices."""
    groups = parts // 2
    wanted = anchors_per_group(plan_ptr, groups, per_class, total, min_pixels, BLOCK)
    first_group = tl.program_id(0) * GROUPS
    every = tl.zeros((BLOCK,), tl.int32)
    earlier = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, groups, BLOCK):
        group = first + tl.arange(0, BLOCK)
        from_easy, from_hard = group_quota(plan_ptr, group, groups, wanted, min_pixels)
        every += from_easy + from_hard
        earlier += tl.where(group < first_group, from_easy + from_hard, 0)

    from_easy, from_hard = group_quota(plan_ptr, first_group + tl.arange(0, GROUPS), groups, wanted, min_pixels)
    quota = tl.interleave(from_easy, from_hard)
    part = 2 * first_group + tl.arange(0, 2 * GROUPS)
    each_bin = tl.arange(0, BINS)[None, :]
    cell = part.to(tl.int64)[:, None] * BINS + each_bin
    drawn = (quota > 0)[:, None]
    count = tl.load(bins_ptr + cell, mask=drawn, other=0)
    start = tl.cumsum(count, 1) - count
    needed = start < quota[:, None]
    candidates = tl.sum(tl.where(needed, count, 0), 1)
    # Which program comes first is left to chance: it moves the candidates, not the anchors.
    segment = tl.atomic_add(plan_ptr + ROWS * parts, tl.sum(candidates), sem="relaxed")
    segment += tl.cumsum(candidates, 0) - candidates
    tl.store(bins_ptr + cell, start + segment[:, None], mask=drawn)
    end = tl.sum(earlier) + tl.cumsum(quota, 0)
    inside = part < parts
    tl.store(plan_ptr + LAST_BIN * parts + part, tl.max(tl.where(needed, each_bin, -1), 1), mask=inside)
    tl.store(plan_ptr + SEGMENT * parts + part, segment, mask=inside)
    tl.store(plan_ptr + FIRST * parts + part, end - quota, mask=inside)
    tl.store(plan_ptr + END * parts + part, end, mask=inside)

    anchors = tl.sum(every)
    for block in range(tl.program_id(0), tl.cdiv(total.to(tl.int64), BLOCK), tl.num_programs(0)):
        place = block * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
        tl.store(index_ptr + place, tl.zeros((BLOCK,), tl.int64), mask=place < total)
        tl.store(valid_ptr + place, place < anchors, mask=place < total)


@triton.jit(do_not_specialize=["blocks", "ignore"])
def collect_candidates(
    label_ptr,
    prediction_ptr,
    noise_ptr,
    bins_ptr,
    plan_ptr,
    candidate_ptr,
    length,
    blocks,
    parts,
    ignore,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the positions of the candidates, sorted by part and bin, in any order within a bin."""
    image, position, inside = image_block(length, blocks, BLOCK)
    part, usable = part_in_image(label_ptr, prediction_ptr, position, inside, ignore)
    part += image * (2 * CLASSES)
    own_bin = noise_bin(tl.load(noise_ptr + position, mask=inside, other=0.0), BINS)
    last_bin = tl.load(plan_ptr + LAST_BIN * parts + part, mask=usable, other=-1)
    drawn = own_bin <= last_bin
    slot = tl.atomic_add(bins_ptr + part.to(tl.int64) * BINS + own_bin, 1, mask=drawn, sem="relaxed")
    tl.store(candidate_ptr + slot, position, mask=drawn)


@triton.jit(do_not_specialize=["ignore"])
def place_anchors(
    label_ptr,
    prediction_ptr,
    noise_ptr,
    bins_ptr,
    plan_ptr,
    candidate_ptr,
    index_ptr,
    length,
    parts,
    ignore,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Rank the candidates of each bin by noise and position, and write those within the quota of their part."""
    candidates = tl.load(plan_ptr + ROWS * parts)
    for block in range(tl.program_id(0), tl.cdiv(candidates, BLOCK), tl.num_programs(0)):
        slot = block * BLOCK + tl.arange(0, BLOCK)
        inside = slot < candidates
        position = tl.load(candidate_ptr + slot, mask=inside, other=0)
        part, _ = part_in_image(label_ptr, prediction_ptr, position, inside, ignore)
        part += position // length * (2 * CLASSES)
        noise = tl.load(noise_ptr + position, mask=inside, other=0.0)
        own_bin = noise_bin(noise, BINS)
        end_ptr = bins_ptr + part.to(tl.int64) * BINS + own_bin
        end = tl.load(end_ptr, mask=inside, other=0)
        segment = tl.load(plan_ptr + SEGMENT * parts + part, mask=inside, other=0)
        # A bin begins where the one before it ends.
        start = tl.load(end_ptr - 1, mask=inside & (own_bin > 0), other=0)
        start = tl.where(own_bin > 0, start, segment)
        rank = start - segment
        for first in range(0, tl.max(end - start), WIDTH):
            other = start[:, None] + (first + tl.arange(0, WIDTH))[None, :]
            in_bin = other < end[:, None]
            other = tl.load(candidate_ptr + other, mask=in_bin, other=0)
            other_noise = tl.load(noise_ptr + other, mask=in_bin, other=0.0)
            tied = (other_noise == noise[:, None]) & (other < position[:, None])
            rank += tl.sum((in_bin & (tied | (other_noise < noise[:, None]))).to(tl.int32), 1)
        place = tl.load(plan_ptr + FIRST * parts + part, mask=inside, other=0) + rank
        drawn = inside & (place < tl.load(plan_ptr + END * parts + part, mask=inside, other=0))
        tl.store(index_ptr + place, position.to(tl.int64), mask=drawn)
