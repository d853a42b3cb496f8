"""Contrast problems, their losses as whole N × M matrices in any dtype, and the rule that the kernels are held to."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

IGNORE = 255
# Adding it leaves nothing of an exponential, and unlike -inf it never makes a NaN.
MASKED = -1e30
OPERANDS = {"exact": torch.float32, "fp16": torch.float16}
# Of the error's Frobenius norm to that of the exact result, and of what it may exceed the plain form's error by.
RATIOS = {"exact": 1e-5, "fp16": 1e-3}
SLACKS = {"exact": 2e-6, "fp16": 1e-4}


def supervised_problem(
    queries: int, keys: int, features: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return query, key, query_label, key_label: three labels and some ignored rows."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(queries, features, generator=generator, dtype=torch.float64).to(dtype)
    key = torch.randn(keys, features, generator=generator, dtype=torch.float64).to(dtype)
    choices = torch.tensor([0, 1, 7, IGNORE])
    query_label = choices[torch.randint(0, 4, (queries,), generator=generator)]
    return query, key, query_label, choices[torch.randint(0, 4, (keys,), generator=generator)]


def paired_problem(
    pairs: int, queries: int, keys: int, features: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Return the tensors of a problem with three labels, ignored rows, gated queries and queries without positive."""
    generator = torch.Generator().manual_seed(seed)
    choices = torch.tensor([0, 1, 7, IGNORE])

    def rows(count: int) -> Tensor:
        return torch.randn(pairs, count, features, generator=generator, dtype=torch.float64).to(dtype)

    def labels(count: int) -> Tensor:
        return choices[torch.randint(0, 4, (pairs, count), generator=generator)]

    return {
        "query": rows(queries),
        "key": rows(keys),
        "index": torch.randint(-1, max(keys, 1), (pairs, queries), generator=generator)
        if keys
        else -torch.ones(pairs, queries).long(),
        "rows": rows(queries),
        "query_label": labels(queries),
        "key_label": labels(keys),
        "gate": torch.rand(pairs, queries, generator=generator) < 0.8,
        "weight": torch.rand(pairs, queries, generator=generator, dtype=torch.float64),
    }


def unit_rows(features: Tensor) -> Tensor:
    """Return rows divided by max(their L2 norm, 1e-6)."""
    return features / features.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def products(left: Tensor, right: Tensor, operands: torch.dtype) -> Tensor:
    """Return left @ right^T computed in the dtype `operands`; float64 features stay exact."""
    if left.dtype == torch.float64:
        return left @ right.mT
    return (left.to(operands) @ right.to(operands).mT).to(left.dtype)


def plain_supervised(
    query: Tensor,
    key: Tensor,
    query_label: Tensor,
    key_label: Tensor,
    *,
    temperature: float,
    form: str = "per_positive",
    exclude_self: bool = False,
    ignore_label: int = IGNORE,
    normalize: bool = False,
    operands: torch.dtype = torch.float32,
) -> Tensor:
    """Return the supervised losses (N,), 0 where not counted."""
    query_label, key_label = query_label.long(), key_label.long()
    if normalize:
        query, key = unit_rows(query), unit_rows(key)
    logits = products(query, key, operands) / temperature
    others = (key_label != ignore_label).expand(logits.shape).clone()
    if exclude_self:
        others.fill_diagonal_(False)
    same = query_label[:, None] == key_label
    positive = others & same
    summed = others if form == "supcon" else others & ~same
    whole = torch.logsumexp(torch.where(summed, logits, MASKED), 1, keepdim=True)
    if form == "per_positive":
        whole = torch.logaddexp(logits, whole)
    count = positive.sum(1)
    losses = torch.where(positive, whole - logits, 0).sum(1) / count.clamp(min=1)
    return torch.where((query_label != ignore_label) & (count > 0), losses, 0)


def plain_paired(
    query: Tensor,
    key: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    query_label: Tensor | None = None,
    key_label: Tensor | None = None,
    gate: Tensor | None = None,
    ignore_label: int = IGNORE,
    normalize: bool = False,
    operands: torch.dtype = torch.float32,
) -> Tensor:
    """Return the paired losses (P,N), 0 where not counted; with labels the negatives are those of another label."""
    indexed = not positive.is_floating_point()
    if normalize:
        query, key = unit_rows(query), unit_rows(key)
    logits = products(query, key, operands) / temperature
    negative = torch.ones_like(logits, dtype=torch.bool)
    counted = torch.ones_like(logits[..., 0], dtype=torch.bool) if gate is None else gate
    if query_label is not None and key_label is not None:
        query_label, key_label = query_label.long(), key_label.long()
        negative = (key_label != ignore_label)[:, None] & (query_label[..., None] != key_label[:, None])
        counted = counted & (query_label != ignore_label)
    if indexed:
        inside = (positive >= 0) & (positive < key.shape[1])
        place = torch.where(inside, positive, 0).long()[..., None]
        counted, own = counted & inside, logits.gather(2, place)
        negative = negative.scatter(2, place, False)
    else:
        positive = unit_rows(positive) if normalize else positive
        own = products(query[..., None, :], positive[..., None, :], operands)[..., 0] / temperature
    whole = torch.logsumexp(torch.cat([own, torch.where(negative, logits, MASKED)], 2), 2)
    return torch.where(counted, whole - own[..., 0], 0)


def losses_and_gradients(
    loss: Callable[..., Tensor], leaves: Sequence[Tensor], upstream: Tensor, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Return `loss(*leaves)` and the gradients of the leaves, which are converted to `dtype` first."""
    inputs = [(leaf if dtype is None else leaf.to(dtype)).detach().requires_grad_() for leaf in leaves]
    losses = loss(*inputs)
    return [losses.detach(), *torch.autograd.grad(losses, inputs, upstream.to(losses.dtype))]


def assert_as_accurate(
    actual: Sequence[Tensor], exact: Sequence[Tensor], plain: Sequence[Tensor], precision: str
) -> None:
    """Hold every result to the plain form's error in its precision plus a small constant, and to a fixed ratio."""
    for one, truth, other in zip(actual, exact, plain, strict=True):
        norm, allowed = truth.norm(), (other.to(one.dtype).double() - truth).norm()
        error = (one.double() - truth).norm()
        assert one.shape == truth.shape
        assert allowed <= 10 * RATIOS[precision] * norm
        assert error <= allowed + SLACKS[precision] * norm
        assert error <= RATIOS[precision] * norm


def record_splits(monkeypatch: pytest.MonkeyPatch, tiles_per_split: int) -> list[int]:
    """Let splits have that many tiles of columns, and return a list that gets the number of splits of each launch."""
    from vidapt.kernels.contrast import launch, launch_grad

    counts: list[int] = []
    split_count = launch.split_count

    def recorded(*arguments: int) -> int:
        counts.append(split_count(*arguments))
        return counts[-1]

    monkeypatch.setattr(launch, "TILES_PER_SPLIT", tiles_per_split)
    for module in (launch, launch_grad):
        monkeypatch.setattr(module, "split_count", recorded)
    return counts
