"""COCO panoptic format: any pictures with one RGB PNG of segment ids each and one JSON of their categories."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.datasets.miniature.scene import Cast, draw_street
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import bounding_box, id_colours, write_jpeg, write_json, write_png

CATEGORIES = {
    1: ("person", "person", True),
    2: ("bicycle", "vehicle", True),
    3: ("car", "vehicle", True),
    6: ("bus", "vehicle", True),
    10: ("traffic light", "outdoor", True),
    13: ("stop sign", "outdoor", True),
    128: ("house", "building", False),
    149: ("road", "ground", False),
    184: ("tree-merged", "plant", False),
    187: ("sky-other-merged", "sky", False),
    191: ("pavement-merged", "ground", False),
    193: ("grass-merged", "plant", False),
}
"""Category id -> (name, supercategory, thing): a part of COCO's own list, with its gaps."""
THINGS = frozenset(category for category, (_, _, thing) in CATEGORIES.items() if thing)
_CAST = Cast(
    bands=(187, 128, 184, 193, 191, 149, 149),
    patches=(-1,),
    crowds=(1, 3),
    movers=tuple(
        (category, category << 16 | number) for category, number in ((3, 1), (3, 2), (1, 1), (1, 2), (2, 1), (6, 1))
    ),
    voids=(-1,),
)
_ONCE = 13
_SCRAMBLE, _PRIME = 7919, 2**24 - 3


def build(
    root: Path,
    *,
    split: str = "val2017",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    frames: int = 3,
    image_folder: str | None = None,
    annotation: str | None = None,
    video: bool = False,
) -> Truth:
    """Write ``{split}/{id:012d}.jpg``, ``annotations/panoptic_{split}.json`` and a folder of PNGs named like the JSON.

    ``image_folder`` and ``annotation`` (the JSON's path without its suffix) name other places. A segment id is R + 256
    G + 65536 B, 0 is void. Category ids have gaps, and category 13 occurs in the first picture only. There are two
    crowd regions (``iscrowd`` 1). Every other segment, stuff too, has a true object, since the file gives it an id.
    Annotations stand in the reverse order of the images, so that only ``image_id`` joins them. Heights differ by
    picture.

    With ``video`` two videos of ``frames`` frames of one size lie in folders of their own (``0001/000000.jpg``), each
    image has a ``video_id`` and segment ids stay the same over a video. The format itself defines no videos: that the
    field is called ``video_id`` and sits in ``images``, in temporal order, is taken from the video sets derived from
    it.
    """
    image_folder = split if image_folder is None else image_folder
    annotation = f"annotations/panoptic_{split}" if annotation is None else annotation
    found: dict[str, TrueFrame] = {}
    images: list[dict] = []
    annotations, videos = [], []
    for number, keys in enumerate(_names(video, frames)):
        for time, name in enumerate(keys):
            extent = size if video else (size[0] + 8 * number, size[1])
            frame, segments = _draw(time if video else 0, number, seed, extent)
            image_id = len(images) + 1 if video else int(name)
            entry = {"id": image_id, "file_name": f"{name}.jpg", "height": extent[0], "width": extent[1]}
            images.append({**entry, "video_id": number + 1} if video else entry)
            records = list_segments(segments, frame, lambda category: category)
            annotations.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": records})
            write_jpeg(root / f"{image_folder}/{name}.jpg", frame.image)
            write_segments(root / f"{annotation}/{name}.png", segments)
            found[f"{image_folder}/{name}.jpg"] = frame
        videos.append([f"{image_folder}/{name}.jpg" for name in keys])
    categories = [
        {"id": category, "name": name, "supercategory": group, "isthing": int(thing), "color": [category, 60, 90]}
        for category, (name, group, thing) in CATEGORIES.items()
    ]
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations[::-1], "categories": categories}
    write_json(root / f"{annotation}.json", content)
    return Truth(root, found, videos, None)


def number_segments(frame: LabelledFrame, void: int = -1) -> np.ndarray:
    """One positive number per segment of the frame, things, crowds and stuff; 0 for class ``void``: int32 (H,W)."""
    segments = np.where(frame.objects > 0, frame.objects, (frame.classes + 1) << 16)
    return np.where(frame.classes == void, 0, segments)


def list_segments(segments: np.ndarray, frame: LabelledFrame, category_of: Callable[[int], int]) -> list[dict]:
    """The ``segments_info`` of one picture."""
    records = []
    ids = _file_ids(segments)
    for segment in np.unique(ids[ids > 0]):
        mask = ids == segment
        record = {
            "id": int(segment),
            "category_id": category_of(int(frame.classes[mask][0])),
            "area": int(mask.sum()),
            "bbox": bounding_box(mask),
            "iscrowd": int(frame.crowd[mask][0]),
        }
        records.append(record)
    return records


def write_segments(path: Path, segments: np.ndarray) -> None:
    """Write segment numbers (H,W) as RGB PNG of their file ids."""
    write_png(path, id_colours(_file_ids(segments)))


def _file_ids(segments: np.ndarray) -> np.ndarray:
    """Ids below 2^24 for segment numbers below 2^24 - 3, different for different numbers; 0 stays 0: int64."""
    return segments.astype(np.int64) * _SCRAMBLE % _PRIME


def _names(video: bool, frames: int) -> Iterator[list[str]]:
    """Names of the pictures without suffix, grouped by video."""
    if video:
        return ([f"{number:04d}/{time:06d}" for time in range(frames)] for number in (1, 2))
    return ([f"{142238 + 97 * index:012d}"] for index in range(frames))


def _draw(time: int, number: int, seed: int, size: tuple[int, int]) -> tuple[LabelledFrame, np.ndarray]:
    """One frame, with numbers on stuff, and its segments."""
    frame = draw_street(_CAST, seed=seed * 1000 + number, time=time, size=size)
    if (time, number) == (0, 0):
        frame.classes[:2, :4], frame.objects[:2, :4] = _ONCE, _ONCE << 16 | 1
    segments = number_segments(frame)
    return replace(frame, objects=np.where(frame.crowd, 0, segments)), segments
