"""Suites: strict YAML, and what a suite makes of each recipe."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.vidapt.jobs.tiny_suite import write_suite
from vidapt.config import Recipe
from vidapt.config_suite import PARTS
from vidapt.errors import ConfigError
from vidapt.jobs.compare_plan import Choice, plan_cells
from vidapt.recipe import load_recipe, recipe_names
from vidapt.suite import load_suite, method_recipe, start_recipe, suite_names


def resolved(folder: Path, recipe: str = "dacs", overrides: tuple[str, ...] = (), **changes: Any) -> Recipe:
    """The recipe that a tiny suite makes of a method."""
    suite = load_suite(str(write_suite(folder, **changes)))
    return method_recipe(suite, suite.comparisons[0], recipe, overrides)


def write_recipe(folder: Path, name: str, **data: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(data))
    return str(folder / f"{name}.yaml")


# --- shipped suites


def test_suites_are_no_recipes() -> None:
    assert suite_names() == ["camvid", "gap", "street_world", "street_world_gpu"]
    assert not [name for name in recipe_names() if "suite" in name]


FORMS = [
    (name, quick)
    for name in suite_names()
    for quick in (False, True)
    if not quick or load_suite(name).quick is not None
]
"""Shipped suites, whole and in their quick form if they have one."""


def frames_seen(recipe: Recipe) -> int:
    """Frames of each domain that the student sees in a step."""
    single = recipe.method is not None and recipe.method.student == "frames"
    return recipe.training.batch * (1 if single else recipe.training.clip_length)


@pytest.mark.parametrize(("name", "quick"), FORMS)
def test_every_cell_of_a_shipped_suite_is_a_recipe_with_the_same_network_steps_and_frames(
    name: str, quick: bool
) -> None:
    cells = plan_cells(load_suite(name, quick=quick), Choice())
    trained = [cell.recipe for cell in cells if cell.name != "start"]
    assert trained
    for recipe in trained:
        first = trained[0]
        assert (recipe.model.encoder, recipe.model.semantic) == (first.model.encoder, first.model.semantic)
        assert recipe.model.instance == first.model.instance
        assert recipe.training.steps == first.training.steps
        assert frames_seen(recipe) == 4
        assert (recipe.training.lr, recipe.training.crop) == (first.training.lr, first.training.crop)
        assert (recipe.inference.height, recipe.tracking) == (first.inference.height, first.tracking)
        assert recipe.method is None or recipe.method.feature_distance is None
        assert recipe.evaluation is not None
    assert len({cell.start.key for cell in cells}) == len({cell.seed for cell in cells})


def test_the_suite_street_world_has_the_cells_that_it_promises() -> None:
    cells = [cell for cell in plan_cells(load_suite("street_world"), Choice()) if cell.name != "start"]
    count = {
        title: [cell for cell in cells if cell.comparison == f"street_world_{title}"] for title in ("fog", "night")
    }
    assert (len(cells), len(count["fog"]), len(count["night"])) == (64, 36, 14)
    assert {cell.recipe.evaluation.style for cell in count["night"]} == {"night"}  # type: ignore[union-attr]
    lengths = {cell.name: cell.recipe.training.clip_length for cell in count["fog"]}
    assert {name: length for name, length in lengths.items() if length > 1} == {"pipapp_video": 2, "vidapt": 3}


@pytest.mark.parametrize("sweep", ["imix_threshold", "cda_place", "prompt_sets", "temporal_interval"])
def test_a_shipped_sweep_changes_its_key(sweep: str) -> None:
    suite = load_suite("street_world")
    cells = plan_cells(suite, Choice(sweeps=(sweep,), seeds=(0,), first_world=100))
    config = (suite.sweeps or {})[sweep]
    assert [cell.sweep for cell in cells] == [(config.key, value) for _ in config.recipes for value in config.values]
    assert len({cell.digest for cell in cells}) == len(cells)


# --- what is merged, and in which order


def test_settings_win_over_the_recipe_and_the_comparison_over_the_suite(tmp_path: Path) -> None:
    method = load_recipe("methods/dacs", ["target.kind=street_world"])
    assert method.training.lr != 1e-3
    assert resolved(tmp_path / "a").training.lr == 1e-3
    one = {"benchmark": str(tmp_path / "b" / "tiny_fog.yaml"), "recipes": ["dacs"]}
    found = resolved(tmp_path / "b", comparisons=[{**one, "settings": {"training": {"lr": 2e-3}}}])
    assert (found.training.lr, found.training.steps) == (2e-3, 2)
    assert resolved(tmp_path / "a", overrides=("training.lr=3e-3",)).training.lr == 3e-3


def test_defaults_lie_under_the_recipe(tmp_path: Path) -> None:
    clip = write_recipe(tmp_path, "clip", training={"clip_length": 2}, method=None)
    assert resolved(tmp_path, clip).training.clip_length == 2
    assert resolved(tmp_path, "dacs").training.clip_length == 1


def test_parts_are_merged_only_where_they_are_used(tmp_path: Path) -> None:
    parts = {"class_mix": {"weight": 0.25}, "rare_classes": {"tries": 7}, "temporal_contrast": {"total": 9}}
    method = resolved(tmp_path, "dacs", parts=parts).method
    assert method is not None
    assert method.class_mix is not None
    assert (method.class_mix.weight, method.rare_classes, method.temporal_contrast) == (0.25, None, None)
    method = resolved(tmp_path, "pipapp_video", parts=parts).method
    assert method is not None
    assert method.rare_classes is not None
    assert method.temporal_contrast is not None
    assert (method.rare_classes.tries, method.temporal_contrast.total) == (7, 9)
    assert method.rare_classes.temperature == 0.01


def test_adaptation_concerns_methods_only_and_may_switch_parts_off(tmp_path: Path) -> None:
    changes = {"adaptation": {"alpha": 0.5, "pseudo_labels": {"threshold": 0.6}, "class_mix": None}}
    method = resolved(tmp_path, "dacs", **changes).method
    assert method is not None
    assert (method.alpha, method.pseudo_labels.threshold, method.pseudo_labels.weight) == (0.5, 0.6, "batch")
    assert method.class_mix is None
    assert resolved(tmp_path, "source_only", **changes).method is None


def test_changes_concern_one_recipe(tmp_path: Path) -> None:
    one = {"benchmark": str(tmp_path / "tiny_fog.yaml"), "recipes": ["dacs", "edaps"]}
    changes = {"adaptation": {"alpha": 0.5}, "changes": {"edaps": {"method": {"alpha": 0.25}}}, "comparisons": [one]}
    alphas = [resolved(tmp_path, name, **changes).method for name in ("dacs", "edaps")]
    assert [method.alpha for method in alphas if method is not None] == [0.5, 0.25]


@pytest.mark.parametrize(("length", "batch"), [(1, 6), (2, 3), (3, 2)])
def test_every_recipe_sees_equally_many_frames(tmp_path: Path, length: int, batch: int) -> None:
    clip = write_recipe(tmp_path, "clip", training={"clip_length": length, "batch": 50})
    found = resolved(tmp_path, clip, frames_per_step=6)
    assert (found.training.batch, found.training.clip_length) == (batch, length)
    assert resolved(tmp_path, clip, ("training.batch=5",), frames_per_step=6).training.batch == 5
    assert resolved(tmp_path, clip, frames_per_step=None).training.batch == 50


def test_a_student_of_single_frames_gets_as_many_clips_as_others_get_frames(tmp_path: Path) -> None:
    clip = write_recipe(tmp_path, "clip", training={"clip_length": 4}, method={"student": "frames"})
    found = resolved(tmp_path, clip, frames_per_step=6)
    assert (found.training.batch, found.training.clip_length) == (6, 4)


def test_clips_that_do_not_divide_the_frames_are_refused(tmp_path: Path) -> None:
    clip = write_recipe(tmp_path, "clip", training={"clip_length": 4})
    with pytest.raises(ConfigError, match="clip on tiny_fog: clips of 4 frames do not divide frames_per_step, wh"):
        resolved(tmp_path, clip, frames_per_step=6)


def test_set_values_below_a_part_concern_recipes_that_use_it(tmp_path: Path) -> None:
    overrides = ("method.class_mix.weight=0.125", "method.instance_mix.weight=0.125", "method.alpha=0.75")
    method = resolved(tmp_path, "dacs", overrides).method
    assert method is not None
    assert method.class_mix is not None
    assert (method.class_mix.weight, method.instance_mix, method.alpha) == (0.125, None, 0.75)
    assert resolved(tmp_path, "source_only", overrides).method is None
    method = resolved(tmp_path, "dacs", ("method.instance_mix={weight: 0.5}",)).method
    assert method is not None
    assert method.instance_mix is not None
    assert method.instance_mix.weight == 0.5


def test_what_has_no_effect_is_dropped(tmp_path: Path) -> None:
    plain = resolved(tmp_path, "source_only", ("inference.weights=teacher",))
    assert (plain.target, plain.upper_bound, plain.inference.weights) == (None, None, "student")
    assert resolved(tmp_path, "oracle").upper_bound is not None
    assert resolved(tmp_path, "dacs").target is not None


def test_the_start_keeps_its_own_schedule(tmp_path: Path) -> None:
    suite = load_suite(str(write_suite(tmp_path, start={"settings": {"training": {"steps": 9}}})))
    overrides = ("training.steps=4", "method.alpha=0.5", "model.projection.dim=4")
    start = start_recipe(suite, suite.comparisons[0], overrides)
    assert (start.training.steps, start.method, start.model.projection.dim) == (9, None, 4)


def test_the_start_must_be_supervised(tmp_path: Path) -> None:
    suite = load_suite(str(write_suite(tmp_path, start={"recipe": "methods/dacs"})))
    with pytest.raises(ConfigError, match="'methods/dacs' must train on source labels alone"):
        start_recipe(suite, suite.comparisons[0])


def test_quick_is_merged_over_the_suite(tmp_path: Path) -> None:
    quick = {"settings": {"training": {"steps": 1}}, "title": "quick"}
    path = str(write_suite(tmp_path, quick=quick))
    full, fast = load_suite(path), load_suite(path, quick=True)
    assert (full.settings["training"]["steps"], fast.settings["training"]["steps"]) == (2, 1)
    assert fast.settings["training"]["crop"] == full.settings["training"]["crop"]
    with pytest.raises(ConfigError, match="has no 'quick' section"):
        load_suite(str(write_suite(tmp_path / "other")), quick=True)


# --- what is refused

BENCH = {"benchmark": "benchmarks/street_world_fog", "recipes": ["dacs"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"setings": {}}, "unknown key 'setings'; did you mean 'settings'? allowed: title, start,"),
        ({"start": {"reciep": "x"}}, "unknown key 'start.reciep'; did you mean 'recipe'?"),
        ({"comparisons": [{**BENCH, "seed": [0]}]}, "unknown key 'comparisons.0.seed'; did you mean 'seeds'?"),
        ({"comparisons": []}, "comparisons"),
        ({"comparisons": [{**BENCH, "seeds": [-1]}]}, "comparisons.0.seeds.0"),
        ({"comparisons": [{**BENCH, "seeds": [1, 1]}]}, "seeds of street_world_fog: '1' stands twice"),
        ({"comparisons": [BENCH, BENCH]}, "comparisons: 'street_world_fog' stands twice"),
        ({"comparisons": [{**BENCH, "recipes": ["edaps", "methods/edaps"]}]}, "'edaps' stands twice"),
        ({"sweeps": {"a": {"key": "x", "values": [1], "recipes": ["dacs"], "seed": 1}}}, "unknown key 'sweeps.a.seed'"),
        ({"sweeps": {"a": {"key": "x", "values": [1], "recipes": ["dacs"], "comparison": "night"}}}, "'night'"),
        ({"parts": {"alpha": {}}}, f"parts: 'alpha' is no part of a method; allowed: {', '.join(PARTS)}"),
        ({"parts": {"class_mix": {"wait": 1}}}, "parts.class_mix: unknown key 'wait'; allowed: weight,"),
        ({"adaptation": {"class_mix": {"weight": 1}}}, "parts.class_mix changes it where a recipe uses it"),
        ({"comparisons": [{**BENCH, "at": 0.5}]}, "needs a suite with an 'axis'"),
        ({"changes": {"mick": {}}}, "'mick' is no recipe; allowed: dacs, daformer, edaps,"),
        ({"tuning": {"runs": {"mick": 3}}}, "'mick' is no recipe"),
        ({"frames_per_step": 0}, "frames_per_step"),
    ],
)
def test_a_bad_suite_is_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite(str(write_suite(tmp_path, **changes)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"settings": {"training": {"stepz": 1}}},
            "dacs on tiny_fog: unknown key 'training.stepz'; did you mean 'steps'?",
        ),
        ({"adaptation": {"alfa": 1}}, "dacs on tiny_fog: unknown key 'method.alfa'; did you mean 'alpha'?"),
        ({"parts": {"class_mix": {"weight": -1}}}, "dacs on tiny_fog: method.class_mix.weight"),
    ],
)
def test_bad_settings_name_the_recipe(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(tmp_path, "dacs", **changes)
    assert words in str(caught.value)


def test_an_unknown_suite_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="no suite 'street': it is neither a file nor one of camvid, gap, street_"):
        load_suite("street")
