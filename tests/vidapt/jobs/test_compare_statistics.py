"""Spread, paired differences, closed gaps: against numbers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidapt.jobs.compare_statistics import Difference, Spread, difference, gap_closed, spread

VALUES = st.dictionaries(st.integers(0, 4), st.floats(0, 1), min_size=2)


def test_spread_by_hand() -> None:
    assert spread([]) is None
    assert spread([0.25]) == Spread(0.25, None, 1)
    found = spread([1.0, 2.0, 6.0])
    assert found is not None
    assert (found.mean, found.count) == (3.0, 3)
    assert found.deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_a_clear_difference() -> None:
    found = difference({0: 0.50, 1: 0.54}, {0: 0.30, 1: 0.32})
    assert found is not None
    assert found.gain.mean == pytest.approx(0.21)
    assert found.gain.deviation == pytest.approx(0.02 / math.sqrt(2))
    assert found.limit == pytest.approx(0.04 / math.sqrt(2))
    assert found.within is False


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({0: 0.50, 1: 0.60}, {0: 0.46, 1: 0.56}),
        ({0: 0.5, 1: 0.5, 2: 0.5}, {0: 0.2, 1: 0.2, 2: 0.51}),
        ({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}),
    ],
    ids=["smaller than the spread", "seeds disagree", "equal"],
)
def test_differences_within_the_spread(first: dict[int, float], second: dict[int, float]) -> None:
    found = difference(first, second)
    assert found is not None
    assert found.within is True


def test_one_seed_says_nothing() -> None:
    assert difference({0: 0.9}, {0: 0.1, 1: 0.2}) == Difference(Spread(0.8, None, 1), None, None)
    assert difference({0: 0.9}, {1: 0.1}) is None


def test_only_common_seeds_count() -> None:
    assert difference({0: 0.5, 1: 0.7, 2: 0.9}, {1: 0.5, 2: 0.6, 3: 0.0}) == difference(
        {1: 0.7, 2: 0.9}, {1: 0.5, 2: 0.6}
    )


@given(VALUES, VALUES)
def test_a_difference_has_no_favourite(first: dict[int, float], second: dict[int, float]) -> None:
    one, other = difference(first, second), difference(second, first)
    if one is None or other is None:
        assert not first.keys() & second.keys()
        return
    assert one.gain.mean == -other.gain.mean
    assert (one.limit, one.within) == (other.limit, other.within)


def test_gap_closed_by_hand() -> None:
    source, oracle = {0: 0.2, 1: 0.3}, {0: 0.6, 1: 0.7}
    assert gap_closed({0: 0.4, 1: 0.6}, source, oracle) == pytest.approx((0.5 - 0.25) / (0.65 - 0.25))
    assert gap_closed(source, source, oracle) == 0
    assert gap_closed(oracle, source, oracle) == 1
    assert gap_closed({0: 0.1, 1: 0.2}, source, oracle) == pytest.approx(-0.25)
    assert gap_closed({0: 0.4}, source, {0: 0.6, 1: 0.0}) == pytest.approx(0.5)


def test_no_gap_no_share() -> None:
    assert gap_closed({0: 0.5}, {0: 0.4}, {0: 0.4}) is None
    assert gap_closed({0: 0.5}, {0: 0.4}, {0: 0.3}) is None
    assert gap_closed({0: 0.5}, {1: 0.4}, {0: 0.6}) is None
