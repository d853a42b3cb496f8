"""Section ``training`` of `vidapt bench gpu`: whole training steps at the sizes of the papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from vidapt.config import Recipe
from vidapt.engine.distributed import make_accelerator
from vidapt.engine.step import Part
from vidapt.engine.update import Update
from vidapt.errors import VidaptError
from vidapt.jobs.build import build_loader, build_network, build_step
from vidapt.jobs.train import open_data
from vidapt.kernels.bench.measure import estimate, host_synchronisations
from vidapt.kernels.bench.names import is_ours
from vidapt.models.network_file import load_weights, save_network
from vidapt.recipe import load_recipe

RECIPES = ("edaps", "vidapt", "lidaps", "pipapp_video", "source_only")
SIZES = {"mit_b5": (512, 512), "mit_b2": (256, 512)}
PRECISIONS = ("bf16", "fp32")
CLIP = 2
BATCHES = 3
"""Batches that take turns."""


@dataclass(frozen=True)
class Effort:
    """How long is measured: steps on source labels before, steps that warm up, and windows of steps."""

    start: int
    warm_up: int
    windows: int
    steps: int


EFFORT = Effort(start=300, warm_up=8, windows=5, steps=10)
QUICK = Effort(start=2, warm_up=1, windows=2, steps=1)


@dataclass(frozen=True)
class TrainingCase:
    """One recipe at one size.

    Attributes:
        encoder: Name of the encoder, with random weights.
        size: Height and width of the crops.
        recipe: Name below ``methods/``.
        precision: ``bf16`` or ``fp32``.
    """

    encoder: str
    size: tuple[int, int]
    recipe: str
    precision: str

    @property
    def name(self) -> str:
        """What it is called in files and tables."""
        return f"{self.encoder}-{self.size[0]}x{self.size[1]}-{self.recipe}-{self.precision}"


def training_cases(*, quick: bool) -> dict[str, TrainingCase]:
    """What is measured by name, in order of worth; quick ones are two small ones."""
    if quick:
        cases = [TrainingCase("test_byobnet", (64, 128), name, "fp32") for name in ("source_only", "vidapt")]
    else:
        cases = [
            TrainingCase(encoder, size, recipe, precision)
            for precision in PRECISIONS
            for encoder, size in SIZES.items()
            for recipe in RECIPES
        ]
    return {case.name: case for case in cases}


def measure_training(case: TrainingCase, *, device: torch.device, weights: Path, quick: bool) -> dict[str, Any]:
    """Time whole updates of the engine without loading: all graphs, guard, optimiser and teacher.

    Args:
        case: What is measured.
        device: Where.
        weights: Folder for weights after some steps on source labels, without which a teacher finds nothing; they are
            trained once for each encoder, size and kind of instance head.
        quick: A few steps.

    Returns:
        Plain data: ``steps_per_second`` (median of the windows) with ``slowest`` and ``fastest``, ``frames`` of each
        domain in a step, ``instances`` (verified pseudo-instances per clip, mean, None where nobody looks for them),
        and on a GPU ``peak_mib``, ``host_syncs`` of a step and ``kernel_share``, the share of our kernels in the time
        that the GPU computes.

    Raises:
        VidaptError: If a loss or gradient is not finite; nothing is timed then.
    """
    effort = QUICK if quick else EFFORT
    recipe = training_recipe(case)
    run = _Run(
        recipe, device, _start(case, device, weights, effort), effort.warm_up + effort.windows * effort.steps + 2
    )
    run.steps(effort.warm_up)
    run.check()
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    rates = [effort.steps / estimate(lambda: run.steps(effort.steps), device) for _ in range(effort.windows)]
    run.check()
    return {
        "steps_per_second": median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "frames": recipe.training.batch * recipe.training.clip_length,
        "instances": run.instances(),
        "peak_mib": torch.cuda.max_memory_allocated(device) / 2**20 if gpu else None,
        "host_syncs": host_synchronisations(run.step) if gpu else None,
        "kernel_share": kernel_share(run.step) if gpu else None,
    }


def training_recipe(case: TrainingCase) -> Recipe:
    """The recipe of a case on the test bed: one clip of two frames a domain, two where the student sees single ones."""
    height, width = case.size
    name = f"benchmarks/street_world_fog+methods/{case.recipe}"
    method = load_recipe(name).method
    frames = method is not None and method.student == "frames"
    settings = [
        f"model.encoder={{name: {case.encoder}, pretrained: false}}",
        f"training.crop=[{height},{width}]",
        f"training.clip_length={CLIP}",
        f"training.batch={2 if frames else 1}",
        f"training.precision={case.precision}",
        "training.workers=0",
        "validation=null",
        "evaluation=null",
        "upper_bound=null",
    ]
    for domain in ("source", "target"):
        settings += [f"{domain}.videos=2", f"{domain}.size=[{height},{2 * height}]"]
    if method is not None and method.text_alignment is not None:
        settings += ["method.text_alignment.table=orthonormal", "method.text_alignment.project=true"]
    if method is not None and method.feature_distance is not None:
        settings += ["method.feature_distance=null"]
    return load_recipe(name, settings)


class _Run:
    """A training run in memory whose parts have all begun; ``step`` is one update."""

    def __init__(self, recipe: Recipe, device: torch.device, start: Path | None, remaining: int) -> None:
        self.accelerator = make_accelerator(recipe.training.precision, "cuda" if device.type == "cuda" else "cpu")
        source, target = open_data(recipe)
        self.network = build_network(recipe, fresh=True).to(device).train()
        if start is not None:
            load_weights(self.network, start)
        self.method = build_step(recipe, self.network, source, device)
        if recipe.method is not None:
            # all steps are done but those to come, so that what begins later has begun
            self.method.load_state_dict(self.method.state_dict() | {"updates": recipe.training.steps - remaining})
        self.update = Update(self.method, recipe.training, self.accelerator)
        domains = [(source, "source"), *([] if target is None else [(target, "target")])]
        streams = [islice(build_loader(data, recipe, name, self.accelerator)(0), BATCHES) for data, name in domains]
        pairs = zip(*streams, strict=True)
        self.parts: list[Part] = [(each[0].to(device), each[1].to(device) if target else None) for each in pairs]
        self.count, self.finite, self.found = 0, True, list[float]()

    def step(self) -> None:
        """One update, with the engine's guard."""
        values, finite = self.update.backward([self.parts[self.count % BATCHES]])
        norm = self.update.reduce()
        self.finite &= finite and bool(torch.isfinite(norm))
        self.update.apply(self.count)
        self.count += 1
        if "instances" in values:
            self.found.append(float(values["instances"][0]))

    def steps(self, count: int) -> None:
        """Several updates."""
        for _ in range(count):
            self.step()

    def check(self) -> None:
        """Raise if something was not finite."""
        if not self.finite:
            raise VidaptError("a loss or gradient is not finite; no speed is shown")

    def instances(self) -> float | None:
        """Verified pseudo-instances per clip, mean over the steps; None where nobody looks for them."""
        return sum(self.found) / len(self.found) if self.found else None


def _start(case: TrainingCase, device: torch.device, folder: Path, effort: Effort) -> Path:
    """Weights after some steps on source labels, for the kind of instance head that the case has."""
    plain = training_recipe(case)
    path = folder / f"{case.encoder}-{case.size[0]}x{case.size[1]}-{plain.model.instance.kind}.safetensors"
    if path.is_file():
        return path
    schedule = {"steps": effort.start, "warmup": effort.start // 10, "lr": 2e-4}
    source = plain.model_copy(update={"method": None, "training": plain.training.model_copy(update=schedule)})
    run = _Run(source, device, None, 0)
    run.steps(effort.start)
    run.check()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(run.network, path)
    return path


def kernel_share(call: Callable[[], object]) -> float:
    """Share of the time that the GPU computes in which it runs kernels of this package, in one call."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiled:
        call()
        torch.cuda.synchronize()
    on_device = [
        event for event in profiled.events() if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    whole = sum(event.device_time for event in on_device)
    return sum(event.device_time for event in on_device if is_ours(event.name)) / whole if whole else 0.0
