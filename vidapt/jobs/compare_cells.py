"""The cells of a comparison: one recipe, one benchmark, one seed; and the small file that a finished one leaves."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vidapt.config import Recipe
from vidapt.errors import InputError
from vidapt.jobs.files import write_json

START = "start"
"""Stands for the shared start where a recipe's name is wanted."""

FORMAT = 1

_NO_EFFECT = ("log_every", "checkpoint_every", "keep", "workers", "initial")
"""Keys of ``training`` that do not change what is learned; ``initial`` is told by the start."""


@dataclass(frozen=True)
class Start:
    """The shared start of a seed: ``recipe`` without anything of the target."""

    seed: int
    recipe: Recipe

    @cached_property
    def digest(self) -> str:
        """Names all that decides its weights."""
        return recipe_digest(self.recipe, "")

    @property
    def key(self) -> str:
        """Name of its files."""
        return f"{START}-{self.digest[:8]}-{self.seed}"


@dataclass(frozen=True)
class Cell:
    """One recipe on one benchmark with one seed.

    Attributes:
        comparison: Name of the comparison.
        name: Name of the recipe, or ``START``: the shared start itself, scored without further training.
        seed: The seed.
        recipe: What is trained and scored.
        start: What it starts from.
        sweep: Key and value that differ from the suite, or None.
    """

    comparison: str
    name: str
    seed: int
    recipe: Recipe
    start: Start
    sweep: tuple[str, Any] | None = None

    @cached_property
    def digest(self) -> str:
        """Names all that decides its scores; cells with equal digests are one training."""
        return recipe_digest(self.recipe, self.start.digest + (START if self.name == START else ""))

    @property
    def key(self) -> str:
        """Name of its files."""
        swept = "" if self.sweep is None else f"-{self.sweep[0]}={sweep_text(self.sweep[1])}"
        return re.sub(r"[^\w.=-]+", "_", f"{self.comparison}-{self.name}{swept}-{self.seed}")


def recipe_digest(recipe: Recipe, start: str) -> str:
    """16 hexadecimal digits that change with everything in a recipe but its name and how it is logged and saved."""
    data = recipe.model_dump(mode="json")
    del data["name"]
    data["training"] = {key: value for key, value in data["training"].items() if key not in _NO_EFFECT}
    return hashlib.sha256(json.dumps([data, start], sort_keys=True).encode()).hexdigest()[:16]


def sweep_text(value: Any) -> str:
    """A value as it is written in a table."""
    return value if isinstance(value, str) else json.dumps(value)


def cell_path(out: Path, key: str) -> Path:
    """The file that a finished cell or start leaves."""
    return out / "cells" / f"{key}.json"


def read_cell(path: Path) -> dict[str, Any]:
    """Read the file of a finished cell.

    Raises:
        InputError: If it is damaged.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        missing = [name for name in ("format", "digest", "comparison", "recipe", "seed", "scores") if name not in data]
        reason = f"no {missing[0]}" if missing else ""
    except (OSError, ValueError, TypeError) as error:
        reason = type(error).__name__
    if reason or data["format"] != FORMAT:
        raise InputError(
            f"{path} is damaged or of another version ({reason or data['format']}); delete it to run it again"
        )
    return data


def read_cells(out: Path) -> dict[str, dict[str, Any]]:
    """All finished cells and starts of a comparison by key.

    Their digests are those of today: a setting that came after a cell was written has its default there, so that adding
    one to the schema makes no result stale.
    """
    found = {path.stem: read_cell(path) for path in sorted((out / "cells").glob("*.json"))}
    return {key: {**data, "digest": _digest_today(data, found)} for key, data in found.items()}


def _digest_today(data: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> str:
    """The digest of the recipe that a file holds, or the one it was written with where that cannot be told."""
    try:
        recipe = Recipe.model_validate(data["config"])
        if "start" not in data:
            return recipe_digest(recipe, "")
        start = recipe_digest(Recipe.model_validate(found[data["start"]]["config"]), "")
    except (KeyError, ValidationError):
        return str(data["digest"])
    return recipe_digest(recipe, start + (START if data["recipe"] == START else ""))


def fits(data: Mapping[str, Any] | None, digest: str) -> bool:
    """Whether the file of a cell is there and was written for the recipe that has this digest."""
    return data is not None and bool(data["digest"] == digest)


def write_copy(out: Path, cell: Cell, owner: Mapping[str, Any]) -> None:
    """Write a cell that is the same training as one that is finished."""
    write_json(cell_path(out, cell.key), {**owner, **cell_head(cell), "same_as": owner.get("same_as") or owner["key"]})


def cell_head(cell: Cell) -> dict[str, Any]:
    """What the file of a cell says about which one it is."""
    sweep = None if cell.sweep is None else {"key": cell.sweep[0], "value": cell.sweep[1]}
    return {
        "format": FORMAT,
        "key": cell.key,
        "comparison": cell.comparison,
        "recipe": cell.name,
        "seed": cell.seed,
        "sweep": sweep,
        "digest": cell.digest,
        "same_as": None,
        "start": cell.start.key,
    }
