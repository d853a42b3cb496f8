"""``vidapt data list``: the data sets and benchmarks, and where their files are expected."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidapt.datasets.catalogue import CLASSES, find_dataset
from vidapt.datasets.stored import DatasetCard
from vidapt.jobs.plan import describe, describe_all
from vidapt.recipe import load_recipe, recipe_names


def cards() -> list[DatasetCard]:
    """The descriptions of all published data sets, in the order of the catalogue."""
    return [find_dataset(name).card for name in CLASSES]


def splits_text(card: DatasetCard) -> str:
    """The splits of a data set with their official numbers of key frames."""
    return ", ".join(f"{name} {count}" if count is not None else name for name, count in card.splits.items())


def list_datasets() -> None:
    """Print a table of the data sets, one of the benchmarks, and how the folders are found."""
    console = Console()
    table = Table("name", "labels", "splits", "files below the root", "reader", title="data sets", title_justify="left")
    for card in cards():
        table.add_row(card.name, card.labels, splits_text(card), Text(card.layout), card.checked)
    console.print(table)
    benchmarks = Table("recipe", "source", "target", "protocol", title="benchmarks", title_justify="left")
    for name in (name for name in recipe_names() if name.startswith("benchmarks/")):
        recipe = load_recipe(name)
        row = (name, describe_all(recipe.source), describe(recipe.target), recipe.scoring.protocol)
        benchmarks.add_row(*map(Text, row))
    console.print(benchmarks)
    console.print(
        "A root that a recipe names is looked up in the working folder, then below the folder that VIDAPT_DATA names. "
        "camvid, labelled_folder and videos: docs/data.md. Licences: docs/datasets.md.",
        highlight=False,
    )
