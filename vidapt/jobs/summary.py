"""``vidapt report``: the scores of one or several runs of a recipe as one table, mean ± standard error over runs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidapt.errors import InputError
from vidapt.jobs.table import TEST_BED, row_title

METRICS = {"mIoU": "miou", "PQ": "pq", "VPQ": "vpq", "STQ": "stq", "flicker": "flicker"}


@dataclass(frozen=True)
class Summary:
    """Scores of finished runs.

    Attributes:
        runs: Number of runs.
        generated: True if all of them were scored on generated footage.
        rows: One per stage: its name, then one text per metric in percent.
        gains: One per metric, adapted minus source only, in points; empty without both stages.
        gap_closed: Share of the mIoU gap between source only and upper bound that adaptation closes, or None.
    """

    runs: int
    generated: bool
    rows: list[tuple[str, ...]]
    gains: tuple[str, ...]
    gap_closed: float | None

    def markdown(self) -> str:
        """The table as Markdown, with the gains and the closed gap below."""
        head = ("model", *METRICS)
        lines = [_line(head), _line(["---"] * len(head)), *map(_line, self.rows)]
        if self.gains:
            lines.append(_line(("adapted - source only", *self.gains)))
        spread = "one run" if self.runs == 1 else f"mean ± standard error over {self.runs} runs"
        lines += ["", f"In percent, {spread}." + (f" {TEST_BED.capitalize()}." if self.generated else "")]
        if self.gap_closed is not None:
            lines.append(f"Gap to the upper bound closed in mIoU: {100 * self.gap_closed:.0f} %.")
        return "\n".join(lines)


def summarise(runs: Sequence[Path]) -> Summary:
    """Read ``comparison.json`` of each run folder.

    Raises:
        InputError: If a folder has none, it is damaged, or the runs compare different stages.
    """
    found = [_read(run) for run in runs]
    names = list(found[0]["stages"])
    for run, one in zip(runs, found, strict=True):
        if list(one["stages"]) != names:
            raise InputError(f"{run} compares {', '.join(one['stages'])}, {runs[0]} {', '.join(names)}; give like runs")
    values = {
        name: {metric: [one["stages"][name][key] for one in found] for metric, key in METRICS.items()} for name in names
    }
    titles = {name: row_title(name, found[0]["stages"][name]) for name in names}
    rows = [(titles[name], *(_mean(values[name][metric]) for metric in METRICS)) for name in names]
    gains: tuple[str, ...] = ()
    if {"adapted", "source_only"} <= values.keys():
        gains = tuple(_mean(_differences(values["adapted"][m], values["source_only"][m]), "+") for m in METRICS)
    generated = all(one["generated_test_bed"] for one in found)
    return Summary(len(found), generated, rows, gains, _gap_closed(values))


def _read(run: Path) -> dict[str, Any]:
    path = run / "comparison.json"
    if not path.is_file():
        raise InputError(f"{run} has no comparison.json; give folders of finished 'vidapt adapt' or 'vidapt demo' runs")
    try:
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        data["stages"], data["generated_test_bed"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); run the adaptation again") from None
    return data


def _differences(first: Sequence[float | None], second: Sequence[float | None]) -> list[float | None]:
    return [None if a is None or b is None else a - b for a, b in zip(first, second, strict=True)]


def _mean(values: Sequence[float | None], sign: str = "") -> str:
    known = [100 * value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "-"
    text = f"{statistics.fmean(known):{sign}.1f}"
    return text if len(known) == 1 else f"{text} ± {statistics.stdev(known) / math.sqrt(len(known)):.1f}"


def _gap_closed(values: dict[str, dict[str, list[float | None]]]) -> float | None:
    if not {"source_only", "adapted", "upper_bound"} <= values.keys():
        return None
    means = {name: statistics.fmean(v or 0.0 for v in values[name]["mIoU"]) for name in values}
    gap = means["upper_bound"] - means["source_only"]
    return (means["adapted"] - means["source_only"]) / gap if gap > 0 else None


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
