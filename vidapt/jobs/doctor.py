"""What this machine offers: versions, GPU, decoders and encoders, disk and memory, and what anything missing costs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

from vidapt.jobs.parallel import default_jobs

Status = Literal["ok", "warn", "missing"]
Outcome = tuple[Status, str, str]

GIB = 1024**3
COMFORTABLE_DISK = 5.0
"""GiB; below this a run with checkpoints and videos may not fit."""
COMFORTABLE_MEMORY = 6.0
"""GiB; the demo stays below 4 GB, the rest is for the system."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination: what was looked at, how it is, and what a user loses if it is not ok."""

    name: str
    status: Status
    detail: str
    cost: str = ""


def examine() -> list[Finding]:
    """Examine the machine; a check that fails becomes a finding, so this never raises."""
    return [_guarded(name, check) for name, check in _CHECKS.items()]


def _guarded(name: str, check: Callable[[], Outcome]) -> Finding:
    try:
        return Finding(name, *check())
    except ModuleNotFoundError as error:
        return Finding(name, "missing", f"{error.name} is not installed", _COST_OF.get(name, ""))
    except Exception as error:  # broken installations raise anything: OSError, RuntimeError, AttributeError
        return Finding(name, "warn", " ".join(f"{type(error).__name__}: {error}".split()), _COST_OF.get(name, ""))


def _version(module: ModuleType) -> str:
    return str(getattr(module, "__version__", "unknown version"))


def _package(name: str) -> Callable[[], Outcome]:
    """A check that imports a package, because one that is installed may still be broken."""
    return lambda: ("ok", _version(import_module(name)), "")


def _python() -> Outcome:
    return "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})", ""


def _gpu() -> Outcome:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        reasons = [" ".join(str(warning.message).split()) for warning in caught]
        return "warn", ": ".join(["no usable CUDA device", *reasons[:1]]), _COST_OF["GPU"]
    names = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        names.append(f"{device.name}, {device.total_memory / GIB:.0f} GiB")
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return "warn", "; ".join(names) + "; no bf16", "training uses fp32: slower and with more memory"
    return "ok", "; ".join(names) + "; bf16", ""


def _torchvision() -> Outcome:
    import torch
    import torchvision
    from torchvision.ops import nms

    # An extension that was built for another torch loads without complaint and fails at the first call.
    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    builds = [_version(module).partition("+")[2] or "default" for module in (torch, torchvision)]
    if builds[0] != builds[1]:
        detail = f"{_version(torchvision)} is from build {builds[1]!r}, torch from {builds[0]!r}"
        return "warn", detail, _COST_OF["torchvision"]
    return "ok", f"{_version(torchvision)}, same build as torch", ""


def _triton() -> Outcome:
    import torch
    import triton

    if torch.cuda.is_available():
        return "ok", _version(triton), ""
    return "ok", f"{_version(triton)}, idle: without a GPU the PyTorch references run", ""


def _av() -> Outcome:
    import av

    ffmpeg = av.ffmpeg_version_info if hasattr(av, "ffmpeg_version_info") else "unknown"
    return "ok", f"{_version(av)}, ffmpeg {ffmpeg}", ""


def _decoders() -> Outcome:
    absent = [name for name in ("h264", "hevc", "vp9") if not _has_codec(name, "r")]
    if absent:
        return "warn", f"no decoder for {', '.join(absent)}", "such videos must be converted before they are segmented"
    return "ok", "h264, hevc, vp9", ""


def _encoder() -> Outcome:
    if not _has_codec("libx264", "w"):
        return "missing", "libx264", "overlay.mp4 and the report's video cannot be written; use --no-overlay"
    return "ok", "libx264", ""


def _has_codec(name: str, mode: Literal["r", "w"]) -> bool:
    import av

    try:
        av.Codec(name, mode)
    except ValueError:  # PyAV's UnknownCodecError is one
        return False
    return True


def _processors() -> Outcome:
    count = default_jobs()
    return ("ok", f"{count} cores", "") if count > 1 else ("warn", "1 core", "the demo takes about twice as long")


def _memory() -> Outcome:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    status: Status = "ok" if total >= COMFORTABLE_MEMORY else "warn"
    return status, f"{total:.1f} GiB", "" if status == "ok" else "training may run out of memory"


def _disk(folder: Path) -> Outcome:
    free = shutil.disk_usage(folder).free / GIB
    status: Status = "ok" if free >= COMFORTABLE_DISK else "warn"
    return status, f"{free:.1f} GiB free at {folder}", "" if status == "ok" else "a run's checkpoints may not fit"


def _writing() -> Outcome:
    folder = Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=folder):
            return "ok", f"files can be written in {folder}", ""
    except OSError as error:
        return "warn", f"{folder}: {error.strerror}", "runs cannot be saved here; pass --out with another folder"


_CHECKS: dict[str, Callable[[], Outcome]] = {
    "Python": _python,
    "torch": _package("torch"),
    "GPU": _gpu,
    "torchvision": _torchvision,
    "triton": _triton,
    "timm": _package("timm"),
    "open_clip": _package("open_clip"),
    "av": _av,
    "decoders": _decoders,
    "encoder": _encoder,
    "decord": _package("decord"),
    "opencv": _package("cv2"),
    "accelerate": _package("accelerate"),
    "CPU": _processors,
    "memory": _memory,
    "disk (here)": lambda: _disk(Path.cwd()),
    "disk (temporary)": lambda: _disk(Path(tempfile.gettempdir())),
    "writing": _writing,
}

_COST_OF = {
    "torch": "nothing that trains or segments works",
    "GPU": "training and segmenting run on the CPU: right, but many times slower",
    "torchvision": "augmentation may fail; install torch and torchvision in one command",
    "triton": "the GPU runs the PyTorch references: slower and with more memory",
    "timm": "no network can be built",
    "open_clip": "text classes are not available; everything else works",
    "av": "videos cannot be read or written; folders of images work",
    "decoders": "videos cannot be read; folders of images work",
    "encoder": "overlay.mp4 and the report's video cannot be written",
    "decord": "--backend decord is not available; PyAV, the default, is not affected",
    "opencv": "street_world, optical flow and overlays do not work",
    "accelerate": "training does not work; segmenting does",
}
"""What a user loses when a check cannot find, or cannot load, what it looks for."""
