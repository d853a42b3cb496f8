"""The sections of a suite: which recipes are compared on which benchmarks, and what they all have in common.

A suite is YAML like a recipe (strict, with ``extends``). Settings are parts of recipes; where several name a key the
later in this order wins: the benchmark, ``defaults``, the recipe, ``settings``, those of the comparison, ``adaptation``
and ``parts``, ``changes``, and last the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import Field, model_validator

from vidapt.config_data import Count, Positive, Section
from vidapt.config_method import MethodConfig

Settings = dict[str, Any]

PARTS = tuple(name for name, field in MethodConfig.model_fields.items() if field.default is None)
"""Parts of ``method`` that a recipe may leave out."""


class StartConfig(Section):
    """The checkpoint that all recipes of a seed start from, trained once for each seed and source."""

    recipe: str = "methods/source_only"
    settings: Settings = Field(default_factory=dict, description="Merged over everything else, for this run alone.")


class ComparisonConfig(Section):
    """Recipes on one benchmark: one table of the report."""

    benchmark: str
    name: str = Field("", pattern=r"^[\w.]*$", description="Names its cells; empty takes the name of the benchmark.")
    recipes: tuple[str, ...] = Field(min_length=1, description="Names below methods/, or recipes by path or name.")
    seeds: tuple[Count, ...] = Field((0,), min_length=1)
    settings: Settings = Field(default_factory=dict)
    at: float | None = Field(None, description="Place on the suite's axis, where comparisons differ by a number.")

    @property
    def title(self) -> str:
        """What its cells and tables are called."""
        return self.name or Path(self.benchmark).stem


class SweepConfig(Section):
    """One key of one or several recipes set to each of some values; run by ``--sweep NAME``."""

    key: str
    values: tuple[Any, ...] = Field(min_length=1)
    recipes: tuple[str, ...] = Field(min_length=1)
    comparison: str | None = Field(None, description="null is the first comparison of the suite.")
    seeds: tuple[Count, ...] | None = Field(None, min_length=1, description="null takes those of the comparison.")


class TuningConfig(Section):
    """How the hyper-parameters were chosen; printed in the report."""

    note: str = ""
    runs: dict[str, Count] = Field(default_factory=dict, description="Tuning runs by recipe.")


class Suite(Section):
    """A fair comparison: the same network, data, steps and seeds for every recipe."""

    title: str
    start: StartConfig = StartConfig()
    defaults: Settings = Field(default_factory=dict, description="Merged over the benchmark and under the recipe.")
    settings: Settings = Field(default_factory=dict, description="Merged over every recipe.")
    adaptation: Settings = Field(
        default_factory=dict, description="Merged into 'method' of recipes that have one; null switches a part off."
    )
    parts: dict[str, Settings] = Field(
        default_factory=dict, description="Merged into a part of 'method' in those recipes that use the part."
    )
    changes: dict[str, Settings] = Field(default_factory=dict, description="Settings of single recipes.")
    frames_per_step: Positive | None = Field(
        None, description="training.batch becomes this number over training.clip_length; null leaves it."
    )
    comparisons: tuple[ComparisonConfig, ...] = Field(min_length=1)
    axis: str = Field("", description="What the 'at' of the comparisons is; the report draws gains against it.")
    tuning: TuningConfig = TuningConfig()
    sweeps: dict[str, SweepConfig] | None = Field(None, description="null drops those of the suite that is extended.")
    quick: Settings | None = Field(None, description="Keys of a suite that --quick merges over the others.")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Suite:
        lists = [("comparisons", [one.title for one in self.comparisons])]
        for one in self.comparisons:
            names = [recipe_title(recipe) for recipe in one.recipes]
            lists += [(f"recipes of {one.title}", names), (f"seeds of {one.title}", list(map(str, one.seeds)))]
        for what, names in lists:
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what}: {twice[0]!r} stands twice; give each its own name")
        return self

    @model_validator(mode="after")
    def _parts_are_parts(self) -> Suite:
        for name, settings in self.parts.items():
            if name not in PARTS:
                raise ValueError(f"parts: {name!r} is no part of a method; allowed: {', '.join(PARTS)}")
            unknown = sorted(settings.keys() - part_keys(name))
            if unknown:
                raise ValueError(f"parts.{name}: unknown key {unknown[0]!r}; allowed: {', '.join(part_keys(name))}")
        added = [name for name in PARTS if self.adaptation.get(name) is not None]
        if added:
            raise ValueError(
                f"adaptation would give {added[0]} to every method; parts.{added[0]} changes it where a recipe uses it"
            )
        return self

    @model_validator(mode="after")
    def _sweeps_find_their_comparison(self) -> Suite:
        titles = [one.title for one in self.comparisons]
        for name, sweep in (self.sweeps or {}).items():
            if sweep.comparison not in (None, *titles):
                raise ValueError(f"sweeps.{name}: no comparison {sweep.comparison!r}; allowed: {', '.join(titles)}")
        return self

    @model_validator(mode="after")
    def _places_are_on_an_axis(self) -> Suite:
        places = [one.at is not None for one in self.comparisons]
        if any(places) and not (all(places) and self.axis):
            raise ValueError("a place 'at' on the axis needs a suite with an 'axis' and a place for every comparison")
        return self


def part_keys(name: str) -> list[str]:
    """Keys of a part of ``method``."""
    sections = [kind for kind in get_args(MethodConfig.model_fields[name].annotation) if issubclass(kind, Section)]
    return list(sections[0].model_fields)


def recipe_title(recipe: str) -> str:
    """What a recipe is called in cells and tables: ``methods/edaps`` and ``my/edaps.yaml`` are edaps."""
    return Path(recipe).name.removesuffix(".yaml")
