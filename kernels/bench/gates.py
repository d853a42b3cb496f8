"""The correctness gate: nothing is timed whose results are wrong.

Losses and gradients are held against float64. An error may not exceed that of the plain form in the same number format
by more than a small constant, nor `FROBENIUS` in relative Frobenius norm. Pastes, statistics and anchors are exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# By the format of the operands of the similarity. "tf32" is how the baselines multiply float32 on a GPU; they only have
# to compute the same thing.
FROBENIUS = {"exact": 1e-5, "fp16": 1e-3, "bf16": 5e-3, "tf32": 1e-2}
# The small constant, as a share of the limit above.
ABOVE_PLAIN = 1 / 3

Answer = Mapping[str, Tensor]


@dataclass(frozen=True)
class Gate:
    """The worst of the errors of one provider on one problem, which passes if it is at most what is allowed."""

    problem: str
    quantity: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is allowed; NaN is not."""
        return self.error <= self.allowed

    def __str__(self) -> str:
        return f"{self.quantity} off by {self.error:.2g}, allowed {self.allowed:.2g} ({self.problem} problem)"


def floating_gate(problem: str, answer: Answer, truth: Answer, plain: Answer | None, precision: str) -> Gate:
    """Judge losses and gradients by float64 `truth`, and by what the `plain` form makes of it where there is one."""
    limit = FROBENIUS[precision]
    gates = []
    for name, expected in truth.items():
        allowed = limit
        if plain is not None:
            allowed = min(limit, relative_error(plain[name], expected) + ABOVE_PLAIN * limit)
        gates.append(Gate(problem, name, relative_error(answer[name], expected), allowed))
    return worst(gates)


def exact_gate(problem: str, answer: Answer, truth: Answer) -> Gate:
    """Judge results by how many of their elements differ from the truth; none may."""
    return worst([Gate(problem, name, differences(answer[name], expected), 0.0) for name, expected in truth.items()])


def worst(gates: list[Gate]) -> Gate:
    """Return the gate that fails by most, or else comes nearest to failing."""
    return max(gates, key=lambda gate: (not gate.passed, gate.error / (gate.allowed or 1.0)))


def relative_error(answer: Tensor, truth: Tensor) -> float:
    """Return the Frobenius norm of the difference over that of the truth; NaN where the answer has no such shape."""
    if answer.shape != truth.shape:
        return float("nan")
    scale = torch.linalg.vector_norm(truth)
    distance = torch.linalg.vector_norm(answer.to(truth.dtype) - truth)
    return float(distance / torch.where(scale == 0, 1, scale))


def differences(answer: Tensor, truth: Tensor) -> float:
    """Return how many elements differ; NaN where shape or dtype differ."""
    if answer.shape != truth.shape or answer.dtype != truth.dtype:
        return float("nan")
    return float((answer != truth).sum())
