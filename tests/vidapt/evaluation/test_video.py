import numpy as np
import pytest

from vidapt.errors import UserError
from vidapt.evaluation.histogram import joint_histogram
from vidapt.evaluation.panoptic import PanopticCounts, count_matches, panoptic_scores
from vidapt.evaluation.semantic import ScoredClasses
from vidapt.evaluation.video import TrackingQuality, VideoPanopticQuality
from vidapt.labels import LabelClass, LabelSpace

SPACE = LabelSpace(
    "toy", (LabelClass("sky", False, (0, 0, 1)), LabelClass("car", True, (0, 0, 2)), LabelClass("bus", True, (0, 0, 3)))
)
ALL = ScoredClasses.of(SPACE)
SKY = 1


def car(track):
    return track * 256 + 2


def bus(track):
    return track * 256 + 3


def frame(*pixels):
    """One frame of a (target, predicted) pair of codes per pixel."""
    target, predicted = np.array(pixels).T
    return joint_histogram(target[None], predicted[None])


def vpq(frames, windows=(1, 2, 3, 4)):
    quality = VideoPanopticQuality(SPACE, windows)
    for histogram in frames:
        quality.update(histogram)
    quality.end_video()
    return {length: panoptic_scores(counts, ALL).all.pq for length, counts in quality.counts.items()}


def stq(*videos, scored=ALL):
    quality = TrackingQuality(SPACE)
    for frames in videos:
        for histogram in frames:
            quality.update(histogram)
        quality.end_video()
    return quality.result(scored)


def test_id_switch_hurts_only_windows_that_contain_it():
    """The object is 300 for two frames, then 400: in a window of 4 each id covers exactly half, so nothing matches."""
    frames = [frame((car(1), car(track))) for track in (300, 300, 400, 400)]
    scores = vpq(frames)
    assert scores[1] == 1
    assert scores[4] == 0
    # Two of three windows of two frames hold one id; the middle one matches neither (1 FN, 2 FP).
    assert scores[2] == pytest.approx(2 / (2 + 0.5 * 1 + 0.5 * 2))


def test_windows_do_not_cross_videos():
    quality = VideoPanopticQuality(SPACE, (1, 2))
    for track in (300, 400):
        quality.update(frame((car(1), car(track))))
        quality.end_video()
    assert quality.places == {1: 2, 2: 0}
    assert quality.counts[2].tp.sum() == 0


def test_number_of_windows():
    quality = VideoPanopticQuality(SPACE, (1, 2, 5))
    for _ in range(4):
        quality.update(frame((car(1), car(300))))
    assert quality.places == {1: 4, 2: 3, 5: 0}


def test_tube_has_the_class_of_its_first_frame():
    """In the window of frames 2 and 3 the track starts as a bus, which the target is not."""
    frames = [frame((car(1), car(300))), frame((car(1), bus(300))), frame((car(1), car(300)))]
    quality = VideoPanopticQuality(SPACE, (2,))
    for histogram in frames:
        quality.update(histogram)
    assert quality.counts[2].tp.tolist() == [0, 1, 0]
    assert quality.counts[2].fp.tolist() == [0, 0, 1]
    assert quality.counts[2].fn.tolist() == [0, 1, 0]


@pytest.mark.parametrize("windows", [(1, 2, 3, 4), (4, 2), (3,), (1, 5, 6), (2, 9)])
def test_windows_equal_the_stacked_frames(windows):
    """Every window from all its frames at once, of a video in which tracks come, go and change their class."""
    rng = np.random.default_rng(6)
    targets = rng.choice([0, SKY, car(0), car(1), car(2), bus(3)], (7, 1, 40))
    tracks = rng.choice([0, SKY, 300, 301, 302], (7, 1, 40))
    codes = np.where(tracks < 256, tracks, tracks * 256 + rng.integers(2, 4, (7, 1, 1)))
    quality = VideoPanopticQuality(SPACE, windows)
    for maps in zip(targets, codes, strict=True):
        quality.update(joint_histogram(*maps))
    for length in windows:
        expected = PanopticCounts.zeros(3)
        for first in range(7 - length + 1):
            part = codes[first : first + length]
            classes = {track: int(part[part // 256 == track][0]) for track in set((part // 256).flat) - {0}}
            stacked = np.array([classes.get(code // 256, code) for code in part.ravel().tolist()])
            frames = joint_histogram(targets[first : first + length].ravel(), stacked)
            expected += count_matches(frames, SPACE.is_thing, 3)
        assert quality.places[length] == max(7 - length + 1, 0)
        for name in ("tp", "fp", "fn"):
            np.testing.assert_array_equal(getattr(quality.counts[length], name), getattr(expected, name))
        np.testing.assert_allclose(quality.counts[length].iou, expected.iou, rtol=1e-12)


def test_memory_is_bounded_by_the_longest_window():
    quality = VideoPanopticQuality(SPACE, (1, 3))
    for _ in range(50):
        quality.update(frame((car(1), car(300))))
    assert len(quality._recent) == 3


@pytest.mark.parametrize("windows", [(), (0, 1), (-2,)])
def test_bad_windows(windows):
    with pytest.raises(UserError, match="at least 1 frame"):
        VideoPanopticQuality(SPACE, windows)


def test_class_change_splits_a_predicted_track():
    """deeplab2 keys predicted tracks by class and id: two halves of a track give 2 · (1/2)² = 0.5."""
    scores = stq([frame((car(1), car(300))), frame((car(1), bus(300)))])
    assert scores.aq == pytest.approx(0.5)


def test_tracks_of_several_videos_are_averaged_by_track():
    """One video with a perfect track, one with two lost ones."""
    scores = stq([frame((car(1), car(300)))], [frame((car(1), SKY), (car(2), SKY))])
    assert scores.tracks == 3
    assert scores.aq == pytest.approx(1 / 3)


def test_same_ids_in_two_videos_are_different_tracks():
    one = [frame((car(1), car(300)))] * 2
    assert stq(one, one).aq == 1
    assert stq(one, one).tracks == 2


def test_void_prediction_adds_an_empty_class():
    """Sky IoU 1/2, and the pixel predicted as void adds a class of IoU 0."""
    assert stq([frame((SKY, SKY), (SKY, 0))]).sq == pytest.approx(0.25)


def test_no_tracks_is_undefined():
    scores = stq([frame((SKY, SKY))])
    assert scores.tracks == 0
    assert np.isnan(scores.aq)
    assert np.isnan(scores.stq)
    assert scores.sq == 1


def test_nothing_labelled_is_undefined():
    assert np.isnan(stq([frame((0, SKY), (0, car(300)))]).sq)


def test_only_tracks_of_scored_things_count():
    frames = [frame((car(1), car(300)), (bus(2), SKY))]
    assert stq(frames).aq == 0.5
    scores = stq(frames, scored=ScoredClasses.of(SPACE, ["sky", "car"]))
    assert (scores.aq, scores.tracks) == (1, 1)
    assert scores.classes == (0, 1)


def test_state_between_videos_does_not_grow():
    quality = TrackingQuality(SPACE)
    for _ in range(3):
        quality.update(frame((car(1), car(300))))
        quality.end_video()
        assert not quality._target
        assert not quality._predicted
        assert not quality._shared
