"""Scores as tables: one row per stage for comparisons, one row per class for a single evaluation."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

ScoreData = Mapping[str, Any]
"""What ``Scores.to_dict`` gives: plain data, as in scores.json; files of earlier versions have fewer keys."""

TEST_BED = "embedded test bed: generated street video, not a benchmark"
COLUMNS = ("mIoU", "PQ", "VPQ", "STQ", "flicker")

_ROW_HEAD = ("class", "kind", "scored")
_TITLES = {
    "iou": "IoU",
    "iiou": "iIoU",
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "vpq": "VPQ",
    "pq_dagger": "PQ†",
    "boundary_pq": "boundary PQ",
    "ap_coco": "AP COCO",
    "ap50_coco": "AP50 COCO",
    "ap_cityscapes": "AP Cityscapes",
    "ap50_cityscapes": "AP50 Cityscapes",
}
_MEANS = {"iou": "miou"}
_AVERAGED = {
    "iou": ("miou",),
    "pq": ("vpq_1",),
    "sq": ("vpq_1",),
    "rq": ("vpq_1",),
    "ap50_coco": ("ap_coco",),
    "ap50_cityscapes": ("ap_cityscapes",),
}


def row_title(name: str, scores: ScoreData) -> str:
    """Stage and, in brackets, the weights that were scored: ``adapted (teacher)``."""
    title = name.replace("_", " ")
    return f"{title} ({scores['weights']})" if "weights" in scores else title


def score_row(scores: ScoreData) -> tuple[str, ...]:
    """mIoU, PQ, VPQ, STQ and flicker in percent; a dash where the labels have no instances."""
    return tuple(_percent(scores.get(name)) for name in ("miou", "pq", "vpq", "stq", "flicker"))


def scores_table(scores: Mapping[str, ScoreData], *, title: str, generated: bool) -> Table:
    """A rich table with one row per stage; says so where the footage is generated."""
    table = Table("", *COLUMNS, title=Text(title), title_justify="left", caption=TEST_BED if generated else None)
    for name, score in scores.items():
        table.add_row(Text(row_title(name, score)), *score_row(score))
    return table


def class_table(scores: ScoreData, *, title: str = "") -> Table:
    """A rich table with one row per class and a column for each metric that was measured, in percent.

    Below the classes are the means over the scored classes, their things and their stuff, the number of classes that
    each of these means averages, the means over categories and the further means of the protocol.

    Args:
        scores: Scores of one evaluation.
        title: Words above the table.
    """
    columns = _columns(scores)
    look: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    table = Table(title=Text(title) if title else None, title_justify="left", **look)
    for column in _ROW_HEAD:
        table.add_column(column, no_wrap=True)
    for column in columns:
        # Where the terminal is too narrow, numbers are folded rather than cut.
        table.add_column(Text(_TITLES.get(column, column.replace("_", " "))), justify="right", overflow="fold")
    for row in scores.get("rows", ()):
        head = (Text(row["class"]), row["kind"], "yes" if row["scored"] else "no")
        table.add_row(*head, *(_percent(row.get(column)) for column in columns))
    table.add_section()
    for name, cells in mean_rows(scores):
        table.add_row(Text(name), "", "", *cells)
    return table


def _columns(scores: ScoreData) -> list[str]:
    """What was measured of classes; VPQ is left out where it is PQ."""
    rows = scores.get("rows") or [{}]
    same = list(scores.get("windows", ())) == [1]
    return [name for name in rows[0] if name not in _ROW_HEAD and not (name == "vpq" and same)]


def mean_rows(scores: ScoreData) -> list[tuple[str, list[str]]]:
    """Rows for the foot of a class table: a name, and for each column a text in percent, or a number of classes."""
    columns = _columns(scores)
    mean = [_MEANS.get(column, column) for column in columns]
    rows = {"mean": [_percent(scores.get(name)) for name in mean]}
    rows["classes averaged"] = [_averaged(scores, column) for column in columns]
    for part, names in (("things", columns), ("stuff", columns), ("categories", mean)):
        keys = [f"{name}_{part}" for name in names]
        rows[part] = [_percent(scores[key]) if key in scores else "" for key in keys]
    for name, value in (scores.get("means") or {}).items():
        title = f"{name} over {len(scores['averaged'][name])}"
        rows[title] = [_percent(value) if column == "iou" else "" for column in columns]
    return [(name, cells) for name, cells in rows.items() if name == "mean" or set(cells) - {"", "-"}]


def _averaged(scores: ScoreData, column: str) -> str:
    """How many classes the mean of a column averages; from and to where the windows of VPQ differ."""
    averaged = scores.get("averaged") or {}
    names = [f"vpq_{length}" for length in scores.get("windows", ())] if column == "vpq" else _AVERAGED.get(column)
    counts = sorted({len(averaged[name]) for name in names or (column,) if name in averaged})
    return "-".join(str(count) for count in counts[:1] + counts[1:][-1:])


def protocol_line(scores: ScoreData) -> str:
    """What the means average, in words.

    >>> iou, averaged = {"road": 0.5, "car": None, "train": 0.1}, {"miou": ["road"]}
    >>> data = {"label_space": "toy", "iou": iou, "classes": ["road", "car"], "averaged": averaged}
    >>> protocol_line(data)
    'mean over 2 of 3 classes of toy, without train; IoU is undefined and not averaged for car'
    >>> protocol_line({**data, "unscored": "counted", "averaged": {"miou": ["road", "car"]}})
    'mean over 2 of 3 classes of toy, without train (their pixels are counted)'
    """
    names, scored = list(scores.get("iou", ())), list(scores.get("classes", ()))
    outside = [name for name in names if name not in scored]
    space = scores.get("label_space", "the label space")
    line = f"mean over all {len(scored)} classes of {space}"
    if outside:
        pixels = f" (their pixels are {scores['unscored']})" if "unscored" in scores else ""
        line = f"mean over {len(scored)} of {len(names)} classes of {space}, without {', '.join(outside)}{pixels}"
    averaged = (scores.get("averaged") or {}).get("miou", scored)
    undefined = [name for name in scored if name not in averaged]
    if undefined:
        line += f"; IoU is undefined and not averaged for {', '.join(undefined)}"
    return line


def class_rows_csv(scores: ScoreData) -> str:
    """The rows of classes as CSV with a head line; fractions 0..1, empty where undefined or not measured."""
    rows = scores.get("rows", ())
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else list(_ROW_HEAD), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
