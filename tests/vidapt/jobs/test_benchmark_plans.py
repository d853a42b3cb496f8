"""``--dry-run`` of every shipped benchmark at its full size: what is found, what is mapped, what a run would cost."""

import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.benchmark_data import Truths, benchmark_data
from vidapt import cli
from vidapt.config import StreetWorldData
from vidapt.jobs.data import sections_of
from vidapt.recipe import load_recipe, recipe_names

Rows = dict[str, list[str]]
"""Rows of a plan; a name stands for several rows where there are several sources."""

IDS = (
    "19 of 35 of cityscapes_ids map to cityscapes (19 classes); without counterpart: parking, rail track, guard rail, "
    "bridge, tunnel, polegroup, caravan, trailer"
)
RAND = "19 of 23 of synthia map to cityscapes (19 classes); without counterpart: parking slot, road work, lane marking"
GAME = (
    "16 of 32 of viper map to viper_cityscapes (15 classes); without counterpart: rail track, infrastructure, "
    "billboard, mobile barrier, fire hydrant, chair, trash, trash can, animal, van, trailer, train, plane, boat"
)
RIDERS = (
    "16 of 35 of cityscapes_ids map to viper_cityscapes (15 classes); without counterpart: parking, rail track, wall, "
    "guard rail, bridge, tunnel, pole, polegroup, caravan, trailer, train"
)
VISTAS = (
    "32 of 66 of mapillary_v1.2 map to cityscapes (19 classes); without counterpart: bird, ground animal, guard rail, "
    "barrier, rail track, bridge, tunnel, mountain, sand, snow, water, banner, bench, bike rack, billboard, "
    "catch basin, cctv camera, fire hydrant, junction box, mailbox, manhole, phone booth, pothole, street light, "
    "traffic sign frame, trash can, boat, caravan, other vehicle, trailer, wheeled slow, car mount, ego vehicle"
)
WITH_IDS = {"source classes": [IDS], "evaluation classes": [IDS]}
ALL = "mean over all 19 classes of cityscapes"
SIXTEEN = "mean over 16 of 19 classes of cityscapes, without terrain, truck, train (their pixels are counted)"
FIFTEEN = "mean over all 15 classes of viper_cityscapes"


def found(frames: int, keys: int, official: int | None, labelled: int | None = None) -> list[str]:
    """The row of the files of one data set; ``labelled`` is None for a target."""
    labels = "" if labelled is None else f", {labelled} with labels"
    return [f"{frames} frames{labels}; {keys} key frames, {official or 'an unknown number'} in the official split"]


CITYSCAPES = {
    "target": ["cityscapes train cityscapes: 3 clips"],
    "target files": found(3, 3, 2975),
    "evaluation": ["cityscapes val cityscapes"],
    "evaluation files": found(3, 3, 500, 3),
    "evaluation classes": [IDS],
}
FROM_CITYSCAPES = {
    "source": ["cityscapes train cityscapes: 3 clips"],
    "source files": found(3, 3, 2975, 3),
    "source classes": [IDS],
}
FROM_RAND = {
    "source": ["synthia train synthia: 3 clips"],
    "source files": found(3, 3, 9400, 3),
    "source classes": [RAND],
}
VISTAS_ROWS = {
    "target": ["mapillary training mapillary: 3 clips"],
    "target files": found(3, 3, 18000),
    "evaluation files": found(3, 3, 2000, 3),
    "evaluation classes": [VISTAS],
}
SNIPPETS = {
    "target": ["cityscapes_sequence train cityscapes: 3 clips"],
    "target files": found(6, 3, 2975),
    "evaluation files": found(6, 3, 500, 3),
}
FROM_GAME = {
    "source": ["viper train viper: 4 clips"],
    "source files": found(8, 4, None, 4),
    "source classes": [GAME],
}
CROPS = {name: "128x256" for name in ("street_world_fog", "street_world_night", "street_world_texture")}
CROPS["street_world_to_camvid"] = "144x192"
PLANS: dict[str, Rows] = {
    "cityscapes_to_acdc": FROM_CITYSCAPES
    | {
        "target files": found(8, 8, 1600),
        "evaluation files": found(8, 8, 406, 8),
        "evaluation classes": [IDS],
        "protocol": [f"Cityscapes to ACDC, semantic, validation split: {ALL}"],
    },
    "cityscapes_to_dark_zurich": FROM_CITYSCAPES
    | {
        "target files": found(3, 3, 2416),
        "evaluation files": found(2, 2, 50, 2),
        "evaluation classes": ["the same as cityscapes"],
        "protocol": [f"Cityscapes to Dark Zurich, semantic, validation split: {ALL}"],
    },
    "cityscapes_to_foggy": FROM_CITYSCAPES
    | {
        "target": ["foggy_cityscapes train cityscapes: 3 clips"],
        "evaluation files": found(3, 3, 500, 3),
        "evaluation classes": [IDS],
        "protocol": [f"Cityscapes to Foggy Cityscapes, panoptic: {ALL}"],
    },
    "cityscapes_to_foggy_16": FROM_CITYSCAPES
    | {"protocol": [f"Cityscapes to Foggy Cityscapes, panoptic, 16 classes: {SIXTEEN}"]},
    "cityscapes_to_mapillary_16": FROM_CITYSCAPES
    | VISTAS_ROWS
    | {"protocol": [f"Cityscapes to Mapillary Vistas, panoptic, 16 classes, scored at 1024x768: {SIXTEEN}"]},
    "cityscapes_to_mapillary": FROM_CITYSCAPES
    | VISTAS_ROWS
    | {"protocol": [f"Cityscapes to Mapillary Vistas, panoptic, scored at 1024x768: {ALL}"]},
    "gta5_to_cityscapes": CITYSCAPES
    | {
        "source": ["gta5 train gta5: 4 clips"],
        "source files": found(4, 4, 24964, 4),
        "source classes": [IDS],
        "protocol": [f"GTA5 to Cityscapes, semantic: {ALL}"],
    },
    "street_world_fog": {"evaluation videos": ["8"], "protocol": [ALL]},
    "street_world_night": {"evaluation videos": ["8"], "protocol": [ALL]},
    "street_world_texture": {"evaluation videos": ["8"], "protocol": [ALL]},
    "street_world_to_camvid": {
        "source classes": ["the same as cityscapes"],
        "evaluation classes": ["the same as camvid; network: 19 of 19 of cityscapes map to camvid (11 classes)"],
        "protocol": ["CamVid val clip, semantic: mean over all 11 classes of camvid"],
    },
    "synthia_gta5_to_cityscapes": CITYSCAPES
    | {
        "source": ["synthia train synthia (50%) + gta5 train gta5 (50%): 8 clips"],
        "source files": found(3, 3, 9400, 3) + found(4, 4, 24964, 4),
        "source classes": [RAND, IDS],
        "protocol": [f"SYNTHIA and GTA5 to Cityscapes, semantic: {ALL}"],
    },
    "synthia_seq_to_cityscapes_sequence": SNIPPETS
    | {
        "source": ["synthia_seq train synthia_seq: 3 clips"],
        "source classes": [
            "12 of 16 of synthia_seq map to synthia_seq_cityscapes (12 classes); without counterpart: lane marking"
        ],
        "evaluation classes": [
            "12 of 35 of cityscapes_ids map to synthia_seq_cityscapes (12 classes); without counterpart: parking, rail "
            "track, wall, guard rail, bridge, tunnel, polegroup, terrain, truck, bus, caravan, trailer, train, "
            "motorcycle, bicycle"
        ],
        "protocol": [
            "SYNTHIA-Seq to Cityscapes sequences, video semantic: mean over 11 of 12 classes of "
            "synthia_seq_cityscapes, without fence (their pixels are counted)"
        ],
    },
    "synthia_to_cityscapes": FROM_RAND
    | CITYSCAPES
    | {"protocol": [f"SYNTHIA to Cityscapes, panoptic, EDAPS convention: {SIXTEEN}"]},
    "synthia_to_cityscapes_cvrn": FROM_RAND
    | CITYSCAPES
    | {"protocol": [f"SYNTHIA to Cityscapes, panoptic, CVRN convention: {SIXTEEN.replace('counted', 'ignored')}"]},
    "synthia_to_cityscapes_semantic": FROM_RAND
    | CITYSCAPES
    | {"protocol": [f"SYNTHIA to Cityscapes, semantic: {SIXTEEN}"]},
    "synthia_to_mapillary": FROM_RAND
    | VISTAS_ROWS
    | {"protocol": [f"SYNTHIA to Mapillary Vistas, panoptic, scored at 1024x768: {SIXTEEN}"]},
    "viper_to_cityscapes_sequence": FROM_GAME
    | SNIPPETS
    | {
        "evaluation classes": [RIDERS],
        "protocol": [f"VIPER to Cityscapes sequences, video semantic, riders count as persons: {FIFTEEN}"],
    },
    "viper_to_cityscapes_sequence_rider_ignored": FROM_GAME
    | SNIPPETS
    | {
        "evaluation classes": [RIDERS.replace("16 of 35", "15 of 35").replace("polegroup, ", "polegroup, rider, ")],
        "protocol": [f"VIPER to Cityscapes sequences, video semantic, riders ignored: {FIFTEEN}"],
    },
    "viper_to_cityscapes_vps": {
        "source": ["viper train viper: 25 clips"],
        "source files": found(27, 27, None, 27),
        "source classes": [GAME],
        "target": ["cityscapes_sequence train cityscapes: 87 clips"],
        "target files": found(90, 3, 2975),
        "target margins": ["pseudo-labels of 15 rows at the top and 120 at the bottom do not count"],
        "validation": ["viper val viper"],
        "evaluation": ["cityscapes_vps val cityscapes_vps"],
        "evaluation files": found(12, 12, None, 12),
        "evaluation classes": [
            "16 of 19 of cityscapes map to viper_cityscapes (15 classes); without counterpart: wall, pole, train"
        ],
        "protocol": [f"VIPER to Cityscapes-VPS, video panoptic (vidapt's own protocol): {FIFTEEN}"],
    },
}
"""Rows of the adaptation's plan by the name of the benchmark."""

LARGE = ("synthia_to_cityscapes", "viper_to_cityscapes_vps")
"""Those that are planned with the large network; a step of it takes seconds."""

METHOD = (
    *("training.clip_length=2", "training.interval=1", "method.student=clips", "method.pseudo_labels.mirrored=false"),
    *("method.feature_distance=null", "method.pixel_contrast=null", "method.masked_consistency=null"),
)
"""What the plans are made for, whatever else the method lists."""


@pytest.fixture(scope="module", autouse=True)
def truths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truths]:
    with benchmark_data(tmp_path_factory.mktemp("plans")) as written:
        yield written


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Rows]:
    """The plans that a command prints, by stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "800")
        patch.setattr(sys, "argv", ["vidapt", *arguments, "--device", "cpu", "--dry-run"])
        with pytest.raises(SystemExit) as left:
            cli.main()
    output = capsys.readouterr()
    assert (left.value.code or 0, output.err) == (0, "")
    return [read_rows(part) for part in output.out.split("plan of ")[1:]]


def read_rows(text: str) -> Rows:
    rows: Rows = {}
    for name, value in re.findall(r"^│ (.+?) +│ (.+?) +│$", text, re.MULTILINE):
        rows.setdefault(name, []).append(value)
    return rows


def test_every_benchmark_is_here() -> None:
    assert {f"benchmarks/{name}" for name in PLANS} == {name for name in recipe_names() if name.startswith("benchm")}


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_of_a_benchmark(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is trained and nothing is written; every recipe keeps its own crop, batch and data options."""
    encoder = "mit_b5" if name in LARGE else "mit_b0"
    options = ["--set", "model.encoder.pretrained=false", "--set", f"model.encoder.name={encoder}"]
    options += [part for text in METHOD for part in ("--set", text)]
    if "street_world" in name:
        options += [part for key in ("source", "target", "upper_bound") for part in few_videos(name, key)]
    before = files_here()
    *earlier, rows = dry_run(capsys, "adapt", f"benchmarks/{name}+methods/vidapt+networks/mit_b5", *options)
    assert files_here() == before
    assert len(earlier) == ("street_world" in name)
    assert {key: rows.get(key) for key in PLANS[name]} == PLANS[name]
    frames = 2 if "sequence" in name or "vps" in name or "street_world" in name else 1
    assert rows["batch"] == [f"2 clips of {frames} frames, crop {CROPS.get(name, '512x512')}"]
    size = "mit_b5, 85.40 M" if name in LARGE else "mit_b0, 7.08 M"
    assert rows["network"] == [f"{size} parameters, random weights"]
    check_costs(rows)
    assert all(megabytes(stage) <= megabytes(rows) for stage in earlier)


def test_a_plan_needs_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "training.crop=[64,128]", "--set", "model.encoder.name=mit_b0"]
    (rows,) = dry_run(capsys, "train", "benchmarks/gta5_to_cityscapes+networks/mit_b5", *small)
    assert rows["network"] == ["mit_b0, 7.08 M parameters, encoder weights mit_b5.pth (missing)"]
    assert "target margins" not in rows


def test_the_plan_of_a_small_supervised_step(capsys: pytest.CaptureFixture[str]) -> None:
    """What takes no time is measured as it is."""
    small = ["--set", "training.crop=[64,128]", "--set", "training.steps=7"]
    (rows,) = dry_run(capsys, "train", "benchmarks/gta5_to_cityscapes+methods/source_only", *small)
    assert rows["target"] == ["none (supervised)"]
    assert "target files" not in rows
    assert rows["steps"] == ["7"]
    assert re.fullmatch(r"[\d.]+ s", rows["one step"][0])
    assert re.fullmatch(r"\d+ MB after one step on cpu", rows["memory"][0])


def few_videos(name: str, key: str) -> list[str]:
    """--set texts that keep generated data from being drawn for minutes."""
    section = getattr(load_recipe(f"benchmarks/{name}"), key)
    return ["--set", f"{key}.videos=1"] if isinstance(sections_of(section)[0], StreetWorldData) else []


def files_here() -> dict[Path, int]:
    """All files of the working folder and of the data folder beside it, with the times of their last change."""
    return {path: path.stat().st_mtime_ns for path in Path("..").resolve().rglob("*")}


def check_costs(rows: Rows) -> None:
    """Steps, time and memory fit together; autograd keeps 1 GB for each frame of 512x512 even in the small network."""
    height, width = (int(side) for side in rows["batch"][0].rsplit(" ", 1)[1].split("x"))
    note = r" \(estimated from 1 clip of 128x128, times 32\)" if height == 512 else ""
    assert rows["steps"] == ["40000"]
    assert re.fullmatch(rf"[\d.]+ s{note}", rows["one step"][0])
    assert re.fullmatch(rf"\d+ MB after one step on cpu{note}", rows["memory"][0])
    days, hours, minutes, seconds = re.fullmatch(r"(?:(\d+) days?, )?(\d+):(\d+):(\d+)", rows["ETA"][0]).groups("0")
    took = timedelta(days=int(days), hours=int(hours), minutes=int(minutes), seconds=int(seconds))
    assert took.total_seconds() == pytest.approx(float(rows["one step"][0].split()[0]) * 40000, abs=201)
    share = height * width / 512**2
    assert 1000 * share * 2 * int(rows["batch"][0].split()[3]) < megabytes(rows) < 60000


def megabytes(rows: Rows) -> int:
    amount, unit = rows["memory"][0].split()[:2]
    assert unit == "MB"
    return int(amount)
