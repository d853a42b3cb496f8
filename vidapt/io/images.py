"""Image files: finding them in natural order, reading them as RGB or as labels, and resizing both."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vidapt.errors import InputError
from vidapt.io.frames import Reader, ReadFrame, Selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
"""File name endings that count as images, in lower case."""

_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap rows and columns."""

_UNREADABLE = (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError)


def natural_key(path: str | Path) -> tuple[tuple[int, int | str], ...]:
    """Sorting key that puts ``frame2`` before ``frame10``."""
    parts = re.split(r"(\d+)", str(path))
    return tuple((0, int(part)) if part.isdigit() and part.isascii() else (1, part) for part in parts)


def list_images(folder: str | Path) -> list[Path]:
    """Image files that lie directly in ``folder``, in natural order; hidden files are left out."""
    files = (path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted((path for path in files if not path.name.startswith(".")), key=natural_key)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as uint8 (H,W,3) RGB, turned upright; 16-bit grey is scaled to 8 bit.

    Raises:
        InputError: If the file is missing, damaged, cut or absurdly large.
    """
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            if upright.mode.startswith("I"):
                grey = np.clip(np.asarray(upright, np.int64) // 257, 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.array(upright.convert("RGB"))
    except _UNREADABLE as error:
        raise InputError(f"{path} cannot be read as an image: {_reason(error)}") from error


def read_label(path: str | Path) -> NDArray[np.int32]:
    """Read a label picture: int32 (H,W) grey values or palette positions, or (H,W,3) for colours.

    Raises:
        InputError: If the file is missing, damaged or cut.
    """
    try:
        with Image.open(path) as file:
            if file.mode in ("RGBA", "LA", "CMYK"):
                return np.array(file.convert("RGB"), np.int32)
            return np.array(file, np.int32)
    except _UNREADABLE as error:
        raise InputError(f"{path} cannot be read as a label picture: {_reason(error)}") from error


def read_ids(path: Path) -> NDArray[np.int32]:
    """Read a label picture of one id per pixel, grey or a palette index: int32 (H,W).

    Raises:
        InputError: If the file cannot be read or is a picture in colours.
    """
    picture = read_label(path)
    if picture.ndim != 2:
        raise InputError(f"{path} is a picture in colours; its labels must be one id per pixel, grey or palette index")
    return picture


def read_deep_colours(path: str | Path) -> NDArray[np.int32]:
    """Read a colour picture of 8 or 16 bits per channel as int32 (H,W,3) RGB, all bits kept.

    Pillow drops the lower byte of 16-bit colours, so OpenCV reads them.

    Raises:
        InputError: If the file is missing, damaged or has no colour channels.
    """
    return np.ascontiguousarray(read_channels(path)[..., 2::-1], np.int32)


def read_channels(path: str | Path) -> NDArray[Any]:
    """Read a colour picture as it is stored: uint8 or uint16 (H,W,3) or (H,W,4) in OpenCV's order blue, green, red.

    Raises:
        InputError: If the file is missing, damaged or has no colour channels.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read as a label picture: {_reason(error)}") from error
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:  # absurdly large
        picture = None
    if picture is None:
        raise InputError(f"{path} cannot be read as a label picture: it is damaged or no known image format")
    if picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise InputError(f"{path} has one channel per pixel; its labels are stored in colours (red, green, blue)")
    return np.asarray(picture)


def picture_size(path: str | Path) -> tuple[int, int]:
    """Size (H, W) of a picture file turned upright as ``read_image`` does, from its head alone.

    Raises:
        InputError: If the file is missing or its head is damaged.
    """
    try:
        with Image.open(path) as picture:
            return upright_size(picture)
    except _UNREADABLE as error:
        raise InputError(f"{path} cannot be read as an image: {_reason(error)}") from error


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Size (H, W) of an opened picture after the turn that its EXIF orientation asks for; nothing is decoded."""
    # Pillow has already turned the size of TIFF. The base class reads the head only; that of PNG decodes the picture.
    turned = picture.format != "TIFF" and Image.Image.getexif(picture).get(ExifTags.Base.Orientation) in _SIDEWAYS
    return picture.size if turned else (picture.height, picture.width)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not a known image format"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def scaled_size(size: tuple[int, int], height: int | None) -> tuple[int, int]:
    """(H, W) after scaling to ``height`` with the aspect kept; None keeps the size."""
    if height is None or height == size[0]:
        return size
    return height, max(1, round(size[1] * height / size[0]))


def fitted_size(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest (H, W) with the aspect of ``size`` that fits into ``box``, for example (720, 1280)."""
    factor = min(box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize_image(image: NDArray[np.uint8], height: int | None) -> NDArray[np.uint8]:
    """Scale uint8 (H,W,3) to ``height``, aspect kept; see ``resize_image_to``."""
    return resize_image_to(image, scaled_size((image.shape[0], image.shape[1]), height))


def resize_image_to(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale uint8 (H,W,3) to ``size`` (H, W): area average when shrinking, bilinear when growing."""
    if size == image.shape[:2]:
        return image
    method = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8)


def resize_label(label: NDArray[Any], height: int | None) -> NDArray[Any]:
    """Scale a label picture (H,W) of any dtype to ``height``, aspect kept; see ``resize_label_to``."""
    return resize_label_to(label, scaled_size((label.shape[0], label.shape[1]), height))


def resize_label_to(label: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Scale a label picture (H,W) of any dtype to ``size`` (H, W): the value at each new pixel's centre."""
    if size == label.shape:
        return label
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, label.shape, strict=True)
    )
    return label[rows[:, None], columns]


class ImageReader(Reader):
    """Image files as the frames of a video; an unreadable one is a hole, one of another size ends the reading."""

    def __init__(self, name: str, paths: Sequence[Path], selection: Selection, *, fps: float) -> None:
        super().__init__(name, selection, fps=fps)
        self.paths = list(paths)
        self.expected_frames = selection.count(len(self.paths))

    def _frames(self) -> Iterator[ReadFrame]:
        first: tuple[Path, tuple[int, int]] | None = None
        for index in range(self.selection.start, self.selection.end(len(self.paths)), self.selection.stride):
            path = self.paths[index]
            try:
                image = read_image(path)
            except InputError as error:
                self._note(str(error))
                yield ReadFrame(index, index / self.fps, None, False)
                continue
            first = first or (path, (image.shape[0], image.shape[1]))
            self.size = check_same_size(first, path, image)
            yield ReadFrame(index, index / self.fps, image, True)

    def _why_nothing(self) -> str:
        return self.problems[0] if self.problems else super()._why_nothing()


def check_same_size(first: tuple[Path, tuple[int, int]], path: Path, image: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the size (H, W) of the first image.

    Raises:
        InputError: If ``image`` has another size.
    """
    name, size = first
    if image.shape[:2] != size:
        raise InputError(
            f"{path} is {image.shape[1]}x{image.shape[0]} but {name.name} is {size[1]}x{size[0]}; "
            "the frames of one video must have one size: resize them or put them in separate folders"
        )
    return size
