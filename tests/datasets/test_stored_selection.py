"""Which frames and clips a published data set gives: key frames, context, videos, and no clip across a gap."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.miniature import cityscapes_sequence
from tests.datasets.toy import Toy, all_clips, write_video
from vidapt.datasets.cityscapes_sequence import CityscapesSequence
from vidapt.datasets.frame_index import Frame, Video, select_frames
from vidapt.datasets.stored import ReadOptions
from vidapt.errors import InputError, SingleImagesError


def video(numbers: Sequence[int], keys: Sequence[int] | None = None, step: int = 1) -> Video:
    """A video without files; all frames are key frames unless ``keys`` says which."""
    wanted = set(numbers if keys is None else keys)
    frames = tuple(Frame(str(number), f"{number}.png", (), number, number in wanted) for number in numbers)
    return Video("v", frames, fps=10.0, step=step)


def numbers_of(chosen: Video) -> list[int]:
    return [frame.number for frame in chosen.frames]


def keys_of(chosen: Video) -> list[int]:
    return [frame.number for frame in chosen.frames if frame.key]


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
    dataset = Toy(tmp_path, clip_length=length, interval=interval, labelled=False)
    assert all_clips(dataset) == expected


def test_no_clip_crosses_from_a_video_to_the_next(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1], [0])
    write_video(tmp_path / "b", [2, 3, 4], [3])
    dataset = Toy(tmp_path, clip_length=2)
    assert all_clips(dataset) == [[0, 1], [2, 3], [3, 4]]
    assert dataset[1].video == "b"
    assert dataset[1].indices.tolist() == [0, 1]


def test_times_count_from_the_first_frame_over_gaps(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [3, 4, 8], [3])
    dataset = Toy(tmp_path, labelled=False)
    np.testing.assert_allclose([dataset[item].times.item() for item in range(3)], [0, 0.1, 0.5])


def test_no_clip_fits(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1, 5], [0])
    with pytest.raises(InputError, match="no clip of 3 frames, 1 apart, fits into any of 1 videos") as caught:
        Toy(tmp_path, clip_length=3)
    assert not isinstance(caught.value, SingleImagesError)
    with pytest.raises(InputError, match="clip_length=0 and interval=1 must be 1 or more"):
        Toy(tmp_path, clip_length=0)


def test_labelled_clips_hold_a_labelled_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1, 2, 3, 4, 5], [1, 5])
    pairs, alone = Toy(tmp_path, clip_length=2), Toy(tmp_path)
    assert [pairs[item].target.labelled.tolist() for item in range(len(pairs))] == [
        [False, True],
        [True, False],
        [False, True],
    ]
    assert [alone[item].indices.tolist() for item in range(len(alone))] == [[1], [5]]
    apart = Toy(tmp_path, clip_length=2, interval=2)
    assert [apart[item].indices.tolist() for item in range(len(apart))] == [[1, 3], [3, 5]]
    assert len(Toy(tmp_path, clip_length=2, labelled=False)) == 5


def test_frames_without_labels_ignore_everything(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1, 2], [1])
    target = Toy(tmp_path, clip_length=2)[0].target
    assert target.labelled.tolist() == [False, True]
    assert (target.semantic[0] == 255).all()
    assert (target.instance[0] == 0).all()
    assert (target.semantic.dtype, target.instance.dtype) == (torch.uint8, torch.int32)


def test_videos_frame_by_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "a", [0, 1, 2], [1])
    dataset = Toy(tmp_path)
    frames = list(dataset.iterate_video(0))
    assert [int(image[0, 0, 0]) for image, _ in frames] == [0, 1, 2]
    assert [target is None for _, target in frames] == [True, False, True]
    assert frames[1][1].semantic.tolist() == dataset[0].target.semantic.tolist()
    assert [dataset.frame_name(0, place) for place in range(3)] == ["a_000", "a_001", "a_002"]
