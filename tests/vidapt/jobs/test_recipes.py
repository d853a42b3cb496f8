"""Every shipped recipe that is a whole job runs one step of each of its stages."""

import json
import shlex
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_runs import moving_frames, write_camvid, write_labelled
from vidapt.io.encoder import write_video
from vidapt.jobs.adapt import adapt, recipe_for
from vidapt.jobs.train import run_stage
from vidapt.recipe import load_recipe, override_recipe, recipe_names

STEPS = (
    "training.steps=1 warm_start.steps=1 training.batch=2 warm_start.batch=2 training.workers=0 training.log_every=1"
)
WORLDS = "{name}.videos=1 {name}.frames=3 {name}.size=[64,128]"
SHRINK = {
    "demo": f"{STEPS} training.crop=[64,128] inference.height=64 "
    + " ".join(WORLDS.format(name=name) for name in ("source", "target", "validation", "evaluation", "upper_bound")),
    "street_world_to_camvid": f"{STEPS} training.crop=[48,64] inference.height=48 target.height=48 "
    "upper_bound.height=48 " + " ".join(WORLDS.format(name=name) for name in ("source", "validation")),
    "own_data": f"{STEPS} training.crop=[64,64] inference.height=64 source.height=64 target.height=64 "
    "model.encoder.name=pvt_v2_b0 model.encoder.pretrained=false model.semantic.channels=16 model.instance.channels=16",
}
"""What makes each recipe small: --set texts."""

TINY = (
    "training.steps=1 training.batch=2 training.crop=[64,64] evaluation=null validation=null "
    "model.encoder.name=test_byobnet model.semantic.channels=8 model.semantic.dilations=[1] model.instance.channels=8 "
    + " ".join(WORLDS.format(name=name) for name in ("source", "target", "upper_bound"))
)
DETECTOR = "proposal_class proposal_box box_class box mask"
SOURCE, MIXED = {"source": "semantic center offset"}, {"mixed": "semantic"}
DAFORMER = SOURCE | MIXED
EDAPS = {"source": f"semantic {DETECTOR}"} | MIXED
PIPA = MIXED | {"source": "semantic center offset pixel_contrast", "patches": "contrast"}
METHODS = {
    "source_only": SOURCE,
    "oracle": SOURCE,
    "dacs": DAFORMER,
    "daformer": DAFORMER,
    "hrda": DAFORMER,
    "mic": DAFORMER | {"masked": "semantic"},
    "edaps": EDAPS,
    "lidaps": {
        "source": f"semantic {DETECTOR} text_alignment", "mixed": "semantic text_alignment", "pasted": DETECTOR,
    },
    "pipa": PIPA,
    "pipapp_image": PIPA,
    "pipapp_video": PIPA | {"mixed": "semantic temporal_contrast"},
}  # fmt: skip
"""Losses of the published methods by graph; their encoders start from random weights, so no distance is kept to any."""

AT_ONCE = {
    "lidaps": "method.text_alignment.table=orthonormal method.instance_mix.start=0",
    "pipa": "method.patch_contrast.start=0",
    "pipapp_image": "method.patch_contrast.start=0 method.pixel_contrast.bank.size=64",
    "pipapp_video": "method.patch_contrast.start=0",
}
"""What lets all parts of a method begin with the first step."""

PARTS = ("benchmarks/", "methods/", "networks/", "demo_network")
"""Recipes that others extend; they are no jobs of their own."""


def test_every_whole_recipe_is_here() -> None:
    assert {name for name in recipe_names() if not name.startswith(PARTS)} == SHRINK.keys()


def test_every_benchmark_joins_with_every_method_and_network() -> None:
    """Each part changes its own sections only, so their order does not matter."""
    kinds = [[name for name in recipe_names() if name.startswith(part)] for part in PARTS[:3]]
    assert all(kinds)
    for names in product(*kinds):
        if names[1] == "methods/oracle" and load_recipe(names[0]).upper_bound is None:
            continue
        recipe = load_recipe("+".join(names))
        backwards = load_recipe("+".join(reversed(names)))
        assert recipe.name == "+".join(Path(name).name for name in names)
        assert backwards.model_copy(update={"name": recipe.name}) == recipe
        benchmark, network = load_recipe(names[0]), load_recipe(names[2])
        method = load_recipe(names[1], ["target.kind=street_world", "upper_bound.kind=street_world"])
        for key in ("labels", "source", "target", "validation", "evaluation", "scoring"):
            assert getattr(recipe, key) == getattr(benchmark, key)
        sizes = {"crop": benchmark.training.crop, "scale": benchmark.training.scale}
        assert recipe.training == method.training.model_copy(update=sizes)
        assert (recipe.method, recipe.train_on) == (method.method, method.train_on)
        assert recipe.model == method.model.model_copy(update={"encoder": network.model.encoder})
        own = {name: getattr(method.inference, name) for name in ("weights", "smoothing", "warp")}
        assert recipe.inference == benchmark.inference.model_copy(update=own)


def losses(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["losses"]
    assert all(np.isfinite(value) for value in found.values())
    return found


def test_every_method_is_here() -> None:
    shipped = {name for name in recipe_names() if name.startswith("methods/")}
    assert shipped == {f"methods/{name}" for name in (*METHODS, "vidapt")}


@pytest.mark.parametrize("name", [*METHODS, "vidapt"])
def test_a_shipped_method_runs(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(f"benchmarks/street_world_fog+methods/{name}", shlex.split(f"{TINY} {AT_ONCE.get(name, '')}"))
    result = run_stage(recipe, tmp_path, resume=False, device="cpu", dry_run=False, command="train")
    assert result.steps == 1
    found = {loss for loss in losses(tmp_path) if "/" in loss}
    expected = METHODS.get(name, DAFORMER)
    named = {f"{graph}/{loss}" for graph, names in expected.items() for loss in names.split()}
    assert named <= found if name == "vidapt" else named == found


@pytest.mark.parametrize("name", ["demo", "street_world_to_camvid"])
def test_a_shipped_recipe_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_camvid(tmp_path / "camvid")
    write_camvid(tmp_path / "camvid", split="train")
    monkeypatch.setenv("VIDAPT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = adapt(load_recipe(name, shlex.split(SHRINK[name])), out=tmp_path / "run", device="cpu")
    assert list(result.scores) == ["source_only", "upper_bound", "adapted"]
    assert {"source", "mixed"} <= losses(result.run).keys()
    assert result.scores["adapted"]["label_space"] == ("camvid" if "camvid" in name else "cityscapes")


def test_own_data_runs(tmp_path: Path) -> None:
    labelled = write_labelled(tmp_path / "labelled", ["road", "building", "car"])
    (tmp_path / "videos").mkdir()
    assert write_video(moving_frames(5, (64, 96)), tmp_path / "videos" / "drive.mp4", fps=10)
    recipe = override_recipe(recipe_for(labelled, tmp_path / "videos", None), shlex.split(SHRINK["own_data"]))
    result = adapt(recipe, out=tmp_path / "run", device="cpu")
    assert {"source", "mixed"} <= losses(result.run).keys()
    assert {"source/semantic", "source/center"} <= losses(result.run / "source_only").keys()
