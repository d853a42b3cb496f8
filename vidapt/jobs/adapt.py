"""``vidapt adapt``: warm start on source labels, adapt to unlabelled clips, compare, report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vidapt.config import LabelledFolderData, Recipe, VideosData
from vidapt.engine.checkpoint import latest_checkpoint
from vidapt.engine.distributed import rank
from vidapt.errors import ConfigError
from vidapt.jobs.evaluate import is_generated
from vidapt.jobs.report import write_run_report
from vidapt.jobs.table import ScoreData, scores_table
from vidapt.jobs.train import RunResult, prepare_run, resume_recipe, run_stage
from vidapt.recipe import load_recipe

SOURCE_ONLY, ADAPTED, UPPER_BOUND = "source_only", "adapted", "upper_bound"


@dataclass(frozen=True)
class Stage:
    """One training stage of an adaptation: its name, recipe and run folder."""

    name: str
    recipe: Recipe
    run: Path


def adapt(
    config: Recipe | str | Path,
    *,
    out: str | Path,
    resume: bool = False,
    device: str | None = None,
    dry_run: bool = False,
) -> RunResult:
    """Adapt to unlabelled footage.

    The stages are run folders: ``out/source_only`` (warm start), ``out/upper_bound`` (if the recipe names labelled
    target footage for comparison) and ``out`` itself, the adapted model. Finished stages are not run again.

    Args:
        config: A recipe, its path or its name.
        out: Run folder.
        resume: Continue an interrupted run.
        device: ``cpu``, ``cuda``, ...; None picks a GPU if there is one.
        dry_run: Print the plan of every stage and stop.

    Returns:
        The adapted stage, with scores by stage name.

    Raises:
        ConfigError: If the recipe has no adaptation method: ``vidapt train`` runs it.
    """
    recipe = config if isinstance(config, Recipe) else load_recipe(config)
    if recipe.method is None:
        raise ConfigError(f"recipe {recipe.name!r} is purely supervised (method: null); run it with: vidapt train")
    if not dry_run:
        prepare_run(recipe, Path(out), resume=resume)
    scores: dict[str, ScoreData] = {}
    result = RunResult(Path(out), 0, 0.0, {})
    for stage in stages(recipe, Path(out)):
        if dry_run and recipe.training.initial is None:
            stage = Stage(stage.name, _without_initial(stage.recipe), stage.run)
        result = _run(stage, resume=resume, device=device, dry_run=dry_run)
        for score in result.scores.values():
            scores[stage.name] = score
    if scores and not dry_run and rank() == 0:
        _compare(recipe, scores, Path(out), device)
    return RunResult(result.run, result.steps, result.seconds, scores)


def resume_adapt(run: str | Path, *, device: str | None = None) -> RunResult:
    """Continue an adaptation run in its folder to its end."""
    path = Path(run)
    return adapt(resume_recipe(path), out=path, resume=True, device=device)


def stages(recipe: Recipe, out: Path) -> list[Stage]:
    """The stages of an adaptation in the order in which they run; the adapted model comes last."""
    found, initial = [], recipe.training.initial
    if recipe.warm_start is not None and initial is None:
        plain = _supervised(recipe, "source only")
        changes = {"steps": recipe.warm_start.steps, "lr": recipe.warm_start.lr or recipe.training.lr}
        plain = plain.model_copy(update={"training": plain.training.model_copy(update=changes)})
        found.append(Stage(SOURCE_ONLY, plain, out / SOURCE_ONLY))
        initial = out / SOURCE_ONLY
    if recipe.upper_bound is not None:
        upper = _supervised(recipe, "upper bound")
        start = upper.training.model_copy(update={"initial": initial})
        upper = upper.model_copy(update={"source": recipe.upper_bound, "training": start})
        found.append(Stage(UPPER_BOUND, upper, out / UPPER_BOUND))
    training = recipe.training.model_copy(update={"initial": initial})
    adapted = recipe.model_copy(update={"warm_start": None, "upper_bound": None, "training": training})
    return [*found, Stage(ADAPTED, adapted, out)]


def recipe_for(source: Path, target: Path, classes: Path | None) -> Recipe:
    """The recipe of ``vidapt adapt --source LABELLED_DIR --target VIDEOS``: ``configs/own_data.yaml`` with your data.

    Args:
        source: Labelled folder in the generic layout.
        target: A video, a folder of videos or frame folders, or a glob.
        classes: Class table; None takes ``source/classes.yaml``.

    Raises:
        ConfigError: If there is no class table.
    """
    table = classes or source / "classes.yaml"
    if not table.is_file():
        raise ConfigError(f"no class table at {table}; write a classes.yaml (see docs/data.md) or give --classes")
    base = load_recipe("own_data")
    height = base.training.crop[0]
    return base.model_copy(
        update={
            "labels": str(table.absolute()),
            "source": LabelledFolderData(root=source.absolute(), height=height),
            "target": VideosData(root=target.absolute(), height=height),
        }
    )


def _supervised(recipe: Recipe, suffix: str) -> Recipe:
    nothing = {"method": None, "target": None, "warm_start": None, "upper_bound": None}
    warm = recipe.warm_start
    clips = {} if warm is None else {"batch": warm.batch, "clip_length": warm.clip_length}
    training = recipe.training.model_copy(update={name: value for name, value in clips.items() if value is not None})
    return recipe.model_copy(
        update={
            **nothing,
            "name": f"{recipe.name}, {suffix}",
            "training": training,
            "inference": recipe.inference.model_copy(update={"weights": "student"}),
        }
    )


def _without_initial(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"initial": None})})


def _run(stage: Stage, *, resume: bool, device: str | None, dry_run: bool) -> RunResult:
    finished = stage.run / "scores.json"
    if resume and finished.is_file():
        scores = json.loads(finished.read_text("utf-8"))
        return RunResult(stage.run, stage.recipe.training.steps, 0.0, scores)
    started = latest_checkpoint(stage.run) is not None
    return run_stage(
        stage.recipe, stage.run, resume=resume and started, device=device, dry_run=dry_run, command="adapt"
    )


def _compare(recipe: Recipe, scores: dict[str, ScoreData], out: Path, device: str | None) -> None:
    """Print the table of all stages, write it as JSON and write the report."""
    generated = is_generated(recipe.evaluation)
    Console().print(scores_table(scores, title=recipe.name, generated=generated))
    comparison = {"generated_test_bed": generated, "stages": scores}
    (out / "comparison.json").write_text(json.dumps(comparison, indent=2), "utf-8")
    runs = {stage.name: stage.run for stage in stages(recipe, out)}
    write_run_report(recipe, runs, scores, out, device=device)
