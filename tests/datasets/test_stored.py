"""What all published data sets share: selection of frames, gaps, scaling, checked ids, and frames left out."""

import pickle
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.datasets.miniature import cityscapes, cityscapes_sequence, synthia_seq
from tests.datasets.miniature.truth import Truth
from vidapt.clip import collate
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.cityscapes_sequence import CityscapesSequence
from vidapt.datasets.stored import (
    DatasetCard,
    Frame,
    ReadOptions,
    StoredDataset,
    Video,
    files_below,
    no_labels,
    select_frames,
    stamp,
    still,
)
from vidapt.datasets.synthia_seq import SynthiaSeq
from vidapt.errors import InputError
from vidapt.io.images import read_label

ROAD, CAR = 7, 26


class Toy(StoredDataset):
    """Pictures ``<video>/<number>.png`` of constant colour = number; labels ``<video>/<number>_ids.png`` where made."""

    card = DatasetCard(
        name="toy",
        title="Toy",
        labels="panoptic video",
        video=True,
        splits={"train": 3, "val": None},
        layout="<video>/<number>.png",
        licence="none",
        home="here",
        checked="on generated files only",
    )
    space = "cityscapes_ids"
    has_instances = True

    def find_videos(self) -> list[Video]:
        if self.split == "val":
            return []
        return [self._video(folder.name) for folder in sorted(path for path in self.root.iterdir() if path.is_dir())]

    def _video(self, name: str) -> Video:
        images = [path for path in files_below(self.root, name, ".png") if "_ids" not in path]
        frames = []
        for image in images:
            label = image.replace(".png", "_ids.png")
            labels = (label,) if (self.root / label).exists() else ()
            number = int(Path(image).stem)
            frames.append(Frame(f"{name}_{number:03d}", image, labels, number, bool(labels)))
        return Video(name, tuple(frames), fps=10.0)

    def read_labels(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        picture = read_label(self.root / frame.labels[0])
        return picture, np.where(picture == CAR, 5, 0).astype(np.int32)


def write_video(folder: Path, numbers: Sequence[int], keys: Sequence[int] = (), size: tuple[int, int] = (6, 8)) -> Path:
    """Frames with these numbers; those of ``keys`` are labelled: road, one car at the top left."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(np.full((*size, 3), number, np.uint8)).save(folder / f"{number:03d}.png")
    for number in keys:
        label = np.full(size, ROAD, np.uint8)
        label[:2, :2] = CAR
        Image.fromarray(label).save(folder / f"{number:03d}_ids.png")
    return folder


def video(numbers: Sequence[int], keys: Sequence[int] | None = None, step: int = 1) -> Video:
    """A video without files; all frames are key frames unless ``keys`` says which."""
    wanted = set(numbers if keys is None else keys)
    frames = tuple(Frame(str(number), f"{number}.png", (), number, number in wanted) for number in numbers)
    return Video("v", frames, fps=10.0, step=step)


def numbers_of(chosen: Video) -> list[int]:
    return [frame.number for frame in chosen.frames]


def keys_of(chosen: Video) -> list[int]:
    return [frame.number for frame in chosen.frames if frame.key]


def all_clips(dataset: StoredDataset) -> list[list[int]]:
    """Frame numbers of every clip."""
    found = []
    for item in range(len(dataset)):
        clip = dataset[item]
        place = dataset.videos.index(clip.video)
        found.append([dataset.frame(place, position).number for position in clip.indices.tolist()])
    return found


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


# --- selection


def test_without_options_a_video_is_itself() -> None:
    whole = video(range(5), [2])
    assert select_frames(whole, 1, None) is whole


def test_every_keeps_key_frames_that_are_multiples() -> None:
    chosen = select_frames(video(range(21)), 10, None)
    assert (numbers_of(chosen), keys_of(chosen), chosen.step) == ([0, 10, 20], [0, 10, 20], 10)


def test_every_counts_numbers_not_places() -> None:
    assert numbers_of(select_frames(video(range(1, 22)), 10, None)) == [10, 20]


def test_every_leaves_out_frames_that_are_no_key_frames() -> None:
    assert numbers_of(select_frames(video(range(21), [5, 10, 19]), 5, None)) == [5, 10]


def test_context_keeps_the_frames_before_each_key_frame() -> None:
    chosen = select_frames(video(range(30), [3, 19]), 1, 4)
    assert numbers_of(chosen) == [0, 1, 2, 3, 15, 16, 17, 18, 19]
    assert keys_of(chosen) == [3, 19]
    assert chosen.step == 1


def test_context_zero_keeps_key_frames_only() -> None:
    assert numbers_of(select_frames(video(range(30), [3, 19]), 1, 0)) == [3, 19]


def test_context_counts_frames_not_numbers() -> None:
    assert numbers_of(select_frames(video(range(0, 60, 5), [25], step=5), 1, 2)) == [15, 20, 25]


def test_a_frame_kept_as_context_is_no_key_frame() -> None:
    """DA-VSN trains on every tenth frame of VIPER with the frame before it, which is labelled as well."""
    chosen = select_frames(video(range(25)), 10, 1)
    assert numbers_of(chosen) == [0, 9, 10, 19, 20]
    assert keys_of(chosen) == [0, 10, 20]
    assert chosen.step == 1


def test_nothing_is_kept_where_no_key_frame_fits() -> None:
    assert numbers_of(select_frames(video(range(5), []), 1, 3)) == []
    assert numbers_of(select_frames(video([1, 2, 3]), 7, 1)) == []


@given(
    st.sets(st.integers(0, 40), min_size=1),
    st.sets(st.integers(0, 40)),
    st.integers(1, 7),
    st.one_of(st.none(), st.integers(0, 5)),
)
def test_selection_equals_its_definition(numbers: set[int], keys: set[int], every: int, context: int | None) -> None:
    order = sorted(numbers)
    chosen = select_frames(video(order, sorted(keys & numbers)), every, context)
    wanted = [number for number in order if number in keys and number % every == 0]
    if every == 1 and context is None:
        assert numbers_of(chosen) == order
        return
    kept = {order[place] for key in wanted for place in range(order.index(key) + 1)
            if order.index(key) - place <= (context or 0)}  # fmt: skip
    assert (numbers_of(chosen), keys_of(chosen)) == (sorted(kept), wanted)


def test_selection_reaches_clips_and_times(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path)
    dataset = CityscapesSequence(tmp_path, "val", clip_length=2, options=ReadOptions(context=1))
    assert len(dataset) == 4
    assert all_clips(dataset) == [[293, 294], [575, 576], [49697, 49698], [18, 19]]
    for item in range(4):
        clip = dataset[item]
        assert clip.target is not None
        assert clip.target.labelled.tolist() == [False, True]
        np.testing.assert_allclose(clip.times.numpy(), [0, 1 / 17])


def test_every_tenth_frame_gives_clips_of_tenth_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a", range(31), range(31))
    dataset = Toy(tmp_path, clip_length=2, options=ReadOptions(every=10))
    assert all_clips(dataset) == [[0, 10], [10, 20], [20, 30]]
    assert dataset[1].times.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("count", "expected"), [(1, "a"), (2, "ac"), (3, "abd"), (5, "abcde"), (9, "abcde")])
def test_videos_are_spread_over_the_split(tmp_path: Path, count: int, expected: str) -> None:
    for name in "abcde":
        write_video(tmp_path / name, [0], [0])
    assert Toy(tmp_path, options=ReadOptions(videos=count)).videos == list(expected)


def test_videos_without_a_chosen_frame_do_not_count(tmp_path: Path) -> None:
    for name, numbers in (("a", [1]), ("b", [0, 5]), ("c", [2]), ("d", [10])):
        write_video(tmp_path / name, numbers, numbers)
    assert Toy(tmp_path, options=ReadOptions(every=5, videos=2)).videos == ["b", "d"]


def test_unlabelled_footage_keeps_the_same_frames(tmp_path: Path) -> None:
    """Key frames are those of the release, so that ``context`` chooses alike with and without labels at hand."""
    cityscapes_sequence.build(tmp_path)
    options = ReadOptions(context=2, videos=3)
    labelled = CityscapesSequence(tmp_path, "val", options=options)
    bare = CityscapesSequence(tmp_path, "val", options=options, labelled=False)
    assert [(f.name, f.number, f.key) for f in bare.frames()] == [(f.name, f.number, f.key) for f in labelled.frames()]
    assert sum(frame.key for frame in bare.frames()) == 3
    assert not any(frame.labels for frame in bare.frames())


# --- clips and gaps


@pytest.mark.parametrize(
    ("length", "interval", "expected"),
    [
        (1, 1, [[0], [1], [2], [5], [6], [9]]),
        (2, 1, [[0, 1], [1, 2], [5, 6]]),
        (3, 1, [[0, 1, 2]]),
        (2, 2, [[0, 2]]),
    ],
)
def test_no_clip_crosses_a_gap(tmp_path: Path, length: int, interval: int, expected: list[list[int]]) -> None:
    write_video(tmp_path / "a", [0, 1, 2, 5, 6, 9], [0])
    dataset = Toy(tmp_path, clip_length=length, interval=interval)
    assert all_clips(dataset) == expected


def test_no_clip_crosses_from_a_video_to_the_next(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1], [0])
    write_video(tmp_path / "b", [2, 3, 4], [2])
    dataset = Toy(tmp_path, clip_length=2)
    assert all_clips(dataset) == [[0, 1], [2, 3], [3, 4]]
    assert dataset[1].video == "b"
    assert dataset[1].indices.tolist() == [0, 1]


def test_times_count_from_the_first_frame_over_gaps(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [3, 4, 8], [3])
    np.testing.assert_allclose([Toy(tmp_path)[item].times.item() for item in range(3)], [0, 0.1, 0.5])


def test_no_clip_fits(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1, 5], [0])
    with pytest.raises(InputError, match="no clip of 3 frames, 1 apart, fits into any of 1 videos"):
        Toy(tmp_path, clip_length=3)
    with pytest.raises(InputError, match="clip_length=0 and interval=1 must be 1 or more"):
        Toy(tmp_path, clip_length=0)


def test_frames_without_labels_ignore_everything(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1, 2], [1])
    pair, alone = Toy(tmp_path, clip_length=2), Toy(tmp_path)
    assert [pair[item].target.labelled.tolist() for item in range(2)] == [[False, True], [True, False]]
    empty = alone[0].target
    assert empty.labelled.tolist() == [False]
    assert (empty.semantic == 255).all()
    assert (empty.instance == 0).all()
    assert (empty.semantic.dtype, empty.instance.dtype) == (torch.uint8, torch.int32)
    batch = collate([alone[0], alone[1]], [0, 1])
    assert batch.target.labelled.tolist() == [[False], [True]]


def test_videos_frame_by_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1, 2], [1])
    dataset = Toy(tmp_path)
    frames = list(dataset.iterate_video(0))
    assert [int(image[0, 0, 0]) for image, _ in frames] == [0, 1, 2]
    assert [target is None for _, target in frames] == [True, False, True]
    assert frames[1][1].semantic.tolist() == dataset[1].target.semantic.tolist()
    assert [dataset.frame_name(0, place) for place in range(3)] == ["a_000", "a_001", "a_002"]


def test_no_labels_has_the_shape_of_the_clip() -> None:
    clip = no_labels(replace_frames(torch.zeros(3, 3, 4, 5, dtype=torch.uint8)))
    assert clip.semantic.shape == clip.instance.shape == (3, 4, 5)
    assert clip.labelled.shape == (3,)


def replace_frames(frames: torch.Tensor):
    from vidapt.clip import Clip

    return Clip(frames, "v", torch.arange(len(frames)), torch.arange(len(frames)).double())


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
    with pytest.raises(InputError, match=r"trim \[24, 24\] leaves no row of pictures that are 48 rows high"):
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
