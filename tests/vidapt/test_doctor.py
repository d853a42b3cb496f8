"""The examination of the machine: complete, honest, and it never raises."""

import builtins
import collections
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vidapt.jobs import doctor
from vidapt.jobs.doctor import Finding, examine


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    return {finding.name: finding for finding in examine()}


def by_name() -> dict[str, Finding]:
    return {finding.name: finding for finding in examine()}


def test_looks_at_everything(findings: dict[str, Finding]) -> None:
    expected = (
        "Python torch GPU torchvision triton timm open_clip av decoders encoder decord opencv accelerate CPU memory"
    )
    assert set(expected.split()) < set(findings)
    assert sum("disk" in name for name in findings) == 2


def test_what_is_not_ok_says_what_it_costs(findings: dict[str, Finding]) -> None:
    assert all(finding.cost for finding in findings.values() if finding.status != "ok")
    assert all(finding.detail and "\n" not in finding.detail for finding in findings.values())


def test_what_the_package_needs_is_here(findings: dict[str, Finding]) -> None:
    """The environment of the tests was installed with the package, so its own requirements are met."""
    for name in ("Python", "torch", "torchvision", "timm", "av", "encoder", "opencv", "accelerate"):
        assert findings[name].status == "ok", findings[name]
    assert sys.executable in findings["Python"].detail


def test_every_cost_belongs_to_a_check() -> None:
    assert set(doctor._COST_OF) <= set(doctor._CHECKS)


def test_missing_packages_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = {"triton", "timm", "open_clip", "av", "decord", "cv2", "accelerate"}
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(doctor, "import_module", refuse)
    found = by_name()
    for name in ("triton", "timm", "open_clip", "av", "decoders", "encoder", "decord", "opencv", "accelerate"):
        assert found[name].status == "missing", found[name]
        assert "is not installed" in found[name].detail
        assert found[name].cost


def test_broken_package_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(name: str) -> Any:
        raise OSError(f"lib{name}.so: undefined symbol:\n  _ZN5torch")

    monkeypatch.setattr(doctor, "import_module", explode)
    found = by_name()["decord"]
    assert found.status == "warn"
    assert found.detail == "OSError: libdecord.so: undefined symbol: _ZN5torch"
    assert found.cost


def test_torchvision_of_another_build(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr(torchvision, "__version__", "0.99.0+elsewhere")
    found = by_name()["torchvision"]
    assert found.status == "warn"
    assert "'elsewhere'" in found.detail


def _cuda(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    import torch

    device = SimpleNamespace(name="Test GPU", total_memory=24 * doctor.GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)


@pytest.mark.parametrize(("bf16", "status", "detail"), [(True, "ok", "bf16"), (False, "warn", "no bf16")])
def test_gpu(monkeypatch: pytest.MonkeyPatch, bf16: bool, status: str, detail: str) -> None:
    _cuda(monkeypatch, bf16)
    found = by_name()["GPU"]
    assert found.status == status
    assert found.detail == f"Test GPU, 24 GiB; {detail}"


def test_gpu_that_torch_cannot_use_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    import torch

    def unavailable() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    found = by_name()["GPU"]
    assert found.status == "warn"
    assert "driver on your system is too old" in found.detail


def test_missing_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_has_codec", lambda name, mode: mode == "r" and name != "hevc")
    found = by_name()
    assert found["encoder"].status == "missing"
    assert "--no-overlay" in found["encoder"].cost
    assert found["decoders"].detail == "no decoder for hevc"


def test_unknown_codec_is_absent() -> None:
    assert not doctor._has_codec("no-such-codec", "r")
    assert doctor._has_codec("h264", "r")


def test_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10 * doctor.GIB, 9 * doctor.GIB, doctor.GIB))
    found = by_name()["disk (here)"]
    assert found.status == "warn"
    assert found.detail.startswith("1.0 GiB free at")


def test_folder_without_write_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    found = by_name()["writing"]
    assert found.status == "warn"
    assert "Permission denied" in found.detail
    assert "--out" in found.cost


def test_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert by_name()["writing"].status == "ok"
    assert list(tmp_path.iterdir()) == []
