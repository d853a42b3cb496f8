"""``vidapt data convert``: the labels of a data set as COCO panoptic PNG and JSON, in parallel, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from vidapt.config import StoredData
from vidapt.datasets.frame_index import Frame, Problem
from vidapt.datasets.integrity import problem_of
from vidapt.datasets.statistics import labelled_frames, statistics_key
from vidapt.datasets.stored import StoredDataset
from vidapt.errors import InputError, StorageError
from vidapt.io.coco import categories, encode_ids
from vidapt.io.coco_labels import panoptic_labels
from vidapt.io.segmentation_folder import encode_png
from vidapt.jobs.conversion_journal import (
    FAILED,
    Record,
    abandoned_parts,
    forget_others,
    is_finished,
    journal_path,
    list_failed,
    read_journal,
    refuse_disturbed,
    write_picture,
)
from vidapt.jobs.data import build_stored
from vidapt.jobs.files import write_text
from vidapt.jobs.parallel import in_processes, interruptible
from vidapt.labels import LabelSpace, find_space
from vidapt.mapping import find_mapping

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class _Conversion:
    """What every process needs: the data set, the mapped ids, the space and the folder of the pictures."""

    dataset: StoredDataset
    table: NDArray[np.uint8]
    space: LabelSpace
    folder: Path


@dataclass(frozen=True)
class Converted:
    """A finished conversion.

    Attributes:
        json: The JSON file; its pictures lie in the folder of the same name.
        written: Frames written now.
        kept: Frames that an earlier, interrupted conversion had written.
        failed: What could not be converted; ``failed.jsonl`` beside the JSON lists it.
    """

    json: Path
    written: int
    kept: int
    failed: tuple[Problem, ...] = ()


def convert(section: StoredData, *, out: Path, labels: str | None = None, jobs: int | None = None) -> Converted:
    """Write ``out/<split>.json`` and ``out/<split>/<frame>.png``.

    Category ids are the positions in ``labels``; void and unmapped classes are 0; thing regions without an instance are
    crowd. The pictures of an interrupted conversion of the same data are kept. Damaged frames are left out and listed
    in ``out/failed.jsonl``, as is what is wrong in the index of the data set.

    Args:
        section: The data set; it must number instances.
        out: Folder.
        labels: Label space to map into; None is the data set's own.
        jobs: Processes; None takes one a core.

    Raises:
        InputError: If the data set has no instances.
        UserError: If another conversion writes into the same folder.
        StorageError: If writing fails; what was written is kept and continued by the next call.
    """
    dataset = build_stored(section)
    own = dataset.label_space
    if own is None or not dataset.has_instances:
        raise InputError(
            f"{section.kind} {section.split} has no instance labels; a panoptic conversion needs them "
            "(data sets with panoptic labels: 'vidapt data list')"
        )
    space = own if labels is None else find_space(labels)
    work = _Conversion(dataset, find_mapping(own, space, section.mapping).table, space, out / section.split)
    frames = labelled_frames(dataset)
    path, key = out / f"{section.split}.json", _content_key(work, frames)
    if is_finished(path, key, [frame.name for frame in frames], work.folder):
        return _outcome(Converted(path, 0, len(frames), dataset.index_problems), out)
    try:
        forget_others(out, section.split, key)
        done, kept, damaged = _convert_rest(work, frames, journal_path(out, section.split, key), jobs)
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror or error}); run the command again") from error
    written = len(done) - kept
    refuse_disturbed(out, section.split, key, done.values())
    if done:
        write_text(path, _document(work, key, [done[frame.name] for frame in frames if frame.name in done]))
    if not damaged:
        journal_path(out, section.split, key).unlink(missing_ok=True)
    return _outcome(Converted(path, written, kept, (*dataset.index_problems, *damaged)), out)


def _outcome(done: Converted, out: Path) -> Converted:
    list_failed(out, done.json.stem, done.failed)
    return done


def _convert_rest(
    work: _Conversion, frames: Sequence[Frame], journal: Path, jobs: int | None
) -> tuple[dict[str, Record], int, list[Problem]]:
    """Write the pictures that are not there yet; returns all records by frame, how many were there, and failures."""
    work.folder.mkdir(parents=True, exist_ok=True)
    abandoned = abandoned_parts(work.folder)
    done, damaged = read_journal(journal, work.folder), []
    kept = len(done)
    rest = [frame for frame in frames if frame.name not in done]
    with journal.open("a", encoding="utf-8") as file:
        for result in in_processes(_convert_frame, work, rest, jobs=jobs, title=f"converting {work.dataset.split}"):
            if isinstance(result, Problem):
                damaged.append(result)
                continue
            file.write(json.dumps(result) + "\n")
            file.flush()
            done[result["image_id"]] = result
    for part in abandoned:
        part.unlink(missing_ok=True)
    return done, kept, damaged


def run_convert(section: StoredData, *, out: Path, labels: str | None = None, jobs: int | None = None) -> None:
    """Convert and say what was written; arguments and errors as in ``convert``.

    Raises:
        InputError: If anything could not be converted; after the rest was.
        Interrupted: After Ctrl-C; what was written is kept.
    """
    with interruptible("the pictures that were written are kept; run the command again to go on"):
        done = convert(section, out=out, labels=labels, jobs=jobs)
    kept = f", {done.kept} of an earlier run kept" if done.kept else ""
    Console(soft_wrap=True, highlight=False).print(f"{done.json}: {done.written} frames written{kept}")
    if done.failed:
        first = done.failed[0]
        raise InputError(
            f"{len(done.failed)} problems of {section.kind} {section.split} in {section.root}, the first: {first.file} "
            f"{first.reason}; what they concern is not converted, {out / FAILED} lists them"
        )


def _content_key(work: _Conversion, frames: Sequence[Frame]) -> str:
    """Hash of everything that the pictures and the JSON depend on."""
    space = work.space
    meaning = (space.name, space.names, space.is_thing.tobytes(), space.palette.tobytes())
    content = (statistics_key(work.dataset, frames), work.table.tobytes(), *meaning)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]


def _convert_frame(work: _Conversion, frame: Frame) -> Record | Problem:
    """Write the picture of a frame and return its record, or what is wrong with the frame."""
    try:
        labels = work.dataset.read_frame_labels(frame)
        ids, segments = panoptic_labels(work.table[labels.semantic], labels.instance, work.space.is_thing)
    except InputError as error:
        return problem_of(work.dataset, frame, error)
    except ValueError as error:
        return Problem(frame.name, frame.labels[0], str(error))
    written = write_picture(work.folder / f"{frame.name}.png", encode_png(encode_ids(ids)))
    height, width = ids.shape
    return {"image_id": frame.name, **written, "segments_info": segments, "height": height, "width": width}


def _document(work: _Conversion, key: str, records: list[Record]) -> str:
    """The JSON text: annotations of the label pictures, images below the root of the data set, videos if there are."""
    dataset, space = work.dataset, work.space
    video_of = {frame.name: number for number, video in enumerate(dataset.index(), 1) for frame in video.frames}
    picture_of = {frame.name: frame.image for frame in dataset.frames()}
    is_video = dataset.card.video
    images, annotations = [], []
    for record in records:
        size = {name: record.pop(name) for name in ("height", "width")}
        video = {"video_id": video_of[record["image_id"]]} if is_video else {}
        annotations.append(record | video)
        images.append({"id": record["image_id"], "file_name": picture_of[record["image_id"]], **size, **video})
    head = {
        "info": {
            "description": f"{dataset.card.title} {dataset.split}, converted",
            "label_space": space.name,
            "content": key,
        },
        **({"videos": [{"id": n, "name": v.name} for n, v in enumerate(dataset.index(), 1)]} if is_video else {}),
        "images": images,
        "annotations": annotations,
        "categories": categories(space),
    }
    return json.dumps(head) + "\n"
