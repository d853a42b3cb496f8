import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature.gta5 import build
from tests.datasets.miniature.truth import Truth
from tests.datasets.reading import check_damaged_files, check_reading
from vidapt.datasets.gta5 import Gta5
from vidapt.datasets.integrity import quick_problems
from vidapt.datasets.stored import ReadOptions
from vidapt.errors import InputError


def write_label(path: Path, ids: np.ndarray) -> None:
    """A palette picture in which all ids have one colour."""
    picture = Image.fromarray(ids.astype(np.uint8), "P")
    picture.putpalette([128, 64, 128] * 256)
    picture.save(path)


def copy_frame(root: Path, number: int) -> None:
    for folder in ("images", "labels"):
        shutil.copy(root / folder / "00001.png", root / folder / f"{number:05d}.png")


def with_doubled_labels(truth: Truth) -> Truth:
    """The truth of labels at half the size of their picture, each of their pixels shown as four."""

    def mend(frame):
        half = frame.classes.shape != frame.image.shape[:2]
        return replace(frame, classes=frame.classes.repeat(2, 0).repeat(2, 1)) if half else frame

    return replace(truth, frames={path: mend(frame) for path, frame in truth.frames.items()})


@pytest.mark.parametrize("seed", [0, 1])
def test_frames_are_read_as_written(tmp_path: Path, seed: int) -> None:
    truth = build(tmp_path, seed=seed)
    dataset = Gta5(truth.root)
    assert not dataset.has_instances
    assert dataset.label_space.name == "cityscapes_ids"
    check_reading(dataset, truth)


def test_known_labels_of_another_size_are_scaled_to_their_picture(tmp_path: Path) -> None:
    truth = build(tmp_path, mismatch=True)
    check_reading(Gta5(truth.root), with_doubled_labels(truth))
    assert quick_problems(Gta5(truth.root)) == []


@pytest.mark.parametrize(("number", "known"), [(20800, False), (20801, True), (20860, True), (20861, False)])
def test_only_sixty_labels_may_have_another_size(tmp_path: Path, number: int, known: bool) -> None:
    build(tmp_path, frames=1)
    copy_frame(tmp_path, number)
    write_label(tmp_path / f"labels/{number:05d}.png", np.full((40, 90), 7))
    dataset = Gta5(tmp_path)
    frame = list(dataset.frames())[-1]
    if known:
        assert dataset.read_frame(frame).labels.semantic.shape == (48, 96)
    else:
        with pytest.raises(InputError, match=rf"labels/{number}\.png is 90x40 but its image is 96x48"):
            dataset.read_frame(frame)


def test_the_two_unusable_pictures_are_left_out(tmp_path: Path) -> None:
    build(tmp_path, frames=2)
    for number in (15187, 15188, 15189, 17705):
        copy_frame(tmp_path, number)
    dataset = Gta5(tmp_path)
    assert [frame.number for frame in dataset.frames()] == [1, 2, 15187, 15189]
    assert [frame.name for frame in dataset.frames()] == ["00001", "00002", "15187", "15189"]
    assert dict(Gta5.card.splits) == {"train": 24964}
    for number in (15188, 17705):
        (tmp_path / f"images/{number}.png").unlink()
    assert dataset.index_problems == Gta5(tmp_path).index_problems == ()


def test_the_index_counts_not_the_colour(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    ids = np.arange(48 * 96).reshape(48, 96) % 35
    write_label(tmp_path / "labels/00001.png", ids)
    dataset = Gta5(tmp_path)
    labels = dataset.read_frame(next(dataset.frames())).labels
    void = np.array([label.is_void for label in dataset.label_space.classes])
    assert np.array_equal(labels.semantic, np.where(void[ids], 255, ids))
    assert len(np.unique(labels.semantic)) > 19
    assert not labels.instance.any()


def test_an_id_outside_the_table_is_named(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    ids = np.full((48, 96), 7)
    ids[0, 0] = 35
    write_label(tmp_path / "labels/00001.png", ids)
    dataset = Gta5(tmp_path)
    with pytest.raises(InputError, match=r"labels/00001\.png has label ids \[35\] that GTA5 does not define"):
        dataset.read_frame(next(dataset.frames()))


@pytest.mark.parametrize("number", [1, 20801])
def test_a_label_in_colours_is_refused(tmp_path: Path, number: int) -> None:
    build(tmp_path, frames=1)
    copy_frame(tmp_path, number) if number != 1 else None
    Image.fromarray(np.full((48, 96, 3), 7, np.uint8)).save(tmp_path / f"labels/{number:05d}.png")
    dataset = Gta5(tmp_path)
    with pytest.raises(InputError, match=rf"labels/{number:05d}\.png is a picture in colours"):
        dataset.read_frame(list(dataset.frames())[-1])


def test_a_label_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    Image.fromarray(np.full((48, 96), 7 * 257, np.uint16)).save(tmp_path / "labels/00001.png")
    dataset = Gta5(tmp_path)
    with pytest.raises(InputError, match=r"labels/00001\.png has label ids \[1799\]"):
        dataset.read_frame(next(dataset.frames()))


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    check_damaged_files(Gta5(build(tmp_path, frames=2).root))


def test_unlabelled_reading_needs_no_label_files(tmp_path: Path) -> None:
    truth = build(tmp_path)
    shutil.rmtree(tmp_path / "labels")
    check_reading(Gta5(tmp_path, labelled=False), truth)


def test_scaling_cuts_pictures_and_labels_alike(tmp_path: Path) -> None:
    truth = build(tmp_path, frames=1)
    clip = Gta5(tmp_path, options=ReadOptions(trim=(8, 0), height=20))[0]
    assert clip.frames.shape == (1, 3, 20, 48)
    known = clip.target.semantic[0].numpy()
    # Pixel k of the half-size picture has its centre on the border of pixels 2k and 2k+1; the later one counts.
    expected = truth.frames["images/00001.png"].classes[8:][1::2, 1::2]
    assert np.array_equal(known[known != 255], expected[known != 255])
    assert (known != 255).any()


def test_wrong_roots_and_splits_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no frames; expected files:\nimages/<number>\.png"):
        Gta5(tmp_path)
    with pytest.raises(InputError, match="has no split 'val'; allowed: train"):
        Gta5(tmp_path, "val")
