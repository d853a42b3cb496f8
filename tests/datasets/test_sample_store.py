"""The read-through cache: what is kept, what is written anew, and what happens when writing fails."""

import multiprocessing
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from tests.datasets.miniature import cityscapes, synthia
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.clip_dataset import Labels, Sample
from vidapt.datasets.sample_store import SampleStore, decode_sample, encode_sample
from vidapt.datasets.stored import ReadOptions, StoredDataset
from vidapt.datasets.synthia import Synthia
from vidapt.errors import InputError

KEY = ("toy", 1)


def sample(seed: int = 0, size: tuple[int, int] = (24, 32), high: int = 50000) -> Sample:
    """A smooth picture with random labels."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (2, 2, 3), np.uint8), size[::-1], interpolation=cv2.INTER_LINEAR)
    instance = rng.integers(0, high, size, np.int32, endpoint=True)
    return Sample(image, Labels(rng.integers(0, 256, size, np.uint8), instance))


def assert_same(first: Sample, second: Sample) -> None:
    assert np.array_equal(first.image, second.image)
    assert (first.labels is None) == (second.labels is None)
    if first.labels is not None and second.labels is not None:
        assert np.array_equal(first.labels.semantic, second.labels.semantic)
        assert np.array_equal(first.labels.instance, second.labels.instance)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def refuse() -> Sample:
    raise AssertionError("the original was read")


# --- the form of a frame


def test_pictures_stay_close_and_labels_exact() -> None:
    original = sample()
    kept = decode_sample(encode_sample(original))
    assert kept.image.shape == original.image.shape
    assert np.abs(kept.image.astype(int) - original.image).mean() < 2
    assert kept.labels is not None
    assert original.labels is not None
    assert np.array_equal(kept.labels.semantic, original.labels.semantic)
    assert np.array_equal(kept.labels.instance, original.labels.instance)
    assert (kept.image.dtype, kept.labels.semantic.dtype, kept.labels.instance.dtype) == (
        np.uint8,
        np.uint8,
        np.int32,
    )


def test_colours_keep_their_order() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 220
    assert decode_sample(encode_sample(Sample(red))).image.mean((0, 1)).round() == pytest.approx([220, 0, 0], abs=3)


def test_a_frame_without_labels() -> None:
    assert decode_sample(encode_sample(Sample(sample().image))).labels is None


@pytest.mark.parametrize("high", [0, 1, 65535, 65536, (1 << 24) - 1])
def test_track_ids_are_exact_up_to_three_bytes(high: int) -> None:
    instance = np.array([[0, high, high // 2, min(high, 255), min(high, 256), min(high, 65535)]], np.int32)
    labels = Labels(np.zeros_like(instance, np.uint8), instance)
    kept = decode_sample(encode_sample(Sample(np.zeros((1, 6, 3), np.uint8), labels))).labels
    assert kept is not None
    assert kept.instance.dtype == np.int32
    assert np.array_equal(kept.instance, instance)


@given(
    arrays.arrays(np.int32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 2**24 - 1))
)
@settings(max_examples=60)
def test_any_track_ids_are_exact(instance: np.ndarray) -> None:
    semantic = (instance % 256).astype(np.uint8)
    kept = decode_sample(
        encode_sample(Sample(np.zeros((*instance.shape, 3), np.uint8), Labels(semantic, instance)))
    ).labels
    assert kept is not None
    assert np.array_equal(kept.instance, instance)
    assert np.array_equal(kept.semantic, semantic)


@pytest.mark.parametrize("wrong", [-1, 1 << 24])
def test_track_ids_beyond_three_bytes_are_refused(wrong: int) -> None:
    labels = Labels(np.zeros((1, 2), np.uint8), np.array([[0, wrong]], np.int32))
    with pytest.raises(ValueError, match=r"cannot be kept; allowed: 0\.\.16777215"):
        encode_sample(Sample(np.zeros((1, 2, 3), np.uint8), labels))


@pytest.mark.parametrize("labelled", [True, False])
def test_every_cut_is_noticed(labelled: bool) -> None:
    data = encode_sample(sample() if labelled else Sample(sample().image))
    for length in range(0, len(data), 7):
        with pytest.raises(ValueError, match="a kept frame"):
            decode_sample(data[:length])
    with pytest.raises(ValueError, match="a kept frame"):
        decode_sample(data + b"x")


@pytest.mark.parametrize("labelled", [True, False])
def test_every_changed_byte_is_noticed(labelled: bool) -> None:
    data = encode_sample(sample() if labelled else Sample(sample().image))
    for place in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[place] ^= 0x41
        with pytest.raises(ValueError, match="a kept frame"):
            decode_sample(bytes(damaged))


# --- the store


def test_a_hit_equals_the_miss(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "cache")
    missed = store.get(KEY, sample)
    assert_same(store.get(KEY, refuse), missed)
    assert_same(SampleStore(tmp_path / "cache").get(KEY, refuse), missed)
    assert len(files_of(tmp_path / "cache")) == 1


def test_other_keys_are_other_frames(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    first, second = store.get(("a", 1), lambda: sample(1)), store.get(("a", 2), lambda: sample(2))
    assert not np.array_equal(first.image, second.image)
    assert store.path(("a", 1)) != store.path(("a", "1"))
    assert len(files_of(tmp_path)) == 2


def test_reading_errors_pass_and_nothing_is_kept(tmp_path: Path) -> None:
    def fail() -> Sample:
        raise InputError("x.png is damaged")

    store = SampleStore(tmp_path / "cache")
    with pytest.raises(InputError, match=r"x\.png is damaged"):
        store.get(KEY, fail)
    assert files_of(tmp_path) == []
    assert store.get(KEY, sample).labels is not None


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "garbage"])
def test_a_damaged_file_is_written_anew(tmp_path: Path, damage: str) -> None:
    store = SampleStore(tmp_path)
    missed = store.get(KEY, sample)
    path = store.path(KEY)
    data = bytearray(path.read_bytes())
    # In the picture, not in its labels: JPEG has no checksum of its own.
    data[60] ^= 0xFF
    wrong = {"cut": data[: len(data) // 2], "empty": b"", "changed": data, "garbage": b"\xff" * 400}[damage]
    path.write_bytes(wrong)
    assert_same(store.get(KEY, sample), missed)
    assert_same(store.get(KEY, refuse), missed)


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    store = SampleStore(tmp_path / "cache")
    with pytest.warns(UserWarning, match=r"cache .*cache cannot be written \(.*\); reading goes on") as caught:
        first = store.get(KEY, sample)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(store.get(("toy", 2), sample), first)


def test_a_failed_write_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SampleStore(tmp_path)

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="No space left"):
        store.get(KEY, sample)
    assert files_of(tmp_path) == []


def test_kept_files_are_readable_by_all_who_may_read_the_folder(tmp_path: Path) -> None:
    """A cache on a shared disk serves every user of the group."""
    before = os.umask(0o022)
    try:
        store = SampleStore(tmp_path)
        store.get(KEY, sample)
    finally:
        os.umask(before)
    assert store.path(KEY).stat().st_mode & 0o777 == 0o644


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    SampleStore("~/cache").get(KEY, sample)
    assert len(files_of(tmp_path / "cache")) == 1


def write_often(folder: Path, count: int, barrier: object) -> None:
    """Write the same frame again and again, all processes at once."""
    store = SampleStore(folder)
    expected = decode_sample(encode_sample(sample()))
    for number in range(count):
        barrier.wait()  # type: ignore[attr-defined]
        assert_same(store.get(("toy", number), sample), expected)
        assert_same(store.get(("toy", number), sample), expected)


def test_processes_may_write_the_same_frame_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    workers = [context.Process(target=write_often, args=(tmp_path, 30, barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(files_of(tmp_path)) == 30
    assert all(path.suffix == ".frame" for path in files_of(tmp_path))


# --- through a data set


def clips(dataset: StoredDataset) -> list[torch.Tensor]:
    """Pictures, classes and instances of all clips."""
    found = []
    for item in range(len(dataset)):
        clip = dataset[item]
        assert clip.target is not None
        found += [clip.frames, clip.target.semantic, clip.target.instance]
    return found


def test_a_second_epoch_reads_no_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cityscapes.build(tmp_path / "data")
    options = ReadOptions(height=24, cache=tmp_path / "cache")
    dataset = Cityscapes(tmp_path / "data", options=options)
    first = clips(dataset)
    assert len(files_of(tmp_path / "cache")) == 3
    monkeypatch.setattr(StoredDataset, "read_frame", lambda self, frame: refuse())
    assert all(map(torch.equal, first, clips(Cityscapes(tmp_path / "data", options=options))))


def test_cached_labels_equal_uncached_ones(tmp_path: Path) -> None:
    """Instance numbers of SYNTHIA need three bytes."""
    truth = synthia.build(tmp_path / "data")
    plain = clips(Synthia(truth.root))
    cached = clips(Synthia(truth.root, options=ReadOptions(cache=tmp_path / "cache")))
    assert max(int(field.max()) for field in plain[2::3]) > 1 << 16
    for place in range(0, len(plain), 3):
        assert torch.equal(cached[place + 1], plain[place + 1])
        assert torch.equal(cached[place + 2], plain[place + 2])


def test_a_changed_original_is_read_anew(tmp_path: Path) -> None:
    cityscapes.build(tmp_path / "data")
    options = ReadOptions(cache=tmp_path / "cache")
    dataset = Cityscapes(tmp_path / "data", options=options)
    clips(dataset)
    frame = dataset.frame(0, 0)
    for file in (frame.image, frame.labels[0]):
        path = tmp_path / "data" / file
        flipped = np.array(Image.open(path))[:, ::-1]
        Image.fromarray(np.ascontiguousarray(flipped)).save(path)
    instance = dataset[0].target.instance[0].numpy()
    assert np.array_equal(instance, np.where(flipped >= 1000, flipped, 0))
    assert len(files_of(tmp_path / "cache")) == 4


@pytest.mark.parametrize(
    "options", [{"height": 24}, {"fit": (20, 30)}, {"trim": (8, 8)}, {"height": 24, "trim": (0, 8)}], ids=str
)
def test_options_have_their_own_frames(tmp_path: Path, options: dict[str, object]) -> None:
    cityscapes.build(tmp_path / "data")
    whole = Cityscapes(tmp_path / "data", options=ReadOptions(cache=tmp_path / "cache"))
    assert whole[0].frames.shape[-2:] == (48, 96)
    other = Cityscapes(tmp_path / "data", options=ReadOptions(**options, cache=tmp_path / "cache"))
    plain = Cityscapes(tmp_path / "data", options=ReadOptions(**options))
    assert other[0].frames.shape == plain[0].frames.shape
    assert torch.equal(other[0].target.instance, plain[0].target.instance)
    assert whole[0].frames.shape[-2:] == (48, 96)


def test_labelled_and_unlabelled_frames_are_kept_apart(tmp_path: Path) -> None:
    cityscapes.build(tmp_path / "data")
    options = ReadOptions(cache=tmp_path / "cache")
    assert Cityscapes(tmp_path / "data", labelled=False, options=options)[0].target is None
    assert Cityscapes(tmp_path / "data", options=options)[0].target is not None
    assert Cityscapes(tmp_path / "data", labelled=False, options=options)[0].target is None
    semantic = Cityscapes(tmp_path / "data", options=options, instances=False)
    assert (semantic[0].target.instance == 0).all()
    assert (Cityscapes(tmp_path / "data", options=options)[0].target.instance > 0).any()


def test_selection_shares_frames(tmp_path: Path) -> None:
    """Which frames are chosen does not change what they show."""
    cityscapes.build(tmp_path / "data")
    Cityscapes(tmp_path / "data", options=ReadOptions(cache=tmp_path / "cache"))[0]
    Cityscapes(tmp_path / "data", options=ReadOptions(videos=1, cache=tmp_path / "cache"))[0]
    assert len(files_of(tmp_path / "cache")) == 1
