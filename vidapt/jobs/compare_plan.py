"""Planning a comparison: the cells that a suite and a choice from it ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidapt.config import EvaluationConfig, Recipe
from vidapt.config_suite import ComparisonConfig, Suite, SweepConfig, recipe_title
from vidapt.errors import ConfigError
from vidapt.jobs.compare_cells import START, Cell, Start
from vidapt.jobs.worlds import seeded
from vidapt.recipe import parse_yaml
from vidapt.suite import applies, method_recipe, start_recipe

TUNING_WORLDS = 100
"""Generated worlds from this seed up are for choosing hyper-parameters, those below for reported results."""

_NOT_SCORED = {"evaluation": None, "scoring": EvaluationConfig()}
"""A start is shared by benchmarks that are scored on other videos."""


@dataclass(frozen=True)
class Choice:
    """What of a suite is wanted.

    Attributes:
        comparisons: Names of comparisons; empty for all.
        recipes: Names of recipes; empty for all.
        seeds: Seeds; empty for those of the suite.
        overrides: ``key.path=value`` texts for all recipes.
        sweeps: Names of the suite's sweeps, or ``key.path=v1,v2`` texts; where there are some, only they run.
        first_world: Added to the seeds of generated worlds.
    """

    comparisons: Sequence[str] = ()
    recipes: Sequence[str] = ()
    seeds: Sequence[int] = ()
    overrides: Sequence[str] = ()
    sweeps: Sequence[str] = ()
    first_world: int = 0


def plan_cells(suite: Suite, choice: Choice) -> list[Cell]:
    """The cells that a choice wants, seed by seed.

    Raises:
        ConfigError: If a name is not in the suite, or a recipe does not fit.
    """
    _refuse_reserved(suite, choice)
    if choice.sweeps:
        cells = [cell for text in choice.sweeps for cell in _sweep_cells(suite, choice, text)]
    else:
        cells = [cell for one in _comparisons(suite, choice) for cell in _comparison_cells(suite, one, choice)]
    return sorted({cell.key: cell for cell in cells}.values(), key=lambda cell: cell.seed)


def _refuse_reserved(suite: Suite, choice: Choice) -> None:
    seeds = choice.seeds or [seed for one in _comparisons(suite, choice) for seed in one.seeds]
    if choice.first_world < TUNING_WORLDS <= choice.first_world + 10 * max(seeds) + 3:
        raise ConfigError(
            f"seed {max(seeds)} would draw worlds from {TUNING_WORLDS} up, which are for choosing hyper-parameters; "
            f"use seeds below 10, or --first-world {TUNING_WORLDS} for a tuning run"
        )


def _comparisons(suite: Suite, choice: Choice) -> list[ComparisonConfig]:
    titles = [one.title for one in suite.comparisons]
    _refuse_foreign("comparison", choice.comparisons, titles)
    return [one for one in suite.comparisons if not choice.comparisons or one.title in choice.comparisons]


def _comparison_cells(suite: Suite, comparison: ComparisonConfig, choice: Choice) -> list[Cell]:
    known = {recipe_title(recipe) for one in suite.comparisons for recipe in one.recipes}
    _refuse_foreign("recipe", choice.recipes, sorted(known))
    wanted = [one for one in comparison.recipes if not choice.recipes or recipe_title(one) in choice.recipes]
    if not wanted:
        return []
    start = start_recipe(suite, comparison, choice.overrides)
    recipes = [start, *(method_recipe(suite, comparison, one, choice.overrides) for one in wanted)]
    seeds = choice.seeds or comparison.seeds
    return [_cell(comparison, recipe, start, seed, choice) for seed in seeds for recipe in recipes]


def _refuse_foreign(what: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            raise ConfigError(f"the suite has no {what} {name!r}; allowed: {', '.join(allowed)}")


def _cell(
    comparison: ComparisonConfig,
    recipe: Recipe,
    start: Recipe,
    seed: int,
    choice: Choice,
    sweep: tuple[str, Any] | None = None,
) -> Cell:
    """Give a recipe and what it starts from a seed; the start itself is a cell where it is the recipe."""
    first = seeded(start, seed, choice.first_world).model_copy(update=_NOT_SCORED)
    name = START if recipe is start else recipe.name
    return Cell(comparison.title, name, seed, seeded(recipe, seed, choice.first_world), Start(seed, first), sweep)


def _swept(
    suite: Suite, comparison: ComparisonConfig, recipe: str, choice: Choice, sweep: tuple[str, Any]
) -> tuple[Recipe, Recipe]:
    """A recipe with one value changed, and what it starts from."""
    overrides = (*choice.overrides, f"{sweep[0]}={json.dumps(sweep[1])}")
    return method_recipe(suite, comparison, recipe, overrides), start_recipe(suite, comparison, overrides)


def sweep_cell(suite: Suite, choice: Choice, data: Mapping[str, Any]) -> Cell | None:
    """The cell that would write ``data``, the file of a sweep's cell; None if the suite has no such recipe any more."""
    comparison = next((one for one in suite.comparisons if one.title == data["comparison"]), None)
    recipes = [] if comparison is None else [one for one in comparison.recipes if recipe_title(one) == data["recipe"]]
    if comparison is None or not recipes:
        return None
    sweep = data["sweep"]["key"], data["sweep"]["value"]
    return _cell(comparison, *_swept(suite, comparison, recipes[0], choice, sweep), data["seed"], choice, sweep)


def _sweep_cells(suite: Suite, choice: Choice, text: str) -> list[Cell]:
    sweep = (suite.sweeps or {}).get(text) or _parse_sweep(suite, choice, text)
    title = choice.comparisons[0] if choice.comparisons else sweep.comparison or suite.comparisons[0].title
    comparison = next(one for one in suite.comparisons if one.title == title)
    names = {recipe_title(recipe): recipe for recipe in comparison.recipes}
    wanted = choice.recipes or [recipe_title(recipe) for recipe in sweep.recipes]
    _refuse_foreign("recipe", wanted, sorted(names))
    for name in wanted:
        plain = method_recipe(suite, comparison, names[name], choice.overrides).model_dump(mode="json")
        if not applies(plain, f"{sweep.key}="):
            raise ConfigError(f"sweep {text}: {sweep.key} has no effect on {name}, which does not use that part")
    changed = [
        ((sweep.key, value), _swept(suite, comparison, names[name], choice, (sweep.key, value)))
        for name in wanted
        for value in sweep.values
    ]
    seeds = choice.seeds or sweep.seeds or comparison.seeds
    return [_cell(comparison, *pair, seed, choice, one) for seed in seeds for one, pair in changed]


def _parse_sweep(suite: Suite, choice: Choice, text: str) -> SweepConfig:
    """A sweep given as ``key.path=v1,v2``; values are YAML."""
    key, equals, values = text.partition("=")
    parsed = parse_yaml(f"[{values}]", f"--sweep {key}") if equals else []
    if not key.strip() or not parsed:
        named = f" or one of {', '.join(suite.sweeps)}" if suite.sweeps else ""
        raise ConfigError(f"--sweep {text!r}: write key.path=v1,v2{named}")
    if not choice.recipes:
        raise ConfigError(f"--sweep {text}: name the recipes that it changes with --recipes")
    return SweepConfig(key=key.strip(), values=tuple(parsed), recipes=tuple(choice.recipes))
