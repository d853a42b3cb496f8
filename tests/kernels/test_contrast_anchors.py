"""Anchor sampling against a loop over images and classes that sees the same noise."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vidapt.kernels.contrast import sample_anchors

IGNORE = 255


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled_by_loops(
    labels: Tensor, prediction: Tensor | None, noise: Tensor, per_class: int, total: int, min_pixels: int
) -> list[int]:
    batch, length = labels.shape
    groups = [
        (b, c) for b in range(batch) for c in range(256) if c != IGNORE and int((labels[b] == c).sum()) > min_pixels
    ]
    chosen = []
    for b, c in groups:
        pixels = [i for i in range(length) if labels[b, i] == c]
        hard = [i for i in pixels if prediction is not None and prediction[b, i] != c]
        easy = [i for i in pixels if i not in hard]
        wanted = min(total // len(groups), per_class)
        from_hard = min(wanted // 2, len(hard))
        from_easy = min(wanted - from_hard, len(easy))
        from_hard = min(wanted - from_easy, len(hard))
        for kind, count in ((easy, from_easy), (hard, from_hard)):
            chosen += [b * length + i for i in sorted(kind, key=lambda i: float(noise[b, i]))[:count]]
    return chosen


def assert_equals_the_loop(labels: Tensor, prediction: Tensor | None, seed: int = 0, **options: int) -> int:
    indices, valid = sample_anchors(labels, prediction, generator=generator(seed), **options)
    noise = torch.rand(labels.shape, generator=generator(seed))
    chosen = sampled_by_loops(labels, prediction, noise, **options)
    assert indices.dtype == torch.int64
    assert indices.shape == valid.shape == (options["total"],)
    assert indices[valid].tolist() == chosen
    assert valid.tolist() == [True] * len(chosen) + [False] * (options["total"] - len(chosen))
    assert not indices[~valid].any()
    return len(chosen)


@pytest.mark.parametrize("with_prediction", [False, True])
@pytest.mark.parametrize(("per_class", "total"), [(7, 64), (100, 64), (3, 1000), (0, 10), (5, 0), (4, 3)])
def test_equals_the_loop(with_prediction: bool, per_class: int, total: int) -> None:
    labels = torch.randint(0, 5, (3, 120), generator=generator(1))
    labels[0, :40] = IGNORE
    labels[1, 100:] = 254
    prediction = torch.where(torch.rand(3, 120, generator=generator(2)) < 0.3, 9, labels) if with_prediction else None
    options: dict[str, Any] = {"per_class": per_class, "total": total, "min_pixels": 15}
    count = assert_equals_the_loop(labels, prediction, **options)
    assert count > 0 or min(per_class, total // 15) == 0


def test_half_is_hard_and_either_kind_fills_the_shortfall() -> None:
    labels = torch.zeros(3, 40, dtype=torch.int64)
    prediction = torch.zeros(3, 40, dtype=torch.int64)
    prediction[0, :20], prediction[1, :2], prediction[2, 3:] = 1, 1, 1
    indices, valid = sample_anchors(labels, prediction, per_class=10, total=100, min_pixels=20)
    assert valid.sum() == 30
    hard = (prediction.flatten()[indices[:30]] != 0).view(3, 10).sum(1)
    assert hard.tolist() == [5, 2, 7]
    assert indices[:30].unique().numel() == 30


def test_a_group_needs_more_than_min_pixels() -> None:
    labels = torch.tensor([[0] * 10 + [1] * 11 + [IGNORE] * 30])
    indices, valid = sample_anchors(labels, per_class=5, total=8, min_pixels=10)
    assert valid.sum() == 5
    assert (labels.flatten()[indices[valid]] == 1).all()


def test_default_min_pixels_and_small_groups_give_all_they_have() -> None:
    labels = torch.zeros(1, 101, dtype=torch.int64)
    assert sample_anchors(labels, per_class=500, total=300)[1].sum() == 101
    assert sample_anchors(labels[:, :100], per_class=500, total=300)[1].sum() == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_any_integer_type(dtype: torch.dtype) -> None:
    labels = torch.randint(0, 4, (2, 50), generator=generator(3))
    prediction = torch.randint(0, 4, (2, 50), generator=generator(4))
    options: dict[str, Any] = {"per_class": 6, "total": 30, "min_pixels": 5}
    expected = sample_anchors(labels, prediction, generator=generator(5), **options)
    actual = sample_anchors(labels.to(dtype), prediction.to(dtype), generator=generator(5), **options)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


def test_labels_outside_the_classes_are_never_drawn() -> None:
    labels = torch.tensor([[-1] * 20 + [256] * 20 + [300] * 20])
    assert not sample_anchors(labels, per_class=5, total=8, min_pixels=1)[1].any()


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0), (1, 1)])
def test_empty_and_single_pixel(shape: tuple[int, int]) -> None:
    labels = torch.zeros(shape, dtype=torch.int64)
    assert_equals_the_loop(labels, None, per_class=3, total=4, min_pixels=0)


def test_all_ignored_gives_nothing() -> None:
    indices, valid = sample_anchors(torch.full((2, 300), IGNORE), per_class=5, total=8)
    assert not indices.any()
    assert not valid.any()


def test_every_pixel_of_a_group_is_drawn_equally_often() -> None:
    labels = torch.zeros(1, 20, dtype=torch.int64)
    source, counts = generator(0), torch.zeros(20)
    for _ in range(400):
        indices, valid = sample_anchors(labels, per_class=5, total=5, min_pixels=1, generator=source)
        counts[indices[valid]] += 1
    assert counts.sum() == 2000
    assert ((counts - 100).abs() < 45).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 30)),
    seed=st.integers(0, 99),
    per_class=st.integers(0, 9),
    total=st.integers(0, 40),
    min_pixels=st.integers(0, 8),
    hard=st.sampled_from([None, 0.0, 0.4, 1.0]),
)
def test_any_shape(shape: tuple[int, int], seed: int, hard: float | None, **options: int) -> None:
    labels = torch.tensor([0, 3, 254, IGNORE])[torch.randint(0, 4, shape, generator=generator(seed))]
    wrong = None if hard is None else torch.where(torch.rand(shape, generator=generator(seed + 1)) < hard, 1, labels)
    assert_equals_the_loop(labels, wrong, seed, **options)


class Operations(TorchDispatchMode):
    """Record the names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def test_nothing_synchronises_and_nothing_loops() -> None:
    counts = []
    for images in (1, 6):
        labels = torch.randint(0, 19, (images, 400), generator=generator(0))
        with Operations() as operations:
            sample_anchors(labels, labels.roll(1, 1), per_class=5, total=64, min_pixels=2)
        assert not {"_local_scalar_dense", "nonzero", "masked_select", "_unique2"} & set(operations.names)
        counts.append(len(operations.names))
    assert counts[0] == counts[1] > 10


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"labels": torch.zeros(4).int()}, ValueError),
        ({"labels": torch.zeros(1, 4)}, TypeError),
        ({"prediction": torch.zeros(1, 5).int()}, ValueError),
        ({"prediction": torch.zeros(1, 4)}, TypeError),
        ({"per_class": -1}, ValueError),
        ({"total": -1}, ValueError),
        ({"min_pixels": -1}, ValueError),
    ],
)
def test_wrong_arguments_raise(arguments: dict[str, Any], error: type[Exception]) -> None:
    valid = {"labels": torch.zeros(1, 4).int(), "per_class": 2, "total": 3, "min_pixels": 1}
    with pytest.raises(error):
        sample_anchors(**(valid | arguments))
