"""Opening a data set by its name, as the ``vidapt data`` commands do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidapt.config import StoredData
from vidapt.datasets.catalogue import find_dataset
from vidapt.datasets.stored import StoredDataset
from vidapt.errors import ConfigError
from vidapt.jobs.data import build_stored
from vidapt.recipe import load_section


def section_for(name: str, root: Path | None, split: str | None, overrides: Sequence[str] = ()) -> StoredData:
    """The data section that describes a data set on disk.

    Args:
        name: Name in the catalogue.
        root: Its folder; None takes the folder of its name, here or below VIDAPT_DATA.
        split: Split; None takes the first.
        overrides: Options as ``key=value`` texts, such as ``beta=0.01``.

    Raises:
        UserError: If there is no such data set or option.
    """
    card = find_dataset(name).card
    data = {"kind": name, "root": str(root or name), "split": split or next(iter(card.splits))}
    section = load_section(data, overrides, f"data set {name}")
    if not isinstance(section, StoredData) or section.kind != name:
        raise ConfigError(f"--set kind={section.kind}: the data set is {name}; give the other name instead of {name}")
    return section


def open_named(section: StoredData) -> StoredDataset:
    """Open the data set of a section, with its labels where the split has some."""
    bare = build_stored(section, labelled=False)
    return build_stored(section) if bare.split_has_labels else bare
