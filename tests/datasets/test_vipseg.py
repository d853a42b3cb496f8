from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import vipseg
from tests.datasets.reading import (
    check_damaged_files,
    check_index,
    check_label_of_another_size,
    check_misnamed,
    check_reading,
)
from vidapt.datasets.frame_index import Problem
from vidapt.datasets.listing import usual_step
from vidapt.datasets.stored import ReadOptions
from vidapt.datasets.vipseg import VipSeg, split_codes
from vidapt.errors import InputError
from vidapt.labels import find_space


@pytest.mark.parametrize("split", ["train", "val"])
def test_reads_what_the_pictures_show(tmp_path: Path, split: str) -> None:
    truth = vipseg.build(tmp_path, split=split)
    dataset = VipSeg(tmp_path, split, clip_length=2)
    assert dataset.has_instances
    assert dataset.label_space is find_space("vipseg")
    assert len(dataset.label_space) == 124
    check_reading(dataset, truth)


def test_reads_the_converted_copy(tmp_path: Path) -> None:
    truth = vipseg.build(tmp_path, converted=True)
    assert truth.videos[0][0].startswith("images/")
    check_reading(VipSeg(tmp_path, "val"), truth)


def test_a_split_is_the_videos_of_its_list(tmp_path: Path) -> None:
    truth = vipseg.build(tmp_path)
    dataset = VipSeg(tmp_path, "val")
    assert dataset.videos == (tmp_path / "val.txt").read_text().split()
    frame = next(dataset.frames())
    assert (frame.name, frame.number) == ("12_1mWNahzcsAc_00002537", 2537)
    assert frame.labels == ("panomasks/12_1mWNahzcsAc/00002537.png",)
    (tmp_path / "val.txt").write_text(f"\n{dataset.videos[1]}\r\n{dataset.videos[1]}\n")
    assert VipSeg(tmp_path, "val").videos == [dataset.videos[1]]
    assert len(truth.videos) == 2


def test_frames_follow_each_other_at_five_hertz(tmp_path: Path) -> None:
    vipseg.build(tmp_path)
    assert VipSeg(tmp_path, "val", clip_length=3)[0].times.tolist() == pytest.approx([0.0, 0.2, 0.4])
    (tmp_path / "imgs/12_1mWNahzcsAc/00002540.jpg").unlink()
    dataset = VipSeg(tmp_path, "val", clip_length=2)
    numbers = [[dataset.frame(0, place).number for place in dataset[item].indices] for item in range(1)]
    assert numbers == [[2543, 2546]]
    assert dataset[0].times.tolist() == pytest.approx([0.4, 0.6])


def test_usual_step() -> None:
    assert [usual_step(numbers) for numbers in ([7], [1, 2, 3], [0, 6, 12, 24], [5, 15, 18])] == [1, 1, 6, 3]


def test_codes_at_the_borders() -> None:
    mask = np.array([[0, 1, 124, 125, 199, 6100, 6199, 12499]], np.int32)
    semantic, instance = split_codes(mask)
    assert semantic.tolist() == [[255, 0, 123, 0, 0, 60, 60, 123]]
    assert instance.tolist() == [[0, 0, 0, 125, 199, 6100, 6199, 12499]]
    assert find_space("vipseg").names[60] == "person"
    assert [array.shape for array in split_codes(np.zeros((2, 0), np.int32))] == [(2, 0), (2, 0)]


def test_test_split_is_unlabelled(tmp_path: Path) -> None:
    truth = vipseg.build(tmp_path, split="test")
    check_reading(VipSeg(tmp_path, "test", labelled=False, clip_length=2), truth)
    with pytest.raises(InputError, match=r"VIPSeg split 'test' .* has pictures but no labels"):
        VipSeg(tmp_path, "test")


def test_unlabelled_reading_needs_no_labels(tmp_path: Path) -> None:
    truth = vipseg.build(tmp_path)
    rmtree(tmp_path / "panomasks")
    check_index(VipSeg(tmp_path, "val", labelled=False), truth)


def test_scaling_to_the_usual_height_keeps_instances(tmp_path: Path) -> None:
    vipseg.build(tmp_path)
    plain, scaled = VipSeg(tmp_path, "val")[0], VipSeg(tmp_path, "val", options=ReadOptions(height=24))[0]
    assert scaled.target.instance.shape == (1, 24, 48)
    assert set(scaled.target.instance.unique().tolist()) <= set(plain.target.instance.unique().tolist())


@pytest.mark.parametrize("value", [12500, 65535])
def test_ids_outside_the_table_are_named(tmp_path: Path, value: int) -> None:
    vipseg.build(tmp_path)
    dataset = VipSeg(tmp_path, "val")
    path = tmp_path / next(dataset.frames()).labels[0]
    mask = np.array(Image.open(path), np.uint16)
    mask[0, 0] = value
    Image.fromarray(mask).save(path)
    with pytest.raises(InputError, match=rf"{path.name} has label ids \[{value // 100 - 1}\] .* allowed: 0\.\.123"):
        dataset[0]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    vipseg.build(tmp_path)
    check_damaged_files(VipSeg(tmp_path, "val"))
    check_label_of_another_size(VipSeg(tmp_path, "val"))


@pytest.mark.parametrize("name", ["../12_1mWNahzcsAc", "/etc", "a/b", ".", "a.b"])
def test_lists_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    vipseg.build(tmp_path)
    (tmp_path / "val.txt").write_text(f"{name}\n")
    with pytest.raises(InputError, match=r"val\.txt lists .* which is no name of a video"):
        VipSeg(tmp_path, "val")
    (tmp_path / "val.txt").write_text(f"12_1mWNahzcsAc\n{name}\n")
    dataset = VipSeg(tmp_path, "val")
    assert dataset.videos == ["12_1mWNahzcsAc"]
    reason = f"lists {name!r}, which is no name of a video (letters, digits, _ and -)"
    assert dataset.index_problems == (Problem("", "val.txt", reason),)


def test_wrong_lists_and_names_are_named(tmp_path: Path) -> None:
    vipseg.build(tmp_path)
    check_misnamed(lambda: VipSeg(tmp_path, "val"), "imgs/12_1mWNahzcsAc/cover.jpg")
    rmtree(tmp_path / "imgs/12_1mWNahzcsAc")
    dataset = VipSeg(tmp_path, "val")
    reason = "has no pictures, but val.txt lists the video"
    assert dataset.index_problems == (Problem("12_1mWNahzcsAc", "imgs/12_1mWNahzcsAc", reason),)
    assert len(dataset.videos) == 1
    (tmp_path / "val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"val\.txt cannot be read: it is not text; it lists the videos"):
        VipSeg(tmp_path, "val")
    (tmp_path / "val.txt").write_text("\n")
    with pytest.raises(InputError, match=r"VIPSeg split 'val' .* holds no frames"):
        VipSeg(tmp_path, "val")
    (tmp_path / "val.txt").unlink()
    with pytest.raises(InputError, match=r"val\.txt cannot be read: No such file or directory; it lists the videos"):
        VipSeg(tmp_path, "val")
    with pytest.raises(InputError, match="VIPSeg has no split 'dev'; allowed: train, val, test"):
        VipSeg(tmp_path, "dev")
