"""Pixels per class of clips: equal to reading every clip, for every kind of data set, each frame decoded once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets.miniature import cityscapes, cityscapes_sequence, gta5
from tests.tiny_runs import write_camvid, write_labelled
from vidapt.config_data import CityscapesData, CityscapesSequenceData, Gta5Data
from vidapt.datasets.camvid import CamVid
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.clip_dataset import ClipDataset
from vidapt.datasets.frame_index import Problem
from vidapt.datasets.labelled_folder import LabelledFolder
from vidapt.datasets.street_world import StreetWorld
from vidapt.datasets.views import IgnoredRows, Mixture, Relabelled, SkipDamaged, Unlabelled
from vidapt.errors import InputError
from vidapt.jobs.clip_counts import clip_class_counts
from vidapt.jobs.data import build_stored, in_space
from vidapt.labels import CAMVID, CITYSCAPES, find_space
from vidapt.mapping import find_mapping

WORLD: dict[str, Any] = {"seed": 0, "videos": 2, "frames": 5, "size": (32, 64)}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def assert_counted(dataset: Any, classes: int) -> None:
    """Counts are those of the clips as they are read."""
    found = clip_class_counts(dataset, classes, jobs=1)
    rows, frames = [], {}
    for clip in (dataset[index] for index in range(len(dataset))):
        counts = [np.bincount(frame.flatten(), minlength=256)[:classes] for frame in clip.target.semantic]
        frames |= {(clip.video, index): row for index, row in zip(clip.indices.tolist(), counts, strict=True)}
        rows.append(np.max(counts, 0))
    total = np.sum(list(frames.values()), 0)
    assert found.clips.dtype == np.int64
    np.testing.assert_array_equal(found.clips, rows)
    np.testing.assert_array_equal(found.pixels, [dataset[index].frames[0, 0].numel() for index in range(len(dataset))])
    np.testing.assert_allclose(found.frequencies, total / total.sum(), rtol=1e-12)
    assert np.count_nonzero(total) > 1


@pytest.mark.parametrize(("length", "interval"), [(1, 1), (2, 1), (2, 2), (5, 1)])
def test_generated_clips(length: int, interval: int) -> None:
    assert_counted(StreetWorld(**WORLD, clip_length=length, interval=interval), 19)


@pytest.mark.parametrize("length", [1, 2])
def test_footage_in_folders(length: int, tmp_path: Path) -> None:
    assert_counted(LabelledFolder(write_labelled(tmp_path / "mine", ["a", "b", "c"]), length), 3)
    assert_counted(CamVid(write_camvid(tmp_path / "camvid"), "val", length), len(CAMVID))


@pytest.mark.parametrize("length", [1, 2])
def test_published_data_with_labels_on_some_frames(length: int, tmp_path: Path) -> None:
    """Of the sequences one frame in a snippet is labelled; its clips show what that frame shows."""
    root = cityscapes_sequence.build(tmp_path / "data", split="train").root
    dataset = build_stored(CityscapesSequenceData(root=root), clip_length=length)
    assert_counted(dataset, len(find_space("cityscapes_ids")))
    assert_counted(in_space(dataset, CITYSCAPES), 19)


def test_classes_that_a_mapping_joins_are_joined_before_the_largest_frame_is_taken(tmp_path: Path) -> None:
    root = write_labelled(tmp_path / "mine", ["road", "parking", "car"])
    dataset = LabelledFolder(root, 3)
    mapping = find_mapping(dataset.label_space, CITYSCAPES)
    joined = mapping.table.copy()
    joined[1] = joined[0]
    object.__setattr__(mapping, "table", joined)
    assert_counted(Relabelled(dataset, mapping), 19)


def test_views_are_looked_through(tmp_path: Path) -> None:
    root = cityscapes.build(tmp_path / "data").root
    dataset = in_space(build_stored(CityscapesData(root=root)), CITYSCAPES)
    assert_counted(SkipDamaged(dataset, None), 19)
    assert_counted(IgnoredRows(dataset, 2, 3), 19)


@pytest.mark.parametrize("shares", [(1, 1), (5, 1), (1, 7)])
def test_mixtures_repeat_their_parts_and_weigh_them_so(shares: tuple[int, int], tmp_path: Path) -> None:
    root = cityscapes.build(tmp_path / "data").root
    parts = [StreetWorld(**WORLD), in_space(build_stored(CityscapesData(root=root, height=32)), CITYSCAPES)]
    mixture = Mixture(parts, shares)
    found = clip_class_counts(mixture, 19, jobs=1)
    clips = [mixture[index].target.semantic for index in range(len(mixture))]
    expected = [np.bincount(semantic.flatten(), minlength=256)[:19] for semantic in clips]
    np.testing.assert_array_equal(found.clips, expected)
    alone = [clip_class_counts(part, 19, jobs=1).frequencies for part in parts]
    weighed = (shares[0] * alone[0] + shares[1] * alone[1]) / sum(shares)
    np.testing.assert_allclose(found.frequencies, weighed, atol=0.03)
    assert found.frequencies.sum() == pytest.approx(1)


# --- what is read


def test_each_frame_of_footage_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = LabelledFolder._read

    def note(self: LabelledFolder, video: int, position: int) -> Any:
        read.append((video, position))
        return original(self, video, position)

    monkeypatch.setattr(LabelledFolder, "_read", note)
    clip_class_counts(LabelledFolder(write_labelled(tmp_path, ["a", "b"], count=4), 3), 2)
    assert read == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_counts_of_published_data_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = build_stored(CityscapesData(root=cityscapes.build(tmp_path / "data").root))
    first = clip_class_counts(dataset, 19, jobs=1)

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Cityscapes, "read_labels", refuse)
    monkeypatch.setattr(ClipDataset, "_read", refuse)
    again = clip_class_counts(dataset, 19, jobs=1)
    np.testing.assert_array_equal(again.clips, first.clips)


@pytest.mark.parametrize(("length", "interval"), [(1, 1), (2, 1), (2, 2)])
def test_clip_frames_are_those_of_the_clip(length: int, interval: int, tmp_path: Path) -> None:
    dataset = LabelledFolder(write_labelled(tmp_path, ["a", "b"], count=4), length, interval)
    for index in range(len(dataset)):
        video, positions = dataset.clip_frames(index)
        assert (dataset.videos[video], positions) == (dataset[index].video, dataset[index].indices.tolist())
    assert dataset.clip_frames(-1) == dataset.clip_frames(len(dataset) - 1)
    with pytest.raises(IndexError):
        dataset.clip_frames(len(dataset))


def test_unlabelled_clips_are_refused() -> None:
    with pytest.raises(InputError, match="video source-000-000 has frames without labels"):
        clip_class_counts(Unlabelled(StreetWorld(**WORLD)), 19)


# --- damage


def test_damaged_frames_are_refused_or_show_nothing(tmp_path: Path) -> None:
    """A label whose contents are damaged passes the look at its head and tail, so it shows only here."""
    root = gta5.build(tmp_path / "data").root
    dataset = build_stored(Gta5Data(root=root))
    whole = clip_class_counts(in_space(dataset, CITYSCAPES), 19, jobs=1)
    label = root / dataset.frame(1, 0).labels[0]
    data = bytearray(label.read_bytes())
    data[len(data) // 2 : -16] = bytes(len(data) - 16 - len(data) // 2)
    label.write_bytes(bytes(data))
    with pytest.raises(InputError, match=label.name):
        clip_class_counts(in_space(dataset, CITYSCAPES), 19, jobs=1)
    skipped = SkipDamaged(in_space(dataset, CITYSCAPES), None)
    for _ in range(2):
        found = clip_class_counts(skipped, 19, jobs=1)
        assert (found.clips[1] == 0).all()
        np.testing.assert_array_equal(np.delete(found.clips, 1, 0), np.delete(whole.clips, 1, 0))
    with pytest.raises(InputError, match=label.name):
        clip_class_counts(in_space(dataset, CITYSCAPES), 19, jobs=1)


def test_problems_of_the_index_stop_only_those_who_do_not_skip(tmp_path: Path) -> None:
    dataset = build_stored(CityscapesData(root=cityscapes.build(tmp_path / "data").root))
    dataset.index_problems = (Problem("", "some.json", "names a frame twice"),)
    with pytest.raises(InputError, match=r"some\.json names a frame twice"):
        clip_class_counts(dataset, 19, jobs=1)
    assert len(clip_class_counts(SkipDamaged(dataset, None), 19, jobs=1).clips) == len(dataset)
