"""Cityscapes-VPS: six annotated frames of 30 with ids that last, in the layout that its preparation scripts leave."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.datasets.miniature.cityscapes import STREET, colour_image, instance_ids
from tests.datasets.miniature.cityscapes_labels import IGNORED, LABELS, TRAIN_LABELS, label_colours
from tests.datasets.miniature.scene import draw_street, hide_labels
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import id_colours, write_json, write_png

RATE = 17.0
LENGTH, FIRST, STEP = 30, 4, 5
VIDEOS = {
    "train": ((1, "frankfurt_000000", 294), (2, "frankfurt_000000", 576)),
    "val": ((5, "frankfurt_000000", 1751), (175, "frankfurt_000001", 49698)),
    "test": ((10, "frankfurt_000000", 3025), (500, "munster_000173", 19)),
}


class _Picture(NamedTuple):
    """One annotated picture: its id, the endings of picture and label, and whether it is the original 20th frame."""

    id: str
    original: bool
    frame: LabelledFrame

    @property
    def file_name(self) -> str:
        return f"{self.id}_{'leftImg8bit' if self.original else 'newImg8bit'}.png"

    @property
    def label_name(self) -> str:
        return f"{self.id}_{'gtFine_color' if self.original else 'final_mask'}.png"


def build(
    root: Path,
    *,
    split: str = "val",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    pictures: str = "img",
    crowds: bool = False,
) -> Truth:
    """Write two videos of a split; ``pictures`` says of which folder the truth tells, ``img`` or ``img_all``.

    img holds every 5th frame, img_all (not of train) all 30 under their Cityscapes names. Classes are train ids, -1 is
    void; objects are the values of panoptic_inst from 1000 on. The official scripts turn group regions of things into
    void in panoptic_inst, panoptic_video and the JSON, although cls and labelmap still show their class; the truth
    follows the panoptic files, which are what is scored. ``crowds`` keeps the groups there instead, as crowd segments
    below 1000, which the same scripts would read. They tell classes by the colours of cls, where polegroup cannot be
    told from pole. No labels of ``test`` are published.

    Assumed: the numbers in front of a name count videos from 1 and annotated frames over all videos (0005_0025 starts
    video 5), new frames of ``inst`` end in _final_mask.png, and the JSONs other than panoptic_gt hold images and
    categories only.
    """
    if pictures == "img_all" and split == "train":
        raise ValueError("Cityscapes-VPS has no img_all of train; take val or test")
    frames: dict[str, TrueFrame] = {}
    videos, annotated, dense = [], [], []
    for index, video in enumerate(VIDEOS[split]):
        drawn = [draw_street(STREET, seed=seed + index, time=time, size=size) for time in range(LENGTH)]
        shown = list(_annotated(video, drawn))
        annotated += shown
        names = [_dense_name(video, offset) for offset in range(LENGTH)]
        dense += names
        truths = [hide_labels(frame) if split == "test" else _scored(frame, crowds) for frame in drawn]
        chosen: dict[str, TrueFrame] = {}
        if pictures == "img":
            chosen = {f"{split}/img/{p.file_name}": t for p, t in zip(shown, truths[FIRST::STEP], strict=True)}
        for offset, name in enumerate(names):
            if split != "train":
                write_png(root / split / "img_all" / name, drawn[offset].image)
            if pictures == "img_all":
                labelled = offset % STEP == FIRST
                chosen[f"{split}/img_all/{name}"] = truths[offset] if labelled else hide_labels(drawn[offset])
        frames |= chosen
        videos.append(list(chosen))
    _write(root, split, annotated, dense, seed, crowds)
    step = STEP if pictures == "img" else 1
    return Truth(root, frames, videos, [[index * step / RATE for index in range(len(video))] for video in videos])


def _annotated(video: tuple[int, str, int], drawn: list[LabelledFrame]) -> Iterator[_Picture]:
    number, sequence, labelled = video
    for index, offset in enumerate(range(FIRST, LENGTH, STEP)):
        count = (number - 1) * len(range(FIRST, LENGTH, STEP)) + index + 1
        stem = f"{number:04d}_{count:04d}_{sequence}_{labelled - 19 + offset:06d}"
        yield _Picture(stem, offset == 19, drawn[offset])


def _dense_name(video: tuple[int, str, int], offset: int) -> str:
    _, sequence, labelled = video
    return f"{sequence}_{labelled - 19 + offset:06d}_leftImg8bit.png"


def _ids_by_colour(label_ids: np.ndarray) -> np.ndarray:
    """Train ids as the scripts find them, by colour, so that polegroup is pole: int32 (H,W), 255 for void."""
    scored = {label.colour: label.train_id for label in TRAIN_LABELS}
    return np.array([scored.get(label.colour, IGNORED) for label in LABELS], np.int32)[label_ids]


def _scored(frame: LabelledFrame, crowds: bool) -> LabelledFrame:
    """Train ids with -1 for all that is not scored, instances of scored classes only."""
    classes = _ids_by_colour(frame.classes)
    if not crowds:
        classes[frame.crowd] = IGNORED
    objects = np.where((frame.objects > 0) & (classes != IGNORED), classes * 1000 + frame.objects % 1000, 0)
    crowd = frame.crowd & crowds
    return LabelledFrame(frame.image, np.where(classes == IGNORED, -1, classes), objects.astype(np.int32), crowd)


def _write(root: Path, split: str, pictures: list[_Picture], dense: list[str], seed: int, crowds: bool) -> None:
    """Write the pictures, labels and JSON files of a split."""
    folder = root / split
    images = [_image(picture.id, picture.file_name, picture.frame.image) for picture in pictures]
    annotations = []
    colours = _Colours(seed)
    for picture in pictures:
        write_png(folder / "img" / picture.file_name, picture.frame.image)
        if split != "test":
            _write_maps(folder, picture, crowds)
            annotations.append(_write_video_panoptic(folder, picture, colours, crowds))
    categories = _categories()
    write_json(root / f"panoptic_im_{split}_city_vps.json", {"images": images, "categories": categories})
    if split != "test":
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(root / f"panoptic_gt_{split}_city_vps.json", content)
    if split != "train":
        every = [_image(name.removesuffix("_leftImg8bit.png"), name, pictures[0].frame.image) for name in dense]
        write_json(root / f"im_all_info_{split}_city_vps.json", {"images": every, "categories": categories})


def _write_maps(folder: Path, picture: _Picture, crowds: bool) -> None:
    """Write cls, inst, labelmap and panoptic_inst of one picture."""
    frame = picture.frame
    colours = colour_image(frame.classes) if picture.original else label_colours(frame.classes)
    inst_name = picture.label_name.replace("gtFine_color", "gtFine_instanceIds")
    write_png(folder / "cls" / picture.label_name, colours)
    write_png(folder / "inst" / inst_name, instance_ids(frame))
    write_png(folder / "labelmap" / picture.label_name, _ids_by_colour(frame.classes).astype(np.uint8))
    write_png(folder / "panoptic_inst" / picture.label_name, _panoptic_inst(frame, crowds))


def _panoptic_inst(frame: LabelledFrame, crowds: bool) -> np.ndarray:
    """1000 * train id + k for things, the train id for stuff and crowd, 255 for void: uint16 (H,W)."""
    scored = _scored(frame, crowds)
    flat = np.where(scored.classes < 0, IGNORED, scored.classes)
    return np.where(scored.objects > 0, scored.objects, flat).astype(np.uint16)


def _write_video_panoptic(folder: Path, picture: _Picture, colours: "_Colours", crowds: bool) -> dict[str, Any]:
    """Write the panoptic_video PNG of one picture; returns its annotation, which has no boxes."""
    values = _panoptic_inst(picture.frame, crowds)
    ids = np.zeros(values.shape, np.int32)
    segments = []
    for value in np.unique(values).tolist():
        category = value if value < 1000 else value // 1000
        if category == IGNORED:
            continue
        segment = colours.segment_id(picture.id[:4], value)
        ids[values == value] = segment
        is_crowd = int(value < 1000 and TRAIN_LABELS[category].is_thing)
        area = int((values == value).sum())
        segments.append({"id": segment, "category_id": category, "iscrowd": is_crowd, "area": area})
    write_png(folder / "panoptic_video" / picture.label_name, id_colours(ids))
    return {"image_id": picture.id, "file_name": picture.label_name, "segments_info": segments}


class _Colours:
    """Segment ids that are colours: the class colour of stuff, else one of its own for each instance of a video.

    The first instance of a class in the whole data set takes the class colour, later ones random colours near it.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._taken = {label.colour for label in TRAIN_LABELS if not label.is_thing} | {(0, 0, 0)}
        self._ids: dict[tuple[str, int], int] = {}

    def segment_id(self, video: str, value: int) -> int:
        """The id of a panoptic_inst value in a video."""
        if (video, value) not in self._ids:
            label = TRAIN_LABELS[value if value < 1000 else value // 1000]
            red, green, blue = self._free_colour(label.colour) if label.is_thing else label.colour
            self._ids[video, value] = red + 256 * green + 65536 * blue
        return self._ids[video, value]

    def _free_colour(self, base: tuple[int, int, int]) -> tuple[int, int, int]:
        colour = base
        while colour in self._taken:
            red, green, blue = (np.array(base) + self._rng.integers(-30, 31, 3)).clip(0, 255).tolist()
            colour = red, green, blue
        self._taken.add(colour)
        return colour


def _image(image_id: str, file_name: str, picture: np.ndarray) -> dict[str, Any]:
    return {"id": image_id, "width": picture.shape[1], "height": picture.shape[0], "file_name": file_name}


def _categories() -> list[dict[str, Any]]:
    """The published category table with its slips: 'vegitation', and 21 as the label id of traffic sign."""
    return [
        {
            "id": label.train_id,
            "name": "vegitation" if label.name == "vegetation" else label.name,
            "supercategory": label.category,
            "isthing": int(label.is_thing),
            "instance_eval": int(label.is_thing),
            "trainid": label.train_id,
            "ori_id": 21 if label.name == "traffic sign" else label.id,
            "color": list(label.colour),
        }
        for label in TRAIN_LABELS
    ]
