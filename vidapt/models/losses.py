"""Semantic loss with per-pixel trust."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vidapt.clip import IGNORE


def semantic_loss(logits: Tensor, semantic: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted cross-entropy, averaged over all pixels (DAFormer 1.1: ignored pixels stay in the denominator).

    Args:
        logits: (N,C,h,w), upsampled bilinearly to the labels.
        semantic: uint8 (N,H,W) train ids, 255 = ignore.
        weight: float (N,H,W) trust in each label, or None for 1.

    Returns:
        Scalar float32; 0 with zero gradients if every pixel is ignored.
    """
    logits = F.interpolate(logits.float(), semantic.shape[-2:], mode="bilinear", align_corners=False)
    if weight is None:
        return F.cross_entropy(logits, semantic.long(), ignore_index=IGNORE, reduction="sum") / semantic.numel()
    loss = F.cross_entropy(logits, semantic.long(), ignore_index=IGNORE, reduction="none")
    return (loss * weight).mean()
