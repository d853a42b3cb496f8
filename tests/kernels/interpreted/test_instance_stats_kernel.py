"""The statistics kernels equal their reference to the last bit, whatever the maps look like."""

import mmap
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidapt.kernels import dispatch, tiles
from vidapt.kernels.paste import Stats, instance_stats, launch, ops, reference

TILE = {"BLOCK_H": 4, "BLOCK_W": 8}


def noise(seed: int, shape: tuple[int, ...], highest: int = 5) -> Tensor:
    """Random ids of -1..highest + 1 at every pixel."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, highest + 2, shape, generator=generator, dtype=torch.int32)


def blobs(seed: int, shape: tuple[int, ...], count: int) -> Tensor:
    """Boxes of the ids 1..count that overlap at random, as in a map of instances."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(shape, dtype=torch.int32)
    for frame in ids.flatten(0, 1):
        for instance in range(1, count + 1):
            top, left = (int(torch.randint(0, size, (), generator=generator)) for size in shape[2:])
            height, width = torch.randint(1, 9, (2,), generator=generator).tolist()
            frame[top : top + height, left : left + width] = instance
    return ids


def assert_equals_the_reference(ids: Tensor, count: int) -> Stats:
    before = ids.clone()
    actual, wanted = instance_stats(ids, count), Stats(*reference.instance_stats(ids, count))
    for name, one, other in zip(Stats._fields, actual, wanted, strict=True):
        assert one.dtype == other.dtype, name
        assert one.is_contiguous(), name
        assert torch.equal(one, other), name
    assert torch.equal(ids, before)
    return actual


class Poisoned:
    """torch, with the worst in its uninitialised tensors."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, *size: Any, **options: Any) -> Tensor:
        tensor = torch.zeros(*size, **options)
        return tensor.fill_(float("nan") if tensor.is_floating_point() else 113)


@pytest.fixture(autouse=True)
def _poisoned_outputs() -> Iterator[None]:
    with mock.patch.object(launch, "torch", Poisoned()):
        yield


def test_the_kernel_is_what_runs() -> None:
    assert dispatch.kernel("instance_stats") is ops.instance_stats
    assert TILE.items() <= tiles.tile("paste", "instance_sums", "any").items()


@pytest.mark.parametrize("count", [0, 1, 4, 12])
@pytest.mark.parametrize("shape", [(2, 3, 9, 14), (1, 1, 4, 8), (1, 2, 5, 3), (2, 1, 1, 17)])
def test_noise(count: int, shape: tuple[int, ...]) -> None:
    stats = assert_equals_the_reference(noise(0, shape), count)
    assert stats.area[..., 1:].any() == (count > 0)
    assert not any(part[:, :, 0].any() for part in stats)


@pytest.mark.parametrize("seed", range(4))
def test_instances_over_several_tiles(seed: int) -> None:
    ids = blobs(seed, (1, 3, 19, 30), 12)
    assert int(assert_equals_the_reference(ids, 12).area.sum()) == int((ids > 0).sum())


def test_each_pixel_another_id() -> None:
    ids = torch.arange(1, 61, dtype=torch.int32).flip(0).reshape(1, 1, 5, 12)
    stats = assert_equals_the_reference(ids, 60)
    assert stats.area[0, 0].tolist() == [0] + [1] * 60
    assert stats.centroid[0, 0, 60].tolist() == [0, 0]
    assert stats.box[0, 0, 1].tolist() == [11, 4, 12, 5]


def test_ids_far_outside_are_left_out() -> None:
    ids = noise(1, (1, 2, 6, 9))
    ids[..., 0, :4] = torch.tensor([2**31 - 1, -(2**31), 6, -1], dtype=torch.int32)
    ids[0, 1] = 2**31 - 1
    stats = assert_equals_the_reference(ids, 5)
    assert not stats.area[0, 1].any()


@pytest.mark.parametrize("y", [0, 3, 4, 10])
@pytest.mark.parametrize("x", [0, 7, 8, 12])
def test_a_single_pixel(y: int, x: int) -> None:
    ids = torch.zeros(1, 1, 11, 13, dtype=torch.int32)
    ids[0, 0, y, x] = 2
    stats = assert_equals_the_reference(ids, 3)
    assert stats.box[0, 0].tolist() == [[0] * 4, [0] * 4, [x, y, x + 1, y + 1], [0] * 4]
    assert stats.centroid[0, 0, 2].tolist() == [y, x]


VIEWS: dict[str, Any] = {
    "transposed": lambda ids: ids.transpose(-1, -2),
    "clips and frames": lambda ids: ids[1::2, 1:],
    "frames first": lambda ids: ids.transpose(0, 1),
    "cropped": lambda ids: ids[..., 2:, 3:-1],
    "every other pixel": lambda ids: ids[..., ::2, ::3],
    "expanded": lambda ids: ids[:1, :, :1].expand(2, -1, 5, -1),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views(view: str) -> None:
    assert_equals_the_reference(VIEWS[view](noise(2, (4, 2, 9, 14))), 5)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("count", [0, 3])
def test_empty_and_single_pixel_maps(shape: tuple[int, ...], count: int) -> None:
    stats = assert_equals_the_reference(torch.ones(shape, dtype=torch.int32), count)
    assert stats.box.shape == (*shape[:2], count + 1, 4)


def test_sums_beyond_32_bits() -> None:
    large = {"BLOCK_H": 1, "BLOCK_W": 2**14, "num_warps": 1, "num_stages": 1}
    ids = noise(7, (1, 1, 2, 200_001), 7)
    ids[..., 2**17 :] = 9
    with mock.patch.object(tiles, "tile", lambda _, kernel, __: large if kernel == "instance_sums" else {"BLOCK": 4}):
        stats = assert_equals_the_reference(ids, 9)
    assert stats.centroid[0, 0, 9].tolist() == [0.5, (2**17 + 200_000) / 2]


def sparse(shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """An int32 tensor of zeros with far-away elements, whose memory exists only where it is written."""
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    memory = mmap.mmap(-1, 4 * (last + 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    return torch.frombuffer(memory, dtype=torch.int32).as_strided(shape, stride)


@pytest.mark.parametrize("axis", range(4))
def test_addresses_beyond_32_bits(axis: int) -> None:
    shape, stride = (3, 3, 3, 3), [27, 9, 3, 1]
    stride[axis] = 2**30 + 81
    place = sparse(shape, tuple(stride))
    place.copy_(noise(3, shape))
    assert_equals_the_reference(place, 5)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 11), st.integers(1, 19)),
    seed=st.integers(0, 99),
    count=st.integers(0, 7),
    coherent=st.booleans(),
)
def test_any_shape(shape: tuple[int, ...], seed: int, count: int, coherent: bool) -> None:
    assert_equals_the_reference(blobs(seed, shape, 5) if coherent else noise(seed, shape), count)


def test_two_runs_are_equal() -> None:
    ids = blobs(9, (2, 2, 17, 23), 8)
    assert all(
        torch.equal(one, other) for one, other in zip(instance_stats(ids, 8), instance_stats(ids, 8), strict=True)
    )


@pytest.mark.parametrize("shape", [(1, 1, 4, 8), (3, 4, 9, 14)])
def test_one_pass_over_all_frames(shape: tuple[int, ...]) -> None:
    kernels = {}
    for name in ("instance_sums_kernel", "instance_stats_kernel"):
        kernels[name] = mock.MagicMock()
        kernels[name].__getitem__.side_effect = getattr(launch, name).__getitem__
    with mock.patch.multiple(launch, **kernels):
        instance_stats(noise(4, shape), 5)
    assert [kernel.__getitem__.call_count for kernel in kernels.values()] == [1, 1]
    batch, frames, height, width = shape
    grid = kernels["instance_sums_kernel"].__getitem__.call_args.args[0]
    assert grid == (batch * frames * -(-height // TILE["BLOCK_H"]) * -(-width // TILE["BLOCK_W"]),)


@pytest.mark.parametrize("shape", [(2, 1, 5, 9), (1, 2, 0, 3)])
@pytest.mark.parametrize("count", [0, 4])
def test_opcheck(shape: tuple[int, ...], count: int) -> None:
    torch.library.opcheck(torch.ops.vidapt.instance_stats.default, (noise(5, shape), count))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(dynamic: bool) -> None:
    compiled = torch.compile(instance_stats, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for shape in ((1, 2, 6, 11), (1, 3, 7, 11)):
        ids = noise(6, shape)
        for one, other in zip(compiled(ids, 5), reference.instance_stats(ids, 5), strict=True):
            assert torch.equal(one, other)
