"""Whether the kernels are right on a device: checks of seconds each, in order of worth.

On a GPU the kernels run as dispatch chooses them; losses and gradients are held against the references in float64,
pasting, statistics and anchors against theirs to the bit. What an operation leaves unwritten is NaN or the largest
integer. On the CPU the references are judged in the same way, and under `TRITON_INTERPRET=1 VIDAPT_KERNELS=triton` the
kernels in Triton's interpreter.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf, isfinite, isnan, nan
from typing import Any

import torch

from vidapt.kernels.bench import (
    correctness_contrast,
    correctness_exact,
    correctness_operators,
    correctness_running,
)
from vidapt.kernels.bench.correctness_cases import Case, Cases, kernels_run
from vidapt.kernels.bench.gates import FROBENIUS, Gate
from vidapt.kernels.bench.run import first_line

SHOWN = 5
FORMATS = ("fp16", "exact", "bf16")
IMAGES = {"uint8": torch.uint8, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Obstacle = Callable[[torch.device, bool], str]
"""Why a check cannot run on a device, or quickly; empty if it can."""


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        name: of the check.
        cases: how many were judged.
        worst: those that fail by most or come nearest to it: case, quantity, error, allowed, passed.
        skipped: why none was judged, or "".
    """

    name: str
    cases: int
    worst: list[dict[str, Any]] = field(default_factory=list)
    skipped: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing failed: every case passed and there was one, or the check was skipped."""
        return bool(self.skipped) or (self.cases > 0 and all(found["passed"] for found in self.worst))

    def data(self) -> dict[str, Any]:
        """Return it as plain data, in which an error that is not a number is null."""
        worst = [{**found, "error": found["error"] if isfinite(found["error"]) else None} for found in self.worst]
        named = {"name": self.name, "passed": self.passed, "cases": self.cases}
        return {**named, "skipped": self.skipped, "worst": worst}


def checks() -> list[str]:
    """Return the names of the checks in order of worth."""
    return list(CHECKS)


def check(name: str, device: torch.device, *, quick: bool = False) -> CheckResult:
    """Run one check on a device; a quick one judges few small cases.

    Raises:
        KeyError: there is no such check.
    """
    cases, obstacle = CHECKS[name]
    reason = _without_kernels(device) or obstacle(device, quick)
    if reason:
        return CheckResult(name, 0, skipped=reason)
    gates = [_judged(case) for case in cases(device, quick)]
    nearest = sorted(gates, key=_nearness, reverse=True)[:SHOWN]
    return CheckResult(name, len(gates), [_plain(gate) for gate in nearest])


def _judged(case: Case) -> Gate:
    """Return how a case went; what raises has failed, and the next case goes on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return case.judge()
        except Exception as error:  # kernels and compilers raise anything
            return Gate(case.text, f"raised {first_line(error)}", nan, 0.0)


def _nearness(gate: Gate) -> tuple[bool, float]:
    share = gate.error / (gate.allowed or 1.0)
    return not gate.passed, inf if isnan(share) else share


def _plain(gate: Gate) -> dict[str, Any]:
    named = {"case": gate.problem, "quantity": gate.quantity}
    return named | {"error": float(gate.error), "allowed": float(gate.allowed), "passed": gate.passed}


def _without_kernels(device: torch.device) -> str:
    """Return why a GPU says nothing about the kernels, or ""."""
    if device.type == "cpu" or kernels_run(device):
        return ""
    return "the references run here: the kernels need triton and a GPU of compute capability 8.0 or later"


def _nothing(device: torch.device, quick: bool) -> str:
    return ""


def _needs_gpu(device: torch.device, quick: bool) -> str:
    return "" if device.type == "cuda" else "needs a GPU"


def _needs_kernels(device: torch.device, quick: bool) -> str:
    if device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    return "the operators launch kernels: needs a GPU, or TRITON_INTERPRET=1"


def _takes_long(device: torch.device, quick: bool) -> str:
    return "tracing takes long on the CPU" if quick and device.type == "cpu" else ""


def _each(name: str, cases: Callable[..., Any], kinds: dict[str, Any]) -> dict[str, tuple[Cases, Obstacle]]:
    return {f"{name}.{kind}": (partial(cases, value), _nothing) for kind, value in kinds.items()}


_formats = {name: name for name in FORMATS if name in FROBENIUS}

CHECKS: dict[str, tuple[Cases, Obstacle]] = {
    **_each("supervised", correctness_contrast.supervised_cases, _formats),
    **_each("paired", correctness_contrast.paired_cases, _formats),
    "self": (correctness_contrast.self_cases, _nothing),
    "bank": (correctness_contrast.bank_cases, _nothing),
    "labels": (correctness_contrast.label_cases, _nothing),
    "half_features": (correctness_contrast.half_cases, _nothing),
    **_each("paste", correctness_exact.paste_cases, IMAGES),
    "stats": (correctness_exact.stats_cases, _nothing),
    "anchors": (correctness_exact.anchor_cases, _nothing),
    "opcheck": (correctness_operators.operator_cases, _needs_kernels),
    "graphs": (correctness_running.graph_cases, _needs_gpu),
    "compile": (correctness_running.compile_cases, _takes_long),
    "autocast": (correctness_running.autocast_cases, _nothing),
    "waits": (correctness_running.wait_cases, _needs_gpu),
    "memory": (correctness_running.memory_cases, _needs_gpu),
    "repeat": (correctness_running.repeat_cases, _nothing),
    "options": (correctness_contrast.option_cases, _nothing),
    "views": (correctness_contrast.view_cases, _nothing),
    **_each("depths", correctness_contrast.depth_cases, _formats),
}
"""The cases of each check and what may keep it from running, in order of worth."""
