"""The commands below ``vidapt data``: parse, call a job; everything heavy is imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vidapt.config import StoredData

data = typer.Typer(help="List, check, count, convert and look at published data sets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Data set, as 'vidapt data list' names it.")]
Root = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Its folder; default: NAME, here or below $VIDAPT_DATA.")
]
Split = Annotated[str | None, typer.Option(help="Split; default: the first one, usually train.")]
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the data set, such as beta=0.01.")
]
Jobs = Annotated[int | None, typer.Option(help="Processes; default: one a core.", min=1)]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything here too.")]
Labels = Annotated[
    str | None, typer.Option(help="Label space to map into, such as cityscapes; default: the data set's own.")
]


@data.command("list")
def list_command() -> None:
    """Show the supported data sets and benchmarks, and where their files are expected."""
    from vidapt.jobs.data_list import list_datasets

    list_datasets()


@data.command()
def check(
    name: Name, root: Root = None, split: Split = None, options: Options = None, jobs: Jobs = None, json: Json = None
) -> None:
    """Read every file once: counts against the official split, damaged files by name, class shares."""
    from vidapt.jobs.data_check import run_check

    run_check(_section(name, root, split, options), jobs=jobs, json=json)


@data.command()
def stats(
    name: Name,
    root: Root = None,
    split: Split = None,
    options: Options = None,
    labels: Labels = None,
    jobs: Jobs = None,
    json: Json = None,
) -> None:
    """Count pixels per class and frame, for rare class sampling; kept beside the data and checked by a hash."""
    from vidapt.jobs.data_stats import run_stats

    run_stats(_section(name, root, split, options), labels=labels, jobs=jobs, json=json)


@data.command()
def convert(
    name: Name,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for <split>/*.png and <split>.json.")],
    root: Root = None,
    split: Split = None,
    options: Options = None,
    labels: Labels = None,
    jobs: Jobs = None,
) -> None:
    """Write the labels as COCO panoptic PNG and JSON; run again, it goes on where it stopped."""
    from vidapt.jobs.data_convert import run_convert

    run_convert(_section(name, root, split, options), out=out, labels=labels, jobs=jobs)


@data.command()
def show(
    name: Name,
    out: Annotated[Path, typer.Option(metavar="FILE", help="PNG to write.")],
    root: Root = None,
    split: Split = None,
    options: Options = None,
    labels: Labels = None,
    samples: Annotated[int, typer.Option(help="Frames on the sheet.", min=1)] = 8,
) -> None:
    """Draw a contact sheet: frames with their classes and instances, and a legend."""
    from vidapt.jobs.data_show import run_show

    run_show(_section(name, root, split, options), out=out, labels=labels, samples=samples)


def _section(name: str, root: Path | None, split: str | None, options: list[str] | None) -> StoredData:
    from vidapt.jobs.data_open import section_for

    return section_for(name, root, split, options or ())
