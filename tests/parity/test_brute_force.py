"""PQ, VPQ, STQ, mIoU and id switches against slow definitions written from the rules, on random videos."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidapt.clip import PanopticFrame, Segment
from vidapt.evaluation.runner import VideoEvaluator
from vidapt.labels import LabelClass, LabelSpace

THINGS = (3, 4)
SPACE = LabelSpace("toy", tuple(LabelClass(name, name in "xy", (0, 0, i)) for i, name in enumerate("abcxy")))
CLASSES = len(SPACE)
WINDOWS = (1, 2, 3)


def random_video(rng, frames, height=6, width=8):
    """Frames of (panoptic ids, category of each id, predicted semantic, target semantic, target instance).

    The prediction is the target with errors, so that matches, misses, void, crowds, class changes and holes all occur.
    """
    semantic = rng.integers(0, CLASSES, (height // 2, width // 2)).repeat(2, 0).repeat(2, 1)
    instance = rng.integers(0, 3, (height // 2, width // 2)).repeat(2, 0).repeat(2, 1)
    for _ in range(frames):
        noise = rng.random((height, width))
        target = np.where(noise < 0.1, rng.integers(0, CLASSES, (height, width)), semantic)
        tracks = np.where(np.isin(target, THINGS), instance, 0)
        guess = np.where(noise > 0.85, rng.integers(0, CLASSES, (height, width)), target)
        thing = np.isin(guess, THINGS)
        lost = 5 * int(rng.random() < 0.3)
        ids = np.where(thing, 256 + instance + 10 * guess + lost + (noise > 0.95), guess + 1)
        ids[rng.random((height, width)) < 0.1] = 0
        category = {int(i): int(i) - 1 if i < 256 else int(rng.choice(THINGS)) for i in np.unique(ids) if i}
        target = target.copy()
        target[rng.random((height, width)) < 0.15] = 255
        if rng.random() < 0.3:
            target[:, : width // 2] = 255
        yield ids, category, guess, target, tracks


def panoptic_frame(index, ids, category, guess):
    segments = tuple(Segment(i, c, i >= 256, 1.0, int((ids == i).sum()), (0, 0, 1, 1)) for i, c in category.items())
    return PanopticFrame(index, float(index), guess.astype(np.uint8), ids.astype(np.int32), segments)


def tubes_of(frames):
    """Sets of pixels (time, row, column): targets, predictions, void, crowds; and the class of each prediction."""
    targets, predictions, void, crowd = {}, {}, set(), {c: set() for c in THINGS}
    predicted_class = {}
    for time, (ids, category, _, semantic, tracks) in enumerate(frames):
        for (row, column), label in np.ndenumerate(semantic):
            pixel = (time, row, column)
            if label == 255:
                void.add(pixel)
            elif label in THINGS and tracks[row, column] == 0:
                crowd[label].add(pixel)
            else:
                targets.setdefault((label, tracks[row, column]), set()).add(pixel)
            panoptic_id = int(ids[row, column])
            if panoptic_id:
                predictions.setdefault(panoptic_id, set()).add(pixel)
                predicted_class.setdefault(panoptic_id, category[panoptic_id])
    return targets, predictions, void, crowd, predicted_class


def slow_panoptic_counts(frames):
    """Σ IoU, TP, FP, FN per class of one window."""
    targets, predictions, void, crowd, predicted_class = tubes_of(frames)
    counts = np.zeros((4, CLASSES))
    hit_targets, hit_predictions = set(), set()
    for target, pixels in targets.items():
        for prediction, others in predictions.items():
            iou = len(pixels & others) / len((pixels | others) - (void & others))
            if predicted_class[prediction] == target[0] and iou > 0.5:
                counts[:2, target[0]] += iou, 1
                hit_targets.add(target)
                hit_predictions.add(prediction)
    for prediction, pixels in predictions.items():
        ignored = void | crowd.get(predicted_class[prediction], set())
        if prediction not in hit_predictions and len(pixels & ignored) <= len(pixels) / 2:
            counts[2, predicted_class[prediction]] += 1
    for target in targets.keys() - hit_targets:
        counts[3, target[0]] += 1
    return counts


def pixels_of(video):
    """Yield (target class, target track, predicted class, panoptic id) of every pixel; void is 255 on both sides."""
    for ids, category, _, semantic, instance in video:
        for position, label in np.ndenumerate(semantic):
            panoptic_id = int(ids[position])
            yield int(label), int(instance[position]), category.get(panoptic_id, 255), panoptic_id


def slow_association(videos):
    """AQ by dictionaries of pixel counts."""
    total, tracks = 0.0, 0
    for video in videos:
        target_size, predicted_size, shared = Counter(), Counter(), Counter()
        for label, track, guess, panoptic_id in pixels_of(video):
            if label in THINGS and track == 0:
                continue
            target_size[label, track] += label in THINGS
            predicted_size[guess, panoptic_id] += guess in THINGS
            shared[label, track, guess, panoptic_id] += label in THINGS and guess in THINGS
        tracks += len(+target_size)
        for (*target, guess, panoptic_id), both in (+shared).items():
            size = target_size[tuple(target)]
            total += both / size * both / (size + predicted_size[guess, panoptic_id] - both)
    return total / tracks if tracks else float("nan")


def slow_segmentation(videos):
    """SQ of STQ: mean IoU of the panoptic maps, where void on labelled pixels is one more class of IoU 0."""
    shared, targets, predictions = Counter(), Counter(), Counter()
    for label, _, guess, _ in (pixel for video in videos for pixel in pixels_of(video)):
        if label != 255:
            targets[label] += 1
            predictions[guess] += 1
            shared[label] += label == guess
    classes = targets.keys() | predictions.keys()
    ious = [shared[c] / (targets[c] + predictions[c] - shared[c]) for c in classes]
    return np.mean(ious) if ious else float("nan")


def slow_id_switches(video):
    switches, last = 0, {}
    for ids, _, _, semantic, instance in video:
        void = semantic == 255
        for track in {(c, i) for c in THINGS for i in np.unique(instance[semantic == c]) if i}:
            pixels = (semantic == track[0]) & (instance == track[1])
            for panoptic_id in np.unique(ids[ids >= 256]):
                others = ids == panoptic_id
                if (pixels & others).sum() / ((pixels | others) & ~(void & others)).sum() > 0.5:
                    switches += last.get(track, panoptic_id) != panoptic_id
                    last[track] = panoptic_id
    return switches


def score(videos):
    evaluator = VideoEvaluator(SPACE, windows=WINDOWS, long_windows=(1, 4))
    for video in videos:
        for index, (ids, category, guess, semantic, instance) in enumerate(video):
            evaluator.update(
                panoptic_frame(index, ids, category, guess), semantic.astype(np.uint8), instance.astype(np.int32)
            )
        evaluator.end_video()
    return evaluator.result()


def draw_videos(seed, lengths):
    rng = np.random.default_rng(seed)
    return [list(random_video(rng, length)) for length in lengths]


videos = st.builds(draw_videos, st.integers(0, 2**32 - 1), st.lists(st.integers(1, 5), min_size=1, max_size=3))


@settings(max_examples=25, deadline=None)
@given(videos)
def test_panoptic_counts_of_every_window(videos):
    scores = score(videos)
    for length in (*WINDOWS, 4):
        windows = [video[i : i + length] for video in videos for i in range(len(video) - length + 1)]
        iou, tp, fp, fn = sum((slow_panoptic_counts(window) for window in windows), np.zeros((4, CLASSES)))
        found = scores.vpq_windows[length]
        per_class = list(found.per_class.values())
        assert [(c.tp, c.fp, c.fn) for c in per_class] == list(zip(tp, fp, fn, strict=True))
        weight = tp + fp / 2 + fn / 2
        pq = np.divide(iou, weight, out=np.full(CLASSES, np.nan), where=weight > 0)
        np.testing.assert_allclose([c.pq for c in per_class], pq, atol=1e-9)
        for part, classes in (("all", range(CLASSES)), ("things", THINGS), ("stuff", range(3))):
            defined = [pq[c] for c in classes if weight[c] > 0]
            expected = np.mean(defined) if defined else np.nan
            assert getattr(found, part).pq == pytest.approx(expected, abs=1e-9, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(videos)
def test_tracking_quality_and_switches(videos):
    scores = score(videos)
    aq, sq = slow_association(videos), slow_segmentation(videos)
    assert scores.aq == pytest.approx(aq, abs=1e-9, nan_ok=True)
    assert scores.stq_sq == pytest.approx(sq, abs=1e-9, nan_ok=True)
    assert scores.stq == pytest.approx(np.sqrt(aq * sq), abs=1e-9, nan_ok=True)
    assert scores.id_switches == sum(slow_id_switches(video) for video in videos)


@settings(max_examples=25, deadline=None)
@given(videos)
def test_mean_iou(videos):
    scores = score(videos)
    frames = [frame for video in videos for frame in video]
    ious = []
    for c in range(CLASSES):
        shared = sum(((guess == c) & (semantic == c)).sum() for _, _, guess, semantic, _ in frames)
        either = sum(
            (((guess == c) | (semantic == c)) & (semantic != 255)).sum() for _, _, guess, semantic, _ in frames
        )
        ious.append(shared / either if either else np.nan)
    np.testing.assert_allclose(list(scores.iou.values()), ious, atol=1e-9)
    assert scores.miou == pytest.approx(np.nanmean(ious), abs=1e-9)


def test_random_videos_exercise_every_rule():
    """The oracles compare something: matches, misses, false alarms, switches and long windows all occur."""
    scores = score(draw_videos(0, [5, 5, 5]))
    for length in (*WINDOWS, 4):
        counts = scores.vpq_windows[length].per_class.values()
        assert min(sum(c.tp for c in counts), sum(c.fp for c in counts), sum(c.fn for c in counts)) > 3
    assert scores.id_switches > 0
    assert 0.05 < scores.aq < 0.95
