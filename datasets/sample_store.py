"""A read-through cache of scaled frames and labels on disk, kept between runs and shared by all processes.

Decoding a full-size PNG and scaling it costs ten times what reading its small copy does. A frame is kept as JPEG, its
labels as PNG without loss, all in one file under a name that depends on everything that the content depends on: a
changed original or option gives another name, never a stale frame.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vidapt.datasets.clip_dataset import Labels, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

JPEG_QUALITY = 95
"""Quality of the kept pictures; the labels are kept exactly."""

FORMAT = 1
"""Version of the file format; part of every name."""

_HEAD = 4


class SampleStore:
    """Frames on disk by key.

    Args:
        folder: Made on the first write; files lie below it in 256 folders.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self._writes = True

    def path(self, key: tuple[object, ...]) -> Path:
        """File of the frame with this key."""
        name = hashlib.sha256(repr((FORMAT, JPEG_QUALITY, *key)).encode()).hexdigest()[:40]
        return self.folder / name[:2] / f"{name[2:]}.frame"

    def get(self, key: tuple[object, ...], load: Callable[[], Sample]) -> Sample:
        """The kept frame, or the loaded one after keeping it.

        Both come out of the same compression, so that the first epoch sees what all others see. A damaged file is
        written anew; a folder that cannot be written costs speed and one warning, never a frame.

        Args:
            key: Everything that the content depends on.
            load: Reads the frame from the original files.
        """
        path = self.path(key)
        kept = _read(path)
        if kept is not None:
            return kept
        data = encode_sample(load())
        self._write(path, data)
        return decode_sample(data)

    def _write(self, path: Path, data: bytes) -> None:
        if not self._writes:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                os.replace(part, path)
            except OSError:
                os.unlink(part)
                raise
        except OSError as error:
            self._writes = False
            text = f"the cache {self.folder} cannot be written ({error}); reading goes on without it"
            warnings.warn(text, stacklevel=2)


def encode_sample(sample: Sample) -> bytes:
    """A frame as bytes: four lengths, then the picture as JPEG, classes as PNG, track ids as PNG (their three bytes).

    Raises:
        ValueError: If a track id is negative or not below 2^24.
    """
    parts = [_jpeg(sample.image)]
    if sample.labels is not None:
        parts += [_png(sample.labels.semantic), _png(_pack(sample.labels.instance))]
    lengths = np.zeros(_HEAD, "<u4")
    lengths[: len(parts)] = [len(part) for part in parts]
    lengths[-1] = len(parts)
    return b"".join((lengths.tobytes(), *parts))


def decode_sample(data: bytes) -> Sample:
    """Turn the bytes of ``encode_sample`` back into a frame.

    Raises:
        ValueError: If they are cut or damaged.
    """
    head = 4 * _HEAD
    if len(data) < head:
        raise ValueError("a kept frame is shorter than its head")
    *lengths, count = np.frombuffer(data[:head], "<u4").tolist()
    ends = head + np.cumsum([0, *lengths[:count]])
    if count not in (1, 3) or ends[-1] != len(data):
        raise ValueError("a kept frame is cut")
    parts = [np.frombuffer(data[begin:end], np.uint8) for begin, end in pairwise(ends)]
    image = np.ascontiguousarray(_decode(parts[0], cv2.IMREAD_COLOR)[..., ::-1])
    if count == 1:
        return Sample(image)
    semantic, packed = (_decode(part, cv2.IMREAD_UNCHANGED) for part in parts[1:])
    return Sample(image, Labels(semantic, _unpack(packed)))


def _read(path: Path) -> Sample | None:
    try:
        return decode_sample(path.read_bytes())
    except (OSError, ValueError):
        return None


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"a picture {image.shape} cannot be kept as JPEG")
    return data.tobytes()


def _png(picture: NDArray[Any]) -> bytes:
    # Level 1 with run-length matching: label maps shrink as well as with level 6, in a fraction of the time.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    return cv2.imencode(".png", picture, options)[1].tobytes()


def _decode(data: NDArray[np.uint8], flag: int) -> NDArray[Any]:
    picture = cv2.imdecode(data, flag)
    if picture is None:
        raise ValueError("a kept frame is damaged")
    return np.asarray(picture)


def _pack(instance: NDArray[np.int32]) -> NDArray[Any]:
    """Track ids as uint16 (H,W) where they fit, else as their three bytes (H,W,3)."""
    low, high = int(instance.min(initial=0)), int(instance.max(initial=0))
    if low < 0 or high >= 1 << 24:
        raise ValueError(f"track ids {low}..{high} cannot be kept; allowed: 0..{(1 << 24) - 1}")
    if high < 1 << 16:
        return instance.astype(np.uint16)
    return np.ascontiguousarray(instance.astype("<i4").view(np.uint8).reshape(*instance.shape, 4)[..., :3])


def _unpack(packed: NDArray[Any]) -> NDArray[np.int32]:
    if packed.ndim == 2:
        return packed.astype(np.int32)
    low, middle, high = (packed[..., channel].astype(np.int32) for channel in range(3))
    return low + 256 * middle + 65536 * high
