"""``vidapt data list``: the data sets and benchmarks, and where their files are expected."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from vidapt.datasets.catalogue import CLASSES, find_dataset
from vidapt.datasets.stored import DatasetCard
from vidapt.jobs.describe import describe, describe_all
from vidapt.recipe import load_recipe, recipe_names


def cards() -> list[DatasetCard]:
    """The descriptions of all published data sets, in the order of the catalogue."""
    return [find_dataset(name).card for name in CLASSES]


def splits_text(card: DatasetCard) -> str:
    """The splits of a data set with their official numbers of key frames."""
    return ", ".join(f"{name} {count}" if count is not None else name for name, count in card.splits.items())


def list_datasets() -> None:
    """Print the data sets with their layouts, the benchmarks, and how the folders are found."""
    console = Console(soft_wrap=True, highlight=False)
    for card in cards():
        console.print(Text.assemble((card.name, "bold"), f": {card.title}, {card.labels}, {card.checked}"))
        console.print(Text(f"  {splits_text(card)}"))
        console.print(Text("".join(f"  {line}\n" for line in card.layout.splitlines())))
    console.print(Text("benchmarks, to be joined with a method as in benchmarks/NAME+methods/vidapt", "bold"))
    for name in (name for name in recipe_names() if name.startswith("benchmarks/")):
        recipe = load_recipe(name)
        route = f"{describe_all(recipe.source)} to {describe(recipe.target)}"
        console.print(Text(f"  {name}: {recipe.scoring.protocol or route}"))
    console.print(
        "\nA root that a recipe names is looked up here, then below the folder that VIDAPT_DATA names.\n"
        "camvid, labelled_folder and videos: docs/data.md. Classes, what is ignored, licences: docs/datasets.md.",
    )
