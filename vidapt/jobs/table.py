"""Scores as tables: one row per stage for comparisons, one row per class for a single evaluation."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidapt.evaluation.scores import BY_PART, HEADLINE, ROW_HEAD

ScoreData = Mapping[str, Any]
"""What ``Scores.to_dict`` gives: plain data, as in scores.json; files of earlier versions have fewer keys."""

TEST_BED = "embedded test bed: generated street video, not a benchmark"
COLUMNS = ("mIoU", "PQ", "VPQ", "STQ", "flicker")

_STAGES = {"source_only": "source only", "upper_bound": "upper bound"}
_TITLES = {
    "miou": "mIoU",
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
    "vpq_long": "VPQ over long windows",
    "stq": "STQ",
    "aq": "AQ",
    "stq_sq": "SQ of STQ",
    "tc": "TC",
    "id_switches": "id switches",
    "vc8": "VC8",
    "vc16": "VC16",
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
    title = _STAGES.get(name, name)
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


def class_tables(scores: ScoreData, *, title: str, console: Console) -> list[Table]:
    """The ``class_table`` in as few parts, beside each other in columns, as fit the width of a terminal."""
    columns, tables = _columns(scores), [class_table(scores, title=title)]
    # Measured on a terminal of any width, which cuts no measure off.
    wide = console.options.update(width=10_000)
    for size in range(len(columns) - 1, 0, -1):
        if all(console.measure(table, options=wide).maximum <= console.width for table in tables):
            break
        chunks = [columns[start : start + size] for start in range(0, len(columns), size)]
        tables = [class_table(scores, title="" if n else title, columns=chunk) for n, chunk in enumerate(chunks)]
    return tables


def class_table(scores: ScoreData, *, title: str = "", columns: Sequence[str] | None = None) -> Table:
    """A rich table with one row per class and a column for each metric that was measured, in percent.

    Below the classes are the means over the scored classes, their things and their stuff, the number of classes that
    each of these means averages, the means over categories and the further means of the protocol.

    Args:
        scores: Scores of one evaluation.
        title: Words above the table.
        columns: Some of what was measured; None for all.
    """
    columns = _columns(scores) if columns is None else columns
    look: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    table = Table(title=Text(title) if title else None, title_justify="left", **look)
    for column in ROW_HEAD:
        table.add_column(column, no_wrap=True)
    for column in columns:
        # Where the terminal is too narrow, numbers are folded rather than cut.
        table.add_column(Text(_TITLES.get(column, column.replace("_", " "))), justify="right", overflow="fold")
    for row in scores.get("rows", ()):
        head = (Text(row["class"]), row["kind"], "yes" if row["scored"] else "no")
        table.add_row(*head, *(_percent(row.get(column)) for column in columns))
    table.add_section()
    for name, cells in mean_rows(scores, columns):
        table.add_row(Text(name), "", "", *cells)
    return table


def _columns(scores: ScoreData) -> list[str]:
    """What was measured of classes; VPQ is left out where it is PQ."""
    rows = scores.get("rows") or [{}]
    same = list(scores.get("windows", ())) == [1]
    return [name for name in rows[0] if name not in ROW_HEAD and not (name == "vpq" and same)]


def mean_rows(scores: ScoreData, columns: Sequence[str] | None = None) -> list[tuple[str, list[str]]]:
    """Rows for the foot of a class table: a name, and for each column a text in percent, or a number of classes."""
    columns = _columns(scores) if columns is None else columns
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


def further_numbers(scores: ScoreData) -> list[tuple[str, str]]:
    """Titles and texts of what was measured and has no column in the class table: VPQ by window, STQ, VC and so on."""
    shown = {*(_MEANS.get(column, column) for column in _columns(scores)), "miou_categories", "iiou_categories"}
    if scores.get("rows") and "vpq" not in shown and list(scores.get("windows", ())) == [1]:
        shown.add("vpq")
    constancy = [name for name in scores if name.startswith("vc") and name[2:].isdecimal()]
    found = {_TITLES.get(name, name): (name, scores.get(name)) for name in (*HEADLINE, *constancy) if name not in shown}
    windows = scores.get("vpq_windows") or {}
    if len(windows) > 1:
        found |= {f"VPQ of {n} frame{'s' * (n != '1')}": ("vpq", windows[n]["all"]["pq"]) for n in windows}
    return [
        (title, str(value) if name == "id_switches" else _percent(value))
        for title, (name, value) in found.items()
        if value is not None
    ]


def numbers_table(scores: ScoreData) -> Table:
    """A rich table with a row for each of the ``further_numbers``."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for title, text in further_numbers(scores):
        table.add_row(title, text)
    return table


def averaged_lines(scores: ScoreData) -> list[str]:
    """Which classes each mean averages, a line for each set of classes; none where all means average all scored ones.

    >>> averaged = {"miou": ["road", "car"], "vpq_1": ["road"], "pq_dagger": ["road"]}
    >>> data = {"miou": 0.5, "pq": 0.4, "pq_dagger": 0.4, "classes": ["road", "car"], "averaged": averaged}
    >>> averaged_lines(data)
    ['IoU averages all 2 scored classes', 'PQ, SQ, RQ, PQ† average 1 class: road']
    """
    averaged, scored = scores.get("averaged") or {}, list(scores.get("classes", ()))
    void = bool((scores.get("tracking") or {}).get("void"))
    sets: dict[tuple[tuple[str, ...], bool], list[str]] = {}
    for title, name, measured in _means_of(scores):
        if name in averaged and scores.get(measured) is not None:
            sets.setdefault((tuple(averaged[name]), void and name == "stq_sq"), []).append(title)
    if [*sets] == [(tuple(scored), False)]:
        return []
    lines = []
    for (classes, with_void), titles in sets.items():
        text = f"{len(classes)} class{'es' * (len(classes) != 1)}: {', '.join(classes)}"
        text = f"all {len(scored)} scored classes" if list(classes) == scored else text
        more = ", and void predicted on labels as one more of IoU 0" if with_void else ""
        lines.append(f"{', '.join(titles)} average{'s' * (len(titles) == 1 and ',' not in titles[0])} {text}{more}")
    return lines


def _means_of(scores: ScoreData) -> list[tuple[str, str, str]]:
    """Title of each mean over classes, its name in ``averaged``, and the number that is None if it was not measured."""
    windows = [n for n in scores.get("vpq_windows") or () if n != "1" and n not in _too_long(scores)]
    return [
        ("IoU", "miou", "miou"),
        ("iIoU", "iiou", "iiou"),
        ("PQ, SQ, RQ", "vpq_1", "pq"),
        *((f"VPQ of {n}", f"vpq_{n}", "pq") for n in windows),
        *((_TITLES[name], name, name) for name in ("pq_dagger", "boundary_pq", "ap_coco", "ap_cityscapes")),
        *((_TITLES[name], name, name) for name in ("stq_sq", "tc")),
    ]


def _too_long(scores: ScoreData) -> list[str]:
    """Windows of VPQ, in frames, that found no place in any video."""
    windows = scores.get("vpq_windows") or {}
    some = any(found["all"]["classes"] for found in windows.values())
    return [n for n, found in windows.items() if some and not found["all"]["classes"]]


def undefined_lines(scores: ScoreData) -> list[str]:
    """Why numbers that were asked for are missing, a line for each reason."""
    lines, long = [], _too_long(scores)
    if long:
        lines.append(f"VPQ of {', '.join(long)} frames is undefined: no video has so many labelled frames")
    if (scores.get("extra") or {}).get("unrated"):
        lines.append("average precision is not measured: no predicted thing has a 'score' to rank it by")
    return lines


def protocol_line(scores: ScoreData) -> str:
    """What the means average, in words.

    >>> iou, averaged = {"road": 0.5, "car": None, "train": 0.1}, {"miou": ["road"]}
    >>> data = {"label_space": "toy", "iou": iou, "classes": ["road", "car"], "averaged": averaged}
    >>> protocol_line(data)
    'mean over 2 of 3 classes of toy, without train; IoU is undefined and not averaged for car'
    >>> protocol_line({**data, "unscored": "counted", "averaged": {"miou": ["road", "car"]}})
    'mean over 2 of 3 classes of toy, without train (their pixels are counted)'
    """
    scored, space = list(scores.get("classes", ())), scores.get("label_space", "the label space")
    line = describe_mean(space, list(scores.get("iou", ())), scored, scores.get("unscored"))
    averaged = (scores.get("averaged") or {}).get("miou", scored)
    undefined = [name for name in scored if name not in averaged]
    if undefined:
        line += f"; IoU is undefined and not averaged for {', '.join(undefined)}"
    return line


def describe_mean(space: str, names: Sequence[str], scored: Sequence[str], unscored: str | None = None) -> str:
    """Over which classes means are taken.

    >>> describe_mean("toy", ["road", "car", "train"], ["road", "car"], "counted")
    'mean over 2 of 3 classes of toy, without train (their pixels are counted)'

    Args:
        space: Name of the label space.
        names: Its classes, void ones aside.
        scored: Those that are averaged.
        unscored: What the pixels of the others are, "counted" or "ignored"; None leaves it out.
    """
    outside = [name for name in names if name not in scored]
    if not outside:
        return f"mean over all {len(scored)} classes of {space}"
    pixels = f" (their pixels are {unscored})" if unscored else ""
    return f"mean over {len(scored)} of {len(names)} classes of {space}, without {', '.join(outside)}{pixels}"


def class_rows_csv(scores: ScoreData) -> str:
    """The rows of classes as CSV with a head line; fractions 0..1, empty where undefined or not measured.

    The last rows are means over the scored classes, called "mean": over all, then over things and over stuff, of what
    has such a mean.
    """
    rows = list(scores.get("rows", ()))
    head = list(rows[0]) if rows else list(ROW_HEAD)
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for kind, ending in (("", ""), ("thing", "_things"), ("stuff", "_stuff")) if rows else ():
        names = {column: _MEANS.get(column, column) for column in head[len(ROW_HEAD) :]}
        values = {
            column: scores.get(f"{name}{ending}") for column, name in names.items() if not ending or name in BY_PART
        }
        if values:
            writer.writerow({"class": "mean", "kind": kind, "scored": True} | values)
    return text.getvalue()


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def print_scores(scores: ScoreData, title: str, protocol: str = "", generated: bool = False) -> None:
    """Print what ``vidapt evaluate`` shows: the class tables, all further numbers, and what was averaged, in words.

    Args:
        scores: Scores of one evaluation.
        title: What was scored.
        protocol: Name of the protocol.
        generated: True for generated footage, which is then said.
    """
    console = Console()
    for table in class_tables(scores, title=f"{title}, in percent, - where undefined", console=console):
        console.print(table)
    console.print(numbers_table(scores))
    counts = f"{scores['videos']} videos or pictures, {scores['labelled_frames']} labelled frames"
    name = f"{protocol}: " if protocol else ""
    lines = [f"{counts}; {name}{protocol_line(scores)}", *averaged_lines(scores), *undefined_lines(scores)]
    for line in (*lines, *([TEST_BED] if generated else [])):
        console.print(line, highlight=False, markup=False)
