import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidapt.errors import UserError
from vidapt.evaluation.constancy import VideoConstancy, window_constancy


def slow_windows(targets, predictions, length):
    """Shares of all windows of a video by the published procedure: compare every frame of a window with its first."""
    shares = []
    for start in range(len(targets) - length):
        steady = np.ones(targets[0].shape, bool)
        constant = np.ones(targets[0].shape, bool)
        for step in range(1, length):
            steady &= targets[start] == targets[start + step]
            constant &= predictions[start] == predictions[start + step]
        shares.append((steady & constant).sum() / steady.sum() if steady.any() else np.nan)
    return shares


def random_video(rng, frames, change=0.1, height=4, width=5):
    """Labels and predictions whose pixels change now and then, some of them to ignored."""
    labels, guess = rng.integers(0, 3, (2, height, width)).astype(np.uint8)
    for _ in range(frames):
        yield labels.copy(), guess.copy()
        for pixels in (labels, guess):
            flips = rng.random(pixels.shape) < change
            pixels[flips] = rng.choice([0, 1, 2, 255], flips.sum())


def feed(constancy, video):
    for target, predicted in video:
        constancy.update(target, predicted)
    constancy.end_video()


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 12), min_size=1, max_size=3), st.sampled_from([0.05, 0.3]))
def test_stream_equals_all_windows_at_once(seed, lengths, change):
    rng = np.random.default_rng(seed)
    videos = [list(random_video(rng, length, change)) for length in lengths]
    constancy = VideoConstancy((2, 3, 5, 8))
    for video in videos:
        feed(constancy, video)
    for n, value in constancy.result().items():
        shares = [share for v in videos if v for share in slow_windows(*zip(*v, strict=True), n)]
        defined = [share for share in shares if not np.isnan(share)]
        assert constancy.count[n] == len(defined)
        assert value == pytest.approx(np.mean(defined) if defined else np.nan, abs=1e-12, nan_ok=True)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_one_window(seed, length):
    video = list(random_video(np.random.default_rng(seed), length + 1))
    targets, predictions = (np.stack(maps) for maps in zip(*video, strict=True))
    expected = slow_windows(targets, predictions, length)[0]
    assert window_constancy(targets[:length], predictions[:length]) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("frames", "windows"), [(1, 0), (7, 0), (8, 0), (9, 1), (12, 4)])
def test_last_window_of_a_video_is_left_out(frames, windows):
    constancy = VideoConstancy([8])
    feed(constancy, [(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8))] * frames)
    assert constancy.count == {8: windows}
    assert constancy.result()[8] == pytest.approx(1.0 if windows else np.nan, nan_ok=True)


def test_constant_and_wrong_is_constant():
    assert window_constancy(np.zeros((3, 2, 2)), np.full((3, 2, 2), 7)) == 1


def test_pixels_whose_label_changes_do_not_count():
    targets, predictions = np.zeros((2, 3, 1, 4), int)
    targets[1, 0, :2] = 1
    predictions[1, 0, 0] = predictions[2, 0, 3] = 1
    assert window_constancy(targets, predictions) == 0.5


def test_a_change_that_is_undone_is_a_change():
    predictions = np.array([0, 1, 0]).reshape(3, 1, 1)
    assert window_constancy(np.zeros((3, 1, 1)), predictions) == 0
    constancy = VideoConstancy([3])
    feed(constancy, [(np.zeros((1, 1)), frame) for frame in (*predictions, predictions[0])])
    assert constancy.result() == {3: 0.0}


def test_ignored_pixels_are_a_label_like_any_other():
    """The official scorer compares the label pictures, void included."""
    assert window_constancy(np.full((2, 1, 2), 255), np.array([[[0, 0]], [[0, 1]]])) == 0.5


def test_windows_without_a_constant_label_are_left_out():
    assert np.isnan(window_constancy(np.arange(2).reshape(2, 1, 1), np.zeros((2, 1, 1))))
    constancy = VideoConstancy([2])
    feed(constancy, [(np.full((1, 1), label), np.zeros((1, 1))) for label in (0, 1, 1, 1)])
    assert constancy.count == {2: 1}
    assert constancy.result() == {2: 1.0}


def test_runs_longer_than_their_counter():
    """Run lengths are kept in one byte, so they must stop growing at 255 and not start over."""
    constancy = VideoConstancy([2, 255])
    feed(constancy, [(np.zeros((1, 1)), np.zeros((1, 1)))] * 600)
    assert constancy.count == {2: 598, 255: 345}
    assert constancy.result() == {2: 1.0, 255: 1.0}


def test_videos_do_not_touch():
    frame = np.zeros((1, 2))
    constancy = VideoConstancy([2])
    for _ in range(4):
        feed(constancy, [(frame, frame)] * 2)
    assert constancy.count == {2: 0}


def test_frames_may_be_overwritten_by_the_caller():
    constancy = VideoConstancy([2])
    labels, guess = np.zeros((1, 1)), np.zeros((1, 1))
    for value in (0, 1, 2, 3):
        guess[:] = value
        constancy.update(labels, guess)
    assert constancy.result() == {2: 0.0}


def test_videos_may_differ_in_size():
    constancy = VideoConstancy([2])
    for size in ((1, 2), (3, 4)):
        feed(constancy, [(np.zeros(size), np.zeros(size))] * 3)
    assert constancy.count == {2: 2}


def test_merge_equals_one_process():
    videos = [list(random_video(np.random.default_rng(seed), 12)) for seed in range(4)]
    single, first, second = (VideoConstancy((2, 4)) for _ in range(3))
    for i, video in enumerate(videos):
        feed(single, video)
        feed(first if i % 2 else second, video)
    first.merge(pickle.loads(pickle.dumps(second)))
    assert first.count == single.count
    assert first.result() == pytest.approx(single.result(), abs=1e-12)


def test_merge_needs_the_same_windows():
    with pytest.raises(UserError, match=r"\(2,\) and \(8, 16\)"):
        VideoConstancy([2]).merge(VideoConstancy())


@pytest.mark.parametrize("windows", [[], [1], [256], [0, 8]])
def test_bad_windows(windows):
    with pytest.raises(UserError, match=r"2\.\.255"):
        VideoConstancy(windows)


def test_sizes_must_agree():
    with pytest.raises(UserError, match=r"\(1, 2\) and \(2, 1\)"):
        VideoConstancy().update(np.zeros((1, 2)), np.zeros((2, 1)))
    constancy = VideoConstancy()
    constancy.update(np.zeros((1, 2)), np.zeros((1, 2)))
    with pytest.raises(UserError, match=r"\(1, 2\) and \(1, 3\)"):
        constancy.update(np.zeros((1, 3)), np.zeros((1, 3)))
    with pytest.raises(UserError, match="one size"):
        window_constancy(np.zeros((2, 1, 1)), np.zeros((3, 1, 1)))


def test_nothing_seen_is_undefined():
    assert np.isnan(list(VideoConstancy().result().values())).all()
