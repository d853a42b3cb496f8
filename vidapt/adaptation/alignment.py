"""CDA: pixels are classified by their similarity to text embeddings of the classes (LIDAPS)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.clip import IGNORE
from vidapt.models.grid import enlarge

_NO_LABEL = -100
"""Ignored by the cross-entropy; ``IGNORE`` itself may be the row of void."""
_SHORTEST = 1e-6
"""Features shorter than this have no direction: similarity 0 to every class, and no gradient."""


def text_alignment(
    features: Tensor,
    semantic: Tensor,
    table: Tensor,
    *,
    temperature: float | None = None,
    weight: Tensor | None = None,
    labelled: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the similarities of pixel features to text embeddings, averaged over all pixels.

    Ignored pixels belong to the void row, as in LIDAPS. Its code enlarges the features before it normalises them; here
    they are normalised per cell and their similarities are enlarged, which spares the features at full size (16 times
    the memory at stride 4) and gives other values where neighbouring features differ in length.

    Args:
        features: float (N,D,h,w), not normalised; see ``PanopticNetwork.project_text``.
        semantic: uint8 (N,H,W) train ids, 255 = ignore.
        table: float (C+1,D) text embeddings, void last; constant: it gets no gradient.
        temperature: Of the cosines to normalised rows; None takes the rows as they are, so that their length is the
            inverse temperature (LIDAPS).
        weight: float (N,H,W) trust in each label, or None for 1 (LIDAPS).
        labelled: bool (N,), False for frames without labels, which train nothing and stay in the denominator; None:
            all frames have labels.

    Returns:
        Scalar float32.

    Raises:
        ValueError: If features and table differ in width.
    """
    logits = text_logits(features, table, temperature)
    size = (semantic.shape[-2], semantic.shape[-1])
    target = semantic.long()
    target = torch.where(target == IGNORE, len(table) - 1, target)
    if labelled is not None:
        target = target.masked_fill(~labelled[:, None, None], _NO_LABEL)
    with torch.autocast(features.device.type, enabled=False):
        large = enlarge(logits, size)
        if weight is None:
            return F.cross_entropy(large, target, ignore_index=_NO_LABEL, reduction="sum") / target.numel()
        return (F.cross_entropy(large, target, ignore_index=_NO_LABEL, reduction="none") * weight).mean()


def text_logits(features: Tensor, table: Tensor, temperature: float | None = None) -> Tensor:
    """Similarity of every cell to every row: row·f/‖f‖, or cosine / ``temperature``.

    Args:
        features: float (N,D,h,w).
        table: float (C+1,D); no gradient reaches it.
        temperature: As in ``text_alignment``.

    Returns:
        float32 (N,C+1,h,w).

    Raises:
        ValueError: If features and table differ in width.
    """
    if features.shape[1] != table.shape[1]:
        raise ValueError(
            f"features have {features.shape[1]} channels and the text table {table.shape[1]} values per row; set "
            "model.text.dim to the table's width"
        )
    with torch.autocast(features.device.type, enabled=False):
        features, rows = features.float(), table.detach().float()
        if temperature is not None:
            rows = F.normalize(rows, dim=1) / temperature
        length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        # Dividing the few similarities instead of the many channels spares a copy of the features.
        similarity = torch.einsum("ndhw,kd->nkhw", features, rows) / length.clamp_min(_SHORTEST)
        return torch.where(length > _SHORTEST, similarity, 0.0)
