from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.datasets.miniature.synthia import build
from tests.datasets.miniature.truth import Truth
from tests.datasets.reading import check_damaged_files, check_reading
from vidapt.datasets.instance_codes import thing_instances
from vidapt.datasets.stored import ReadOptions
from vidapt.datasets.synthia import Synthia
from vidapt.errors import InputError, SingleImagesError
from vidapt.labels import find_space

ROAD, CAR, PEDESTRIAN = 3, 8, 10


def write_label(path: Path, red: np.ndarray, green: np.ndarray) -> None:
    picture = np.stack([np.zeros_like(red), green, red], axis=-1).astype(np.uint16)
    assert cv2.imwrite(str(path), picture)


def with_pseudo_instances(truth: Truth) -> Truth:
    """The truth under the rule of EDAPS: thing pixels without a number are one object of their class and picture."""
    things = find_space("synthia").things

    def mend(frame):
        unnumbered = np.isin(frame.classes, things) & (frame.objects == 0)
        return replace(frame, objects=np.where(unnumbered, 10_000_000 + frame.classes, frame.objects))

    return replace(truth, frames={path: mend(frame) for path, frame in truth.frames.items()})


@pytest.mark.parametrize("seed", [0, 1])
def test_frames_are_read_as_written(tmp_path: Path, seed: int) -> None:
    truth = build(tmp_path, seed=seed)
    dataset = Synthia(truth.root)
    assert dataset.has_instances
    check_reading(dataset, with_pseudo_instances(truth))


def test_the_root_may_be_the_folder_above(tmp_path: Path) -> None:
    truth = build(tmp_path)
    dataset = Synthia(tmp_path)
    assert next(dataset.frames()).image == "RAND_CITYSCAPES/RGB/0000000.png"
    check_reading(dataset, with_pseudo_instances(truth))


def test_names_numbers_and_selection(tmp_path: Path) -> None:
    truth = build(tmp_path, frames=5)
    frames = list(Synthia(truth.root).frames())
    assert [frame.name for frame in frames] == [f"{number:07d}" for number in range(5)]
    assert [frame.number for frame in frames] == list(range(5))
    assert all(frame.key for frame in frames)
    every = Synthia(truth.root, options=ReadOptions(every=2))
    assert [frame.number for frame in every.frames()] == [0, 2, 4]


def test_stills_form_no_clips_of_several_frames(tmp_path: Path) -> None:
    truth = build(tmp_path)
    assert len(Synthia(truth.root)) == 3
    with pytest.raises(SingleImagesError, match="no clip of 2 frames"):
        Synthia(truth.root, clip_length=2)


def test_all_sixteen_bits_of_the_number_count(tmp_path: Path) -> None:
    truth = build(tmp_path, frames=1)
    red = np.full((48, 96), CAR)
    red[30:40], red[40:] = PEDESTRIAN, ROAD
    green = np.zeros((48, 96), int)
    green[:10], green[10:20], green[30:] = 65535, 255, 255
    write_label(truth.root / "GT/LABELS/0000000.png", red, green)
    dataset = Synthia(truth.root)
    labels = dataset.read_frame(next(dataset.frames())).labels
    assert np.array_equal(labels.semantic, red)
    regions = [labels.instance[start : start + 10] for start in range(0, 40, 10)]
    assert all(len(np.unique(region)) == 1 for region in regions)
    numbers = {int(region[0, 0]) for region in regions}
    assert len(numbers) == 4
    assert min(numbers) > 0
    assert max(numbers) < 1 << 24
    assert not labels.instance[40:].any()


def test_thing_instances_are_unique_over_all_things_and_numbers() -> None:
    space = find_space("synthia")
    things = np.array(space.things, np.int32)
    semantic, number = np.meshgrid(things, np.array([0, 1, 65534, 65535], np.int32))
    found = thing_instances(semantic, number, space)
    assert len(np.unique(found)) == found.size == 4 * 8
    assert found.min() > 0
    assert found.max() < 1 << 24
    assert not thing_instances(np.array([[0, 3, 22, 255, 4000]], np.int32), np.ones((1, 5), np.int32), space).any()


def test_unlabelled_reading_needs_no_label_files(tmp_path: Path) -> None:
    truth = build(tmp_path)
    for path in (truth.root / "GT/LABELS").iterdir():
        path.unlink()
    dataset = Synthia(truth.root, labelled=False)
    check_reading(dataset, truth)
    assert dataset.label_space is None


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    check_damaged_files(Synthia(build(tmp_path, frames=2).root))


def test_a_label_of_another_size_is_named(tmp_path: Path) -> None:
    truth = build(tmp_path)
    write_label(truth.root / "GT/LABELS/0000001.png", np.full((24, 96), 3), np.zeros((24, 96), int))
    dataset = Synthia(truth.root)
    with pytest.raises(InputError, match=r"LABELS/0000001\.png is 96x24 but its image is 96x48"):
        dataset.read_frame(list(dataset.frames())[1])


@pytest.mark.parametrize("wrong", [23, 256, 40000])
def test_an_id_outside_the_table_is_named(tmp_path: Path, wrong: int) -> None:
    truth = build(tmp_path)
    red = np.full((48, 96), 3)
    red[5, 5] = wrong
    write_label(truth.root / "GT/LABELS/0000002.png", red, np.zeros_like(red))
    dataset = Synthia(truth.root)
    with pytest.raises(InputError, match=rf"0000002\.png has label ids \[{wrong}\].*allowed: 0\.\.22"):
        dataset.read_frame(list(dataset.frames())[2])


def test_a_grey_label_is_refused(tmp_path: Path) -> None:
    truth = build(tmp_path)
    cv2.imwrite(str(truth.root / "GT/LABELS/0000000.png"), np.full((48, 96), 3, np.uint8))
    dataset = Synthia(truth.root)
    with pytest.raises(InputError, match=r"0000000\.png has one channel per pixel"):
        dataset.read_frame(next(dataset.frames()))


def test_wrong_roots_and_splits_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no frames; expected files:\nRAND_CITYSCAPES/RGB/<number>\.png"):
        Synthia(tmp_path)
    with pytest.raises(InputError, match=r"has no split 'val'; allowed: train"):
        Synthia(tmp_path, "val")


def test_other_files_are_no_frames(tmp_path: Path) -> None:
    truth = build(tmp_path)
    (truth.root / "RGB/preview.png").write_bytes(b"")
    (truth.root / "RGB/.0000009.png").write_bytes(b"")
    assert len(Synthia(truth.root)) == 3


def test_the_card_holds_the_official_count() -> None:
    assert dict(Synthia.card.splits) == {"train": 9400}
    assert not Synthia.card.video
    assert Synthia.card.labels == "panoptic"
