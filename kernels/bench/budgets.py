"""The limits of budgets.json, and the judgement of a compiled kernel by them.

`at_most` and `at_least` bound registers, spills, spill_bytes, shared_bytes and the accesses to global memory: wide ones
move 16 bytes or more at once, narrow ones less. A bound is one number, or one per chip or backend ("cuda", "hip").
`dots` says that a kernel multiplies matrices: 16-bit ones only by the `dot_instruction` of its chip, if one is named.
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
ACCESSES = {"wide_loads", "narrow_loads", "wide_stores", "narrow_stores"}
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


def needs_machine_code(compiled: Compiled, budgets: Budgets) -> bool:
    """Tell whether a kernel has limits on its instructions, not only on what its launch reserves."""
    limits = budgets["kernels"].get(compiled.kernel, {})
    bounded = {*limits.get("at_most", {}), *limits.get("at_least", {})}
    dots = limits.get("dots", False) and compiled.target in budgets["dot_instruction"]
    return dots or not ACCESSES.isdisjoint(bounded)


def judge(
    compiled: Compiled, taken: Resources, tile: str, budgets: Budgets, aligned: bool = True
) -> Iterator[Violation]:
    """Yield every limit that a compiled kernel breaks; a kernel without limits breaks one.

    Where the problem is not `aligned`, the limits on accesses do not hold.
    """
    kernel, target = compiled.kernel, compiled.target
    limits = budgets["kernels"].get(kernel)
    if limits is None:
        yield Violation(kernel, target, tile, "no budget", "an entry in budgets.json")
        return
    found = spent(taken) | (accesses(taken) if aligned else {})
    at_most = budgets["every_kernel"]["at_most"] | limits.get("at_most", {})
    for name in sorted(found.keys() & at_most):
        if found[name] > (allowed := bound_for(at_most[name], target)):
            yield Violation(kernel, target, tile, f"{found[name]} {name}", f"at most {allowed}")
    at_least = limits.get("at_least", {})
    for name in sorted(found.keys() & at_least):
        if found[name] < (allowed := bound_for(at_least[name], target)):
            yield Violation(kernel, target, tile, f"{found[name]} {name}", f"at least {allowed}")
    instruction = budgets["dot_instruction"].get(target)
    judged = limits.get("dots") and instruction and not HALF_POINTERS.isdisjoint(compiled.types)
    if judged and set(taken.dots) != {instruction}:
        yield Violation(kernel, target, tile, f"dots by {dots_text(taken)}", f"only {instruction}")


def spent(taken: Resources) -> dict[str, int]:
    """Return what budgets.json bounds of registers and memory."""
    return {name: getattr(taken, name) for name in ("registers", "spills", "spill_bytes", "shared_bytes")}


def accesses(taken: Resources) -> dict[str, int]:
    """Return what budgets.json bounds of the accesses to global memory."""
    found = {}
    for name, widths in (("loads", taken.loads), ("stores", taken.stores)):
        found[f"wide_{name}"] = sum(count for bits, count in widths.items() if bits >= WIDE_BITS)
        found[f"narrow_{name}"] = sum(widths.values()) - found[f"wide_{name}"]
    return found


def bound_for(bound: int | dict[str, int], target: str) -> int:
    """Return a bound for one chip out of a number or {chip or backend: number}."""
    if isinstance(bound, int):
        return bound
    return bound[target] if target in bound else bound[CHIPS[target].target.backend]


def dots_text(taken: Resources) -> str:
    """Return the matrix instructions as text, such as "16 HGMMA"; "none" where there are none."""
    return ", ".join(f"{count} {name}" for name, count in taken.dots.items()) or "none"
