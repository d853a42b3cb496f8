"""Class tables, the line about the protocol and CSV from plain scores, those of earlier versions too."""

import csv
import io
import json

import pytest
from rich.console import Console

from tests.vidapt.evaluation.random_videos import METRICS, feed
from vidapt.evaluation.runner import VideoEvaluator
from vidapt.jobs.table import class_rows_csv, class_table, mean_rows, protocol_line, score_row, scores_table
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
    rows = list(csv.DictReader(io.StringIO(class_rows_csv(full))))
    assert [row["class"] for row in rows] == list(CITYSCAPES.names)
    for row, expected in zip(rows, full["rows"], strict=True):
        assert list(row) == list(expected)
        for name, value in expected.items():
            assert row[name] == ("" if value is None else str(value))
    strange = {**OLD, "rows": [{**OLD["rows"][0], "class": 'road, "wet"'}]}
    assert next(csv.DictReader(io.StringIO(class_rows_csv(strange))))["class"] == 'road, "wet"'
