from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import cityscapes_vps
from tests.datasets.reading import (
    check_damaged_files,
    check_index,
    check_label_of_another_size,
    check_misnamed,
    check_reading,
)
from vidapt.datasets.cityscapes_vps import CityscapesVps
from vidapt.errors import InputError
from vidapt.labels import find_space


@pytest.mark.parametrize(("split", "crowds"), [("train", False), ("val", False), ("val", True)])
def test_reads_what_the_pictures_show(tmp_path: Path, split: str, crowds: bool) -> None:
    truth = cityscapes_vps.build(tmp_path, split=split, crowds=crowds)
    assert any(frame.crowd.any() for frame in truth.frames.values()) is crowds
    dataset = CityscapesVps(tmp_path, split, clip_length=2)
    assert dataset.has_instances
    assert dataset.label_space is find_space("cityscapes")
    check_reading(dataset, truth)


def test_videos_are_six_frames_at_a_fifth_of_seventeen_hertz(tmp_path: Path) -> None:
    cityscapes_vps.build(tmp_path)
    dataset = CityscapesVps(tmp_path, "val", clip_length=6)
    assert dataset.videos == ["0005", "0175"]
    clip = dataset[0]
    assert len(dataset) == 2
    assert clip.times.tolist() == pytest.approx([5 * place / 17 for place in range(6)])
    assert clip.target.labelled.all()
    frames = list(dataset.frames())[:6]
    assert [frame.number for frame in frames] == [*range(1736, 1762, 5)]
    assert frames[0].name == "0005_0025_frankfurt_000000_001736"
    endings = [frame.labels[0].rpartition("_")[2] for frame in frames]
    assert endings == ["mask.png"] * 3 + ["color.png"] + ["mask.png"] * 2
    assert all(frame.key for frame in frames)


def test_instances_are_the_values_of_panoptic_inst(tmp_path: Path) -> None:
    truth = cityscapes_vps.build(tmp_path)
    dataset = CityscapesVps(tmp_path, "val")
    for frame in dataset.frames():
        values = np.array(Image.open(tmp_path / frame.labels[0]), np.int32)
        labels = dataset.read_frame(frame).labels
        assert np.array_equal(labels.instance, np.where(values >= 1000, values, 0))
        assert np.array_equal(labels.instance, truth.frames[frame.image].objects)
        assert set(labels.semantic[values < 1000].tolist()) <= {*range(19), 255}


def test_first_number_of_an_instance_may_be_zero(tmp_path: Path) -> None:
    cityscapes_vps.build(tmp_path)
    dataset = CityscapesVps(tmp_path, "val")
    frame = next(dataset.frames())
    path = tmp_path / frame.labels[0]
    values = np.array(Image.open(path), np.uint16)
    values[0, :3] = (11000, 11, 255)
    Image.fromarray(values).save(path)
    labels = dataset.read_frame(frame).labels
    assert labels.semantic[0, :3].tolist() == [11, 11, 255]
    assert labels.instance[0, :3].tolist() == [11000, 0, 0]


@pytest.mark.parametrize(("value", "wrong"), [(19, 19), (32, 32), (254, 254), (19000, 19), (26001, 26)])
def test_ids_outside_the_table_are_named(tmp_path: Path, value: int, wrong: int) -> None:
    cityscapes_vps.build(tmp_path)
    dataset = CityscapesVps(tmp_path, "val")
    path = tmp_path / next(dataset.frames()).labels[0]
    values = np.array(Image.open(path), np.uint16)
    values[0, 0] = value
    Image.fromarray(values).save(path)
    with pytest.raises(InputError, match=rf"{path.name} has label ids \[{wrong}\] that Cityscapes-VPS does not define"):
        dataset[0]


def test_no_clip_reaches_over_a_missing_frame(tmp_path: Path) -> None:
    cityscapes_vps.build(tmp_path)
    (tmp_path / "val/img/0005_0027_frankfurt_000000_001746_newImg8bit.png").unlink()
    dataset = CityscapesVps(tmp_path, "val", clip_length=2)
    numbers = [[dataset.frame(0, place).number for place in dataset[item].indices] for item in range(3)]
    assert numbers == [[1736, 1741], [1751, 1756], [1756, 1761]]
    assert len(dataset) == 3 + 5


def test_pictures_without_panoptic_inst_are_unlabelled(tmp_path: Path) -> None:
    truth = cityscapes_vps.build(tmp_path)
    rmtree(tmp_path / "val/panoptic_inst")
    with pytest.raises(InputError, match=r"has pictures but no labels; [\s\S]*panoptic_inst/<video>"):
        CityscapesVps(tmp_path, "val")
    dataset = CityscapesVps(tmp_path, "val", labelled=False)
    check_index(dataset, truth)
    assert dataset[0].target is None


def test_test_split_is_unlabelled(tmp_path: Path) -> None:
    truth = cityscapes_vps.build(tmp_path, split="test")
    check_reading(CityscapesVps(tmp_path, "test", labelled=False, clip_length=3), truth)
    with pytest.raises(InputError, match=r"'test' .* has pictures but no labels"):
        CityscapesVps(tmp_path, "test")


def test_frames_between_the_labelled_ones_are_not_mixed_in(tmp_path: Path) -> None:
    truth = cityscapes_vps.build(tmp_path)
    assert (tmp_path / "val/img_all").is_dir()
    assert sum(1 for _ in CityscapesVps(tmp_path, "val").frames()) == len(truth.frames)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    cityscapes_vps.build(tmp_path)
    check_damaged_files(CityscapesVps(tmp_path, "val"))
    check_label_of_another_size(CityscapesVps(tmp_path, "val"))


def test_wrong_roots_and_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cityscapes-VPS has no split 'valid'; allowed: train, val, test"):
        CityscapesVps(tmp_path, "valid")
    with pytest.raises(InputError, match=r"split 'val' .* holds no frames; expected files:\n<split>/img/"):
        CityscapesVps(tmp_path, "val")
    strange = tmp_path / "val/img/frankfurt_000000_001736_leftImg8bit.png"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"val/img/frankfurt_000000_001736_leftImg8bit.png is not named <video>_<index>"
    ):
        CityscapesVps(tmp_path, "val")
    cityscapes_vps.build(tmp_path)
    check_misnamed(lambda: CityscapesVps(tmp_path, "val"), "val/img/x_newImg8bit.png", others=1)
