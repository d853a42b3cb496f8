"""What the scores say of themselves: headline, rows, columns and plain data."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.vidapt.evaluation.random_videos import METRICS, feed
from vidapt.errors import UserError
from vidapt.evaluation.runner import VideoEvaluator
from vidapt.evaluation.scores import BY_PART, HEADLINE, ROW_HEAD, check_names
from vidapt.labels import CITYSCAPES

COLUMNS = (
    *("iou", "iiou", "pq", "sq", "rq", "vpq", "pq_dagger", "boundary_pq"),
    *("ap_coco", "ap50_coco", "ap_cityscapes", "ap50_cityscapes"),
)


@pytest.fixture(scope="module")
def scores():
    evaluator = VideoEvaluator(CITYSCAPES, windows=(1, 2), metrics=METRICS, means={"miou2": ["road", "car"]})
    for seed in range(2):
        feed(evaluator, seed, frames=9)
    return evaluator.result()


def test_headline_has_everything_once(scores):
    parts = {f"{name}_{part}" for name in BY_PART for part in ("things", "stuff")}
    headline = scores.headline()
    assert set(headline) == {*HEADLINE, *parts, "miou2", "vc8", "vc16"}
    assert list(headline)[: len(HEADLINE)] == list(HEADLINE)
    for part in ("things", "stuff"):
        quality = getattr(scores.panoptic, part)
        assert [headline[f"{name}_{part}"] for name in ("pq", "sq", "rq")] == [quality.pq, quality.sq, quality.rq]
        assert headline[f"vpq_{part}"] == np.mean([getattr(scores.vpq_windows[n], part).pq for n in (1, 2)])
        assert headline[f"pq_dagger_{part}"] == getattr(scores.dagger, part).pq
        assert headline[f"boundary_pq_{part}"] == getattr(scores.extra.boundary, part).pq
    assert headline["vc16"] is None
    assert headline["vpq_long"] is None, "no video has 10 frames"


def test_a_row_has_what_each_metric_says_of_the_class(scores):
    rows = {row["class"]: row for row in scores.rows()}
    assert list(rows) == list(CITYSCAPES.names)
    extra = scores.extra
    assert rows["car"] == {
        "class": "car",
        "kind": "thing",
        "scored": True,
        "iou": scores.iou["car"],
        "iiou": extra.instance_weighted.iou["car"],
        "pq": scores.panoptic.per_class["car"].pq,
        "sq": scores.panoptic.per_class["car"].sq,
        "rq": scores.panoptic.per_class["car"].rq,
        "vpq": np.mean([scores.vpq_windows[n].per_class["car"].pq for n in (1, 2)]),
        "pq_dagger": scores.dagger.per_class["car"].pq,
        "boundary_pq": extra.boundary.per_class["car"].pq,
        "ap_coco": extra.coco.per_class["car"].ap,
        "ap50_coco": extra.coco.per_class["car"].ap50,
        "ap_cityscapes": extra.cityscapes.per_class["car"].ap,
        "ap50_cityscapes": extra.cityscapes.per_class["car"].ap50,
    }
    assert rows["road"]["kind"] == "stuff"
    for name in ("iiou", "ap_coco", "ap50_coco", "ap_cityscapes", "ap50_cityscapes"):
        assert rows["road"][name] is None, "of stuff it is undefined"
    assert rows["wall"] == {"class": "wall", "kind": "stuff", "scored": True} | dict.fromkeys(COLUMNS)


def test_columns_are_what_was_measured(scores):
    assert scores.columns() == COLUMNS
    assert ROW_HEAD + scores.columns() == tuple(scores.rows()[0])
    less = replace(scores, extra=replace(scores.extra, coco=None, instance_weighted=None))
    assert less.columns() == tuple(name for name in COLUMNS if "coco" not in name and name != "iiou")
    assert (less.ap_coco, less.iiou) == (None, None)
    bare = replace(scores, vpq_windows=None, dagger=None, extra=replace(less.extra, boundary=None, cityscapes=None))
    assert bare.columns() == ("iou",)


def test_means_average_the_rows_that_they_name(scores):
    rows = {row["class"]: row for row in scores.rows()}
    for column in COLUMNS:
        name = "miou" if column == "iou" else column
        names = "vpq_1" if name in ("pq", "sq", "rq", "vpq") else name.replace("ap50", "ap")
        values = [rows[label][column] for label in scores.averaged[names]]
        assert scores.headline()[name] == pytest.approx(np.mean(values)), name
    assert scores.means["miou2"] == pytest.approx((rows["road"]["iou"] + rows["car"]["iou"]) / 2)
    categories = scores.extra.instance_weighted.categories
    assert scores.iiou_categories == np.mean([categories.iou[name] for name in scores.averaged["iiou_categories"]])


def test_plain_data(scores):
    data = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert {name: data[name] for name in scores.headline()} == scores.headline()
    assert data["rows"] == scores.rows()
    assert data["extra"]["constancy"] == {"8": scores.extra.constancy[8], "16": None}
    assert data["extra"]["coco"]["per_class"]["car"]["ap75"] == scores.extra.coco.per_class["car"].ap75
    assert data["extra"]["cityscapes"]["all"]["by_overlap"][0] == scores.ap50_cityscapes
    assert data["categories"]["iou"]["object"] is None
    assert data["dagger"]["stuff"]["pq"] == scores.headline()["pq_dagger_stuff"]
    assert data["unscored"] == "counted"
    assert data["means"] == {"miou2": scores.means["miou2"]}


def test_names_of_means():
    check_names(["miou13", "miou16", "mean of flat classes"])
    for name in (*HEADLINE, "pq_stuff", "vc8", "vpq_3", "rows", "iou", "extra", "averaged"):
        with pytest.raises(UserError, match=f"cannot be called '{name}'"):
            check_names(["miou13", name])
