"""PQ counts against cityscapesscripts (the rules of panopticapi), run live on PNG and JSON in the COCO format."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from vidapt.clip import IGNORE
from vidapt.evaluation.histogram import joint_histogram, predicted_codes, target_codes, unscored_codes
from vidapt.evaluation.panoptic import PanopticCounts, count_matches, panoptic_scores
from vidapt.evaluation.semantic import ScoredClasses
from vidapt.labels import CITYSCAPES

THINGS, STUFF = CITYSCAPES.things, CITYSCAPES.stuff
CLASSES = len(CITYSCAPES)
SHAPE = (32, 48)


@pytest.fixture
def scorer():
    return pytest.importorskip("cityscapesscripts.evaluation.evalPanopticSemanticLabeling")


def random_target(rng):
    """Train ids and instance ids with void, crowds (at most one segment by class) and small and large objects."""
    semantic = rng.choice(STUFF[:4], (SHAPE[0] // 8, SHAPE[1] // 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    instance = np.zeros(SHAPE, np.int32)
    for number in range(1, 13):
        top, left = rng.integers(0, SHAPE[0] - 2), rng.integers(0, SHAPE[1] - 2)
        box = np.s_[top : top + rng.integers(2, 12), left : left + rng.integers(2, 12)]
        semantic[box] = rng.choice(THINGS[:3]) if rng.random() < 0.8 else IGNORE
        instance[box] = 0 if rng.random() < 0.25 else number
    semantic[rng.random(SHAPE) < 0.05] = IGNORE
    return semantic, np.where(np.isin(semantic, THINGS), instance, 0)


def random_prediction(rng, semantic, instance):
    """Panoptic ids and the class of each thing id: the target moved, with pixels, classes and whole objects wrong."""
    thing = np.isin(semantic, THINGS)
    labelled = np.where(semantic == IGNORE, rng.choice(STUFF[:4]), semantic).astype(np.int32)
    ids = np.where(thing, 256 + 20 * labelled + instance, labelled + 1)
    ids = np.roll(ids, rng.integers(-1, 2, 2), (0, 1))
    noise = rng.random(SHAPE)
    ids = np.where(noise < 0.1, rng.choice(STUFF[:5], SHAPE) + 1, ids)
    ids = np.where((noise > 0.1) & (noise < 0.2), 0, ids)
    for _ in range(4):
        top, left = rng.integers(0, SHAPE[0] - 2), rng.integers(0, SHAPE[1] - 2)
        ids[top : top + rng.integers(2, 8), left : left + rng.integers(2, 8)] = rng.choice([0, *range(700, 705)])
    categories = {}
    for panoptic_id in np.unique(ids[ids >= 256]).tolist():
        known = (panoptic_id - 256) // 20 if panoptic_id < 700 else rng.choice(THINGS[:3])
        categories[panoptic_id] = int(known if rng.random() < 0.9 else rng.choice(THINGS[:3]))
    return ids, categories


def write_png(path, ids):
    """Ids as colours: R + 256 G + 65536 B."""
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(path)


def target_record(number, semantic, instance, dropped=()):
    """Ids of the official PNG and its JSON annotation; segments of ``dropped`` classes are left out of the latter."""
    ids = np.where(instance > 0, 26_000 + 100 * semantic.astype(np.int32) + instance, semantic.astype(np.int32) + 7)
    ids[semantic == IGNORE] = 0
    segments = []
    for segment in np.unique(ids[ids > 0]).tolist():
        pixels = ids == segment
        category = int(semantic[pixels][0])
        crowd = category in THINGS and not instance[pixels].any()
        record = {"id": segment, "category_id": category, "area": int(pixels.sum()), "iscrowd": int(crowd)}
        if category not in dropped:
            segments.append(record)
    return ids, {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}


def predicted_record(number, ids, categories):
    segments = [
        {"id": segment, "category_id": categories.get(segment, segment - 1)}
        for segment in np.unique(ids[ids > 0]).tolist()
    ]
    return {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}


def frames_of(seed, count):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        semantic, instance = random_target(rng)
        yield semantic, instance, *random_prediction(rng, semantic, instance)


def official_counts(scorer, folder, frames, dropped=()):
    """Write the frames and let the official function count them in this process."""
    pairs = []
    for side in ("truth", "prediction"):
        (folder / side).mkdir()
    for number, (semantic, instance, ids, categories) in enumerate(frames):
        target_ids, annotation = target_record(number, semantic, instance, dropped)
        write_png(folder / "truth" / f"{number}.png", target_ids)
        write_png(folder / "prediction" / f"{number}.png", ids)
        pairs.append((annotation, predicted_record(number, ids, categories)))
    known = {index: {"id": index, "isthing": int(label.is_thing)} for index, label in enumerate(CITYSCAPES.classes)}
    pairs = json.loads(json.dumps(pairs))
    with contextlib.redirect_stdout(io.StringIO()):
        counts = scorer.pq_compute_single_core(0, pairs, folder / "truth", folder / "prediction", known)
    return counts, known


def our_counts(frames, dropped=()):
    counts = PanopticCounts.zeros(CLASSES)
    for semantic, instance, ids, categories in frames:
        target = target_codes(semantic, instance, CITYSCAPES.is_thing)
        target = np.where(np.isin(semantic, dropped), unscored_codes(target), target)
        histogram = joint_histogram(target, predicted_codes(ids, categories, CLASSES))
        counts += count_matches(histogram, CITYSCAPES.is_thing, CLASSES)
    return counts


@pytest.mark.parametrize("seed", range(8))
def test_counts_and_means(scorer, tmp_path, seed):
    frames = list(frames_of(seed, 4))
    official, known = official_counts(scorer, tmp_path, frames)
    counts = our_counts(frames)
    for index in range(CLASSES):
        expected = official[index]
        assert (counts.tp[index], counts.fp[index], counts.fn[index]) == (expected.tp, expected.fp, expected.fn)
        assert counts.iou[index] == pytest.approx(expected.iou, abs=1e-9)
    scores, results = panoptic_scores(counts, ScoredClasses.of(CITYSCAPES)), scorer.average_pq(official, known)
    for part, name in (("all", "All"), ("things", "Things"), ("stuff", "Stuff")):
        ours = getattr(scores, part)
        assert len(ours.classes) == results[name]["n"]
        assert (ours.pq, ours.sq, ours.rq) == pytest.approx(
            [results[name][key] for key in ("pq", "sq", "rq")], abs=1e-9
        )
    for index, name in enumerate(CITYSCAPES.names):
        quality = scores.per_class[name]
        if not np.isnan(quality.pq):
            assert results["per_class"][index] == pytest.approx(
                {"pq": quality.pq, "sq": quality.sq, "rq": quality.rq}, abs=1e-9
            )


@pytest.mark.parametrize("seed", range(4))
def test_classes_removed_from_the_json_only(scorer, tmp_path, seed):
    """Convention of CVRN: the pixels stay in the PNG, so they are neither void nor scored."""
    dropped = (STUFF[1], THINGS[0])
    frames = list(frames_of(100 + seed, 4))
    official, _ = official_counts(scorer, tmp_path, frames, dropped)
    counts = our_counts(frames, dropped)
    assert counts.fn[list(dropped)].sum() == 0
    for index in range(CLASSES):
        expected = official[index]
        assert (counts.tp[index], counts.fp[index], counts.fn[index]) == (expected.tp, expected.fp, expected.fn)
        assert counts.iou[index] == pytest.approx(expected.iou, abs=1e-9)


def test_random_scenes_exercise_every_rule():
    """Matches, misses, false alarms, and false alarms that void or a crowd excuses all occur in number."""
    frames = [frame for seed in range(8) for frame in frames_of(seed, 4)]
    counts = our_counts(frames)
    assert min(counts.tp.sum(), counts.fp.sum(), counts.fn.sum()) > 100
    predicted_segments = sum(np.unique(ids[ids > 0]).size for _, _, ids, _ in frames)
    assert predicted_segments - counts.tp.sum() - counts.fp.sum() > 20
    crowds = sum(((np.isin(semantic, THINGS)) & (instance == 0)).any() for semantic, instance, _, _ in frames)
    assert crowds > 20
