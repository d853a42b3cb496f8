"""Contrastive losses of random features, and how their values and gradients are held against float64.

An error may not exceed that of the reference in float32 on unit rows that are rounded to the format of the operands,
beside a small constant, nor the limit of that format; see `gates.floating_gate`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.kernels.bench.contrast_inputs import TEMPERATURE, clustered, draw_labels
from vidapt.kernels.bench.contrast_rows import BALANCED, ROUNDING
from vidapt.kernels.bench.correctness_cases import Case, ours, poisoned, truth
from vidapt.kernels.bench.gates import Answer, Gate, exact_gate, floating_gate
from vidapt.kernels.contrast import operands, paired_contrast, supervised_contrast

IGNORE = 255
IGNORED = 0.1  # share of the rows
COUNTED = 0.8  # share of the paired queries


class Asked(NamedTuple):
    """Whether rows are brought to length 1, the precision asked for, and the format that the limits go by."""

    normalize: bool = True
    precision: str | None = None
    limits: str = "fp16"


class Sides(NamedTuple):
    """Features (...,N,D) and (...,M,D) with labels (...,N) and (...,M); with an axis of pairs where there are pairs."""

    query: Tensor
    key: Tensor
    query_label: Tensor
    key_label: Tensor


Change = Callable[[Sides], Sides]


@dataclass(frozen=True)
class Problem:
    """A loss, which takes `features` by name and `normalize` and `precision`, and what of them it is asked."""

    loss: Callable[..., Tensor]
    features: dict[str, Tensor]
    asked: Asked


def case(text: str, build: Callable[[], Problem]) -> Case:
    """Return the case that holds loss and gradients of a problem against float64."""
    return Case(text, lambda: judged(text, build()))


def zero_case(text: str, build: Callable[[], Problem]) -> Case:
    """Return the case that demands a loss and gradients of exactly 0."""
    return Case(text, lambda: judged_zero(text, our_answer(build())))


def judged(text: str, problem: Problem) -> Gate:
    """Hold our loss and gradients against float64 and the plain form."""
    with truth():
        expected = differentiated(problem, {name: rows.double() for name, rows in problem.features.items()})
        plain = plainly_differentiated(problem)
    return floating_gate(text, our_answer(problem), expected, plain, problem.asked.limits)


def judged_zero(text: str, answer: Answer) -> Gate:
    """Count what is not 0."""
    return exact_gate(text, answer, {name: torch.zeros_like(value) for name, value in answer.items()})


def our_answer(problem: Problem) -> Answer:
    """Return what our operation makes of a problem in memory that holds garbage."""
    with ours(problem.features["query"].device), poisoned():
        return differentiated(problem, problem.features)


def differentiated(problem: Problem, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss or losses of these features, and the gradients that reach them."""
    leaves = _leaves(features)
    loss = problem.loss(**leaves, normalize=problem.asked.normalize, precision=problem.asked.precision)
    return _backward(loss, leaves)


def plainly_differentiated(problem: Problem) -> dict[str, Tensor]:
    """Return the same from unit rows that are rounded to the format that the limits go by."""
    leaves = _leaves(problem.features)
    given = {name: _operand(rows, problem.asked) for name, rows in leaves.items()}
    return _backward(problem.loss(**given, normalize=False, precision=None), leaves)


def _leaves(features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: rows.detach().requires_grad_() for name, rows in features.items()}


def _operand(rows: Tensor, asked: Asked) -> Tensor:
    """Return what a format with fewer bits makes of rows, with the gradient of the exact ones."""
    unit = operands.features(rows, torch.float32, asked.normalize)
    rounded = unit.to(ROUNDING.get(asked.limits, unit.dtype)).to(unit.dtype)
    return unit + (rounded - unit).detach()


def _backward(loss: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return loss and gradients; where there are several losses, their upstream gradients are 1 to 2."""
    loss.backward(torch.linspace(1, 2, loss.numel(), dtype=loss.dtype, device=loss.device).view_as(loss))
    gradients = {f"gradient of {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"loss": loss.detach(), **gradients}


def as_drawn(sides: Sides) -> Sides:
    """Change nothing."""
    return sides


def supervised(
    device: torch.device, axes: tuple[int, ...], asked: Asked, *, change: Change = as_drawn, **options: Any
) -> Problem:
    """Return a supervised contrast of N queries with M keys of D features, or (axes N and D) with each other.

    `options` are those of the function; a `temperature` of 0.1 is given where they lack one.
    """
    drawn = sides(device, 1, axes[0], axes[-2], axes[-1])
    given = change(Sides(*(part[0] for part in drawn)))
    options = {"temperature": TEMPERATURE} | options

    def loss(query: Tensor, key: Tensor | None = None, **how: Any) -> Tensor:
        others = (query, given.query_label) if key is None else (key, given.key_label)
        return supervised_contrast(query, others[0], given.query_label, others[1], **options, **how)

    if len(axes) == 2:
        return Problem(loss, {"query": given.query}, asked)
    return Problem(loss, {"query": given.query, "key": given.key}, asked)


def paired(
    device: torch.device,
    axes: tuple[int, int, int, int],
    asked: Asked,
    *,
    as_features: bool = False,
    change: Change = as_drawn,
    **options: Any,
) -> Problem:
    """Return a paired contrast of P pairs, N queries and M keys of D features; some queries do not count.

    The positives are features of their own, or places among the keys of which some are none.
    """
    pairs, queries, keys, depth = axes
    given = change(sides(device, *axes))
    generator = torch.Generator(device).manual_seed(3)
    gate = torch.rand(pairs, queries, generator=generator, device=device) < COUNTED
    place = torch.randint(-1, keys, (pairs, queries), generator=generator, device=device)
    labels = {"query_label": given.query_label, "key_label": given.key_label}
    options = dict[str, Any](temperature=TEMPERATURE, gate=gate, **labels) | options

    def loss(query: Tensor, key: Tensor, positive: Tensor | None = None, **how: Any) -> Tensor:
        return paired_contrast(query, key, place if positive is None else positive, **options, **how)

    features = {"query": given.query, "key": given.key}
    if as_features:
        features["positive"] = change(sides(device, pairs, queries, 1, depth, seed=4)).query
    return Problem(loss, features, asked)


def sides(device: torch.device, pairs: int, queries: int, keys: int, depth: int, seed: int = 1) -> Sides:
    """Return features around the centres of 19 classes, not normalised, and labels of which some are ignored."""
    centres = torch.randn(len(BALANCED), depth, generator=torch.Generator(device).manual_seed(0), device=device)
    generator = torch.Generator(device).manual_seed(seed)
    query, query_label = _rows(F.normalize(centres, dim=-1), pairs, queries, generator)
    key, key_label = _rows(F.normalize(centres, dim=-1), pairs, keys, generator)
    return Sides(query, key, query_label, key_label)


def _rows(centres: Tensor, pairs: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    label = draw_labels(pairs, count, BALANCED, generator)
    ignored = torch.rand(label.shape, generator=generator, device=label.device) < IGNORED
    return clustered(centres, label, generator), torch.where(ignored, IGNORE, label)
