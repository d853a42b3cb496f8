"""Inputs of the contrast rows: clustered features with labels, and what a loss makes of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.1

# Shares of the labelled pixels of the Cityscapes training set by train id, as class-weighting code commonly lists them.
CITYSCAPES_SHARES = (
    0.3687, 0.0608, 0.2282, 0.0066, 0.0088, 0.0123, 0.0021, 0.0055, 0.1593, 0.0116,
    0.0402, 0.0122, 0.0014, 0.0699, 0.0027, 0.0024, 0.0023, 0.0010, 0.0041,
)  # fmt: skip


@dataclass
class ContrastInputs:
    """Features that are not normalised, with their labels; everything has a leading axis of P pairs.

    query (P,N,D) and key (P,M,D) are one tensor in self-contrast; positive is (P,N) int64 places among the keys,
    (P,N,D) features or None (all keys of the label); labels int64; gate bool (P,N) or None. `different_label`: the
    negatives are the keys of another label, not all keys.
    """

    query: Tensor
    key: Tensor
    positive: Tensor | None
    query_label: Tensor
    key_label: Tensor
    gate: Tensor | None
    different_label: bool = True
    temperature: float = TEMPERATURE

    def leaves(self) -> dict[str, Tensor]:
        """Return the tensors that get gradients, by name."""
        named = {"query": self.query, "key": None if self.key is self.query else self.key, "positive": self.positive}
        return {name: tensor for name, tensor in named.items() if tensor is not None and tensor.requires_grad}

    def clear(self) -> None:
        """Drop the gradients."""
        for leaf in self.leaves().values():
            leaf.grad = None

    def double(self) -> "ContrastInputs":
        """Return the same problem in float64, with leaves of its own."""
        query, positive = _double(self.query), self.positive
        key = query if self.key is self.query else _double(self.key)
        if positive is not None and positive.is_floating_point():
            positive = _double(positive)
        return replace(self, query=query, key=key, positive=positive)


def clustered(centres: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
    """Return a row for each label, 45 degrees off its class's unit centre, of a length between 0.5 and 2."""
    noise = torch.randn(*label.shape, centres.shape[1], generator=generator, device=label.device)
    unit = F.normalize(centres[label] + F.normalize(noise, dim=-1), dim=-1)
    return unit * (0.5 + 1.5 * torch.rand(*label.shape, 1, generator=generator, device=label.device))


def draw_labels(pairs: int, count: int, shares: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """Return labels (pairs,count) in random order: as many of each class as `shares` say."""
    device = generator.device
    bounds = torch.tensor(shares, dtype=torch.float64, device=device).cumsum(0)
    place = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) / count * bounds[-1]
    ordered = torch.searchsorted(bounds, place)
    return ordered[torch.rand(pairs, count, generator=generator, device=device).argsort(-1)]


def differentiated(loss: Callable[[ContrastInputs], Tensor], inputs: ContrastInputs) -> dict[str, Tensor]:
    """Return the loss and the gradients that it sends to the leaves."""
    inputs.clear()
    value = loss(inputs)
    value.backward()
    gradients = {f"gradient of {name}": leaf.grad for name, leaf in inputs.leaves().items() if leaf.grad is not None}
    inputs.clear()
    return {"loss": value.detach(), **gradients}


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double().requires_grad_(tensor.requires_grad)
