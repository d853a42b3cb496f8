"""Decoding video files with decord, selectable by name.

decord keeps decoding ahead into memory, so it is never the default; damage that it cannot decode becomes holes.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vidapt.errors import InputError, UserError
from vidapt.io.frames import Reader, ReadFrame, Selection, Truncation
from vidapt.io.video_pyav import truncation
from vidapt.io.video_scan import VideoInfo, scan_video


def import_decord() -> Any:
    """Return the decord module.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import decord
    except ImportError as error:
        raise UserError(
            "backend 'decord' is not installed: pip install decord (Linux x86-64), or use backend 'pyav'"
        ) from error
    return decord


class DecordReader(Reader):
    """Frames of a video file through decord; PyAV, where installed, checks for a cut end."""

    def __init__(self, path: Path, selection: Selection) -> None:
        decord = import_decord()
        self.info: VideoInfo | None = scan_video(path) if find_spec("av") else None
        try:
            video = decord.VideoReader(str(path), num_threads=1)
            self.total = len(video)
        except (RuntimeError, decord.DECORDError) as error:
            raise InputError(
                f"{path} cannot be decoded by decord ({str(error).splitlines()[0]}); try backend 'pyav'"
            ) from error
        size = None if self.info is None else self.info.size
        super().__init__(str(path), selection, fps=float(video.get_avg_fps()) or 25.0, size=size)
        self.path = path
        self.expected_frames = selection.count(self.total if self.info is None else self.info.expected)

    def _frames(self) -> Iterator[ReadFrame]:
        decord = import_decord()
        # Opened per iteration: an idle decord reader fills the memory with frames nobody asked for.
        video = decord.VideoReader(str(self.path), num_threads=1)
        origin = float(video.get_frame_timestamp(0)[0])
        for index in range(self.selection.start, self.selection.end(self.total), self.selection.stride):
            time = float(video.get_frame_timestamp(index)[0]) - origin
            try:
                image = video[index].asnumpy()
            except (RuntimeError, decord.DECORDError):
                self._note(f"frame {index} cannot be decoded by decord")
                image = None
            else:
                self.size = (image.shape[0], image.shape[1])
            yield ReadFrame(index, time, image, image is not None)

    def _why_nothing(self) -> str:
        return f"{super()._why_nothing()}; backend 'pyav' may read more of it"

    def _truncation(self) -> Truncation | None:
        return None if self.info is None else truncation(self.info, self.selection, self.decoded)
