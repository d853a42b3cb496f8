"""Files of a segmentation folder: preparing it, what goes into it byte by byte, and reading it back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from vidapt.clip import IGNORE, PanopticFrame
from vidapt.errors import InputError, StorageError
from vidapt.io.coco import decode_ids, iterate_annotations, read_header, read_segments

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OWN_FILES = ("panoptic.json", "tracks.csv", "overlay.mp4", "summary.json", ".images.part", ".reserve")
_VERSIONS = ("vidapt", "numpy", "torch", "av", "opencv-python-headless")


def prepare_folder(folder: Path) -> None:
    """Create ``folder`` or empty an older segmentation in it.

    Raises:
        InputError: If it is a file or holds anything that is not a segmentation.
        StorageError: If it cannot be created or emptied.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder to write the segmentation to")
    try:
        if folder.is_dir() and any(folder.iterdir()):
            _check_own(folder)
            _clear(folder)
        (folder / "panoptic").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error


def _check_own(folder: Path) -> None:
    try:
        read_header(folder / "panoptic.json")
    except InputError as error:
        raise InputError(f"{folder} is not empty and holds no segmentation; give a new or an empty folder") from error


def _clear(folder: Path) -> None:
    for name in (*_OWN_FILES, "summary.json.part"):
        (folder / name).unlink(missing_ok=True)
    for picture in (folder / "panoptic").glob("*.png"):
        if re.fullmatch(r"\d{6,}", picture.stem):
            picture.unlink()


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """PNG file content of an RGB picture uint8 (H,W,3)."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    _, data = cv2.imencode(".png", picture[..., ::-1], options)
    return bytes(data)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file and hand it to the operating system."""
    with path.open("wb") as file:
        file.write(data)


def reserve_space(path: Path, size: int) -> None:
    """Hold ``size`` bytes of disk, so that closing the files succeeds on a disk that ran full."""
    with path.open("ab") as file:
        missing = size - file.tell()
        if missing > 0:
            file.write(os.urandom(missing))


def safe_cell(text: str) -> str:
    """Text for a CSV cell that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def peak_memory_bytes() -> dict[str, int]:
    """Largest memory use of this process so far, on the host and on each GPU in use."""
    import resource

    import torch

    peaks = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if torch.cuda.is_initialized():
        peaks |= {f"cuda:{i}": torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())}
    return peaks


def installed_versions() -> dict[str, str]:
    """Versions of the packages that shape the output; those that are not installed are left out."""
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_segmentation(folder: str | Path) -> Iterator[PanopticFrame]:
    """Read a segmentation folder back, frame by frame.

    ``semantic`` is rebuilt from the ids: the category of each pixel's segment, and 255 where the ids are void, since
    the folder does not keep the network's own labels there.

    Raises:
        InputError: If the folder is no segmentation folder, or a picture is missing, damaged or has unlisted ids.
    """
    folder = Path(folder)
    header = read_header(folder / "panoptic.json")
    things = {item["id"] for item in header["categories"] if item["isthing"]}
    for record in iterate_annotations(folder / "panoptic.json"):
        yield _read_frame(folder, record, things)


def _read_frame(folder: Path, record: dict[str, Any], things: set[int]) -> PanopticFrame:
    path = folder / "panoptic" / Path(record["file_name"]).name
    try:
        with Image.open(path) as file:
            ids = decode_ids(np.asarray(file.convert("RGB")))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    segments = read_segments(record, things)
    known = np.array([0, *(segment.id for segment in segments)])
    order = np.argsort(known)
    categories = np.array([IGNORE, *(segment.category for segment in segments)], np.uint8)[order]
    places = np.minimum(np.searchsorted(known[order], ids), len(known) - 1)
    if not np.array_equal(known[order][places], ids):
        raise InputError(f"{path} has ids that panoptic.json does not list; write the segmentation again")
    return PanopticFrame(int(record["image_id"]), float(record["time"]), categories[places], ids, segments)
