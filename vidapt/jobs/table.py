"""The table of scores that every comparison prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

ScoreData = Mapping[str, Any]
"""What ``Scores.to_dict`` gives: plain data, as in scores.json."""

TEST_BED = "embedded test bed: generated street video, not a benchmark"
COLUMNS = ("mIoU", "PQ", "VPQ", "STQ", "flicker")


def row_title(name: str, scores: ScoreData) -> str:
    """Stage and, in brackets, the weights that were scored: ``adapted (teacher)``."""
    title = name.replace("_", " ")
    return f"{title} ({scores['weights']})" if "weights" in scores else title


def score_row(scores: ScoreData) -> tuple[str, ...]:
    """mIoU, PQ, VPQ, STQ and flicker in percent; a dash where the labels have no instances."""
    values = (scores[name] for name in ("miou", "pq", "vpq", "stq", "flicker"))
    return tuple("-" if value is None else f"{100 * value:.1f}" for value in values)


def scores_table(scores: Mapping[str, ScoreData], *, title: str, generated: bool) -> Table:
    """A rich table with one row per stage; says so where the footage is generated."""
    table = Table("", *COLUMNS, title=Text(title), title_justify="left", caption=TEST_BED if generated else None)
    for name, score in scores.items():
        table.add_row(Text(row_title(name, score)), *score_row(score))
    return table
