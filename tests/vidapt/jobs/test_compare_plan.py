"""Which cells a suite and a choice ask for, what tells them apart, and which worlds they draw."""

from pathlib import Path
from typing import Any

import pytest

from tests.vidapt.jobs.tiny_suite import write_suite
from vidapt.config import StreetWorldData
from vidapt.config_suite import Suite
from vidapt.errors import ConfigError, InputError
from vidapt.jobs.compare_cells import Cell, cell_head, cell_path, read_cell, read_cells, write_copy
from vidapt.jobs.compare_plan import Choice, plan_cells, sweep_cell
from vidapt.jobs.files import write_json, write_text
from vidapt.recipe import load_recipe
from vidapt.suite import load_suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = tmp_path_factory.mktemp("suite")
    one: dict[str, Any] = {"benchmark": str(folder / "tiny_fog.yaml"), "recipes": ["source_only", "dacs", "lidaps"]}
    night = {**one, "name": "night", "settings": {"evaluation": {"style": "night"}, "target": {"style": "night"}}}
    sweeps = {"score": {"key": "method.pseudo_instances.score", "values": [0.25, 0.5], "recipes": ["lidaps"]}}
    comparisons = [{**one, "seeds": [0, 1]}, night]
    return load_suite(str(write_suite(folder, comparisons=comparisons, sweeps=sweeps)))


def keys(suite: Suite, **choice: Any) -> list[str]:
    return [cell.key for cell in plan_cells(suite, Choice(**choice))]


def test_cells_come_seed_by_seed(suite: Suite) -> None:
    names = ["start", "source_only", "dacs", "lidaps"]
    first = [f"{title}-{name}-0" for title in ("tiny_fog", "night") for name in names]
    assert keys(suite) == [*first, *(f"tiny_fog-{name}-1" for name in names)]


def test_a_choice_leaves_out(suite: Suite) -> None:
    assert keys(suite, recipes=("dacs",), seeds=(3,), comparisons=("night",)) == ["night-start-3", "night-dacs-3"]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"recipes": ("edaps",)}, "the suite has no recipe 'edaps'; allowed: dacs, lidaps, source_only"),
        ({"comparisons": ("fog",)}, "the suite has no comparison 'fog'; allowed: tiny_fog, night"),
        ({"sweeps": ("scores",)}, "--sweep 'scores': write key.path=v1,v2 or one of score"),
        ({"sweeps": ("training.lr=",), "recipes": ("dacs",)}, "write key.path=v1,v2"),
        ({"sweeps": ("training.lr=1,2",)}, "name the recipes that it changes with --recipes"),
        ({"sweeps": ("score",), "recipes": ("mic",)}, "the suite has no recipe 'mic'"),
        (
            {"sweeps": ("method.instance_mix.weight=1,2",), "recipes": ("dacs",)},
            "method.instance_mix.weight has no effect on dacs, which does not use that part",
        ),
        ({"sweeps": ("method.alpha=0.5,2.5",), "recipes": ("dacs",)}, "method.alpha"),
        ({"overrides": ("training.stepz=1",)}, "unknown key 'training.stepz'"),
        ({"seeds": (10,)}, "seed 10 would draw worlds from 100 up, which are for choosing hyper-parameters"),
    ],
)
def test_a_bad_choice_is_one_line(suite: Suite, choice: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_cells(suite, Choice(**choice))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def worlds(cell: Cell) -> dict[str, int]:
    sections = {name: getattr(cell.recipe, name) for name in ("source", "target", "validation", "evaluation")}
    return {name: data.seed for name, data in sections.items() if isinstance(data, StreetWorldData)}


def test_seeds_have_worlds_of_their_own(suite: Suite) -> None:
    for cell in plan_cells(suite, Choice(seeds=(0, 2), recipes=("dacs",))):
        first = 10 * cell.seed
        assert worlds(cell).items() <= {"source": first, "target": first + 1, "validation": first + 2,
                                        "evaluation": first + 3}.items()  # fmt: skip
        assert {"source", "validation", "evaluation"} <= worlds(cell).keys()
        assert cell.recipe.training.seed == cell.seed
        assert cell.start.recipe.training.seed == cell.seed
    tuned = plan_cells(suite, Choice(seeds=(1,), recipes=("dacs",), first_world=100))
    assert {value for cell in tuned for value in worlds(cell).values()} == {110, 111, 112, 113}


def test_an_oracle_is_trained_on_the_worlds_of_the_target(tmp_path: Path) -> None:
    cells = plan_cells(load_suite(str(write_suite(tmp_path))), Choice(seeds=(2,), recipes=("oracle",)))
    bound = cells[-1].recipe.upper_bound
    assert isinstance(bound, StreetWorldData)
    assert (bound.seed, bound.style, cells[-1].recipe.train_on) == (21, "fog", "upper_bound")


def test_a_seed_changes_only_the_generated_part_of_camvid() -> None:
    cells = plan_cells(load_suite("camvid"), Choice(recipes=("dacs",)))
    dumped = [cell.recipe.model_dump(mode="json") for cell in cells if cell.name == "dacs"]
    changed = {key for key in dumped[0] if dumped[0][key] != dumped[1][key]}
    assert changed == {"source", "validation", "training"}


def test_benchmarks_of_one_source_share_the_start_of_a_seed(suite: Suite) -> None:
    cells = plan_cells(suite, Choice())
    assert {(cell.seed, cell.start.key) for cell in cells if cell.comparison == "tiny_fog"} >= {
        (cell.seed, cell.start.key) for cell in cells if cell.comparison == "night"
    }
    assert len({cell.start.key for cell in cells}) == 2
    assert all(cell.start.recipe.evaluation is None for cell in cells)


def digests(suite: Suite, **choice: Any) -> dict[str, str]:
    return {cell.key: cell.digest for cell in plan_cells(suite, Choice(**choice))}


def test_a_digest_changes_with_what_decides_the_scores(suite: Suite) -> None:
    plain = digests(suite)
    assert plain == digests(suite)
    assert plain == digests(suite, overrides=("training.log_every=7", "training.checkpoint_every=7"))
    changed = {
        "training.lr=5e-3": {key for key in plain if "start" not in key},
        "method.alpha=0.5": {key for key in plain if "dacs" in key or "lidaps" in key},
        "method.instance_mix.weight=0.125": {key for key in plain if "lidaps" in key},
        "source.videos=2": set(plain),
        "evaluation.frames=4": set(plain),
    }
    for override, expected in changed.items():
        other = digests(suite, overrides=(override,))
        assert {key for key in plain if other[key] != plain[key]} == expected, override


def test_a_digest_changes_with_the_schedule_of_the_start(tmp_path: Path) -> None:
    both = [digests(load_suite(str(write_suite(tmp_path, start={"settings": {"training": {"steps": steps}}}))))
            for steps in (1, 3)]  # fmt: skip
    assert not set(both[0].values()) & set(both[1].values())


def test_equal_recipes_have_equal_digests_whatever_their_names(tmp_path: Path) -> None:
    (tmp_path / "twin.yaml").write_text("extends: [methods/source_only]\nname: other\n")
    one = {"benchmark": str(tmp_path / "tiny_fog.yaml"), "recipes": ["source_only", str(tmp_path / "twin.yaml")]}
    found = digests(load_suite(str(write_suite(tmp_path, comparisons=[one]))))
    assert found["tiny_fog-twin-0"] == found["tiny_fog-source_only-0"] != found["tiny_fog-start-0"]


def test_a_named_sweep(suite: Suite) -> None:
    cells = plan_cells(suite, Choice(sweeps=("score",)))
    name = "tiny_fog-lidaps-method.pseudo_instances.score"
    assert [cell.key for cell in cells] == [f"{name}={value}-{seed}" for seed in (0, 1) for value in (0.25, 0.5)]
    methods = [cell.recipe.method for cell in cells]
    assert [method.pseudo_instances.score for method in methods if method is not None] == [0.25, 0.5, 0.25, 0.5]


def test_a_sweep_of_any_key(suite: Suite) -> None:
    choice = Choice(sweeps=("training.scale=[0.5, 1.0],[1.0, 2.0]",), recipes=("dacs",), seeds=(1,))
    assert [cell.recipe.training.scale for cell in plan_cells(suite, choice)] == [(0.5, 1.0), (1.0, 2.0)]
    choice = Choice(sweeps=("source.style=night,fog",), recipes=("source_only",), comparisons=("night",))
    cells = plan_cells(suite, choice)
    assert [cell.key for cell in cells] == [f"night-source_only-source.style={style}-0" for style in ("night", "fog")]
    assert len({cell.start.key for cell in cells}) == 2


def test_a_value_that_the_recipe_has_is_the_same_training(suite: Suite) -> None:
    plain = digests(suite)["tiny_fog-lidaps-0"]
    score = load_recipe("methods/lidaps", ["target.kind=street_world"]).method.pseudo_instances.score  # type: ignore[union-attr]
    choice = Choice(sweeps=(f"method.pseudo_instances.score={score},0.125",), recipes=("lidaps",), seeds=(0,))
    assert [cell.digest == plain for cell in plan_cells(suite, choice)] == [True, False]


def test_the_cell_of_a_sweep_is_found_again_from_its_file(suite: Suite) -> None:
    for cell in plan_cells(suite, Choice(sweeps=("score",))):
        assert sweep_cell(suite, Choice(), cell_head(cell)) == cell
    assert sweep_cell(suite, Choice(), {**cell_head(cell), "recipe": "gone"}) is None


# --- files


def test_a_copy_says_whose_it_is(suite: Suite, tmp_path: Path) -> None:
    first, second = plan_cells(suite, Choice())[1:3]
    data = {**cell_head(first), "scores": {"student": {"miou": 0.5}}, "command": "it"}
    write_json(cell_path(tmp_path, first.key), data)
    write_copy(tmp_path, second, read_cell(cell_path(tmp_path, first.key)))
    copied = read_cells(tmp_path)[second.key]
    assert (copied["key"], copied["recipe"], copied["same_as"]) == (second.key, second.name, first.key)
    assert (copied["scores"], copied["command"], copied["digest"]) == (data["scores"], "it", second.digest)


def test_a_setting_that_came_later_makes_no_cell_stale(suite: Suite, tmp_path: Path) -> None:
    """Files from before the setting lack it; one that says another value is stale."""
    cell = plan_cells(suite, Choice())[1]
    start = cell.start
    head = {**cell_head(cell), "comparison": "", "digest": start.digest, "key": start.key}
    del head["start"]
    files = {start.key: (head, start.recipe), cell.key: (cell_head(cell), cell.recipe)}
    for key, (known, recipe) in files.items():
        config = recipe.model_dump(mode="json")
        del config["inference"]["stuff_area"]
        write_json(cell_path(tmp_path, key), {**known, "digest": "of then", "scores": {}, "config": config})
    assert {key: data["digest"] for key, data in read_cells(tmp_path).items()} == {
        start.key: start.digest,
        cell.key: cell.digest,
    }
    config["inference"]["stuff_area"] = 0.5
    write_json(cell_path(tmp_path, cell.key), {**cell_head(cell), "scores": {}, "config": config})
    assert read_cells(tmp_path)[cell.key]["digest"] != cell.digest
    config["inference"]["gone"] = 1
    write_json(cell_path(tmp_path, cell.key), {**cell_head(cell), "digest": "of then", "scores": {}, "config": config})
    assert read_cells(tmp_path)[cell.key]["digest"] == "of then"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '{"format": 1}', '{"format": 9, "digest": "x"}', "\x00"])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = cell_path(tmp_path, "fog-dacs-0")
    write_text(path, text)
    with pytest.raises(InputError, match=r"fog-dacs-0.json is damaged or of another version .*delete it") as caught:
        read_cells(tmp_path)
    assert "\n" not in str(caught.value)
