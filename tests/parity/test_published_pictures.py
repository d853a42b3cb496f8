"""PQ, mIoU and boundary PQ on the test pictures of other projects, which are read from a folder outside of this one.

Put checkouts of google-research/deeplab2, bdd100k/bdd100k, scalabel/scalabel and bowenc0221/boundary-iou-api side by
side into a folder and name it in the environment variable VIDAPT_PARITY_DATA.
"""

import contextlib
import copy
import io
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidapt.evaluation.boundary import CITYSCAPES_RATIO, COCO_RATIO, boundary_iou, boundary_panoptic, mask_boundary
from vidapt.evaluation.histogram import VOID, joint_histogram
from vidapt.evaluation.panoptic import PanopticCounts, count_matches, panoptic_scores
from vidapt.evaluation.semantic import ScoredClasses, SemanticConfusion
from vidapt.labels import LabelClass, LabelSpace

FOLDER = os.environ.get("VIDAPT_PARITY_DATA")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="set VIDAPT_PARITY_DATA to a folder with checkouts of deeplab2, bdd100k and scalabel"
)

NO_CLASS = 256
"""Code of a target segment that is neither void nor scored."""


def data(project, *parts):
    """Folder or file of a checkout; skips if it is not there."""
    path = Path(str(FOLDER), project, *parts)
    if not path.exists():
        pytest.skip(f"{path} is not there; add a checkout of {project} to VIDAPT_PARITY_DATA")
    return path


def space_of(things):
    """A label space with one class per entry, True for things."""
    return LabelSpace("oracle", tuple(LabelClass(str(i), thing, (0, 0, i)) for i, thing in enumerate(things)))


def segment_codes(category, instance):
    """Codes in which every instance is a segment of its own, of stuff as well, and no segment is a crowd."""
    return (np.asarray(instance, np.int64) + 1) * 256 + category + 1


COLOURS = np.array([(0, 0, 0), (0, 0, 255), (255, 0, 0), (0, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 0)])
"""deeplab2: void, person, bear, tree, bird, sky, cat."""
TEAM = {0: 0, 198: 2} | dict.fromkeys((47, 97, 133, 150, 174, 215, 244, 255), 1)
PICTURES = {
    "bird": ("bird_gt.png", {92: 5, 176: 3, 255: 4}),
    "cat": ("cat_gt.png", {0: 0, 255: 6}),
    "team": ("team_gt_instance.png", TEAM),
}


def deeplab2_codes(name):
    """Target and predicted codes: the target's grey level is the instance and gives the class; class 0 is void."""
    folder = data("deeplab2", "evaluation", "testdata")
    truth, classes = PICTURES[name]
    instance = np.array(Image.open(folder / truth).convert("L"))
    assert set(np.unique(instance).tolist()) == set(classes)
    category = np.vectorize(classes.get)(instance)
    colour = np.array(Image.open(folder / f"{name}_pred_class.png").convert("RGB"))
    match = (colour[..., None, :] == COLOURS).all(-1)
    assert match.any(-1).all()
    predicted = match.argmax(-1)
    predicted_instance = np.array(Image.open(folder / f"{name}_pred_instance.png").convert("L"))
    target = np.where(category == 0, VOID, segment_codes(category, instance))
    return target, np.where(predicted == 0, VOID, segment_codes(predicted, predicted_instance))


@pytest.mark.parametrize(
    ("names", "classes", "qualities", "means"),
    [
        (["team"], 3, (0.62156284, 0.64664984, 0.9666667), (4, 0.5, 0)),
        (["bird", "cat", "team"], 7, (0.76855499, 0.7769174, 0.98888892), (2, 1 / 6, 0)),
    ],
)
def test_deeplab2_pictures(names, classes, qualities, means):
    space = space_of([True] * classes)
    counts = PanopticCounts.zeros(classes)
    for name in names:
        counts += count_matches(joint_histogram(*deeplab2_codes(name)), space.is_thing, classes)
    scores = panoptic_scores(counts, ScoredClasses.of(space))
    assert (scores.all.pq, scores.all.sq, scores.all.rq) == pytest.approx(qualities, abs=5e-8)
    present = [quality for name, quality in scores.per_class.items() if name in scores.all.classes]
    found = [np.mean([getattr(quality, key) for quality in present]) for key in ("tp", "fn", "fp")]
    assert found == pytest.approx(means, abs=1e-12)


BDD_THINGS = range(31, 41)
BDD_IMAGE_A = {
    1: (1, 0, 0, 0.7708830548926014),
    4: (1, 0, 0, 0.6422764227642277),
    7: (1, 0, 0, 0.9655321433716164),
    10: (1, 0, 0, 0.9411398791833123),
    13: (1, 0, 0, 0.5244956772334294),
    16: (1, 0, 0, 0.5889328063241107),
    17: (1, 0, 0, 0.6939252336448598),
    20: (0, 1, 1, 0),
    22: (0, 1, 1, 0),
    26: (1, 0, 0, 0.5384615384615384),
    27: (1, 0, 0, 0.5962732919254659),
    28: (1, 0, 0, 0.9368572838007058),
    29: (1, 0, 0, 0.9642794268243999),
    30: (1, 0, 0, 0.9662389555811991),
    34: (1, 0, 0, 0.8457497612225406),
    35: (4, 0, 0, 3.18008304800378),
}


def bdd_codes(path):
    """Codes of a bitmask: R is the category, B and A are the instance; crowds, ignored and instance 0 are void."""
    red, attributes, blue, alpha = np.moveaxis(np.array(Image.open(path)).astype(np.int64), -1, 0)
    instance = blue * 256 + alpha
    return np.where((instance == 0) | (attributes & 3 > 0), VOID, segment_codes(red, instance))


def bdd_counts(target, predicted, classes):
    """Counts by the rule of bdd100k and scalabel, in which void stays in the unions but still excuses.

    As segments without a class, void pixels stay in the unions, which gives the matches; false positives are those that
    panopticapi's rule leaves, which is the same as long as leaving void out of the unions adds no match.
    """
    nothing = np.zeros(256, bool)
    whole = count_matches(joint_histogram(np.where(target == VOID, NO_CLASS, target), predicted), nothing, classes)
    plain = count_matches(joint_histogram(target, predicted), nothing, classes)
    np.testing.assert_array_equal(whole.tp, plain.tp)
    return PanopticCounts(whole.iou, whole.tp, plain.fp, whole.fn), plain


def bdd_pictures(truth):
    """Target and prediction of every picture of a folder; a missing prediction is void."""
    folder = data("bdd100k", "tests", "eval", "testcases", "pan_seg")
    for path in sorted((folder / truth).glob("*.png")):
        target = bdd_codes(path)
        prediction = folder / "pred" / path.name
        yield target, bdd_codes(prediction) if prediction.exists() else np.zeros_like(target)


def bdd_scores(pictures, things, classes):
    """Scores in per cent by the rule of bdd100k and by panopticapi's."""
    space = space_of([index in things for index in range(classes)])
    sums = [PanopticCounts.zeros(classes), PanopticCounts.zeros(classes)]
    for target, predicted in pictures:
        sums = [total + counts for total, counts in zip(sums, bdd_counts(target, predicted, classes), strict=True)]
    return [panoptic_scores(total, ScoredClasses.of(space)) for total in sums]


def in_per_cent(scores):
    """PQ, SQ, RQ and number of classes of all, stuff and things."""
    parts = (scores.all, scores.stuff, scores.things)
    return [(100 * mean.pq, 100 * mean.sq, 100 * mean.rq, len(mean.classes)) for mean in parts]


def test_bdd100k_first_picture():
    target, predicted = next(bdd_pictures("gt"))
    counts, _ = bdd_counts(target, predicted, 41)
    found = {
        index: (int(counts.tp[index]), int(counts.fp[index]), int(counts.fn[index]), counts.iou[index])
        for index in range(41)
        if counts.tp[index] + counts.fp[index] + counts.fn[index]
    }
    assert found.keys() == BDD_IMAGE_A.keys()
    for index, expected in BDD_IMAGE_A.items():
        assert found[index] == pytest.approx(expected, abs=1e-12)


def test_bdd100k_blank_prediction():
    target, _ = next(bdd_pictures("gt"))
    counts, _ = bdd_counts(target, np.zeros_like(target), 41)
    assert counts.tp.sum() == counts.fp.sum() == 0
    assert {index: int(counts.fn[index]) for index in np.flatnonzero(counts.fn)} == dict.fromkeys(BDD_IMAGE_A, 1) | {
        35: 4
    }


def test_bdd100k_pictures():
    scores, plain = bdd_scores(bdd_pictures("gt"), BDD_THINGS, 41)
    np.testing.assert_allclose(
        in_per_cent(scores),
        [
            (66.46278879162743, 68.35183709387516, 85.29411764705883, 17),
            (64.38602380902118, 66.52694521823528, 83.33333333333333, 15),
            (82.03852616117427, 82.03852616117427, 100, 2),
        ],
        atol=1e-9,
    )
    assert 100 * plain.all.pq == pytest.approx(66.46301051, abs=5e-9), "panopticapi's rule leaves void out of the union"


def test_bdd100k_missing_prediction():
    scores, _ = bdd_scores(bdd_pictures("gt+"), BDD_THINGS, 41)
    np.testing.assert_allclose(
        in_per_cent(scores),
        [
            (49.385236103572474, 68.35183709387516, 62.35294117647057, 17),
            (48.677620814166644, 66.52694521823528, 61.77777777777776, 15),
            (54.69235077411619, 82.03852616117427, 66.66666666666666, 2),
        ],
        atol=1e-9,
    )


@pytest.mark.parametrize(("truth", "expected"), [("gt", 61.73469387755102), ("gt+", 31.911057692307693)])
def test_bdd100k_mean_iou(truth, expected):
    folder = data("bdd100k", "tests", "eval", "testcases", "seg")
    quality = SemanticConfusion(19)
    for path in sorted((folder / truth).glob("*.png")):
        target, prediction = np.array(Image.open(path)), folder / "pred" / path.name
        predicted = np.array(Image.open(prediction)) if prediction.exists() else np.full_like(target, 255)
        quality.update(target, predicted)
    assert 100 * np.nanmean(quality.iou()) == pytest.approx(expected, abs=1e-9)


def scalabel_frames(name, *, kind):
    """Frames of a scalabel JSON by picture name."""
    content = json.loads(data("scalabel", "tests", "eval", "testcases", kind, name).read_text())
    return {frame["name"]: frame for frame in (content["frames"] if isinstance(content, dict) else content)}


def scalabel_categories(kind):
    """Category names, and which of them are things, from the task's configuration."""
    text = data("scalabel", "tests", "eval", "testcases", kind, f"{kind}_configs.toml").read_text()
    names = re.findall(r'^name = "(.+)"$', text, re.MULTILINE)
    return names, [flag == "true" for flag in re.findall(r"^isThing = (\w+)$", text, re.MULTILINE)]


def decode(label):
    """bool (H,W) mask of a label."""
    mask = pytest.importorskip("pycocotools.mask")
    with warnings.catch_warnings():
        # Its arrays do not know the copy argument of numpy 2.
        warnings.simplefilter("ignore", DeprecationWarning)
        return mask.decode(dict(label["rle"])).astype(bool)


def scalabel_codes(frame, names, things):
    """Codes of a frame whose masks may not overlap; all stuff of one class is one segment."""
    codes = np.zeros((720, 1280), np.int64)
    for number, label in enumerate(frame.get("labels") or ()):
        mask, category = decode(label), names.index(label["category"])
        assert not codes[mask].any()
        codes[mask] = segment_codes(category, number + 1 if things[category] else 0)
    return codes


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        (
            "pan_seg_sample.json",
            [
                (26.671487325762055, 30.815623929417264, 34.666666666666664, 15),
                (32.04431646856032, 32.04431646856032, 41.666666666666664, 12),
                (5.180170754569009, 25.90085377284505, 6.666666666666667, 3),
            ],
        ),
        (
            "pan_seg_sample_2.json",
            [
                (17.780991550508038, 30.815623929417264, 23.111111111111104, 15),
                (21.362877645706877, 32.04431646856032, 27.77777777777777, 12),
                (3.4534471697126734, 25.90085377284505, 4.444444444444445, 3),
            ],
        ),
    ],
)
def test_scalabel_panoptic(truth, expected):
    names, things = scalabel_categories("pan_seg")
    predictions = scalabel_frames("pan_seg_preds.json", kind="pan_seg")
    pictures = (
        [scalabel_codes(frame, names, things) for frame in (wanted, predictions.get(name, {}))]
        for name, wanted in scalabel_frames(truth, kind="pan_seg").items()
    )
    scores, _ = bdd_scores(pictures, np.flatnonzero(things), len(names))
    np.testing.assert_allclose(in_per_cent(scores), expected, atol=1e-9)


def test_scalabel_semantic():
    """IoU by class and its mean over the classes of the target; the other means are read from the same matrix."""
    names, _ = scalabel_categories("sem_seg")
    truths, predictions = (scalabel_frames(f"sem_seg_{part}.json", kind="sem_seg") for part in ("sample", "preds"))
    quality = SemanticConfusion(len(names))
    for name, truth in truths.items():
        maps = np.full((2, 720, 1280), 255, np.uint8)
        for label_map, frame in zip(maps, (truth, predictions.get(name, {})), strict=True):
            for label in frame.get("labels") or ():
                if label["category"] in names:
                    label_map[decode(label)] = names.index(label["category"])
        quality.update(*maps)
    confusion, iou = quality.confusion, quality.iou()
    occurs = confusion.sum(1) > 0
    scored = ScoredClasses.of(space_of([False] * len(names)), np.flatnonzero(occurs).tolist())
    assert 100 * scored.mean(iou).value == pytest.approx(77.69367702513847, abs=1e-9)
    hits, columns = np.diagonal(confusion), confusion.sum(0)[:-1]
    assert 100 * np.mean((hits / np.maximum(columns, 1))[occurs]) == pytest.approx(85.08073850792114, abs=1e-9)
    share = confusion.sum(1) / confusion.sum()
    assert 100 * np.nansum(iou * share) == pytest.approx(95.96580841723501, abs=1e-9)
    assert 100 * hits.sum() / confusion.sum() == pytest.approx(97.59265266143856, abs=1e-9)
    expected = {"road": 99.54405124, "sidewalk": 87.67803909, "fence": 22.64488433, "sky": 98.23104973}
    assert {name: 100 * iou[names.index(name)] for name in expected} == pytest.approx(expected, abs=5e-9)


@pytest.fixture
def boundary_code(monkeypatch):
    """The published functions: ``mask_to_boundary`` and the PQ script of its Cityscapes part."""
    monkeypatch.syspath_prepend(str(data("boundary-iou-api")))
    for name in ("pycocotools", "cityscapesscripts"):
        pytest.importorskip(name)
    from boundary_iou.cityscapes_panoptic_api import evalPanopticSemanticLabeling
    from boundary_iou.utils.boundary_utils import mask_to_boundary

    return mask_to_boundary, evalPanopticSemanticLabeling


@pytest.mark.parametrize("ratio", [COCO_RATIO, CITYSCAPES_RATIO, 0.1])
def test_boundary_of_masks(boundary_code, ratio):
    mask_to_boundary, _ = boundary_code
    target, predicted = next(bdd_pictures("gt"))
    for code in np.unique(target)[1:].tolist():
        mask, other = target == code, predicted == code
        boundary = mask_to_boundary(mask.astype(np.uint8), ratio).astype(bool)
        np.testing.assert_array_equal(mask_boundary(mask, ratio), boundary)
        outline = mask_to_boundary(other.astype(np.uint8), ratio).astype(bool)
        expected = (boundary & outline).sum() / (boundary | outline).sum()
        assert boundary_iou(mask, other, ratio) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ratio", [COCO_RATIO, CITYSCAPES_RATIO])
def test_boundary_panoptic_quality(boundary_code, tmp_path, ratio):
    """The published script on the bdd100k pictures, written in the COCO format."""
    _, scorer = boundary_code
    counts, pairs = PanopticCounts.zeros(41), []
    for number, codes in enumerate(bdd_pictures("gt")):
        counts += boundary_panoptic(*codes, np.zeros(256, bool), 41, ratio)
        pair = []
        for side, label_map in zip(("truth", "prediction"), codes, strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            ids = label_map + 256 * (label_map > 0)
            picture = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / side / f"{number}.png")
            segments = [
                {"id": code, "category_id": code % 256 - 1, "area": int((ids == code).sum()), "iscrowd": 0}
                for code in np.unique(ids[ids > 0]).tolist()
            ]
            pair.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
        pairs.append(tuple(pair))
    categories = {index: {"id": index, "isthing": 1} for index in range(41)}
    with contextlib.redirect_stdout(io.StringIO()):
        official = scorer.pq_compute_single_core(
            0, copy.deepcopy(pairs), tmp_path / "truth", tmp_path / "prediction", categories, "boundary", ratio
        )
    for index in range(41):
        expected = official[index]
        assert (counts.tp[index], counts.fp[index], counts.fn[index]) == (expected.tp, expected.fp, expected.fn)
        assert counts.iou[index] == pytest.approx(expected.iou, abs=1e-9)
    assert 0 < counts.tp.sum() < counts.tp.sum() + counts.fn.sum()
