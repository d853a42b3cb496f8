"""Average precision of instances against cityscapesscripts, run live on files in the official format."""

import copy
import warnings

import numpy as np
import pytest
from PIL import Image

from vidapt.clip import IGNORE, PanopticFrame, Segment
from vidapt.evaluation.instance import CityscapesAveragePrecision, overlaps_of_frame, overlaps_of_masks
from vidapt.labels import CITYSCAPES

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Cityscapes label id of each train id."""

TRAIN_IDS = np.full(256, IGNORE, np.uint8)
TRAIN_IDS[list(LABEL_IDS)] = np.arange(19)
PERSON, RIDER, CAR, BICYCLE, CARAVAN = 24, 25, 26, 33, 29
SIXTEEN = tuple(name for name in CITYSCAPES.names if name not in ("terrain", "truck", "train"))


@pytest.fixture
def scorer(monkeypatch, tmp_path):
    """The official script with the name that numpy 2.4 has dropped, writing nowhere but into ``tmp_path``."""
    if not hasattr(np, "in1d"):
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    module = pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    arguments = copy.copy(module.args)
    arguments.predictionPath = str(tmp_path)
    arguments.gtInstancesFile = str(tmp_path / "gtInstances.json")
    arguments.quiet, arguments.JSONOutput = True, False
    monkeypatch.chdir(tmp_path)
    module.setInstanceLabels(arguments)
    return module, arguments


def semantic_and_instance(ids):
    """Train ids and track ids of a Cityscapes map of instance ids: labels below 1000, label·1000 + number above."""
    return TRAIN_IDS[np.where(ids >= 1000, ids // 1000, ids)], np.where(ids >= 1000, ids, 0)


def write(folder, frames):
    """Instance id PNGs, and for each frame a text file that lists its masks; returns the two lists of paths."""
    truths, lists = [], []
    for number, (ids, masks, labels, scores) in enumerate(frames):
        stem = f"aachen_{number:06d}_000019"
        truths.append(str(folder / f"{stem}_gtFine_instanceIds.png"))
        Image.fromarray(ids.astype(np.uint16)).save(truths[-1])
        lines = []
        for position, (mask, label, score) in enumerate(zip(masks, labels, scores, strict=True)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{stem}_{position}.png")
            lines.append(f"{stem}_{position}.png {label} {float(score)!r}\n")
        lists.append(str(folder / f"{stem}.txt"))
        (folder / f"{stem}.txt").write_text("".join(lines))
    return truths, lists


def official(scorer, folder, frames):
    """Matches of the official script by image, and its average precision (8 classes, 10 overlaps).

    The script stops with an IndexError if all predictions of a class are ignored; that class is 0 here.
    """
    module, arguments = scorer
    truths, lists = write(folder, frames)
    matches = module.matchGtWithPreds(lists, truths, module.getGtInstances(truths, arguments), arguments)
    rows = []
    for name in arguments.instLabels:
        single = copy.copy(arguments)
        single.instLabels = [name]
        try:
            rows.append(module.evaluateMatches(matches, single)[0, 0])
        except IndexError:
            rows.append(np.zeros(len(arguments.overlaps)))
    return [matches[path] for path in truths], np.array(rows)


def ours(frames, **settings):
    metric = CityscapesAveragePrecision(CITYSCAPES, **settings)
    for number, (ids, masks, labels, scores) in enumerate(frames):
        overlaps = overlaps_of_masks(masks, scores, TRAIN_IDS[labels], *semantic_and_instance(ids), CITYSCAPES)
        metric.update(number, overlaps)
    return metric.result()


def assert_same_counts(frame, matches):
    """Areas, void pixels and intersections of every prediction with every target of its class."""
    ids, masks, labels, scores = frame
    record = overlaps_of_masks(masks, scores, TRAIN_IDS[labels], *semantic_and_instance(ids), CITYSCAPES)
    official_targets = {
        (entry["instID"], entry["pixelCount"]) for entries in matches["groundTruth"].values() for entry in entries
    }
    instance_ids = np.where(record.crowd, np.array(LABEL_IDS)[record.target_category], record.target_id)
    assert set(zip(instance_ids.tolist(), record.target_area.tolist(), strict=True)) == official_targets
    found = [entry for entries in matches["prediction"].values() for entry in entries]
    kept = np.flatnonzero((record.area > 0) & CITYSCAPES.is_thing[record.category])
    assert len(found) == len(kept)
    by_position = {int(entry["imgName"].rsplit("_", 1)[1][:-4]): entry for entry in found}
    for position in kept:
        entry = by_position[position]
        assert (record.area[position], record.void[position]) == (entry["pixelCount"], entry["voidIntersection"])
        shared = np.where(record.same_class[position], record.shared[position], 0)
        expected = {gt["instID"]: gt["intersection"] for gt in entry["matchedGt"]}
        assert {int(instance_ids[g]): int(shared[g]) for g in np.flatnonzero(shared)} == expected


def assert_same_scores(scores, table, names):
    for name, row in zip(names, table, strict=True):
        quality = scores.per_class[name]
        assert quality.by_overlap == pytest.approx(row.tolist(), abs=1e-9, nan_ok=True)
        assert quality.ap == pytest.approx(row.mean(), abs=1e-9, nan_ok=True)
        assert quality.ap50 == pytest.approx(row[0], abs=1e-9, nan_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        means = np.nanmean(table), np.nanmean(table[:, 0])
    assert (scores.ap, scores.ap50) == pytest.approx(means, abs=1e-9, nan_ok=True)
    assert scores.classes == tuple(name for name, row in zip(names, table, strict=True) if not np.isnan(row).any())


def box(rng, height=64, width=96):
    tall, wide = rng.integers(4, 30, 2)
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    mask = np.zeros((height, width), bool)
    mask[top : top + tall, left : left + wide] = True
    return mask


def random_frame(rng):
    """Targets, groups, small ones, void, caravans; predictions that fit, are doubled, shifted, on void or empty."""
    ids = np.full((64, 96), 7)
    for position in range(rng.integers(0, 14)):
        kind = rng.random()
        label = rng.choice([PERSON, RIDER, CAR, BICYCLE], p=[0.4, 0.1, 0.4, 0.1])
        value = label * 1000 + position
        if kind > 0.9:
            value = rng.choice([0, 4, 11, CARAVAN, 23])
        elif kind > 0.83:
            value = CARAVAN * 1000 + position
        elif kind > 0.65:
            value = label
        ids[box(rng)] = value
    masks, labels = [], []
    for value in np.unique(ids[ids != 7]):
        for _ in range(rng.integers(0, 4)):
            mask = ids == value
            if rng.random() < 0.6:
                mask = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
            masks.append(mask)
            true_label = value // 1000 if value >= 1000 else value
            guess = true_label if true_label in (PERSON, RIDER, CAR, BICYCLE) and rng.random() < 0.9 else PERSON
            labels.append(guess)
    for _ in range(rng.integers(0, 4)):
        masks.append(box(rng) if rng.random() < 0.8 else np.zeros((64, 96), bool))
        labels.append(rng.choice([PERSON, CAR, 7, 31]))
    stack = np.array(masks, bool).reshape(-1, 64, 96)
    return ids, stack, np.array(labels, int), rng.integers(0, 6, len(masks)) / 5


@pytest.mark.parametrize("seed", range(40))
def test_random_frames(scorer, tmp_path, seed):
    rng = np.random.default_rng(seed)
    frames = [random_frame(rng) for _ in range(rng.integers(1, 5))]
    matches, table = official(scorer, tmp_path, frames)
    for frame, entry in zip(frames, matches, strict=True):
        assert_same_counts(frame, entry)
    names = scorer[1].instLabels
    assert_same_scores(ours(frames), table, names)
    kept = [name for name in names if name in SIXTEEN]
    assert len(kept) == 6
    assert_same_scores(ours(frames, scored_classes=SIXTEEN), table[[names.index(name) for name in kept]], kept)


@pytest.mark.parametrize("min_area", [1, 100, 400])
def test_least_area(scorer, tmp_path, min_area):
    rng = np.random.default_rng(7)
    frames = [random_frame(rng) for _ in range(4)]
    scorer[1].minRegionSizes = np.array([min_area, 1000, 1000])
    _, table = official(scorer, tmp_path, frames)
    assert_same_scores(ours(frames, min_area=min_area), table, scorer[1].instLabels)


def test_whole_script(scorer, tmp_path, monkeypatch):
    """The entry point of the script with its averages (its JSON writer does not know the integers of numpy 2)."""
    module, arguments = scorer
    monkeypatch.setattr(module, "writeDict2JSON", lambda *_: None)
    rng = np.random.default_rng(11)
    frames = [random_frame(rng) for _ in range(6)]
    truths, lists = write(tmp_path, frames)
    averages = module.evaluateImgLists(lists, truths, arguments)["averages"]
    scores = ours(frames)
    assert (scores.ap, scores.ap50) == pytest.approx((averages["allAp"], averages["allAp50%"]), abs=1e-9)
    for name, entry in averages["classes"].items():
        quality = scores.per_class[name]
        assert (quality.ap, quality.ap50) == pytest.approx((entry["ap"], entry["ap50%"]), abs=1e-9, nan_ok=True)


def single(ids, *predictions):
    """A frame with one car in front of everything, and masks of cars with scores."""
    masks = np.array([mask for mask, _ in predictions], bool)
    return ids, masks, np.full(len(masks), CAR), np.array([score for _, score in predictions])


def region(top, bottom, left, right):
    mask = np.zeros((64, 96), bool)
    mask[top:bottom, left:right] = True
    return mask


CAR_AREA = region(0, 20, 0, 20)


def street(**extra):
    """A street with car 26001 in its corner and further regions by instance id."""
    ids = np.full((64, 96), 7)
    ids[CAR_AREA] = CAR * 1000 + 1
    for value, mask in extra.items():
        ids[mask] = int(value[1:])
    return ids


SPECIAL = {
    "two predictions on one target": (
        single(street(), (CAR_AREA, 0.3), (region(0, 20, 0, 18), 0.8)),
        0.8 * 1 + 0.2 * 0.25,
    ),
    "overlap of exactly one half is no match": (single(street(), (region(0, 20, 0, 10), 0.9)), 0.0),
    "half of it on void is a mistake at 0.5 only": (
        single(street(i0=region(30, 40, 0, 10)), (CAR_AREA, 0.5), (region(30, 40, 0, 20), 0.9)),
        None,
    ),
    "void, a caravan and another class": (
        single(
            street(i0=region(30, 40, 0, 5), i29001=region(30, 40, 5, 10), i24001=region(30, 40, 10, 15)),
            (CAR_AREA, 0.5),
            (region(30, 40, 0, 10), 0.9),
            (region(30, 40, 5, 15), 0.8),
        ),
        None,
    ),
    "a plain caravan region is void": (
        single(street(i29=region(30, 40, 0, 10)), (CAR_AREA, 0.5), (region(30, 40, 0, 10), 0.9)),
        1.0,
    ),
    "a group region excuses": (
        single(street(i26=region(30, 60, 0, 60)), (CAR_AREA, 0.5), (region(35, 45, 0, 10), 0.9)),
        1.0,
    ),
    "a group region of another class does not": (
        single(street(i24=region(30, 60, 0, 60)), (CAR_AREA, 0.5), (region(35, 45, 0, 10), 0.9)),
        None,
    ),
    "pixels on a small group region count twice": (
        single(street(i26=region(30, 39, 0, 9)), (CAR_AREA, 0.5), (region(30, 39, 0, 18), 0.9)),
        1.0,
    ),
    "a small target excuses and is not missed": (
        single(street(i26002=region(30, 39, 0, 9)), (CAR_AREA, 0.5), (region(30, 39, 0, 9), 0.9)),
        1.0,
    ),
    "one that is missed": (single(street(i26002=region(30, 40, 0, 10)), (CAR_AREA, 0.5)), 0.5),
    "nothing but ignored predictions": (single(street(i0=region(30, 40, 0, 10)), (region(30, 40, 0, 10), 0.9)), 0.0),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_cases(scorer, tmp_path, name):
    frame, expected = SPECIAL[name]
    matches, table = official(scorer, tmp_path, [frame])
    assert_same_counts(frame, matches[0])
    scores = ours([frame])
    assert_same_scores(scores, table, scorer[1].instLabels)
    if expected is not None:
        assert scores.per_class["car"].ap == pytest.approx(expected, abs=1e-9)


def test_panoptic_frames(scorer, tmp_path):
    """A panoptic prediction scored through its histogram equals its masks scored by the script."""
    rng = np.random.default_rng(5)
    frames, metric = [], CityscapesAveragePrecision(CITYSCAPES)
    for number in range(5):
        ids = random_frame(rng)[0]
        panoptic, segments = np.ones((64, 96), np.int32), []
        for track, value in enumerate(rng.permutation(np.unique(ids[ids >= 1000])), 256):
            mask = np.roll(ids == value, rng.integers(-2, 3, 2), (0, 1)) if rng.random() < 0.8 else box(rng)
            panoptic[mask] = track
            category = int(TRAIN_IDS[value // 1000 if value // 1000 != CARAVAN else CAR])
            segments.append(Segment(track, category, True, int(rng.integers(0, 6)) / 5, 0, (0, 0, 0, 0)))
        semantic, instance = semantic_and_instance(ids)
        frame = PanopticFrame(number, 0.0, semantic, panoptic, tuple(segments))
        metric.update(number, overlaps_of_frame(frame, semantic, instance, CITYSCAPES))
        masks = np.array([panoptic == segment.id for segment in segments])
        labels = np.array([LABEL_IDS[segment.category] for segment in segments])
        frames.append((ids, masks, labels, np.array([segment.score for segment in segments])))
    _, table = official(scorer, tmp_path, frames)
    assert np.nanmean(table) > 0.1
    assert_same_scores(metric.result(), table, scorer[1].instLabels)
