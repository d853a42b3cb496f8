"""Training targets of the centre/offset head, for all instances of all frames at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidapt.clip import IGNORE, PanopticTarget
from vidapt.models.grid import STRIDE, pick_pixels


@dataclass(frozen=True)
class CenterTargets:
    """What the head should predict on the stride-4 grid (h,w) of N frames, and how much every cell counts.

    Attributes:
        heat: float32 (N,h,w), maximum over the instances of a Gaussian that is 1 in the cell nearest to the centre.
        heat_weight: float32 (N,h,w), 0 on crowds, ignored pixels and frames without labels.
        heat_count: float32 (N,), labelled cells that are no crowd.
        offset: float32 (N,2,h,w), rows and columns in pixels from the middle of the cell to its instance's centre.
        offset_weight: float32 (N,h,w), 0 off instances.
        offset_count: float32 (N,), cells on instances.
    """

    heat: Tensor
    heat_weight: Tensor
    heat_count: Tensor
    offset: Tensor
    offset_weight: Tensor
    offset_count: Tensor


MOST_INSTANCES = 256
"""Instances of a frame that get targets on a GPU, those of the lowest ids; a fixed number spares waits."""


@dataclass(frozen=True)
class Centers:
    """M instances of N frames.

    Attributes:
        base: int64, larger than any id.
        keys: int64 (M,) frame · base + id, rising.
        frames: int64 (M,).
        ids: int64 (M,).
        points: float32 (M,2) mean pixel (row, column).
        listed: bool (M,), False where a place is left over.
    """

    base: Tensor
    keys: Tensor
    frames: Tensor
    ids: Tensor
    points: Tensor
    listed: Tensor


def center_targets(
    target: PanopticTarget,
    is_thing: Tensor,
    sigma: float,
    *,
    instance_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
) -> CenterTargets:
    """Build the targets of a flat list of frames.

    A cell takes the labels and the weight of one pixel near its middle; centres are means over all pixels of a mask.

    Args:
        target: N frames (N,H,W).
        is_thing: bool (256,) table by train id.
        sigma: Radius of the Gaussians in pixels.
        instance_weight: float (N,K+1) by instance id; column 0 weighs cells without instance, ids beyond K weigh 1. The
            Gaussian around a centre takes its instance's weight also outside the mask.
        pixel_weight: float (N,H,W).
    """
    centers = find_instance_centers(target, is_thing)
    instance, semantic = pick_pixels(target.instance), pick_pixels(target.semantic)
    thing = is_thing[semantic.long()]
    known = (semantic != IGNORE) & target.labelled[:, None, None]
    counted = known & ~(thing & (instance == 0))
    cell_ids = torch.where(known & thing, instance, 0)
    offset, cell_ids = _offsets(centers, cell_ids)
    heat, cell, value = _heat(centers, cell_ids.shape, sigma)
    weight = torch.ones_like(heat) if pixel_weight is None else pick_pixels(pixel_weight).float()
    heat_weight = offset_weight = weight
    if instance_weight is not None:
        offset_weight = weight * weight_by_id(instance_weight, cell_ids)
        heat_weight = weight * _spread(instance_weight, centers, cell_ids, (heat, cell, value))
    return CenterTargets(
        heat=heat,
        heat_weight=heat_weight * counted,
        heat_count=counted.sum((1, 2)).float(),
        offset=offset,
        offset_weight=offset_weight * (cell_ids > 0),
        offset_count=(cell_ids > 0).sum((1, 2)).float(),
    )


def find_instance_centers(target: PanopticTarget, is_thing: Tensor) -> Centers:
    """Mean pixel of every instance in every labelled frame of (N,H,W) labels, on a GPU ``MOST_INSTANCES`` a frame."""
    counted = (target.instance > 0) & target.labelled[:, None, None]
    base = target.instance.max().long() + 1
    if target.instance.device.type != "cpu":
        return padded_centers(target.instance, counted & is_thing[target.semantic.long()], base, MOST_INSTANCES)
    pixel = counted.flatten().nonzero()[:, 0]
    pixel = pixel[is_thing[target.semantic.flatten()[pixel].long()]]
    _, height, width = target.instance.shape
    values = target.instance.flatten()[pixel].long()
    keys, inverse, counts = (pixel // (height * width) * base + values).unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(2, len(keys), dtype=torch.int64, device=pixel.device)
    sums.index_add_(1, inverse, torch.stack([pixel // width % height, pixel % width]))
    points = (sums / counts).float().T
    return Centers(base, keys, keys // base, keys % base, points, torch.ones_like(keys, dtype=torch.bool))


def padded_centers(instance: Tensor, counted: Tensor, base: Tensor, most: int) -> Centers:
    """The same without a size that only the device knows: ``most`` places for every frame, those left over at its end.

    Args:
        instance: int32 (N,H,W).
        counted: bool (N,H,W), pixels of instances.
        base: int64, larger than any id.
        most: Places of a frame; ids beyond have none.
    """
    frames, _, width = instance.shape
    ids, order = torch.where(counted, instance.long(), base).flatten(1).sort(1)
    starts = torch.ones_like(ids, dtype=torch.bool)
    starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
    # the place after the last takes what has none
    run = (starts.cumsum(1) - 1).masked_fill(ids == base, most).clamp_max(most)
    empty = ids.new_zeros(frames, most + 1)
    rows, columns, counts = (
        empty.scatter_add(1, run, numbers)[:, :most]
        for numbers in (order // width, order % width, torch.ones_like(ids))
    )
    listed = counts > 0
    names = torch.where(listed, empty.scatter(1, run, ids)[:, :most], base)
    frame = torch.arange(frames, device=instance.device)[:, None].expand_as(names)
    points = (torch.stack([rows, columns], -1) / counts.clamp_min(1)[..., None]).float()
    keys, frame, names = (part.flatten() for part in (frame * base + names, frame, names))
    return Centers(base, keys, frame, names, points.flatten(0, 1), listed.flatten())


def weight_by_id(table: Tensor, ids: Tensor) -> Tensor:
    """Look up ids (N,...) in a table (N,K+1) of the same frames; ids beyond the table give 1."""
    last = table.shape[1] - 1
    found = table.float().gather(1, ids.flatten(1).long().clamp(max=last)).view(ids.shape)
    return torch.where(ids <= last, found, 1.0)


def _middles(length: int, device: torch.device) -> Tensor:
    """Pixel coordinate of the middle of each of ``length`` cells."""
    return STRIDE * torch.arange(length, device=device) + (STRIDE - 1) / 2


def _offsets(centers: Centers, cell_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets (N,2,h,w) to the centres, and the ids of the cells (N,h,w) without those that have no centre."""
    count, height, width = cell_ids.shape
    if not len(centers.keys):
        return torch.zeros(count, 2, height, width, device=cell_ids.device), cell_ids
    wanted = torch.arange(count, device=cell_ids.device)[:, None, None] * centers.base + cell_ids
    index = torch.searchsorted(centers.keys, wanted).clamp(max=len(centers.keys) - 1)
    cell_ids = torch.where(centers.keys[index] == wanted, cell_ids, 0)
    rows, columns = _middles(height, cell_ids.device), _middles(width, cell_ids.device)
    points = centers.points[index]
    offset = torch.stack([points[..., 0] - rows[:, None], points[..., 1] - columns], dim=1)
    return offset * (cell_ids > 0)[:, None], cell_ids


def _heat(centers: Centers, shape: torch.Size, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Heat (N,h,w), and of every instance the flat cells (M,S) around its centre with their Gaussian values (M,S)."""
    device = centers.points.device
    radius = int(3 * sigma / STRIDE) + 1
    reach = torch.arange(-radius, radius + 1, device=device)
    middle = ((centers.points - (STRIDE - 1) / 2) / STRIDE).round().long()
    row, column = (middle[:, axis, None].clamp(0, limit - 1) + reach for axis, limit in enumerate(shape[1:]))
    falloff = torch.exp(-0.5 * (reach * (STRIDE / sigma)) ** 2)
    inside = [falloff * ((place >= 0) & (place < limit)) for place, limit in zip((row, column), shape[1:], strict=True)]
    value = (inside[0] * centers.listed[:, None])[:, :, None] * inside[1][:, None, :]
    row, column = row.clamp(0, shape[1] - 1), column.clamp(0, shape[2] - 1)
    cell = (centers.frames[:, None, None] * shape[1] + row[:, :, None]) * shape[2] + column[:, None, :]
    heat = torch.zeros(shape.numel(), device=device).scatter_reduce(0, cell.flatten(), value.flatten(), "amax")
    return heat.view(shape), cell.flatten(1), value.flatten(1)


def _spread(table: Tensor, centers: Centers, cell_ids: Tensor, gaussians: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Weight (N,h,w): that of the cell's own id, moved towards the instance whose Gaussian is largest there."""
    heat, cell, value = gaussians
    own = weight_by_id(table, cell_ids)
    weight = weight_by_id(table[centers.frames], centers.ids[:, None])
    largest = (value > 0) & (value == heat.flatten()[cell])
    # weights are not negative, so that -1 marks cells that no Gaussian reaches
    reaching = torch.where(largest, weight, -1.0)
    around = torch.full_like(heat, -1.0).flatten().scatter_reduce(0, cell.flatten(), reaching.flatten(), "amax")
    return torch.lerp(own, torch.where(around < 0, own.flatten(), around).view_as(own), heat)
