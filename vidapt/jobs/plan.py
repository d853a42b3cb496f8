"""``--dry-run``: what a stage would do, and how long one measured step says it takes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidapt.clip import ClipBatch, collate
from vidapt.config import Recipe
from vidapt.datasets.stored import StoredDataset
from vidapt.datasets.views import IgnoredRows, Mixture, Relabelled, SkipDamaged
from vidapt.jobs.describe import describe, describe_all, describe_method
from vidapt.jobs.scored_videos import scored_space, scored_videos
from vidapt.jobs.table import describe_mean
from vidapt.labels import LabelSpace
from vidapt.mapping import ClassMapping, find_mapping
from vidapt.models.network import PanopticNetwork
from vidapt.transforms import TrainTransform

Rows = list[tuple[str, str]]

MEASURED_PIXELS = 1 << 18
"""Pixels of a step up to which a plan measures a real step on a CPU."""


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
    trial = _trial(recipe, device)
    seconds, memory = _measure(recipe, datasets, step, device, trial)
    weights = sum(parameter.numel() for parameter in network.parameters())
    disk = 4 * weights * (3 + len(step.weights())) * config.keep
    space = network.space
    disk_text = f"{disk / 1e6:.0f} MB for {config.keep} checkpoints"
    free = shutil.disk_usage(_existing(run)).free / 1e6
    target = "none (supervised)" if datasets[1] is None else f"{describe(recipe.target)}: {len(datasets[1])} clips"
    return [
        ("run folder", str(run)),
        ("source", f"{describe_all(recipe.source)}: {len(datasets[0])} clips"),
        *_files("source", datasets[0]),
        ("target", target),
        *_files("target", datasets[1]),
        *_margins(recipe),
        ("classes", f"{space.name}: {len(space)}, things {', '.join(space.names[i] for i in space.things)}"),
        *_source_classes(datasets[0], space),
        *([] if recipe.validation is None else [("validation", describe(recipe.validation))]),
        ("evaluation", describe(recipe.evaluation)),
        *_evaluation(recipe, space),
        ("network", f"{recipe.model.encoder.name}, {weights / 1e6:.2f} M parameters{_pretrained(recipe)}"),
        ("method", describe_method(recipe.method)),
        ("batch", f"{config.batch} clips of {config.clip_length} frames, crop {config.crop[0]}x{config.crop[1]}"),
        ("steps", str(config.steps)),
        ("memory", f"{memory:.0f} MB after one step on {device}{trial.note}"),
        ("disk", f"{disk_text}, {free:.0f} MB free"),
        ("one step", f"{seconds:.2f} s{trial.note}"),
        ("ETA", str(timedelta(seconds=round(seconds * config.steps / processes)))),
    ]


def _margins(recipe: Recipe) -> Rows:
    if recipe.method is None or recipe.target is None or not any(recipe.target.ignored_rows):
        return []
    top, bottom = recipe.target.ignored_rows
    return [("target margins", f"pseudo-labels of {top} rows at the top and {bottom} at the bottom do not count")]


def _pretrained(recipe: Recipe) -> str:
    """Which weights the encoder starts from; a plan loads none."""
    initial, weights = recipe.training.initial, recipe.model.encoder.pretrained
    if initial is not None:
        return f", from {initial}"
    if isinstance(weights, bool):
        return ", encoder weights downloaded by timm" if weights else ", random weights"
    return f", encoder weights {weights}" + ("" if weights.is_file() else " (missing)")


def _files(name: str, dataset: Any) -> Rows:
    """Frames found of the published data sets among the parts of ``dataset``, against their official numbers."""
    stored = (_unwrapped(part, (Relabelled, SkipDamaged, IgnoredRows)) for part in _parts(dataset))
    return [(f"{name} files", _found(part)) for part in stored if isinstance(part, StoredDataset)]


def _found(dataset: StoredDataset) -> str:
    frames = list(dataset.frames())
    labelled, official = sum(bool(frame.labels) for frame in frames), dataset.card.splits.get(dataset.split)
    labels = f", {labelled} with labels" if dataset.labelled else ""
    keys = sum(frame.key for frame in frames)
    return f"{len(frames)} frames{labels}; {keys} key frames, {official or 'an unknown number'} in the official split"


def _parts(dataset: Any) -> list[Any]:
    return dataset.datasets if isinstance(dataset, Mixture) else [dataset]


def _unwrapped(dataset: Any, views: tuple[type, ...]) -> Any:
    inner = dataset
    while isinstance(inner, views):
        dataset = inner = dataset.dataset
    return dataset


def _source_classes(dataset: Any, space: LabelSpace) -> Rows:
    return [("source classes", _relabelled(_unwrapped(part, (SkipDamaged,)), space)) for part in _parts(dataset)]


def _relabelled(dataset: Any, space: LabelSpace) -> str:
    return _mapped(dataset.mapping) if isinstance(dataset, Relabelled) else f"the same as {space.name}"


def _evaluation(recipe: Recipe, space: LabelSpace) -> Rows:
    """What the evaluation holds, how its classes are mapped, and the protocol that scores it."""
    if recipe.evaluation is None:
        return []
    videos, scored = scored_videos(recipe), scored_space(recipe)
    labels = _relabelled(videos, scored)
    network = "" if scored == space else f"; network: {_mapped(find_mapping(space, scored))}"
    return [
        *(_files("evaluation", videos) or [("evaluation videos", str(len(videos.videos)))]),
        ("evaluation classes", labels + network),
        ("protocol", describe_protocol(recipe)),
    ]


def describe_protocol(recipe: Recipe) -> str:
    """The protocol of a recipe in one line: its name, the classes averaged and what the others do."""
    scoring, space = recipe.scoring, scored_space(recipe)
    names = [label.name for label in space.classes if not label.is_void]
    text = describe_mean(space.name, names, scoring.classes or names, scoring.unscored)
    return f"{scoring.protocol}: {text}" if scoring.protocol else text


def _mapped(mapping: ClassMapping) -> str:
    """How many classes are mapped, which classes have no counterpart, and which receive nothing."""
    source, target = mapping.source, mapping.target
    lost, missing = mapping.ignored, mapping.missing
    used = len(source) - len(lost) - sum(label.is_void for label in source.classes)
    without = f"; without counterpart: {', '.join(lost)}" if lost else ""
    empty = f"; receive nothing: {', '.join(missing)}" if missing else ""
    return f"{used} of {len(source)} of {source.name} map to {target.name} ({len(target)} classes){without}{empty}"


@dataclass(frozen=True)
class _Trial:
    """The step that is measured: ``batch`` clips of ``crop`` pixels, which a real step holds ``factor`` times."""

    crop: tuple[int, int]
    batch: int
    factor: float

    @property
    def note(self) -> str:
        if self.factor == 1:
            return ""
        return f" (estimated from {self.batch} clip of {self.crop[0]}x{self.crop[1]}, times {self.factor:.0f})"


def _trial(recipe: Recipe, device: torch.device) -> _Trial:
    """A real step, or a small one on a CPU where a real one would take minutes."""
    config = recipe.training
    pixels = config.batch * config.clip_length * config.crop[0] * config.crop[1]
    if device.type != "cpu" or pixels <= MEASURED_PIXELS:
        return _Trial(config.crop, config.batch, 1.0)
    crop = (min(config.crop[0], 128), min(config.crop[1], 128))
    return _Trial(crop, 1, pixels / (config.clip_length * crop[0] * crop[1]))


def _measure(
    recipe: Recipe, datasets: tuple[Any, Any], step: Any, device: torch.device, trial: _Trial
) -> tuple[float, float]:
    """Seconds of one step and memory in MB; the first of two steps warms up."""
    import numpy as np

    transform = TrainTransform(trial.crop, recipe.training.scale)
    rng = np.random.default_rng(recipe.training.seed)

    def batch(dataset: Any) -> ClipBatch | None:
        if dataset is None:
            return None
        clips = [transform(dataset[index % len(dataset)], rng) for index in range(trial.batch)]
        return collate(clips, list(range(trial.batch))).to(device)

    source, target = batch(datasets[0]), batch(datasets[1])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, kept = 0.0, _Kept(step.network)
    for _ in range(2):
        seconds = _timed(lambda: kept.backward(step.losses(source, target)))
        step.network.zero_grad(set_to_none=True)
    return seconds * trial.factor, _memory(step.network, kept.most * trial.factor, device)


def _memory(network: PanopticNetwork, kept: float, device: torch.device) -> float:
    """Memory of a step in MB: as measured on a GPU; else what is in use, three times the weights and what is kept.

    The largest use of a process never falls, so that on a CPU it would tell of whatever ran before.
    """
    from vidapt.io.segmentation_folder import peak_memory_bytes

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    weights = sum(parameter.nbytes for parameter in network.parameters())
    return (peak_memory_bytes()["host"] + 3 * weights + kept) / 1e6


class _Kept:
    """Counts the bytes that autograd keeps for the backward pass of a graph; ``most`` is the largest of all graphs."""

    def __init__(self, network: PanopticNetwork) -> None:
        self.most = 0
        self._sizes: dict[int, int] = {}
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def backward(self, losses: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Run each graph backward in turn."""
        with torch.autograd.graph.saved_tensors_hooks(self._add, lambda tensor: tensor):
            for _, loss in losses:
                if loss.requires_grad:
                    loss.backward()
                    self.most = max(self.most, sum(self._sizes.values()))
                    self._sizes.clear()

    def _add(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor


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
