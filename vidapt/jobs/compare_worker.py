"""What the process of one cell does: train it from the shared start, score its weights, write its file."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import torch
from safetensors.torch import load_file

from vidapt.config import Recipe
from vidapt.engine.checkpoint import latest_checkpoint
from vidapt.errors import CheckpointError
from vidapt.jobs.files import write_json, write_text
from vidapt.jobs.score import score_segmenter
from vidapt.jobs.scored_videos import scored_space
from vidapt.jobs.train import run_stage
from vidapt.jobs.weights import chosen_path
from vidapt.segmenter import load

DIGEST = "digest"
"""File of a run folder: the digest of the cell that it was started for."""

_DETAILS = ("rows", "classes", "label_space", "iou", "unscored", "averaged", "things")


@dataclass(frozen=True)
class Work:
    """One training to do.

    Attributes:
        head: What its file says about which one it is; ``digest`` among it.
        recipe: What is trained and scored.
        run: Its run folder, continued if it was started for the same digest.
        start: Run folder of the shared start; None for a start itself.
        train: False scores the start without further training.
        result: The file to write.
        device: ``cpu`` or ``cuda``; None picks a GPU if there is one.
    """

    head: dict[str, Any]
    recipe: Recipe
    run: Path
    start: Path | None
    train: bool
    result: Path
    device: str | None


def perform(work: Work) -> None:
    """Do one cell and write its file.

    One thread for torch and OpenCV, whatever the number of processes, so that results do not depend on it.

    Raises:
        UserError: If data, configuration or checkpoints do not fit.
        Interrupted: After a stop signal, with the training saved in ``work.run``.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    _keep_only_own_run(work)
    recipe = work.recipe
    if work.start is not None:
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"initial": work.start})})
    begin = time.monotonic()
    measured = _train(recipe, work) if work.train else _untrained(work)
    run, known = measured.pop("run"), measured.pop("scores")
    scores = _scores(recipe, run, work.device, known)
    measured["seconds"]["process"] = round(time.monotonic() - begin, 1)
    write_json(work.result, {**work.head, "weights": recipe.inference.weights, "scores": scores, **measured})


def _keep_only_own_run(work: Work) -> None:
    """Remove what an earlier cell of the same name and other settings left."""
    mark = work.run / DIGEST
    if work.run.exists() and not (mark.is_file() and mark.read_text("utf-8") == work.head["digest"]):
        shutil.rmtree(work.run)
    write_text(mark, work.head["digest"])


def _train(recipe: Recipe, work: Work) -> dict[str, Any]:
    started = latest_checkpoint(work.run) is not None
    result = run_stage(recipe, work.run, resume=started, device=work.device, dry_run=False, command="compare")
    return {
        "run": work.run,
        "scores": dict(result.scores),
        "steps": result.steps,
        "frames": _frames(recipe, result.steps),
        "seconds_per_step": result.seconds / max(1, result.steps),
        "seconds": {"training": round(result.seconds, 1)},
        "start_weights": None if work.start is None else _weights_hash(work.start),
        **_machine(work),
    }


def _untrained(work: Work) -> dict[str, Any]:
    if work.start is None:
        raise CheckpointError("a start cannot be scored before it is trained")
    return {
        "run": work.start,
        "scores": {},
        "steps": 0,
        "frames": {"source": 0, "target": 0},
        "seconds_per_step": None,
        "seconds": {"training": 0.0},
        "start_weights": _weights_hash(work.start),
        **_machine(work),
    }


def _frames(recipe: Recipe, steps: int) -> dict[str, int]:
    """Frames that training has seen, each as often as it was drawn; what an oracle has seen counts as source."""
    seen = steps * recipe.training.batch * recipe.training.clip_length
    return {"source": seen, "target": 0 if recipe.method is None else seen}


def _scores(recipe: Recipe, run: Path, device: str | None, known: dict[str, Any]) -> dict[str, Any]:
    """Scores of all weights of a run by name, those that are ``known`` already as they are."""
    folder = latest_checkpoint(run)
    if recipe.evaluation is None or folder is None:
        return {name: _kept(scores) for name, scores in known.items()}
    for path in sorted(folder.glob("*.safetensors")):
        if path.stem not in known:
            segmenter = load(path, device=device, space=scored_space(recipe))
            known[path.stem] = score_segmenter(segmenter, recipe).scores.to_dict()
    return {name: _kept(known[name]) for name in sorted(known)}


def _kept(scores: Mapping[str, Any]) -> dict[str, Any]:
    """All single numbers, and of the details those that tables need."""
    plain = {name: value for name, value in scores.items() if value is None or isinstance(value, int | float | str)}
    return plain | {name: scores[name] for name in _DETAILS if name in scores}


def _weights_hash(start: Path) -> str:
    """16 hexadecimal digits that change with the weights, whatever the file says beside them."""
    found = hashlib.sha256()
    for name, tensor in sorted(load_file(chosen_path(start)).items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _machine(work: Work) -> dict[str, Any]:
    """Peak memory of this process, device, versions and time."""
    path = work.run / "environment.json"
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    gpu = torch.cuda.is_available() and work.device != "cpu"
    # Linux counts kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "peak_memory": {
            "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
            "gpu": torch.cuda.max_memory_allocated() if gpu else None,
        },
        "device": "cuda" if gpu else "cpu",
        "device_name": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": known.get("packages", {}),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
