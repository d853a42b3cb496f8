"""Pictures of segment ids in the COCO panoptic format: reading, decoding and writing them with their JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.panoptic_json import index_document
from vidapt.errors import InputError, StorageError
from vidapt.io.coco import ID_LIMIT, encode_ids
from vidapt.io.images import read_channels
from vidapt.io.segmentation_folder import encode_png

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_colours(path: Path) -> NDArray[np.uint8]:
    """Read a label picture of 8 bits in each of 3 or 4 channels: uint8 (H,W,C) in the order red, green, blue, alpha.

    Raises:
        InputError: If it is missing, damaged, grey or has 16 bits.
    """
    picture = _read_bytes(path)
    order = cv2.COLOR_BGR2RGB if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(picture, order), np.uint8)


def read_segment_ids(path: Path) -> NDArray[np.int32]:
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
        ids: int32 (H,W) from ``read_segment_ids``.
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
    """Write a JSON and its id pictures; ``read_document`` and ``read_segment_ids`` give back the same data and ids.

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
