"""Opening video files with PyAV, and a first pass over their packets that numbers the frames."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vidapt.errors import InputError, UserError
from vidapt.io.timeline import Packets, Timeline, build_timeline, missing_at_end

FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,m4v,mjpeg,ivf,obu,dv,gif,mxf,nut,rm,wtv,yuv4mpegpipe"
)
"""Containers that are opened; playlists (hls, dash, concat, ...) could name other files and are not among them."""

_UNTIMED = {"avi", "h264", "hevc", "m4v", "mjpeg", "mpegvideo", "obu", "dv", "yuv4mpegpipe"}
_ABSOLUTE_DURATION = {"matroska", "flv"}
_ANNOUNCES_DURATION = {"mov", "matroska", "avi", "flv", "asf"}
_DEMUX_RETRIES = 16
_AUDIO_SLACK_SECONDS = 0.2


def import_av() -> Any:
    """Return the PyAV module.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            "reading and writing video files needs PyAV, which is not installed: pip install av "
            "(or give a folder of images)"
        ) from error
    return av


@dataclass(frozen=True)
class VideoInfo:
    """What a first pass over a video file finds out.

    Attributes:
        path: The file.
        timeline: Frame numbers.
        expected: Frames the file should have by its header; more than ``timeline.count`` if it was cut.
        size: (H, W) as shown, rotation applied.
        fps: Frames per second.
    """

    path: Path
    timeline: Timeline
    expected: int
    size: tuple[int, int]
    fps: float


@contextmanager
def opened_video(path: Path, threads: int = 0) -> Iterator[tuple[Any, Any]]:
    """Open ``path`` and its main video stream, slice threads only, local files only."""
    av = import_av()
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        container = av.open(f"file:{path}", options=options)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be opened as a video ({getattr(error, 'strerror', None) or error}); give a complete local "
            "video file (an .mp4 that was cut has lost its index), a folder of images or a glob"
        ) from error
    with container:
        stream = container.streams.best("video")
        if stream is None:
            raise InputError(f"{path} has no video stream; give a video file")
        # Frame threads would blame another packet for an error.
        stream.codec_context.thread_type = "SLICE"
        stream.codec_context.thread_count = threads
        yield container, stream


def iterate_packets(container: Any, *streams: Any) -> Iterator[Any]:
    """Packets in file order; after a demultiplexing error reading goes on behind it."""
    av = import_av()
    for _ in range(_DEMUX_RETRIES):
        try:
            yield from container.demux(*streams)
        except av.FFmpegError:
            continue
        return


def decode_packet(packet: Any) -> list[Any] | None:
    """Frames that a packet completes, or None if it is damaged."""
    try:
        return list(packet.decode())
    except import_av().FFmpegError:
        return None


class _PacketLog:
    """Collects what the time line needs from each packet in compact arrays."""

    def __init__(self) -> None:
        self.video = [array("q") for _ in range(5)]
        self.ends = array("q")
        self.other = array("q")
        self.other_end = 0.0
        self.discarded = 0
        self.untimed = False

    def add(self, packet: Any, is_video: bool) -> None:
        if not packet.size:
            return
        end = (packet.pts if packet.pts is not None else packet.dts or 0) + (packet.duration or 0)
        if not is_video:
            self.other_end = max(self.other_end, float(end * packet.time_base))
            if packet.pos is not None:
                self.other.extend((packet.pos, packet.size))
        elif packet.is_discard:
            self.discarded += 1
        else:
            self._add_video(packet, end)

    def _add_video(self, packet: Any, end: int) -> None:
        self.untimed |= packet.pts is None
        self.ends.append(end)
        stamp = packet.pts if packet.pts is not None else len(self.video[0])
        position = -1 if packet.pos is None else packet.pos
        values = (stamp, packet.size, position, packet.is_keyframe, packet.is_corrupt)
        for column, value in zip(self.video, values, strict=True):
            column.append(value)

    def video_end(self, timeline: Timeline) -> float:
        """Ticks at which the last frame ends; packets with a damaged time stamp do not count."""
        ends = np.array(self.ends, np.int64)
        known = ends if timeline.counted else ends[np.array(self.video[0]) <= timeline.stamps[-1]]
        return float(known.max())

    def packets(self, ordered: bool) -> Packets:
        stamps, sizes, positions, keyframes, damaged = (np.array(column, np.int64) for column in self.video)
        other = np.array(self.other, np.int64).reshape(-1, 2)
        flags = keyframes.astype(bool), damaged.astype(bool)
        return Packets(stamps, sizes, positions, *flags, other, ordered and not self.untimed)


def scan_video(path: str | Path) -> VideoInfo:
    """Read all packets of a video file once and decode only its first readable frame.

    Raises:
        InputError: If the file cannot be opened, has no video or no frame that can be decoded.
    """
    path = Path(path)
    log = _PacketLog()
    first = None
    with opened_video(path) as (container, stream):
        kinds = set(container.format.name.split(","))
        for packet in iterate_packets(container):
            is_video = packet.stream_index == stream.index
            log.add(packet, is_video)
            if is_video and first is None:
                first = next(iter(decode_packet(packet) or ()), None)
        if first is None:
            raise InputError(f"{path}: no frame can be decoded; the file is damaged or has no picture data")
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        timeline = build_timeline(log.packets(not kinds & _UNTIMED), stream.time_base, _step(stream, fps))
        size = (first.height, first.width)
        size = size[::-1] if quarter_turns(first) % 2 else size
        return VideoInfo(path, timeline, timeline.count + _missing(container, stream, log, timeline, kinds), size, fps)


def _step(stream: Any, fps: float) -> float:
    return float(1 / Fraction(fps).limit_denominator(100_000) / stream.time_base)


def _missing(container: Any, stream: Any, log: _PacketLog, timeline: Timeline, kinds: set[str]) -> int:
    """Frames that the container announces beyond the last packet."""
    if not kinds & _ANNOUNCES_DURATION:
        return 0
    tick = float(stream.time_base)
    announced, slack = stream.duration or _tagged_duration(stream, tick), 0.0
    covered = log.video_end(timeline)
    if announced is None:
        announced = (container.duration or 0) / 1e6 / tick
        covered = max(covered, log.other_end / tick)
        slack = _AUDIO_SLACK_SECONDS / tick if len(container.streams) > 1 else 0.0
    if not kinds & _ABSOLUTE_DURATION and not timeline.counted:
        covered -= max(float(timeline.stamps[0]), 0.0)
    missing = missing_at_end(covered, float(announced), timeline.step, slack=slack)
    counted = stream.frames - log.discarded - timeline.count if "mov" in kinds else 0
    return max(missing, counted) if announced - covered > timeline.step / 2 else 0


def _tagged_duration(stream: Any, tick: float) -> float | None:
    """Duration in ticks from Matroska's DURATION tag (``HH:MM:SS.fraction``)."""
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return (int(hours) * 3600 + int(minutes) * 60 + float(seconds)) / tick
    except (KeyError, ValueError):
        return None


def quarter_turns(frame: Any) -> int:
    """Counter-clockwise quarter turns that the container asks for."""
    return round(frame.rotation / 90) % 4
