"""A read-through cache of scaled frames and labels on disk, kept between runs and shared by all processes.

Decoding full-size PNGs and scaling them costs twenty times what reading their small copy does. A frame is kept as JPEG,
its labels as runs of equal pixels without loss, all in one file under a name that depends on everything that the
content depends on: a changed original or option gives another name, never a stale frame.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import cv2
import numpy as np

from vidapt.datasets.clip_dataset import Labels, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

JPEG_QUALITY = 95
"""Quality of the kept pictures; the labels are kept exactly."""

FORMAT = 2
"""Version of the file format; part of every name."""

_NUMBER = 4
"""Bytes of the checksum, and of the length of the picture."""


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
        part = path.with_name(f"{path.name}.{uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(data)
                os.replace(part, path)
            except OSError:
                part.unlink(missing_ok=True)
                raise
        except OSError as error:
            self._writes = False
            text = f"the cache {self.folder} cannot be written ({error}); reading goes on without it"
            warnings.warn(text, stacklevel=2)


def encode_sample(sample: Sample) -> bytes:
    """A frame as bytes: a checksum, the length of the picture, the picture as JPEG, the labels if there are any.

    Raises:
        ValueError: If a track id is negative or not below 2^24.
    """
    picture = _jpeg(sample.image)
    labels = b"" if sample.labels is None else _pack(sample.labels)
    content = b"".join((len(picture).to_bytes(_NUMBER, "little"), picture, labels))
    return zlib.crc32(content).to_bytes(_NUMBER, "little") + content


def decode_sample(data: bytes) -> Sample:
    """Turn the bytes of ``encode_sample`` back into a frame.

    Raises:
        ValueError: If they are cut or damaged.
    """
    content = memoryview(data)[_NUMBER:]
    if not content or zlib.crc32(content) != int.from_bytes(data[:_NUMBER], "little"):
        raise ValueError("a kept frame is cut or damaged")
    end = _NUMBER + int.from_bytes(content[:_NUMBER], "little")
    picture = cv2.imdecode(np.frombuffer(content[_NUMBER:end], np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("a kept frame holds no picture")
    image = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
    return Sample(image, _unpack(content[end:], (image.shape[0], image.shape[1])) if content[end:] else None)


def _read(path: Path) -> Sample | None:
    try:
        return decode_sample(path.read_bytes())
    except (OSError, ValueError):
        return None


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"a picture {image.shape} cannot be kept as JPEG")
    return data.tobytes()


def _pack(labels: Labels) -> bytes:
    """Runs of equal pixels, row after row: all lengths uint32, then all classes uint8, then all track ids int32.

    A tenth of the time of a PNG, and no larger: a street at half resolution has 5000 to 10000 runs.
    """
    semantic, instance = labels.semantic.reshape(-1), labels.instance.reshape(-1)
    changes = (semantic[1:] != semantic[:-1]) | (instance[1:] != instance[:-1])
    starts = np.flatnonzero(np.concatenate(([True], changes)))
    lengths, tracks = np.diff(starts, append=semantic.size), instance[starts]
    low, high = int(tracks.min()), int(tracks.max())
    if low < 0 or high >= 1 << 24:
        raise ValueError(f"track ids {low}..{high} cannot be kept; allowed: 0..{(1 << 24) - 1}")
    fields = (lengths.astype("<u4"), semantic[starts], tracks.astype("<i4"))
    return zlib.compress(b"".join(field.tobytes() for field in fields), level=1)


def _unpack(packed: memoryview, size: tuple[int, int]) -> Labels:
    data = zlib.decompress(packed)
    count = len(data) // 9
    lengths = np.frombuffer(data, "<u4", count)
    semantic = np.frombuffer(data, np.uint8, count, 4 * count)
    instance = np.frombuffer(data, "<i4", count, 5 * count).astype(np.int32, copy=False)
    return Labels(np.repeat(semantic, lengths).reshape(size), np.repeat(instance, lengths).reshape(size))
