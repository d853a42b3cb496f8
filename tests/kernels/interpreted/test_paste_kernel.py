"""The paste kernel equals its reference to the last bit, in place and into new tensors."""

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
from vidapt.kernels.paste import Pasted, launch, ops, paste_instances, reference

# The interpreter's tiles are 4 x 16 pixels; rows of other lengths than multiples of 16 are one long row for the kernel.
TILED = (2, 2, 3, 5, 32)
FLAT = (2, 2, 3, 7, 11)
SELECTED = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 0, 1]], dtype=torch.bool)
SELECTED_CLASS = torch.zeros(2, 12, dtype=torch.bool)
SELECTED_CLASS[0, 3] = SELECTED_CLASS[1, 11] = SELECTED_CLASS[1, 0] = True
EVERYWHERE = torch.ones(2, 256, dtype=torch.bool)


def clips(seed: int, shape: tuple[int, ...] = TILED, dtype: torch.dtype = torch.float32, highest: int = 6) -> list[Any]:
    """Return image, semantic and ids of random clips; ids also lie outside 0..highest now and then."""
    generator = torch.Generator().manual_seed(seed)
    batch, frames, _, height, width = shape
    image = torch.randint(0, 256, shape, generator=generator).to(dtype)
    semantic = torch.randint(0, 19, (batch, frames, height, width), generator=generator).to(torch.uint8)
    semantic[torch.rand(semantic.shape, generator=generator) < 0.1] = 255
    return [image, semantic, torch.randint(-1, highest + 2, semantic.shape, generator=generator, dtype=torch.int32)]


def weights(seed: int, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def expected(
    base: list[Any],
    donor: list[Any],
    selected: Tensor | None = None,
    selected_class: Tensor | None = None,
    id_offset: Tensor | None = None,
    weight: Tensor | None = None,
    donor_weight: Tensor | None = None,
) -> Pasted:
    return Pasted(
        *reference.paste_instances(
            *base, weight, *donor, donor_weight, selected, selected_class, id_offset, inplace=False
        )
    )


def assert_same(actual: Pasted, wanted: Pasted) -> None:
    for name, one, other in zip(Pasted._fields, actual, wanted, strict=True):
        assert (one is None) == (other is None), name
        if one is not None and other is not None:
            assert one.dtype == other.dtype, name
            assert torch.equal(one, other), name


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


@pytest.fixture
def launches() -> Iterator[mock.MagicMock]:
    """Count the launches; each one still runs."""
    kernel = mock.MagicMock()
    kernel.__getitem__.side_effect = launch.paste_kernel.__getitem__
    with mock.patch.object(launch, "paste_kernel", kernel):
        yield kernel.__getitem__


def test_the_kernel_is_what_runs() -> None:
    assert dispatch.kernel("paste_instances") is ops.paste_instances
    assert tiles.tile("paste", "paste", "8bit")["BLOCK_W"] == 16


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("selected", "selected_class"), [(SELECTED, None), (None, SELECTED_CLASS), (SELECTED, SELECTED_CLASS)]
)
@pytest.mark.parametrize("shape", [TILED, FLAT])
def test_equals_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype, inplace: bool, selected: Tensor | None, selected_class: Tensor | None
) -> None:
    base, donor = clips(0, shape, dtype), clips(1, shape, dtype)
    offset = torch.tensor([100, -7], dtype=torch.int32)
    wanted = expected(base, donor, selected, selected_class, offset)
    before = [tensor.clone() for tensor in base + donor]
    actual = paste_instances(*base, *donor, selected, selected_class=selected_class, id_offset=offset, inplace=inplace)
    assert_same(actual, wanted)
    assert not torch.equal(wanted.image, before[0])
    for index, (now, old) in enumerate(zip(base + donor, before, strict=True)):
        assert torch.equal(now, old) == (not inplace or index >= 3)
    assert [one is other for one, other in zip(actual, base, strict=False)] == [inplace] * 3


@pytest.mark.parametrize("shape", [TILED, FLAT])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_offset_defaults_to_the_highest_id_before_pasting(shape: tuple[int, ...], inplace: bool) -> None:
    base, donor = clips(0, shape, highest=4), clips(1, shape)
    base[2][0, 1, 4, 6] = 41
    wanted = expected(base, donor, SELECTED, None, torch.tensor([41, int(base[2][1].max())], dtype=torch.int32))
    assert_same(paste_instances(*base, *donor, SELECTED, inplace=inplace), wanted)


def test_ids_wrap_around_like_those_of_the_reference() -> None:
    base, donor = clips(0), clips(1)
    wanted = expected(base, donor, EVERYWHERE, None, torch.full((2,), 2**31 - 3, dtype=torch.int32))
    assert wanted.ids.min() < -(2**30)
    assert_same(paste_instances(*base, *donor, EVERYWHERE, id_offset=2**31 - 3), wanted)


@pytest.mark.parametrize("sides", ["base", "donor", "both"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("inplace", [False, True])
def test_weights(sides: str, dtype: torch.dtype, inplace: bool) -> None:
    base, donor = clips(0, dtype=torch.uint8), clips(1, dtype=torch.uint8)
    weight = weights(2, base[2], dtype) if sides in ("base", "both") else None
    donor_weight = weights(3, base[2], dtype) if sides in ("donor", "both") else None
    kept = None if donor_weight is None else donor_weight.clone()
    wanted = expected(base, donor, SELECTED, None, None, weight, donor_weight)
    actual = paste_instances(*base, *donor, SELECTED, weight=weight, donor_weight=donor_weight, inplace=inplace)
    assert_same(actual, wanted)
    if weight is not None:
        assert (actual.weight is weight) == inplace
    if kept is not None:
        assert torch.equal(donor_weight, kept)


@pytest.mark.parametrize("shape", [(1, 1, 3, 5, 32), (3, 4, 3, 4, 16)])
@pytest.mark.parametrize("inplace", [False, True])
def test_one_launch_for_all_frames_and_tensors(shape: tuple[int, ...], inplace: bool, launches: mock.MagicMock) -> None:
    base, donor = clips(0, shape), clips(1, shape)
    weight = torch.rand(base[2].shape)
    paste_instances(*base, *donor, torch.ones(shape[0], 5, dtype=torch.bool), weight=weight, inplace=inplace)
    assert launches.call_count == 1
    batch, frames, _, height, width = shape
    assert launches.call_args.args[0] == (batch * frames * -(-height // 4) * (width // 16),)


@pytest.mark.parametrize("inplace", [False, True])
def test_untouched_and_covered_tiles(inplace: bool) -> None:
    base, donor = clips(0, (1, 1, 3, 9, 48)), clips(1, (1, 1, 3, 9, 48))
    donor[2].fill_(0)
    donor[2][..., :4, :16] = 3
    donor[2][..., 5, 20] = 2
    selected = torch.tensor([[False, False, True, True]])
    donor[0][..., 6:, :] = float("nan")
    base[0][..., :4, :16] = float("nan")
    wanted = expected(base, donor, selected)
    assert not wanted.image.isnan().any()
    assert_same(paste_instances(*base, *donor, selected, inplace=inplace), wanted)


@pytest.mark.parametrize(
    ("selected", "selected_class"),
    [
        (torch.ones(2, 1, dtype=torch.bool), None),
        (torch.zeros(2, 9, dtype=torch.bool), None),
        (None, torch.ones(2, 0, dtype=torch.bool)),
        (torch.tensor([[True, False]] * 2), torch.zeros(2, 40, dtype=torch.bool)),
    ],
    ids=["only column 0", "none selected", "no class", "neither"],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_nothing_taken_changes_nothing(selected: Tensor | None, selected_class: Tensor | None, inplace: bool) -> None:
    base, donor = clips(0), clips(1)
    before = Pasted(*(tensor.clone() for tensor in base), None)
    assert_same(paste_instances(*base, *donor, selected, selected_class=selected_class, inplace=inplace), before)


@pytest.mark.parametrize("classes", [1, 31, 32, 33, 64, 65, 255, 256, 300])
def test_any_number_of_classes(classes: int) -> None:
    shape = (2, 1, 1, 8, 32)
    base, donor = clips(0, shape, torch.uint8), clips(1, shape, torch.uint8)
    donor[1] = torch.arange(donor[1].numel()).reshape(donor[1].shape).to(torch.uint8)
    selected_class = torch.rand(2, classes, generator=torch.Generator().manual_seed(classes)) < 0.5
    selected_class[:, -1] = True
    actual = paste_instances(*base, *donor, selected_class=selected_class, id_offset=3)
    assert_same(actual, expected(base, donor, None, selected_class, torch.full((2,), 3, dtype=torch.int32)))


def test_hundreds_of_ids_and_ids_outside_the_table() -> None:
    shape = (2, 2, 1, 6, 32)
    base, donor = clips(0, shape, torch.uint8, 2**30), clips(1, shape, torch.uint8)
    donor[2] = torch.arange(-50, 718, dtype=torch.int32).reshape(donor[2].shape)
    donor[2][0, 0, 0, :2] = torch.tensor([2**31 - 1, -(2**31)], dtype=torch.int32)
    selected = torch.rand(2, 600, generator=torch.Generator().manual_seed(0)) < 0.5
    assert_same(paste_instances(*base, *donor, selected), expected(base, donor, selected))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels: int) -> None:
    base, donor = clips(0, (2, 1, channels, 3, 16)), clips(1, (2, 1, channels, 3, 16))
    assert_same(paste_instances(*base, *donor, SELECTED), expected(base, donor, SELECTED))


@pytest.mark.parametrize(
    "shape", [(0, 2, 3, 4, 16), (2, 0, 3, 4, 4), (2, 1, 0, 2, 16), (2, 1, 3, 0, 4), (2, 1, 3, 4, 0), (2, 1, 1, 1, 1)]
)
@pytest.mark.parametrize("inplace", [False, True])
def test_empty_and_single_pixel(shape: tuple[int, ...], inplace: bool) -> None:
    base, donor = clips(0, shape), clips(1, shape)
    wanted = expected(base, donor, EVERYWHERE[: shape[0]])
    assert_same(paste_instances(*base, *donor, EVERYWHERE[: shape[0]], inplace=inplace), wanted)


# How to cut a view of 2 clips, 2 frames, 3 channels and 4 x 16 or 16 x 4 pixels out of a larger tensor.
VIEWS: dict[str, Any] = {
    "clips and frames": lambda tensor: tensor[1:5:2, 1:3, ..., :4, :].narrow(-1, 0, 16),
    "transposed": lambda tensor: tensor[:2, :2, ..., :16, :4].transpose(-1, -2),
    "cropped": lambda tensor: tensor[2:4, 1:3, ..., 1:5, 3:19],
    "every other pixel": lambda tensor: tensor[:2, :2, ..., ::4, 1:17:1],
    "frames first": lambda tensor: tensor[:2, :2, ..., :4, :16].transpose(0, 1),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("inplace", [False, True])
def test_views_keep_what_lies_around_them(view: str, inplace: bool) -> None:
    cut = VIEWS[view]
    shape = (5, 3, 3, 16, 20)
    buffers, donors = clips(0, shape, torch.float16), clips(1, shape, torch.float16)
    buffers.append(weights(2, buffers[2]))
    donors.append(weights(3, buffers[2]))
    mirrors = [buffer.clone() for buffer in buffers]
    base, donor, mirror = ([cut(tensor) for tensor in tensors] for tensors in (buffers, donors, mirrors))
    wanted = expected(base[:3], donor[:3], SELECTED, None, None, base[3], donor[3])
    actual = paste_instances(*base[:3], *donor[:3], SELECTED, weight=base[3], donor_weight=donor[3], inplace=inplace)
    assert_same(actual, wanted)
    if inplace:
        for place, result in zip(mirror, wanted, strict=True):
            place.copy_(result)
    for buffer, mirror_buffer in zip(buffers, mirrors, strict=True):
        assert torch.equal(buffer, mirror_buffer)


def test_tables_and_offsets_that_are_not_contiguous() -> None:
    base, donor = clips(0), clips(1)
    selected = torch.rand(2, 14, generator=torch.Generator().manual_seed(0))[:, ::2] < 0.5
    selected_class = (torch.rand(24, 2, generator=torch.Generator().manual_seed(1)) < 0.3).t()
    offset = torch.tensor([5, 0, -9, 0], dtype=torch.int32)[::2]
    actual = paste_instances(*base, *donor, selected, selected_class=selected_class, id_offset=offset)
    assert_same(actual, expected(base, donor, selected, selected_class, offset))


def test_expanded_inputs_are_read() -> None:
    base, donor = clips(0, (1, 1, 3, 5, 32)), clips(1, (1, 1, 3, 5, 32))
    wide = [[t.expand(2, 2, *t.shape[2:]) for t in tensors] for tensors in (base, donor)]
    assert_same(paste_instances(*wide[0], *wide[1], SELECTED), expected(*wide, SELECTED))
    flat = [donor[0].new_full((), 7).expand(TILED), *clips(1)[1:]]
    assert_same(paste_instances(*clips(0), *flat, SELECTED), expected(clips(0), flat, SELECTED))


@pytest.mark.parametrize("name", ["image", "semantic", "ids", "weight"])
def test_expanded_tensors_cannot_be_overwritten(name: str) -> None:
    base: dict[str, Tensor] = dict(zip(("image", "semantic", "ids"), clips(0), strict=True))
    base["weight"] = weights(2, base["ids"])
    base[name] = base[name][:, :1].expand_as(base[name])
    arguments = [base[key] for key in ("image", "semantic", "ids")]
    with pytest.raises(RuntimeError, match=f"{name} is expanded.*inplace=False"):
        paste_instances(*arguments, *clips(1), SELECTED, weight=base["weight"], inplace=True)
    with pytest.raises(RuntimeError, match="memory location"):
        reference.paste_instances(*arguments, base["weight"], *clips(1), None, SELECTED, None, None, inplace=True)


def sparse(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros with far-away elements, whose memory exists only where it is written."""
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    memory = mmap.mmap(-1, (last + 1) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    return torch.frombuffer(memory, dtype=dtype).as_strided(shape, stride)


@pytest.mark.parametrize("axis", ["clip", "frame", "channel"])
@pytest.mark.parametrize("inplace", [False, True])
def test_addresses_beyond_32_bits(axis: str, inplace: bool) -> None:
    shape, far = (3, 3, 3, 2, 16), 2**30 + 1024
    steps = {"clip": (far, 96, 32), "frame": (288, far, 32), "channel": (288, 96, far)}[axis]
    base, donor = clips(0, shape, torch.uint8), clips(1, shape, torch.uint8)
    selected = torch.ones(3, 5, dtype=torch.bool)
    wanted = expected(base, donor, selected)
    for tensors in (base, donor):
        for index, tensor in enumerate(tensors[:2]):
            place = sparse(tensor.shape, (*steps[: 3 - index], 16, 1), torch.uint8)
            tensors[index] = place.copy_(tensor)
    assert_same(paste_instances(*base, *donor, selected, inplace=inplace), wanted)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 3, st.integers(1, 6), st.sampled_from([1, 5, 15, 16, 17, 32, 48])),
    seed=st.integers(0, 99),
    columns=st.integers(1, 9),
    classes=st.integers(0, 40),
    inplace=st.booleans(),
)
def test_any_shape(shape: tuple[int, ...], seed: int, columns: int, classes: int, inplace: bool) -> None:
    base, donor = clips(seed, shape), clips(seed + 1, shape)
    generator = torch.Generator().manual_seed(seed)
    selected = torch.rand(shape[0], columns, generator=generator) < 0.5
    selected_class = torch.rand(shape[0], classes, generator=generator) < 0.2
    wanted = expected(base, donor, selected, selected_class)
    assert_same(paste_instances(*base, *donor, selected, selected_class=selected_class, inplace=inplace), wanted)


def test_two_runs_are_equal() -> None:
    runs = [paste_instances(*clips(0), *clips(1), SELECTED, selected_class=SELECTED_CLASS) for _ in range(2)]
    assert_same(*runs)


OPERATORS = [torch.ops.vidapt.paste_instances.default, torch.ops.vidapt.paste_instances_.default]


@pytest.mark.parametrize("operator", OPERATORS, ids=["functional", "mutating"])
@pytest.mark.parametrize("sides", ["neither", "base", "both"])
@pytest.mark.parametrize("shape", [FLAT, (2, 0, 3, 4, 4)])
def test_opcheck(operator: Any, sides: str, shape: tuple[int, ...]) -> None:
    base, donor = clips(0, shape), clips(1, shape)
    weight = None if sides == "neither" else weights(2, base[2])
    donor_weight = weights(3, base[2]) if sides == "both" else None
    selection = (SELECTED, None, None) if sides == "base" else (SELECTED, SELECTED_CLASS, torch.zeros(2).int())
    torch.library.opcheck(operator, (*base, weight, *donor, donor_weight, *selection))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("sides", ["neither", "donor", "both"])
def test_compiles_without_a_break(inplace: bool, sides: str) -> None:
    base, donor = clips(0), clips(1)
    weight = weights(2, base[2]) if sides == "both" else None
    donor_weight = None if sides == "neither" else weights(3, base[2])
    wanted = expected(base, donor, SELECTED, None, None, weight, donor_weight)

    def pasted(*tensors: Tensor | None) -> Pasted:
        return paste_instances(*tensors[:7], weight=tensors[7], donor_weight=tensors[8], inplace=inplace)

    compiled = torch.compile(pasted, fullgraph=True, backend="aot_eager")
    actual = compiled(*base, *donor, SELECTED, weight, donor_weight)
    assert_same(actual, wanted)
    overwritten = Pasted(*base, weight if sides == "both" else wanted.weight)
    if inplace:
        assert_same(overwritten, wanted)
        assert actual.image is base[0]
    else:
        assert all(torch.equal(now, old) for now, old in zip(base, clips(0), strict=True))
