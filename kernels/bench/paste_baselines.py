"""Instance pasting and instance statistics as public code does them; baselines and truth."""

from dataclasses import dataclass

import torch
from torch import Tensor

Clip = tuple[Tensor, ...]  # image, semantic, ids, weight


@dataclass
class PasteInputs:
    """A clip, its donor and what is taken of it, as `paste_instances` wants them.

    The image of a clip is (1,T,C,H,W), the rest (1,T,H,W); `taken` is how many of the donor's pixels are selected.
    """

    clip: Clip
    donor: Clip
    selected: Tensor
    selected_class: Tensor | None
    id_offset: Tensor
    taken: int


def where_paste(inputs: PasteInputs) -> Clip:
    """Return the pasted clip by `torch.where` over a mask that is looked up in the id map."""
    taken = taken_by_map(inputs.donor[1], inputs.donor[2], inputs.selected, inputs.selected_class)
    donor = _with_new_ids(inputs)
    return tuple(torch.where(_like(taken, new), new, old) for old, new in zip(inputs.clip, donor, strict=True))


def where_paste_inplace(inputs: PasteInputs) -> None:
    """Do the same into the clip itself."""
    taken = taken_by_map(inputs.donor[1], inputs.donor[2], inputs.selected, inputs.selected_class)
    for old, new in zip(inputs.clip, _with_new_ids(inputs), strict=True):
        old.copy_(torch.where(_like(taken, new), new, old))


def loop_paste(inputs: PasteInputs) -> Clip:
    """Return the pasted clip as DACS mixes (Tranheden et al. 2021): clip by clip, a mask by comparing, then a sum.

    The list of what is selected comes from the GPU, and every tensor is multiplied with the mask and with its inverse.
    """
    mixed: list[list[Tensor]] = [[] for _ in inputs.clip]
    donor = _with_new_ids(inputs)
    for clip in range(inputs.clip[0].shape[0]):
        mask = torch.zeros_like(inputs.donor[2][clip], dtype=torch.bool)
        for number in inputs.selected[clip].nonzero().flatten().tolist():
            mask |= inputs.donor[2][clip] == number
        if inputs.selected_class is not None:
            for number in inputs.selected_class[clip].nonzero().flatten().tolist():
                mask |= inputs.donor[1][clip] == number
        for parts, old, new in zip(mixed, inputs.clip, donor, strict=True):
            wide = (mask[:, None] if new.ndim == 5 else mask).to(new.dtype)
            parts.append(wide * new[clip] + (1 - wide) * old[clip])
    return tuple(torch.stack(parts) for parts in mixed)


def loop_paste_inplace(inputs: PasteInputs) -> None:
    """Do the same and write it into the clip."""
    for old, new in zip(inputs.clip, loop_paste(inputs), strict=True):
        old.copy_(new)


def taken_by_map(semantic: Tensor, ids: Tensor, selected: Tensor, selected_class: Tensor | None) -> Tensor:
    """Return the (B,T,H,W) bool mask of donor pixels that are taken; ids and classes lie inside their tables."""
    batch, pixels = torch.arange(ids.shape[0], device=ids.device)[:, None], ids.flatten(1)
    taken = selected[batch, pixels.long()] & (pixels > 0)
    if selected_class is not None:
        taken = taken | selected_class[batch, semantic.flatten(1).long()]
    return taken.view(ids.shape)


def loop_stats(ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return area, box and centroid of each instance by a mask for each frame and id, as masks_to_boxes does."""
    shape = *ids.shape[:2], count + 1
    area = torch.zeros(shape, dtype=torch.int32, device=ids.device)
    box = torch.zeros((*shape, 4), dtype=torch.int32, device=ids.device)
    centroid = torch.zeros((*shape, 2), dtype=torch.float32, device=ids.device)
    for clip in range(ids.shape[0]):
        for frame in range(ids.shape[1]):
            for number in range(1, count + 1):
                y, x = torch.where(ids[clip, frame] == number)
                if y.numel() == 0:
                    continue
                place = clip, frame, number
                area[place] = y.numel()
                box[place] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
                centroid[place] = torch.stack([y.double().mean(), x.double().mean()])
    return area, box, centroid


def _with_new_ids(inputs: PasteInputs) -> Clip:
    image, semantic, ids, weight = inputs.donor
    return image, semantic, torch.where(ids > 0, ids + inputs.id_offset[:, None, None, None], 0), weight


def _like(taken: Tensor, values: Tensor) -> Tensor:
    return taken[:, :, None] if values.ndim == 5 else taken
