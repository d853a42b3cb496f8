"""What all published data sets share: options, opening, scaling, checked ids, frames left out, and listing files."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.datasets.miniature import cityscapes, synthia_seq
from tests.datasets.miniature.truth import Truth
from tests.datasets.toy import Toy, all_clips, write_video
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.frame_index import Frame, Video, files_below, stamp, still
from vidapt.datasets.stored import ReadOptions
from vidapt.datasets.synthia_seq import SynthiaSeq
from vidapt.errors import ConfigError, InputError

# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 5, "fit": (4, 4)}, r"height 5 and fit \[4, 4\] both give a size; drop one"),
        ({"trim": (-1, 0)}, r"trim \[-1, 0\]"),
        ({"trim": (0, -2)}, r"trim \[0, -2\]"),
        ({"every": 0}, "every 0"),
        ({"context": -1}, "context -1"),
        ({"height": 0}, "height 0"),
        ({"fit": (0, 5)}, r"fit \[0, 5\]"),
        ({"videos": 0}, "videos 0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReadOptions(**options)


# --- opening


def test_unknown_split_and_empty_split(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0], [0])
    with pytest.raises(InputError, match="Toy has no split 'test'; allowed: train, val"):
        Toy(tmp_path, "test")
    with pytest.raises(InputError, match=r"Toy split 'val' in .* holds no frames; expected files:\n<video>/<number>"):
        Toy(tmp_path, "val")


def test_pictures_without_labels(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1])
    with pytest.raises(InputError, match="has pictures but no labels; use it as an unlabelled target, or add"):
        Toy(tmp_path)
    bare = Toy(tmp_path, labelled=False)
    assert len(bare) == 2
    assert (bare[0].target, bare.label_space) == (None, None)


def test_unlabelled_reading_needs_no_label_files(tmp_path: Path) -> None:
    truth = cityscapes.build(tmp_path)
    shutil.rmtree(tmp_path / "gtFine")
    dataset = Cityscapes(tmp_path, labelled=False)
    assert len(dataset) == len(truth.frames)
    assert dataset[0].target is None


def test_opening_reads_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cityscapes.build(tmp_path)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    assert len(Cityscapes(tmp_path)) == 3


def test_a_pickled_copy_reads_the_same(tmp_path: Path) -> None:
    synthia_seq.build(tmp_path)
    options = ReadOptions(height=24, cache=tmp_path / "cache")
    dataset = SynthiaSeq(tmp_path, clip_length=2, options=options)
    copy = pickle.loads(pickle.dumps(dataset))
    assert list(copy.frames()) == list(dataset.frames())
    assert torch.equal(copy[0].target.instance, dataset[0].target.instance)
    assert torch.equal(copy[0].frames, dataset[0].frames)


# --- sizes


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return cityscapes.build(tmp_path)


def first(truth: Truth, options: ReadOptions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture, classes and instances of the first frame."""
    clip = Cityscapes(truth.root, options=options)[0]
    return clip.frames[0].permute(1, 2, 0).numpy(), clip.target.semantic[0].numpy(), clip.target.instance[0].numpy()


def test_half_the_height_averages_pictures_and_picks_labels(truth: Truth) -> None:
    image, _, instance = first(truth, ReadOptions(height=24))
    true = truth.frames[truth.videos[0][0]]
    means = true.image.reshape(24, 2, 48, 2, 3).mean((1, 3))
    assert image.shape == (24, 48, 3)
    assert np.abs(image - means).max() <= 0.51
    assert np.array_equal(instance, true.objects[1::2, 1::2])


def test_trim_cuts_the_stored_rows_before_scaling(truth: Truth) -> None:
    image, _, instance = first(truth, ReadOptions(trim=(8, 16)))
    true = truth.frames[truth.videos[0][0]]
    assert np.array_equal(image, true.image[8:32])
    assert np.array_equal(instance, true.objects[8:32])
    smaller, _, picked = first(truth, ReadOptions(trim=(8, 16), height=12))
    assert smaller.shape == (12, 48, 3)
    assert np.array_equal(picked, true.objects[8:32][1::2, 1::2])


@pytest.mark.parametrize(
    ("fit", "size"), [((24, 96), (24, 48)), ((48, 32), (16, 32)), ((100, 100), (50, 100)), ((48, 96), (48, 96))]
)
def test_fit_keeps_the_aspect_inside_the_box(truth: Truth, fit: tuple[int, int], size: tuple[int, int]) -> None:
    image, semantic, instance = first(truth, ReadOptions(fit=fit))
    assert image.shape[:2] == semantic.shape == instance.shape == size


def test_trim_that_leaves_nothing(truth: Truth) -> None:
    dataset = Cityscapes(truth.root, options=ReadOptions(trim=(24, 24)))
    with pytest.raises(ConfigError, match=r"trim \[24, 24\] leaves no row of pictures that are 48 rows high"):
        dataset[0]


def test_scaling_changes_no_label_value(truth: Truth) -> None:
    true = truth.frames[truth.videos[0][0]]
    _, semantic, instance = first(truth, ReadOptions(height=35))
    assert set(np.unique(instance).tolist()) <= set(np.unique(true.objects).tolist())
    assert set(np.unique(semantic).tolist()) <= {*np.unique(true.classes).tolist(), 255}


# --- ids


def with_ids(folder: Path, ids: np.ndarray) -> Toy:
    """One frame whose label picture holds these ids."""
    write_video(folder / "a", [0], [0], size=(ids.shape[0], ids.shape[1]))
    Image.fromarray(ids).save(folder / "a" / "000_ids.png")
    return Toy(folder)


def test_void_ids_become_255_and_255_stays(tmp_path: Path) -> None:
    dataset = with_ids(tmp_path, np.array([[0, 6, 7, 33, 34, 255]], np.uint8))
    assert dataset[0].target.semantic.tolist() == [[[255, 255, 7, 33, 255, 255]]]


@pytest.mark.parametrize("wrong", [35, 254, 256, 4095, 4096, 65535])
def test_ids_outside_the_table_are_refused(tmp_path: Path, wrong: int) -> None:
    dataset = with_ids(tmp_path, np.array([[7, 8, wrong]], np.uint16))
    with pytest.raises(InputError) as caught:
        dataset[0]
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "a" / "000_ids.png"))
    assert f"label ids [{wrong}] that Toy does not define; allowed: 0..34 and 255 = ignore" in message


def test_negative_ids_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = with_ids(tmp_path, np.array([[7, 8, 9]], np.uint8))
    wrong = np.array([[-1, 7, 7]], np.int32)
    monkeypatch.setattr(dataset, "read_labels", lambda frame: (wrong, np.zeros_like(wrong)))
    with pytest.raises(InputError, match=r"label ids \[-1\]"):
        dataset[0]


def test_many_wrong_ids_are_shortened(tmp_path: Path) -> None:
    dataset = with_ids(tmp_path, np.arange(40, 60, dtype=np.uint8)[None])
    with pytest.raises(InputError, match=r"label ids \[40, 41, 42, 43, 44\] that"):
        dataset[0]


def test_a_label_of_another_size(tmp_path: Path) -> None:
    dataset = with_ids(tmp_path, np.full((2, 5), 7, np.uint8))
    Image.fromarray(np.full((2, 4), 7, np.uint8)).save(tmp_path / "a" / "000_ids.png")
    with pytest.raises(InputError, match=r"000_ids\.png is 4x2 but its image is 5x2; both must show the same frame"):
        dataset[0]


def test_a_label_in_colours_where_ids_are_due(tmp_path: Path) -> None:
    dataset = with_ids(tmp_path, np.full((2, 5), 7, np.uint8))
    Image.fromarray(np.full((2, 5, 3), 7, np.uint8)).save(tmp_path / "a" / "000_ids.png")
    with pytest.raises(InputError, match=r"000_ids\.png .*colours.*one value per pixel"):
        dataset[0]


# --- leaving frames out


def test_without_makes_a_gap(tmp_path: Path) -> None:
    write_video(tmp_path / "a", range(5), range(5))
    write_video(tmp_path / "b", [0], [0])
    dataset = Toy(tmp_path, clip_length=2)
    dataset.without(["a_002", "b_000", "unknown"])
    assert dataset.videos == ["a"]
    assert all_clips(dataset) == [[0, 1], [3, 4]]
    np.testing.assert_allclose(dataset[1].times.tolist(), [0.3, 0.4])
    assert [frame.name for frame in dataset.frames()] == ["a_000", "a_001", "a_003", "a_004"]


def test_without_keeps_lengths_and_options(tmp_path: Path) -> None:
    write_video(tmp_path / "a", range(6), range(6))
    dataset = Toy(tmp_path, clip_length=2, interval=2, options=ReadOptions(height=3))
    dataset.without(["a_000"])
    assert all_clips(dataset) == [[1, 3], [2, 4], [3, 5]]
    assert dataset[0].frames.shape == (2, 3, 3, 4)
    assert dataset[0].target is not None


def test_nothing_left(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1], [0, 1])
    dataset = Toy(tmp_path)
    with pytest.raises(InputError, match=r"Toy split 'train' in .* nothing is left"):
        dataset.without(["a_000", "a_001"])


def test_no_label_left(tmp_path: Path) -> None:
    """Training on what remains would run without a single label."""
    write_video(tmp_path / "a", [0, 1], [1])
    dataset = Toy(tmp_path)
    with pytest.raises(InputError, match=r"Toy split 'train' in .* no labelled frame is left"):
        dataset.without(["a_001"])
    bare = Toy(tmp_path, labelled=False)
    bare.without(["a_001"])
    assert len(bare) == 1


# --- files


def test_files_below_are_listed_in_natural_order(tmp_path: Path) -> None:
    for name in ("b/f10.png", "b/f9.png", "a/x.png", ".hidden.png", "b/.f1.png", "b/note.txt", "f2.png"):
        path = tmp_path / "top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert files_below(tmp_path, "top", ".png") == ["top/a/x.png", "top/b/f9.png", "top/b/f10.png", "top/f2.png"]
    assert files_below(tmp_path, "top", ("9.png", ".txt")) == ["top/b/f9.png", "top/b/note.txt"]
    assert files_below(tmp_path, "nowhere") == []


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").touch()
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "city").symlink_to(tmp_path / "real")
    assert files_below(tmp_path, "top") == ["top/city/a.png"]


def test_stamp_tells_changes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert stamp(path) == (str(path), -1, -1)
    path.write_bytes(b"123")
    before = stamp(path)
    assert before[1] == 3
    path.write_bytes(b"1234")
    assert stamp(path) != before


def test_a_still_is_a_video_of_one_frame() -> None:
    made = still("x", "x.png", ["x_ids.png"])
    assert made == Video("x", (Frame("x", "x.png", ("x_ids.png",)),))
    assert replace(made, fps=2.0).frames[0].key
