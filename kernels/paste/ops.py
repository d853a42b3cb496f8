"""Instance pasting and instance statistics as `torch.library` operators; dispatch runs their callers.

`vidapt::paste_instances` returns new tensors, `vidapt::paste_instances_` overwrites the first four. None of the three
operators is differentiable.
"""

import torch
from torch import Tensor
from torch.library import Library

from vidapt.kernels.paste import launch

CLIPS = "Tensor{a} image, Tensor{b} semantic, Tensor{c} ids, Tensor{d}? weight"
PLAIN_CLIPS = CLIPS.format(a="", b="", c="", d="")
MUTATED_CLIPS = CLIPS.format(a="(a!)", b="(b!)", c="(c!)", d="(d!)")
DONOR = (
    "Tensor donor_image, Tensor donor_semantic, Tensor donor_ids, Tensor? donor_weight, "
    "Tensor? selected, Tensor? selected_class, Tensor? id_offset"
)

LIBRARY = Library("vidapt", "FRAGMENT")
LIBRARY.define(f"paste_instances({PLAIN_CLIPS}, {DONOR}) -> (Tensor, Tensor, Tensor, Tensor)")
LIBRARY.define(f"paste_instances_({MUTATED_CLIPS}, {DONOR}) -> ()")
LIBRARY.define("instance_stats(Tensor ids, SymInt count) -> (Tensor, Tensor, Tensor)")
# The CPU serves Triton's interpreter.
for device in ("CUDA", "CPU"):
    LIBRARY.impl("paste_instances", launch.paste, device)
    LIBRARY.impl("paste_instances_", launch.paste_inplace, device)
    LIBRARY.impl("instance_stats", launch.instance_stats, device)


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
    """Return image, semantic, ids and weight after the paste; shapes and meaning as in the reference.

    Raises:
        RuntimeError: a tensor to overwrite is expanded.
    """
    donor = donor_image, donor_semantic, donor_ids, donor_weight, selected, selected_class, id_offset
    if not inplace:
        result = torch.ops.vidapt.paste_instances(image, semantic, ids, weight, *donor)
        return *result[:3], None if weight is None and donor_weight is None else result[3]
    if weight is None and donor_weight is not None:
        weight = torch.ones(ids.shape, dtype=donor_weight.dtype, device=ids.device)
    for name, tensor in (("image", image), ("semantic", semantic), ("ids", ids), ("weight", weight)):
        if tensor is not None:
            _check_not_expanded(name, tensor)
    torch.ops.vidapt.paste_instances_(image, semantic, ids, weight, *donor)
    return image, semantic, ids, weight


def instance_stats(ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return area, box and centroid of the ids 1..count in each frame of ids (B,T,H,W); see the public function."""
    area, box, centroid = torch.ops.vidapt.instance_stats(ids, count)
    return area, box, centroid


@torch.library.register_fake("vidapt::paste_instances", lib=LIBRARY)
def _paste_instances_fake(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    either = donor_weight if weight is None else weight
    pasted_weight = image.new_empty(0) if either is None else either.new_empty(either.shape)
    return image.new_empty(image.shape), semantic.new_empty(ids.shape), ids.new_empty(ids.shape), pasted_weight


@torch.library.register_fake("vidapt::paste_instances_", lib=LIBRARY)
def _paste_instances_inplace_fake(*_: Tensor | None) -> None:
    return None


@torch.library.register_fake("vidapt::instance_stats", lib=LIBRARY)
def _instance_stats_fake(ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*ids.shape[:2], count + 1)
    box = ids.new_empty((*shape, 4))
    return ids.new_empty(shape), box, ids.new_empty((*shape, 2), dtype=torch.float32)


def _check_not_expanded(name: str, tensor: Tensor) -> None:
    if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        raise RuntimeError(
            f"{name} is expanded, so several of its pixels share one place in memory and cannot be overwritten; "
            "clone it or paste with inplace=False"
        )
