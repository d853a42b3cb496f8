"""``vidapt evaluate``: score a run, or a folder of predictions, on labelled videos."""

from __future__ import annotations

from collections.abc import Callable
from errno import EISDIR
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from vidapt.config import Recipe
from vidapt.engine.distributed import make_accelerator, rank
from vidapt.errors import ConfigError, StorageError
from vidapt.evaluation.scores import Scores
from vidapt.jobs.files import write_json, write_text
from vidapt.jobs.score import Evaluated, score_predictions, score_segmenter
from vidapt.jobs.scored_videos import refuse_damaged, scored_space, scored_videos
from vidapt.jobs.table import class_rows_csv
from vidapt.jobs.weights import chosen_path
from vidapt.jobs.worst_frames import write_sheet
from vidapt.segmenter import load

WORST = 8
"""Frames in the picture of the worst."""


def evaluate(
    recipe: Recipe,
    *,
    checkpoint: str | Path | None = None,
    predictions: str | Path | None = None,
    weights: Literal["student", "teacher"] | None = None,
    out: str | Path | None = None,
    csv: str | Path | None = None,
    worst: str | Path | None = None,
    jobs: int | None = None,
    device: str | None = None,
    show: Callable[[Scores], None] | None = None,
) -> Scores:
    """Score the recipe's evaluation videos.

    A segmentation folder keeps the panoptic map only: there mIoU and flicker read void as a class of its own, which is
    always wrong, while a checkpoint is scored with its class for every pixel. PQ, VPQ and STQ are the same either way.

    Args:
        recipe: Its ``evaluation`` names the labelled videos.
        checkpoint: Run, checkpoint folder or ``.safetensors`` file to segment them with.
        predictions: Instead: a folder with one segmentation folder per video (or one itself), or with panoptic PNG
            pictures and one JSON file.
        weights: Which weights of a run; None uses what its recipe says.
        out: JSON file for the scores.
        csv: CSV file for the class table.
        worst: PNG file for a picture of the frames that score worst, with where they are wrong.
        jobs: Processes that score predictions; None takes one a core.
        device: Where the network runs. Started by torchrun, all processes share the videos.
        show: Called with the scores, in the main process, before they are written.

    Raises:
        ConfigError: If the recipe has no evaluation videos, or not exactly one of checkpoint and predictions is given.
        InputError: If a prediction is missing or damaged.
        StorageError: If the scores cannot be written; places that cannot be written to show before anything is scored.
    """
    if (checkpoint is None) == (predictions is None):
        raise ConfigError("evaluate needs exactly one of --checkpoint and --predictions")
    for path in [Path(place) for place in (out, csv, worst) if place is not None]:
        _refuse_unwritable(path)
    kept = 0 if worst is None else WORST
    if checkpoint is not None:
        done = _score_checkpoint(Path(checkpoint), weights, recipe, device, kept)
    else:
        done = score_predictions(Path(str(predictions)), recipe, jobs=jobs, worst=kept)
    if rank() == 0:
        if show is not None:
            show(done.scores)
        head = {"recipe": recipe.name, "protocol": recipe.scoring.protocol, "scored": str(checkpoint or predictions)}
        if checkpoint is not None and Path(checkpoint).is_dir():
            head["weights"] = chosen_path(Path(checkpoint), weights).stem
        _write(done, head, out=out, csv=csv, worst=worst)
    return done.scores


def _write(
    done: Evaluated,
    head: dict[str, str],
    *,
    out: str | Path | None,
    csv: str | Path | None,
    worst: str | Path | None,
) -> None:
    if out is not None:
        write_json(Path(out), head | done.scores.to_dict())
    if csv is not None:
        write_text(Path(csv), class_rows_csv(done.scores.to_dict()))
    if worst is not None:
        write_sheet(done.worst, Path(worst))


def _refuse_unwritable(path: Path) -> None:
    """Make the folder of a file and try to write there, which leaves nothing behind."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder")
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error}); choose another file") from error


def _score_checkpoint(
    checkpoint: Path, weights: Literal["student", "teacher"] | None, recipe: Recipe, device: str | None, worst: int
) -> Evaluated:
    # Missing data show before the network is loaded, and torchrun's processes find each other.
    refuse_damaged(scored_videos(recipe))
    accelerator = make_accelerator(device="cpu" if device == "cpu" else "auto")
    segmenter = load(checkpoint, weights, device or str(accelerator.device), scored_space(recipe))
    return score_segmenter(segmenter, recipe, worst=worst, spread=True)
