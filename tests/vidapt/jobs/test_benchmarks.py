"""Every shipped benchmark runs one step of training and one of adaptation, and is scored by its protocol."""

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmark_data import Truths, benchmark_data
from vidapt.config import Recipe
from vidapt.jobs.adapt import adapt
from vidapt.jobs.scored_videos import scored_videos
from vidapt.jobs.train import open_data, train
from vidapt.labels import CAMVID, CITYSCAPES, find_space
from vidapt.recipe import load_recipe, recipe_names

STEPS = "training.steps=1 training.batch=2 training.workers=0 training.log_every=1 training.crop=[64,128]"
NARROW = "model.semantic.channels=16 model.instance.channels=16"
CLIPS = "training.clip_length=2 training.interval=1 method.student=clips"
PARTS = "method.pixel_contrast.weight=0.1 method.temporal_contrast.weight=0.1"
VIDEO_METHODS = ("pipapp_video", "vidapt")
TARGET = "target.height=64 target.ignored_rows=[2,15]"
WORLDS = "{name}.videos=1 {name}.frames=3 {name}.size=[64,128]"
SIXTEEN = tuple(name for name in CITYSCAPES.names if name not in ("terrain", "truck", "train"))
VIDEO = find_space("viper_cityscapes").names
ELEVEN = tuple(name for name in find_space("synthia_seq_cityscapes").names if name != "fence")


@dataclass(frozen=True)
class Expected:
    """What a benchmark holds in miniature and how it is scored.

    Attributes:
        small: What makes it small beyond ``STEPS`` and ``NARROW``: --set texts.
        clips: Clips of the source and of the target.
        frames: Videos, frames and labelled frames that are scored.
        classes: Classes that means are taken over.
        panoptic: True if segments are scored.
        space: Label space that is scored in.
        unseen: Scored classes that the miniature labels do not show.
        more: Further scores that its protocol measures.
    """

    small: str
    clips: tuple[int, int]
    frames: tuple[int, int, int]
    classes: tuple[str, ...] = CITYSCAPES.names
    panoptic: bool = False
    space: str = "cityscapes"
    unseen: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


WORLD = " ".join(WORLDS.format(name=name) for name in ("source", "target", "validation", "evaluation", "upper_bound"))
WORLD += " evaluation.frames=4"
UNSEEN = ("wall", "fence", "terrain", "rider", "truck", "bus", "train", "motorcycle", "bicycle")
AP = ("ap_cityscapes", "ap50_cityscapes")
SYNTHIA = Expected(TARGET, (3, 3), (3, 3, 3), SIXTEEN, panoptic=True, more=AP)

MAPILLARY = "target.fit=[48,128] evaluation.fit=[48,128]"
VIPER = Expected(
    "source.fit=[64,128] target.height=64 inference.height=48", (4, 3), (3, 6, 3), VIDEO, space="viper_cityscapes"
)
EXPECTED = {
    "cityscapes_to_acdc": Expected(
        "source.height=64 target.height=64 inference.height=48", (3, 8), (8, 8, 8), unseen=UNSEEN
    ),
    "cityscapes_to_dark_zurich": Expected(
        "source.height=64 target.height=64 inference.height=48", (3, 3), (2, 2, 2), unseen=UNSEEN
    ),
    "cityscapes_to_foggy": Expected(f"{TARGET} source.height=64", (3, 3), (3, 3, 3), panoptic=True, more=AP),
    "cityscapes_to_foggy_16": Expected(
        f"{TARGET} source.height=64", (3, 3), (3, 3, 3), SIXTEEN, panoptic=True, more=AP
    ),
    "cityscapes_to_mapillary_16": Expected(
        f"{MAPILLARY} source.height=64", (3, 3), (3, 3, 3), SIXTEEN, panoptic=True, unseen=UNSEEN, more=AP
    ),
    "cityscapes_to_mapillary": Expected(
        f"{MAPILLARY} source.height=64", (3, 3), (3, 3, 3), panoptic=True, unseen=UNSEEN, more=AP
    ),
    "gta5_to_cityscapes": Expected(f"{TARGET} source.fit=[64,128] inference.height=48", (4, 3), (3, 3, 3)),
    "street_world_fog": Expected(WORLD, (2, 2), (1, 4, 4), panoptic=True, unseen=CITYSCAPES.names),
    "street_world_night": Expected(WORLD, (2, 2), (1, 4, 4), panoptic=True, unseen=CITYSCAPES.names),
    "street_world_texture": Expected(WORLD, (2, 2), (1, 4, 4), panoptic=True, unseen=CITYSCAPES.names),
    "street_world_to_camvid": Expected(
        f"{WORLDS.format(name='source')} {WORLDS.format(name='validation')} target.height=64 upper_bound.height=64 "
        "inference.height=48",
        (2, 3),
        (1, 4, 4),
        CAMVID.names,
        space="camvid",
    ),
    "synthia_gta5_to_cityscapes": Expected(f"{TARGET} inference.height=48", (8, 3), (3, 3, 3)),
    "synthia_seq_to_cityscapes_sequence": Expected(
        "target.height=64 inference.height=48", (3, 3), (3, 6, 3), ELEVEN, space="synthia_seq_cityscapes"
    ),
    "synthia_to_cityscapes": SYNTHIA,
    "synthia_to_cityscapes_cvrn": SYNTHIA,
    "synthia_to_cityscapes_semantic": Expected(
        f"{TARGET} inference.height=48", (3, 3), (3, 3, 3), SIXTEEN, more=("miou13",)
    ),
    "synthia_to_mapillary": Expected(MAPILLARY, (3, 3), (3, 3, 3), SIXTEEN, panoptic=True, unseen=UNSEEN, more=AP),
    "viper_to_cityscapes_sequence": VIPER,
    "viper_to_cityscapes_sequence_rider_ignored": VIPER,
    "viper_to_cityscapes_vps": Expected(
        f"source.fit=[64,128] validation.fit=[64,128] validation.videos=1 {TARGET} inference.height=48",
        (25, 87),
        (2, 12, 12),
        VIDEO,
        panoptic=True,
        space="viper_cityscapes",
        unseen=("fence", "terrain", "truck", "bus", "motorcycle"),
    ),
}
"""By the name of the benchmark."""


@pytest.fixture(scope="module", autouse=True)
def truths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truths]:
    with benchmark_data(tmp_path_factory.mktemp("benchmarks")) as found:
        yield found


def small_recipe(name: str, *methods: str, more: str = "") -> Recipe:
    parts = [f"benchmarks/{name}", *(f"methods/{method}" for method in methods)]
    return load_recipe("+".join(parts), shlex.split(f"{STEPS} {NARROW} {EXPECTED[name].small} {more}"))


def test_every_benchmark_is_here() -> None:
    shipped = {name for name in recipe_names() if name.startswith("benchmarks/")}
    assert shipped == {f"benchmarks/{name}" for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_a_benchmark_reads(name: str) -> None:
    expected = EXPECTED[name]
    recipe = small_recipe(name, "vidapt", more=CLIPS)
    source, target = open_data(recipe)
    assert (len(source), len(target)) == expected.clips
    assert source.label_space == find_space(recipe.labels)
    assert target[0].target is None
    scored = scored_videos(recipe)
    assert scored.label_space == find_space(expected.space)
    assert len(scored.videos) == expected.frames[0]


@pytest.mark.parametrize("name", EXPECTED)
def test_methods_for_video_find_clips_as_they_are_shipped(name: str) -> None:
    """Snippets of two frames hold no frames that lie further apart."""
    for method in VIDEO_METHODS:
        source, target = open_data(small_recipe(name, method))
        assert len(source[0].frames) == len(target[0].frames)


@pytest.mark.parametrize("name", EXPECTED)
def test_one_step(name: str, tmp_path: Path) -> None:
    recipe = small_recipe(name, "source_only")
    trained = train(recipe, out=tmp_path / "trained", device="cpu")
    assert list(trained.scores) == ["student"]
    check_scores(trained.scores["student"], EXPECTED[name])
    assert {"source/semantic", "source/center", "source/offset"} <= losses(trained.run).keys()

    recipe = small_recipe(name, "vidapt", more=f"{CLIPS} {PARTS} training.initial={trained.run}")
    adapted = adapt(recipe, out=tmp_path / "adapted", device="cpu")
    assert list(adapted.scores) == [*(["upper_bound"] if recipe.upper_bound else []), "adapted"]
    for scores in adapted.scores.values():
        check_scores(scores, EXPECTED[name])
    assert {"source", "mixed", "source/pixel_contrast", "mixed/temporal_contrast"} <= losses(adapted.run).keys()
    assert (adapted.run / "report.html").is_file()


def check_scores(scores: dict[str, Any], expected: Expected) -> None:
    """The right classes are averaged in the right space, and what is measured is finite."""
    assert scores["label_space"] == expected.space
    assert tuple(scores["classes"]) == expected.classes
    assert (scores["videos"], scores["frames"], scores["labelled_frames"]) == expected.frames
    means = ["miou", *(["vpq_1", "stq_sq"] if expected.panoptic else [])]
    for name in means:
        averaged = scores["averaged"][name]
        assert set(expected.classes) - set(expected.unseen) <= set(averaged) <= set(expected.classes)
    segments = ("pq", "sq", "rq", "vpq", "stq", "id_switches", "pq_things", "pq_stuff")
    measured = ("miou", *expected.more, *(segments if expected.panoptic else ()))
    assert {key: scores[key] for key in measured if scores[key] is None or not math.isfinite(scores[key])} == {}
    left_out = {*segments, *AP, "miou13"} - {*measured}
    assert {key: scores.get(key) for key in left_out} == dict.fromkeys(left_out)
    is_video = expected.frames[1] > expected.frames[0]
    assert (scores["flicker"] is not None) == is_video


def losses(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["losses"]
    assert all(np.isfinite(value) for value in found.values())
    return found
