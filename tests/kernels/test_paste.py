"""Instance pasting and instance statistics against loops over pixels and instances."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vidapt.kernels.paste import Pasted, instance_stats, paste_instances


def clips(
    seed: int = 0,
    shape: tuple[int, int, int, int, int] = (2, 3, 3, 5, 7),
    dtype: torch.dtype = torch.float32,
    highest: int = 6,
) -> list[Tensor]:
    """Return image, semantic, ids of random clips; ids also lie outside 0..highest now and then."""
    generator = torch.Generator().manual_seed(seed)
    batch, frames, _, height, width = shape
    image = torch.randint(0, 256, shape, generator=generator).to(dtype)
    semantic = torch.randint(0, 19, (batch, frames, height, width), generator=generator).to(torch.uint8)
    semantic[torch.rand(semantic.shape, generator=generator) < 0.1] = 255
    ids = torch.randint(-1, highest + 2, semantic.shape, generator=generator, dtype=torch.int32)
    return [image, semantic, ids]


def pasted_by_loops(
    base: list[Tensor],
    donor: list[Tensor],
    selected: Tensor | None,
    selected_class: Tensor | None,
    offsets: list[int],
    weight: Tensor | None = None,
    donor_weight: Tensor | None = None,
) -> Pasted:
    image, semantic, ids = (tensor.clone() for tensor in base)
    donor_image, donor_semantic, donor_ids = donor
    result = None
    if weight is not None or donor_weight is not None:
        result = torch.ones(ids.shape) if weight is None else weight.clone()
    for place in np.ndindex(*ids.shape):
        b, t, y, x = place
        donor_id, donor_class = int(donor_ids[place]), int(donor_semantic[place])
        by_id = selected is not None and 1 <= donor_id < selected.shape[1] and bool(selected[b, donor_id])
        by_class = (
            selected_class is not None
            and donor_class < selected_class.shape[1]
            and bool(selected_class[b, donor_class])
        )
        if by_id or by_class:
            image[b, t, :, y, x] = donor_image[b, t, :, y, x]
            semantic[place] = donor_class
            ids[place] = donor_id + offsets[b] if donor_id > 0 else 0
            if result is not None:
                result[place] = 1.0 if donor_weight is None else donor_weight[place]
    return Pasted(image, semantic, ids, result)


def assert_same(actual: Pasted, expected: Pasted) -> None:
    for name, one, other in zip(Pasted._fields, actual, expected, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.dtype == other.dtype, name
            assert torch.equal(one, other), name


SELECTED = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 0, 1]], dtype=torch.bool)
SELECTED_CLASS = torch.zeros(2, 12, dtype=torch.bool)
SELECTED_CLASS[0, 3] = SELECTED_CLASS[1, 11] = SELECTED_CLASS[1, 0] = True


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("selected", "selected_class"), [(SELECTED, None), (None, SELECTED_CLASS), (SELECTED, SELECTED_CLASS)]
)
def test_equals_the_loop_over_pixels(
    dtype: torch.dtype, inplace: bool, selected: Tensor | None, selected_class: Tensor | None
) -> None:
    base, donor = clips(0, dtype=dtype), clips(1, dtype=dtype)
    expected = pasted_by_loops(base, donor, selected, selected_class, [100, 100])
    before = [tensor.clone() for tensor in base + donor]
    actual = paste_instances(*base, *donor, selected, selected_class=selected_class, id_offset=100, inplace=inplace)
    assert_same(actual, expected)
    assert not torch.equal(expected.image, before[0])
    for index, (now, old) in enumerate(zip(base + donor, before, strict=True)):
        assert torch.equal(now, old) == (not inplace or index >= 3)


def test_id_offset_defaults_to_the_highest_id_of_each_clip_before_pasting() -> None:
    base, donor = clips(0, highest=4), clips(1)
    base[2][0, 2, 4, 6] = 41
    expected = pasted_by_loops(base, donor, SELECTED, None, [41, int(base[2][1].max())])
    assert_same(paste_instances(*base, *donor, SELECTED, inplace=True), expected)


def test_id_offset_per_clip() -> None:
    base, donor = clips(0), clips(1)
    expected = pasted_by_loops(base, donor, SELECTED, None, [7, -1])
    offset = torch.tensor([7, -1], dtype=torch.int32)
    assert_same(paste_instances(*base, *donor, SELECTED, id_offset=offset), expected)


def test_an_instance_keeps_one_fresh_id_on_all_frames() -> None:
    base, donor = clips(0, (1, 4, 3, 6, 6)), clips(1, (1, 4, 3, 6, 6))
    donor[2].fill_(0)
    for frame in range(4):
        donor[2][0, frame, frame : frame + 2, 1:3] = 3
    selected = torch.zeros(1, 5, dtype=torch.bool)
    selected[0, 3] = True
    pasted = paste_instances(*base, *donor, selected).ids
    fresh = pasted[donor[2] == 3].unique()
    assert fresh.numel() == 1
    assert fresh.item() > base[2].max()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("sides", ["base", "donor", "both"])
def test_a_missing_weight_counts_as_one(sides: str, inplace: bool) -> None:
    base, donor = clips(0), clips(1)
    weight = torch.rand(base[2].shape) if sides != "donor" else None
    donor_weight = torch.rand(base[2].shape) if sides != "base" else None
    expected = pasted_by_loops(base, donor, SELECTED, None, [9, 9], weight, donor_weight)
    actual = paste_instances(
        *base, *donor, SELECTED, id_offset=9, weight=weight, donor_weight=donor_weight, inplace=inplace
    )
    assert_same(actual, expected)
    assert (actual.weight is weight) == (inplace and weight is not None)


def test_in_place_returns_the_arguments() -> None:
    base, donor = clips(0), clips(1)
    result = paste_instances(*base, *donor, SELECTED, inplace=True)
    assert [result.image is base[0], result.semantic is base[1], result.ids is base[2]] == [True] * 3


def test_views_that_are_not_contiguous() -> None:
    base, donor = ([tensor.transpose(-1, -2) for tensor in clips(seed)] for seed in (0, 1))
    expected = pasted_by_loops(base, donor, SELECTED, SELECTED_CLASS, [5, 5])
    for inplace in (False, True):
        actual = paste_instances(*base, *donor, SELECTED, selected_class=SELECTED_CLASS, id_offset=5, inplace=inplace)
        assert_same(actual, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"selected": torch.ones(2, 1, dtype=torch.bool)},
        {"selected": torch.zeros(2, 9, dtype=torch.bool)},
        {"selected_class": torch.ones(2, 0, dtype=torch.bool)},
    ],
    ids=["only column 0", "none selected", "no class"],
)
def test_nothing_taken_changes_nothing(options: dict[str, Tensor]) -> None:
    base, donor = clips(0), clips(1)
    result = paste_instances(*base, *donor, **options)
    assert_same(result, Pasted(*base, None))


def test_all_256_classes_take_every_pixel() -> None:
    base, donor = clips(0), clips(1)
    result = paste_instances(
        *base, *donor, selected_class=torch.ones(2, 256, dtype=torch.bool), id_offset=0, donor_weight=None
    )
    assert_same(result, Pasted(donor[0], donor[1], donor[2].clamp(min=0), None))


@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 4), (2, 0, 3, 4, 4), (2, 1, 3, 0, 4), (1, 1, 1, 1, 1)])
def test_empty_and_single_pixel(shape: tuple[int, int, int, int, int]) -> None:
    base, donor = clips(0, shape), clips(1, shape)
    selected = torch.ones(shape[0], 9, dtype=torch.bool)
    result = paste_instances(*base, *donor, selected, id_offset=1)
    assert_same(result, pasted_by_loops(base, donor, selected, None, [1] * shape[0]))
    assert paste_instances(*base, *donor, selected).ids.shape == base[2].shape


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 3, *[st.integers(1, 9)] * 2),
    seed=st.integers(0, 99),
    columns=st.integers(1, 9),
    classes=st.integers(0, 30),
)
def test_any_shape(shape: tuple[int, int, int, int, int], seed: int, columns: int, classes: int) -> None:
    base, donor = clips(seed, shape), clips(seed + 1, shape)
    generator = torch.Generator().manual_seed(seed)
    selected = torch.rand(shape[0], columns, generator=generator) < 0.5
    selected_class = torch.rand(shape[0], classes, generator=generator) < 0.2
    expected = pasted_by_loops(base, donor, selected, selected_class, [50] * shape[0])
    assert_same(paste_instances(*base, *donor, selected, selected_class=selected_class, id_offset=50), expected)


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
    for shape, columns in (((1, 1, 3, 4, 4), 2), ((3, 5, 3, 4, 4), 40)):
        base, donor = clips(0, shape), clips(1, shape)
        tables = [torch.ones(shape[0], columns, dtype=torch.bool) for _ in range(2)]
        with Operations() as operations:
            paste_instances(*base, *donor, tables[0], selected_class=tables[1], inplace=True)
            instance_stats(base[2], columns)
        assert not {"_local_scalar_dense", "nonzero", "masked_select", "_unique2"} & set(operations.names)
        counts.append(len(operations.names))
    assert counts[0] == counts[1] > 10


def test_inputs_that_require_grad_raise() -> None:
    base, donor = clips(0), clips(1)
    with pytest.raises(ValueError, match="detach"):
        paste_instances(base[0].requires_grad_(), *base[1:], *donor, SELECTED)
    weight = torch.ones(base[2].shape, requires_grad=True)
    with pytest.raises(ValueError, match="detach"):
        paste_instances(base[0].detach(), *base[1:], *donor, SELECTED, weight=weight)


@pytest.mark.parametrize(
    ("position", "replacement", "error", "message"),
    [
        (0, torch.zeros(2, 3, 5, 7), ValueError, "image must be"),
        (0, torch.zeros(2, 3, 3, 5, 7, dtype=torch.int64), TypeError, "image must be uint8"),
        (3, torch.zeros(2, 3, 3, 5, 7, dtype=torch.float16), TypeError, "donor_image must be torch.float32"),
        (3, torch.zeros(2, 3, 1, 5, 7), ValueError, "donor_image must have shape"),
        (1, torch.zeros(2, 3, 5, 7, dtype=torch.int64), TypeError, "semantic must be torch.uint8"),
        (2, torch.zeros(2, 3, 5, 7, dtype=torch.int64), TypeError, "ids must be torch.int32"),
        (5, torch.zeros(2, 3, 7, 5, dtype=torch.int32), ValueError, "donor_ids must have shape"),
        (6, torch.ones(2, 4), TypeError, "selected must be torch.bool"),
        (6, torch.ones(3, 4, dtype=torch.bool), ValueError, "selected must have shape"),
        (6, torch.ones(4, dtype=torch.bool), ValueError, "two axes"),
        (6, torch.ones(2, 0, dtype=torch.bool), ValueError, "column 0"),
        (6, None, ValueError, "nothing to paste"),
    ],
)
def test_wrong_inputs_raise(position: int, replacement: Tensor | None, error: type[Exception], message: str) -> None:
    arguments: list[Tensor | None] = [*clips(0), *clips(1), SELECTED]
    arguments[position] = replacement
    with pytest.raises(error, match=message):
        paste_instances(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"id_offset": torch.zeros(2)}, TypeError, "id_offset must be torch.int32"),
        ({"id_offset": torch.zeros(3, dtype=torch.int32)}, ValueError, "id_offset must have shape"),
        ({"id_offset": 1.5}, TypeError, "id_offset must be an int"),
        ({"weight": torch.ones(2, 3, 5, 7, dtype=torch.int64)}, TypeError, "weight must be floating"),
        ({"donor_weight": torch.ones(2, 3, 5)}, ValueError, "donor_weight must have shape"),
    ],
)
def test_wrong_options_raise(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        paste_instances(*clips(0), *clips(1), SELECTED, **options)


def stats_by_loops(ids: Tensor, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    maps = ids.numpy()
    shape = (*maps.shape[:2], count + 1)
    area, box = np.zeros(shape, np.int32), np.zeros((*shape, 4), np.int32)
    centroid = np.zeros((*shape, 2), np.float32)
    for b, t, instance in np.ndindex(*shape):
        y, x = np.nonzero(maps[b, t] == instance)
        if instance and y.size:
            area[b, t, instance] = y.size
            box[b, t, instance] = x.min(), y.min(), x.max() + 1, y.max() + 1
            centroid[b, t, instance] = y.mean(), x.mean()
    return area, box, centroid


@pytest.mark.parametrize("count", [0, 1, 4, 12])
@pytest.mark.parametrize("transposed", [False, True])
def test_stats_equal_the_loop_over_instances(count: int, transposed: bool) -> None:
    ids = clips(3, (2, 3, 1, 9, 14), highest=5)[2]
    ids = ids.transpose(-1, -2) if transposed else ids
    actual = instance_stats(ids, count)
    for one, other in zip(actual, stats_by_loops(ids, count), strict=True):
        assert one.numpy().dtype == other.dtype
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-6)


def test_stats_of_an_empty_map_are_zero() -> None:
    for shape in ((1, 2, 0, 4), (0, 2, 3, 4), (1, 1, 3, 3)):
        stats = instance_stats(torch.zeros(shape, dtype=torch.int32), 3)
        assert stats.area.shape == (*shape[:2], 4)
        assert stats.box.shape == (*shape[:2], 4, 4)
        assert stats.centroid.shape == (*shape[:2], 4, 2)
        assert not any(part.any() for part in stats)


def test_stats_centroid_of_a_large_frame_is_exact() -> None:
    ids = torch.ones(1, 1, 1500, 2000, dtype=torch.int32)
    stats = instance_stats(ids, 1)
    assert stats.centroid[0, 0, 1].tolist() == [749.5, 999.5]
    assert stats.area[0, 0, 1].item() == 3_000_000


@pytest.mark.parametrize(
    ("ids", "count", "error"),
    [
        (torch.zeros(2, 3, 4, dtype=torch.int32), 1, ValueError),
        (torch.zeros(1, 2, 3, 4, dtype=torch.int64), 1, TypeError),
        (torch.zeros(1, 2, 3, 4, dtype=torch.int32), -1, ValueError),
        (torch.zeros(1, 2, 3, 4, dtype=torch.int32), 1.0, TypeError),
    ],
)
def test_stats_wrong_inputs_raise(ids: Tensor, count: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        instance_stats(ids, count)
