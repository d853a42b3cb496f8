"""IoU and iIoU of classes and categories against cityscapesscripts, run live on files in the official format."""

import copy
import warnings

import numpy as np
import pytest
from PIL import Image

from vidapt.clip import IGNORE
from vidapt.evaluation.instance_weighted import InstanceWeightedIou
from vidapt.evaluation.semantic import ScoredClasses, SemanticConfusion, category_scores
from vidapt.labels import CITYSCAPES, LabelClass, LabelSpace, find_space

HEIGHT, WIDTH = 24, 40


@pytest.fixture
def scorer(monkeypatch):
    """The official script with the name that numpy 2.4 has dropped, and parameters that print and write nothing."""
    if not hasattr(np, "in1d"):
        monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    arguments = copy.copy(module.args)
    arguments.quiet, arguments.JSONOutput = True, False
    return module, arguments


@pytest.fixture
def labels():
    """The official label table without the license plate, by label id 0..33."""
    module = pytest.importorskip("cityscapesscripts.helpers.labels")
    return [label for label in module.labels if label.id >= 0]


@pytest.fixture
def raw_space(labels):
    """The label space of raw ids that the official table describes; ids that it ignores are void."""
    return LabelSpace(
        "raw",
        tuple(
            LabelClass(label.name, label.hasInstances, label.color, is_void=label.ignoreInEval, group=label.category)
            for label in labels
        ),
    )


def scene(rng, ids, things):
    """Instance ids in the official encoding and a prediction of raw ids, wrong in patches; small and large objects."""
    truth = rng.choice(ids, (HEIGHT // 4, WIDTH // 5)).repeat(4, 0).repeat(5, 1).astype(np.int32)
    for number in range(12):
        top, left = rng.integers(0, HEIGHT - 3), rng.integers(0, WIDTH - 3)
        height, width = rng.integers(1, 9, 2)
        label = int(rng.choice(things))
        group = rng.random() < 0.2
        truth[top : top + height, left : left + width] = label if group else label * 1000 + number
    predicted = np.where(truth >= 1000, truth // 1000, truth)
    wrong = rng.random((HEIGHT, WIDTH)) < rng.choice([0.05, 0.4])
    predicted = np.where(wrong, rng.choice(ids, (HEIGHT, WIDTH)), predicted)
    return truth, predicted.astype(np.uint8)


def write(folder, number, truth, predicted):
    """Label, instance and prediction PNGs of a frame; returns the paths of prediction and labels."""
    stem = f"aachen_{number:06d}_000019"
    paths = str(folder / f"{stem}_pred.png"), str(folder / f"{stem}_gtFine_labelIds.png")
    Image.fromarray(predicted).save(paths[0])
    Image.fromarray(np.where(truth >= 1000, truth // 1000, truth).astype(np.uint8)).save(paths[1])
    Image.fromarray(truth.astype(np.uint16)).save(paths[1].replace("labelIds", "instanceIds"))
    return paths


def compare(official, names, ours, mean):
    """Compare scores by name, where the official ones may have more names if they are undefined."""
    assert {name for name, value in official.items() if not np.isnan(value)} <= set(names)
    for name, value in zip(names, ours, strict=True):
        assert value == pytest.approx(official[name], abs=1e-9, nan_ok=True), name
    defined = [value for value in official.values() if not np.isnan(value)]
    assert mean == pytest.approx(np.mean(defined), abs=1e-9)
    return len(defined)


def run(scorer, folder, labels, space, to_space, seed):
    """Score random frames both ways, predictions and targets mapped to ``space``, and compare every number."""
    module, arguments = scorer
    rng = np.random.default_rng(seed)
    things = [label.id for label in labels if label.hasInstances]
    confusion, weighted = SemanticConfusion(len(space)), InstanceWeightedIou(space)
    written = []
    target_table = to_space.copy()
    target_table[[label.id for label in labels if label.ignoreInEval]] = IGNORE
    for number in range(3):
        ids = rng.choice([label.id for label in labels], 12, replace=False)
        truth, predicted = scene(rng, ids, things)
        written.append(write(folder, number, truth, predicted))
        target = target_table[np.where(truth >= 1000, truth // 1000, truth)]
        instance = np.where(truth >= 1000, truth, 0)
        confusion.update(target, to_space[predicted])
        weighted.update(target, instance, to_space[predicted])
    predictions, truths = map(list, zip(*written, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        official = module.evaluateImgLists(predictions, truths, arguments)

    scored = ScoredClasses.of(space, [label.name for label in labels if not label.ignoreInEval])
    names = scored.names(scored.ids)
    iou, weighted_iou = confusion.iou(), weighted.iou()
    count = compare(official["classScores"], names, iou[list(scored.ids)], scored.mean(iou).value)
    compare(official["classInstScores"], names, weighted_iou[list(scored.ids)], scored.mean(weighted_iou).value)
    categories, instances = category_scores(confusion.confusion, scored), weighted.categories(scored)
    compare(official["categoryScores"], categories.iou, categories.iou.values(), categories.mean)
    compare(official["categoryInstScores"], instances.iou, instances.iou.values(), instances.mean)
    assert len(instances.averaged) == 2
    return count


@pytest.mark.parametrize("seed", range(6))
def test_raw_ids(scorer, labels, raw_space, tmp_path, seed):
    """Predictions of ignored classes are misses, and caravans and trailers vehicles all the same in iIoU."""
    table = np.full(256, IGNORE, np.uint8)
    table[: len(raw_space)] = np.arange(len(raw_space))
    assert run(scorer, tmp_path, labels, raw_space, table, seed) > 8


@pytest.mark.parametrize("seed", range(6))
def test_shipped_space_of_raw_ids(scorer, labels, tmp_path, seed):
    table = np.full(256, IGNORE, np.uint8)
    table[:34] = np.arange(34)
    assert run(scorer, tmp_path, labels, find_space("cityscapes_ids"), table, seed) > 8


def test_train_ids(scorer, labels, tmp_path):
    """In the space of 19 classes, predictions of all other ids are "no class": the same IoU by class and category.

    iIoU of the category "vehicle" would differ, as caravans are among its official masks; here none is predicted.
    """
    kept = [label for label in labels if label.name not in ("caravan", "trailer")]
    table = np.full(256, IGNORE, np.uint8)
    for label in labels:
        if not label.ignoreInEval:
            table[label.id] = CITYSCAPES.index(label.name)
    assert run(scorer, tmp_path, kept, CITYSCAPES, table, 7) > 8


def test_shipped_tables_are_the_official_ones(labels):
    """Names, things and categories; the order is that of ids and of train ids."""
    official = [(label.name, label.hasInstances, label.category) for label in labels]
    shipped = [(label.name, label.is_thing, label.group) for label in find_space("cityscapes_ids").classes]
    assert shipped[: len(official)] == official
    by_train_id = sorted((label for label in labels if not label.ignoreInEval), key=lambda label: label.trainId)
    assert [(c.name, c.is_thing, c.group) for c in CITYSCAPES.classes] == [
        (label.name, label.hasInstances, label.category) for label in by_train_id
    ]
