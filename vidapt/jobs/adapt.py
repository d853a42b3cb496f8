"""``vidapt adapt``: warm start on source labels, adapt to unlabelled clips, compare, report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vidapt.config import LabelledFolderData, Recipe, VideosData
from vidapt.engine.checkpoint import latest_checkpoint
from vidapt.engine.distributed import on_main
from vidapt.errors import ConfigError, InputError
from vidapt.jobs.files import write_json
from vidapt.jobs.report import write_run_report
from vidapt.jobs.scored_videos import is_generated
from vidapt.jobs.table import ScoreData, scores_table
from vidapt.jobs.train import RunResult, open_accelerator, open_data, prepare_run, resume_recipe, run_stage
from vidapt.jobs.weights import weights_path
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
        device: ``cpu`` or ``cuda``; None picks a GPU if there is one.
        dry_run: Print the plan of every stage and stop.

    Returns:
        The adapted stage, with scores by stage name.

    Raises:
        ConfigError: If the recipe has no adaptation method: ``vidapt train`` runs it.
        UserError: If data, configuration or checkpoints do not fit; nothing is trained or written then.
        StorageError: If writing fails; what was written before is intact.
    """
    recipe = config if isinstance(config, Recipe) else load_recipe(config)
    if recipe.method is None:
        raise ConfigError(f"recipe {recipe.name!r} is purely supervised (method: null); run it with: vidapt train")
    root, result = Path(out), RunResult(Path(out), 0, 0.0, {})
    open_accelerator(recipe, device)
    _check(recipe, root)
    if dry_run:
        _plan(recipe, root, device)
        return result
    on_main(lambda: prepare_run(recipe, root, resume=resume))
    scores: dict[str, ScoreData] = {}
    for stage in stages(recipe, root):
        result = _run(stage, root, resume=resume, device=device)
        for weights, score in result.scores.items():
            scores[stage.name] = {**score, "weights": weights}
    on_main(lambda: _compare(recipe, scores, root, device))
    return RunResult(root, result.steps, result.seconds, scores)


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
        InputError: If there is no such folder.
    """
    if not source.is_dir():
        raise InputError(f"no labelled folder at {source}; it holds classes.yaml, images/ and semantic/")
    own = source / "classes.yaml"
    table = classes or own
    for path in (table, own):
        if not path.is_file():
            raise ConfigError(f"no class table at {path}; it names the labels of {source}, see docs/data.md")
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


def _check(recipe: Recipe, out: Path) -> None:
    """Open the data of all stages and find the given weights: a mistake must not show after hours of warm start."""
    if recipe.training.initial is not None:
        weights_path(recipe.training.initial)
    for stage in stages(recipe, out):
        open_data(stage.recipe)


def _plan(recipe: Recipe, out: Path, device: str | None) -> None:
    """Print the plan of every stage; weights of earlier stages are not there yet."""
    for stage in stages(recipe, out):
        training = stage.recipe.training.model_copy(update={"initial": recipe.training.initial})
        plain = stage.recipe.model_copy(update={"training": training})
        run_stage(plain, stage.run, resume=False, device=device, dry_run=True, command="adapt")


def _run(stage: Stage, root: Path, *, resume: bool, device: str | None) -> RunResult:
    """Run or continue a stage, or take the scores of a finished one."""
    if resume and (scores := _finished(stage.run)) is not None:
        return RunResult(stage.run, stage.recipe.training.steps, 0.0, scores)
    started = resume and latest_checkpoint(stage.run) is not None
    if stage.run != root:
        on_main(lambda: prepare_run(stage.recipe, stage.run, resume=started))
    return run_stage(stage.recipe, stage.run, resume=started, device=device, dry_run=False, command="adapt", root=root)


def _finished(run: Path) -> dict[str, ScoreData] | None:
    """Scores of a finished stage, or None."""
    try:
        scores: dict[str, ScoreData] = json.loads((run / "scores.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return scores


def _compare(recipe: Recipe, scores: dict[str, ScoreData], out: Path, device: str | None) -> None:
    """Write the report, and where there are scores print them as a table and write them as JSON."""
    generated = is_generated(recipe.evaluation)
    if scores:
        Console().print(scores_table(scores, title=recipe.name, generated=generated))
        write_json(out / "comparison.json", {"generated_test_bed": generated, "stages": scores})
    runs = {stage.name: stage.run for stage in stages(recipe, out)}
    report = write_run_report(recipe, runs, scores, out, device=device)
    Console(soft_wrap=True, markup=False, highlight=False).print(f"report: {report}")
