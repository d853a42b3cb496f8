"""Open any source of video frames: a video file, image files, or arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidapt.errors import InputError, UserError
from vidapt.io.frames import ASSUMED_FPS, Reader, ReadFrame, Selection, Truncation
from vidapt.io.images import IMAGE_SUFFIXES, ImageReader, list_images, natural_key, read_image
from vidapt.io.video_decord import DecordReader
from vidapt.io.video_pyav import PyavReader
from vidapt.io.video_scan import scan_video

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BACKENDS", "VIDEO_SUFFIXES", "ReadFrame", "Reader", "Truncation", "open_video", "read_image"]

BACKENDS = ("pyav", "decord")
"""Names of the video decoders."""

VIDEO_SUFFIXES = (
    ".mp4", ".mkv", ".avi", ".mov", ".m4v", ".webm", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp",
    ".ogv", ".h264", ".hevc", ".mxf",
)  # fmt: skip
"""File name endings by which videos are found in folders, in lower case; a file named directly may have any."""

_PLAYLIST_SUFFIXES = (".m3u8", ".m3u", ".mpd", ".ffconcat", ".concat", ".sdp", ".pls")
_PLAYLIST_HEADS = (b"#EXTM3U", b"ffconcat", b"<MPD", b"v=0\r", b"[playlist]")

Source = str | Path | Sequence[str | Path] | Iterable["NDArray[np.uint8]"]


def open_video(
    source: Source,
    *,
    backend: str = "pyav",
    start: int | None = None,
    stop: int | None = None,
    stride: int = 1,
    fps: float | None = None,
) -> Reader:
    """Open a source of frames; iterating the reader yields them one by one, holes included.

    Args:
        source: A video file, an image file, a folder of images, a glob pattern, a list of image files, or an iterable
            of uint8 (H,W,3) RGB arrays.
        backend: Decoder of video files, ``"pyav"`` or ``"decord"``.
        start: First frame number, None = 0.
        stop: Frame number to stop before, None = to the end.
        stride: Read every n-th frame.
        fps: Frame rate of images and arrays, None = 25; a video file has its own.

    Raises:
        UserError: If the backend is unknown or not installed.
        InputError: If the source is missing, empty, not local or holds no frame that can be read.
    """
    if backend not in BACKENDS:
        raise UserError(f"video backend {backend!r} is unknown; allowed: {', '.join(BACKENDS)}")
    if fps is not None and not fps > 0:
        raise InputError(f"fps must be above 0, got {fps}")
    selection = Selection(start or 0, stop, stride)
    if isinstance(source, str | Path):
        return _open_path(str(source), backend, selection, fps or ASSUMED_FPS)
    if isinstance(source, Sequence) and source and isinstance(source[0], str | Path):
        paths = [Path(str(item)) for item in source]
        return ImageReader(f"{len(paths)} images", _existing(paths), selection, fps=fps or ASSUMED_FPS)
    return ArrayReader(source, selection, fps=fps or ASSUMED_FPS)  # type: ignore[arg-type]


def _existing(paths: list[Path]) -> list[Path]:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]} does not exist ({len(missing)} of {len(paths)} listed images are missing)")
    return paths


def _open_path(source: str, backend: str, selection: Selection, fps: float) -> Reader:
    path = Path(source)
    if path.is_dir():
        return ImageReader(source, images_of(path), selection, fps=fps)
    if not path.exists() and any(sign in source for sign in "*?["):
        files = expand_glob(source)
        if len(files) > 1 or files[0].suffix.lower() in IMAGE_SUFFIXES:
            return ImageReader(source, _only_images(source, files), selection, fps=fps)
        path = files[0]
    elif not path.exists() and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", source):
        raise InputError(f"{source} is not a local file; only local files are opened: download it first")
    check_local_file(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageReader(source, [path], selection, fps=fps)
    reader = DecordReader(path, selection) if backend == "decord" else PyavReader(scan_video(path), selection)
    if not reader.expected_frames:
        raise InputError(f"{path}: the selection starts at frame {selection.start}, behind the last frame")
    return reader


def images_of(folder: Path) -> list[Path]:
    """Image files of a folder in natural order.

    Raises:
        InputError: If there is none.
    """
    images = list_images(folder)
    if not images:
        videos = sum(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.iterdir())
        hint = f"it contains {videos} video files: name one of them" if videos else "give a folder of image files"
        raise InputError(f"folder {folder} contains no images ({', '.join(IMAGE_SUFFIXES)}); {hint}")
    return images


def expand_glob(pattern: str) -> list[Path]:
    """Files that match a glob pattern (``**`` for any depth), in natural order.

    Raises:
        InputError: If nothing matches.
    """
    files = sorted((Path(name) for name in glob(pattern, recursive=True) if Path(name).is_file()), key=natural_key)
    if not files:
        raise InputError(f"no file matches {pattern}; give a pattern such as 'frames/*.png'")
    return files


def _only_images(source: str, files: list[Path]) -> list[Path]:
    strangers = [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    if strangers:
        raise InputError(
            f"{source} matches {len(files)} files, among them {strangers[0]}; give one video or images only"
        )
    return files


def check_local_file(path: Path) -> None:
    """Refuse everything but a readable, non-empty, regular local file that names no other files.

    Raises:
        InputError: Saying what was given and what is allowed.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give a video file, an image folder or a glob pattern")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file; give a video file, an image folder or a glob pattern")
    try:
        with path.open("rb") as file:
            head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not path.stat().st_size:
        raise InputError(f"{path} is empty (0 bytes); give a video file, an image folder or a glob pattern")
    if path.suffix.lower() in _PLAYLIST_SUFFIXES or head.startswith(_PLAYLIST_HEADS):
        raise InputError(f"{path} is a playlist that names other files; give the video file itself")


class ArrayReader(Reader):
    """Arrays as the frames of a video; the iterable is consumed once."""

    def __init__(self, arrays: Iterable[NDArray[np.uint8]], selection: Selection, *, fps: float) -> None:
        super().__init__("frames", selection, fps=fps)
        self.arrays = arrays
        if isinstance(arrays, Sequence | np.ndarray):
            self.expected_frames = selection.count(len(arrays))

    def _frames(self) -> Iterator[ReadFrame]:
        chosen = islice(self.arrays, self.selection.start, self.selection.stop, self.selection.stride)
        for position, array in enumerate(chosen):
            index = self.selection.start + position * self.selection.stride
            self._check(index, array)
            yield ReadFrame(index, index / self.fps, array, True)

    def _check(self, index: int, array: object) -> None:
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"frame {index} must be a uint8 array (H,W,3) in RGB order, got {found}")
        self.size = self.size or (array.shape[0], array.shape[1])
        if array.shape[:2] != self.size:
            raise InputError(
                f"frame {index} is {array.shape[:2]} but the first frame is {self.size}; give one size (H,W)"
            )
