"""Triton kernels of instance pasting and instance statistics, each over all frames of all clips at once."""

import triton
import triton.language as tl


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
    INPLACE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Paste one tile of BLOCK_H x BLOCK_W pixels of one frame, in all tensors.

    image, semantic, ids and weight are each (base, donor, result) with the strides of clip, frame and, of the image,
    channel of the three; the pixels of a plane lie row after row. In place the result is the base, and tiles without a
    taken pixel end after their donor labels were read. Pixels are never masked one by one inside a tile, which would
    make every access scalar: whole tiles are read, selected and written.
    """
    across = tl.cdiv(width, BLOCK_W)
    tiles = across * tl.cdiv(height, BLOCK_H)
    frame = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    clip = (frame // frames).to(tl.int64)
    time = (frame % frames).to(tl.int64)
    top = (tile // across).to(tl.int64) * BLOCK_H
    left = (tile % across).to(tl.int64) * BLOCK_W
    row = top + tl.arange(0, BLOCK_H)
    column = left + tl.arange(0, BLOCK_W)
    pixel = row[:, None] * width + column[None, :]
    inside = (row[:, None] < height) & (column[None, :] < width)

    donor_ids = ids[1] + clip * ids_strides[1][0] + time * ids_strides[1][1]
    donor_semantic = semantic[1] + clip * semantic_strides[1][0] + time * semantic_strides[1][1]
    taken = tl.zeros((BLOCK_H, BLOCK_W), tl.int1)
    if selected is not None:
        donor_id = tl.load(donor_ids + pixel, mask=inside, other=0)
        known = (donor_id > 0) & (donor_id < columns)
        taken |= tl.load(selected + clip * columns + donor_id, mask=known, other=0).to(tl.int1)
    if selected_class is not None:
        donor_class = tl.load(donor_semantic + own(pixel, 1), mask=own(inside, 1), other=255).to(tl.int32)
        known = own(inside, 1) & (donor_class < classes)
        by_class = tl.load(selected_class + clip * classes + donor_class, mask=known, other=0)
        taken |= tl.reshape(by_class, (BLOCK_H, BLOCK_W)).to(tl.int1)
    touched = tl.max(taken.to(tl.int32)) > 0
    if INPLACE:
        if not touched:
            return
    kept = tl.min((taken | ~inside).to(tl.int32)) == 0

    if selected is None:
        donor_id = tl.load(donor_ids + pixel, mask=inside & touched, other=0)
    new_id = tl.where(donor_id > 0, donor_id + tl.load(id_offset + clip), 0)
    base_id = tl.load(ids[0] + clip * ids_strides[0][0] + time * ids_strides[0][1] + pixel, mask=inside & kept, other=0)
    result = ids[2] + clip * ids_strides[2][0] + time * ids_strides[2][1] + pixel
    tl.store(result, tl.where(taken, new_id, base_id), mask=inside)

    base = semantic[0] + clip * semantic_strides[0][0] + time * semantic_strides[0][1]
    result = semantic[2] + clip * semantic_strides[2][0] + time * semantic_strides[2][1]
    replace(base, donor_semantic, result, pixel, inside, taken, touched, kept, 1)

    donor = image[1] + clip * image_strides[1][0] + time * image_strides[1][1]
    base = image[0] + clip * image_strides[0][0] + time * image_strides[0][1]
    result = image[2] + clip * image_strides[2][0] + time * image_strides[2][1]
    for channel in tl.static_range(CHANNELS):
        replace(base + channel * image_strides[0][2], donor + channel * image_strides[1][2], result + channel * image_strides[2][2], pixel, inside, taken, touched, kept, image[0].dtype.element_ty.primitive_bitwidth // 8)

@triton.jit
def replace(base, donor, result, pixel, inside, taken, touched, kept, SIZE: tl.constexpr):
    pixel = own(pixel, SIZE)
    inside = own(inside, SIZE)
    new = tl.load(donor + pixel, mask=inside & touched, other=0)
    old = tl.load(base + pixel, mask=inside & kept, other=0)
    tl.store(result + pixel, tl.where(own(taken, SIZE), new, old), mask=inside)

@triton.jit
def own(tile, SIZE: tl.constexpr):
    AXES: tl.constexpr = 1 if SIZE == 1 else 2 if SIZE == 2 else 3 if SIZE == 8 else 0
    for _ in tl.static_range(AXES):
        tile = tl.expand_dims(tile, 0)
    return tile
