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
    total, count = _rows(*_normalised(inputs, rounding), *_targets(inputs), inputs.different_label, inputs.temperature)
    return total / count.clamp(min=1)


def chunked_loss(inputs: ContrastInputs) -> Tensor:
    """Return the same loss `CHUNK_ROWS` queries at a time, each chunk computed again in the backward pass."""
    query, key, positive = _normalised(inputs, None)
    places, query_label, key_label, own, gate = _targets(inputs)
    total, count = query.new_zeros(()), query.new_zeros(())
    for start in range(0, query.shape[1], CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        parts = (None if part is None else part[:, rows] for part in (positive, places, query_label, own, gate))
        some_positive, some_places, some_label, some_own, some_gate = parts
        chunk_total, chunk_count = checkpoint(
            _rows, query[:, rows], key, some_positive, some_places, some_label, key_label, some_own, some_gate,
            inputs.different_label, inputs.temperature, use_reentrant=False,
        )  # fmt: skip
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


def _targets(inputs: ContrastInputs) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return places of positives, both labels, the place of each query among the keys, and the gate."""
    positive = inputs.positive
    if positive is None:
        own = torch.arange(inputs.query.shape[1], device=inputs.query.device).expand(inputs.query_label.shape)
        return None, inputs.query_label, inputs.key_label, own, None
    places = None if positive.is_floating_point() else positive
    return places, inputs.query_label, inputs.key_label, None, inputs.gate


def _rows(
    query: Tensor,
    key: Tensor,
    positive: Tensor | None,
    places: Tensor | None,
    query_label: Tensor,
    key_label: Tensor,
    own: Tensor | None,
    gate: Tensor | None,
    different_label: bool,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of the counted queries, and how many they are."""
    if own is not None:
        return _supervised_rows(query, key, query_label, key_label, own, temperature)
    if positive is None and places is not None:
        positive = key.gather(1, places[..., None].expand(-1, -1, key.shape[-1]))
    score = query @ key.mT / temperature
    negative = torch.ones_like(score, dtype=torch.bool)
    if different_label:
        negative = query_label[..., None] != key_label[:, None]
    if places is not None:
        negative = negative.scatter(2, places[..., None], False)
    pulled = (query * positive).sum(-1) / temperature
    rest = (score.exp() * negative).sum(-1)
    losses = torch.log(pulled.exp() + rest) - pulled
    counted = torch.ones_like(losses, dtype=torch.bool) if gate is None else gate
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
