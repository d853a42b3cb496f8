"""Cityscapes: leftImg8bit and gtFine, as downloaded or with what its preparation scripts add."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.datasets.miniature.cityscapes_labels import IGNORED, LABELS, Label, label_colours, train_ids
from tests.datasets.miniature.scene import Cast, draw_street
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import bounding_box, id_colours, write_json, write_png

STEMS = {
    "train": ("aachen_000000_000019", "aachen_000001_000019", "hamburg_000000_042505"),
    "val": ("frankfurt_000000_000294", "frankfurt_000001_049698", "lindau_000000_000019"),
    "test": ("berlin_000000_000019", "bielefeld_000000_000321"),
}
STREET = Cast(
    bands=(23, 11, 21, 8, 7),
    columns=(17, 18),
    patches=(19, 20, 4, 9),
    crowds=(26, 24),
    movers=((26, 26000), (26, 26003), (24, 24000), (25, 25001), (33, 33258)),
    voids=(1, 2, 3),
)
_SELDOM = Cast(
    bands=(23, 11, 12, 13, 22, 8, 7),
    patches=(5, 6, 10, 14, 15, 16),
    crowds=(33, 25),
    movers=((31, 31000), (29, 29000), (30, 30002), (27, 27001), (28, 28000), (32, 32000)),
    voids=(1, 2, 3),
)


def build(
    root: Path,
    *,
    split: str = "train",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    prepared: bool = False,
) -> Truth:
    """Write a split of still images: 3 of train or val, 2 of test.

    ``classes`` of the truth are label ids (0..33); ``objects`` are the values of instanceIds.png from 1000 on, which
    include caravans and trailers: instances of classes that are never scored. The classes of the second image (terrain,
    train, truck, bus, motorcycle, wall, fence, caravan, trailer) occur nowhere else. Labels of ``test`` show void only.
    ``prepared`` adds the train id images and both variants of the panoptic PNG + JSON. The polygon files are left out.
    """
    frames: dict[str, TrueFrame] = {}
    drawn = {}
    for index, stem in enumerate(STEMS[split]):
        drawn[stem] = frame = true_frame(split, index, seed=seed, size=size)
        path = f"leftImg8bit/{split}/{stem.split('_')[0]}/{stem}_leftImg8bit.png"
        write_png(root / path, frame.image)
        write_labels(root, split, stem, frame)
        frames[path] = frame
        if prepared:
            _write_train_ids(root, split, stem, frame)
    if prepared:
        for suffix in ("", "_trainId"):
            _write_panoptic(root, split, drawn, suffix)
    return Truth(root, frames, [[path] for path in frames], None)


def true_frame(split: str, index: int, *, seed: int, size: tuple[int, int], time: int = 0) -> LabelledFrame:
    """The ``index``-th scene of a split at ``time``; of a test split only void is annotated."""
    frame = draw_street(_SELDOM if index == 1 else STREET, seed=seed + index, time=time, size=size)
    if split != "test":
        return frame
    shown = np.where(frame.classes <= 3, frame.classes, 0)
    return LabelledFrame(frame.image, shown, np.zeros_like(shown), np.zeros(size, bool))


def write_labels(root: Path, split: str, stem: str, frame: LabelledFrame) -> None:
    """Write the label id, instance id and colour images of gtFine."""
    prefix = _prefix(root, split, stem)
    write_png(prefix.with_name(f"{prefix.name}_labelIds.png"), frame.classes.astype(np.uint8))
    write_png(prefix.with_name(f"{prefix.name}_instanceIds.png"), instance_ids(frame))
    write_png(prefix.with_name(f"{prefix.name}_color.png"), colour_image(frame.classes))


def instance_ids(frame: LabelledFrame) -> np.ndarray:
    """The values of instanceIds.png, uint16 (H,W): 1000 * label id + k of instances, else the label id."""
    return np.where(frame.objects > 0, frame.objects, frame.classes).astype(np.uint16)


def colour_image(label_ids: np.ndarray) -> np.ndarray:
    """The opaque colour image of gtFine, uint8 (H,W,4)."""
    return np.dstack([label_colours(label_ids), np.full(label_ids.shape, 255, np.uint8)])


def segment_info(ids: np.ndarray, value: int, with_train_ids: bool = False) -> dict[str, Any]:
    """The entry of one value of instanceIds.png in a panoptic JSON; groups are crowd."""
    label = _label_of(value)
    return {
        "id": value,
        "category_id": label.train_id if with_train_ids else label.id,
        "area": int((ids == value).sum()),
        "bbox": bounding_box(ids == value),
        "iscrowd": int(label.is_thing and value < 1000),
    }


def _prefix(root: Path, split: str, stem: str) -> Path:
    return root / "gtFine" / split / stem.split("_")[0] / f"{stem}_gtFine"


def _write_train_ids(root: Path, split: str, stem: str, frame: LabelledFrame) -> None:
    """Write what the scripts of Cityscapes make of the labels: the same two images in train ids."""
    classes = train_ids(frame.classes)
    numbered = (frame.objects > 0) & (classes != IGNORED)
    instances = np.where(numbered, classes.astype(np.int32) * 1000 + frame.objects % 1000, classes)
    prefix = _prefix(root, split, stem)
    write_png(prefix.with_name(f"{prefix.name}_labelTrainIds.png"), classes)
    write_png(prefix.with_name(f"{prefix.name}_instanceTrainIds.png"), instances.astype(np.uint16))


def _write_panoptic(root: Path, split: str, frames: dict[str, LabelledFrame], suffix: str) -> None:
    """Write the panoptic PNGs and their JSON with label ids, or with ``_trainId`` as ``suffix`` with train ids."""
    name = f"cityscapes_panoptic_{split}{suffix}"
    images, annotations = [], []
    for stem, frame in sorted(frames.items()):
        ids = instance_ids(frame).astype(np.int32)
        segments = [
            segment_info(ids, value, bool(suffix))
            for value in np.unique(ids).tolist()
            if _label_of(value).train_id != IGNORED
        ]
        ids[~np.isin(ids, [segment["id"] for segment in segments])] = 0
        write_png(root / "gtFine" / name / f"{stem}_gtFine_panoptic.png", id_colours(ids))
        height, width = ids.shape
        file_name = f"{stem}_gtFine_leftImg8bit.png"
        images.append({"id": stem, "width": width, "height": height, "file_name": file_name})
        annotations.append({"image_id": stem, "file_name": f"{stem}_gtFine_panoptic.png", "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": _categories(bool(suffix))}
    write_json(root / "gtFine" / f"{name}.json", content)


def _label_of(value: int) -> Label:
    return LABELS[value if value < 1000 else value // 1000]


def _categories(with_train_ids: bool) -> list[dict[str, Any]]:
    return [
        {
            "id": label.train_id if with_train_ids else label.id,
            "name": label.name,
            "color": list(label.colour),
            "supercategory": label.category,
            "isthing": int(label.is_thing),
        }
        for label in LABELS
        if label.train_id != IGNORED
    ]
