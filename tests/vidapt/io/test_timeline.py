from fractions import Fraction

import numpy as np
import pytest

from vidapt.io.timeline import Packets, build_timeline, missing_at_end


def packets(stamps: list[int], positions: list[int] | None = None, size: int = 100, ordered: bool = True) -> Packets:
    count = len(stamps)
    places = np.arange(count) * size if positions is None else np.array(positions)
    keys = np.zeros(count, bool)
    keys[0] = True
    return Packets(
        np.array(stamps, np.int64),
        np.full(count, size, np.int64),
        places.astype(np.int64),
        keys,
        np.zeros(count, bool),
        np.zeros((0, 2), np.int64),
        ordered,
    )


def test_frames_are_numbered_by_the_rank_of_their_stamps() -> None:
    timeline = build_timeline(packets([10, 40, 20, 30]), Fraction(1, 100), 10)
    assert [timeline.index_of(stamp) for stamp in (10, 20, 30, 40)] == [0, 1, 2, 3]
    assert timeline.count == 4
    assert timeline.time_of(3) == pytest.approx(0.3)


def test_a_jump_in_time_without_missing_bytes_is_a_variable_rate() -> None:
    timeline = build_timeline(packets([0, 10, 20, 60, 70]), Fraction(1, 100), 10)
    assert timeline.count == 5
    assert timeline.lost() == []


def test_a_jump_with_missing_bytes_is_a_loss() -> None:
    timeline = build_timeline(
        packets([0, 10, 20, 60, 70, 80, 90], [0, 100, 200, 600, 700, 800, 900]), Fraction(1, 100), 10
    )
    assert timeline.count == 10
    assert timeline.lost() == [3, 4, 5]
    assert timeline.index_of(60) == 6
    assert timeline.time_of(4) == pytest.approx(0.4)


def test_bytes_of_other_streams_are_no_loss() -> None:
    plain = packets([0, 10, 20, 60, 70, 80, 90], [0, 100, 200, 600, 700, 800, 900])
    sound = np.array([[300, 150], [450, 150]], np.int64)
    timeline = build_timeline(
        Packets(plain.stamps, plain.sizes, plain.positions, plain.keyframes, plain.damaged, sound), Fraction(1, 100), 10
    )
    assert timeline.lost() == []


def test_an_absurd_stamp_cannot_make_more_frames_than_bytes() -> None:
    timeline = build_timeline(packets([0, 10, 20, 10**12], [0, 100, 200, 900]), Fraction(1, 100), 10)
    assert timeline.count <= 4 + 600


def test_a_jumping_clock_falls_back_to_counting() -> None:
    stamps = [*range(0, 2000, 10), *range(5, 2000, 10)]
    timeline = build_timeline(packets(stamps), Fraction(1, 100), 10)
    assert timeline.counted
    assert timeline.count == 400
    assert timeline.time_of(10) == pytest.approx(1.0)


def test_without_stamps_frames_are_counted() -> None:
    assert build_timeline(packets([0, 1, 2], ordered=False), Fraction(1, 25), 1).counted


def test_one_packet_and_foreign_stamps() -> None:
    timeline = build_timeline(packets([7]), Fraction(1, 100), 10)
    assert (timeline.count, timeline.index_of(7), timeline.index_of(9), timeline.index_of(50)) == (1, 0, 0, -1)
    assert timeline.index_of(None) == -1


@pytest.mark.parametrize(
    ("covered", "duration", "slack", "missing"),
    [(100, 100, 0, 0), (100, 114, 0, 0), (100, 130, 0, 3), (100, 130, 40, 0)],
)
def test_missing_frames_at_the_end(covered: float, duration: float, slack: float, missing: int) -> None:
    assert missing_at_end(covered, duration, 10, slack=slack) == missing


def test_damaged_stamps_count_as_lost_frames() -> None:
    for wrong in (10**7, -(10**6)):
        stamps = [10 * index for index in range(100)]
        stamps[40:43] = [wrong, wrong + 10, wrong + 20]
        timeline = build_timeline(packets(stamps), Fraction(1, 100), 10)
        assert timeline.lost() == [40, 41, 42]
        assert timeline.count == 100
        assert timeline.index_of(wrong) == -1
        assert timeline.index_of(500) == 50
