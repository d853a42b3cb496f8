"""The table of a group of rows, as text: one line for each provider."""

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from textwrap import wrap

from vidapt.kernels.bench.report import Cost, ProviderResult, RowResult

NOTHING = "-"
NAME_WIDTH = 28


def header(rows: Sequence[RowResult]) -> list[str]:
    """Return the titles of the columns; times are in ms, with the 20th and 80th percentile."""
    first = rows[0]
    times = [f"{mode} ms" for mode in first.modes]
    graph = ["graph ms"] if _in_graphs(rows) else []
    speed = "TFLOP/s" if first.group == "Contrast" else "GB/s"
    rest = ["of floor", f"x {first.baseline}", "MiB", "launches", "syncs"]
    return ["row", "provider", "error", *times, *graph, speed, *rest]


def lines(row: RowResult, rows: Sequence[RowResult]) -> list[list[str]]:
    """Return the cells of a row of a table of `rows`: its name and then its sizes run down the first column."""
    names = [row.label, *wrap(problem(row), NAME_WIDTH)]
    cells = [_cells(row, found, _in_graphs(rows)) for found in row.providers]
    empty = [""] * (len(header(rows)) - 1)
    return [[name, *(line or empty)] for name, line in zip_longest(names, cells, fillvalue="")]


def notes(rows: Iterable[RowResult]) -> list[str]:
    """Return a line for everything that failed, was skipped or is otherwise worth a word."""
    return [
        f"{row.label} {found.name}: {_WORDS[found.status]}{found.note}"
        for row in rows
        for found in row.providers
        if found.note
    ]


def problem(row: RowResult) -> str:
    """Return the sizes of a row, without those that are 1."""
    parts = (f"{name}={value}" for name, value in row.shape.items() if not isinstance(value, str) and value != 1)
    return " ".join((*parts, *(str(value) for value in row.shape.values() if isinstance(value, str))))


_WORDS = {"ok": "", "failed": "FAILED, ", "error": "raised ", "skipped": "skipped, "}


def _cells(row: RowResult, found: ProviderResult, graphs: bool) -> list[str]:
    costs = [found.modes.get(mode) for mode in row.modes]
    last = costs[-1]
    faster = row.speedup(found)
    return [
        found.name,
        _error(found),
        *(NOTHING if cost is None else _time(cost) for cost in costs),
        *([_all(costs, lambda cost: cost.graph_ms)] if graphs else []),
        _all(costs, lambda cost: cost.gbps if cost.tflops is None else cost.tflops),
        _all(costs, lambda cost: None if cost.floor_share is None else 100 * cost.floor_share, "%"),
        NOTHING if faster is None else f"{faster:.3g}",
        NOTHING if last is None or last.extra_mib is None else f"{last.extra_mib:.3g}",
        NOTHING if last is None or last.launches is None else str(last.launches),
        NOTHING if last is None or last.host_syncs is None else str(last.host_syncs),
    ]


def _error(found: ProviderResult) -> str:
    """Return the largest error that the gate saw; a failing one with its limit."""
    if found.status in ("error", "skipped"):
        return found.status
    if not found.gates:
        return NOTHING
    gate = max(found.gates, key=lambda gate: (not gate.passed, gate.error))
    return f"{gate.error:.1g}" if gate.passed else f"FAILED {gate.error:.2g} > {gate.allowed:.2g}"


def _time(cost: Cost) -> str:
    return f"{_digits(cost.median_ms)} ({_digits(cost.p20_ms)}-{_digits(cost.p80_ms)})"


def _all(costs: Sequence[Cost | None], value: Callable[[Cost], float | None], unit: str = "") -> str:
    """Return one value for each mode."""
    values = [None if cost is None else value(cost) for cost in costs]
    if all(found is None for found in values):
        return NOTHING
    return "/".join(NOTHING if found is None else _digits(found) for found in values) + unit


def _digits(value: float) -> str:
    """Return three significant digits without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def _in_graphs(rows: Iterable[RowResult]) -> bool:
    return any(cost.graph_ms is not None for row in rows for found in row.providers for cost in found.modes.values())
