"""The miniature data sets themselves: read back with Pillow and json, and with the scripts of Cityscapes."""

import json
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import (
    acdc,
    cityscapes,
    cityscapes_sequence,
    cityscapes_vps,
    dark_zurich,
    foggy_cityscapes,
    kitti_step,
    vipseg,
)
from tests.datasets.miniature.cityscapes_labels import LABELS, TRAIN_LABELS
from tests.datasets.miniature.parsing import check_segments, label_files, labelled, pixels, segment_ids
from tests.datasets.miniature.scene import Cast, draw_street, hide_labels
from tests.datasets.miniature.truth import TrueFrame, Truth
from tests.video_files import SHARED

REAL = SHARED / "cityscapes"


class Case(NamedTuple):
    name: str
    module: ModuleType
    options: dict[str, Any]
    things: frozenset[int]


LABEL_THINGS = frozenset(range(24, 34))
TRAIN_THINGS = frozenset(range(11, 19))
CASES = [
    *(Case(f"cityscapes {s}", cityscapes, {"split": s}, LABEL_THINGS) for s in ("train", "val", "test")),
    *(Case(f"foggy {s}", foggy_cityscapes, {"split": s}, LABEL_THINGS) for s in ("train", "val")),
    *(Case(f"sequence {s}", cityscapes_sequence, {"split": s, "snippet": 6}, LABEL_THINGS) for s in ("train", "val")),
    Case("sequence jpg", cityscapes_sequence, {"snippet": 6, "suffix": ".jpg"}, LABEL_THINGS),
    *(Case(f"vps {s}", cityscapes_vps, {"split": s}, TRAIN_THINGS) for s in ("train", "val", "test")),
    Case("vps crowds", cityscapes_vps, {"crowds": True}, TRAIN_THINGS),
    Case("vps img_all", cityscapes_vps, {"pictures": "img_all"}, TRAIN_THINGS),
    *(Case(f"acdc {s}", acdc, {"split": s}, TRAIN_THINGS) for s in ("train", "val", "test", "train_ref", "test_ref")),
    Case("acdc panoptic", acdc, {"panoptic": True}, TRAIN_THINGS),
    *(Case(f"dark zurich {s}", dark_zurich, {"split": s}, TRAIN_THINGS) for s in ("train", "val", "test")),
    *(Case(f"kitti {s}", kitti_step, {"split": s}, frozenset({11, 13})) for s in ("train", "val", "test")),
    *(Case(f"vipseg {s}", vipseg, {"split": s}, frozenset(vipseg.THINGS)) for s in ("train", "val", "test")),
    Case("vipseg converted", vipseg, {"converted": True}, frozenset(vipseg.THINGS)),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Truth]:
    case: Case = request.param
    return case, case.module.build(tmp_path_factory.mktemp("root"), **case.options)


def test_pictures_are_stored_as_the_truth_says(built: tuple[Case, Truth]) -> None:
    _, truth = built
    for path, frame in truth.frames.items():
        stored = pixels(truth.root / path, "RGB")
        assert frame.image.dtype == np.uint8
        assert stored.shape == frame.image.shape
        tolerance = 0 if path.endswith(".png") else 30
        assert abs(stored - frame.image).max() <= tolerance


def test_videos_hold_every_picture_once_and_in_order(built: tuple[Case, Truth]) -> None:
    _, truth = built
    assert [path for video in truth.videos for path in video] == list(truth.frames)
    for video in truth.videos:
        assert video == sorted(video)
    if truth.times is not None:
        assert [len(times) for times in truth.times] == [len(video) for video in truth.videos]
        assert all(times[0] == 0 and times == sorted(set(times)) for times in truth.times)


def test_labels_have_one_shape_and_type(built: tuple[Case, Truth]) -> None:
    _, truth = built
    for _, frame in labelled(truth):
        assert (frame.classes.dtype, frame.classes.shape) == (np.int32, frame.image.shape[:2])
        assert frame.classes.min() >= -1
        if frame.objects is not None and frame.crowd is not None:
            assert (frame.objects.dtype, frame.objects.shape) == (np.int32, frame.classes.shape)
            assert (frame.crowd.dtype, frame.crowd.shape) == (np.bool_, frame.classes.shape)


def test_objects_are_things_and_never_crowd(built: tuple[Case, Truth]) -> None:
    case, truth = built
    for _, frame in labelled(truth):
        if frame.objects is None or frame.crowd is None or frame.classes is None:
            continue
        assert set(frame.classes[frame.objects > 0]) <= case.things
        assert set(frame.classes[frame.crowd]) <= case.things
        assert not (frame.crowd & (frame.objects > 0)).any()


def test_an_object_has_one_class_in_all_frames(built: tuple[Case, Truth]) -> None:
    _, truth = built
    for video in truth.videos:
        pairs = set()
        for path in video:
            frame = truth.frames[path]
            if frame.objects is not None and frame.classes is not None:
                shown = frame.objects > 0
                pairs |= set(zip(frame.objects[shown].tolist(), frame.classes[shown].tolist(), strict=True))
        assert len({number for number, _ in pairs}) == len(pairs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_seed_decides_every_byte(case: Case, tmp_path: Path) -> None:
    def contents(name: str, seed: int) -> dict[str, bytes]:
        case.module.build(tmp_path / name, seed=seed, **case.options)
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        return {path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in files}

    first, again, other = contents("first", 3), contents("again", 3), contents("other", 4)
    assert first == again
    assert first.keys() == other.keys()
    assert first != other


@pytest.mark.parametrize("module", [cityscapes_vps, kitti_step, vipseg])
def test_objects_move_and_keep_their_number(module: ModuleType, tmp_path: Path) -> None:
    truth = module.build(tmp_path)
    for video in truth.videos:
        for before, after in pairwise(truth.frames[path].objects for path in video):
            both = (set(np.unique(before)) & set(np.unique(after))) - {0}
            assert sum(not np.array_equal(before == number, after == number) for number in both) >= 2


def test_an_object_leaves_the_picture_and_comes_back(tmp_path: Path) -> None:
    truth = cityscapes_vps.build(tmp_path)
    for video in truth.videos:
        shown = [bool((truth.frames[path].objects == 11000).any()) for path in video]
        assert shown[0]
        assert shown[-1]
        assert not all(shown)


def test_a_street_shows_every_part_of_its_cast() -> None:
    cast = Cast((1, 2, 3), columns=(4, 5), patches=(6,), crowds=(7,), movers=((8, 80), (9, 0)), voids=(10, 11, -1))
    frame = draw_street(cast, seed=1, time=0)
    assert set(np.unique(frame.classes)) == {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1}
    assert set(frame.classes[frame.objects == 80]) == {8}
    assert set(frame.classes[frame.crowd]) == {7}
    assert set(frame.classes[-1, 4:]) == {10}
    assert set(frame.classes[5:-4, 0]) == {11}


def test_a_street_does_not_fit_into_any_size() -> None:
    with pytest.raises(ValueError, match=re.escape("(20, 96) is too small")):
        draw_street(Cast((1,)), size=(20, 96))


def test_hidden_labels_leave_the_picture() -> None:
    frame = draw_street(Cast((1, 2)))
    assert hide_labels(frame) == TrueFrame(frame.image, None, None, None)


def gt_fine(path: str) -> str:
    """The start of the label files of a picture of Cityscapes."""
    folder, split, city, name = path.split("/")
    stem = re.match(r"[a-z]+_\d{6}_\d{6}", name)
    assert stem is not None
    assert folder.startswith("leftImg8bit")
    assert stem[0].split("_")[0] == city
    return f"gtFine/{split}/{city}/{stem[0]}_gtFine"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_cityscapes_labels_are_grey_with_8_and_16_bits(tmp_path: Path, split: str) -> None:
    truth = cityscapes.build(tmp_path, split=split)
    for path, frame in truth.frames.items():
        start = gt_fine(path)
        classes = pixels(tmp_path / f"{start}_labelIds.png", "L")
        instances = pixels(tmp_path / f"{start}_instanceIds.png", "I;16")
        assert np.array_equal(classes, frame.classes)
        assert np.array_equal(np.where(instances >= 1000, instances, 0), frame.objects)
        assert np.array_equal(np.where(instances >= 1000, instances // 1000, instances), classes)
        assert np.array_equal((instances < 1000) & (instances >= 24), frame.crowd)
        colours = pixels(tmp_path / f"{start}_color.png", "RGBA")
        assert set(colours[..., 3].flat) == {255}
        assert colours[0, 48, :3].tolist() == ([70, 130, 180] if split != "test" else [0, 0, 0])
    assert len(label_files(truth, ".png")) == 4 * len(truth.frames)


def test_cityscapes_has_what_misleads_readers(tmp_path: Path) -> None:
    truth = cityscapes.build(tmp_path)
    first, second, third = truth.frames.values()
    numbers = set(np.unique(first.objects))
    assert {26000, 26003, 33258} <= numbers
    assert not {26001, 26002} & numbers
    assert set(first.classes[first.crowd]) == {24, 26}
    assert {29000, 30002} <= set(np.unique(second.objects))
    once = {12, 13, 14, 15, 16, 22, 27, 28, 29, 30, 31, 32}
    assert once <= set(np.unique(second.classes))
    assert not once & (set(np.unique(first.classes)) | set(np.unique(third.classes)))
    assert {1, 2, 3, 4, 9, 18} <= set(np.unique(first.classes))


def test_labels_of_the_test_split_show_void_only(tmp_path: Path) -> None:
    for frame in cityscapes.build(tmp_path, split="test").frames.values():
        assert set(np.unique(frame.classes)) == {0, 1, 2, 3}
        assert not frame.objects.any()


def test_label_table_is_the_official_one() -> None:
    official = pytest.importorskip("cityscapesscripts.helpers.labels", reason="needs cityscapesscripts")
    for label, truth in zip(LABELS, official.labels, strict=False):
        assert (label.id, label.name, label.train_id) == (truth.id, truth.name, truth.trainId)
        assert (label.category, label.colour) == (truth.category, truth.color)
        assert label.is_thing == truth.hasInstances
    assert len(LABELS) == len(official.labels) - 1
    assert [label.train_id for label in TRAIN_LABELS] == list(range(19))


@pytest.mark.parametrize("suffix", ["", "_trainId"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_official_converter_makes_the_same_panoptic_files(tmp_path: Path, split: str, suffix: str) -> None:
    script = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs", reason="needs cityscapesscripts")
    truth = cityscapes.build(tmp_path, split=split, prepared=True)
    (tmp_path / "out").mkdir()
    script.convert2panoptic(str(tmp_path / "gtFine"), str(tmp_path / "out"), suffix == "_trainId", [split])
    name = f"cityscapes_panoptic_{split}{suffix}"
    made = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert json.loads((tmp_path / "gtFine" / f"{name}.json").read_text()) == made
    for annotation in made["annotations"]:
        ids = segment_ids(tmp_path / "out" / name / annotation["file_name"])
        assert np.array_equal(segment_ids(tmp_path / "gtFine" / name / annotation["file_name"]), ids)
        city = annotation["image_id"].split("_")[0]
        frame = truth.frames[f"leftImg8bit/{split}/{city}/{annotation['image_id']}_leftImg8bit.png"]
        if not suffix:
            check_segments(ids, annotation, frame)
    assert len(made["annotations"]) == len(truth.frames)


def test_train_id_images_keep_scored_instances_only(tmp_path: Path) -> None:
    truth = cityscapes.build(tmp_path, prepared=True)
    path = list(truth.frames)[1]
    frame = truth.frames[path]
    classes = pixels(tmp_path / f"{gt_fine(path)}_labelTrainIds.png", "L")
    instances = pixels(tmp_path / f"{gt_fine(path)}_instanceTrainIds.png", "I;16")
    assert set(classes[frame.classes == 31]) == {16}
    assert set(instances[frame.objects == 31000]) == {16000}
    assert set(instances[frame.objects == 29000]) == {255}
    assert set(instances[frame.crowd & (frame.classes == 33)]) == {18}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real Cityscapes samples are not beside this checkout")
def test_files_have_the_modes_of_the_real_ones(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    for kind in ("leftImg8bit/train/*/*_leftImg8bit", "gtFine/train/*/*_labelIds", "gtFine/train/*/*_instanceIds"):
        real, made = (sorted(root.glob(f"{kind}.png"))[0] for root in (REAL, tmp_path))
        with Image.open(real) as one, Image.open(made) as other:
            assert one.mode == other.mode


def test_fog_takes_contrast_and_leaves_labels(tmp_path: Path) -> None:
    truth = foggy_cityscapes.build(tmp_path / "foggy", split="val")
    clear = cityscapes.build(tmp_path / "clear", split="val")
    for path, frame in clear.frames.items():
        foggy = [
            truth.frames[path.replace("leftImg8bit/", "leftImg8bit_foggy/").replace(".png", f"_foggy_beta_{beta}.png")]
            for beta in ("0.005", "0.01", "0.02")
        ]
        spread = [float(picture.image[:24].std()) for picture in (frame, *foggy)]
        assert spread == sorted(spread, reverse=True)
        for picture in foggy:
            assert np.array_equal(picture.classes, frame.classes)
            assert np.array_equal(picture.objects, frame.objects)
    assert label_files(truth, "_instanceIds.png") == label_files(clear, "_instanceIds.png")


def test_one_density_can_be_written_alone(tmp_path: Path) -> None:
    truth = foggy_cityscapes.build(tmp_path, betas=("0.02",))
    assert len(truth.frames) == 3
    assert all(path.endswith("_leftImg8bit_foggy_beta_0.02.png") for path in truth.frames)


def test_snippets_surround_the_labelled_frame(tmp_path: Path) -> None:
    truth = cityscapes_sequence.build(tmp_path)
    assert [len(video) for video in truth.videos] == [30] * 4
    shown = {path for path, _ in labelled(truth)}
    assert shown == {video[19] for video in truth.videos}
    numbers = [[int(path.split("_")[-2]) for path in video] for video in truth.videos]
    assert numbers == [list(range(n - 19, n + 11)) for n in (294, 576, 49698, 19)]
    assert truth.times is not None
    assert truth.times[0][17] == 1.0
    assert label_files(truth, "_labelIds.png") == sorted(f"{gt_fine(path)}_labelIds.png" for path in shown)


@pytest.mark.parametrize("length", [1, 2, 6, 29])
def test_a_shorter_snippet_is_part_of_the_official_one(tmp_path: Path, length: int) -> None:
    short = cityscapes_sequence.build(tmp_path / "short", snippet=length)
    full = cityscapes_sequence.build(tmp_path / "full")
    assert [len(video) for video in short.videos] == [length] * 4
    for path, frame in short.frames.items():
        assert np.array_equal(frame.image, full.frames[path].image)
        assert (frame.classes is None) == (full.frames[path].classes is None)
    assert len(list(labelled(short))) == 4
