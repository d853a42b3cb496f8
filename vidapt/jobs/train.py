"""``vidapt train``: one training stage from a recipe to a run folder with scored weights."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from vidapt.adaptation.step import Labelled, SelfTrainingStep, SupervisedStep
from vidapt.config import Recipe
from vidapt.engine.checkpoint import latest_checkpoint
from vidapt.engine.distributed import all_reduce_mean, make_accelerator, rank
from vidapt.engine.loading import clip_loader
from vidapt.engine.train import Loader
from vidapt.engine.train import train as run_training
from vidapt.errors import CheckpointError, ConfigError
from vidapt.jobs.calibrate import calibrate
from vidapt.jobs.data import build_dataset, class_counts, in_space
from vidapt.jobs.evaluate import evaluation_videos, score_segmenter
from vidapt.jobs.plan import print_plan
from vidapt.jobs.table import ScoreData
from vidapt.jobs.weights import find_weights, recipe_header, write_calibration
from vidapt.labels import LabelSpace, find_space
from vidapt.models.losses import class_weights
from vidapt.models.network import PanopticNetwork, build_network, network_header
from vidapt.recipe import dump_recipe, load_recipe
from vidapt.segmenter import load, new_tracker
from vidapt.transforms import StrongAugment, TrainTransform


@dataclass(frozen=True)
class RunResult:
    """A finished stage.

    Attributes:
        run: The run folder.
        steps: Updates done.
        seconds: Training time of this process, without evaluation.
        scores: Scores on the evaluation videos by weights name; empty without evaluation.
    """

    run: Path
    steps: int
    seconds: float
    scores: dict[str, ScoreData]


def train(
    recipe: Recipe,
    *,
    out: str | Path,
    resume: bool = False,
    device: str | None = None,
    dry_run: bool = False,
) -> RunResult:
    """Train one stage, calibrate its tracker and score it.

    Args:
        recipe: ``method: null`` trains on source labels, otherwise the network is adapted to the target.
        out: Run folder.
        resume: Continue from the latest complete checkpoint of ``out``.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None picks a GPU if there is one.
        dry_run: Print the plan and stop.

    Raises:
        UserError: If data, configuration or checkpoints do not fit.
    """
    run = Path(out)
    if not dry_run:
        prepare_run(recipe, run, resume=resume)
    return run_stage(recipe, run, resume=resume, device=device, dry_run=dry_run, command="train")


def prepare_run(recipe: Recipe, run: Path, *, resume: bool) -> None:
    """Make the run folder and write the resolved recipe into it.

    Raises:
        ConfigError: If the folder already holds a run that is not to be continued.
    """
    if not resume and latest_checkpoint(run) is not None:
        raise ConfigError(f"{run} already holds a run; choose another --out, or continue it with --resume {run}")
    if not resume and rank() == 0:
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(dump_recipe(recipe), "utf-8")


def run_stage(recipe: Recipe, run: Path, *, resume: bool, device: str | None, dry_run: bool, command: str) -> RunResult:
    """Train, calibrate and score one stage; ``command`` is the verb that resumes it."""
    accelerator = make_accelerator(recipe.training.precision, _device_kind(device))
    datasets = _datasets(recipe, find_space(recipe.labels))
    step = _build_step(recipe, datasets[0], accelerator)
    if dry_run:
        print_plan(recipe, datasets, step, run, accelerator.device, accelerator.num_processes)
        return RunResult(run, 0, 0.0, {})
    run.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        (run / "environment.json").write_text(json.dumps(environment(accelerator), indent=2), "utf-8")
    result = run_training(
        step,
        _loader(datasets[0], recipe, "source", accelerator),
        None if datasets[1] is None else _loader(datasets[1], recipe, "target", accelerator),
        recipe.training,
        run=run,
        accelerator=accelerator,
        header=network_header(recipe.model, find_space(recipe.labels)) | recipe_header(recipe),
        resume=resume,
        resume_command=f"vidapt {command} --resume {run}",
    )
    scores = _finish(recipe, run, result.checkpoint, device) if accelerator.is_main_process else {}
    accelerator.wait_for_everyone()
    return RunResult(run, result.steps, result.seconds, scores)


def _device_kind(device: str | None) -> Literal["auto", "cpu", "cuda"]:
    match device:
        case None | "auto":
            return "auto"
        case "cpu":
            return "cpu"
        case "cuda":
            return "cuda"
        case _:
            raise ConfigError(f"device {device!r} is not known; use cpu, cuda or auto")


def resume_recipe(run: Path) -> Recipe:
    """The recipe that a run folder was started with.

    Raises:
        ConfigError: If the folder is no run.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} is no run folder: it has no config.yaml; give --resume the folder of an earlier run")
    return load_recipe(run / "config.yaml")


def resume(run: str | Path, *, device: str | None = None) -> RunResult:
    """Continue the run in a folder to its end."""
    return train(resume_recipe(Path(run)), out=run, resume=True, device=device)


def _datasets(recipe: Recipe, space: LabelSpace) -> tuple[Any, Any]:
    clips: dict[str, Any] = {"clip_length": recipe.training.clip_length, "interval": recipe.training.interval}
    source = in_space(build_dataset(recipe.source, **clips), space)
    if recipe.method is None or recipe.target is None:
        return source, None
    return source, build_dataset(recipe.target, **clips, labelled=False)


def _initialise(network: PanopticNetwork, path: Path) -> None:
    found = find_weights(path).network
    missing = network.load_state_dict(found.state_dict(), strict=False) if found.space == network.space else None
    if missing is None or missing.missing_keys or missing.unexpected_keys:
        raise CheckpointError(f"training.initial {path} holds another architecture or label space than the recipe's")


def _build_step(recipe: Recipe, source: Any, accelerator: Accelerator) -> SupervisedStep | SelfTrainingStep:
    space = find_space(recipe.labels)
    torch.manual_seed(recipe.training.seed)
    network = build_network(recipe.model, space)
    if recipe.training.initial is not None:
        _initialise(network, recipe.training.initial)
    network.to(accelerator.device)
    weight = None
    if recipe.training.class_balance > 0:
        weight = class_weights(class_counts(source, len(space)), recipe.training.class_balance).to(accelerator.device)
    distort = recipe.training.augment
    augment = StrongAugment(distort.jitter, distort.jitter_probability, distort.blur_probability)
    labelled = Labelled(recipe.training.seed, weight, augment)
    if recipe.method is None:
        return SupervisedStep(network, labelled)
    return SelfTrainingStep(
        network,
        recipe.method,
        labelled=labelled,
        new_tracker=lambda: new_tracker(recipe.tracking, len(space), None),
        reduce=all_reduce_mean,
    )


def _loader(dataset: Any, recipe: Recipe, domain: str, accelerator: Accelerator) -> Loader:
    config = recipe.training
    return lambda start_step: clip_loader(
        dataset,
        TrainTransform(config.crop, config.scale),
        seed=config.seed,
        domain=domain,
        batch=config.batch,
        start_step=start_step,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        accumulate=config.accumulate,
        workers=config.workers,
    )


def _finish(recipe: Recipe, run: Path, folder: Path, device: str | None) -> dict[str, ScoreData]:
    """Calibrate and score the final weights; returns scores by weights name."""
    files = sorted(folder.glob("*.safetensors"))
    if recipe.validation is not None:
        write_calibration(
            folder, {path.stem: calibrate(load(path, device=device), recipe.validation) for path in files}
        )
    scores: dict[str, ScoreData] = {}
    if recipe.evaluation is not None:
        name = recipe.inference.weights if recipe.method is not None else "student"
        space = evaluation_videos(recipe.evaluation).label_space
        segmenter = load(folder / f"{name}.safetensors", device=device, space=space)
        scores[name] = score_segmenter(segmenter, recipe).to_dict()
    (run / "scores.json").write_text(json.dumps(scores, indent=2), "utf-8")
    return scores


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Versions and device that a run is reported with."""
    names = ("vidapt", "torch", "torchvision", "timm", "accelerate", "numpy", "opencv-python-headless", "av", "triton")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(accelerator.device),
        "device_name": torch.cuda.get_device_name(accelerator.device) if accelerator.device.type == "cuda" else "cpu",
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in names},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
