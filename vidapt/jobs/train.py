"""``vidapt train``: one training stage from a recipe to a run folder with scored weights."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shlex import join, quote
from typing import Any, Literal

import torch
from accelerate import Accelerator

from vidapt.config import Recipe
from vidapt.engine.checkpoint import latest_checkpoint
from vidapt.engine.distributed import make_accelerator, on_main
from vidapt.engine.train import train as run_training
from vidapt.errors import ConfigError, SingleImagesError, UserError
from vidapt.jobs.build import build_loader, build_network, build_step
from vidapt.jobs.calibrate import calibrate
from vidapt.jobs.data import training_source, training_target
from vidapt.jobs.files import write_json, write_text
from vidapt.jobs.plan import print_plan
from vidapt.jobs.report import write_run_report
from vidapt.jobs.score import new_evaluator, score_segmenter
from vidapt.jobs.scored_videos import evaluation_videos, refuse_damaged, scored_space, scored_videos
from vidapt.jobs.table import ScoreData
from vidapt.jobs.weights import recipe_header, write_calibration
from vidapt.labels import LabelSpace, find_space
from vidapt.models.network_file import network_header
from vidapt.recipe import dump_recipe, load_recipe
from vidapt.segmenter import load, mapping_matrix

SKIPPED = "damaged.jsonl"
"""Lists the clips of a run that were left out because their files are damaged."""


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
    """Train one stage, calibrate its tracker, score it and write its report.

    Args:
        recipe: ``method: null`` trains on source labels, otherwise the network is adapted to the target.
        out: Run folder.
        resume: Continue from the latest complete checkpoint of ``out``.
        device: ``cpu`` or ``cuda``; None picks a GPU if there is one.
        dry_run: Print the plan and stop.

    Raises:
        UserError: If data, configuration or checkpoints do not fit.
        StorageError: If writing fails; what was written before is intact.
    """
    run = Path(out)
    open_accelerator(recipe, device)
    if not dry_run:
        open_data(recipe)
        on_main(lambda: prepare_run(recipe, run, resume=resume))
    result = run_stage(recipe, run, resume=resume, device=device, dry_run=dry_run, command="train")
    if not dry_run:
        scored = [{**score, "weights": weights} for weights, score in result.scores.items()]
        scores = {"trained": scored[0]} if scored else {}
        on_main(lambda: write_run_report(recipe, {"trained": run}, scores, run, device=device))
    return result


def prepare_run(recipe: Recipe, run: Path, *, resume: bool) -> None:
    """Make the run folder and write the resolved recipe into it.

    Raises:
        ConfigError: If the folder already holds a run, or stages of one, that is not to be continued.
        StorageError: If the folder cannot be written.
    """
    if resume:
        return
    if any(latest_checkpoint(folder.parent) for folder in (run / "checkpoints", *run.glob("*/checkpoints"))):
        raise ConfigError(f"{run} already holds a run; choose another --out, or continue it with --resume {run}")
    write_text(run / "config.yaml", dump_recipe(recipe))
    (run / "scores.json").unlink(missing_ok=True)


def run_stage(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool,
    device: str | None,
    dry_run: bool,
    command: str,
    root: Path | None = None,
) -> RunResult:
    """Train, calibrate and score one stage.

    Args:
        recipe: The stage's recipe.
        run: Its run folder.
        resume: Continue from its latest checkpoint.
        device: ``cpu`` or ``cuda``; None picks a GPU if there is one.
        dry_run: Print the plan and stop.
        command: The verb that resumes it.
        root: The folder that is resumed; None is ``run`` itself.
    """
    accelerator = open_accelerator(recipe, device)
    if recipe.method is None:
        student = recipe.inference.model_copy(update={"weights": "student"})
        recipe = recipe.model_copy(update={"inference": student})
    datasets = open_data(recipe, None if dry_run else run)
    recipe = _with_clip_length(recipe, len(datasets[0][0].frames), quiet=dry_run)
    # A plan needs no weights: it neither loads nor downloads any.
    fresh = not dry_run and (not resume or latest_checkpoint(run) is None)
    network = build_network(recipe, fresh=fresh)
    step = build_step(recipe, network.to(accelerator.device), datasets[0], accelerator.device, dry_run=dry_run)
    if dry_run:
        if accelerator.is_main_process:
            print_plan(recipe, datasets, step, run, accelerator.device, accelerator.num_processes)
        return RunResult(run, 0, 0.0, {})
    on_main(lambda: _describe_run(recipe, run, accelerator))
    result = run_training(
        step,
        build_loader(datasets[0], recipe, "source", accelerator),
        None if datasets[1] is None else build_loader(datasets[1], recipe, "target", accelerator),
        recipe.training,
        run=run,
        accelerator=accelerator,
        header=network_header(network.config, network.space) | recipe_header(recipe),
        resume=resume,
        resume_command=f"vidapt {command} --resume {quote(str(root or run))}",
    )
    on_main(lambda: _report_skipped(run / SKIPPED))
    scores = on_main(lambda: _finish(recipe, run, result.checkpoint, str(accelerator.device)))
    return RunResult(run, result.steps, result.seconds, scores)


def _report_skipped(record: Path) -> None:
    if record.is_file():
        count = len(set(record.read_text("utf-8").splitlines()))
        print(f"{count} damaged clips were left out while training; {record} lists them", file=sys.stderr)


def open_accelerator(recipe: Recipe, device: str | None) -> Accelerator:
    """Devices and processes of a run; the first call joins the processes that torchrun started.

    Raises:
        UserError: If the device is unknown or missing.
    """
    return make_accelerator(recipe.training.precision, _device_kind(device))


def _with_clip_length(recipe: Recipe, length: int, *, quiet: bool) -> Recipe:
    """The recipe with the length that its clips have; says so if that is not what it asked for (a plan shows it)."""
    if length == recipe.training.clip_length:
        return recipe
    if not quiet:
        on_main(lambda: print("the data hold single images: every clip has one frame", file=sys.stderr))
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"clip_length": length})})


def _describe_run(recipe: Recipe, run: Path, accelerator: Accelerator) -> None:
    if not (run / "config.yaml").is_file():
        write_text(run / "config.yaml", dump_recipe(recipe))
    write_json(run / "environment.json", environment(accelerator))


def _device_kind(device: str | None) -> Literal["auto", "cpu", "cuda"]:
    match device:
        case None | "auto":
            return "auto"
        case "cpu":
            return "cpu"
        case "cuda":
            return "cuda"
        case _:
            raise UserError(
                f"device {device!r} is not known to training; use cpu, cuda or auto "
                "(CUDA_VISIBLE_DEVICES chooses among several GPUs)"
            )


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


def open_data(recipe: Recipe, run: Path | None = None) -> tuple[Any, Any]:
    """Open everything that a stage reads, so that a mistake shows before training and not after it.

    Args:
        recipe: The stage's recipe.
        run: Run folder, in which clips that turn out to be damaged are listed where the recipe skips them.

    Returns:
        The source and the target data set; the latter is None for supervised training.

    Raises:
        UserError: If files are missing or damaged, or label spaces have no class in common.
    """
    space = find_space(recipe.labels)
    if recipe.validation is not None:
        refuse_damaged(evaluation_videos(recipe.validation, space))
    if recipe.evaluation is not None:
        videos = scored_videos(recipe)
        refuse_damaged(videos)
        # A protocol that does not fit its label space shows here and not after the last step.
        new_evaluator(recipe)
        mapping_matrix(space, videos.label_space)
    return _datasets(recipe, space, None if run is None else run / SKIPPED)


def _datasets(recipe: Recipe, space: LabelSpace, skipped: Path | None) -> tuple[Any, Any]:
    """Clips of the length that the recipe asks for, or of one frame where a domain consists of single images."""
    try:
        return _clips(recipe, space, skipped, recipe.training.clip_length)
    except SingleImagesError:
        return _clips(recipe, space, skipped, 1)


def _clips(recipe: Recipe, space: LabelSpace, skipped: Path | None, length: int) -> tuple[Any, Any]:
    clips: dict[str, Any] = {"clip_length": length, "interval": recipe.training.interval, "skipped": skipped}
    labelled = recipe.upper_bound if recipe.train_on == "upper_bound" else recipe.source
    source = training_source(labelled or recipe.source, space, **clips)
    if recipe.method is None or recipe.target is None:
        return source, None
    return source, training_target(recipe.target, **clips)


def _finish(recipe: Recipe, run: Path, folder: Path, device: str | None) -> dict[str, ScoreData]:
    """Calibrate and score the final weights; returns scores by weights name."""
    files = sorted(folder.glob("*.safetensors"))
    if recipe.validation is not None:
        write_calibration(
            folder, {path.stem: calibrate(load(path, device=device), recipe.validation) for path in files}
        )
    scores: dict[str, ScoreData] = {}
    if recipe.evaluation is not None:
        name = recipe.inference.weights
        segmenter = load(folder / f"{name}.safetensors", device=device, space=scored_space(recipe))
        scores[name] = score_segmenter(segmenter, recipe).scores.to_dict()
    write_json(run / "scores.json", scores)
    return scores


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Command, versions and device that a run is reported with."""
    names = ("vidapt", "torch", "torchvision", "timm", "accelerate", "numpy", "opencv-python-headless", "av", "triton")
    return {
        "command": join([Path(sys.argv[0]).name, *sys.argv[1:]]),
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
