"""Class tables, the line about the protocol and CSV from plain scores, those of earlier versions too."""

import csv
import io
import json
import re

import pytest
from rich.console import Console

from tests.vidapt.evaluation.random_videos import METRICS, feed
from vidapt.evaluation.runner import VideoEvaluator
from vidapt.evaluation.scores import HEADLINE
from vidapt.jobs.table import (
    averaged_lines,
    class_rows_csv,
    class_table,
    class_tables,
    further_numbers,
    mean_rows,
    numbers_table,
    protocol_line,
    row_title,
    score_row,
    scores_table,
    undefined_lines,
)
from vidapt.labels import CITYSCAPES

SIXTEEN = tuple(name for name in CITYSCAPES.names if name not in ("terrain", "truck", "train"))
OLD = {
    "label_space": "toy",
    "classes": ["road", "car"],
    "things": ["car", "train"],
    "miou": 0.55,
    "pq": 0.3,
    "pq_things": 0.2,
    "pq_stuff": 0.4,
    "windows": [1, 2],
    "iou": {"road": 0.9, "car": 0.2, "train": None},
    "averaged": {"miou": ["road", "car"], "vpq_1": ["road", "car"], "vpq_2": ["road"]},
    "rows": [
        {"class": "road", "kind": "stuff", "scored": True, "iou": 0.9, "pq": 0.4, "vpq": 0.5},
        {"class": "car", "kind": "thing", "scored": True, "iou": 0.2, "pq": 0.2, "vpq": 0.25},
        {"class": "train", "kind": "thing", "scored": False, "iou": None, "pq": None, "vpq": None},
    ],
}
"""Scores as an earlier version stored them."""


def scores_of(metrics=(), frames=2, instances=True, **options):
    evaluator = VideoEvaluator(CITYSCAPES, scored_classes=SIXTEEN, metrics=metrics, **options)
    if instances:
        for seed in range(3):
            feed(evaluator, seed, frames)
    return json.loads(json.dumps(evaluator.result().to_dict(), allow_nan=False))


@pytest.fixture(scope="module")
def full():
    return scores_of(METRICS, windows=(1, 2), means={"miou2": ["road", "car", "wall"]})


def printed(table, width=200):
    console = Console(width=width, file=io.StringIO(), legacy_windows=False)
    console.print(table)
    return console.file.getvalue()


def cells(text, name):
    """The words of the printed row that starts with ``name``, after it."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{name}  ")]
    return line.strip()[len(name) :].split()


def test_old_scores_print():
    text = printed(class_table(OLD, title="a run"))
    assert text.splitlines()[0].strip() == "a run"
    assert cells(text, "class") == ["kind", "scored", "IoU", "PQ", "VPQ"]
    assert cells(text, "road") == ["stuff", "yes", "90.0", "40.0", "50.0"]
    assert cells(text, "train") == ["thing", "no", "-", "-", "-"]
    assert cells(text, "mean") == ["55.0", "30.0", "-"]
    assert cells(text, "classes averaged") == ["2", "2", "1-2"]
    assert cells(text, "things") == ["20.0"]
    assert cells(text, "stuff") == ["40.0"]
    assert "categories" not in text
    assert score_row(OLD) == ("55.0", "30.0", "-", "-", "-")


def test_scores_without_anything_print():
    assert "class" in printed(class_table({}))
    assert class_rows_csv({}) == "class,kind,scored\n"
    assert score_row({}) == ("-",) * 5
    assert "stage" in printed(scores_table({"stage": {}}, title="", generated=True))


def test_every_metric_has_a_column(full):
    text = printed(class_table(full))
    titles = "IoU iIoU PQ SQ RQ VPQ PQ† boundary PQ AP COCO AP50 COCO AP Cityscapes AP50 Cityscapes"
    assert " ".join(cells(text, "class")) == f"kind scored {titles}"
    row = next(row for row in full["rows"] if None not in row.values())
    values = [f"{100 * value:.1f}" for value in list(row.values())[3:]]
    assert cells(text, row["class"]) == ["thing", "yes", *values]
    assert cells(text, "road")[-4:] == ["-"] * 4, "AP of stuff"
    assert cells(text, "mean")[-1] == f"{100 * full['ap50_cityscapes']:.1f}"


def test_feet_of_the_columns(full):
    rows = dict(mean_rows(full))
    columns = [name for name in full["rows"][0] if name not in ("class", "kind", "scored")]
    feet = {name: dict(zip(columns, values, strict=True)) for name, values in rows.items()}
    assert list(feet) == ["mean", "classes averaged", "things", "stuff", "categories", "miou2 over 2"]
    for column in columns:
        name = "miou" if column == "iou" else column
        value = full[name]
        assert feet["mean"][column] == ("-" if value is None else f"{100 * value:.1f}"), column
    averaged = feet["classes averaged"]
    assert averaged["iou"] == str(len(full["averaged"]["miou"]))
    assert averaged["sq"] == averaged["pq"] == str(len(full["averaged"]["vpq_1"]))
    assert averaged["ap50_cityscapes"] == averaged["ap_cityscapes"] == str(len(full["averaged"]["ap_cityscapes"]))
    assert averaged["iiou"] == str(len(full["averaged"]["iiou"]))
    for part in ("things", "stuff"):
        assert feet[part]["iou"] == feet[part]["ap_coco"] == ""
        for name in ("pq", "sq", "rq", "pq_dagger", "boundary_pq"):
            assert feet[part][name] == f"{100 * full[f'{name}_{part}']:.1f}"
    assert feet["categories"]["iou"] == f"{100 * full['miou_categories']:.1f}"
    assert feet["categories"]["iiou"] == f"{100 * full['iiou_categories']:.1f}"
    assert feet["miou2 over 2"] == dict.fromkeys(columns, "") | {"iou": f"{100 * full['miou2']:.1f}"}


def test_vpq_is_left_out_where_it_is_pq():
    assert "VPQ" in printed(class_table(scores_of()))
    assert "VPQ" not in printed(class_table(scores_of(windows=(1,), long_windows=())))


def test_numbers_are_never_cut(full):
    text = printed(class_table(full), width=80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_usual_metrics_fit_a_terminal_of_80_columns():
    text = printed(class_table(scores_of()), width=80)
    assert cells(text, "class") == ["kind", "scored", "IoU", "PQ", "SQ", "RQ", "VPQ", "PQ†"]
    assert len(cells(text, "traffic light")) == 8


def test_class_names_are_no_markup():
    rows = [{**OLD["rows"][0], "class": "[red]road[/red]"}]
    assert "[red]road[/red]" in printed(class_table({**OLD, "rows": rows}, title="[b]run[/b]"))
    assert "[b]run[/b]" in printed(class_table(OLD, title="[b]run[/b]"))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "mean over 2 of 3 classes of toy, without train"),
        ({"unscored": "ignored"}, "mean over 2 of 3 classes of toy, without train (their pixels are ignored)"),
        ({"classes": ["road", "car", "train"]}, "mean over all 3 classes of toy; IoU is undefined and not averaged"),
        ({"averaged": {"miou": ["car"]}}, "without train; IoU is undefined and not averaged for road"),
    ],
)
def test_line_about_the_protocol(changed, line):
    assert line in protocol_line({**OLD, **changed})
    assert protocol_line(OLD) == "mean over 2 of 3 classes of toy, without train"


def test_line_about_the_sixteen_classes():
    start = "mean over 16 of 19 classes of cityscapes, without terrain, truck, train (their pixels are counted)"
    assert protocol_line(scores_of()).startswith(start)
    assert "not averaged for road, sidewalk" in protocol_line(scores_of(instances=False))


def test_csv_reads_back(full):
    *rows, mean, things, stuff = csv.DictReader(io.StringIO(class_rows_csv(full)))
    assert [row["class"] for row in rows] == list(CITYSCAPES.names)
    assert [(row["class"], row["kind"]) for row in (mean, things, stuff)] == [
        ("mean", k) for k in ("", "thing", "stuff")
    ]
    assert (mean["iou"], mean["iiou"], mean["vpq"]) == tuple(str(full[name]) for name in ("miou", "iiou", "vpq"))
    assert mean["ap_coco"] == str(full["ap_coco"])
    for row, part in ((things, "things"), (stuff, "stuff")):
        assert (row["pq"], row["boundary_pq"]) == (str(full[f"pq_{part}"]), str(full[f"boundary_pq_{part}"]))
        assert row["iou"] == row["ap_coco"] == ""
    for row, expected in zip(rows, full["rows"], strict=True):
        assert list(row) == list(expected)
        for name, value in expected.items():
            assert row[name] == ("" if value is None else str(value))
    strange = {**OLD, "rows": [{**OLD["rows"][0], "class": 'road, "wet"'}]}
    assert next(csv.DictReader(io.StringIO(class_rows_csv(strange))))["class"] == 'road, "wet"'


# --- numbers without a column, and what the means average


def test_numbers_without_a_column_are_listed(full):
    numbers = dict(further_numbers(full))
    assert {*numbers} == {
        *("STQ", "AQ", "SQ of STQ", "flicker", "TC", "id switches"),
        *(f"VPQ of {n} frame{'s' * (n != '1')}" for n, found in full["vpq_windows"].items() if found["all"]["classes"]),
    }
    for title, name in (("STQ", "stq"), ("AQ", "aq"), ("SQ of STQ", "stq_sq"), ("TC", "tc"), ("flicker", "flicker")):
        assert numbers[title] == f"{100 * full[name]:.1f}"
    assert numbers["id switches"] == str(full["id_switches"])
    assert numbers["VPQ of 2 frames"] == f"{100 * full['vpq_windows']['2']['all']['pq']:.1f}"
    text = printed(numbers_table(full))
    assert all(title in text and value in text for title, value in numbers.items())


def test_every_number_is_in_a_column_or_listed():
    full = scores_of(METRICS, frames=20, windows=(1, 2), long_windows=(1, 5))
    titles = " ".join(title for title, _ in further_numbers(full))
    assert full["vc8"] is not None
    for title in ("VC8", "VC16", "VPQ of 5 frames"):
        assert title in titles
    listed = {text for _, text in further_numbers(full)}
    for name in (*HEADLINE, "vc8", "vc16"):
        if full[name] is not None and name not in ("id_switches",):
            columns = [value for _, values in mean_rows(full) for value in values]
            assert f"{100 * full[name]:.1f}" in {*columns, *listed}, name


def test_stills_without_instances_list_nothing_more():
    assert further_numbers({**OLD, "windows": [1], "vpq_windows": {"1": {}}}) == []
    assert further_numbers({"miou": 0.5}) == [("mIoU", "50.0")]


def test_means_over_different_classes_are_named(full):
    lines = averaged_lines(full)
    means = {"IoU": "miou", "PQ, SQ, RQ": "vpq_1", "AP COCO": "ap_coco", "iIoU": "iiou", "TC": "tc"}
    for title, name in means.items():
        classes = full["averaged"][name]
        (line,) = [line for line in lines if re.search(rf"(^|, ){title}(, | average)", line)]
        assert line.endswith(f"average {len(classes)} classes: {', '.join(classes)}".removeprefix("average ")), line
    (sq,) = [line for line in lines if "SQ of STQ" in line.split(" average")[0]]
    assert full["tracking"]["void"] is True
    assert sq.endswith(", and void predicted on labels as one more of IoU 0")


def test_means_over_all_scored_classes_need_no_line():
    same = {**OLD, "averaged": {"miou": ["road", "car"], "vpq_1": ["road", "car"]}}
    assert averaged_lines(same) == []
    with_void = {**same, "stq_sq": 0.3, "tracking": {"void": True}}
    with_void["averaged"] = {**same["averaged"], "stq_sq": ["road", "car"]}
    assert averaged_lines(with_void) == [
        "IoU, PQ, SQ, RQ average all 2 scored classes",
        "SQ of STQ averages all 2 scored classes, and void predicted on labels as one more of IoU 0",
    ]
    assert averaged_lines({}) == []


def test_windows_longer_than_every_video_are_named():
    lines = undefined_lines(scores_of(frames=3, windows=(1, 2), long_windows=(1, 5, 10)))
    assert lines == ["VPQ of 5, 10 frames is undefined: no video has so many labelled frames"]
    assert undefined_lines(scores_of(frames=3, windows=(1, 2), long_windows=(1, 3))) == []
    assert undefined_lines({"extra": {"unrated": True}}) == [
        "average precision is not measured: no predicted thing has a 'score' to rank it by"
    ]


def test_only_names_of_stages_are_changed():
    assert row_title("source_only", {}) == "source only"
    assert row_title("upper_bound", {"weights": "teacher"}) == "upper bound (teacher)"
    assert row_title("runs/my_run", {}) == "runs/my_run"
    assert row_title("my_predictions", {}) == "my_predictions"


@pytest.mark.parametrize("width", [60, 80, 120, 240])
def test_wide_tables_are_split(full, width):
    """No digit is folded, every column is there once, and every part has all classes."""
    console = Console(width=width, file=io.StringIO(), legacy_windows=False)
    tables = class_tables(full, title="a run", console=console)
    titles = [str(column.header) for table in tables for column in table.columns[3:]]
    assert titles == [str(column.header) for column in class_table(full).columns[3:]]
    assert (len(tables) == 1) == (width == 240)
    for table in tables:
        console.print(table)
        assert len(list(table.columns[0].cells)) >= 20
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for row in full["rows"]:
        numbers = [f"{100 * value:.1f}" if value is not None else "-" for value in list(row.values())[3:]]
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith(f"{row['class']}  ")]
        assert [cell for line in lines for cell in line[len(row["class"]) :].split()[2:]] == numbers
    assert text.count("a run") == 1
