"""What the Mask R-CNN head should find: boxes, classes and weights of the instances of every frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidapt.clip import IGNORE, PanopticTarget
from vidapt.models.instance.targets import weight_by_id

_LABELS = 256


@dataclass(frozen=True)
class Objects:
    """The M instances of one frame, ordered by id.

    Attributes:
        boxes: float32 (M,4) x0, y0, x1, y1 in pixels, x1 and y1 exclusive; sides are at least 1.
        labels: int64 (M,) detector classes from 1.
        ids: int64 (M,) instance ids.
        weights: float32 (M,).
    """

    boxes: Tensor
    labels: Tensor
    ids: Tensor
    weights: Tensor


@dataclass(frozen=True)
class DetectionTargets:
    """Targets of N frames.

    Attributes:
        objects: N ``Objects``; none in frames without labels.
        owner: int64 (N,H,W) instance id, 0 = none, -1 = unknown (ignored pixels and crowds).
        unknown: float64 (N,H+1,W+1), ``integral_image`` of the unknown pixels.
        background: float64 (N,H+1,W+1), ``integral_image`` of the weight of background samples.
    """

    objects: list[Objects]
    owner: Tensor
    unknown: Tensor
    background: Tensor


def detection_targets(
    target: PanopticTarget,
    label_of: Tensor,
    *,
    instance_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
) -> DetectionTargets:
    """Build the targets of a flat list of frames.

    Args:
        target: N frames (N,H,W).
        label_of: int64 (256,) detector class by train id, 0 for what is no thing.
        instance_weight: float (N,K+1) by instance id; column 0 weighs background, ids beyond K weigh 1.
        pixel_weight: float (N,H,W); weighs background by place.
    """
    label = label_of[target.semantic.long()]
    labelled = target.labelled[:, None, None]
    unknown = (target.semantic == IGNORE) | ((label > 0) & (target.instance == 0))
    owner = torch.where((label > 0) & labelled, target.instance.long(), 0)
    weight = labelled.double().expand(owner.shape)
    weight = weight if pixel_weight is None else weight * pixel_weight
    weight = weight if instance_weight is None else weight * instance_weight[:, :1, None]
    return DetectionTargets(
        objects=find_objects(owner, label, instance_weight),
        owner=torch.where(unknown, -1, owner),
        unknown=integral_image(unknown),
        background=integral_image(weight),
    )


def find_objects(owner: Tensor, label: Tensor, instance_weight: Tensor | None = None) -> list[Objects]:
    """Tight box and most frequent class (the lowest of a tie) of every instance of every frame.

    The host waits four times: for the number of pixels, of votes, of instances, and of instances per frame.

    Args:
        owner: int64 (N,H,W) instance ids, 0 = none.
        label: int64 (N,H,W) detector class of every pixel, 1..255 where ``owner`` is not 0.
        instance_weight: float (N,K+1) by instance id; ids beyond K, and all without a table, weigh 1.
    """
    count, height, width = owner.shape
    pixel = owner.flatten().nonzero()[:, 0]
    base = owner.max() + 1
    keys = (pixel // (height * width) * base + owner.flatten()[pixel]) * _LABELS + label.flatten()[pixel]
    votes, vote, sizes = keys.unique(return_inverse=True, return_counts=True)
    found, voter = torch.unique_consecutive(votes // _LABELS, return_inverse=True)
    frames, ids = found // base, found % base
    weights = torch.ones(len(ids), device=owner.device)
    if instance_weight is not None:
        weights = weight_by_id(instance_weight[frames], ids[:, None])[:, 0]
    everything = (
        _boxes(pixel % width, pixel // width % height, voter[vote], len(found)),
        _majority(votes % _LABELS, sizes, voter, len(found)),
        ids,
        weights,
    )
    numbers = (frames == torch.arange(count, device=frames.device)[:, None]).sum(1).tolist()
    return [Objects(*parts) for parts in zip(*(values.split(numbers) for values in everything), strict=True)]


def _boxes(columns: Tensor, rows: Tensor, owner: Tensor, count: int) -> Tensor:
    """Boxes float32 (count,4) around the pixels of each of ``count`` owners."""
    places, owners = torch.stack([columns, rows]), owner.expand(2, -1)
    corners = torch.zeros(2, count, dtype=torch.int64, device=owner.device)
    first = corners.scatter_reduce(1, owners, places, "amin", include_self=False)
    last = corners.scatter_reduce(1, owners, places, "amax", include_self=False)
    return torch.cat([first, last + 1]).T.float()


def _majority(labels: Tensor, sizes: Tensor, voter: Tensor, count: int) -> Tensor:
    """Label int64 (count,) of each voter's largest vote; votes have a label, a size and a voter."""
    largest = torch.zeros(count, dtype=torch.int64, device=sizes.device).scatter_reduce(0, voter, sizes, "amax")
    named = torch.where(sizes == largest[voter], labels, _LABELS)
    return torch.full_like(largest, _LABELS).scatter_reduce(0, voter, named, "amin")


def integral_image(maps: Tensor) -> Tensor:
    """Sums float64 (N,H+1,W+1) of ``maps`` (N,H,W) above and left of every corner of a pixel."""
    sums = maps.new_zeros(maps.shape[0], maps.shape[1] + 1, maps.shape[2] + 1, dtype=torch.float64)
    sums[:, 1:, 1:] = maps.double().cumsum(1).cumsum(2)
    return sums


def box_means(integral: Tensor, boxes: Tensor) -> Tensor:
    """Mean float32 (A,) over the pixels that a box touches inside the frame, or over the nearest one if it is outside.

    Args:
        integral: float64 (H+1,W+1), the ``integral_image`` of the frame.
        boxes: float (A,4) x0, y0, x1, y1 in pixels.
    """
    limits = boxes.new_tensor([integral.shape[1] - 1, integral.shape[0] - 1])
    first = boxes[:, :2].floor().clamp(min=0).minimum(limits - 1)
    last = boxes[:, 2:].ceil().maximum(first + 1).minimum(limits)
    (x0, y0), (x1, y1) = first.long().T, last.long().T
    sums = integral[y1, x1] - integral[y0, x1] - integral[y1, x0] + integral[y0, x0]
    return (sums / ((x1 - x0) * (y1 - y0))).float()
