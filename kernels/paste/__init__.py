"""Paste selected instances or classes of donor clips into clips, and measure instances, over all frames at once.

Instance pasting is the IMix of LIDAPS, class pasting the ClassMix of Olsson et al. 2021; here both are one rule per
pixel on id maps, applied to every frame of a clip with the same selection.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vidapt.kernels.dispatch import implementation
from vidapt.kernels.paste import reference

IMAGE_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


class Pasted(NamedTuple):
    """Clips after a paste: image (B,T,C,H,W), semantic uint8, ids int32 and weight or None, these (B,T,H,W)."""

    image: Tensor
    semantic: Tensor
    ids: Tensor
    weight: Tensor | None


class Stats(NamedTuple):
    """Area (B,T,count+1) int32, box (...,4) int32 x0,y0,x1,y1 and centroid (...,2) fp32 y,x of each id and frame.

    x1 and y1 are exclusive. Ids that a frame does not show, and column 0, are all zeros.
    """

    area: Tensor
    box: Tensor
    centroid: Tensor


def paste_instances(
    image: Tensor,
    semantic: Tensor,
    ids: Tensor,
    donor_image: Tensor,
    donor_semantic: Tensor,
    donor_ids: Tensor,
    selected: Tensor | None = None,
    *,
    selected_class: Tensor | None = None,
    id_offset: int | Tensor | None = None,
    weight: Tensor | None = None,
    donor_weight: Tensor | None = None,
    inplace: bool = False,
) -> Pasted:
    """Paste the selected instances and classes of donor clips over clips, one id per instance on all frames.

    A donor pixel is taken if its id lies in 1..K and is selected, or if its semantic lies below C and its class is
    selected. A taken pixel brings the donor's image, semantic and weight; its id becomes donor id + id_offset, or 0
    where the donor id is 0. Not differentiable, no host synchronisation.

    Args:
        image, donor_image: (B,T,C,H,W) of one dtype: uint8, float16, bfloat16 or float32.
        semantic, donor_semantic: (B,T,H,W) uint8 train ids, 255 = ignore.
        ids, donor_ids: (B,T,H,W) int32 instance ids, 0 = none.
        selected: (B,K+1) bool, which donor ids to take; column 0 never counts.
        selected_class: (B,C) bool, which donor classes to take.
        id_offset: int or (B,) int32; None = the maximum of `ids` in that clip before pasting, so that ids never clash.
        weight, donor_weight: (B,T,H,W) floating pixel weights; if one is missing it counts as 1.
        inplace: overwrite image, semantic, ids and weight and return them; donors must not share their memory.

    Returns:
        Pasted; its weight is None if neither weight is given.

    Raises:
        ValueError: shapes or devices disagree, nothing can be selected, or an input requires grad.
        TypeError: a dtype is not the documented one.
    """
    _check_clips(image, semantic, ids, donor_image, donor_semantic, donor_ids)
    _check_weights(weight, donor_weight, ids)
    _check_selection(selected, selected_class, ids)
    _check_no_grad(image, donor_image, weight, donor_weight)
    function = implementation("paste_instances", reference.paste_instances, image)
    with torch.no_grad():
        result = function(
            image,
            semantic,
            ids,
            weight,
            donor_image,
            donor_semantic,
            donor_ids,
            donor_weight,
            selected,
            selected_class,
            _offset_per_clip(id_offset, ids),
            inplace,
        )
    return Pasted(*result)


def instance_stats(ids: Tensor, count: int) -> Stats:
    """Return area, box and centroid of the instances 1..count in every frame, without host synchronisation.

    Args:
        ids: (B,T,H,W) int32 instance ids; 0 and ids outside 1..count are left out.
        count: highest id to report, at least 0.

    Raises:
        ValueError: `ids` has not four axes or `count` is negative.
        TypeError: `ids` is not int32 or `count` is not an int.
    """
    if ids.ndim != 4:
        raise ValueError(f"ids must be (B,T,H,W), got shape {tuple(ids.shape)}")
    _check_dtype("ids", ids, torch.int32)
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"count must be an int, got {type(count).__name__}")
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    return Stats(*implementation("instance_stats", reference.instance_stats, ids)(ids, count))


def _check_clips(
    image: Tensor, semantic: Tensor, ids: Tensor, donor_image: Tensor, donor_semantic: Tensor, donor_ids: Tensor
) -> None:
    if image.ndim != 5:
        raise ValueError(f"image must be (B,T,C,H,W), got shape {tuple(image.shape)}")
    if image.dtype not in IMAGE_DTYPES:
        raise TypeError(f"image must be uint8, float16, bfloat16 or float32, got {image.dtype}")
    batch, frames, _, height, width = image.shape
    _check_dtype("donor_image", donor_image, image.dtype)
    _check_like("donor_image", donor_image, tuple(image.shape), image.device)
    for name, labels, dtype in (
        ("semantic", semantic, torch.uint8),
        ("ids", ids, torch.int32),
        ("donor_semantic", donor_semantic, torch.uint8),
        ("donor_ids", donor_ids, torch.int32),
    ):
        _check_dtype(name, labels, dtype)
        _check_like(name, labels, (batch, frames, height, width), image.device)


def _check_weights(weight: Tensor | None, donor_weight: Tensor | None, ids: Tensor) -> None:
    for name, values in (("weight", weight), ("donor_weight", donor_weight)):
        if values is not None:
            if not values.is_floating_point():
                raise TypeError(f"{name} must be floating, got {values.dtype}")
            _check_like(name, values, tuple(ids.shape), ids.device)
    if weight is not None and donor_weight is not None:
        _check_dtype("donor_weight", donor_weight, weight.dtype)


def _check_selection(selected: Tensor | None, selected_class: Tensor | None, ids: Tensor) -> None:
    if selected is None and selected_class is None:
        raise ValueError("nothing to paste: give selected (B,K+1), selected_class (B,C) or both")
    for name, table in (("selected", selected), ("selected_class", selected_class)):
        if table is None:
            continue
        _check_dtype(name, table, torch.bool)
        if table.ndim != 2:
            raise ValueError(f"{name} must have two axes, got shape {tuple(table.shape)}")
        _check_like(name, table, (ids.shape[0], table.shape[1]), ids.device)
    if selected is not None and selected.shape[1] == 0:
        raise ValueError("selected must be (B,K+1) with its column 0, got no column")


def _check_no_grad(*tensors: Tensor | None) -> None:
    if any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise ValueError("paste_instances is not differentiable: detach the inputs that require grad")


def _check_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")


def _check_like(name: str, tensor: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device} like the other inputs, got {tensor.device}")


def _offset_per_clip(id_offset: int | Tensor | None, ids: Tensor) -> Tensor | None:
    """Return the offset as (B,) int32, or None where it is to be taken from the ids."""
    if id_offset is None:
        return None
    if isinstance(id_offset, Tensor):
        _check_dtype("id_offset", id_offset, torch.int32)
        _check_like("id_offset", id_offset, (ids.shape[0],), ids.device)
        return id_offset
    if not isinstance(id_offset, int) or isinstance(id_offset, bool):
        raise TypeError(f"id_offset must be an int or a (B,) int32 tensor, got {type(id_offset).__name__}")
    return torch.full((ids.shape[0],), id_offset, dtype=torch.int32, device=ids.device)
