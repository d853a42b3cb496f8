"""Reading suites, and the recipe that a suite makes of each benchmark, method, seed and change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from vidapt.config import InferenceConfig, Recipe
from vidapt.config_suite import PARTS, ComparisonConfig, Suite, recipe_title
from vidapt.errors import ConfigError
from vidapt.recipe import build_recipe, check, merge, read_layers, recipe_names, set_values

NOT_FOR_STARTS = ("training", "method")
"""Sections whose ``--set`` values leave the shared start alone."""


def suite_names() -> list[str]:
    """Names of the shipped suites."""
    folder = Path(str(files("vidapt.configs"))) / "suites"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_suite(suite: str, *, quick: bool = False) -> Suite:
    """Read a suite.

    Args:
        suite: A path to a YAML file, or the name of a shipped suite.
        quick: Merge its ``quick`` section over the rest.

    Raises:
        ConfigError: If there is none, it does not fit the schema, or it has no quick form.
    """
    if not Path(suite).is_file() and suite not in suite_names():
        raise ConfigError(f"no suite {suite!r}: it is neither a file nor one of {', '.join(suite_names())}")
    data = read_layers(suite if Path(suite).is_file() else f"suites/{suite}")
    full = check(Suite, data, suite)
    _refuse_unknown(full, suite)
    if not quick:
        return full
    if full.quick is None:
        raise ConfigError(f"suite {suite} has no 'quick' section; run it without --quick")
    return check(Suite, merge(data, full.quick), f"{suite} --quick")


def _refuse_unknown(suite: Suite, origin: str) -> None:
    """Refuse settings of recipes that are neither compared nor shipped: their names are wrong."""
    known = {recipe_title(recipe) for one in suite.comparisons for recipe in one.recipes}
    known |= {recipe_title(name) for name in recipe_names() if name.startswith("methods/")}
    for name in (*suite.changes, *suite.tuning.runs):
        if name not in known:
            allowed = ", ".join(sorted(known))
            raise ConfigError(f"{origin}: {name!r} is no recipe; allowed: {allowed}")


def method_recipe(suite: Suite, comparison: ComparisonConfig, recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of one cell, before it gets its seed.

    Args:
        suite: What all recipes have in common.
        comparison: The benchmark.
        recipe: One of its recipes.
        overrides: ``key.path=value`` texts. What lies below ``method`` concerns recipes that have a method, and what
            lies below a part those that use the part.

    Raises:
        ConfigError: If the result is no recipe.
    """
    title, origin = recipe_title(recipe), f"{recipe_title(recipe)} on {comparison.title}"
    data = merge(_benchmark(suite, comparison), read_layers(_path(recipe)))
    data = merge(merge(data, suite.settings), comparison.settings)
    if data.get("method") is not None:
        data["method"] = _with_parts(merge(data["method"], suite.adaptation), suite.parts)
    data = merge(data, suite.changes.get(title, {}))
    chosen = [text for text in overrides if applies(data, text)]
    data = _with_batch(set_values(data, chosen), suite, chosen, origin)
    return _without_idle(build_recipe(data | {"name": title}, origin))


def start_recipe(suite: Suite, comparison: ComparisonConfig, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of the shared start, before it gets its seed.

    Of ``overrides`` those below ``training`` and ``method`` do not count.

    Raises:
        ConfigError: If the result is no recipe, or one that adapts.
    """
    data = merge(_benchmark(suite, comparison), read_layers(_path(suite.start.recipe)))
    data = merge(merge(merge(data, suite.settings), comparison.settings), suite.start.settings)
    data = set_values(data, [text for text in overrides if _key(text)[0] not in NOT_FOR_STARTS])
    recipe = build_recipe(data | {"name": "start"}, f"start of {comparison.title}")
    if recipe.method is not None or recipe.train_on != "source":
        raise ConfigError(f"start.recipe {suite.start.recipe!r} must train on source labels alone (method: null)")
    return _without_idle(recipe)


def applies(data: Mapping[str, Any], override: str) -> bool:
    """Whether a ``key.path=value`` text concerns a recipe: values below a part only do where it is used."""
    key = _key(override)
    if key[0] != "method" or len(key) == 1:
        return True
    method = data.get("method")
    return method is not None and (key[1] not in PARTS or len(key) == 2 or method.get(key[1]) is not None)


def _key(override: str) -> list[str]:
    return override.partition("=")[0].strip().split(".")


def _path(recipe: str) -> str:
    """A path or shipped name; names without a folder are those of methods."""
    return f"methods/{recipe}" if f"methods/{recipe}" in recipe_names() else recipe


def _benchmark(suite: Suite, comparison: ComparisonConfig) -> dict[str, Any]:
    return merge(read_layers(comparison.benchmark), suite.defaults)


def _with_parts(method: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    used = {name: settings for name, settings in parts.items() if method.get(name) is not None}
    return merge(method, used)


def _with_batch(data: dict[str, Any], suite: Suite, overrides: Sequence[str], origin: str) -> dict[str, Any]:
    """Let the students of image and video recipes see equally many frames a step, unless the batch was set by hand."""
    frames = suite.frames_per_step
    if frames is None or any(_key(text) == ["training", "batch"] for text in overrides):
        return data
    recipe = build_recipe(data, origin)
    length = recipe.training.clip_length
    if recipe.method is not None and recipe.method.student == "frames":
        length = 1
    if frames % length:
        raise ConfigError(f"{origin}: clips of {length} frames do not divide frames_per_step, which is {frames}")
    return merge(data, {"training": {"batch": frames // length}})


def _without_idle(recipe: Recipe) -> Recipe:
    """Drop what has no effect, so that recipes which do the same are the same."""
    changes: dict[str, Any] = {"warm_start": None}
    if recipe.method is None:
        student: InferenceConfig = recipe.inference.model_copy(update={"weights": "student"})
        changes |= {"target": None, "inference": student}
    if recipe.train_on == "source":
        changes["upper_bound"] = None
    return recipe.model_copy(update=changes)
