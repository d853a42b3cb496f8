"""Decoding video files with PyAV: packet by packet, so that damage stays where it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.io.frames import Reader, ReadFrame, Selection, Truncation
from vidapt.io.timeline import Timeline
from vidapt.io.video_scan import VideoInfo, decode_packet, iterate_packets, opened_video, quarter_turns

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LATE_FRAMES = 8


def to_rgb(frame: Any) -> NDArray[np.uint8]:
    """Convert a decoded frame to uint8 (H,W,3) RGB, turned upright."""
    image = frame.to_ndarray(format="rgb24")
    turns = quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def decode_range(
    info: VideoInfo, start: int = 0, stop: int | None = None, *, threads: int = 0
) -> Iterator[tuple[int, Any | None]]:
    """Decode frames ``start`` to ``stop`` (exclusive) in order, from the last key frame before ``start``.

    Args:
        info: Result of ``scan_video``.
        start: First frame number.
        stop: Frame number to stop at; None = all that the file has.
        threads: Decoder threads, 0 = automatic.

    Yields:
        (frame number, PyAV frame), with None for a frame that is damaged.
    """
    stop = info.timeline.count if stop is None else min(stop, info.timeline.count)
    source = (
        _counted_frames(info, stop, threads) if info.timeline.counted else _ranked_frames(info, start, stop, threads)
    )
    expected = start
    for index, frame in source:
        if index < start:
            continue
        yield index, frame
        expected = index + 1
        if expected >= stop:
            break
    for index in range(expected, stop):
        yield index, None


def _counted_frames(info: VideoInfo, stop: int, threads: int) -> Iterator[tuple[int, Any | None]]:
    index = 0
    with opened_video(info.path, threads) as (container, stream):
        for packet in iterate_packets(container, stream):
            frames = decode_packet(packet)
            for frame in [None] if frames is None else frames:
                yield index, None if frame is None or frame.is_corrupt else frame
                index += 1
                if index >= stop:
                    return


def _ranked_frames(info: VideoInfo, start: int, stop: int, threads: int) -> Iterator[tuple[int, Any | None]]:
    """Frames in rank order; a gap becomes holes once frames behind it show that nothing will fill it."""
    waiting: dict[int, Any | None] = {}
    upcoming = start
    for index, frame in _decoded_from(info, start, threads):
        if index < upcoming or index in waiting:
            continue
        waiting[index] = frame
        while waiting and (upcoming in waiting or len(waiting) > _LATE_FRAMES):
            yield upcoming, waiting.pop(upcoming, None)
            upcoming += 1
        if upcoming >= stop:
            return
    while waiting and upcoming < stop:
        yield upcoming, waiting.pop(upcoming, None)
        upcoming += 1


def _decoded_from(info: VideoInfo, start: int, threads: int) -> Iterator[tuple[int, Any | None]]:
    """Frames as the decoder returns them with their numbers; it begins at a key frame at or before ``start``."""
    timeline = info.timeline
    damaged = set(timeline.damaged.tolist())
    with opened_video(info.path, threads) as (container, stream):
        for packet in _packets_from(container, stream, timeline, start):
            for frame in decode_packet(packet) or ():
                index = timeline.index_of(frame.pts)
                if index >= 0:
                    yield index, None if frame.is_corrupt or index in damaged else frame


def _packets_from(container: Any, stream: Any, timeline: Timeline, start: int) -> Iterator[Any]:
    before = timeline.keyframes[timeline.keyframes <= start]
    if start == 0 or not len(before) or before[-1] <= timeline.indices[0]:
        yield from iterate_packets(container, stream)
        return
    keyframe = int(before[-1])
    container.seek(round(timeline.stamp_of(keyframe)), stream=stream, backward=True)
    packets = iterate_packets(container, stream)
    for packet in packets:
        index = timeline.index_of(packet.pts)
        if packet.is_keyframe and index == keyframe:
            yield packet
            yield from packets
            return
        if index > keyframe:
            break
    # The container's index is missing or wrong: read from the beginning instead.
    container.seek(0, stream=stream, backward=True)
    yield from iterate_packets(container, stream)


class PyavReader(Reader):
    """Frames of a video file; constant memory apart from a few bytes per packet for the frame numbers."""

    def __init__(self, info: VideoInfo, selection: Selection) -> None:
        super().__init__(str(info.path), selection, fps=info.fps, size=info.size)
        self.info = info
        self.expected_frames = selection.count(info.expected)

    def _frames(self) -> Iterator[ReadFrame]:
        timeline = self.info.timeline
        for index, frame in decode_range(self.info, self.selection.start, self.selection.stop):
            if frame is None:
                self._note_damage(index)
            if index not in self.selection:
                continue
            image = None if frame is None else to_rgb(frame)
            if image is not None and image.shape[:2] != self.size:
                self._note(f"frame {index} has another size, {image.shape[1]}x{image.shape[0]}, and is left out")
                image = None
            yield ReadFrame(index, timeline.time_of(index), image, image is not None)

    def _note_damage(self, index: int) -> None:
        keyframes = self.info.timeline.keyframes
        place = int(np.searchsorted(keyframes, index, side="right"))
        until = f"key frame {keyframes[place]}" if place < len(keyframes) else "the end"
        line = f"damage around frame {index}: the frames from there to {until} may show traces of it"
        if not self.problems or not self.problems[-1].endswith(f"to {until} may show traces of it"):
            self._note(line)

    def _truncation(self) -> Truncation | None:
        return truncation(self.info, self.selection, self.decoded)


def truncation(info: VideoInfo, selection: Selection, decoded: int) -> Truncation | None:
    """What the selection lacks because the file ends early, or None."""
    expected = selection.count(info.expected)
    return Truncation(decoded, expected) if expected > selection.count(info.timeline.count) else None
