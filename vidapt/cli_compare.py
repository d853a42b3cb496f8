"""``vidapt compare``: parse, call the job; everything heavy is imported inside."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from vidapt.errors import UserError


def compare(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="Suite: a YAML file or a name such as 'street_world'.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: runs/compare_<suite>.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The suite's quick form, with fewer steps.")] = False,
    jobs: Annotated[int, typer.Option(help="Cells at once, each in a process with one thread.", min=1)] = 1,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")] = None,
    comparisons: Annotated[
        str, typer.Option("--comparisons", metavar="A,B", help="Only these comparisons of the suite.")
    ] = "",
    recipes: Annotated[str, typer.Option("--recipes", metavar="A,B", help="Only these recipes.")] = "",
    seeds: Annotated[str, typer.Option("--seeds", metavar="0,1", help="These seeds instead of the suite's.")] = "",
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", metavar="NAME|KEY=V1,V2", help="Run a sweep of the suite, or one key; repeatable."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change one value of all recipes; repeatable."),
    ] = None,
    first_world: Annotated[
        int, typer.Option("--first-world", help="Added to the seeds of generated worlds; 100 for a tuning run.", min=0)
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and stop.")] = False,
    keep_runs: Annotated[bool, typer.Option("--keep-runs", help="Keep checkpoints of finished cells.")] = False,
) -> None:
    """Train the recipes of a suite side by side, from one start, into one report; run again, it goes on."""
    from vidapt.jobs.compare import compare as run
    from vidapt.jobs.compare_plan import Choice

    choice = Choice(
        comparisons=_names(comparisons),
        recipes=_names(recipes),
        seeds=_numbers(seeds),
        overrides=tuple(overrides or ()),
        sweeps=tuple(sweep or ()),
        first_world=first_world,
    )
    folder = out or Path("runs") / f"compare_{Path(suite).stem}{'_quick' if quick else ''}"
    run(
        suite,
        out=folder,
        choice=choice,
        quick=quick,
        jobs=jobs,
        device=device,
        dry_run=dry_run,
        keep_runs=keep_runs,
        command=shlex.join(["vidapt", *sys.argv[1:]]),
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    numbers = _names(text)
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f"--seeds {text!r}: write whole numbers from 0, such as 0,1,2")
    return tuple(dict.fromkeys(map(int, numbers)))
