"""Average precision of instances against pycocotools and faster-coco-eval, run live, and values of two test suites."""

import contextlib
import dataclasses
import io

import numpy as np
import pytest

from vidapt.evaluation.instance import CocoAveragePrecision, CocoQuality, InstanceOverlaps, overlaps_of_masks
from vidapt.labels import LabelClass, LabelSpace

SPACE = LabelSpace("toy", tuple(LabelClass(name, name != "road", (0, 0, i)) for i, name in enumerate(("road", *"abc"))))
THINGS = (1, 2, 3)
SCORERS = ("pycocotools", "faster-coco-eval")
FIELDS = tuple(field.name for field in dataclasses.fields(CocoQuality))


class Image:
    """Masks bool (N,H,W), classes and flags of targets and predictions; either may overlap among themselves."""

    def __init__(self, target_masks, target_category, crowd, masks, category, score):
        self.target_masks, self.masks = np.asarray(target_masks, bool), np.asarray(masks, bool)
        self.target_category, self.category = np.asarray(target_category, int), np.asarray(category, int)
        self.crowd, self.score = np.asarray(crowd, bool), np.asarray(score, float)

    def overlaps(self):
        targets, masks = (
            stack.reshape(len(stack), np.prod(stack.shape[1:])).astype(int) for stack in (self.target_masks, self.masks)
        )
        return InstanceOverlaps(
            self.category,
            self.score,
            masks.sum(1),
            np.zeros(len(masks), int),
            np.arange(1, len(targets) + 1),
            self.target_category,
            targets.sum(1),
            self.crowd,
            masks @ targets.T,
        )


def ours(images):
    metric = CocoAveragePrecision(SPACE)
    for number, image in images.items():
        metric.update(number, image.overlaps())
    return metric.result()


def classes_of(scorer):
    """The scorer's class of annotations and its class of evaluation."""
    if scorer == "pycocotools":
        return pytest.importorskip("pycocotools.coco").COCO, pytest.importorskip("pycocotools.cocoeval").COCOeval
    module = pytest.importorskip("faster_coco_eval")
    return module.COCO, module.COCOeval_faster


def annotations(masks, category, **columns):
    coding, rows = pytest.importorskip("pycocotools.mask"), []
    for position, mask in enumerate(masks):
        code = coding.encode(np.asfortranarray(mask.astype(np.uint8)))
        row = {"segmentation": code, "area": int(mask.sum()), "category_id": int(category[position]), "iscrowd": 0}
        row["bbox"] = coding.toBbox(code).tolist()
        rows.append(row | {name: values[position].item() for name, values in columns.items()})
    return rows


def official(scorer, images):
    """The scorer after ``accumulate`` and ``summarize``."""
    make, evaluator = classes_of(scorer)
    shape = next(iter(images.values())).masks.shape[1:]
    header = {
        "images": [{"id": number, "height": shape[0], "width": shape[1]} for number in images],
        "categories": [{"id": index, "name": SPACE.names[index]} for index in THINGS],
    }
    sides = ([], [])
    for number, image in images.items():
        target = annotations(image.target_masks, image.target_category, iscrowd=image.crowd.astype(int))
        predicted = annotations(image.masks, image.category, score=image.score)
        for side, rows in zip(sides, (target, predicted), strict=True):
            side.extend(row | {"image_id": number} for row in rows)
    loaded = []
    with contextlib.redirect_stdout(io.StringIO()):
        for side in sides:
            coco = make()
            coco.dataset = header | {"annotations": [row | {"id": i} for i, row in enumerate(side, 1)]}
            coco.createIndex()
            loaded.append(coco)
        evaluation = evaluator(*loaded, iouType="segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal(scores, evaluation):
    def undefined(value):
        return np.nan if value == -1 else value

    assert [getattr(scores.all, name) for name in FIELDS] == pytest.approx(
        [undefined(value) for value in evaluation.stats[:12]], abs=1e-9, nan_ok=True
    )
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    for position, index in enumerate(THINGS):
        quality = scores.per_class[SPACE.names[index]]
        at = np.asarray(precision)[..., position, :, 2]
        by_range = at.mean((0, 1))
        expected = [by_range[0], at[0, :, 0].mean(), at[5, :, 0].mean(), *by_range[1:]]
        rates = np.asarray(recall)[:, position].mean(0)
        expected += [*rates[0], *rates[1:, 2]]
        values = [undefined(value) for value in expected]
        assert [getattr(quality, name) for name in FIELDS] == pytest.approx(values, abs=1e-9, nan_ok=True)


def rectangle(rng, size, smallest=1):
    """A bool mask with one rectangle, often with sides on the borders of the area ranges."""
    sides = rng.choice([*rng.integers(smallest, size, 4), 32, 96, 33, 95], 2)
    height, width = np.clip(sides, smallest, size)
    top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
    mask = np.zeros((size, size), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def noisy(rng, mask):
    """The mask shifted, cut or left as it is."""
    kind = rng.integers(4)
    if kind == 0:
        return mask.copy()
    if kind == 1:
        return np.roll(mask, rng.integers(-6, 7, 2), (0, 1))
    kept = mask.copy()
    rows = np.flatnonzero(mask.any(1))
    kept[rows[: int(rng.integers(0, rows.size // 2 + 2))]] = False
    return kept


def random_image(rng, size=112):
    targets = [rectangle(rng, size) for _ in range(rng.integers(0, 6))]
    category = rng.choice(THINGS, len(targets))
    crowd = rng.random(len(targets)) < 0.2
    masks, classes = [], []
    for mask, index in zip(targets, category, strict=True):
        for _ in range(rng.integers(0, 4)):
            masks.append(noisy(rng, mask))
            classes.append(index if rng.random() < 0.9 else rng.choice(THINGS))
    for _ in range(rng.integers(0, 3)):
        masks.append(rectangle(rng, size) if rng.random() < 0.8 else np.zeros((size, size), bool))
        classes.append(rng.choice(THINGS))
    order = rng.permutation(len(masks))
    empty = np.zeros((0, size, size), bool)
    return Image(
        np.array(targets) if targets else empty,
        category,
        crowd,
        np.array(masks)[order] if masks else empty,
        np.array(classes, int)[order],
        rng.integers(0, 8, len(masks)) / 7,
    )


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("seed", range(40))
def test_random_images(scorer, seed):
    """Ties of score and IoU, crowds, overlapping masks, empty images and predictions, sizes on the range borders."""
    rng = np.random.default_rng(seed)
    images = {int(number): random_image(rng) for number in rng.permutation(9)[: rng.integers(1, 8)]}
    assert_equal(ours(images), official(scorer, images))


@pytest.mark.parametrize("scorer", SCORERS)
def test_more_predictions_than_count(scorer):
    """Only the first 1, 10 and 100 predictions of a class count in each image."""
    rng = np.random.default_rng(3)
    images = {}
    for number in range(2):
        targets = np.zeros((40, 64, 64), bool)
        for position in range(40):
            top, left = divmod(position, 8)
            targets[position, top * 8 : top * 8 + 7, left * 8 : left * 8 + 7] = True
        masks = np.concatenate([targets, targets, np.roll(targets, 1, 2), np.roll(targets, 3, 1)])
        category = np.where(rng.random(160) < 0.8, 1, 2)
        images[number] = Image(targets, np.ones(40), np.zeros(40), masks, category, rng.integers(0, 40, 160) / 40)
    assert (np.bincount(images[0].category) > 100).any()
    assert_equal(ours(images), official(scorer, images))


@pytest.mark.parametrize("scorer", SCORERS)
def test_equal_overlaps(scorer):
    """A prediction over two targets, half of it on each: the IoU is exactly 0.5 with both, and the later one is taken.

    The next prediction tells which one was taken.
    """
    targets = np.zeros((2, 20, 20), bool)
    targets[0, :10], targets[1, 10:] = True, True
    masks = np.stack([np.ones((20, 20), bool), targets[1], targets[0]])
    images = {0: Image(targets, [1, 1], [False, False], masks, [1, 1, 1], [0.9, 0.8, 0.7])}
    assert_equal(ours(images), official(scorer, images))
    assert ours(images).ap50 == pytest.approx((51 * 1 + 50 * 2 / 3) / 101, abs=1e-9)


@pytest.mark.parametrize("scorer", SCORERS)
def test_crowd_takes_many_and_counts_for_nothing(scorer):
    targets = np.zeros((2, 64, 64), bool)
    targets[0, :40, :40], targets[1, 44:60, 44:60] = True, True
    masks = np.zeros((4, 64, 64), bool)
    masks[0, :10, :10] = masks[1, 10:20, 10:20] = masks[2, 35:45, :10] = True
    masks[3] = targets[1]
    images = {0: Image(targets, [1, 1], [True, False], masks, [1] * 4, [0.9, 0.8, 0.7, 0.6])}
    assert_equal(ours(images), official(scorer, images))
    # The third lies on the crowd region with exactly half of its pixels: ignored at 0.5, wrong above.
    assert ours(images).ap50 == pytest.approx(1.0, abs=1e-9)
    assert ours(images).all.ap75 == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("seed", range(10))
def test_label_maps(scorer, seed):
    """Records made from semantic and instance maps: targets never overlap, one crowd region per class."""
    rng = np.random.default_rng(100 + seed)
    metric, images = CocoAveragePrecision(SPACE), {}
    for number in range(4):
        semantic, instance = np.zeros((112, 112), np.uint8), np.zeros((112, 112), np.int32)
        for track in range(1, rng.integers(1, 8)):
            place = rectangle(rng, 112)
            semantic[place] = rng.choice([0, 1, 2, 3, 255])
            instance[place] = 0 if rng.random() < 0.2 else track
        predicted = random_image(rng)
        targets = [noisy(rng, instance == track) for track in np.unique(instance)[1:]]
        masks = np.concatenate([predicted.masks, np.array(targets, bool).reshape(-1, 112, 112)])
        category = np.concatenate([predicted.category, rng.choice(THINGS, len(targets))])
        score = np.concatenate([predicted.score, rng.integers(0, 8, len(targets)) / 7])
        metric.update(number, overlaps_of_masks(masks, score, category, semantic, instance, SPACE))

        keys = sorted({(int(t), int(c)) for t, c in zip(instance.flat, semantic.flat, strict=True) if c in THINGS})
        stack = [(semantic == c) & (instance == t) for t, c in keys]
        images[number] = Image(
            np.array(stack, bool).reshape(-1, 112, 112),
            [c for _, c in keys],
            [t == 0 for t, _ in keys],
            masks,
            category,
            score,
        )
    assert_equal(metric.result(), official(scorer, images))


BDD100K = LabelSpace("bdd100k", tuple(LabelClass(name, True, (0, 0, 0)) for name in ("pedestrian", "rider", "car")))


def test_bdd100k_instance_segmentation():
    """The picture of tests/eval/ins_seg_test.py of bdd100k, which is made of rectangles, and its expected values."""
    semantic, instance = np.full((100, 100), 255, np.uint8), np.zeros((100, 100), np.int32)
    regions = {
        1: (0, 0, 10, 0, 10),
        2: (1, 20, 40, 10, 20),
        3: (2, 20, 40, 20, 30),
        4: (2, 40, 60, 10, 30),
        5: (2, 40, 60, 30, 40),
        6: (2, 60, 70, 50, 60),
    }
    for track, (category, top, bottom, left, right) in regions.items():
        semantic[top:bottom, left:right], instance[top:bottom, left:right] = category, track
    predictions = [
        (0, 0.4, 0, 10, 0, 10),
        (1, 0.9, 20, 40, 10, 19),
        (2, 0.8, 20, 40, 20, 27),
        (2, 0.9, 40, 60, 10, 22),
        (2, 0.9, 40, 60, 30, 35),
        (2, 0.9, 60, 70, 50, 54),
    ]
    masks = np.zeros((6, 100, 100), bool)
    for mask, (*_, top, bottom, left, right) in zip(masks, predictions, strict=True):
        mask[top:bottom, left:right] = True
    categories, scores = zip(*(row[:2] for row in predictions), strict=True)
    metric = CocoAveragePrecision(BDD100K)
    metric.update("a", overlaps_of_masks(masks, scores, categories, semantic, instance, BDD100K))
    result = metric.result()
    expected = [68.60561056105611, 89.68646864686468, 66.66666666666666, 68.60561056105611, np.nan, np.nan]
    expected += [65.83333333333333, 70.83333333333334, 70.83333333333334, 70.83333333333334, np.nan, np.nan]
    values = [100 * getattr(result.all, name) for name in FIELDS]
    assert values == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert [100 * quality.ap for quality in result.per_class.values()] == pytest.approx(
        [99.99999999999997, 89.99999999999999, 15.816831683168317], abs=1e-9
    )


SCALABEL = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
SCALABEL_TARGETS = (
    ("car", 558),
    ("truck", 8019),
    ("pedestrian", 1114),
    ("pedestrian", 3181),
    ("car", 98112),
    ("bicycle", 5726),
    ("rider", 16387),
    ("car", 160907),
)
SCALABEL_PREDICTIONS = (
    ("pedestrian", 0.9980953335762024, 3604, {3: 3124}),
    ("pedestrian", 0.9632401466369629, 792, {2: 774}),
    ("pedestrian", 0.39028117060661316, 1418, {5: 117, 6: 1028}),
    ("pedestrian", 0.30812525749206543, 27, {2: 3}),
    ("pedestrian", 0.13038328289985657, 538, {}),
    ("pedestrian", 0.12661516666412354, 21, {2: 20}),
    ("pedestrian", 0.11016431450843811, 119, {6: 104}),
    ("pedestrian", 0.10518603026866913, 56, {5: 7, 6: 45}),
    ("rider", 0.9772478938102722, 14412, {5: 410, 6: 13107}),
    ("car", 0.9986220598220825, 158637, {0: 18, 2: 160, 4: 32, 5: 286, 6: 259, 7: 156976}),
    ("car", 0.3353305757045746, 1602, {7: 1320}),
    ("car", 0.3214457035064697, 9, {7: 4}),
    ("car", 0.2506566047668457, 58, {6: 8}),
    ("car", 0.14493776857852936, 1, {7: 1}),
    ("car", 0.08681332319974899, 176, {1: 3, 7: 173}),
    ("car", 0.08194609731435776, 235, {7: 73}),
    ("car", 0.07607845962047577, 28, {7: 28}),
    ("truck", 0.9946066737174988, 7590, {1: 7001, 7: 532}),
    ("truck", 0.8195652961730957, 97776, {4: 94327, 7: 393}),
    ("truck", 0.08712591230869293, 1591, {0: 199, 4: 869, 7: 268}),
    ("truck", 0.05050928518176079, 2410, {1: 523, 7: 85}),
    ("bus", 0.43470826745033264, 2109, {4: 1292, 7: 14}),
    ("bicycle", 0.9187692999839783, 6859, {5: 4740, 6: 803}),
    ("bicycle", 0.4521186053752899, 1, {6: 1}),
    ("bicycle", 0.232014998793602, 5, {6: 4, 7: 1}),
    ("bicycle", 0.0856066420674324, 132, {5: 1, 6: 131}),
    ("bicycle", 0.06920666247606277, 5, {2: 4}),
    ("bicycle", 0.05569848045706749, 32, {}),
)
"""Class, score, area and pixels shared with each target, counted in tests/eval/testcases/ins_seg of scalabel."""


def test_scalabel_instance_segmentation():
    """Expected values of tests/eval/ins_seg_test.py of scalabel, from the pixel counts of its sample."""
    space = LabelSpace("scalabel", tuple(LabelClass(name, True, (0, 0, 0)) for name in SCALABEL))
    category, score, area, pixels = zip(*SCALABEL_PREDICTIONS, strict=True)
    target_category, target_area = zip(*SCALABEL_TARGETS, strict=True)
    overlaps = InstanceOverlaps(
        np.array([space.index(name) for name in category]),
        np.array(score),
        np.array(area),
        np.zeros(len(area), int),
        np.arange(1, len(target_area) + 1),
        np.array([space.index(name) for name in target_category]),
        np.array(target_area),
        np.zeros(len(target_area), bool),
        np.array([[shared.get(position, 0) for position in range(len(target_area))] for shared in pixels]),
    )
    metric = CocoAveragePrecision(space)
    metric.update("80985724-bc3fece0", overlaps)
    scores = metric.result()
    expected = [48.77227722772277, 86.73267326732673, 36.83168316831682, 0.0, 53.399339933993396, 50.247524752475236]
    expected += [44.66666666666667, 48.66666666666667, 48.66666666666667, 0.0, 53.333333333333336, 50.0]
    assert [100 * getattr(scores.all, name) for name in FIELDS] == pytest.approx(expected, abs=1e-9)
    by_class = [60.198019801980195, 49.99999999999999, 33.66336633663366, 69.99999999999999]
    by_class += [np.nan, np.nan, np.nan, 29.999999999999993]
    values = [100 * quality.ap for quality in scores.per_class.values()]
    assert values == pytest.approx(by_class, abs=1e-9, nan_ok=True)
    assert scores.classes == ("pedestrian", "rider", "car", "truck", "bicycle")
