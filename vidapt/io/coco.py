"""The COCO panoptic format: ids as RGB pictures, and one JSON record per frame, streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from vidapt.clip import PanopticFrame, Segment
from vidapt.errors import InputError
from vidapt.labels import LabelSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

ID_LIMIT = 1 << 24
"""Panoptic ids lie below this, because a picture stores them in three bytes."""

FORMAT = "vidapt segmentation"
"""First words of every panoptic.json that this package writes."""


def encode_ids(ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn ids (H,W) into colours uint8 (H,W,3): id = R + 256 G + 65536 B.

    Raises:
        ValueError: If an id is negative or not below 2^24.
    """
    if ids.size and (ids.min() < 0 or ids.max() >= ID_LIMIT):
        raise ValueError(f"panoptic ids must be in 0..{ID_LIMIT - 1}, got {ids.min()}..{ids.max()}")
    little = np.ascontiguousarray(ids, dtype="<i4")
    return np.ascontiguousarray(little.view(np.uint8).reshape(*ids.shape, 4)[..., :3])


def decode_ids(picture: NDArray[Any]) -> NDArray[np.int32]:
    """Turn colours (H,W,3) RGB back into ids int32 (H,W)."""
    red, green, blue = (picture[..., channel].astype(np.int32) for channel in range(3))
    return red + 256 * green + 65536 * blue


def categories(space: LabelSpace) -> list[dict[str, Any]]:
    """COCO categories of a label space; the category id is the train id."""
    return [
        {"id": index, "name": label.name, "isthing": int(label.is_thing), "color": list(label.colour)}
        for index, label in enumerate(space.classes)
    ]


def annotation(frame: PanopticFrame, file_name: str, video_id: int = 1) -> dict[str, Any]:
    """COCO panoptic annotation of a frame; ``image_id`` is the frame number, ``bbox`` is x, y, width, height."""
    return {
        "image_id": frame.index,
        "video_id": video_id,
        "time": round(frame.time, 6),
        "file_name": file_name,
        "segments_info": [_segment_record(segment) for segment in frame.segments],
    }


def _segment_record(segment: Segment) -> dict[str, Any]:
    x0, y0, x1, y1 = segment.box
    return {
        "id": segment.id,
        "category_id": segment.category,
        "area": segment.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "score": round(float(segment.score), 4),
    }


def read_segments(record: Mapping[str, Any], things: set[int]) -> tuple[Segment, ...]:
    """Segments of an annotation record.

    Args:
        record: What ``annotation`` returned.
        things: Category ids of the things.
    """
    return tuple(_read_segment(item, things) for item in record["segments_info"])


def _read_segment(item: Mapping[str, Any], things: set[int]) -> Segment:
    x, y, width, height = (int(value) for value in item["bbox"])
    category = int(item["category_id"])
    score = float(item.get("score", 1.0))
    return Segment(
        int(item["id"]), category, category in things, score, int(item["area"]), (x, y, x + width, y + height)
    )


class PanopticJson:
    """Writes a panoptic.json record by record; one line per record, images after annotations.

    Args:
        file: Text file open for reading and writing, empty.
        images: Text file open for reading and writing that holds the image records until the end.
        space: Label space of the categories.
        video_name: Name of the video, which gets the id 1.
    """

    def __init__(self, file: IO[str], images: IO[str], space: LabelSpace, video_name: str) -> None:
        self._file = file
        self._images = images
        self._count = 0
        header = {"info": {"description": FORMAT, "label_space": space.name}}
        head = json.dumps(header)[:-1]
        videos = json.dumps([{"id": 1, "name": video_name}])
        file.write(f'{head},\n"videos": {videos},\n"categories": {json.dumps(categories(space))},\n"annotations": [')
        file.flush()
        self._good = (file.tell(), images.tell())

    def add(self, record: Mapping[str, Any], size: tuple[int, int]) -> None:
        """Append an annotation and the record of its image, whose size is (H, W); all or nothing of it is kept."""
        image = {
            "id": record["image_id"],
            "video_id": record["video_id"],
            "file_name": record["file_name"],
            "height": size[0],
            "width": size[1],
            "time": record["time"],
        }
        comma = ",\n" if self._count else "\n"
        self._images.write(comma + json.dumps(image))
        self._file.write(comma + json.dumps(record))
        self._images.flush()
        self._file.flush()
        self._count += 1
        self._good = (self._file.tell(), self._images.tell())

    def finish(self) -> None:
        """Drop a half-written record and close all brackets, so that the file is valid JSON."""
        for stream, end in zip((self._file, self._images), self._good, strict=True):
            stream.seek(end)
            stream.truncate()
        self._file.write('\n],\n"images": [')
        self._images.seek(0)
        for line in self._images:
            self._file.write(line)
        self._file.write("\n]}\n")
        self._file.flush()


def read_header(path: str | Path) -> dict[str, Any]:
    """``info``, ``videos`` and ``categories`` of a panoptic.json written by this package.

    Raises:
        InputError: If the file is missing or was written by something else.
    """
    lines: list[str] = []
    for line in _lines(path):
        if line.startswith('"annotations"'):
            return dict(json.loads("".join(lines).rstrip(",") + "}"))
        lines.append(line)
        if len(lines) > 3 or FORMAT not in lines[0]:
            break
    raise InputError(f"{path} is not a panoptic.json of a segmentation folder; give a folder that 'segment' wrote")


def iterate_annotations(path: str | Path) -> Iterator[dict[str, Any]]:
    """Annotations of a panoptic.json written by this package, one at a time.

    Raises:
        InputError: If the file is missing, written by something else or damaged.
    """
    read_header(path)
    lines = _lines(path)
    for line in lines:
        if line.startswith('"annotations"'):
            break
    for number, line in enumerate(lines):
        if line == "],":
            return
        try:
            yield json.loads(line.rstrip(","))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}: annotation {number} is damaged ({error}); write the segmentation again"
            ) from error
    raise InputError(f"{path} ends in the middle; write the segmentation again")


def _lines(path: str | Path) -> Iterator[str]:
    try:
        with Path(path).open(encoding="utf-8") as file:
            for line in file:
                yield line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
