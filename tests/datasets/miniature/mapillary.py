"""Mapillary Vistas v1.2 and v2.0: JPEG pictures of many sizes with class, instance and panoptic labels."""

import base64
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from tests.datasets.miniature.coco_panoptic import list_segments, number_segments, write_segments
from tests.datasets.miniature.scene import Cast, draw_street, hide_labels
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import write_jpeg, write_json, write_png

_BIRD = 0


@dataclass(frozen=True)
class Edition:
    """One version of the data set: its classes by group in the order of their ids, and what its street shows.

    In ``groups`` a star marks classes with instances and an exclamation mark those that are not evaluated.
    """

    groups: tuple[tuple[str, str], ...]
    panoptic_name: str
    cast: Cast

    @cached_property
    def classes(self) -> list[tuple[str, bool, bool]]:
        """Full name, instances, evaluated; the place in the list is the class id."""
        marked = [f"{group}--{name}" for group, names in self.groups for name in names.split()]
        return [(name.rstrip("*!"), "*" in name, "!" not in name) for name in marked]

    @property
    def things(self) -> frozenset[int]:
        """Class ids with instances."""
        return frozenset(index for index, (_, instances, _) in enumerate(self.classes) if instances)

    @property
    def unlabeled(self) -> int:
        """The last class id, which has no panoptic segment."""
        return len(self.classes) - 1


def _movers(*class_ids: int) -> tuple[tuple[int, int], ...]:
    return tuple((class_id, class_id << 16 | index + 1) for index, class_id in enumerate(class_ids))


EDITIONS = {
    "v1.2": Edition(
        groups=(
            ("animal", "bird* ground-animal*"),
            ("construction--barrier", "curb fence guard-rail other-barrier wall"),
            ("construction--flat", "bike-lane crosswalk-plain* curb-cut parking pedestrian-area rail-track road"),
            ("construction--flat", "service-lane sidewalk"),
            ("construction--structure", "bridge building tunnel"),
            ("human", "person* rider--bicyclist* rider--motorcyclist* rider--other-rider*"),
            ("marking", "crosswalk-zebra* general"),
            ("nature", "mountain sand sky snow terrain vegetation water"),
            ("object", "banner* bench* bike-rack* billboard* catch-basin* cctv-camera* fire-hydrant* junction-box*"),
            ("object", "mailbox* manhole* phone-booth* pothole street-light*"),
            ("object", "support--pole* support--traffic-sign-frame* support--utility-pole* traffic-light*"),
            ("object", "traffic-sign--back* traffic-sign--front* trash-can*"),
            ("object--vehicle", "bicycle* boat* bus* car* caravan* motorcycle* on-rails other-vehicle* trailer*"),
            ("object--vehicle", "truck* wheeled-slow*"),
            ("void", "car-mount ego-vehicle unlabeled!"),
        ),
        panoptic_name="panoptic_2018.json",
        cast=Cast(
            bands=(27, 17, 30, 2, 15, 13, 13, 24),
            columns=(45,),
            patches=(48, 50, 58),
            crowds=(19,),
            movers=_movers(55, 55, 19, 52, 20, 61, 19),
            voids=(65, 64, 63),
        ),
    ),
    "v2.0": Edition(
        groups=(
            ("animal", "bird* ground-animal*"),
            ("construction--barrier", "ambiguous! concrete-block curb fence guard-rail other-barrier road-median"),
            ("construction--barrier", "road-side separator temporary* wall"),
            ("construction--flat", "bike-lane crosswalk-plain* curb-cut driveway* parking parking-aisle"),
            (
                "construction--flat",
                "pedestrian-area rail-track road road-shoulder service-lane sidewalk traffic-island",
            ),
            ("construction--structure", "bridge building garage tunnel"),
            ("human", "person--individual* person--person-group!"),
            ("human--rider", "bicyclist* motorcyclist* other-rider*"),
            ("marking--continuous", "dashed solid zigzag"),
            ("marking--discrete", "ambiguous! arrow--left* arrow--other* arrow--right* arrow--split-left-or-straight*"),
            ("marking--discrete", "arrow--split-right-or-straight* arrow--straight* crosswalk-zebra* give-way-row*"),
            ("marking--discrete", "give-way-single* hatched--chevron hatched--diagonal other-marking* stop-line*"),
            ("marking--discrete", "symbol--bicycle* symbol--other* text*"),
            ("marking-only", "continuous--dashed discrete--crosswalk-zebra discrete--other-marking discrete--text"),
            ("nature", "mountain sand sky snow terrain vegetation water"),
            ("object", "banner* bench* bike-rack* catch-basin* cctv-camera* fire-hydrant* junction-box* mailbox*"),
            ("object", "manhole* parking-meter* phone-booth* pothole"),
            ("object--sign", "advertisement* ambiguous*! back* information* other* store*"),
            ("object", "street-light* support--pole* support--pole-group! support--traffic-sign-frame*"),
            ("object", "support--utility-pole* traffic-cone*"),
            ("object--traffic-light", "general-single* pedestrians* general-upright* general-horizontal* cyclists*"),
            ("object--traffic-light", "other*"),
            ("object--traffic-sign", "ambiguous*! back* direction-back* direction-front* front* information-parking*"),
            ("object--traffic-sign", "temporary-back* temporary-front*"),
            ("object", "trash-can*"),
            ("object--vehicle", "bicycle* boat* bus* car* caravan* motorcycle* on-rails* other-vehicle* trailer*"),
            ("object--vehicle", "truck* vehicle-group! wheeled-slow*"),
            ("object", "water-valve*"),
            ("void", "car-mount dynamic ego-vehicle ground static unlabeled!"),
        ),
        panoptic_name="panoptic_2020.json",
        cast=Cast(
            bands=(61, 27, 64, 4, 24, 21, 21, 36),
            columns=(85,),
            patches=(92, 100),
            crowds=(31, 115),
            movers=_movers(108, 108, 30, 105, 32, 111, 30),
            voids=(123, 120, 118),
        ),
    ),
}


def build(
    root: Path,
    *,
    split: str = "training",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    frames: int = 3,
    version: str = "v1.2",
    version_folder: bool = True,
) -> Truth:
    """Write ``{split}/images/{key}.jpg`` and ``{split}/{version}/{labels,instances,panoptic}/{key}.png``.

    Splits are training, validation and testing (pictures only). Without ``version_folder`` labels lie as in the first
    release of v1.2, ``{split}/labels`` and so on, and the class list is ``config.json`` instead of
    ``config_{version}.json``. ``size`` is that of the first picture; the others are larger and of other shapes. Keys
    have 22 characters, of which '-' and '_' may be the first.

    labels: 8-bit palette, index = class id from 0; unlabeled is the last id. instances: 16-bit grey, class id * 256 +
    instance; instances count from 0 in each class and stuff has 0, neither of which is published. panoptic: RGB ids, 0
    for unlabeled, and a JSON whose category ids are class ids + 1 and whose image ids are the keys. Every segment that
    is no crowd has a true object, stuff too: v1.2 has no instances of on-rails vehicles, v2.0 has. Birds (class 0)
    occur in the first picture only.

    How crowds are written is not published: here a group of people is a segment of class person with ``iscrowd`` 1 in
    v1.2; in v2.0 the groups of people and of vehicles are segments of their own classes 31 and 115 with ``iscrowd`` 1.
    The JSON lists all classes but unlabeled. Readable names and colours are made up.
    """
    if split not in ("training", "validation", "testing"):
        raise ValueError(f"Mapillary Vistas has the splits training, validation and testing, not {split!r}")
    edition = EDITIONS[version]
    top = root / split / version if version_folder else root / split
    found: dict[str, TrueFrame] = {}
    images, annotations = [], []
    for index in range(frames):
        key = _image_key(seed, split, index)
        frame, segments = _draw(edition, index, seed, (size[0] + 8 * index, size[1] + 20 * index))
        write_jpeg(root / f"{split}/images/{key}.jpg", frame.image)
        found[f"{split}/images/{key}.jpg"] = hide_labels(frame) if split == "testing" else frame
        if split == "testing":
            continue
        records = list_segments(segments, frame, lambda class_id: class_id + 1)
        height, width = frame.classes.shape
        images.append({"id": key, "file_name": f"{key}.jpg", "height": height, "width": width})
        annotations.append({"image_id": key, "file_name": f"{key}.png", "segments_info": records})
        _write_labels(top, f"{key}.png", edition, frame, segments)
    if annotations:
        content = {"images": images, "annotations": annotations, "categories": _categories(edition)}
        write_json(top / "panoptic" / edition.panoptic_name, content)
    write_json(root / (f"config_{version}.json" if version_folder else "config.json"), _config(edition, version))
    return Truth(root, found, [[key] for key in found], None)


def _image_key(seed: int, split: str, index: int) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(f"{seed} {split} {index}".encode()).digest()).decode()
    return "-_a"[index % 3] + digest[:21]


def _draw(edition: Edition, index: int, seed: int, size: tuple[int, int]) -> tuple[LabelledFrame, np.ndarray]:
    """One frame, with numbers on stuff, and its segments."""
    frame = draw_street(edition.cast, seed=seed * 1000 + index, size=size)
    if index == 0:
        frame.classes[:2, 4:9], frame.objects[:2, 4:9] = _BIRD, _BIRD << 16 | 1
    segments = number_segments(frame, void=edition.unlabeled)
    return replace(frame, objects=np.where(frame.crowd, 0, segments)), segments


def _write_labels(top: Path, name: str, edition: Edition, frame: LabelledFrame, segments: np.ndarray) -> None:
    palette = [value for class_id in range(len(edition.classes)) for value in _colour(class_id)]
    write_png(top / "labels" / name, frame.classes.astype(np.uint8), palette)
    write_png(top / "instances" / name, _instance_picture(edition, frame, segments))
    write_segments(top / "panoptic" / name, segments)


def _instance_picture(edition: Edition, frame: LabelledFrame, segments: np.ndarray) -> np.ndarray:
    """Class id * 256 + the place of the segment among those of its class: uint16 (H,W)."""
    picture = frame.classes * 256
    for class_id in edition.things & set(np.unique(frame.classes).tolist()):
        here = frame.classes == class_id
        picture[here] += np.unique(segments[here], return_inverse=True)[1]
    return picture.astype(np.uint16)


def _categories(edition: Edition) -> list[dict]:
    return [
        {
            "id": class_id + 1,
            "name": _readable(name),
            "supercategory": name,
            "isthing": int(instances),
            "color": list(_colour(class_id)),
        }
        for class_id, (name, instances, _) in enumerate(edition.classes[:-1])
    ]


def _config(edition: Edition, version: str) -> dict:
    labels = [
        {
            "name": name,
            "readable": _readable(name),
            "instances": instances,
            "evaluate": evaluated,
            "color": _colour(class_id),
        }
        for class_id, (name, instances, evaluated) in enumerate(edition.classes)
    ]
    return {"labels": labels, "version": version.removeprefix("v")}


def _readable(name: str) -> str:
    return name.rpartition("--")[2].replace("-", " ").title()


def _colour(class_id: int) -> tuple[int, int, int]:
    return class_id * 2, 255 - class_id, class_id * 29 % 256
