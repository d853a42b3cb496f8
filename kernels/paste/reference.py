"""Plain PyTorch definition of instance pasting and instance statistics, for any device."""

import torch
from torch import Tensor


def paste_instances(
    image: Tensor,
    semantic: Tensor,
    ids: Tensor,
    weight: Tensor | None,
    donor_image: Tensor,
    donor_semantic: Tensor,
    donor_ids: Tensor,
    donor_weight: Tensor | None,
    selected: Tensor | None,
    selected_class: Tensor | None,
    id_offset: Tensor | None,
    inplace: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return image, semantic, ids and weight after the paste; shapes and meaning as in the public function.

    `id_offset` is (B,) int32 or None. With `inplace` the results are the first four arguments, overwritten.
    """
    taken = taken_pixels(donor_semantic, donor_ids, selected, selected_class)
    offset = highest_id(ids) if id_offset is None else id_offset
    new_ids = torch.where(donor_ids > 0, donor_ids + offset[:, None, None, None], 0)
    return (
        overwrite(image, donor_image, taken[:, :, None], inplace),
        overwrite(semantic, donor_semantic, taken, inplace),
        overwrite(ids, new_ids, taken, inplace),
        pasted_weight(weight, donor_weight, taken, inplace),
    )


def taken_pixels(
    donor_semantic: Tensor, donor_ids: Tensor, selected: Tensor | None, selected_class: Tensor | None
) -> Tensor:
    """Return the (B,T,H,W) bool mask of donor pixels whose id or class is selected."""
    taken = torch.zeros_like(donor_ids, dtype=torch.bool)
    if selected is not None:
        inside = (donor_ids > 0) & (donor_ids < selected.shape[1])
        taken |= inside & look_up(selected, donor_ids)
    if selected_class is not None and selected_class.shape[1] > 0:
        # A uint8 cannot be compared with 256.
        classes = donor_semantic.int()
        taken |= (classes < selected_class.shape[1]) & look_up(selected_class, classes)
    return taken


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """Return `table[b, index[b, ...]]` for table (B,K) and index (B,T,H,W), with the index clamped into the table."""
    inside = index.clamp(0, table.shape[1] - 1)
    return table.gather(1, inside.flatten(1).long()).view(index.shape)


def highest_id(ids: Tensor) -> Tensor:
    """Return the (B,) maximum of ids (B,T,H,W); 0 for a clip without pixels."""
    flat = ids.flatten(1)
    return flat.amax(1) if flat.shape[1] else flat.new_zeros(flat.shape[0])


def overwrite(base: Tensor, donor: Tensor, taken: Tensor, inplace: bool) -> Tensor:
    """Return `donor` where `taken` and `base` elsewhere; in place it is `base` itself that changes."""
    return torch.where(taken, donor, base, out=base) if inplace else torch.where(taken, donor, base)


def pasted_weight(weight: Tensor | None, donor_weight: Tensor | None, taken: Tensor, inplace: bool) -> Tensor | None:
    """Return the pasted weight, with a missing side counted as 1; None when both sides are missing."""
    if weight is not None:
        donor = torch.ones((), dtype=weight.dtype, device=weight.device) if donor_weight is None else donor_weight
        return overwrite(weight, donor, taken, inplace)
    return None if donor_weight is None else donor_weight.masked_fill(~taken, 1)


def instance_stats(ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return area, box and centroid of the ids 1..count in each frame of ids (B,T,H,W); see the public function."""
    B, T, H, W = ids.shape
    known = torch.where((ids > 0) & (ids <= count), ids, 0).reshape(B, T, H * W).long()
    y, x = (axis.reshape(-1).expand(B, T, -1) for axis in pixel_grid(H, W, ids.device))
    zeros = torch.zeros((B, T, count + 1), dtype=torch.int64, device=ids.device)
    area = zeros.scatter_add(2, known, torch.ones_like(known))
    area[:, :, 0] = 0
    low = [zeros.add(size).scatter_reduce(2, known, axis, "amin") for axis, size in ((x, W), (y, H))]
    high = [zeros.scatter_reduce(2, known, axis + 1, "amax") for axis in (x, y)]
    present = area > 0
    box = torch.stack([*low, *high], -1) * present[..., None]
    total = torch.stack([zeros.scatter_add(2, known, axis) for axis in (y, x)], -1) * present[..., None]
    centroid = total.double() / area.clamp(min=1)[..., None]
    return area.int(), box.int(), centroid.float()


def pixel_grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the row and the column number of each pixel, both (H,W) int64."""
    rows = torch.arange(height, device=device)[:, None].expand(height, width)
    return rows, torch.arange(width, device=device).expand(height, width)
