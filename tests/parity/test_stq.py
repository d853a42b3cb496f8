"""STQ against the expected values of deeplab2's own tests."""

import numpy as np
import pytest

from vidapt.evaluation.histogram import joint_histogram
from vidapt.evaluation.semantic import ScoredClasses
from vidapt.evaluation.video import TrackingQuality
from vidapt.labels import LabelClass, LabelSpace

TINY = LabelSpace("tiny", (LabelClass("car", True, (0, 0, 1)), LabelClass("sky", False, (0, 0, 2))))
STREET = LabelSpace(
    "street",
    (
        LabelClass("sky", False, (0, 0, 1)),
        LabelClass("vegetation", False, (0, 0, 2)),
        LabelClass("car", True, (0, 0, 3)),
    ),
)


def scores_of(space, videos):
    """Score videos, each a list of (target codes, predicted codes)."""
    quality = TrackingQuality(space)
    for frames in videos:
        for target, predicted in frames:
            quality.update(joint_histogram(target, predicted))
        quality.end_video()
    return quality.result(ScoredClasses.of(space))


def tiny_codes(text, first_track=0):
    """Car pixels are given by their instance, sky pixels by "s"."""
    return np.array([[2 if cell == "s" else (int(cell) + first_track) * 256 + 1 for cell in text.split()]])


@pytest.mark.parametrize(
    ("target", "predicted", "stq", "aq", "sq"),
    [
        ("1 1 1 1 1", "1 1 1 1 1", 1, 1, 1),
        ("1 1 1 1 1", "1 1 2 2 2", 0.72111026, 0.52, 1),
        ("1 1 1 1 1", "1 2 2 2 2", 0.82462113, 0.68, 1),
        ("1 1 1 1 1", "1 2 3 4 5", 0.447213596, 0.2, 1),
        ("1 1 1 1 1", "1 2 1 2 2", 0.72111026, 0.52, 1),
        ("1 1 1 1 1", "s 1 1 1 1", 0.50596443, 0.64, 0.4),
        ("0 1 1 1 1 1", "1 1 1 1 1 1", 1, 1, 1),
        ("0 1 1 1 1 1", "2 2 2 2 1 1", 0.72111026, 0.52, 1),
        ("0 1 1 1 1 1", "2 2 s 1 1 1", 0.40824829, 0.4, 5 / 12),
        ("s 1 1 1 1", "1 1 1 1 1", 0.56568542, 0.8, 0.4),
        ("s 1 1 1 1", "2 2 2 1 1", 0.42426407, 0.45, 0.4),
        ("s 1 1 1 1", "2 2 s 1 1", 0.3, 0.3, 0.3),
    ],
)
def test_tiny_table(target, predicted, stq, aq, sq):
    scores = scores_of(TINY, [[(tiny_codes(target), tiny_codes(predicted))]])
    assert scores.aq == pytest.approx(aq, abs=1e-9)
    assert scores.sq == pytest.approx(sq, abs=1e-9)
    assert scores.stq == pytest.approx(stq, abs=5e-9)
    assert scores.stq == pytest.approx(np.sqrt(aq * sq), abs=1e-9)


def test_tiny_table_frame_by_frame():
    """A track is judged over its video: one pixel per frame gives what five pixels of one frame give."""
    target, predicted = tiny_codes("1 1 1 1 1"), tiny_codes("1 1 2 2 2")
    frames = [(target[:, t : t + 1], predicted[:, t : t + 1]) for t in range(5)]
    assert scores_of(TINY, [frames]).aq == pytest.approx(0.52, abs=1e-9)


TARGET = [
    "00000000/00000000/00020111/02222111/22222211/22222221/22222221/22222211",
    "00000000/00000000/02001100/22211110/22221111/22222111/22222111/22221111",
    "00000000/00000000/00000000/20111000/22111100/22211110/22211111/22211111",
]
PREDICTED = [
    "00000000/00000000/00000100/00022111/02222211/22222221/22222221/22222221",
    "00000000/00000000/00001100/02221111/22221111/22222111/22222211/22222111",
    "00000000/00000000/00001000/00111100/22211100/22211111/22221111/22221111",
]
PREDICTED_INSTANCE = [
    "00000000/00000000/00000000/00022000/02222100/22222110/22221110/22221110",
    "00000000/00000000/00000000/02220000/22220000/22222000/22221100/22221000",
    "00000000/00000000/00000000/00000000/22200000/22200000/22220000/22220000",
]


def digits(text):
    return np.array([[int(cell) for cell in row] for row in text.split("/")])


def street_codes(semantic, instance, first_track=0):
    return np.where(semantic == 2, (instance + first_track) * 256, 0) + semantic + 1


def street_frames():
    for target, predicted, instance in zip(TARGET, PREDICTED, PREDICTED_INSTANCE, strict=True):
        wanted, given = digits(target), digits(predicted)
        # A predicted car with instance 0 is a track of its own, so predicted tracks count from 1 here.
        yield street_codes(wanted, np.where(wanted == 2, 2, 0)), street_codes(given, digits(instance), first_track=1)


def test_complex_example():
    scores = scores_of(STREET, [list(street_frames())])
    assert scores.stq == pytest.approx(0.66841773352, abs=1e-9)
    assert scores.aq == pytest.approx(0.55366581415, abs=1e-9)
    assert scores.sq == pytest.approx(0.8069529580309542, abs=1e-12)


def test_two_sequences_weigh_tracks_and_pixels():
    """The same video twice changes nothing; as one video its tracks would be twice as long, with the same ratios."""
    once = scores_of(STREET, [list(street_frames())])
    twice = scores_of(STREET, [list(street_frames()), list(street_frames())])
    assert (twice.aq, twice.sq) == pytest.approx((once.aq, once.sq), abs=1e-12)
    assert twice.tracks == 2 * once.tracks == 2
