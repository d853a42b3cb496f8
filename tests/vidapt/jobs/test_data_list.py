"""``vidapt data list``: every data set and every benchmark is there, with what a user needs to place the files."""

import subprocess
import sys
from pathlib import Path

import pytest

from vidapt.config import StoredData
from vidapt.datasets.catalogue import CLASSES, find_dataset
from vidapt.datasets.stored import DatasetCard, StoredDataset
from vidapt.errors import InputError
from vidapt.jobs.data_list import cards, list_datasets, splits_text
from vidapt.jobs.data_open import section_for
from vidapt.recipe import load_recipe, recipe_names

ROOT = Path(__file__).parents[3]


def test_splits_are_told_with_their_official_counts() -> None:
    card = DatasetCard(
        "toy", "Toy", "semantic", False, {"train": 12, "val": None, "test": 0}, "*.png", "none", "here",
        "checked on real files",
    )  # fmt: skip
    assert splits_text(card) == "train 12, val, test 0"


@pytest.mark.parametrize("name", list(CLASSES))
def test_every_entry_of_the_catalogue_is_a_described_data_set(name: str) -> None:
    kind = find_dataset(name)
    card = kind.card
    assert issubclass(kind, StoredDataset)
    assert card.name == name
    assert card.splits
    assert all(count is None or count > 0 for count in card.splits.values())
    assert all((card.title, card.layout, card.licence, card.home.startswith("http")))
    assert card.video or card.labels != "panoptic video"


@pytest.mark.parametrize("name", list(CLASSES))
def test_every_entry_has_a_section_whose_options_it_takes(name: str, tmp_path: Path) -> None:
    """Opening the empty folder fails for want of files, not because of an option."""
    section = section_for(name, tmp_path, None)
    assert isinstance(section, StoredData)
    assert section.kind == name
    with pytest.raises(InputError):
        find_dataset(name)(tmp_path, section.split, **section.own_options())


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no data set 'nuscenes'; allowed: cityscapes, cityscapes_sequence, "):
        find_dataset("nuscenes")


def test_everything_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    list_datasets()
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    for card in cards():
        assert any(line.startswith(f"{card.name}: {card.title}") and line.endswith(card.checked) for line in lines)
        assert {f"  {line}" for line in (splits_text(card), *card.layout.splitlines())} <= set(lines)
    for name in recipe_names():
        if name.startswith("benchmarks/"):
            protocol = load_recipe(name).scoring.protocol
            assert sum(line.startswith(f"  {name}: {protocol}") for line in lines) == 1
    assert "VIDAPT_DATA" in printed


def test_listing_loads_no_network() -> None:
    code = (
        "import sys; from vidapt.jobs.data_list import list_datasets; list_datasets(); "
        "sys.exit(str([name for name in ('timm', 'accelerate', 'vidapt.models') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == "[]\n"
