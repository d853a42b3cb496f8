"""What the report of an adaptation shows: scores of all stages, classes, curves, overlays and a video."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.config import Recipe
from vidapt.io.encoder import write_video
from vidapt.io.overlay import draw_overlay, label_picture
from vidapt.io.report import Picture, ReportContent, Table, curve, jpeg, write_report
from vidapt.jobs.evaluate import evaluation_videos, is_generated, labelled_frames
from vidapt.jobs.plan import describe
from vidapt.jobs.table import COLUMNS, TEST_BED, ScoreData, score_row
from vidapt.segmenter import load

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURED = 4
"""Frames of the first evaluation video that the report shows."""


def write_run_report(
    recipe: Recipe, runs: Mapping[str, Path], scores: Mapping[str, ScoreData], out: Path, *, device: str | None = None
) -> Path:
    """Write ``out/report.html`` about finished stages.

    Args:
        recipe: The run's recipe.
        runs: Run folder of each stage; the last one is the adapted model.
        scores: Scores of each stage.
        out: Run folder.
        device: Where the pictures are segmented.
    """
    pictures, video = _pictures(recipe, runs, out, device)
    command = f"vidapt segment YOUR_VIDEO.mp4 --checkpoint {out} --out segmented"
    content = ReportContent(
        title=f"vidapt: {recipe.name}",
        notice=f"All scores here are from the {TEST_BED}." if is_generated(recipe.evaluation) else None,
        facts=_facts(recipe, out),
        summary=Table(("model", *COLUMNS), [(_title(name), *score_row(score)) for name, score in scores.items()]),
        classes=_class_table(scores),
        curves=_curves(runs),
        pictures=pictures,
        video=video,
        video_caption=f"First evaluation video: image, then {', then '.join(_title(name) for name in _shown(runs))}",
        command=command,
    )
    path = out / "report.html"
    write_report(path, content)
    return path


def _title(name: str) -> str:
    return name.replace("_", " ")


def _shown(runs: Mapping[str, Path]) -> list[str]:
    return [name for name in runs if name != "upper_bound"]


def _facts(recipe: Recipe, out: Path) -> list[tuple[str, str]]:
    environment = json.loads((out / "environment.json").read_text("utf-8"))
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    target = recipe.target
    return [
        ("source", describe(recipe.source)),
        ("target", f"{describe(target)} (unlabelled)" if target else "none"),
        ("evaluation", describe(recipe.evaluation)),
        ("network", recipe.model.encoder.name),
        ("steps", f"{recipe.training.steps}, warm start {recipe.warm_start.steps if recipe.warm_start else 0}"),
        ("seed", str(recipe.training.seed)),
        ("weights scored", recipe.inference.weights),
        (
            "device",
            f"{environment['device_name']}, {environment['processes']} process(es), {environment['threads']} threads",
        ),
        ("versions", f"Python {environment['python']}, {packages}"),
    ]


def _class_table(scores: Mapping[str, ScoreData]) -> Table:
    names = list(scores)
    first = scores[names[0]]["rows"]
    with_pq = all("pq" in row for row in first)
    head = ["class", *(f"IoU {_title(name)}" for name in names)]
    head += [f"PQ {_title(name)}" for name in names] if with_pq else []
    rows = []
    for index, row in enumerate(first):
        cells = [row["class"], *(_percent(scores[name]["rows"][index]["iou"]) for name in names)]
        cells += [_percent(scores[name]["rows"][index]["pq"]) for name in names] if with_pq else []
        rows.append(cells)
    return Table(head, rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _curves(runs: Mapping[str, Path]) -> list[Picture]:
    """One plot per loss, one line per stage."""
    series: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for name, run in runs.items():
        for line in _metrics(run):
            for loss, value in line.get("losses", {}).items():
                if value is None:
                    continue
                steps, values = series.setdefault(loss, {}).setdefault(_title(name), ([], []))
                steps.append(line["step"])
                values.append(value)
    return [curve(loss, lines, "loss") for loss, lines in series.items()]


def _metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def _pictures(
    recipe: Recipe, runs: Mapping[str, Path], out: Path, device: str | None
) -> tuple[Sequence[Picture], bytes | None]:
    """Overlays of the first evaluation video by every shown stage, and the same as a video."""
    if recipe.evaluation is None:
        return (), None
    videos = evaluation_videos(recipe.evaluation)
    palette = videos.label_space.palette
    frames = list(labelled_frames(videos, 0))
    shown = _shown(runs)
    overlays = [_overlays(runs[name], videos.label_space, [image for image, _, _ in frames], device) for name in shown]
    panels = [
        np.concatenate([image, *(drawn[index] for drawn in overlays)], 1) for index, (image, _, _) in enumerate(frames)
    ]
    video = out / "comparison.mp4"
    write_video(panels, video, fps=8)
    picked = np.linspace(0, len(frames) - 1, min(PICTURED, len(frames))).round().astype(int)
    caption = ", ".join(["image", *map(_title, shown), "labels"])
    pictures = [
        jpeg(
            np.concatenate([panels[index], label_picture(frames[index][1][0], palette)], 1), f"frame {index}: {caption}"
        )
        for index in picked
    ]
    return pictures, video.read_bytes()


def _overlays(
    run: Path, space: Any, images: Sequence[NDArray[np.uint8]], device: str | None
) -> list[NDArray[np.uint8]]:
    stream = load(run, device=device, space=space).stream()
    return [draw_overlay(image, stream.push(image), palette=space.palette) for image in images]
