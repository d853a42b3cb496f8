"""Semantic loss with per-pixel trust and class weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.clip import IGNORE
from vidapt.models.grid import enlarge


def semantic_loss(
    logits: Tensor, semantic: Tensor, weight: Tensor | None = None, class_weight: Tensor | None = None
) -> Tensor:
    """Weighted cross-entropy, averaged over all pixels (DAFormer 1.1: ignored pixels stay in the denominator).

    Args:
        logits: (N,C,h,w), upsampled bilinearly to the labels.
        semantic: uint8 (N,H,W) train ids, 255 = ignore.
        weight: float (N,H,W) trust in each label, or None for 1.
        class_weight: float (C,) weight of each class, or None for 1; see ``class_weights``.

    Returns:
        Scalar float32; 0 with zero gradients if every pixel is ignored.
    """
    logits = enlarge(logits.float(), (semantic.shape[-2], semantic.shape[-1]))
    if weight is None:
        loss = F.cross_entropy(logits, semantic.long(), class_weight, ignore_index=IGNORE, reduction="sum")
        return loss / semantic.numel()
    loss = F.cross_entropy(logits, semantic.long(), class_weight, ignore_index=IGNORE, reduction="none")
    return (loss * weight).mean()


def class_weights(counts: Tensor, power: float, *, floor: float = 1e-3, limit: float = 6.0) -> Tensor:
    """Class weights that grow as frequency^-power and leave the mean weight of a pixel at 1.

    Args:
        counts: (C,) labelled pixels per class.
        power: 0 weighs all classes alike, 1 fully balances them.
        floor: Smallest frequency that is told apart.
        limit: Largest weight.

    Returns:
        float32 (C,); ones if there are no labelled pixels.
    """
    frequency = counts.double() / counts.sum().clamp_min(1)
    weights = frequency.clamp_min(floor) ** -power
    mean = (weights * frequency).sum()
    return (weights / mean).clamp_max(limit).float() if mean > 0 else torch.ones(len(counts))
