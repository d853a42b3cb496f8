"""The command line: one sub-command per verb, which parses, calls a job and prints.

Exit codes: 0 done; 2 bad input or configuration; 1 a failure of ours; 130 or 143 interrupted after saving.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from vidapt import __version__
from vidapt.cli_bench import bench
from vidapt.cli_compare import compare
from vidapt.cli_data import data
from vidapt.cli_text import text
from vidapt.errors import Interrupted, UserError, VidaptError

if TYPE_CHECKING:
    from vidapt.config import Recipe

# Everything heavy is imported inside the commands: --help must answer without torch.
app = typer.Typer(
    name="vidapt",
    help="Adapt panoptic segmentation to your own unlabelled videos, then segment them with stable object ids.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(compare)
app.add_typer(bench, name="bench")
app.add_typer(data, name="data")
app.add_typer(text, name="text")

DEBUG = "VIDAPT_DEBUG"

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="Recipe: a YAML file or a name such as 'demo'.")]
OptionalConfig = Annotated[
    str | None, typer.Argument(metavar="CONFIG", help="Recipe: a YAML file or a name such as 'demo'.")
]
Out = Annotated[Path | None, typer.Option(help="Folder to write; default: runs/<name of the recipe>.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change one value of the recipe; repeatable."),
]
Seed = Annotated[int | None, typer.Option(help="Training seed (training.seed); generated data keep their own.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")]
Weights = Annotated[
    Literal["student", "teacher"] | None, typer.Option(help="Which weights of a run; default: as its recipe says.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan (data, classes, memory, steps) and stop.")]
Cache = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keep scaled frames of published data sets here between runs.")
]
Resume = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Continue this run from its last checkpoint; needs no CONFIG.")
]


def main() -> None:
    """Run the command line; every outcome becomes an exit code and at most one line on stderr."""
    try:
        app()
    except Interrupted as outcome:
        _leave(str(outcome), outcome.exit_code)
    except VidaptError as error:
        _leave(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        _leave("interrupted", 130)
    except Exception as error:
        hint = "" if _debugging() else f" (run with {DEBUG}=1 for the traceback)"
        _leave(f"error: unexpected {type(error).__name__}: {error}{hint}", 1)


def _leave(line: str, code: int) -> NoReturn:
    if _debugging():
        traceback.print_exc()
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(code)


def _debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"vidapt {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help=f"Show tracebacks; the same as {DEBUG}=1.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Adapt panoptic segmentation to your own unlabelled videos, then segment them with stable object ids."""
    if debug:
        os.environ[DEBUG] = "1"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the training and of the generated worlds.")] = 0,
    device: Device = None,
) -> None:
    """Adapt on generated street video, evaluate, segment one video and write a report; needs no data."""
    from vidapt.jobs.demo import run_demo

    run_demo(out=out, seed=seed, device=device)


@app.command()
def train(
    config: OptionalConfig = None,
    out: Out = None,
    overrides: Overrides = None,
    seed: Seed = None,
    cache: Cache = None,
    resume: Resume = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Run a recipe as it stands: supervised, source-only, upper bound or adapting."""
    if resume is not None:
        given = {"CONFIG": config, "--out": out, "--set": overrides, "--seed": seed, "--dry-run": dry_run}
        _only_resume({**given, "--cache": cache})
        from vidapt.jobs.train import resume as resume_train

        resume_train(resume, device=device)
        return
    if config is None:
        raise UserError("train needs a recipe (vidapt train CONFIG) or a run to continue (vidapt train --resume DIR)")
    recipe = _with_cache(_load(config, overrides, seed), cache)
    from vidapt.jobs.train import train as run

    run(recipe, out=_folder(out, recipe), device=device, dry_run=dry_run)


@app.command()
def adapt(
    config: OptionalConfig = None,
    source: Annotated[Path | None, typer.Option(metavar="DIR", help="Labelled folder, instead of CONFIG.")] = None,
    target: Annotated[
        Path | None, typer.Option(metavar="VIDEOS", help="Your videos: a file or a folder, instead of CONFIG.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="classes.yaml; default: the one in the source folder.")
    ] = None,
    out: Out = None,
    overrides: Overrides = None,
    seed: Seed = None,
    cache: Cache = None,
    resume: Resume = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Adapt to unlabelled videos: with a recipe, or with your own data through --source and --target."""
    if resume is not None:
        own = {"--source": source, "--target": target, "--classes": classes}
        given = {"CONFIG": config, "--out": out, "--set": overrides, "--seed": seed, "--dry-run": dry_run}
        _only_resume({**own, **given, "--cache": cache})
        from vidapt.jobs.adapt import resume_adapt

        resume_adapt(resume, device=device)
        return
    recipe = _with_cache(_load_own(config, source, target, classes, overrides, seed), cache)
    if recipe.method is None:
        raise UserError(
            f"recipe {recipe.name!r} trains on labels only (method: null); run it with: vidapt train {config}"
        )
    from vidapt.jobs.adapt import adapt as run

    run(recipe, out=_folder(out, recipe), device=device, dry_run=dry_run)


@app.command()
def segment(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="A video, an image, a folder of images or a glob.")],
    checkpoint: Annotated[Path, typer.Option(metavar="RUN", help="Run folder, checkpoint folder or .safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    weights: Weights = None,
    start: Annotated[int | None, typer.Option(help="First frame.", min=0)] = None,
    stop: Annotated[int | None, typer.Option(help="Frame to stop before.", min=0)] = None,
    stride: Annotated[int, typer.Option(help="Take every n-th frame.", min=1)] = 1,
    device: Device = None,
    overlay: Annotated[bool, typer.Option(help="Write overlay.mp4.")] = True,
    backend: Annotated[Literal["pyav", "decord"], typer.Option(help="Decoder of video files.")] = "pyav",
) -> None:
    """Segment a video: a PNG per frame, panoptic.json, tracks.csv and overlay.mp4, with ids that stay."""
    from vidapt.jobs.segment import segment as run

    run(
        input,
        checkpoint=checkpoint,
        out=out,
        weights=weights,
        start=start,
        stop=stop,
        stride=stride,
        device=device,
        overlay=overlay,
        backend=backend,
    )


@app.command()
def evaluate(
    config: Config,
    checkpoint: Annotated[Path | None, typer.Option(metavar="RUN", help="Network to score.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Instead: segmentation folders, or panoptic PNG and JSON (the folder or file)."
        ),
    ] = None,
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the scores here too, as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the class table as CSV.")] = None,
    worst: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the frames that score worst and their errors, a PNG.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes that score predictions; default: one a core.", min=1)
    ] = None,
    overrides: Overrides = None,
    device: Device = None,
) -> None:
    """Score a network, or a folder of segmentations, on the recipe's evaluation videos."""
    if (checkpoint is None) == (predictions is None):
        raise UserError("evaluate scores one thing: give --checkpoint RUN or --predictions PATH, not both or neither")
    if checkpoint is not None and jobs is not None:
        raise UserError("--jobs is for --predictions; torchrun spreads the scoring of a checkpoint")
    if predictions is not None and (weights is not None or device is not None):
        raise UserError("--weights and --device are for --checkpoint; predictions need no network")
    recipe = _load(config, overrides, None)
    from vidapt.jobs.evaluate import evaluate as run
    from vidapt.jobs.scored_videos import is_generated
    from vidapt.jobs.table import print_scores

    title, generated = f"{recipe.name}: {checkpoint or predictions}", is_generated(recipe.evaluation)
    run(
        recipe,
        checkpoint=checkpoint,
        predictions=predictions,
        weights=weights,
        out=out,
        csv=csv,
        worst=worst,
        jobs=jobs,
        device=device,
        show=lambda scores: print_scores(scores.to_dict(), title, recipe.scoring.protocol, generated),
    )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished adaptation runs.")],
) -> None:
    """Print the scores of one or several runs as a table, mean and standard error over runs."""
    from vidapt.jobs.summary import summarise

    typer.echo(summarise(runs).markdown())


@app.command()
def doctor() -> None:
    """Show what this machine offers and what anything missing costs."""
    from rich.console import Console
    from rich.table import Table

    from vidapt.jobs.doctor import examine

    colours = {"ok": "green", "warn": "yellow", "missing": "red"}
    table = Table(title=f"vidapt {__version__}")
    for column in ("", "status", "found", "what it costs"):
        table.add_column(column, overflow="fold")
    for found in examine():
        table.add_row(found.name, f"[{colours[found.status]}]{found.status}[/]", found.detail, found.cost)
    Console().print(table)


def _load(config: str, overrides: list[str] | None, seed: int | None) -> Recipe:
    from vidapt.recipe import load_recipe

    return load_recipe(config, _all_overrides(overrides, seed))


def _with_cache(recipe: Recipe, cache: Path | None) -> Recipe:
    if cache is None:
        return recipe
    from vidapt.jobs.data import with_cache

    return with_cache(recipe, cache)


def _all_overrides(overrides: list[str] | None, seed: int | None) -> list[str]:
    return [*(overrides or ()), *(() if seed is None else (f"training.seed={seed}",))]


def _load_own(
    config: str | None,
    source: Path | None,
    target: Path | None,
    classes: Path | None,
    overrides: list[str] | None,
    seed: int | None,
) -> Recipe:
    """The recipe that ``adapt`` runs: a named one, or one made for the user's own folders."""
    own = source is not None or target is not None or classes is not None
    if config is not None and not own:
        return _load(config, overrides, seed)
    if config is not None or source is None or target is None:
        raise UserError(
            "adapt needs one of: a recipe (vidapt adapt CONFIG), your own data (--source LABELLED_DIR --target VIDEOS"
            " [--classes classes.yaml]), or a run to continue (--resume DIR)"
        )
    from vidapt.jobs.adapt import recipe_for
    from vidapt.recipe import override_recipe

    return override_recipe(recipe_for(source, target, classes), _all_overrides(overrides, seed))


def _folder(out: Path | None, recipe: Recipe) -> Path:
    """``--out``, or a folder below runs/ that the recipe's name gives."""
    return out or Path("runs") / (re.sub(r"[^\w.-]+", "_", recipe.name).strip("._") or "run")


def _only_resume(others: dict[str, object]) -> None:
    """Refuse options that would change a continued run: it has its own recipe."""
    given = [name for name, value in others.items() if value not in (None, []) and value is not False]
    if given:
        raise UserError(f"--resume continues a run with the recipe it was started with; drop {', '.join(given)}")


if __name__ == "__main__":
    main()
