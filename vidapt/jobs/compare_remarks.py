"""What a comparison says in words: which differences are within the spread of the seeds."""

from __future__ import annotations

from collections.abc import Sequence

from vidapt.jobs.compare_cells import START
from vidapt.jobs.compare_statistics import difference
from vidapt.jobs.compare_table import MAIN, ORACLE, SOURCE_ONLY, Metric, Row, best_rows, find_row, gain


def remarks(rows: Sequence[Row]) -> list[str]:
    """Statements about the differences that seeds do not bear out, and about numbers of seeds that differ."""
    if all(len(row.cells) == 1 for row in rows):
        return ["One seed: nothing can be said about the spread."]
    found = [line for metric in MAIN if (line := _leader(rows, metric))]
    base = find_row(rows, SOURCE_ONLY)
    for row in rows:
        if base is not None and row.name not in (START, SOURCE_ONLY, ORACLE):
            within = _within(row, rows)
            found += [f"{row.name} and {SOURCE_ONLY}: within the spread of the seeds in {within}"] if within else []
    counts = {len(row.cells) for row in rows}
    if len(counts) > 1:
        found.append("The recipes have different numbers of seeds; gains are taken over the common ones.")
    return found or ["Best against second and every recipe against source_only: beyond the spread of the seeds."]


def _leader(rows: Sequence[Row], metric: Metric) -> str:
    """A sentence where the best recipe is not clearly better than the second; else nothing."""
    best = best_rows(rows, metric)[:2]
    if len(best) < 2:
        return ""
    found = difference(best[0].values(metric.key), best[1].values(metric.key))
    if found is None or not found.within:
        return ""
    return (
        f"{metric.title}: {best[0].name} is ahead of {best[1].name} by {_points(abs(found.gain.mean))}, "
        "within the spread of the seeds"
    )


def _within(row: Row, rows: Sequence[Row]) -> str:
    gains = {metric.title: gain(row, rows, metric.key) for metric in MAIN}
    within = {title: found for title, found in gains.items() if found is not None and found.within}
    return ", ".join(f"{title} ({100 * found.gain.mean:+.1f})" for title, found in within.items())


def _points(value: float) -> str:
    return f"{100 * value:.1f}"
