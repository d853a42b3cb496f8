"""The choice between reference and kernel, and life without triton."""

import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vidapt.kernels import dispatch
from vidapt.kernels.contrast import reference as reference_supervised
from vidapt.kernels.contrast import reference_anchors, reference_paired, supervised_contrast
from vidapt.kernels.paste import instance_stats
from vidapt.kernels.paste import reference as paste_reference

ROOT = Path(__file__).parents[2]
CPU = torch.zeros(1)


class OnDevice:
    """The two attributes of a tensor that the choice reads, for devices that a test machine lacks."""

    def __init__(self, kind: str) -> None:
        self.device, self.is_cuda = torch.device(kind), kind == "cuda"


def reference() -> str:
    return "reference"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDAPT_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with a kernel for the operation `double`, as if it shipped."""
    module = ModuleType("shipped_kernel")
    vars(module)["double"] = lambda: "triton"
    monkeypatch.setattr(dispatch, "SHIPPED_KERNELS", {"double": lambda: module.double})
    monkeypatch.setattr(dispatch, "triton_imports", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return module


@pytest.mark.parametrize("value", ["", "reference"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_reference_without_a_kernel(monkeypatch: pytest.MonkeyPatch, value: str, device: str) -> None:
    monkeypatch.setenv("VIDAPT_KERNELS", value)
    assert dispatch.implementation("double", reference, OnDevice(device)) is reference


def test_unset_takes_the_kernel_on_cuda_only(shipped: ModuleType) -> None:
    assert dispatch.implementation("double", reference, OnDevice("cuda")) is shipped.double
    assert dispatch.implementation("double", reference, CPU) is reference
    assert dispatch.implementation("other", reference, OnDevice("cuda")) is reference


def test_unset_without_triton_takes_the_reference(shipped: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "triton_imports", lambda: False)
    assert dispatch.implementation("double", reference, OnDevice("cuda")) is reference


def test_reference_wins_over_a_shipped_kernel(shipped: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDAPT_KERNELS", "reference")
    assert dispatch.implementation("double", reference, OnDevice("cuda")) is reference


def test_triton_on_cpu_needs_the_interpreter(shipped: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDAPT_KERNELS", "triton")
    assert dispatch.implementation("double", reference, OnDevice("cuda")) is shipped.double
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        dispatch.implementation("double", reference, CPU)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.implementation("double", reference, CPU) is shipped.double


def test_an_older_gpu_takes_the_reference(shipped: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert dispatch.implementation("double", reference, OnDevice("cuda")) is reference
    monkeypatch.setenv("VIDAPT_KERNELS", "triton")
    with pytest.raises(RuntimeError, match=r"older than compute capability 8\.0"):
        dispatch.implementation("double", reference, OnDevice("cuda"))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert dispatch.implementation("double", reference, OnDevice("cuda")) is shipped.double


def test_triton_on_another_device_raises(shipped: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDAPT_KERNELS", "triton")
    with pytest.raises(RuntimeError, match="got mps tensors; the kernels run on cuda"):
        dispatch.implementation("double", reference, OnDevice("mps"))


def test_triton_without_triton_raises(shipped: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDAPT_KERNELS", "triton")
    monkeypatch.setattr(dispatch, "triton_imports", lambda: False)
    with pytest.raises(RuntimeError, match="does not import"):
        dispatch.implementation("double", reference, OnDevice("cuda"))


def test_triton_without_a_kernel_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SHIPPED_KERNELS", {})
    monkeypatch.setenv("VIDAPT_KERNELS", "triton")
    with pytest.raises(RuntimeError, match="supervised_contrast ships no Triton kernel"):
        supervised_contrast(CPU[None], CPU[None], torch.zeros(1).int(), torch.zeros(1).int(), temperature=1.0)
    with pytest.raises(RuntimeError, match="instance_stats ships no Triton kernel"):
        instance_stats(torch.zeros(1, 1, 2, 2, dtype=torch.int32), 1)


def test_unknown_choice_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDAPT_KERNELS", "cuda")
    with pytest.raises(ValueError, match="'cuda' is unknown; set it to one of reference, triton"):
        dispatch.implementation("double", reference, CPU)


@pytest.mark.parametrize("operation", sorted(dispatch.SHIPPED_KERNELS))
def test_every_operation_ships_a_kernel_with_the_signature_of_its_reference(operation: str) -> None:
    of_operation = {
        "paste_instances": paste_reference,
        "instance_stats": paste_reference,
        "supervised_contrast": reference_supervised,
        "paired_contrast": reference_paired,
        "sample_anchors": reference_anchors,
    }
    expected = inspect.signature(getattr(of_operation[operation], operation)).parameters
    given = inspect.signature(dispatch.kernel(operation)).parameters
    assert [(name, each.kind) for name, each in given.items()] == [(name, each.kind) for name, each in expected.items()]


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # every import of it raises, every search for it finds nothing
import torch
from vidapt.kernels import dispatch
from vidapt.kernels.contrast import paired_contrast, sample_anchors, supervised_contrast
from vidapt.kernels.paste import instance_stats, paste_instances

assert not dispatch.triton_imports()
q, k = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)
labels = torch.tensor([0, 1, 0, 1, 0])
supervised_contrast(q, k, labels[:4], labels, temperature=0.1).backward()
paired_contrast(q[None], k[None], labels[None, :4], temperature=0.1, normalize=True).backward()
sample_anchors(labels[None], per_class=2, total=4, min_pixels=1)
ids = torch.ones(1, 1, 2, 2, dtype=torch.int32)
image, semantic = torch.rand(1, 1, 3, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
paste_instances(image, semantic, ids, image, semantic, ids, torch.ones(1, 2, dtype=torch.bool))
print(instance_stats(ids, 1).area.tolist())
"""

LAZY = """
import sys, torch
before = "triton" in sys.modules
import vidapt.kernels.contrast, vidapt.kernels.paste
print(before == ("triton" in sys.modules))
"""


@pytest.mark.parametrize(("script", "printed"), [(WITHOUT_TRITON, "[[[0, 4]]]"), (LAZY, "True")])
def test_everything_runs_without_importing_triton(script: str, printed: str) -> None:
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == printed
