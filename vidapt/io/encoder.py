"""Writing H.264 video that browsers play."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vidapt.errors import StorageError, UserError
from vidapt.io.video_scan import import_av

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox")
"""H.264 encoders, the first that the installed PyAV has is taken."""


def find_encoder() -> str:
    """Name of an H.264 encoder.

    Raises:
        UserError: If PyAV is missing or was built without one.
    """
    av = import_av()
    for name in ENCODERS:
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        return name
    raise UserError(f"PyAV has no H.264 encoder ({', '.join(ENCODERS)}); install the PyAV wheel: pip install av")


class VideoWriter:
    """Writes uint8 (H,W,3) RGB frames of one size as H.264 yuv420p; odd sizes are padded by their last row or column.

    Args:
        path: File to write, ending in .mp4.
        fps: Frames per second.

    Raises:
        UserError: If PyAV or an H.264 encoder is missing.
        StorageError: If the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        self.frames = 0
        self._encoder = find_encoder()
        self._rate = Fraction(fps).limit_denominator(1001)
        self._av = import_av()
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append a frame."""
        with _storage_errors(self._av, self.path):
            if self._stream is None:
                self._open(image.shape[0], image.shape[1])
            padded = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
            if padded.shape[:2] != (self._stream.height, self._stream.width):
                raise ValueError(f"frame {self.frames} is {image.shape[:2]}; all frames of a video have one size")
            frame = self._av.VideoFrame.from_ndarray(padded, format="rgb24")
            frame.pts = self.frames
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def _open(self, height: int, width: int) -> None:
        self._container = self._av.open(str(self.path), "w", format="mp4", options={"movflags": "faststart"})
        self._stream = self._container.add_stream(self._encoder, rate=self._rate)
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = 1 / self._rate
        if self._encoder == "libx264":
            # A short look-ahead bounds the memory; it does not grow with the frame size times a second of video.
            self._stream.options = {"preset": "veryfast", "crf": "23", "rc-lookahead": "10"}

    def close(self) -> None:
        """Write what the encoder still holds and the index; calling it twice is harmless."""
        container, self._container = self._container, None
        if container is None:
            return
        with _storage_errors(self._av, self.path):
            try:
                container.mux(self._stream.encode(None))
            finally:
                container.close()


class _storage_errors:  # noqa: N801 - reads as a context, not as a type
    """Turns I/O failures of the encoder into ``StorageError``."""

    def __init__(self, av: Any, path: Path) -> None:
        self.kinds = (av.FFmpegError, OSError)
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, self.kinds):
            reason = getattr(error, "strerror", None) or error
            raise StorageError(f"{self.path} cannot be written: {reason}; free some space and run again") from error


def write_video(frames: Iterable[NDArray[np.uint8]], path: str | Path, fps: float) -> Path | None:
    """Write RGB frames uint8 (H,W,3) of one size as an H.264 file.

    Returns:
        The path, or None (and a log line that says why) where PyAV or an H.264 encoder is missing.

    Raises:
        StorageError: If the file cannot be written.
    """
    try:
        video = VideoWriter(path, fps)
    except UserError as error:
        logger.warning("%s is not written: %s", path, error)
        return None
    with video:
        for frame in frames:
            video.write(frame)
    return video.path
