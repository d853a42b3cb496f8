"""A driver without a GPU: launches compile for the chip that was asked for, do nothing, and leave no trace."""

import pytest
import torch
import triton
import triton.language as tl
from triton import knobs
from triton.runtime import driver

from vidapt.kernels import tiles
from vidapt.kernels.bench.fake_driver import CHIPS, fake_driver


@triton.jit
def fill(target, size, value: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(target + place, value, mask=place < size)


def launch(target: torch.Tensor, value: int = 7) -> None:
    fill[(2, 1)](target, target.numel(), value=value, block=128, num_warps=2)


@pytest.mark.parametrize("chip", CHIPS)
def test_a_launch_compiles_for_the_chip_and_writes_nothing(chip: str) -> None:
    target = torch.zeros(256)
    with fake_driver(chip) as recording:
        launch(target)
        launch(target)
        launch(target, value=8)
    assert not target.any()
    assert len(recording.compiled) == 2
    assert [compiled.settings["value"] for compiled in recording.launched] == [7, 7, 8]
    compiled = recording.launched[0]
    assert (compiled.kernel, compiled.target) == ("fill", chip)
    assert compiled.settings.items() >= {"value": 7, "block": 128, "num_warps": 2}.items()
    assert "*fp32" in compiled.types
    assert compiled.asm("hsaco" if chip.startswith("gfx") else "cubin")[:4] == b"\x7fELF"


def test_every_chip_gets_machine_code_of_its_own() -> None:
    codes = set()
    for chip in CHIPS:
        with fake_driver(chip) as recording:
            launch(torch.zeros(256))
        codes.add(recording.launched[0].asm("hsaco" if chip.startswith("gfx") else "cubin"))
    assert len(codes) == len(CHIPS)


def test_the_same_chip_twice_records_twice() -> None:
    keys = []
    for _ in range(2):
        with fake_driver("sm_90") as recording:
            launch(torch.zeros(256))
        keys.append(recording.launched[0].key)
    assert keys[0] == keys[1]


def test_the_driver_before_is_restored_even_after_an_error() -> None:
    with fake_driver("sm_80"):
        outer = driver.active
        with pytest.raises(KeyError):
            fail_under("sm_90")
        assert driver.active is outer
        assert knobs.compilation.listener is not None
    assert knobs.compilation.listener is None


def fail_under(chip: str) -> None:
    with fake_driver(chip):
        assert tiles.targets()[0] == chip
        raise KeyError


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real driver")
def test_without_a_gpu_no_driver_is_left() -> None:
    with fake_driver("sm_90"):
        pass
    with pytest.raises(RuntimeError, match="active drivers"):
        _ = driver.active


def test_the_chip_decides_tiles_and_multiprocessors() -> None:
    expected = {"sm_100": ("sm_100", "cuda"), "gfx942": ("gfx942", "hip")}
    for chip, names in expected.items():
        with fake_driver(chip):
            assert tiles.targets() == names
            assert tiles.multiprocessors() == CHIPS[chip].multiprocessors
    with fake_driver("sm_90", "NVIDIA H200"):
        assert tiles.targets() == ("NVIDIA H200", "sm_90", "cuda")


def test_unknown_chip() -> None:
    with pytest.raises(ValueError, match="'sm_1' is unknown; choose one of sm_80"), fake_driver("sm_1"):
        pass


def test_not_while_interpreting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs.runtime, "interpret", True)
    with pytest.raises(RuntimeError, match="unset it"), fake_driver("sm_90"):
        pass
