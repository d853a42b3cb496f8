"""The five losses of the Mask R-CNN head: each the mean over frames of a frame's own mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from vidapt.models.instance.mask_rcnn_masks import crop_maps
from vidapt.models.instance.mask_rcnn_sampling import Samples


def proposal_losses(logits: Tensor, codes: Tensor, samples: list[Samples], coder: BoxCoder) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of the drawn anchors, and L1 of the boxes of the positive ones.

    Args:
        logits: float32 (N,A).
        codes: float32 (N,A,4).
        samples: The A anchors in each of N frames.
        coder: Turns boxes into codes relative to their anchors.
    """
    share = torch.stack([_share(frame) for frame in samples])
    positive = torch.stack([frame.labels for frame in samples]) > 0
    goals = torch.stack([coder.encode_single(frame.goals, frame.boxes) for frame in samples])
    errors = F.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none")
    distances = (codes - goals).abs().sum(-1)
    return (errors * share).sum() / len(samples), (distances * share * positive).sum() / len(samples)


def box_losses(logits: Tensor, codes: Tensor, samples: list[Samples], coder: BoxCoder) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the drawn regions, and L1 of the boxes that the positive ones have for their class.

    Torchvision has smooth L1 with beta 1/9 here and in the proposals, EDAPS L1.

    Args:
        logits: float32 (R,L) for the regions of all frames.
        codes: float32 (R,4·L).
        samples: The regions of each of N frames, R in all.
        coder: Turns boxes into codes relative to their regions.
    """
    share = torch.cat([_share(frame) for frame in samples])
    labels = torch.cat([frame.labels for frame in samples])
    goals = torch.cat([coder.encode_single(frame.goals, frame.boxes) for frame in samples])
    classes = labels.clamp(min=0)
    errors = F.cross_entropy(logits, classes, reduction="none")
    own = codes.view(*logits.shape, 4)[torch.arange(len(classes), device=classes.device), classes]
    distances = (own - goals).abs().sum(-1)
    return (errors * share).sum() / len(samples), (distances * share * (labels > 0)).sum() / len(samples)


def mask_loss(logits: Tensor, samples: list[Samples], owner: Tensor, pixel_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, the mean over the cells of a region whose label is known, then over a frame's regions.

    Args:
        logits: float32 (P,side,side) of the positive regions of all frames for their class.
        samples: The positive regions of each of N frames, P in all.
        owner: int64 (N,H,W) instance id of every pixel, 0 = none, -1 = unknown.
        pixel_weight: float (N,H,W); scales a cell's error and leaves the number of cells alone.
    """
    boxes = torch.cat([frame.boxes for frame in samples])
    ids = torch.cat([frame.ids for frame in samples])
    frames = torch.cat([torch.full_like(frame.ids, number) for number, frame in enumerate(samples)])
    owners = crop_maps(owner, boxes, frames, logits.shape[-1])
    known = (owners >= 0).float()
    goal = (owners == ids[:, None, None]).float()
    errors = F.binary_cross_entropy_with_logits(logits, goal, reduction="none") * known
    if pixel_weight is not None:
        errors = errors * crop_maps(pixel_weight.float(), boxes, frames, logits.shape[-1])
    means = errors.sum((1, 2)) / known.sum((1, 2)).clamp(min=1.0)
    return (means * torch.cat([_share(frame) for frame in samples])).sum() / len(samples)


def _share(samples: Samples) -> Tensor:
    """Weight of every sample divided by the number of drawn ones."""
    return samples.weights / samples.drawn.sum().clamp(min=1)
