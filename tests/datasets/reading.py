"""Checking that a reader reads what a miniature data set shows."""

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.datasets.miniature.truth import TrueFrame, Truth
from vidapt.clip import IGNORE
from vidapt.datasets.clip_dataset import Sample
from vidapt.datasets.frame_index import Frame
from vidapt.datasets.integrity import quick_problems
from vidapt.datasets.stored import StoredDataset
from vidapt.errors import InputError

JPEG_ERROR = 6.0
"""Mean difference of grey values that compression of a miniature picture may make."""


def check_reading(dataset: StoredDataset, truth: Truth) -> None:
    """Compare all frames, videos and times of an unscaled data set with the truth; then clips and a pickled copy."""
    check_index(dataset, truth)
    for video in range(len(dataset.videos)):
        tracks = Tracks()
        for frame in video_frames(dataset, video):
            sample, true = dataset.read_frame(frame), truth.frames[path_of(dataset, truth, frame)]
            check_picture(sample, true, frame)
            check_labels(dataset, sample, true, tracks)
    check_clips(dataset)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[0].frames, dataset[0].frames)
    assert list(copy.frames()) == list(dataset.frames())


def check_index(dataset: StoredDataset, truth: Truth) -> None:
    """Compare which frames form which videos, their order and times; names serve as file names."""
    found = [
        [path_of(dataset, truth, frame) for frame in video_frames(dataset, video)]
        for video in range(len(dataset.videos))
    ]
    assert sorted(found) == sorted(truth.videos)
    names = [frame.name for frame in dataset.frames()]
    assert len(set(names)) == len(names)
    assert not any(set(name) & set("/\\") or not name for name in names)
    assert len(set(dataset.videos)) == len(dataset.videos)
    for video, paths in enumerate(found):
        numbers = [frame.number for frame in video_frames(dataset, video)]
        assert numbers == sorted(set(numbers))
        if truth.times is not None:
            expected = truth.times[truth.videos.index(paths)]
            np.testing.assert_allclose(video_times(dataset, video), expected, atol=1e-9)


def check_picture(sample: Sample, true: TrueFrame, frame: Frame) -> None:
    """A picture is the true one; one of JPEG is close to it."""
    assert sample.image.dtype == np.uint8
    assert sample.image.shape == true.image.shape
    if frame.image.endswith((".jpg", ".jpeg")):
        assert np.abs(sample.image.astype(float) - true.image).mean() < JPEG_ERROR
    else:
        assert np.array_equal(sample.image, true.image)


@dataclass
class Tracks:
    """Which number the reader gives each true object of a video, and what it numbers."""

    numbers: dict[int, int] = field(default_factory=dict)
    objects: dict[int, int] = field(default_factory=dict)
    classes: dict[int, int] = field(default_factory=dict)


def check_labels(dataset: StoredDataset, sample: Sample, true: TrueFrame, tracks: Tracks) -> None:
    """Class ids are the true ones, void is 255, and the instances are the true objects, throughout a video."""
    if true.classes is None or not dataset.labelled:
        assert sample.labels is None
        return
    semantic, instance = sample.labels.semantic, sample.labels.instance
    assert (semantic.dtype, instance.dtype) == (np.uint8, np.int32)
    expected = expected_ids(dataset, true.classes)
    assert np.array_equal(semantic, expected)
    if true.objects is None or not dataset.has_instances:
        assert not instance.any()
        return
    objects = np.where(expected == IGNORE, 0, true.objects)
    assert np.array_equal(instance > 0, objects > 0)
    triples = np.stack([objects, instance, semantic.astype(np.int32)])[:, objects > 0]
    for thing, number, kind in np.unique(triples, axis=1).T.tolist():
        assert tracks.numbers.setdefault(thing, number) == number, "an object has two numbers"
        assert tracks.objects.setdefault(number, thing) == thing, "two objects have one number"
        assert tracks.classes.setdefault(number, kind) == kind, "a number occurs in two classes"
        assert 0 < number < 1 << 24


def expected_ids(dataset: StoredDataset, classes: np.ndarray) -> np.ndarray:
    """uint8 (H,W) ids that a reader must give for true classes: void classes and pixels without class are 255."""
    space = dataset.label_space
    assert space is not None
    void = [index for index, label in enumerate(space.classes) if label.is_void]
    return np.where((classes < 0) | np.isin(classes, void), IGNORE, classes).astype(np.uint8)


def check_clips(dataset: StoredDataset) -> None:
    """Every clip holds the frames of its places, one after the other, and says which are labelled."""
    assert len(dataset) > 0
    for item in range(len(dataset)):
        clip = dataset[item]
        video = dataset.videos.index(clip.video)
        frames = [dataset.frame(video, place) for place in clip.indices.tolist()]
        samples = [dataset.read_frame(frame) for frame in frames]
        assert np.array_equal(clip.frames.permute(0, 2, 3, 1).numpy(), np.stack([s.image for s in samples]))
        np.testing.assert_allclose(clip.times.numpy(), video_times(dataset, video)[clip.indices.numpy()])
        if not dataset.labelled:
            assert clip.target is None
            continue
        assert clip.target.labelled.tolist() == [sample.labels is not None for sample in samples]
        for place, sample in enumerate(samples):
            empty = np.full(sample.image.shape[:2], IGNORE, np.uint8)
            semantic, instance = (
                (empty, empty * 0) if sample.labels is None else (sample.labels.semantic, sample.labels.instance)
            )
            assert np.array_equal(clip.target.semantic[place].numpy(), semantic)
            assert np.array_equal(clip.target.instance[place].numpy(), instance)


def check_damaged_files(dataset: StoredDataset) -> None:
    """A cut or missing file of the first labelled frame is named, by reading it and by the quick check."""
    frame = next(frame for frame in dataset.frames() if frame.labels)
    for file in (frame.image, *frame.labels):
        path = Path(dataset.root) / file
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(InputError, match=re.escape(path.name)):
                dataset.read_frame(frame)
            reason = "is missing" if damaged is None else "is cut"
            [problem] = quick_problems(dataset)
            assert (problem.frame, problem.file) == (frame.name, file)
            assert problem.reason.startswith(reason)
        path.write_bytes(content)
    assert quick_problems(dataset) == []


def check_label_of_another_size(dataset: StoredDataset, reason: str | None = None) -> None:
    """A label that is narrower than its image is named, by reading it and by the quick check.

    ``reason`` is a pattern of what reading says, where the reader stumbles over the content first.
    """
    frame = next(frame for frame in dataset.frames() if frame.labels)
    path = Path(dataset.root) / frame.labels[0]
    content = path.read_bytes()
    with Image.open(path) as picture:
        picture.crop((0, 0, picture.width - 8, picture.height)).save(path)
    size = r"is \d+x\d+ but its image is \d+x\d+"
    with pytest.raises(InputError, match=f"{re.escape(path.name)} {reason or size}"):
        dataset.read_frame(frame)
    [problem] = quick_problems(dataset)
    assert problem.file == frame.labels[0]
    assert re.fullmatch(size, problem.reason)
    path.write_bytes(content)


def check_missing_picture(reopen: Callable[[], StoredDataset], frame: str | None = None) -> None:
    """A picture that is gone before the data set is opened is named, since its label is there; its frame is left out.

    Args:
        reopen: Opens the data set with labels; without it, none of its files is missed.
        frame: Name of the frame, None takes the first labelled one.
    """
    dataset = reopen()
    assert dataset.index_problems == ()
    gone = next(f for f in dataset.frames() if f.labels and frame in (None, f.name))
    path = Path(dataset.root) / gone.image
    content = path.read_bytes()
    path.unlink()
    found = reopen()
    [problem] = found.index_problems
    assert problem.file == gone.image
    assert re.fullmatch(r"is missing, but its label \S+ is there", problem.reason)
    assert any(label in problem.reason for label in gone.labels)
    assert [f.name for f in found.frames()] == [f.name for f in dataset.frames() if f.name != gone.name]
    path.write_bytes(content)


def check_misnamed(reopen: Callable[[], StoredDataset], file: str, others: int = 0) -> None:
    """A picture with a strange name is named, and all other frames stay; ``others`` problems are known besides."""
    before = reopen()
    assert len(before.index_problems) == others
    path = Path(before.root) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    found = reopen()
    assert list(found.frames()) == list(before.frames())
    [problem] = set(found.index_problems) - set(before.index_problems)
    assert problem.file == file
    assert problem.reason.startswith("is not named ")
    assert problem.reason.endswith("; remove it")
    assert problem.frame not in {frame.name for frame in found.frames()}
    path.unlink()


def video_frames(dataset: StoredDataset, video: int) -> list[Frame]:
    """All frames of a video."""
    return [dataset.frame(video, place) for place in range(dataset.frame_count(video))]


def video_times(dataset: StoredDataset, video: int) -> np.ndarray:
    """Seconds of all frames of a video since its first."""
    return dataset._tables[video].times


def path_of(dataset: StoredDataset, truth: Truth, frame: Frame) -> str:
    """The path of a picture relative to the root of the truth."""
    return (Path(dataset.root) / frame.image).relative_to(truth.root).as_posix()
