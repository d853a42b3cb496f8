"""Recipes with several sources: written as a list, checked entry by entry, changed by ``--set``."""

from pathlib import Path

import pytest

from vidapt.config import Recipe
from vidapt.errors import ConfigError
from vidapt.jobs.data import sections_of
from vidapt.recipe import build_recipe, dump_recipe, load_recipe, override_recipe

TWO = "source:\n- {kind: synthia, root: a, weight: 2}\n- {kind: gta5, root: b}\n"


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    (tmp_path / "r.yaml").write_text(text)
    return load_recipe(tmp_path / "r.yaml", overrides)


def test_a_recipe_may_have_several_sources(tmp_path: Path) -> None:
    sections = sections_of(load(tmp_path, TWO).source)
    assert [(section.kind, section.root, section.weight) for section in sections] == [
        ("synthia", Path("a"), 2.0),
        ("gta5", Path("b"), 1.0),
    ]


def test_a_recipe_with_several_sources_is_written_and_read_back(tmp_path: Path) -> None:
    recipe = load(tmp_path, TWO)
    assert load(tmp_path, dump_recipe(recipe)) == recipe
    assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_a_list_of_one_is_a_list(tmp_path: Path) -> None:
    assert isinstance(load(tmp_path, "source: [{kind: gta5, root: b}]").source, tuple)
    assert not isinstance(load(tmp_path, "source: {kind: gta5, root: b}").source, tuple)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: []", r"source"),
        ("source:\n- {kind: synthia, root: a, hight: 5}", r"source.*hight.*did you mean 'height'"),
        ("source:\n- {kind: synthia, root: a}\n- {kind: gta5, root: b, beta: 1}", r"source.1.*beta"),
        ("source:\n- {kind: synthia, root: a, weight: 0}", r"source.0.weight"),
        ("source:\n- {kind: syntia, root: a}", r"syntia.*synthia"),
        ("source:\n- {root: a}", r"kind"),
        ("source:\n- 5", r"source.0"),
        ("source: 5", r"source"),
        ("source:\n- {kind: synthia}", r"source.0.root"),
        ("target:\n- {kind: gta5, root: b}", r"target"),
    ],
)
def test_wrong_sources_are_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    line = str(caught.value)
    assert "\n" not in line
    assert "<list>" not in line
    assert "<one>" not in line


def test_a_list_replaces_the_source_of_the_parent(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("source: {kind: gta5, root: b, height: 720}")
    recipe = load(tmp_path, f"extends: [base.yaml]\n{TWO}")
    assert [section.height for section in sections_of(recipe.source)] == [None, None]
    (tmp_path / "base.yaml").write_text(TWO)
    alone = load(tmp_path, "extends: [base.yaml]\nsource: {kind: gta5, root: c}")
    assert sections_of(alone.source)[0].root == Path("c")


def test_one_of_several_sources_is_changed_by_its_place(tmp_path: Path) -> None:
    recipe = load(tmp_path, TWO, "source.1.root=elsewhere", "source.0.weight=5")
    assert [(section.root, section.weight) for section in sections_of(recipe.source)] == [
        (Path("a"), 5.0),
        (Path("elsewhere"), 1.0),
    ]
    again = override_recipe(build_recipe({"source": [{"kind": "gta5", "root": "b"}]}, "r"), ["source.0.height=9"])
    assert sections_of(again.source)[0].height == 9


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for key in ("source.2.root", "source.root", "source.x.root", "source.-1.root"):
        with pytest.raises(ConfigError, match="source"):
            load(tmp_path, TWO, f"{key}=elsewhere")
