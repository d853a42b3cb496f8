"""A bounded cache of decoded video frames on disk, shared by all worker processes.

Random clips from compressed video would decode from the last key frame again and again. Here each stretch between key
frames is decoded once, scaled, and kept as JPEG; when the limit is reached, further stretches are decoded on demand.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import cv2
import numpy as np

from vidapt.io.images import resize_image
from vidapt.io.video_pyav import decode_range, to_rgb
from vidapt.io.video_scan import VideoInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

JPEG_QUALITY = 95
"""Quality of the kept frames; frames decoded on demand go through the same compression, so both are equal."""

MIN_STRETCH = 64
"""Frames that a stretch holds at least, unless the video ends."""

_SAMPLES = 8


def stretches(keyframes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Borders of the stretches that are decoded together: int64, rising, from 0 to ``count``."""
    borders = [0]
    for keyframe in keyframes.tolist():
        if keyframe - borders[-1] >= MIN_STRETCH and keyframe < count:
            borders.append(keyframe)
    return np.array([*borders, count], np.int64)


class FrameCache:
    """Frames of video files at one height.

    The folder is temporary and vanishes with the process that made the cache; copies in worker processes share it.

    Args:
        height: Height to scale to, aspect kept; None keeps the size.
        limit: Bytes that may be kept; 0 keeps nothing.
    """

    def __init__(self, height: int | None, limit: int) -> None:
        self.height = height
        self.limit = limit
        self._folder: Path | None = None
        if limit > 0:
            self._folder = Path(tempfile.mkdtemp(prefix="vidapt-frames-"))
            self._cleanup = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"height": self.height, "limit": self.limit, "_folder": self._folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def read(self, key: str, info: VideoInfo, positions: Sequence[int]) -> list[NDArray[np.uint8] | None]:
        """Frames at rising ``positions`` of a video as uint8 (h,w,3) RGB, None for a damaged one.

        Args:
            key: File name under which the video is kept; one per video.
            info: The video.
            positions: Frame numbers, rising.
        """
        borders = stretches(info.timeline.keyframes, info.timeline.count)
        found: list[NDArray[np.uint8] | None] = []
        places = np.searchsorted(borders, positions, side="right") - 1
        for place in dict.fromkeys(places.tolist()):
            wanted = [p for p, own in zip(positions, places, strict=True) if own == place]
            begin, end = int(borders[place]), int(borders[place + 1])
            blobs = self._kept(f"{key}-{place}", info, begin, end, wanted)
            if blobs is None:
                decoded = dict(self._encode(info, wanted[0], wanted[-1] + 1))
                blobs = [decoded[position] for position in wanted]
            found += [_from_jpeg(blob) for blob in blobs]
        return found

    def _kept(self, name: str, info: VideoInfo, begin: int, end: int, wanted: list[int]) -> list[bytes] | None:
        """JPEG data of ``wanted`` frames from the cache, filling it first where it has room; None where it has not."""
        if self._folder is None or not self._folder.is_dir():
            return None
        path = self._folder / f"{name}.frames"
        if not path.exists():
            with _locked(path.with_suffix(".lock")):
                if not path.exists() and not self._fill(path, info, begin, end):
                    return None
        return _read_blobs(path, [position - begin for position in wanted], end - begin)

    def _fill(self, path: Path, info: VideoInfo, begin: int, end: int) -> bool:
        """Decode a stretch into ``path``; False if it does not fit, which the lock file then remembers."""
        lock = path.with_suffix(".lock")
        room = self.limit - sum(file.stat().st_size for file in path.parent.glob("*.frames"))
        if lock.stat().st_size or room <= 0:
            return False
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                fits = self._write(file, info, begin, end, room)
            if fits:
                part.replace(path)
                return True
            lock.write_bytes(b"full")
        except OSError:
            # A full disk costs speed, never a frame: the stretch is decoded on demand.
            fits = False
        part.unlink(missing_ok=True)
        return False

    def _write(self, file: IO[bytes], info: VideoInfo, begin: int, end: int, room: int) -> bool:
        count = end - begin
        ends = np.zeros(count + 1, np.int64)
        ends[0] = total = ends.nbytes
        file.write(bytes(ends.nbytes))
        for number, (_, blob) in enumerate(self._encode(info, begin, end), start=1):
            file.write(blob)
            total += len(blob)
            ends[number] = total
            if total > room or (number == _SAMPLES and total / number * count > room):
                return False
        file.seek(0)
        file.write(ends.tobytes())
        return True

    def _encode(self, info: VideoInfo, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
        for index, frame in decode_range(info, begin, end, threads=1):
            image = None if frame is None else to_rgb(frame)
            fits = image is not None and image.shape[:2] == info.size
            yield index, _to_jpeg(resize_image(image, self.height)) if image is not None and fits else b""


def _to_jpeg(image: NDArray[np.uint8]) -> bytes:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(data)


def _from_jpeg(blob: bytes) -> NDArray[np.uint8] | None:
    if not blob:
        return None
    picture = np.asarray(cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(picture[..., ::-1])


def _read_blobs(path: Path, places: list[int], count: int) -> list[bytes]:
    with path.open("rb") as file:
        ends = np.frombuffer(file.read(8 * (count + 1)), np.int64)
        blobs = []
        for place in places:
            file.seek(int(ends[place]))
            blobs.append(file.read(int(ends[place + 1] - ends[place])))
        return blobs


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` between processes."""
    import fcntl

    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
