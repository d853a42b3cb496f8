"""What the contrast losses do before and after the similarity matrix: dtypes, normalisation, labels, the mean."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NORMALIZE_EPS = 1e-6
# exp(-2 / temperature) must stay a normal float32 number for the fixed maximum 1 / temperature.
FIXED_MAXIMUM_LIMIT = 80.0
# Integers up to here are exact in float32.
EXACT_INTEGERS = 2**24


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 if any tensor is float64, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def features(tensor: Tensor, dtype: torch.dtype, normalize: bool) -> Tensor:
    """Return the features in `dtype`, divided by max(their L2 norm, 1e-6) if `normalize`; differentiable."""
    converted = tensor.to(dtype)
    return Normalize.apply(converted) if normalize else converted


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let the backward of a loss compute in its own dtype even where it is called under autocast."""

    @wraps(backward)
    def run(ctx: Any, grad: Tensor, *others: Any) -> Any:
        with torch.autocast(grad.device.type, enabled=False):
            return backward(ctx, grad, *others)

    return run


class Normalize(torch.autograd.Function):
    """Rows divided by max(their L2 norm, 1e-6), like `F.normalize` but keeping one copy instead of four."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Return the rows (..., D) at length 1; shorter ones than 1e-6 are divided by 1e-6."""
        norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        inverse = norm.clamp(min=NORMALIZE_EPS).reciprocal_()
        unit = rows * inverse
        ctx.save_for_backward(unit, inverse, norm >= NORMALIZE_EPS)
        return unit

    @staticmethod
    @without_autocast
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return what is orthogonal to each row over its norm; rows that were too short only scale."""
        unit, inverse, free = ctx.saved_tensors
        along = torch.linalg.vecdot(unit, grad)[..., None] * free
        return torch.addcmul(grad, unit, along, value=-1).mul_(inverse)


def logit_bound(temperature: float, normalize: bool) -> float | None:
    """Return the fixed maximum of the logits where it is known and safe in float32, else None."""
    return 1 / temperature if normalize and 2 / temperature <= FIXED_MAXIMUM_LIMIT else None


def comparable_labels(query_label: Tensor, key_label: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the labels (..., N) and (..., M) as numbers of the floating `dtype` that are equal where the labels are.

    Labels of a wide integer type are replaced by their ranks among all of them, so that none is rounded.

    Raises:
        ValueError: more labels than `dtype` can tell apart.
    """
    if all(torch.iinfo(label.dtype).bits <= 16 for label in (query_label, key_label)):
        return query_label.to(dtype), key_label.to(dtype)
    split = query_label.shape[-1]
    labels = torch.cat([query_label.long(), key_label.long()], -1)
    if labels.shape[-1] > EXACT_INTEGERS:
        raise ValueError(f"{labels.shape[-1]} queries and keys; at most {EXACT_INTEGERS} are supported")
    ordered, order = labels.sort(-1)
    ranks = F.pad((ordered[..., 1:] != ordered[..., :-1]).cumsum(-1), (1, 0)) if labels.shape[-1] else labels
    ranked = torch.empty_like(labels).scatter_(-1, order, ranks).to(dtype)
    return ranked[..., :split], ranked[..., split:]


def reduce_losses(losses: Tensor, counted: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Return the weighted mean or sum of the counted losses, or the losses themselves for `"none"`.

    Args:
        losses: (...) with 0 where not counted.
        counted: (...) bool.
        weight: (...) or None; no gradient flows to it.
        reduction: "mean" (0 if nothing counts), "sum" or "none" (unweighted).
    """
    if reduction == "none":
        return losses
    share = counted.to(losses.dtype) if weight is None else torch.where(counted, weight.detach(), 0).to(losses.dtype)
    total = (losses * share).sum()
    if reduction == "sum":
        return total
    norm = share.sum()
    return total / torch.where(norm == 0, 1, norm)
