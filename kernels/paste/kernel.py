"""Triton kernels of instance pasting and instance statistics; each launch covers all frames of all clips."""

import triton
import triton.language as tl

# Where base, donor and result stand in a tuple of tensors.
BASE: tl.constexpr = tl.constexpr(0)
DONOR: tl.constexpr = tl.constexpr(1)
RESULT: tl.constexpr = tl.constexpr(2)


@triton.jit
def paste_kernel(
    image,
    image_strides,
    semantic,
    semantic_strides,
    ids,
    ids_strides,
    weight,
    weight_strides,
    selected,
    columns,
    selected_class,
    classes,
    id_offset,
    frames,
    height,
    width,
    CHANNELS: tl.constexpr,
    CLASS_WORDS: tl.constexpr,
    INPLACE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Paste a tile of BLOCK_H x BLOCK_W pixels of one frame, in every tensor.

    image, semantic, ids and weight are tuples (base, donor, result), each with its strides of clip, frame and channel;
    the pixels of a plane lie row after row. In place the result is the base. A missing weight, None, counts as 1.
    Masks are uniform over a tile but for its part outside the frame: a mask per pixel makes all accesses scalar.
    """
    across = tl.cdiv(width, BLOCK_W)
    tiles = across * tl.cdiv(height, BLOCK_H)
    frame = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    clip = (frame // frames).to(tl.int64)
    top = tile // across * BLOCK_H
    left = tile % across * BLOCK_W
    corner = clip, (frame % frames).to(tl.int64), top.to(tl.int64) * width + left
    row = tl.arange(0, BLOCK_H * BLOCK_W) // BLOCK_W
    column = tl.arange(0, BLOCK_H * BLOCK_W) % BLOCK_W
    pixel = row * width + column
    inside = (row < height - top) & (column < width - left)

    taken = tl.zeros((BLOCK_H * BLOCK_W,), tl.int1)
    donor_ids = plane(ids, ids_strides, DONOR, corner, 0) + pixel
    if selected is not None:
        donor_id = tl.load(donor_ids, mask=inside, other=0)
        known = (donor_id > 0) & (donor_id < columns)
        taken |= tl.load(selected + clip * columns + donor_id, mask=known, other=0).to(tl.int1)
    if selected_class is not None:
        donor_classes = plane(semantic, semantic_strides, DONOR, corner, 0) + own_layout(pixel, 1)
        donor_class = tl.load(donor_classes, mask=own_layout(inside, 1), other=0).to(tl.int32)
        by_class = look_up(selected_class + clip * classes, classes, donor_class, CLASS_WORDS)
        taken |= tl.reshape(by_class, (BLOCK_H * BLOCK_W,)) & inside
    touched = tl.max(taken.to(tl.int32)) > 0
    if INPLACE and not touched:
        return
    covered = tl.min((taken | ~inside).to(tl.int32)) > 0
    from_base = (row < tl.where(covered, 0, height - top)) & (column < width - left)
    from_donor = (row < tl.where(touched, height - top, 0)) & (column < width - left)
    masks = from_base, from_donor, inside

    if selected is None:
        donor_id = tl.load(donor_ids, mask=from_donor, other=0)
    new_id = tl.where(donor_id > 0, donor_id + tl.load(id_offset + clip), 0)
    old_id = tl.load(plane(ids, ids_strides, BASE, corner, 0) + pixel, mask=from_base, other=0)
    tl.store(plane(ids, ids_strides, RESULT, corner, 0) + pixel, tl.where(taken, new_id, old_id), mask=inside)
    overwrite(semantic, semantic_strides, corner, 0, pixel, taken, masks)
    for channel in tl.static_range(CHANNELS):
        overwrite(image, image_strides, corner, channel, pixel, taken, masks)
    if WEIGHTED:
        overwrite(weight, weight_strides, corner, 0, pixel, taken, masks)


@triton.jit
def plane(tensors, strides, SIDE: tl.constexpr, corner, CHANNEL: tl.constexpr):
    """Return the pointer to a tile's first pixel; corner is int64 (clip, frame, pixel of the plane)."""
    channel = tl.full((), CHANNEL, tl.int64)
    offset = corner[0] * strides[SIDE][0] + corner[1] * strides[SIDE][1] + channel * strides[SIDE][2] + corner[2]
    return tensors[SIDE] + offset


@triton.jit
def overwrite(tensors, strides, corner, CHANNEL: tl.constexpr, pixel, taken, masks):
    """Write the donor where `taken` and the base elsewhere; masks say what to read of base and donor, and to write."""
    result = plane(tensors, strides, RESULT, corner, CHANNEL)
    SIZE: tl.constexpr = result.dtype.element_ty.primitive_bitwidth // 8
    pixel = own_layout(pixel, SIZE)
    old = tl.full(pixel.shape, 1, result.dtype.element_ty)
    new = old
    if tensors[BASE] is not None:
        base = plane(tensors, strides, BASE, corner, CHANNEL)
        old = tl.load(base + pixel, mask=own_layout(masks[BASE], SIZE), other=0)
    if tensors[DONOR] is not None:
        donor = plane(tensors, strides, DONOR, corner, CHANNEL)
        new = tl.load(donor + pixel, mask=own_layout(masks[DONOR], SIZE), other=0)
    tl.store(result + pixel, tl.where(own_layout(taken, SIZE), new, old), mask=own_layout(masks[RESULT], SIZE))


@triton.jit
def look_up(table, length, index, WORDS: tl.constexpr):
    """Return the entries of a bool table at int32 `index` >= 0; those past its end are False.

    WORDS registers hold 32 entries each: a load per pixel would wait for memory once more.
    """
    bit = tl.arange(0, 32)
    found = tl.zeros(index.shape, tl.int1)
    for word in tl.static_range(WORDS):
        entries = tl.load(table + 32 * word + bit, mask=32 * word + bit < length, other=0)
        bits = tl.sum(entries.to(tl.uint32) << bit.to(tl.uint32))
        found |= (index // 32 == word) & (((bits >> (index % 32).to(tl.uint32)) & 1) != 0)
    return found


@triton.jit
def own_layout(tile, SIZE: tl.constexpr):
    """Add leading axes, as many for each element size in bytes, so that each size gets coalesced 16-byte accesses.

    The compiler gives accesses of one shape that depend on each other one layout, that of the smallest elements: its
    threads then read four-byte elements 64 bytes apart and shuffle them through shared memory before they write.
    """
    AXES: tl.constexpr = 1 if SIZE == 1 else 2 if SIZE == 2 else 3 if SIZE == 8 else 0
    for _ in tl.static_range(AXES):
        tile = tl.expand_dims(tile, 0)
    return tile


@triton.jit
def instance_sums_kernel(
    ids,
    sums,
    bounds,
    stride_clip,
    stride_frame,
    stride_row,
    stride_column,
    frames,
    height,
    width,
    count,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Add one tile of one frame to the sums and bounds of the ids that it shows, an id at a time in rising order.

    Each frame and id has a row of 64 bytes, zero at first: int64 `sums` area, sum of y, sum of x in its first half and
    int32 `bounds` width - x0, height - y0, x1, y1, of which the maximum counts, in its second.
    """
    across = tl.cdiv(width, BLOCK_W)
    tiles = across * tl.cdiv(height, BLOCK_H)
    frame = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    top = tile // across * BLOCK_H
    left = tile % across * BLOCK_W
    y = tl.arange(0, BLOCK_H)
    x = tl.arange(0, BLOCK_W)
    row = (top + y).to(tl.int64)[:, None]
    column = (left + x).to(tl.int64)[None, :]
    first = ids + (frame // frames).to(tl.int64) * stride_clip + (frame % frames).to(tl.int64) * stride_frame
    inside = (row < height) & (column < width)
    shown = tl.load(first + row * stride_row + column * stride_column, mask=inside, other=0)
    none = count + 1
    shown = tl.where(shown > 0, shown, none)
    slot = tl.arange(0, 4)

    current = tl.min(shown)
    while current <= count:
        hit = (shown == current).to(tl.int32)
        per_row = tl.sum(hit, 1)
        per_column = tl.sum(hit, 0)
        area = tl.sum(per_row).to(tl.int64)
        sum_y = area * top + tl.sum(per_row * y)
        sum_x = area * left + tl.sum(per_column * x)
        x0 = tl.max(tl.where(per_column > 0, width - left - x, 0))
        y0 = tl.max(tl.where(per_row > 0, height - top - y, 0))
        x1 = left + tl.max(tl.where(per_column > 0, x + 1, 0))
        y1 = top + tl.max(tl.where(per_row > 0, y + 1, 0))
        place = frame.to(tl.int64) * none + current
        sum_of_slot = tl.where(slot == 0, area, tl.where(slot == 1, sum_y, sum_x))
        tl.atomic_add(sums + place * 8 + slot, sum_of_slot, mask=slot < 3, sem="relaxed")
        bound_of_slot = tl.where(slot < 2, tl.where(slot == 0, x0, y0), tl.where(slot == 2, x1, y1))
        tl.atomic_max(bounds + place * 16 + 8 + slot, bound_of_slot, sem="relaxed")
        current = tl.min(tl.where(shown > current, shown, none))


@triton.jit
def instance_stats_kernel(sums, bounds, area, box, centroid, rows, height, width, BLOCK: tl.constexpr):
    """Turn the sums and bounds of BLOCK rows into area, box and centroid; rows without a pixel become zeros."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    pixels = tl.load(sums + row * 8, mask=inside, other=0)
    present = pixels > 0
    tl.store(area + row, pixels.to(tl.int32), mask=inside)
    for axis in tl.static_range(2):
        size = width if axis == 0 else height
        low = size - tl.load(bounds + row * 16 + 8 + axis, mask=inside, other=0)
        high = tl.load(bounds + row * 16 + 10 + axis, mask=inside, other=0)
        tl.store(box + row * 4 + axis, tl.where(present, low, 0), mask=inside)
        tl.store(box + row * 4 + 2 + axis, high, mask=inside)
        total = tl.load(sums + row * 8 + 1 + axis, mask=inside, other=0)
        mean = total.to(tl.float64) / tl.maximum(pixels, 1).to(tl.float64)
        tl.store(centroid + row * 2 + axis, mean.to(tl.float32), mask=inside)
