"""The kernel of `sample_anchors` draws the indices of its reference, in the same order."""

import math
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidapt.kernels import dispatch
from vidapt.kernels.contrast import launch_anchors, ops_anchors, reference_anchors, sample_anchors

IGNORE = 255
OPTIONS = {"per_class": 9, "total": 60, "min_pixels": 5, "ignore_label": IGNORE}
GARBAGE = 0x6B


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(shape: tuple[int, int], classes: list[int], seed: int, hard: float | None = None) -> Any:
    """Labels among `classes`, a prediction that is wrong with probability `hard`, and noise."""
    source = generator(seed)
    labels = torch.tensor(classes)[torch.randint(0, len(classes), shape, generator=source)]
    wrong = torch.rand(shape, generator=source) < (hard or 0.0)
    prediction = None if hard is None else torch.where(wrong, 1 - labels, labels)
    return labels, prediction, torch.rand(shape, generator=source)


def assert_equals_the_reference(labels: Tensor, prediction: Tensor | None, noise: Tensor, **options: int) -> int:
    """Compare with the reference and return the number of anchors."""
    options = OPTIONS | options
    expected = reference_anchors.sample_anchors(labels, prediction, noise, **options)
    actual = ops_anchors.sample_anchors(labels, prediction, noise, **options)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()
    return int(expected[1].sum())


@pytest.mark.parametrize("hard", [None, 0.4, 1.0])
@pytest.mark.parametrize(
    ("per_class", "total"), [(9, 60), (1000, 300), (10**12, 10**3), (1, 60), (9, 5), (0, 60), (9, 0), (7, 6)]
)
def test_equals_the_reference(hard: float | None, per_class: int, total: int) -> None:
    labels, prediction, noise = draw((2, 180), [0, 3, 254], 0, hard)
    drawn = assert_equals_the_reference(labels, prediction, noise, per_class=per_class, total=total)
    sizes = [int((row == c).sum()) for row in labels for c in (0, 3, 254)]
    assert drawn == sum(min(per_class, total // 6, size) for size in sizes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 63), (1, 64), (1, 65), (3, 129), (5, 7), (4, 1), (1, 400)])
def test_shapes_around_the_block_size(shape: tuple[int, int]) -> None:
    drawn = assert_equals_the_reference(*draw(shape, [0, 3, 3, IGNORE], 1, 0.3), min_pixels=0)
    assert 0 < drawn <= 60


def test_unbalanced_classes_fill_what_one_kind_lacks() -> None:
    labels = torch.zeros(4, 120, dtype=torch.int64)
    prediction = torch.zeros(4, 120, dtype=torch.int64)
    prediction[0, :60], prediction[1, :2], prediction[2, 3:] = 1, 1, 1
    labels[3, 20:], labels[3, 115:] = 7, 18
    noise = torch.rand(4, 120, generator=generator(2))
    assert assert_equals_the_reference(labels, prediction, noise, per_class=10, total=100) == 50
    assert assert_equals_the_reference(labels, prediction, noise, per_class=10, total=4) == 0


@pytest.mark.parametrize("levels", [1, 2, 4, 50])
def test_equal_noise_is_ordered_by_position(levels: int) -> None:
    labels, prediction, noise = draw((2, 90), [0, 3], 3, 0.3)
    noise = (noise * levels).floor() / levels
    assert assert_equals_the_reference(labels, prediction, noise, per_class=40, total=400) > 100
    if levels == 1:
        indices, valid = ops_anchors.sample_anchors(labels, None, noise, **OPTIONS | {"per_class": 3})
        first = [b * 90 + i for b in range(2) for c in (0, 3) for i in (labels[b] == c).nonzero()[:3, 0].tolist()]
        assert indices[valid].tolist() == first


def test_noise_at_the_edges_of_bins() -> None:
    bins = launch_anchors.INTERPRETER["bins"]["BINS"]
    edges = torch.arange(bins + 1) ** 2 / bins**2
    noise = torch.cat([edges, torch.nextafter(edges, torch.tensor(2.0)), torch.nextafter(edges, torch.tensor(0.0))])
    tiny = torch.tensor([0.0, 1e-45, 1e-38, 2**-24, 1 - 2**-24, 1.0])
    noise = torch.cat([noise, tiny])[torch.randperm(3 * bins + 9, generator=generator(4))][None]
    labels = torch.zeros(noise.shape, dtype=torch.int32)
    for per_class in range(1, noise.numel() + 1, 5):
        assert assert_equals_the_reference(labels, None, noise, per_class=per_class) == per_class


@pytest.mark.parametrize("noise", [[3.0, -1.0, math.inf, 0.5, -0.0, 0.0, -math.inf, 2.0]])
def test_noise_outside_the_unit_interval(noise: list[float]) -> None:
    labels = torch.zeros(1, 8, dtype=torch.int64)
    indices, _ = ops_anchors.sample_anchors(labels, None, torch.tensor([noise]), **OPTIONS | {"total": 8})
    assert indices.tolist() == [6, 1, 4, 5, 3, 7, 0, 2]
    assert_equals_the_reference(labels, None, torch.tensor([noise]), per_class=3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_noise_of_another_type_keeps_its_order(dtype: torch.dtype) -> None:
    noise = torch.rand(1, 200, generator=generator(5), dtype=torch.float64)
    # These differ in float64 only.
    noise[0, ::2] = 0.125 + torch.randperm(100, generator=generator(6)) * 2**-40
    assert assert_equals_the_reference(torch.zeros(1, 200).int(), None, noise.to(dtype), per_class=50) == 50


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("predicted", [torch.uint8, torch.int64])
def test_any_integer_type(dtype: torch.dtype, predicted: torch.dtype) -> None:
    labels, prediction, noise = draw((2, 90), [0, 1, 2], 7, 0.5)
    labels[0, 0], prediction[0, 0] = -2, 254
    assert assert_equals_the_reference(labels.to(dtype), prediction.to(predicted), noise) == 54


def test_a_prediction_is_compared_by_value_across_types() -> None:
    labels, noise = torch.full((1, 40), 254, dtype=torch.uint8), torch.rand(1, 40, generator=generator(8))
    prediction = torch.full((1, 40), -2, dtype=torch.int8)
    prediction[0, 39:] = 0
    assert_equals_the_reference(labels, prediction, noise)
    large = labels.long() + 2**32 * (torch.arange(40) % 2)
    assert_equals_the_reference(labels, large, noise)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64])
def test_labels_outside_the_classes_are_never_drawn(dtype: torch.dtype) -> None:
    labels, prediction, noise = draw((2, 120), [-1, 0, 255, 256, 300, -32768], 9, 0.2)
    if dtype == torch.int64:
        labels[labels == 300] = 2**32 + 3
    assert assert_equals_the_reference(labels.to(dtype), prediction, noise, ignore_label=4) == 36
    assert assert_equals_the_reference(labels.to(dtype), prediction, noise) == 18


@pytest.mark.parametrize("ignore_label", [0, 1, 18, -1, -100, 2**40])
def test_any_ignore_label(ignore_label: int) -> None:
    drawn = assert_equals_the_reference(*draw((1, 200), [0, 1, 18, IGNORE], 10, 0.3), ignore_label=ignore_label)
    assert drawn == (27 if 0 <= ignore_label < IGNORE else 36)


def test_all_ignored_gives_nothing() -> None:
    labels = torch.full((2, 70), IGNORE)
    assert assert_equals_the_reference(labels, labels, torch.rand(2, 70)) == 0


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_empty_batches(shape: tuple[int, int]) -> None:
    labels = torch.zeros(shape, dtype=torch.int64)
    assert assert_equals_the_reference(labels, None, torch.rand(shape), min_pixels=0, total=7) == 0


def test_a_group_needs_more_than_min_pixels() -> None:
    labels = torch.tensor([[0] * 10 + [1] * 11 + [IGNORE] * 30])
    noise = torch.rand(1, 51, generator=generator(11))
    assert assert_equals_the_reference(labels, None, noise, min_pixels=10) == 9
    assert assert_equals_the_reference(labels, None, noise, min_pixels=11) == 0
    assert assert_equals_the_reference(labels, None, noise, min_pixels=10**12) == 0


def test_views_of_any_stride() -> None:
    labels, prediction, noise = draw((3, 70), [0, 3, 4], 12, 0.4)
    wide = torch.full((3, 140), 3, dtype=torch.int16)
    wide[:, ::2] = labels.short()
    views = wide[:, ::2], prediction.t().contiguous().t(), noise.t().contiguous().t()
    assert not any(view.is_contiguous() for view in views)
    assert assert_equals_the_reference(*views) == 54
    assert assert_equals_the_reference(labels[1:], prediction[1:], noise[1:]) == 54
    assert assert_equals_the_reference(labels[:1].expand(3, -1), None, noise[:1].expand(3, -1)) == 54


def test_more_pixels_than_int32_positions_raise() -> None:
    labels = torch.zeros(1, 1, dtype=torch.uint8)
    large = labels.expand(2**16, 2**15)
    with pytest.raises(ValueError, match="at most 2147418112 pixels, got 2147483648"):
        ops_anchors.sample_anchors(large, None, torch.zeros(1, 1).expand(large.shape), **OPTIONS)


def test_every_place_is_written_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, prediction, noise = draw((2, 100), [0, 3, IGNORE], 13, 0.4)
    poison = mock.Mock(side_effect=lambda *_, **kwargs: torch.full((_[-1],), GARBAGE, dtype=kwargs["dtype"]))
    monkeypatch.setattr(launch_anchors.torch, "empty", poison)
    for total in (5, 60, 600):
        canvas = torch.full((total + 64,), GARBAGE), torch.full((total + 64,), 2, dtype=torch.uint8)
        indices, valid = canvas[0][32:-32], canvas[1].view(torch.bool)[32:-32]
        launch_anchors.launch((labels, prediction, noise), indices, valid, 9, total, 5, IGNORE)
        expected = reference_anchors.sample_anchors(labels, prediction, noise, **OPTIONS | {"total": total})
        assert indices.tolist() == expected[0].tolist()
        assert valid.tolist() == expected[1].tolist()
        for one, untouched in zip(canvas, (GARBAGE, 2), strict=True):
            assert (torch.cat([one[:32], one[-32:]]) == untouched).all()
    assert poison.call_count == 3


def test_two_runs_are_equal() -> None:
    inputs = draw((2, 130), [0, 3], 14, 0.4)
    runs = [ops_anchors.sample_anchors(*inputs, **OPTIONS) for _ in range(2)]
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_inputs_are_left_alone() -> None:
    inputs = draw((2, 60), [0, 3], 15, 0.4)
    copies = [tensor.clone() for tensor in inputs]
    ops_anchors.sample_anchors(*inputs, **OPTIONS)
    assert all(torch.equal(one, other) for one, other in zip(inputs, copies, strict=True))


def test_gpu_settings_draw_the_same() -> None:
    inputs = draw((2, 5000), [0, 3, 3, 3], 16, 0.1)
    with mock.patch.object(launch_anchors, "INTERPRETER", launch_anchors.GPU):
        assert assert_equals_the_reference(*inputs, per_class=70, total=1000) == 280


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 90)),
    classes=st.lists(st.sampled_from([-1, 0, 1, 7, 254, 255, 256]), min_size=1, max_size=5),
    hard=st.sampled_from([None, 0.0, 0.4, 1.0]),
    levels=st.sampled_from([1, 4, 2**24]),
    seed=st.integers(0, 99),
    per_class=st.integers(0, 30),
    total=st.integers(0, 90),
    min_pixels=st.integers(0, 20),
)
def test_any_problem(
    shape: tuple[int, int], classes: list[int], hard: float | None, levels: int, seed: int, **options: int
) -> None:
    labels, prediction, noise = draw(shape, classes, seed, hard)
    assert_equals_the_reference(labels, prediction, (noise * levels).floor() / levels, **options)


def test_the_public_function_takes_the_kernel() -> None:
    assert dispatch.kernel("sample_anchors") is ops_anchors.sample_anchors
    labels, prediction, _ = draw((2, 80), [0, 3], 17, 0.4)
    options: dict[str, Any] = {"per_class": 9, "total": 60, "min_pixels": 5}
    with mock.patch.object(launch_anchors, "launch", wraps=launch_anchors.launch) as launch:
        indices, valid = sample_anchors(labels, prediction, generator=generator(18), **options)
    assert launch.call_count == 1
    noise = torch.rand(2, 80, generator=generator(18))
    expected = reference_anchors.sample_anchors(labels, prediction, noise, **OPTIONS)
    assert torch.equal(indices, expected[0])
    assert torch.equal(valid, expected[1])


@pytest.mark.parametrize("hard", [None, 0.4])
@pytest.mark.parametrize("shape", [(2, 40), (0, 4)])
def test_opcheck(hard: float | None, shape: tuple[int, int]) -> None:
    arguments = (*draw(shape, [0, 3], 19, hard), 9, 60, 5, IGNORE)
    torch.library.opcheck(torch.ops.vidapt.sample_anchors.default, arguments)


@pytest.mark.parametrize("hard", [None, 0.4])
def test_compiles_without_a_break(hard: float | None) -> None:
    labels, prediction, _ = draw((2, 80), [0, 3], 20, hard)

    def sampled(labels: Tensor, prediction: Tensor | None) -> tuple[Tensor, Tensor]:
        return sample_anchors(labels, prediction, per_class=9, total=60, min_pixels=5)

    compiled = torch.compile(sampled, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    actual = compiled(labels, prediction)
    torch.manual_seed(0)
    expected = reference_anchors.sample_anchors(labels, prediction, torch.rand(2, 80), **OPTIONS)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))
    assert actual[1].any()
