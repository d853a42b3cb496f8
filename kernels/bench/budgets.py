"""The limits of budgets.json, and the judgement of a compiled kernel by them.

`at_most` and `at_least` bound registers, spills, spill_bytes, shared_bytes and the accesses to global memory: wide ones
move 16 bytes or more at once, narrow ones less. A bound is one number, or one per chip or backend ("cuda", "hip").
`dots` says that a kernel multiplies matrices: on 16-bit operands it may use only its chip's `dot_instruction`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from vidapt.kernels.bench.binaries import Resources
from vidapt.kernels.bench.fake_driver import CHIPS, Compiled

Budgets = dict[str, Any]

WIDE_BITS = 128
HALF_POINTERS = {"*fp16", "*bf16"}


@dataclass(frozen=True)
class Violation:
    """One limit that one kernel breaks; str() makes a line of it."""

    kernel: str
    target: str
    tile: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.kernel} on {self.target}, {self.tile}: {self.found}; allowed: {self.allowed}"


def load_budgets() -> Budgets:
    """Return budgets.json, which ships beside this file."""
    text = files("vidapt.kernels.bench").joinpath("budgets.json").read_text(encoding="utf-8")
    budgets: Budgets = json.loads(text)
    return budgets


def judge(compiled: Compiled, taken: Resources, tile: str, budgets: Budgets) -> Iterator[Violation]:
    """Yield every limit that a compiled kernel breaks; a kernel without limits breaks one."""
    kernel, target = compiled.kernel, compiled.target
    limits = budgets["kernels"].get(kernel)
    if limits is None:
        yield Violation(kernel, target, tile, "no budget", "an entry in budgets.json")
        return
    found = quantities(taken)
    for name, bound in (budgets["every_kernel"]["at_most"] | limits.get("at_most", {})).items():
        if found[name] > (allowed := bound_for(bound, target)):
            yield Violation(kernel, target, tile, f"{found[name]} {name}", f"at most {allowed}")
    for name, bound in limits.get("at_least", {}).items():
        if found[name] < (allowed := bound_for(bound, target)):
            yield Violation(kernel, target, tile, f"{found[name]} {name}", f"at least {allowed}")
    half = not HALF_POINTERS.isdisjoint(compiled.types)
    instruction = budgets["dot_instruction"][target]
    if limits.get("dots") and half and set(taken.dots) != {instruction}:
        yield Violation(kernel, target, tile, f"dots by {dots_text(taken)}", f"only {instruction}")


def quantities(taken: Resources) -> dict[str, int]:
    """Return the numbers that budgets.json bounds."""
    found = {name: getattr(taken, name) for name in ("registers", "spills", "spill_bytes", "shared_bytes")}
    for name, widths in (("loads", taken.loads), ("stores", taken.stores)):
        found[f"wide_{name}"] = sum(count for bits, count in widths.items() if bits >= WIDE_BITS)
        found[f"narrow_{name}"] = widths.total() - found[f"wide_{name}"]
    return found


def bound_for(bound: int | dict[str, int], target: str) -> int:
    """Return a bound for one chip out of a number or {chip or backend: number}."""
    if isinstance(bound, int):
        return bound
    return bound[target] if target in bound else bound[CHIPS[target].target.backend]


def dots_text(taken: Resources) -> str:
    """Return the matrix instructions as text, such as "16 HGMMA"; "none" where there are none."""
    return ", ".join(f"{count} {name}" for name, count in sorted(taken.dots.items())) or "none"
