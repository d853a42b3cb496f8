"""What the report of an adaptation shows: scores of all stages, classes, curves, overlays and a video."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.config import Recipe
from vidapt.io.encoder import write_video
from vidapt.io.images import resize_image
from vidapt.io.overlay import draw_overlay, label_picture
from vidapt.io.report import Picture, ReportContent, Table, curve, jpeg, write_report
from vidapt.jobs.data import training_target
from vidapt.jobs.describe import describe, describe_all, describe_method, sections_of
from vidapt.jobs.scored_videos import is_generated, labelled_frames, scored_space, scored_videos
from vidapt.jobs.table import COLUMNS, TEST_BED, ScoreData, row_title, score_row
from vidapt.labels import LabelSpace
from vidapt.segmenter import load

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURED = 4
"""Frames of the video that the report shows as pictures."""

FILMED = 80
"""Frames that its video has at most."""

UNITS = {"confidence": "share of pixels", "instances": "per clip"}
"""What curves show that are not losses."""

HEIGHT = 240
"""Largest height of its pictures in pixels."""


def write_run_report(
    recipe: Recipe, runs: Mapping[str, Path], scores: Mapping[str, ScoreData], out: Path, *, device: str | None = None
) -> Path:
    """Write ``out/report.html`` about finished stages.

    Args:
        recipe: The run's recipe.
        runs: Run folder of each stage; the last one is the adapted model.
        scores: Scores of each stage; empty where nothing is labelled.
        out: Run folder.
        device: Where the pictures are segmented.
    """
    pictures, video, caption = _pictures(recipe, runs, out, device)
    summary = Table(
        ("model", *COLUMNS), [(row_title(name, score), *score_row(score)) for name, score in scores.items()]
    )
    content = ReportContent(
        title=f"vidapt: {recipe.name}",
        notice=f"All scores here are from the {TEST_BED}." if is_generated(recipe.evaluation) else None,
        facts=_facts(recipe, out),
        summary=summary if scores else None,
        classes=_class_table(scores, recipe) if scores else None,
        curves=_curves(runs),
        pictures=pictures,
        video=video,
        video_caption=caption,
        command=f"vidapt segment YOUR_VIDEO.mp4 --checkpoint {quote(str(out))} --out segmented",
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
        ("source", describe_all(recipe.source)),
        ("target", f"{describe(target)} (unlabelled)" if target else "none"),
        ("evaluation", describe(recipe.evaluation)),
        ("method", describe_method(recipe.method)),
        ("network", recipe.model.encoder.name),
        ("steps", f"{recipe.training.steps}, warm start {recipe.warm_start.steps if recipe.warm_start else 0}"),
        ("seed", str(recipe.training.seed)),
        ("command", environment.get("command", "not recorded")),
        (
            "device",
            f"{environment['device_name']}, {environment['processes']} process(es), {environment['threads']} threads",
        ),
        ("versions", f"Python {environment['python']}, {packages}"),
    ]


def _class_table(scores: Mapping[str, ScoreData], recipe: Recipe) -> Table:
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
    space = None if recipe.evaluation is None else scored_space(recipe)
    return Table(head, rows, [label.colour for label in space.classes] if space else ())


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
    return [curve(loss, lines, UNITS.get(loss, "loss")) for loss, lines in series.items()]


def _metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def _pictures(
    recipe: Recipe, runs: Mapping[str, Path], out: Path, device: str | None
) -> tuple[list[Picture], bytes | None, str]:
    """Overlays of one video by every shown stage, the same as a video, and the caption of both."""
    footage = _footage(recipe)
    images = [image for image, _ in footage.frames]
    shown = _shown(runs)
    columns = [_overlays(runs[name], footage.space, images, device) for name in shown]
    panels = [np.concatenate(row, 1) for row in zip([_fit(image) for image in images], *columns, strict=True)]
    caption = f"{footage.what}: {', '.join(['image', *map(_title, shown)])}"
    picked = np.linspace(0, len(images) - 1, min(PICTURED, len(images))).round().astype(int)
    pictures = [_picture(panels[index], footage, index, caption) for index in picked]
    video = write_video(panels, out / "comparison.mp4", fps=8) if len(panels) > 1 else None
    return pictures, None if video is None else video.read_bytes(), caption


def _picture(panel: NDArray[np.uint8], footage: Footage, index: int, caption: str) -> Picture:
    labels = footage.frames[index][1]
    if labels is None or footage.space is None:
        return jpeg(panel, f"frame {index} of the {caption}")
    picture = _fit(label_picture(labels, footage.space.palette))
    return jpeg(np.concatenate([panel, picture], 1), f"frame {index} of the {caption}, labels")


@dataclass(frozen=True)
class Footage:
    """The video that a report shows.

    Attributes:
        what: What it is.
        frames: Images with their labels or None.
        space: Label space of the labels, None for unlabelled footage.
    """

    what: str
    frames: list[tuple[NDArray[np.uint8], NDArray[np.uint8] | None]]
    space: LabelSpace | None


def _footage(recipe: Recipe) -> Footage:
    """The first evaluation video, or else the first video of the target or of the source; no more than a short part."""
    if recipe.evaluation is not None:
        videos = scored_videos(recipe)
        labelled = [(image, labels[0]) for image, labels, _ in islice(labelled_frames(videos, 0), FILMED)]
        return Footage("first evaluation video", labelled, videos.label_space)
    what = "source" if recipe.target is None else "target"
    shown = recipe.target or sections_of(recipe.source)[0]
    # Without its labels: only pictures are shown.
    dataset = training_target(shown, clip_length=1, interval=1, alone=True)
    clips = (dataset[index] for index in range(min(FILMED, len(dataset))))
    name = dataset[0].video
    first = list(takewhile(lambda clip: clip.video == name, clips))
    images = [np.ascontiguousarray(clip.frames[0].permute(1, 2, 0).numpy()) for clip in first]
    return Footage(f"first {what} video", [(image, None) for image in images], None)


def _overlays(
    run: Path, space: LabelSpace | None, images: Sequence[NDArray[np.uint8]], device: str | None
) -> list[NDArray[np.uint8]]:
    segmenter = load(run, device=device, space=space)
    stream = segmenter.stream()
    return [_fit(draw_overlay(image, stream.push(image), palette=segmenter.space.palette)) for image in images]


def _fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most as high as pictures in a report are."""
    return resize_image(image, min(image.shape[0], HEIGHT))
