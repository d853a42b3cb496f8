"""The gate without a GPU: compile every shipped tile for every chip that it ships for, and hold it to its budget.

    python -m vidapt.kernels.bench.compile_only [--target sm_90] [--op paste] [--table]

The real launch functions run on small CPU tensors under `fake_driver`. Every tile that a `tiles.json` ships for a chip
must be launched by one of the problems, and every kernel must keep the limits of `budgets.json`.
"""

import argparse
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

from vidapt.kernels import tiles
from vidapt.kernels.bench.binaries import Resources, resources
from vidapt.kernels.bench.budgets import Budgets, Violation, dots_text, judge, load_budgets, needs_machine_code
from vidapt.kernels.bench.compile_problems import PROBLEMS, Problem
from vidapt.kernels.bench.fake_driver import CHIPS, Compiled, Recording, fake_driver

Lookup = tuple[str, ...]  # of a tile: operation, target, kernel and problem class

FALLBACKS = ("cuda", "hip", "interpreter")
# Chips that stand for all others with a maker's fallback tiles; what the second runs too is compiled for that only.
STAND_INS = {"gfx90a": "gfx942"}
# Here every variant of a kernel is compiled, elsewhere only the one of each tile that needs most registers.
THOROUGH = ("sm_90",)


@dataclass(frozen=True)
class Row:
    """What one compiled kernel takes, and the problem that launched it first."""

    kernel: str
    target: str
    tile: str
    resources: Resources


@dataclass
class Report:
    """Everything that was compiled, every limit that it breaks and the tiles that were looked up and launched."""

    rows: list[Row] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    lookups: set[Lookup] = field(default_factory=set)

    def extend(self, other: "Report") -> None:
        """Append another report."""
        self.rows += other.rows
        self.violations += other.violations
        self.lookups |= other.lookups


def check(targets: Iterable[str] | None = None, operations: Iterable[str] | None = None) -> list[Violation]:
    """Compile operations for chips, by default all for all, and return every limit that is broken."""
    return gate(targets, operations).violations


def gate(targets: Iterable[str] | None = None, operations: Iterable[str] | None = None) -> Report:
    """Compile operations for chips, by default all for all, each pair in a process of its own, and report.

    Raises:
        ValueError: a target or an operation is unknown.
    """
    chosen, operations = tuple(targets or CHIPS), tuple(operations or PROBLEMS)
    for kind, given, known in (("target", chosen, CHIPS), ("operation", operations, PROBLEMS)):
        if unknown := set(given) - set(known):
            raise ValueError(f"unknown {kind} {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    report = Report()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for part in pool.map(check_operation, *zip(*product(operations, chosen), strict=True)):
            report.extend(part)
    for operation in operations:
        report.violations += misplaced_tiles(operation)
        report.violations += [] if targets else idle_tiles(operation, report.lookups)
    return report


def check_operation(operation: str, target: str) -> Report:
    """Compile one operation for one chip: with the tiles of its architecture, then with those of each GPU by name."""
    budgets = load_budgets()
    report = Report(lookups=tiles_compiled_elsewhere(operation, target))
    for name in (None, *(place for place in tiles.tile_table(operation) if budgets["gpus"].get(place) == target)):
        with fake_driver(target, name):
            shipped = {tile for tile in shipped_tiles(operation) if name in (None, tile[1])} - report.lookups
        if shipped:
            thorough = name is None and target in THOROUGH
            problems = PROBLEMS[operation]({problem for *_, problem in shipped}, thorough)
            report.extend(check_problems(target, problems, budgets, name))
        report.violations += [
            Violation(kernel, target, f"tile {problem} of {place}", "launched by no problem", "at least one launch")
            for _, place, kernel, problem in sorted(shipped - report.lookups)
        ]
    compiled = {row.kernel for row in report.rows}
    report.violations += [
        Violation(kernel, target, operation, "never compiled", "at least one tile on every chip")
        for kernel, limits in budgets["kernels"].items()
        if limits["operation"] == operation and kernel not in compiled and target not in STAND_INS
    ]
    return report


def tiles_compiled_elsewhere(operation: str, target: str) -> set[Lookup]:
    """Return the tiles of a stand-in with the same settings as those of the chip that it stands beside."""
    if target not in STAND_INS:
        return set()
    settings = []
    for chip in (target, STAND_INS[target]):
        with fake_driver(chip):
            settings.append({tile[2:]: (tile, tile_settings(tile)) for tile in shipped_tiles(operation)})
    own, other = settings
    return {tile for key, (tile, values) in own.items() if key in other and other[key][1] == values}


def check_problems(
    target: str, problems: Iterable[Problem], budgets: Budgets, device_name: str | None = None
) -> Report:
    """Launch problems on one fake chip and hold every kernel that they compile to its budget."""
    report = Report()
    measured: set[str] = set()
    with fake_driver(target, device_name) as recording, watched_tables() as lookups:
        for problem in problems:
            lookups.clear()
            recording.launched.clear()
            recording.only = problem.kernels
            known = set(recording.compiled)
            try:
                problem.launch()
            except Exception as error:
                report.violations.append(_failure(problem.name, target, error, known, recording))
                report.lookups |= lookups
            report.lookups |= {lookup for lookup in lookups if _is_launched(lookup, recording.launched)}
            for compiled in recording.launched:
                if compiled.key not in measured:
                    measured.add(compiled.key)
                    _measure(problem, compiled, budgets, report)
    return report


def shipped_tiles(operation: str) -> set[Lookup]:
    """Return the tiles of an operation that the current device uses, those of more specific targets first."""
    table = tiles.tile_table(operation)
    shipped: dict[tuple[str, str], Lookup] = {}
    for place in reversed(tiles.targets()):
        for kernel, rows in table.get(place, {}).items():
            shipped |= {(kernel, problem): (operation, place, kernel, problem) for problem in rows}
    return set(shipped.values())


def tile_settings(tile: Lookup) -> tiles.Tile:
    """Return the settings of a tile."""
    operation, place, kernel, problem = tile
    return tiles.tile_table(operation)[place][kernel][problem]


@contextmanager
def watched_tables() -> Iterator[set[Lookup]]:
    """Yield a set that collects every tile that launch functions look up."""
    lookups: set[Lookup] = set()
    read = tiles.tile_table
    with mock.patch.object(tiles, "tile_table", lambda operation: _Watched(read(operation), (operation,), lookups)):
        yield lookups


class _Watched(dict[str, Any]):
    """A tile table, or a part of one, that notes the tiles which `get` finds."""

    def __init__(self, table: Mapping[str, Any], path: Lookup, lookups: set[Lookup]) -> None:
        super().__init__(table)
        self.path, self.lookups = path, lookups

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        path = (*self.path, name)
        if len(path) < 4:
            return _Watched(self[name], path, self.lookups)
        self.lookups.add(path)
        return self[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gate, print what it compiled on request, and return 1 if a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m vidapt.kernels.bench.compile_only", description=__doc__)
    parser.add_argument("--target", action="append", choices=CHIPS, help="a chip; all of them without this option")
    parser.add_argument("--op", action="append", choices=PROBLEMS, help="an operation; all without this option")
    parser.add_argument("--table", action="store_true", help="print what every compiled kernel takes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same table and the broken limits")
    options = parser.parse_args(arguments)
    started = perf_counter()
    report = gate(options.target, options.op)
    if options.table:
        print_table(report.rows)
    if options.json:
        found = {
            "kernels": [asdict(row) for row in report.rows],
            "violations": [asdict(violation) for violation in report.violations],
        }
        options.json.write_text(json.dumps(found, indent=1))
    for violation in report.violations:
        print(violation)
    seconds = perf_counter() - started
    print(f"{len(report.rows)} kernels compiled in {seconds:.0f} s, {len(report.violations)} limits broken")
    return 1 if report.violations else 0


def print_table(rows: Iterable[Row]) -> None:
    """Print what every compiled kernel takes; accesses are counts by their width in bits."""
    layout = "{:23} {:7} {:>9} {:>6} {:>7}  {:10} {:24} {:16} {}"
    print(layout.format("kernel", "target", "registers", "spills", "shared", "dots", "loads", "stores", "problem"))
    for row in sorted(rows, key=lambda row: (row.kernel, row.target)):
        taken = row.resources
        numbers = taken.registers, taken.spills, taken.shared_bytes
        accesses = (" ".join(f"{n}x{bits}" for bits, n in widths.items()) for widths in (taken.loads, taken.stores))
        print(layout.format(row.kernel, row.target, *numbers, dots_text(taken), *accesses, row.tile))


def _measure(problem: Problem, compiled: Compiled, budgets: Budgets, report: Report) -> None:
    """Add a compiled kernel and the limits that it breaks to the report."""
    taken = resources(compiled, disassemble=needs_machine_code(compiled, budgets))
    tile = f"{problem.name} {settings_text(compiled.settings)}"
    report.rows.append(Row(compiled.kernel, compiled.target, tile, taken))
    report.violations += judge(compiled, taken, tile, budgets, aligned=problem.aligned)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return constexpr settings as text: "BLOCK=64 SORTED num_warps=4", without what is False or None."""
    shown = {name: value for name, value in settings.items() if value is not False and value is not None}
    return " ".join(name if value is True else f"{name}={value}" for name, value in shown.items())


def _failure(
    problem: str, target: str, error: BaseException, known: Collection[str], recording: Recording
) -> Violation:
    """Return the violation of a problem whose launch raised, naming the kernel that was compiled but not launched."""
    waiting = [
        compiled
        for key, compiled in recording.compiled.items()
        if key not in known and compiled not in recording.launched
    ]
    culprit = waiting[-1] if waiting else None
    tile = problem if culprit is None else f"{problem} {settings_text(culprit.settings)}"
    while error.__cause__ is not None:
        error = error.__cause__
    reason = (str(error).strip().splitlines() or ["no message"])[-1].strip()
    kernel = "launch" if culprit is None else culprit.kernel
    return Violation(kernel, target, tile, f"{type(error).__name__}: {reason}", "a launch")


def _is_launched(lookup: Lookup, launched: Sequence[Compiled]) -> bool:
    """Tell whether a kernel was launched with exactly the settings of a tile."""
    settings = tile_settings(lookup)
    return any(settings.items() <= compiled.settings.items() for compiled in launched)


def misplaced_tiles(operation: str) -> Iterator[Violation]:
    """Yield the parts of a tile table that belong to no GPU which the gate knows."""
    known = {*CHIPS, *load_budgets()["gpus"], *FALLBACKS}
    for place in sorted(set(tiles.tile_table(operation)) - known):
        yield Violation(operation, place, "all tiles", "unknown GPU", "its chip under gpus in budgets.json")


def idle_tiles(operation: str, lookups: set[Lookup]) -> Iterator[Violation]:
    """Yield the shipped tiles that no chip uses."""
    shipped = {
        (operation, place, kernel, problem)
        for place, kernels in tiles.tile_table(operation).items()
        for kernel, problems in kernels.items()
        for problem in problems
        if place != "interpreter"
    }
    for _, place, kernel, name in sorted(shipped - lookups):
        yield Violation(kernel, place, f"tile {name}", "no chip uses it", "tiles that some chip uses")


if __name__ == "__main__":
    sys.exit(main())
