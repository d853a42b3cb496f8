"""What contrast costs in every training step: no wait for the device, and memory that does not grow with a product."""

from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vidapt.adaptation.contrast import pixel_contrast, temporal_contrast
from vidapt.adaptation.memory import MemoryBank
from vidapt.adaptation.patches import PatchWindows, patch_contrast
from vidapt.config_method import (
    MemoryBankConfig,
    PatchContrastConfig,
    PixelContrastConfig,
    TemporalContrastConfig,
)

SYNCHRONISING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "is_nonzero", "equal"}
HEIGHT, WIDTH, CLASSES, SIZE = 48, 64, 19, 512


class Watch(TorchDispatchMode):
    """Records every operation, the bytes of the largest tensor it makes, and what is written to which rows."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: set[str] = set()
        self.largest = 0
        self.rows: list[torch.Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in SYNCHRONISING or (name.startswith("index") and self._selects_by_mask(args)):
            self.waits.add(name)
        if name == "index_copy_":
            self.rows.append(args[2])
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, tuple | list) else [result]
        sizes = [output.untyped_storage().nbytes() for output in outputs if isinstance(output, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return result

    @staticmethod
    def _selects_by_mask(args) -> bool:
        lists = [part for part in args if isinstance(part, tuple | list)]
        return any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for indices in lists for index in indices
        )


def clips() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embedding (2,2,8,48,64) that needs a gradient, logits and labels (2,2,192,256) with ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES + 1, (2, 2, HEIGHT, WIDTH), generator=generator)
    labels[labels == CLASSES] = 255
    labels = labels.repeat_interleave(4, 2).repeat_interleave(4, 3).to(torch.uint8)
    embedding = torch.randn(2, 2, 8, HEIGHT, WIDTH, generator=generator, requires_grad=True)
    return embedding, torch.randn(2, 2, CLASSES, HEIGHT, WIDTH, generator=generator), labels


def filled_bank() -> MemoryBank:
    bank = MemoryBank(CLASSES, 8, MemoryBankConfig(size=SIZE, per_step=300), "cpu")
    embedding, _, labels = clips()
    bank.stage(embedding, labels, generators())
    bank.commit()
    return bank


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(index) for index in range(2)]


def pixel() -> torch.Tensor:
    embedding, logits, labels = clips()
    config = PixelContrastConfig(total=128, per_class=64, min_pixels=10)
    return pixel_contrast(embedding, logits, labels, config, generators(), filled_bank())


def temporal() -> torch.Tensor:
    embedding, _, labels = clips()
    flow = torch.ones(2, 1, 2, *labels.shape[-2:])
    usable = torch.ones_like(labels, dtype=torch.bool)
    return temporal_contrast(embedding, labels, usable, flow, TemporalContrastConfig(total=256), generators())


def patch() -> torch.Tensor:
    embedding, logits, labels = clips()
    return patch_contrast(
        embedding,
        embedding.flip(-1),
        PatchWindows(((0, 0), (4, 8)), ((8, 4), (0, 0)), (HEIGHT * 4, WIDTH * 4)),
        logits_first=logits,
        logits_second=logits.flip(-1),
        config=PatchContrastConfig(total=256, confidence=0.1),
        generators=generators(),
        ignored=torch.zeros(2, 2, labels.shape[-2] + 8, labels.shape[-1] + 8, dtype=torch.bool),
    )


@pytest.mark.parametrize("loss", [pixel, temporal, patch])
def test_nothing_waits_for_the_device(loss: Callable[[], torch.Tensor], monkeypatch):
    inputs, bank = clips(), filled_bank()
    # what the loss reads is made before, because tests may wait
    monkeypatch.setitem(globals(), "clips", lambda: inputs)
    monkeypatch.setitem(globals(), "filled_bank", lambda: bank)
    with Watch() as watch:
        loss().backward()
    assert not watch.waits
    # the maps and the kernels' blocks take up to 1 MiB; anchors times keys would take 4 or more
    assert watch.largest < 2 << 20


def test_the_memory_does_not_wait_and_never_writes_a_row_twice():
    """Two writes to one row in one call have no order on a GPU; only the spare row takes many."""
    embedding, _, labels = clips()
    bank = MemoryBank(CLASSES, 8, MemoryBankConfig(size=70, per_step=100), "cpu")
    with Watch() as watch:
        for _ in range(3):
            bank.stage(embedding, labels, generators())
            bank.commit()
            bank.rows()
        bank.state_dict()
    assert not watch.waits
    assert len(watch.rows) == 3
    for rows in watch.rows:
        kept = rows[rows < CLASSES * 70]
        assert len(kept) == len(kept.unique()) == CLASSES * 70


def test_the_watch_sees_what_waits():
    values = torch.arange(4.0)
    for wait in (lambda: values.sum().item(), lambda: values[values > 1], lambda: bool(values.any()), values.nonzero):
        with Watch() as watch:
            wait()
        assert watch.waits
