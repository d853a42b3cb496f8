"""The numbers of a comparison: by recipe, metric and seed; as rows of CSV and as plain data."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vidapt.jobs.compare_cells import START, Cell, sweep_text
from vidapt.jobs.compare_statistics import Difference, Values, difference, gap_closed, spread

SOURCE_ONLY, ORACLE = "source_only", "oracle"
"""Recipes with which the others are compared."""


@dataclass(frozen=True)
class Metric:
    """A number in tables: its key, head, and whether less is better or it is counted rather than in percent."""

    key: str
    title: str
    less: bool = False
    counted: bool = False


MAIN = (
    Metric("miou", "mIoU"),
    Metric("pq", "PQ"),
    Metric("vpq", "VPQ"),
    Metric("stq", "STQ"),
    Metric("ap_coco", "AP"),
    Metric("flicker", "flicker", less=True),
)
FURTHER = (
    Metric("pq_things", "PQ things"),
    Metric("pq_stuff", "PQ stuff"),
    Metric("sq", "SQ"),
    Metric("rq", "RQ"),
    Metric("aq", "AQ"),
    Metric("stq_sq", "SQ of STQ"),
    Metric("tc", "TC"),
    Metric("id_switches", "id switches", less=True, counted=True),
)
GAPS = ("miou", "stq")
"""Metrics for which the closed gap is reported."""


@dataclass(frozen=True)
class Row:
    """One recipe on one benchmark, perhaps with one key changed, over its seeds.

    Attributes:
        name: Name of the recipe.
        sweep: Key and value of a sweep, or None.
        cells: What its cells left, by seed.
    """

    name: str
    sweep: tuple[str, Any] | None
    cells: Mapping[int, Mapping[str, Any]]

    @property
    def weights(self) -> str:
        """The weights that the recipe reports: student or teacher."""
        return str(next(iter(self.cells.values()))["weights"])

    @property
    def title(self) -> str:
        """The recipe and, in brackets, the weights that were scored."""
        return f"{'start' if self.name == START else self.name} ({self.weights})"

    def values(self, key: str, weights: str | None = None) -> Values:
        """A score by seed, where it was measured; ``weights`` are those that the recipe reports unless given."""
        scores = {seed: cell["scores"].get(weights or cell["weights"], {}) for seed, cell in self.cells.items()}
        return {seed: found[key] for seed, found in scores.items() if found.get(key) is not None}

    def measured(self, read: Callable[[Mapping[str, Any]], float | None]) -> list[float]:
        """What ``read`` gives of each cell, without None."""
        return [value for cell in self.cells.values() if (value := read(cell)) is not None]

    def data(self, metrics: Sequence[Metric]) -> dict[str, Any]:
        """Means and standard deviations as plain data."""
        found = {metric.key: spread(self.values(metric.key).values()) for metric in metrics}
        return {
            "weights": self.weights,
            "seeds": sorted(self.cells),
            "scores": {key: asdict(value) for key, value in found.items() if value is not None},
            "seconds_per_step": _plain(spread(self.measured(seconds_per_step))),
            "peak_memory": max(self.measured(peak_memory), default=None),
        }


def seconds_per_step(cell: Mapping[str, Any]) -> float | None:
    """Training time of a cell by its steps, reading data included."""
    value = cell.get("seconds_per_step")
    return None if value is None else float(value)


def peak_memory(cell: Mapping[str, Any]) -> float | None:
    """Largest memory of a training in bytes: allocated on the GPU, else that of the process; None for no training."""
    memory = cell.get("peak_memory")
    if not memory or not cell.get("steps"):
        return None
    return float(memory["process"] if memory["gpu"] is None else memory["gpu"])


def rows_of(results: Sequence[tuple[Cell, Mapping[str, Any]]]) -> list[Row]:
    """Group cells by recipe and change, in the order in which they come."""
    groups: dict[tuple[str, str], tuple[Cell, dict[int, Mapping[str, Any]]]] = {}
    for cell, data in results:
        swept = "" if cell.sweep is None else f"{cell.sweep[0]}={sweep_text(cell.sweep[1])}"
        groups.setdefault((cell.name, swept), (cell, {}))[1][cell.seed] = data
    return [Row(cell.name, cell.sweep, dict(sorted(cells.items()))) for cell, cells in groups.values()]


def find_row(rows: Sequence[Row], name: str) -> Row | None:
    """The row of a recipe as the suite has it."""
    return next((row for row in rows if row.name == name and row.sweep is None), None)


def gain(row: Row, rows: Sequence[Row], key: str) -> Difference | None:
    """A recipe minus source only, by seed."""
    base = find_row(rows, SOURCE_ONLY)
    return None if base is None or base is row else difference(row.values(key), base.values(key))


def closed(row: Row, rows: Sequence[Row], key: str) -> float | None:
    """Share of the gap between source only and oracle that a recipe closes."""
    base, oracle = find_row(rows, SOURCE_ONLY), find_row(rows, ORACLE)
    if base is None or oracle is None or row.name in (SOURCE_ONLY, ORACLE, START):
        return None
    return gap_closed(row.values(key), base.values(key), oracle.values(key))


def comparison_data(rows: Sequence[Row]) -> dict[str, Any]:
    """One benchmark as plain data: every recipe with its scores, gain over source only and closed gaps."""
    found = {}
    for row in rows:
        gains = {metric.key: gain(row, rows, metric.key) for metric in (*MAIN, *FURTHER)}
        found[row.name] = row.data((*MAIN, *FURTHER)) | {
            "gain": {key: asdict(value) for key, value in gains.items() if value is not None},
            "gap_closed": {key: closed(row, rows, key) for key in GAPS},
        }
    return found


def best_rows(rows: Sequence[Row], metric: Metric) -> list[Row]:
    """Recipes by a metric, best first; without the start and the oracle, and those that have no such score."""
    known = [row for row in rows if row.name not in (START, ORACLE) and row.values(metric.key)]
    return sorted(known, key=lambda row: _mean(row, metric), reverse=not metric.less)


def _mean(row: Row, metric: Metric) -> float:
    found = spread(row.values(metric.key).values())
    return 0.0 if found is None else found.mean


def scores_csv(results: Sequence[tuple[Cell, Mapping[str, Any]]]) -> str:
    """One line for each cell and its weights, fractions 0..1, empty where not measured."""
    lines = [_line(cell, data, weights) for cell, data in results for weights in data["scores"]]
    head = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(cell: Cell, data: Mapping[str, Any], weights: str) -> dict[str, Any]:
    scores = data["scores"][weights]
    numbers = {name: value for name, value in scores.items() if value is None or isinstance(value, int | float)}
    return {
        "comparison": cell.comparison,
        "recipe": cell.name,
        "sweep_key": cell.sweep[0] if cell.sweep else "",
        "sweep_value": sweep_text(cell.sweep[1]) if cell.sweep else "",
        "seed": cell.seed,
        "weights": weights,
        "reported": weights == data["weights"],
        "same_as": data["same_as"] or "",
        "steps": data["steps"],
        "seconds_per_step": data["seconds_per_step"],
        "peak_memory": peak_memory(data),
        **numbers,
    }


def _plain(value: Any) -> dict[str, Any] | None:
    return None if value is None else asdict(value)
