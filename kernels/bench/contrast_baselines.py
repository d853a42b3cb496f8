"""The contrastive losses as public code writes them, with the whole matrix of similarities; baselines and truth.

Pixel contrast follows ContrastiveSeg (Wang et al. 2021) and PiPa (Chen et al. 2023), formula by formula, with one mask
per matrix instead of loops; the paired loss is InfoNCE (van den Oord et al. 2018) as PiPa's patch contrast masks it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vidapt.kernels.bench.contrast_inputs import ContrastInputs

CHUNK_ROWS = 2048
# Matrices of float32 that autograd keeps, and the kernels between them make, at the peak of one backward pass.
PLAIN_MATRICES = 8


def eager_loss(inputs: ContrastInputs, rounding: torch.dtype | None = None) -> Tensor:
    """Return the mean loss from matrices N x M.

    With `rounding` the normalised features are rounded to that dtype, as a number format with fewer bits does, and
    everything else stays as it is.
    """
    query, key, positive = _normalised(inputs, rounding)
    total, count = _rows(query, key, positive, inputs, slice(None))
    return total / count.clamp(min=1)


def chunked_loss(inputs: ContrastInputs) -> Tensor:
    """Return the same loss `CHUNK_ROWS` queries at a time, each chunk computed again in the backward pass."""
    query, key, positive = _normalised(inputs, None)
    total, count = query.new_zeros(()), query.new_zeros(())
    for start in range(0, query.shape[1], CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        some = None if positive is None else positive[:, rows]
        chunk_total, chunk_count = checkpoint(_rows, query[:, rows], key, some, inputs, rows, use_reentrant=False)
        total, count = total + chunk_total, count + chunk_count
    return total / count.clamp(min=1)


def plain_bytes(pairs: int, queries: int, keys: int) -> int:
    """Return about how much memory the plain form takes forward and backward."""
    return PLAIN_MATRICES * 4 * pairs * queries * keys


def _normalised(inputs: ContrastInputs, rounding: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return query, key and, where they are features, positives at length 1."""
    query = _rounded(F.normalize(inputs.query, dim=-1), rounding)
    key = query if inputs.key is inputs.query else _rounded(F.normalize(inputs.key, dim=-1), rounding)
    positive = inputs.positive
    if positive is None or not positive.is_floating_point():
        return query, key, None
    return query, key, _rounded(F.normalize(positive, dim=-1), rounding)


def _rounded(features: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return features rounded to `dtype`, with the gradient of the identity."""
    if dtype is None:
        return features
    return features + (features.to(dtype).to(features.dtype) - features).detach()


def _rows(
    query: Tensor, key: Tensor, positive: Tensor | None, inputs: ContrastInputs, rows: slice
) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of the counted queries of a chunk, and how many they are.

    query and positive hold the chunk's rows only, key and inputs everything.
    """
    label, places = inputs.query_label[:, rows], inputs.positive
    if places is None:
        own = torch.arange(inputs.query.shape[1], device=query.device)[rows].expand(label.shape)
        return _supervised_rows(query, key, label, inputs.key_label, own, inputs.temperature)
    score = query @ key.mT / inputs.temperature
    negative = torch.ones_like(score, dtype=torch.bool)
    if inputs.different_label:
        negative = label[..., None] != inputs.key_label[:, None]
    if positive is None:
        places = places[:, rows, None]
        positive = key.gather(1, places.expand(-1, -1, key.shape[-1]))
        negative = negative.scatter(2, places, False)
    pulled = (query * positive).sum(-1) / inputs.temperature
    rest = (score.exp() * negative).sum(-1)
    losses = torch.log(pulled.exp() + rest) - pulled
    counted = torch.ones_like(losses, dtype=torch.bool) if inputs.gate is None else inputs.gate[:, rows]
    return (losses * counted).sum(), counted.sum()


def _supervised_rows(
    query: Tensor, key: Tensor, query_label: Tensor, key_label: Tensor, own: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return sum and number of the losses with all keys of the label as positives, each with its own denominator."""
    score = query @ key.mT / temperature
    same = query_label[..., None] == key_label[:, None]
    exp = score.exp()
    rest = (exp * ~same).sum(-1, keepdim=True)
    positive = same.scatter(2, own[..., None], False)
    log_share = score - torch.log(exp + rest)
    count = positive.sum(-1)
    losses = -(log_share * positive).sum(-1) / count.clamp(min=1)
    return losses.sum(), (count > 0).sum()
