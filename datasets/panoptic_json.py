"""The COCO panoptic format: one JSON that lists pictures and their segments, and pictures of segment ids.

The colour of a pixel is the id of its segment, red + 256 · green + 65536 · blue, 0 is void (Kirillov et al., CVPR
2019; https://cocodataset.org/#format-data). Many data sets are published in it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vidapt.datasets.frame_index import Problem, stamp
from vidapt.errors import InputError
from vidapt.io.coco import ID_LIMIT

if TYPE_CHECKING:
    from numpy.typing import NDArray

Id = int | str
"""Images and categories are numbered or named; ``1`` and ``"1"`` are different."""

_Entry = TypeVar("_Entry")
_PARTS = ("images", "annotations", "categories")
_TYPES: dict[str, tuple[type, ...]] = {
    "a whole number": (int,),
    "text": (str,),
    "a whole number or text": (int, str),
    "0 or 1": (int, bool),
    "a list": (list,),
}


@dataclass(frozen=True, slots=True)
class Category:
    """A class of the JSON; ``colour`` is RGB, None where the file gives none."""

    id: Id
    name: str
    is_thing: bool
    colour: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """A picture of the JSON.

    Attributes:
        file_name: Path below the folder of the pictures.
        height: Rows.
        width: Columns.
        video: Video that it belongs to, None for a still.
        position: Place in the list of images.
    """

    file_name: str
    height: int
    width: int
    video: Id | None
    position: int = 0

    @property
    def name(self) -> str:
        """Name of the frame: the path without its ending, its parts joined by ``_``."""
        return frame_name(self.file_name)


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """The segments of a picture.

    Attributes:
        file_name: Path below the folder of the id pictures.
        segments: int32 (n,3): id, position of the category in ``PanopticIndex.categories``, 1 for a crowd.
    """

    file_name: str
    segments: NDArray[np.int32]


@dataclass(frozen=True)
class PanopticIndex:
    """What a COCO panoptic JSON lists; everything with a problem is left out.

    Attributes:
        categories: Classes in the order of the file.
        images: Pictures by id, in the order of the file.
        annotations: Segments by the id of their image.
        problems: What was left out and why, at most one for each image, and malformed entries that tell no image.
    """

    categories: tuple[Category, ...]
    images: Mapping[Id, ImageEntry] = field(repr=False)
    annotations: Mapping[Id, Annotation] = field(repr=False)
    problems: tuple[Problem, ...]


def frame_name(file_name: str) -> str:
    """Name of a frame after its file.

    >>> frame_name("0001/000012.jpg")
    '0001_000012'
    """
    path = PurePosixPath(file_name.replace("\\", "/"))
    return "_".join(path.with_suffix("").parts) if path.name else ""


def leaves_folder(file_name: str) -> bool:
    """True if a path would lead out of the folder that it is relative to, on any system, or names no file.

    >>> leaves_folder("../secret.png"), leaves_folder("C:\\\\x.png"), leaves_folder("a/b.png")
    (True, True, False)
    """
    path = PureWindowsPath(file_name)
    return bool(path.anchor) or ".." in path.parts or not path.name or "\0" in file_name


def read_index(root: Path, file: str) -> PanopticIndex:
    """Read the JSON ``file`` below ``root``; the last two are kept as long as the files do not change.

    Raises:
        InputError: If it is missing, is no JSON, or as in ``index_document``.
    """
    return _read_stamped(stamp(root / file), file)


@lru_cache(maxsize=2)
def _read_stamped(stamped: tuple[str, int, int], file: str) -> PanopticIndex:
    path = Path(stamped[0])
    return index_document(read_document(path), path, file)


def read_document(path: Path) -> dict[str, Any]:
    """Read a COCO panoptic JSON whole.

    Raises:
        InputError: If it is missing, is no JSON or lacks one of its lists.
    """
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {getattr(error, 'strerror', None) or error}") from error
    lacking = [part for part in _PARTS if not isinstance(data, dict) or not isinstance(data.get(part), list)]
    if lacking:
        raise InputError(f"{path} is not COCO panoptic: it has no list {' and no list '.join(map(repr, lacking))}")
    return dict(data)


def index_document(document: Mapping[str, Any], path: Path, file: str = "") -> PanopticIndex:
    """Check the content of a JSON and keep what reading needs.

    An image or annotation that lacks a key or has a value of another type is a problem of its image.

    Args:
        document: What ``read_document`` returned.
        path: The file, named in errors.
        file: How problems name the file.

    Raises:
        InputError: If a category lacks a key or has a value of another type, or two have one id.
    """
    categories = tuple(_categories(document, path))
    places = {category.id: place for place, category in enumerate(categories)}
    twice = _repeated(category.id for category in categories)
    if twice:
        raise InputError(f"{path} has several categories with the id {_short(twice[0])}; each id may occur once")
    images, bad_images = _entries(document, "images", _image)
    annotations, bad_annotations = _entries(document, "annotations", partial(_annotation, places=places))
    names = {image_id: image.name for image_id, image in images}
    malformed = [*bad_images, *bad_annotations]
    flaws = [(flaw.image, flaw.reason) for flaw in malformed if flaw.image is not None]
    reasons: dict[Id, str] = {}
    for image_id, reason in [*flaws, *_image_flaws(images), *_annotation_flaws(annotations, names)]:
        reasons.setdefault(image_id, reason)
    names = {flaw.image: flaw.name for flaw in bad_images if flaw.image is not None} | names
    nameless = tuple(Problem(flaw.name, file, flaw.reason) for flaw in malformed if flaw.image is None)
    return PanopticIndex(
        categories=categories,
        images={image_id: image for image_id, image in images if image_id not in reasons},
        annotations={found.image: found.annotation for found in annotations if found.image not in reasons},
        problems=(*(Problem(names.get(image_id, ""), file, reason) for image_id, reason in reasons.items()), *nameless),
    )


@dataclass(frozen=True, slots=True)
class _Listed:
    """An annotation of an image and what is wrong with it, "" if nothing is."""

    image: Id
    annotation: Annotation
    flaw: str


@dataclass(frozen=True, slots=True)
class _Malformed:
    """An entry that cannot be read: its image and the name of its frame, None and "" if it does not tell them."""

    image: Id | None
    name: str
    reason: str


def _categories(document: Mapping[str, Any], path: Path) -> Iterator[Category]:
    for place, item in enumerate(document["categories"]):
        try:
            yield _category(item)
        except InputError as error:
            raise InputError(f"{path}: categories[{place}]{error}") from None


def _entries(
    document: Mapping[str, Any], part: str, read: Callable[[int, Any], _Entry]
) -> tuple[list[_Entry], list[_Malformed]]:
    """The entries of a list as ``read`` makes them of place and content, and those that it cannot read."""
    found, malformed = [], []
    for place, item in enumerate(document[part]):
        try:
            found.append(read(place, item))
        except InputError as error:
            malformed.append(_told(part, item, f"is malformed: {part}[{place}]{error}"))
    return found, malformed


def _told(part: str, item: Any, reason: str) -> _Malformed:
    """What a malformed entry still tells."""
    content = item if isinstance(item, dict) else {}
    image, file_name = content.get("id" if part == "images" else "image_id"), content.get("file_name")
    is_id = isinstance(image, int | str) and not isinstance(image, bool)
    name = frame_name(file_name) if part == "images" and isinstance(file_name, str) else ""
    return _Malformed(image if is_id else None, name, reason)


def _value(item: Any, key: str, kind: str, default: Any = None) -> Any:
    """The value of a key, which must be of a kind that ``_TYPES`` lists; a truth value is no whole number."""
    if not isinstance(item, dict):
        raise InputError(f" is {_short(item)}; it must be an object with {key!r}")
    value = item.get(key, default)
    if value is None:
        raise InputError(f" has no {key!r}")
    types = _TYPES[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise InputError(f" has {key} {_short(value)}; it must be {kind}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _flag(item: Any, key: str, default: Any = None) -> bool:
    value = _value(item, key, "0 or 1", default)
    if value not in (0, 1):
        raise InputError(f" has {key} {_short(value)}; it must be 0 or 1")
    return bool(value)


def _category(item: Any) -> Category:
    identity, name = _value(item, "id", "a whole number or text"), _value(item, "name", "text")
    colour = item.get("color")
    if colour is not None and not (
        isinstance(colour, list) and len(colour) == 3 and all(type(v) is int and 0 <= v <= 255 for v in colour)
    ):
        raise InputError(f" has color {_short(colour)}; it must be three whole numbers 0..255")
    return Category(identity, name, _flag(item, "isthing"), None if colour is None else tuple(colour))


def _image(place: int, item: Any) -> tuple[Id, ImageEntry]:
    identity, file_name = _value(item, "id", "a whole number or text"), _value(item, "file_name", "text")
    height, width = (_value(item, key, "a whole number") for key in ("height", "width"))
    video = None if item.get("video_id") is None else _value(item, "video_id", "a whole number or text")
    return identity, ImageEntry(file_name, height, width, video, place)


def _annotation(_: int, item: Any, places: Mapping[Id, int]) -> _Listed:
    image, file_name = _value(item, "image_id", "a whole number or text"), _value(item, "file_name", "text")
    segments = []
    for place, segment in enumerate(_value(item, "segments_info", "a list")):
        try:
            segments.append(_segment(segment))
        except InputError as error:
            raise InputError(f".segments_info[{place}]{error}") from None
    flaw = f" with {_outside(file_name)}" if leaves_folder(file_name) else _segment_flaw(segments, places)
    rows = [] if flaw else [(identity, places[category], crowd) for identity, category, crowd in segments]
    return _Listed(image, Annotation(file_name, np.array(rows, np.int32).reshape(-1, 3)), flaw)


def _segment(item: Any) -> tuple[int, Id, bool]:
    identity = _value(item, "id", "a whole number")
    category = _value(item, "category_id", "a whole number or text")
    return identity, category, _flag(item, "iscrowd", 0)


def _image_flaws(images: Sequence[tuple[Id, ImageEntry]]) -> Iterator[tuple[Id, str]]:
    for image_id in _repeated(image_id for image_id, _ in images):
        yield image_id, f"lists image {_short(image_id)} more than once"
    names = set(_repeated(image.name for _, image in images))
    for image_id, image in images:
        if leaves_folder(image.file_name):
            yield image_id, f"gives image {_short(image_id)} {_outside(image.file_name)}"
        if image.name in names:
            yield image_id, f"gives image {_short(image_id)} the name of another one, {_short(image.name)}"


def _outside(file_name: str) -> str:
    return f"the file_name {_short(file_name)}, which leads out of the folder"


def _annotation_flaws(annotations: Sequence[_Listed], images: Collection[Id]) -> Iterator[tuple[Id, str]]:
    for image_id in _repeated(found.image for found in annotations):
        yield image_id, f"annotates image {_short(image_id)} more than once"
    for found in annotations:
        reason = found.flaw if found.image in images else ", which it does not list"
        if reason:
            yield found.image, f"annotates image {_short(found.image)}{reason}"


def _segment_flaw(segments: Sequence[tuple[int, Id, bool]], places: Mapping[Id, int]) -> str:
    for identity, category, _ in segments:
        if category not in places:
            return f" with category_id {_short(category)}, which is not among its categories"
        if not 0 < identity < ID_LIMIT:
            return f" with segment id {_short(identity)}; allowed: 1..{ID_LIMIT - 1}"
    twice = _repeated(identity for identity, _, _ in segments)
    return f" with segment id {twice[0]} more than once" if twice else ""


def _repeated(values: Iterator[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
