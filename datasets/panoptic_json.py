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

import cv2
import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.frame_index import Problem, stamp
from vidapt.errors import InputError, StorageError
from vidapt.io.coco import ID_LIMIT, encode_ids
from vidapt.io.images import read_channels
from vidapt.io.segmentation_folder import encode_png

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


def read_colours(path: Path) -> NDArray[np.uint8]:
    """Read a label picture of 8 bits in each of 3 or 4 channels: uint8 (H,W,C) in the order red, green, blue, alpha.

    Raises:
        InputError: If it is missing, damaged, grey or has 16 bits.
    """
    picture = _read_bytes(path)
    order = cv2.COLOR_BGR2RGB if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(picture, order), np.uint8)


def read_ids(path: Path) -> NDArray[np.int32]:
    """Read a picture of segment ids as int32 (H,W); errors as in ``read_colours``."""
    picture = _read_bytes(path)
    order = cv2.COLOR_BGR2RGBA if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    ids = np.asarray(cv2.cvtColor(picture, order)).view("<i4")[..., 0]
    return np.bitwise_and(ids, ID_LIMIT - 1, out=ids, dtype=np.int32)


def _read_bytes(path: Path) -> NDArray[np.uint8]:
    """The channels as OpenCV orders them: blue, green, red, alpha."""
    picture = read_channels(path)
    if picture.dtype != np.uint8:
        raise InputError(f"{path} has {8 * picture.itemsize} bits per channel; its labels are colours of 8 bits each")
    return picture


def find_segments(ids: NDArray[np.int32], listed: NDArray[np.int32], path: Path) -> NDArray[np.unsignedinteger[Any]]:
    """Position of each pixel's segment in the list, counted from 1; 0 for void.

    Args:
        ids: int32 (H,W), 0..2^24-1.
        listed: int32 (n,) ids of the segments, no two the same.
        path: The picture, named in errors.

    Returns:
        Unsigned (H,W), as small as the number of segments allows.

    Raises:
        InputError: If the picture shows an id that is not listed, or a listed id is nowhere.
    """
    table = np.zeros(ID_LIMIT, np.min_scalar_type(len(listed)))
    table[listed] = np.arange(1, len(listed) + 1)
    place = table[ids]
    if np.count_nonzero(place) != np.count_nonzero(ids):
        unknown = np.unique(ids[(place == 0) & (ids != 0)]).tolist()
        raise InputError(f"{path} shows the segment ids {unknown[:5]}, which its JSON does not list")
    absent = listed[np.bincount(place.reshape(-1), minlength=len(listed) + 1)[1:] == 0].tolist()
    if absent:
        raise InputError(f"{path} does not show the segment ids {absent[:5]}, which its JSON lists")
    return place


def decode(
    ids: NDArray[np.int32], segments: NDArray[np.int32], table: NDArray[np.uint8], path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Classes and instances of a picture of segment ids.

    >>> ids, segments = np.array([[0, 7, 9]], np.int32), np.array([[7, 0, 0], [9, 1, 1]], np.int32)
    >>> semantic, instance = decode(ids, segments, np.array([3, 4], np.uint8), Path("a.png"))
    >>> semantic.tolist(), instance.tolist()
    ([[255, 3, 4]], [[0, 7, 0]])

    Args:
        ids: int32 (H,W) from ``read_ids``.
        segments: int32 (n,3) from ``Annotation``.
        table: uint8 (categories,) class of each category, 255 for void.
        path: The picture, named in errors.

    Returns:
        uint8 (H,W) classes, 255 where there is none; int32 (H,W) segment ids of single instances and of stuff, 0 for
        crowds and void.

    Raises:
        InputError: If the segments of picture and JSON are not the same.
    """
    place = find_segments(ids, segments[:, 0], path)
    classes = np.concatenate([[IGNORE], table[segments[:, 1]]]).astype(np.uint8)
    single = (segments[:, 2] == 0) & (classes[1:] != IGNORE)
    numbers = np.concatenate([[0], np.where(single, segments[:, 0], 0)]).astype(np.int32)
    return classes[place], numbers[place]


def write_panoptic(
    document: Mapping[str, Any], pictures: Callable[[str], NDArray[np.int32]], path: Path, folder: Path
) -> None:
    """Write a JSON and its id pictures; ``read_document`` and ``read_ids`` give back the same data and ids.

    Args:
        document: Content of the JSON; its segments are those of the pictures.
        pictures: Gives the int32 (H,W) ids of the annotation with a ``file_name``.
        path: JSON file to write.
        folder: Folder of the pictures.

    Raises:
        InputError: If the document would not be read without problems or a picture has other segments.
        StorageError: If writing fails.
    """
    index = index_document(document, path)
    if index.problems:
        raise InputError(f"{path} is not written: it {index.problems[0].reason}")
    try:
        for annotation in index.annotations.values():
            target = folder / annotation.file_name
            ids = pictures(annotation.file_name)
            find_segments(ids, annotation.segments[:, 0], target)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encode_png(encode_ids(ids)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document), "utf-8")
    except OSError as error:
        raise StorageError(f"{error.filename or path} cannot be written: {error.strerror or error}") from error
