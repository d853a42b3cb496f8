"""Pixels per class: mapped, summed, kept with a hash of the files, and counted again when a file changed."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import cityscapes, cityscapes_sequence
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.cityscapes_sequence import CityscapesSequence
from vidapt.datasets.statistics import (
    FrameStatistics,
    labelled_frames,
    load_statistics,
    save_statistics,
    statistics_folders,
    statistics_key,
)
from vidapt.datasets.stored import ReadOptions, StoredDataset
from vidapt.labels import CITYSCAPES, LabelSpace, find_space
from vidapt.mapping import find_mapping


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def statistics(*rows: dict[int, int]) -> FrameStatistics:
    counts = np.zeros((len(rows), 256), np.int64)
    for row, pixels in zip(counts, rows, strict=True):
        row[list(pixels)] = list(pixels.values())
    return FrameStatistics(tuple(f"f{number}" for number in range(len(rows))), counts)


def assert_same(first: FrameStatistics | None, second: FrameStatistics) -> None:
    assert first is not None
    assert first.names == second.names
    assert np.array_equal(first.counts, second.counts)
    assert first.counts.dtype == np.int64


def key_of(dataset: StoredDataset) -> str:
    return statistics_key(dataset, labelled_frames(dataset))


# --- numbers


def test_frequencies_leave_out_void() -> None:
    found = statistics({0: 30, 2: 10, 255: 1000}, {2: 60})
    assert found.frequencies(3).tolist() == [0.3, 0.0, 0.7]
    assert found.frequencies(3).sum() == pytest.approx(1)


def test_frequencies_of_void_only() -> None:
    assert statistics({255: 9}).frequencies(4).tolist() == [0, 0, 0, 0]
    assert FrameStatistics((), np.zeros((0, 256), np.int64)).frequencies(2).tolist() == [0, 0]


def test_frames_with_more_than_a_number_of_pixels() -> None:
    found = statistics({5: 3000}, {5: 3001}, {}, {5: 1})
    assert found.frames_with(5, 3000) == ("f1",)
    assert found.frames_with(5, 0) == ("f0", "f1", "f3")
    assert found.frames_with(6, 0) == ()


def test_mapped_counts_are_those_of_mapped_labels() -> None:
    raw, space = find_space("cityscapes_ids"), CITYSCAPES
    table = find_mapping(raw, space).table
    rng = np.random.default_rng(0)
    labels = rng.choice([*range(35), 255], (2, 40, 50)).astype(np.uint8)
    counts = np.stack([np.bincount(frame.reshape(-1), minlength=256) for frame in labels])
    mapped = FrameStatistics(("a", "b"), counts).mapped(table)
    expected = np.stack([np.bincount(table[frame].reshape(-1), minlength=256) for frame in labels])
    assert np.array_equal(mapped.counts, expected)
    assert mapped.counts.sum() == labels.size
    assert mapped.names == ("a", "b")


# --- files


def test_kept_beside_the_data(tmp_path: Path) -> None:
    found = statistics({1: 2}, {255: 3})
    assert save_statistics(tmp_path, "key", found) == tmp_path / ".vidapt" / "key.npz"
    assert_same(load_statistics(tmp_path, "key"), found)
    assert load_statistics(tmp_path, "other") is None
    assert [path.name for path in (tmp_path / ".vidapt").iterdir()] == ["key.npz"]


def test_names_keep_their_letters(tmp_path: Path) -> None:
    found = FrameStatistics(("zürich_1", "x" * 70), np.ones((2, 256), np.int64))
    save_statistics(tmp_path, "key", found)
    assert_same(load_statistics(tmp_path, "key"), found)


def test_kept_in_the_cache_folder_where_the_data_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".vidapt").write_text("not a folder")
    found = statistics({1: 2})
    assert save_statistics(tmp_path / "data", "key", found) == cache / "vidapt" / "statistics" / "key.npz"
    assert_same(load_statistics(tmp_path / "data", "key"), found)


def test_kept_nowhere(tmp_path: Path, cache: Path) -> None:
    (tmp_path / ".vidapt").write_text("not a folder")
    cache.write_text("not a folder")
    assert save_statistics(tmp_path, "key", statistics({1: 2})) is None
    assert load_statistics(tmp_path, "key") is None


def test_the_cache_folder_lies_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert statistics_folders(Path("data")) == [Path("data/.vidapt"), tmp_path / ".cache" / "vidapt" / "statistics"]


def test_a_full_disk_leaves_no_part(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    assert save_statistics(tmp_path, "key", statistics({1: 2})) is None
    left = [*(tmp_path / ".vidapt").rglob("*"), *cache.rglob("*")]
    assert [path for path in left if path.is_file()] == []


def test_kept_files_are_readable_by_all_who_may_read_the_folder(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = save_statistics(tmp_path, "key", statistics({1: 2}))
    finally:
        os.umask(before)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_damaged_file_counts_as_missing(tmp_path: Path) -> None:
    found = statistics({1: 2}, {3: 4})
    path = save_statistics(tmp_path, "key", found)
    assert path is not None
    data = path.read_bytes()
    for length in range(0, len(data), 9):
        path.write_bytes(data[:length])
        assert load_statistics(tmp_path, "key") is None
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        kept = load_statistics(tmp_path, "key")
        if kept is not None:
            # A byte that says nothing about the content, such as the date of a member.
            assert_same(kept, found)


def test_a_damaged_file_beside_the_data_is_made_up_for_by_the_cache(tmp_path: Path, cache: Path) -> None:
    found = statistics({1: 2})
    (tmp_path / ".vidapt").write_text("not a folder")
    save_statistics(tmp_path, "key", found)
    (tmp_path / ".vidapt").unlink()
    (tmp_path / ".vidapt").mkdir()
    (tmp_path / ".vidapt" / "key.npz").write_bytes(b"")
    assert_same(load_statistics(tmp_path, "key"), found)


# --- the hash


def test_only_labelled_frames_count(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path)
    frames = labelled_frames(CityscapesSequence(tmp_path, "val"))
    assert [frame.number for frame in frames] == [294, 576, 49698, 19]
    assert labelled_frames(CityscapesSequence(tmp_path, "val", labelled=False)) == []


def test_the_key_depends_on_what_the_counts_depend_on(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    known = key_of(Cityscapes(tmp_path))
    assert key_of(Cityscapes(tmp_path, clip_length=1)) == known
    assert key_of(Cityscapes(tmp_path, options=ReadOptions(cache=tmp_path / "cache"))) == known
    others = [
        key_of(Cityscapes(tmp_path, instances=False)),
        key_of(Cityscapes(tmp_path, options=ReadOptions(height=24))),
        key_of(Cityscapes(tmp_path, options=ReadOptions(fit=(24, 24)))),
        key_of(Cityscapes(tmp_path, options=ReadOptions(trim=(0, 8)))),
        key_of(Cityscapes(tmp_path, options=ReadOptions(videos=2))),
    ]
    assert len({known, *others}) == 6


def test_the_key_follows_the_label_files(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    dataset = Cityscapes(tmp_path)
    known = key_of(dataset)
    path = tmp_path / dataset.frame(1, 0).labels[0]
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed = key_of(dataset)
    assert changed != known
    Image.fromarray(np.full((48, 96), 7, np.uint16)).save(path)
    assert key_of(dataset) not in (known, changed)
    path.unlink()
    assert key_of(dataset) not in (known, changed)


def test_the_key_does_not_depend_on_where_the_data_lie(tmp_path: Path) -> None:
    cityscapes.build(tmp_path / "here")
    known = key_of(Cityscapes(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert key_of(Cityscapes(tmp_path / "there")) == known


def test_the_key_follows_the_meaning_of_the_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cityscapes.build(tmp_path)
    known = key_of(Cityscapes(tmp_path))
    space = find_space("cityscapes_ids")
    ground = space.classes[6]
    changed = []
    for label in (replace(ground, is_void=not ground.is_void), replace(ground, name="floor")):
        other = LabelSpace(space.name, (*space.classes[:6], label, *space.classes[7:]))
        monkeypatch.setattr(Cityscapes, "own_label_space", lambda self, other=other: other)
        changed.append(key_of(Cityscapes(tmp_path)))
    monkeypatch.undo()
    monkeypatch.setattr(Cityscapes, "version", 2)
    assert len({known, *changed, key_of(Cityscapes(tmp_path))}) == 4


def test_kept_frames_follow_the_reader_and_not_the_way_the_root_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cityscapes.build(tmp_path / "data")
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    roots = (tmp_path / "data", Path("data"), Path("link"), tmp_path / "link" / ".." / "data")
    keys = {dataset._cache_key(dataset.frame(0, 0)) for dataset in map(Cityscapes, roots)}
    assert len(keys) == 1
    monkeypatch.setattr(Cityscapes, "version", 2)
    dataset = Cityscapes(tmp_path / "data")
    assert dataset._cache_key(dataset.frame(0, 0)) not in keys
