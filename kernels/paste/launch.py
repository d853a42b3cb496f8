"""Launches of the paste and statistics kernels: outputs, tiles and grids, without host synchronisation."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from vidapt.kernels import tiles
from vidapt.kernels.paste.kernel import instance_stats_kernel, instance_sums_kernel, paste_kernel
from vidapt.kernels.paste.reference import highest_id

# Rows of a multiple of this many pixels start at multiples of 16 bytes, whatever their dtype.
ALIGNED_PIXELS = 16
# The kernel reads the table of classes 32 entries at a time; a uint8 has 256 values.
CLASSES_PER_WORD = 32
MOST_CLASS_WORDS = 8


class Clips(NamedTuple):
    """One side of a paste: image (B,T,C,H,W), and (B,T,H,W) semantic, ids and weight or None."""

    image: Tensor
    semantic: Tensor
    ids: Tensor
    weight: Tensor | None


class Selection(NamedTuple):
    """What to take: by instance (B,K+1) bool, by class (B,C) bool; and (B,) int32 to add to ids, None = the highest."""

    instances: Tensor | None
    classes: Tensor | None
    id_offset: Tensor | None


def paste(
    image: Tensor,
    semantic: Tensor,
    ids: Tensor,
    weight: Tensor | None,
    donor_image: Tensor,
    donor_semantic: Tensor,
    donor_ids: Tensor,
    donor_weight: Tensor | None,
    *selection: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return new image, semantic, ids and weight; the weight is an empty tensor where neither weight is given."""
    base = Clips(image, semantic, ids, weight)
    donor = Clips(donor_image, donor_semantic, donor_ids, donor_weight)
    either = donor_weight if weight is None else weight
    result = Clips(_new(image), _new(semantic), _new(ids), None if either is None else _new(either))
    _launch_paste(_readable(base), _readable(donor), result, Selection(*selection), inplace=False)
    return *result[:3], image.new_empty(0) if result.weight is None else result.weight


def paste_inplace(
    image: Tensor,
    semantic: Tensor,
    ids: Tensor,
    weight: Tensor | None,
    donor_image: Tensor,
    donor_semantic: Tensor,
    donor_ids: Tensor,
    donor_weight: Tensor | None,
    *selection: Tensor | None,
) -> None:
    """Overwrite image, semantic, ids and weight; a donor weight needs a weight to overwrite."""
    given = Clips(image, semantic, ids, weight)
    donor = Clips(donor_image, donor_semantic, donor_ids, donor_weight)
    base = _readable(given)
    _launch_paste(base, _readable(donor), base, Selection(*selection), inplace=True)
    for tensor, written in zip(given, base, strict=True):
        if tensor is not None and written is not None and tensor is not written:
            tensor.copy_(written)


def _launch_paste(base: Clips, donor: Clips, result: Clips, selection: Selection, *, inplace: bool) -> None:
    batch, frames, channels, height, width = base.image.shape
    if not base.ids.numel():
        return
    offset = highest_id(base.ids) if selection.id_offset is None else selection.id_offset.contiguous()
    with tiles.on_device(base.image):
        tile = tiles.tile("paste", "paste", f"{8 * base.image.element_size()}bit")
        if width % ALIGNED_PIXELS or width < tile["BLOCK_W"]:
            # The plane as one long row keeps wide accesses where its size allows them, and fills the tiles.
            height, width = 1, height * width
            tile |= {"BLOCK_H": 1, "BLOCK_W": tile["BLOCK_H"] * tile["BLOCK_W"]}
        paste_kernel[(_programs(batch * frames, height, width, tile),)](
            *_with_strides(base.image, donor.image, result.image),
            *_with_strides(base.semantic, donor.semantic, result.semantic),
            *_with_strides(base.ids, donor.ids, result.ids),
            *_with_strides(base.weight, donor.weight, result.weight),
            *_table(selection.instances),
            *_table(selection.classes),
            offset,
            frames,
            height,
            width,
            CHANNELS=channels,
            CLASS_WORDS=_class_words(selection.classes),
            INPLACE=inplace,
            WEIGHTED=result.weight is not None,
            **tile,
        )


def _programs(planes: int, height: int, width: int, tile: tiles.Tile) -> int:
    """Return how many tiles cover all planes."""
    return planes * int(triton.cdiv(height, tile["BLOCK_H"])) * int(triton.cdiv(width, tile["BLOCK_W"]))


def _new(tensor: Tensor) -> Tensor:
    """Return an uninitialised contiguous tensor of the same shape, dtype and device."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _readable(clips: Clips) -> Clips:
    """Return the clips with contiguous copies of those tensors whose planes do not lie row after row in memory."""
    image, semantic, ids = (tensor if _plain_planes(tensor) else tensor.contiguous() for tensor in clips[:3])
    weight = clips.weight
    return Clips(image, semantic, ids, weight if weight is None or _plain_planes(weight) else weight.contiguous())


def _plain_planes(tensor: Tensor) -> bool:
    (height, width), (down, right) = tensor.shape[-2:], tensor.stride()[-2:]
    return (width <= 1 or right == 1) and (height <= 1 or down == width)


def _with_strides(base: Tensor | None, donor: Tensor | None, result: Tensor | None) -> tuple[Any, Any]:
    """Return the tensors and the strides of clip, frame and channel of each; labels and weights have no channels."""
    if result is None:
        return None, None
    sides = base, donor, result
    return sides, tuple((0, 0, 0) if side is None else (*side.stride()[:-2], 0)[:3] for side in sides)


def _table(table: Tensor | None) -> tuple[Tensor | None, int]:
    """Return a lookup table for the kernel with its row length; None for one that selects nothing."""
    if table is None or not table.shape[1]:
        return None, 0
    return table.contiguous(), table.shape[1]


def _class_words(table: Tensor | None) -> int:
    return 0 if table is None else min(int(triton.cdiv(table.shape[1], CLASSES_PER_WORD)), MOST_CLASS_WORDS)


def instance_stats(ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return area, box and centroid of the ids 1..count in each frame of ids (B,T,H,W)."""
    batch, frames, height, width = ids.shape
    shape = batch, frames, count + 1
    area = torch.empty(shape, dtype=torch.int32, device=ids.device)
    box = torch.empty((*shape, 4), dtype=torch.int32, device=ids.device)
    centroid = torch.empty((*shape, 2), dtype=torch.float32, device=ids.device)
    rows = area.numel()
    if not rows:
        return area, box, centroid
    # 64 bytes for each frame and id; the kernel sees the first half as int64, the second as int32.
    sums = torch.zeros((rows, 8), dtype=torch.int64, device=ids.device)
    bounds = sums.view(torch.int32)
    with tiles.on_device(ids):
        tile, last = (tiles.tile("paste", kernel, "any") for kernel in ("instance_sums", "instance_stats"))
        programs = _programs(batch * frames, height, width, tile)
        if programs:
            instance_sums_kernel[(programs,)](ids, sums, bounds, *ids.stride(), frames, height, width, count, **tile)
        grid = (triton.cdiv(rows, last["BLOCK"]),)
        instance_stats_kernel[grid](sums, bounds, area, box, centroid, rows, height, width, **last)
    return area, box, centroid
