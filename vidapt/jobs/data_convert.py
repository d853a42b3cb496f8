"""``vidapt data convert``: the labels of a data set as COCO panoptic PNG and JSON, in parallel, resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from vidapt.config import StoredData
from vidapt.datasets.statistics import labelled_frames, statistics_key
from vidapt.datasets.stored import Frame, StoredDataset
from vidapt.errors import InputError, StorageError
from vidapt.io.coco import categories, encode_ids
from vidapt.io.coco_labels import panoptic_labels
from vidapt.io.segmentation_folder import encode_png
from vidapt.jobs.data import build_stored
from vidapt.jobs.files import write_text
from vidapt.jobs.parallel import in_processes
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
    """

    json: Path
    written: int
    kept: int


def convert(section: StoredData, *, out: Path, labels: str | None = None, jobs: int | None = None) -> Converted:
    """Write ``out/<split>.json`` and ``out/<split>/<frame>.png``.

    Category ids are the positions in ``labels``; void and unmapped classes are 0; thing regions without an instance are
    crowd. The pictures of an interrupted conversion of the same data are kept.

    Args:
        section: The data set; it must number instances.
        out: Folder.
        labels: Label space to map into; None is the data set's own.
        jobs: Processes; None takes one a core.

    Raises:
        InputError: If the data set has no instances or a frame is damaged.
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
    if _is_finished(path, key, work.folder):
        return Converted(path, 0, len(frames))
    journal = out / f".{section.split}.{key}.jsonl"
    done = _read_journal(journal, work.folder)
    rest = [frame for frame in frames if frame.name not in done]
    kept = len(done)
    try:
        work.folder.mkdir(parents=True, exist_ok=True)
        with journal.open("a", encoding="utf-8") as file:
            for record in in_processes(_convert_frame, work, rest, jobs=jobs, title=f"converting {section.split}"):
                file.write(json.dumps(record) + "\n")
                file.flush()
                done[record["image_id"]] = record
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror or error}); run the command again") from error
    write_text(path, _document(work, key, [done[frame.name] for frame in frames]))
    journal.unlink(missing_ok=True)
    return Converted(path, len(rest), kept)


def run_convert(section: StoredData, *, out: Path, labels: str | None = None, jobs: int | None = None) -> None:
    """Convert and say what was written; arguments and errors as in ``convert``."""
    done = convert(section, out=out, labels=labels, jobs=jobs)
    kept = f", {done.kept} of an earlier run kept" if done.kept else ""
    Console(soft_wrap=True, highlight=False).print(f"{done.json}: {done.written} frames written{kept}")


def _content_key(work: _Conversion, frames: Sequence[Frame]) -> str:
    """Hash of everything that the pictures depend on."""
    content = (statistics_key(work.dataset, frames), work.table.tobytes(), work.space.is_thing.tobytes())
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]


def _convert_frame(work: _Conversion, frame: Frame) -> dict[str, Any]:
    """Write the picture of a frame and return its record."""
    labels = work.dataset.read_frame_labels(frame)
    try:
        ids, segments = panoptic_labels(work.table[labels.semantic], labels.instance, work.space.is_thing)
    except ValueError as error:
        raise InputError(f"{work.dataset.root / frame.labels[0]}: {error}") from error
    name = f"{frame.name}.png"
    part = work.folder / f".{name}.part"
    part.write_bytes(encode_png(encode_ids(ids)))
    os.replace(part, work.folder / name)
    height, width = ids.shape
    return {"image_id": frame.name, "file_name": name, "segments_info": segments, "height": height, "width": width}


def _read_journal(path: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Records of an interrupted conversion whose pictures are there; a half-written last line is dropped."""
    done = {}
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
    for line in lines:
        record = _read_record(line)
        if record is not None and (folder / record["file_name"]).is_file():
            done[record["image_id"]] = record
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), "utf-8")
    return done


def _read_record(line: str) -> dict[str, Any] | None:
    """The record of a whole line; None for one that is cut or damaged."""
    try:
        record = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _is_finished(path: Path, key: str, folder: Path) -> bool:
    """True if an earlier call has written the same conversion whole."""
    try:
        data = json.loads(path.read_text("utf-8"))
        names = [record["file_name"] for record in data["annotations"]]
        return bool(data["info"]["content"] == key) and all((folder / name).is_file() for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _document(work: _Conversion, key: str, records: list[dict[str, Any]]) -> str:
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
