import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature.bdd100k import build
from tests.datasets.reading import check_damaged_files, check_label_of_another_size, check_reading
from vidapt.datasets.bdd100k import FOLDERS, TRACKED, Bdd100k, split_bitmask, tracked_classes
from vidapt.datasets.stored import ReadOptions
from vidapt.errors import InputError, SingleImagesError
from vidapt.labels import find_space

KINDS = ["semantic", "panoptic", "seg_track"]
ROAD, CAR = 7, 35
TRUNCATED, OCCLUDED, CROWD, IGNORE_BIT = 8, 4, 2, 1


def bitmask(category: int, attributes: int = 0, number: int = 0) -> np.ndarray:
    """A bitmask of one category and number everywhere."""
    return np.full((48, 96, 4), [category, attributes, number >> 8, number & 255], np.uint8)


def first_label(dataset: Bdd100k) -> Path:
    return dataset.root / next(dataset.frames()).labels[0]


def read_first(dataset: Bdd100k):
    return dataset.read_frame(next(dataset.frames())).labels


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_read_as_written(tmp_path: Path, kind: str, split: str, seed: int) -> None:
    truth = build(tmp_path, kind=kind, split=split, seed=seed)
    dataset = Bdd100k(tmp_path, split, labels=kind, clip_length=2 if kind == "seg_track" else 1)
    assert dataset.has_instances == (kind != "semantic")
    assert dataset.label_space.name == ("cityscapes" if kind == "semantic" else "bdd100k")
    assert all(frame.key for frame in dataset.frames())
    check_reading(dataset, truth)


def test_panoptic_labels_are_the_default(tmp_path: Path) -> None:
    truth = build(tmp_path)
    check_reading(Bdd100k(tmp_path), truth)


def test_names_numbers_and_videos(tmp_path: Path) -> None:
    build(tmp_path, kind="seg_track", frames=4)
    dataset = Bdd100k(tmp_path, labels="seg_track", clip_length=3)
    assert dataset.videos == ["00091078-84635cf2", "b1c66a42-6f7d68ca"]
    frames = list(dataset.frames())
    assert frames[0].name == "00091078-84635cf2-0000001"
    assert [frame.number for frame in frames] == [1, 2, 3, 4] * 2
    assert dataset[0].times.tolist() == pytest.approx([0, 0.2, 0.4])
    assert len(dataset) == 4
    every = Bdd100k(tmp_path, labels="seg_track", options=ReadOptions(every=3, context=1))
    assert [frame.number for frame in every.frames()] == [2, 3] * 2


def test_a_gap_parts_clips(tmp_path: Path) -> None:
    build(tmp_path, kind="seg_track", frames=5)
    for path in (tmp_path / "images").rglob("*-0000003.jpg"):
        path.unlink()
    dataset = Bdd100k(tmp_path, labels="seg_track", clip_length=2)
    found = [[dataset.frame(0, place).number for place in clip.indices.tolist()] for clip in dataset]
    assert found == [[1, 2], [4, 5]] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_test_split_has_no_labels(tmp_path: Path, kind: str) -> None:
    truth = build(tmp_path, kind=kind, split="test")
    check_reading(Bdd100k(tmp_path, "test", labels=kind, labelled=False), truth)
    with pytest.raises(InputError, match="has pictures but no labels; use it as an unlabelled target"):
        Bdd100k(tmp_path, "test", labels=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_unlabelled_reading_needs_no_label_files(tmp_path: Path, kind: str) -> None:
    truth = build(tmp_path, kind=kind)
    shutil.rmtree(tmp_path / "labels")
    dataset = Bdd100k(tmp_path, labels=kind, labelled=False)
    check_reading(dataset, truth)
    assert dataset.label_space is None


def test_tracked_categories_become_the_label_ids_of_their_names() -> None:
    names = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    space = find_space("bdd100k")
    found = tracked_classes(np.arange(9, dtype=np.uint8)[None], Path("a.png"))
    assert found.dtype == np.uint8
    assert found[0].tolist() == [255, *(space.index(name) for name in names)]
    assert all(space.classes[index].is_thing for index in TRACKED[1:])
    assert sorted(TRACKED[1:]) == [31, 32, 33, 34, 35, 37, 39, 40]


def test_the_number_uses_blue_and_alpha_and_its_category() -> None:
    pixels = [(CAR, 0, 0, 1), (CAR, 0, 1, 0), (CAR, 0, 255, 255), (31, 0, 0, 1), (40, 0, 255, 255)]
    category, instance = split_bitmask(np.array([pixels], np.uint8))
    assert category[0].tolist() == [CAR, CAR, CAR, 31, 40]
    assert len(set(instance[0].tolist())) == 5
    assert instance.dtype == np.int32
    assert instance.min() > 0
    assert instance.max() < 1 << 24


@pytest.mark.parametrize("attributes", range(16))
def test_crowds_and_ignored_objects_alone_have_no_instance(attributes: int) -> None:
    category, instance = split_bitmask(bitmask(CAR, attributes, 300))
    assert (category == CAR).all()
    assert (instance > 0).all() == (not attributes & (CROWD | IGNORE_BIT))
    assert len(np.unique(instance)) == 1


def test_no_number_and_no_category_are_no_instance() -> None:
    assert not split_bitmask(bitmask(CAR, TRUNCATED, 0))[1].any()
    assert not split_bitmask(bitmask(0, OCCLUDED, 9))[1].any()
    assert split_bitmask(np.zeros((0, 3, 4), np.uint8))[1].shape == (0, 3)


def test_pixels_of_transparent_numbers_keep_their_category(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    dataset = Bdd100k(tmp_path)
    picture = bitmask(CAR, 0, 256)
    assert not picture[..., 3].any()
    Image.fromarray(picture, "RGBA").save(first_label(dataset))
    labels = read_first(dataset)
    assert (labels.semantic == CAR).all()
    assert len(np.unique(labels.instance)) == 1
    assert labels.instance.all()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_and_missing_files_are_named(tmp_path: Path, kind: str) -> None:
    build(tmp_path, kind=kind)
    check_damaged_files(Bdd100k(tmp_path, labels=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_of_another_size_is_named(tmp_path: Path, kind: str) -> None:
    build(tmp_path, kind=kind)
    check_label_of_another_size(Bdd100k(tmp_path, labels=kind))


def test_ids_outside_the_tables_are_named(tmp_path: Path) -> None:
    for kind in KINDS:
        build(tmp_path, kind=kind, frames=1)
    semantic, panoptic, tracked = (Bdd100k(tmp_path, labels=kind) for kind in KINDS)
    Image.fromarray(np.full((48, 96), 19, np.uint8)).save(first_label(semantic))
    with pytest.raises(InputError, match=r"sem_seg/.*\.png has label ids \[19\] .* allowed: 0\.\.18 and 255"):
        read_first(semantic)
    Image.fromarray(bitmask(41), "RGBA").save(first_label(panoptic))
    with pytest.raises(InputError, match=r"pan_seg/.*\.png has label ids \[41\] that BDD100K does not define"):
        read_first(panoptic)
    Image.fromarray(bitmask(9), "RGBA").save(first_label(tracked))
    with pytest.raises(InputError, match=r"seg_track_20/.*\.png has categories \[9\]; allowed .*0\.\.8"):
        read_first(tracked)


def test_pictures_of_another_kind_are_named(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    dataset = Bdd100k(tmp_path)
    path = first_label(dataset)
    Image.fromarray(bitmask(ROAD)[..., :3]).save(path)
    with pytest.raises(InputError, match=r"\.png has no alpha channel, which holds a part of the instance number"):
        read_first(dataset)
    Image.fromarray(bitmask(ROAD)[..., 0]).save(path)
    with pytest.raises(InputError, match=r"\.png has one channel per pixel"):
        read_first(dataset)
    assert cv2.imwrite(str(path), bitmask(ROAD).astype(np.uint16))
    with pytest.raises(InputError, match=r"\.png has 16 bits per channel"):
        read_first(dataset)
    build(tmp_path, kind="semantic", frames=1)
    masks = Bdd100k(tmp_path, labels="semantic")
    Image.fromarray(bitmask(ROAD), "RGBA").save(first_label(masks))
    with pytest.raises(InputError, match=r"\.png is a picture in colours"):
        read_first(masks)


def test_other_files_are_no_frames_of_videos(tmp_path: Path) -> None:
    truth = build(tmp_path, kind="seg_track")
    folder = tmp_path / "images/seg_track_20/train/00091078-84635cf2"
    for name in ("preview.jpg", "b1c66a42-6f7d68ca-0000001.jpg", "00091078-84635cf2-1.jpg", ".x.jpg"):
        (folder / name).write_bytes(b"")
    check_reading(Bdd100k(tmp_path, labels="seg_track"), truth)


def test_wrong_options_and_roots_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no labels 'boxes'; allowed: semantic, panoptic, seg_track"):
        Bdd100k(tmp_path, labels="boxes")
    with pytest.raises(InputError, match="has no split 'day'; allowed: train, val, test"):
        Bdd100k(tmp_path, "day", labels="seg_track")
    with pytest.raises(InputError, match=r"holds no frames; expected files:\nimages/10k/<split>/<name>\.jpg"):
        Bdd100k(tmp_path)
    build(tmp_path)
    with pytest.raises(SingleImagesError, match="no clip of 2 frames"):
        Bdd100k(tmp_path, clip_length=2)


def test_the_card_describes_the_chosen_labels(tmp_path: Path) -> None:
    assert dict(Bdd100k.card.splits) == {"train": 7000, "val": 1000, "test": 2000}
    for kind in KINDS:
        build(tmp_path, kind=kind)
    semantic, panoptic, tracked = (Bdd100k(tmp_path, labels=kind) for kind in KINDS)
    assert panoptic.card == Bdd100k.card
    assert (semantic.card.labels, semantic.card.splits["train"]) == ("semantic", 7000)
    assert (tracked.card.labels, tracked.card.video) == ("panoptic video", True)
    assert dict(tracked.card.splits) == {"train": None, "val": None, "test": None}
    assert len({dataset.describe() for dataset in (semantic, panoptic, tracked)}) == len(FOLDERS)
