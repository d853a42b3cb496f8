"""The tables and charts that a comparison's report shows of one benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidapt.io.charts import dot_chart
from vidapt.io.report import Picture, Table
from vidapt.jobs.compare_cells import START, Cell, sweep_text
from vidapt.jobs.compare_statistics import Spread, spread
from vidapt.jobs.compare_table import (
    FURTHER,
    GAPS,
    MAIN,
    ORACLE,
    SOURCE_ONLY,
    Metric,
    Row,
    best_rows,
    closed,
    find_row,
    gain,
    peak_memory,
    seconds_per_step,
)
from vidapt.jobs.scored_videos import scored_space

CHARTED = ("miou", "pq", "vpq", "stq", "flicker")


def main_table(rows: Sequence[Row], titles: Sequence[str] = ()) -> Table:
    """Recipes with their main scores, time and memory; the best of each column is bold.

    Args:
        rows: Recipes.
        titles: Names of the first rows, where they are not those of recipes.
    """
    metrics = _measured(rows, MAIN)
    head = ["recipe (weights)", "seeds", *(metric.title for metric in metrics), "ms per step", "GiB"]
    cells = [
        [
            _row_title(row, titles[number] if number < len(titles) else ""),
            str(len(row.cells)),
            *(score_text(row, metric) for metric in metrics),
            _seconds(spread(row.measured(seconds_per_step))),
            _memory(row.measured(peak_memory)),
        ]
        for number, row in enumerate(rows)
    ]
    return Table(head, cells, bold=_bold(rows, metrics, 2))


def further_table(rows: Sequence[Row]) -> Table | None:
    """What the main scores are made of; None where nothing of it was measured."""
    metrics = _measured(rows, FURTHER)
    if not metrics:
        return None
    cells = [[row.title, *(score_text(row, metric) for metric in metrics)] for row in rows]
    head = ["recipe (weights)", *(metric.title for metric in metrics)]
    return Table(head, cells, bold=_bold(rows, metrics, 1), caption="Parts of the scores")


def gain_table(rows: Sequence[Row]) -> Table | None:
    """Gains over source only by seed, and closed gaps; None without source only."""
    base = find_row(rows, SOURCE_ONLY)
    others = [row for row in rows if row is not base and row.name != START]
    if base is None or not others:
        return None
    metrics = _measured(rows, MAIN)
    gaps = [metric for metric in metrics if metric.key in GAPS] if find_row(rows, ORACLE) else []
    head = ["recipe (weights)", *(metric.title for metric in metrics), *(f"{one.title} gap" for one in gaps)]
    cells = [
        [
            row.title,
            *(_gain_text(row, rows, metric) for metric in metrics),
            *(_share(closed(row, rows, metric.key)) for metric in gaps),
        ]
        for row in others
    ]
    return Table(head, cells, caption=f"Gain over {SOURCE_ONLY}")


def both_weights(rows: Sequence[Row]) -> Table | None:
    """Student and teacher of the recipes that have both; None where none has."""
    taught = [row for row in rows if all("teacher" in cell["scores"] for cell in row.cells.values())]
    if not taught:
        return None
    metrics = [metric for metric in _measured(rows, MAIN) if metric.key in (*GAPS, "flicker")]
    names = ("student", "teacher")
    head = ["recipe", "reported", *(f"{metric.title} {name}" for metric in metrics for name in names)]
    cells = [
        [row.name, row.weights, *(score_text(row, metric, name) for metric in metrics for name in names)]
        for row in taught
    ]
    return Table(head, cells, caption="Both weights")


def class_table(rows: Sequence[Row], results: Sequence[tuple[Cell, Mapping[str, Any]]]) -> Table | None:
    """IoU of each class, mean over seeds, with one column for each recipe."""
    space = scored_space(results[0][0].recipe)
    ious = {row.name: [cell["scores"][cell["weights"]].get("iou") or {} for cell in row.cells.values()] for row in rows}
    labels = [label for label in space.classes if any(label.name in seed for seeds in ious.values() for seed in seeds)]
    if not labels:
        return None
    cells = [[label.name, *(_class_text(ious[row.name], label.name) for row in rows)] for label in labels]
    head = ["class", *(row.name for row in rows)]
    return Table(head, cells, [label.colour for label in labels], caption="IoU by class, mean over seeds")


def charts(rows: Sequence[Row]) -> list[Picture]:
    """A chart for each main score, with a point for each seed."""
    pictures = []
    for metric in _measured(rows, MAIN):
        if metric.key in CHARTED:
            series = {row.name: [100 * value for value in row.values(metric.key).values()] for row in rows}
            unit = f"{metric.title} in percent" + (", less is better" if metric.less else "")
            pictures.append(dot_chart(metric.title, series, unit, pale=(START, SOURCE_ONLY, ORACLE)))
    return pictures


def score_text(row: Row, metric: Metric, weights: str | None = None) -> str:
    """Mean ± standard deviation of a score; a dash where it was not measured."""
    found = spread(row.values(metric.key, weights).values())
    return _text(found, 1.0 if metric.counted else 100.0)


def _text(found: Spread | None, unit: float, sign: str = "") -> str:
    if found is None:
        return "-"
    text = f"{unit * found.mean:{sign}.1f}"
    return text if found.deviation is None else f"{text} ± {unit * found.deviation:.1f}"


def _gain_text(row: Row, rows: Sequence[Row], metric: Metric) -> str:
    found = gain(row, rows, metric.key)
    if found is None:
        return "-"
    return _text(found.gain, 100.0, "+") + (" ≈" if found.within else "")


def _row_title(row: Row, title: str) -> str:
    return title or (row.title if row.sweep is None else sweep_text(row.sweep[1]))


def _measured(rows: Sequence[Row], metrics: Sequence[Metric]) -> list[Metric]:
    return [metric for metric in metrics if any(row.values(metric.key) for row in rows)]


def _bold(rows: Sequence[Row], metrics: Sequence[Metric], first: int) -> list[tuple[int, int]]:
    best = [(best_rows(rows, metric)[:1], column) for column, metric in enumerate(metrics, first)]
    return [(rows.index(found[0]), column) for found, column in best if found]


def _class_text(seeds: Sequence[Mapping[str, float | None]], name: str) -> str:
    known = [value for seed in seeds if (value := seed.get(name)) is not None]
    found = spread(known)
    return "-" if found is None else f"{100 * found.mean:.1f}"


def _seconds(found: Spread | None) -> str:
    return "-" if found is None else f"{1000 * found.mean:.0f}"


def _memory(values: Sequence[float]) -> str:
    return f"{max(values) / 2**30:.2f}" if values else "-"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
