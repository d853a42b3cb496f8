"""Recipes: strict YAML, extends, --set, and errors that help."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidapt.config import Recipe, StreetWorldData, VideosData
from vidapt.errors import ConfigError
from vidapt.recipe import (
    build_recipe,
    dump_recipe,
    load_recipe,
    merge,
    override_recipe,
    parse_yaml,
    recipe_names,
)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def error_of(data: dict[str, object], *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        override_recipe(build_recipe(data, "r"), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- YAML scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6e-5", 6e-5),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        (".inf", float("inf")),
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'6e-5'", "6e-5"),
        ("e5", "e5"),
    ],
)
def test_scalar(text: str, value: object) -> None:
    parsed = parse_yaml(text, "test")
    assert parsed == value
    assert type(parsed) is type(value)


def test_key_may_stand_once() -> None:
    with pytest.raises(ConfigError, match="key 'steps' stands twice"):
        parse_yaml("training:\n  steps: 1\n  steps: 2\n", "r.yaml")


def test_broken_yaml_is_one_line_with_its_origin() -> None:
    with pytest.raises(ConfigError, match=r"^r\.yaml is not valid YAML: [^\n]+$"):
        parse_yaml("a: [1, 2", "r.yaml")


def test_tags_that_make_objects_are_refused() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml("!!python/object/apply:os.getcwd []", "r.yaml")


def test_anchors_and_merge_keys_work() -> None:
    parsed = parse_yaml("a: &base {steps: 1}\nb:\n  <<: *base\n  batch: 2\n", "r.yaml")
    assert parsed["b"] == {"steps": 1, "batch": 2}


# --- extends


def test_extends_merges_left_to_right_and_own_keys_last(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "name: a\ntraining: {steps: 1, batch: 1, warmup: 1}")
    write(tmp_path / "b.yaml", "name: b\ntraining: {steps: 2, batch: 2}")
    recipe = load_recipe(write(tmp_path / "c.yaml", "extends: [a.yaml, b.yaml]\ntraining: {steps: 3}"))
    assert (recipe.name, recipe.training.steps, recipe.training.batch, recipe.training.warmup) == ("b", 3, 2, 1)


def test_extends_is_looked_up_beside_the_recipe_not_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here" / "base.yaml", "name: wrong")
    write(tmp_path / "there" / "base.yaml", "name: right")
    config = write(tmp_path / "there" / "c.yaml", "extends: [base.yaml]")
    monkeypatch.chdir(tmp_path / "here")
    assert load_recipe(config).name == "right"


def test_shared_ancestor_is_no_cycle(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "name: base")
    for name in ("a", "b"):
        write(tmp_path / f"{name}.yaml", "extends: [base.yaml]")
    assert load_recipe(write(tmp_path / "c.yaml", "extends: [a.yaml, b.yaml]")).name == "base"


def test_cycle_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: [b.yaml]")
    write(tmp_path / "b.yaml", "extends: [c.yaml]")
    write(tmp_path / "c.yaml", "extends: [b.yaml]")
    with pytest.raises(ConfigError, match=r"extends itself: b\.yaml -> c\.yaml -> b\.yaml; remove"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize("extends", ["a.yaml", "[1]", "{a: b}"])
def test_extends_must_be_a_list_of_names(tmp_path: Path, extends: str) -> None:
    with pytest.raises(ConfigError, match="extends must be a list"):
        load_recipe(write(tmp_path / "c.yaml", f"extends: {extends}"))


def test_missing_parent_names_both_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'gone\.yaml' \(extended by .*c\.yaml\)"):
        load_recipe(write(tmp_path / "c.yaml", "extends: [gone.yaml]"))


def test_section_of_another_kind_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "target: {kind: street_world, seed: 3, style: fog}")
    recipe = load_recipe(write(tmp_path / "b.yaml", "extends: [a.yaml]\ntarget: {kind: videos, root: mine}"))
    assert recipe.target == VideosData(root=Path("mine"))


def test_section_of_the_same_kind_is_merged(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "target: {kind: street_world, seed: 3, style: fog}")
    recipe = load_recipe(write(tmp_path / "b.yaml", "extends: [a.yaml]\ntarget: {strength: 0.5}"))
    assert recipe.target == StreetWorldData(seed=3, style="fog", strength=0.5)


def test_merge_changes_neither_input() -> None:
    base, over = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(base, over) == {"a": {"b": 1, "c": 2}}
    assert (base, over) == ({"a": {"b": 1}}, {"a": {"c": 2}})


# --- files


@pytest.mark.parametrize("content", ["- a\n- b\n", "", "text"])
def test_recipe_must_be_a_mapping(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_recipe(write(tmp_path / "a.yaml", content))


def test_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(path)


def test_missing_recipe_suggests_the_nearest_shipped_name() -> None:
    name = recipe_names()[0]
    with pytest.raises(ConfigError, match=f"did you mean {name!r}"):
        load_recipe(name[:-1])


def test_missing_recipe_lists_the_shipped_names() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("qqqqqqq")
    assert all(name in str(caught.value) for name in recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_parses_and_survives_a_round_trip(tmp_path: Path, name: str) -> None:
    config: str | Path = name
    if name.startswith("methods/"):  # half a recipe: it is joined with a benchmark
        config = write(tmp_path / "whole.yaml", f"extends: [benchmarks/street_world_fog, {name}]")
    recipe = load_recipe(config)
    assert load_recipe(write(tmp_path / "dumped.yaml", dump_recipe(recipe))) == recipe


# --- --set


def test_set_applies_in_order_and_creates_sections() -> None:
    recipe = override_recipe(
        Recipe(), ["training.steps=1", "training.steps=7", "training.lr=6e-5", "target.kind=videos", "target.root=v"]
    )
    assert (recipe.training.steps, recipe.training.lr) == (7, 6e-5)
    assert recipe.target == VideosData(root=Path("v"))


def test_set_takes_any_yaml_value() -> None:
    recipe = override_recipe(Recipe(), ["training.crop=[64, 128]", "name=a=b", "method=null", "tracking={memory: 3}"])
    assert recipe.training.crop == (64, 128)
    assert recipe.name == "a=b"
    assert recipe.method is None
    assert recipe.tracking.memory == 3


def test_set_nothing_returns_the_recipe_itself() -> None:
    recipe = Recipe()
    assert override_recipe(recipe, []) is recipe


@pytest.mark.parametrize("text", ["training.steps", "=3", ".steps=3", "training..steps=3", "training.=3", ""])
def test_set_without_key_or_value_shows_how(text: str) -> None:
    assert "write key.path=value, for example" in error_of({}, text)


def test_set_through_a_value_is_refused() -> None:
    assert "training.steps" in error_of({}, "training.steps.more=3")


def test_set_on_a_file(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path / "a.yaml", "name: a"), ["name=b"]).name == "b"


# --- schema errors


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"nam": "x"}, "r: unknown key 'nam'; did you mean 'name'? allowed: name, labels, source"),
        ({"training": {"stepz": 3}}, "unknown key 'training.stepz'; did you mean 'steps'? allowed: steps, batch"),
        (
            {"source": {"kind": "street_world", "sed": 3}},
            "unknown key 'source.sed'; did you mean 'seed'? allowed: kind, weight, mapping, ignored_rows, seed, videos",
        ),
        (
            {"target": {"kind": "videos", "root": "v", "hight": 3}},
            "unknown key 'target.hight'; did you mean 'height'? allowed: kind, weight, mapping, ignored_rows, root",
        ),
        ({"source": {"kind": "street_word"}}, "source.kind: unknown kind 'street_word'; did you mean 'street_world'?"),
        ({"source": {"seed": 3}}, "source: 'kind' is missing; allowed: street_world, videos"),
        ({"target": {"kind": "videos"}}, "target.root: a value is missing"),
        ({"source": 3}, "source: must be a mapping of keys, got 3"),
        ({"source": []}, "source: Tuple should have at least 1 item"),
        (
            {"source": [{"kind": "synthia", "root": "s"}, {"kind": "gta5", "root": "g", "fits": [2, 3]}]},
            "unknown key 'source.1.fits'; did you mean 'fit'? allowed: kind, weight",
        ),
        ({"source": [{"kind": "synthi"}]}, "source.0.kind: unknown kind 'synthi'; did you mean 'synthia'?"),
        ({"source": [{"root": "x"}]}, "source.0: 'kind' is missing; allowed: street_world, videos"),
        ({"target": {"kind": "gta5", "root": "g", "height": 3, "fit": [3, 4]}}, "height 3 and fit [3, 4] both give"),
        ({"model": {"instance": {"sigmo": 3}}}, "unknown key 'model.instance.sigmo'; did you mean 'sigma'?"),
        ({"training": {"crop": [64]}}, "training.crop: a value is missing, got [64]"),
        ({"training": {"crop": [64, 0]}}, "training.crop.1: Input should be greater than or equal to 1, got 0"),
        (
            {"training": {"precision": "fp16"}},
            "training.precision: Input should be 'auto', 'fp32' or 'bf16', got 'fp16'",
        ),
        ({"training": {"steps": "many"}}, "training.steps: Input should be a valid integer"),
        ({"method": {}}, "method needs a target: set target, or method: null"),
        ({"training": {"stepz": 3, "batch": 0}}, "(and 1 more)"),
    ],
)
def test_error_names_place_value_and_what_is_allowed(data: dict[str, object], expected: str) -> None:
    assert expected in error_of(data)


def test_value_of_several_types_is_explained_once() -> None:
    message = error_of({"tracking": {"embedding_threshold": "high"}})
    assert message.startswith("r: tracking.embedding_threshold: Input should be a valid number")
    assert message.endswith("or 'calibrated' or 'off', got 'high'")
    assert "more)" not in message


@pytest.mark.parametrize("lr", [".nan", "0", "-1"])
def test_learning_rate_must_be_positive(lr: str) -> None:
    assert "training.lr" in error_of({}, f"training.lr={lr}")


# --- round trip


@settings(max_examples=30)
@given(
    name=st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["on", "6e5", "010", "null", "1:30", ""])
)
def test_any_name_survives_a_round_trip(name: str) -> None:
    recipe = Recipe(name=name)
    assert build_recipe(parse_yaml(dump_recipe(recipe), "dump"), "dump") == recipe


@settings(max_examples=30)
@given(lr=st.floats(1e-12, 1e12), decay=st.floats(0, 1e6))
def test_numbers_survive_a_round_trip_exactly(lr: float, decay: float) -> None:
    recipe = override_recipe(Recipe(), [f"training.lr={lr!r}", f"training.weight_decay={decay!r}"])
    assert (recipe.training.lr, recipe.training.weight_decay) == (lr, decay)
    assert build_recipe(parse_yaml(dump_recipe(recipe), "dump"), "dump") == recipe


def test_recipes_are_frozen() -> None:
    recipe = Recipe()
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]
