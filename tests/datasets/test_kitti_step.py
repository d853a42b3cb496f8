from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import kitti_step
from tests.datasets.reading import (
    check_damaged_files,
    check_index,
    check_label_of_another_size,
    check_misnamed,
    check_reading,
)
from vidapt.datasets.kitti_step import KittiStep, split_tracks
from vidapt.datasets.stored import ReadOptions
from vidapt.errors import InputError
from vidapt.labels import find_space


@pytest.mark.parametrize("split", ["train", "val"])
def test_reads_what_the_pictures_show(tmp_path: Path, split: str) -> None:
    truth = kitti_step.build(tmp_path, split=split)
    assert any(frame.crowd.any() for frame in truth.frames.values())
    dataset = KittiStep(tmp_path, split, clip_length=2)
    assert dataset.has_instances
    assert dataset.label_space is find_space("kitti_step")
    check_reading(dataset, truth)


def test_drives_are_videos_at_ten_hertz(tmp_path: Path) -> None:
    kitti_step.build(tmp_path)
    dataset = KittiStep(tmp_path, "val", clip_length=3)
    assert dataset.videos == ["0002", "0018"]
    assert dataset[0].times.tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert dataset[0].target.labelled.tolist() == [True] * 3
    assert len(dataset) == 3
    frame = next(dataset.frames())
    assert (frame.name, frame.image) == ("0002_000000", "images/val/0002/000000.png")
    assert frame.labels == ("panoptic_maps/val/0002/000000.png",)
    assert len({frame.name for frame in dataset.frames()}) == 7


def test_persons_and_cars_with_one_track_id_differ() -> None:
    picture = np.array([[[11, 0, 7], [13, 0, 7], [13, 7, 0], [13, 255, 255]]], np.int32)
    semantic, instance = split_tracks(picture)
    assert semantic.tolist() == [[11, 13, 13, 13]]
    first_person, first_car = 11 << 16, 13 << 16
    assert instance.tolist() == [[first_person + 7, first_car + 7, first_car + 7 * 256, first_car + 65535]]
    assert instance.max() < 1 << 24


def test_only_tracks_of_persons_and_cars_are_instances() -> None:
    picture = np.array([[[11, 0, 0], [13, 0, 0], [18, 0, 4], [0, 1, 1], [255, 0, 9], [12, 0, 1]]], np.int32)
    semantic, instance = split_tracks(picture)
    assert semantic.tolist() == [[11, 13, 18, 0, 255, 12]]
    assert not instance.any()
    assert [array.shape for array in split_tracks(np.zeros((0, 3, 3), np.int32))] == [(0, 3), (0, 3)]


def test_no_clip_reaches_over_a_missing_frame(tmp_path: Path) -> None:
    kitti_step.build(tmp_path)
    (tmp_path / "images/val/0002/000001.png").unlink()
    dataset = KittiStep(tmp_path, "val", clip_length=2)
    assert [(clip.video, clip.indices.tolist()) for clip in (dataset[item] for item in range(len(dataset)))] == [
        ("0002", [1, 2]),
        ("0018", [0, 1]),
        ("0018", [1, 2]),
    ]
    assert [dataset.frame(0, place).number for place in range(3)] == [0, 2, 3]
    assert dataset[0].times.tolist() == pytest.approx([0.2, 0.3])


def test_test_split_is_unlabelled(tmp_path: Path) -> None:
    truth = kitti_step.build(tmp_path, split="test")
    check_reading(KittiStep(tmp_path, "test", labelled=False, clip_length=2), truth)
    with pytest.raises(InputError, match=r"KITTI-STEP split 'test' .* has pictures but no labels"):
        KittiStep(tmp_path, "test")


def test_unlabelled_reading_needs_no_labels(tmp_path: Path) -> None:
    truth = kitti_step.build(tmp_path)
    rmtree(tmp_path / "panoptic_maps")
    dataset = KittiStep(tmp_path, "val", labelled=False, options=ReadOptions(height=24))
    check_index(dataset, truth)
    assert dataset[0].frames.shape[-2] == 24


def test_damaged_files_are_named(tmp_path: Path) -> None:
    kitti_step.build(tmp_path)
    check_damaged_files(KittiStep(tmp_path, "val"))
    check_label_of_another_size(KittiStep(tmp_path, "val"))


def test_grey_labels_and_unknown_ids_are_named(tmp_path: Path) -> None:
    kitti_step.build(tmp_path)
    dataset = KittiStep(tmp_path, "val")
    path = tmp_path / next(dataset.frames()).labels[0]
    colours = np.array(Image.open(path))
    Image.fromarray(colours[..., 0]).save(path)
    with pytest.raises(InputError, match=r"000000\.png has one channel per pixel; its labels are stored in colours"):
        dataset[0]
    colours[0, 0] = (19, 0, 0)
    Image.fromarray(colours).save(path)
    with pytest.raises(InputError, match=r"000000\.png has label ids \[19\] that KITTI-STEP does not define"):
        dataset[0]


def test_wrong_roots_and_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="KITTI-STEP has no split 'training'; allowed: train, val, test"):
        KittiStep(tmp_path, "training")
    with pytest.raises(InputError, match=r"holds no frames; expected files:\nimages/<split>/<video>/<frame>\.png"):
        KittiStep(tmp_path)
    strange = tmp_path / "images/train/0000/left.png"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"x")
    with pytest.raises(InputError, match=r"images/train/0000/left.png is not named by its frame number"):
        KittiStep(tmp_path)
    kitti_step.build(tmp_path, split="train")
    check_misnamed(lambda: KittiStep(tmp_path), "images/train/0000/right.png", others=1)
