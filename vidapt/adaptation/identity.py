"""Identity contrast: the embedding that the tracker reads, trained on tracks.

The temporal contrast of PiPa++ lifted from pixels to instances; with a second view of the same frames it needs no video
(DARTH, Segu et al., ICCV 2023).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from vidapt.adaptation.pixels import cell_of_pixel
from vidapt.models.instance.targets import weight_by_id

MAX_INSTANCES = 64
"""Instances of a clip that take part, the largest if it has more; a fixed number spares a wait for the device."""

_NO_ID = torch.iinfo(torch.int32).max


def identity_contrast(
    embedding: Tensor,
    instance: Tensor,
    *,
    temperature: float,
    instance_weight: Tensor | None = None,
    second: Tensor | None = None,
) -> Tensor:
    """InfoNCE between instances: the same id in another frame or view against the other ids of the clip.

    For every ordered pair of an anchor and a positive ``-log(e^p / (e^p + sum of e^n over the negatives))``, where the
    similarities are cosines by temperature, positives show the anchor's id in another frame or in another view, and
    negatives show another id in any frame and view. Pairs without a negative cost 0. A clip's loss is the mean over its
    pairs, weighted by the instance.

    Args:
        embedding: (B,T,D,h,w) projected features, not normalised.
        instance: int32 (B,T,H,W) track ids, 0 = none.
        temperature: Above 0.
        instance_weight: float (B,K+1) by id; ids beyond K weigh 1. None weighs all alike.
        second: (B,T,D,h,w) features of a second view of the same frames, without which T = 1 has no positives.

    Returns:
        float32 scalar, the mean over clips of the clip's loss (0 for a clip without pairs).
    """
    ids = largest_ids(instance, MAX_INSTANCES)
    views = [embedding] if second is None else [embedding, second]
    pooled, shown = (
        torch.cat(parts, 1) for parts in zip(*(pool_ids(view, instance, ids) for view in views), strict=True)
    )
    weight = (
        torch.ones_like(ids, dtype=torch.float32) if instance_weight is None else weight_by_id(instance_weight, ids)
    )
    rows = rearrange(pooled, "b r s d -> b (r s) d")
    with torch.autocast(rows.device.type, enabled=False):
        similarity = rows @ rows.transpose(1, 2) / temperature
    losses = _pair_losses(similarity, shown)
    weights = _positives(shown) * repeat(weight, "b s -> b (r s) 1", r=shown.shape[1])
    total = weights.sum((1, 2))
    return ((losses * weights).sum((1, 2)) / torch.where(total > 0, total, 1.0)).mean()


def largest_ids(instance: Tensor, count: int) -> Tensor:
    """The ids of each clip, int32 (B,S), rising; the largest number of int32 fills up.

    Args:
        instance: int32 (B,T,H,W), 0 = none.
        count: Largest S; of more ids those with the most pixels are taken.
    """
    ordered = instance.flatten(1).sort(1).values
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    run = starts.cumsum(1) - 1
    pixels = torch.zeros_like(run).scatter_add(1, run, (ordered > 0).long())
    largest = pixels.topk(min(count, pixels.shape[1]), dim=1)
    id_of_run = torch.zeros_like(ordered).scatter(1, run, ordered)
    return id_of_run.gather(1, largest.indices).masked_fill(largest.values == 0, _NO_ID).sort(1).values


def pool_ids(embedding: Tensor, instance: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Mean embedding under every instance of every frame, L2-normalised: ``models.projection.pool_masks`` by ids.

    Every pixel adds the embedding of the cell that it lies in, so masks smaller than a cell count too.

    Args:
        embedding: (B,T,D,h,w).
        instance: int32 (B,T,H,W).
        ids: int32 (B,S), rising, from ``largest_ids``.

    Returns:
        float32 (B,T,S,D), zeros where a frame does not show the id, and bool (B,T,S), whether it does.
    """
    clips, length, _, height, width = embedding.shape
    area = torch.zeros(clips, length, ids.shape[1] * height * width, device=ids.device)
    rows = cell_of_pixel(instance.shape[-2], height, ids.device)
    columns = cell_of_pixel(instance.shape[-1], width, ids.device)
    flat = instance.flatten(1)
    slot = torch.searchsorted(ids, flat).clamp_max(ids.shape[1] - 1)
    known = (flat > 0) & (ids.gather(1, slot) == flat)
    place = slot.view_as(instance) * (height * width) + rows[:, None] * width + columns
    area = area.scatter_add(2, place.flatten(2), known.view_as(instance).flatten(2).float())
    area = area.view(clips, length, ids.shape[1], height * width)
    with torch.autocast(embedding.device.type, enabled=False):
        sums = area @ rearrange(embedding.float(), "b t d h w -> b t (h w) d")
    return F.normalize(sums, dim=-1), area.sum(-1) > 0


def _positives(shown: Tensor) -> Tensor:
    """bool (B,R·S,R·S): pairs of rows that show one instance in two of R frames, from bool (B,R,S)."""
    frames, slots = shown.shape[1:]
    frame = torch.arange(frames, device=shown.device).repeat_interleave(slots)
    slot = torch.arange(slots, device=shown.device).repeat(frames)
    pairs = (slot[:, None] == slot) & (frame[:, None] != frame)
    present = shown.flatten(1)
    return pairs & present[:, :, None] & present[:, None, :]


def _pair_losses(similarity: Tensor, shown: Tensor) -> Tensor:
    """Loss (B,N,N) of every pair of anchor and positive, whether they are one or not; N = R·S rows."""
    slot = torch.arange(shown.shape[2], device=shown.device).repeat(shown.shape[1])
    negative = (slot[:, None] != slot) & shown.flatten(1)[:, None, :]
    rest = similarity.masked_fill(~negative, -torch.inf).logsumexp(2, keepdim=True)
    return F.softplus(rest - similarity)
