"""The counting sort by label: a stable permutation into buckets, its inverse and where each bucket begins."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidapt.kernels.contrast import launch

IGNORE = 255
BUCKETS = 127


def expected_bucket(label: int, ignore_label: int) -> int:
    return BUCKETS if label == ignore_label else (label & 0x7FFFFFFF) % BUCKETS


def check(labels: Tensor, ignore_label: int = IGNORE) -> None:
    """Compare with Python's stable sort, pair by pair."""
    order, place, start, ordered = launch.sort_rows(labels, ignore_label)
    pairs, rows = labels.shape
    assert [one.dtype for one in (order, place, start, ordered)] == [torch.int32] * 3 + [labels.dtype]
    assert [tuple(one.shape) for one in (order, place, start, ordered)] == [
        (pairs, rows), (pairs, rows), (pairs, BUCKETS + 2), (pairs, rows),
    ]  # fmt: skip
    assert all(one.is_contiguous() for one in (order, place, start, ordered))
    for pair, values in enumerate(labels.tolist()):
        buckets = [expected_bucket(label, ignore_label) for label in values]
        sequence = sorted(range(rows), key=buckets.__getitem__)
        assert order[pair].tolist() == sequence
        assert place[pair].tolist() == sorted(range(rows), key=sequence.__getitem__)
        assert ordered[pair].tolist() == [values[row] for row in sequence]
        assert start[pair].tolist() == [sum(one < bucket for one in buckets) for bucket in range(BUCKETS + 1)] + [rows]


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 127, 128, 129, 300])
def test_rows_around_the_blocks_and_chunks(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    check(torch.tensor([0, 1, 18, IGNORE])[torch.randint(0, 4, (2, rows), generator=generator)])


def test_most_chunks_of_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MAX_CHUNKS", 3)
    labels = torch.randint(0, 20, (1, 500), generator=torch.Generator().manual_seed(0))
    check(labels)
    monkeypatch.setattr(launch, "MAX_CHUNKS", 1)
    check(labels)


@pytest.mark.parametrize("label", [IGNORE, 0, 126])
def test_one_label(label: int) -> None:
    check(torch.full((2, 150), label))


@pytest.mark.parametrize(
    ("dtype", "ignore_label"),
    [
        (torch.uint8, 255),
        (torch.uint8, -1),
        (torch.int8, -1),
        (torch.int8, 255),
        (torch.int16, 0),
        (torch.int32, 1),
        (torch.int32, 2**40),
        (torch.int64, -(2**63)),
    ],
)
def test_any_integer_type(dtype: torch.dtype, ignore_label: int) -> None:
    limits = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(limits.min, limits.max, (1, 140), generator=generator, dtype=torch.int64)
    special = torch.tensor([limits.min, limits.max, 0, 1, 127, max(limits.min, -1), max(limits.min, -127)])
    labels[0, ::7] = special[torch.randint(0, 7, (20,), generator=generator)]
    check(labels.to(dtype), ignore_label)


def test_every_bucket() -> None:
    order = torch.randperm(256, generator=torch.Generator().manual_seed(2))
    check(order[None].to(torch.uint8))
    check(order[None] - 128, ignore_label=-128)


def test_views_of_any_stride() -> None:
    labels = torch.randint(0, 5, (140, 2), generator=torch.Generator().manual_seed(3))
    check(labels.T)
    check(labels[::3].T)
    check(labels[:1].T.expand(2, 140))


def test_labels_more_than_an_int32_apart() -> None:
    # Only the pages that are written take memory.
    storage = torch.empty(2**31 + 2**28, dtype=torch.uint8)
    far = storage.as_strided((2, 33), (2**30 + 5, 2**25 + 3))
    far.copy_(torch.randint(0, 4, (2, 33), generator=torch.Generator().manual_seed(4)))
    check(far)


def test_two_runs_are_equal() -> None:
    labels = torch.randint(0, 30, (3, 200), generator=torch.Generator().manual_seed(5))
    for one, other in zip(launch.sort_rows(labels, 3), launch.sort_rows(labels, 3), strict=True):
        assert torch.equal(one, other)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 280)),
    values=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-130, 300), min_size=1, max_size=8),
    ignored=st.booleans(),
    least=st.sampled_from([512, 1024, 2048, 4096]),
    most=st.sampled_from([1, 3, 128]),
    seed=st.integers(0, 99),
)
def test_any_labels(shape: tuple[int, int], values: list[int], ignored: bool, least: int, most: int, seed: int) -> None:
    labels = torch.tensor(values)[torch.randint(0, len(values), shape, generator=torch.Generator().manual_seed(seed))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "LEAST_CHUNK", least)
        patch.setattr(launch, "MAX_CHUNKS", most)
        check(labels, values[0] if ignored else IGNORE)
