"""``--dry-run``: what a stage would do, and how long one measured step says it takes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidapt.clip import IGNORE, ClipBatch, collate
from vidapt.config import Data, Recipe, StreetWorldData
from vidapt.jobs.evaluate import evaluation_videos
from vidapt.labels import LabelSpace, space_map
from vidapt.models.network import PanopticNetwork
from vidapt.transforms import TrainTransform

Rows = list[tuple[str, str]]


def print_plan(
    recipe: Recipe, datasets: tuple[Any, Any], step: Any, run: Path, device: torch.device, processes: int = 1
) -> None:
    """Print files, classes, memory, disk, steps and the expected duration of one stage."""
    title = Text(f"plan of {recipe.name} (nothing is trained)")
    table = Table("what", "plan", title=title, title_justify="left")
    for row in plan(recipe, datasets, step, run, device, processes):
        table.add_row(*map(Text, row))
    Console().print(table)


def plan(
    recipe: Recipe, datasets: tuple[Any, Any], step: Any, run: Path, device: torch.device, processes: int = 1
) -> Rows:
    """Rows (what, plan) of one stage; runs the losses and gradients of one step to measure, updates nothing."""
    config = recipe.training
    network: PanopticNetwork = step.network
    seconds, memory = _measure(recipe, datasets, step, device)
    weights = sum(parameter.numel() for parameter in network.parameters())
    disk = 4 * weights * (3 + len(step.weights())) * config.keep
    space = network.space
    disk_text = f"{disk / 1e6:.0f} MB for {config.keep} checkpoints"
    free = shutil.disk_usage(_existing(run)).free / 1e6
    target = "none (supervised)" if datasets[1] is None else f"{describe(recipe.target)}: {len(datasets[1])} clips"
    return [
        ("run folder", str(run)),
        ("source", f"{describe(recipe.source)}: {len(datasets[0])} clips"),
        ("target", target),
        ("classes", f"{space.name}: {len(space)}, things {', '.join(space.names[i] for i in space.things)}"),
        ("source classes", _mapped(getattr(datasets[0], "own_space", space), space)),
        ("evaluation", describe(recipe.evaluation)),
        ("evaluation classes", _evaluation_classes(recipe, space)),
        ("network", f"{recipe.model.encoder.name}, {weights / 1e6:.2f} M parameters"),
        ("batch", f"{config.batch} clips of {config.clip_length} frames, crop {config.crop[0]}x{config.crop[1]}"),
        ("steps", str(config.steps)),
        ("memory", f"{memory:.0f} MB after one step on {device}"),
        ("disk", f"{disk_text}, {free:.0f} MB free"),
        ("one step", f"{seconds:.2f} s"),
        ("ETA", str(timedelta(seconds=round(seconds * config.steps / processes)))),
    ]


def describe(data: Data | None) -> str:
    """One phrase that names a data section."""
    if data is None:
        return "none"
    if isinstance(data, StreetWorldData):
        return f"street_world {data.style} seed {data.seed}, {data.videos} generated videos of {data.frames} frames"
    return f"{data.kind} {data.root}"


def _evaluation_classes(recipe: Recipe, space: LabelSpace) -> str:
    return "none" if recipe.evaluation is None else _mapped(space, evaluation_videos(recipe.evaluation).label_space)


def _mapped(source: LabelSpace, target: LabelSpace) -> str:
    """How many classes of ``source`` have a counterpart in ``target``, and which have none."""
    if source.names == target.names:
        return "the same"
    lost = [name for name, other in zip(source.names, space_map(source, target), strict=False) if other == IGNORE]
    without = f"; without counterpart: {', '.join(lost)}" if lost else ""
    return f"{len(source) - len(lost)} of {len(source)} map to {target.name} ({len(target)} classes){without}"


def _measure(recipe: Recipe, datasets: tuple[Any, Any], step: Any, device: torch.device) -> tuple[float, float]:
    """Seconds of one step and memory in MB; the first of two steps warms up."""
    import numpy as np

    from vidapt.io.writer import peak_memory_bytes

    config = recipe.training
    transform = TrainTransform(config.crop, config.scale)
    rng = np.random.default_rng(config.seed)

    def batch(dataset: Any) -> ClipBatch | None:
        if dataset is None:
            return None
        clips = [transform(dataset[index % len(dataset)], rng) for index in range(config.batch)]
        return collate(clips, list(range(config.batch))).to(device)

    source, target = batch(datasets[0]), batch(datasets[1])
    seconds = 0.0
    for _ in range(2):
        seconds = _timed(lambda: [loss.backward() for _, loss in step.losses(source, target) if loss.requires_grad])
        step.network.zero_grad(set_to_none=True)
    if device.type == "cuda":
        return seconds, torch.cuda.max_memory_allocated(device) / 1e6
    return seconds, sum(peak_memory_bytes().values()) / 1e6


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
