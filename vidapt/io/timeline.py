"""Frame numbers from packet time stamps: which packet is which frame, and what a damaged file has lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

REORDER_LIMIT = 32
"""Largest distance between decoding and display order, in frames, that B-frames can explain."""

MAX_STRAY_SHARE = 0.25
"""Largest share of packets with a damaged time stamp; where more disagree, the clock of the recording jumped."""

NEIGHBOURS = 4
"""Frames around a jump whose bytes are looked at: with B-frames the lost bytes lie next to other frames."""


@dataclass(frozen=True)
class Packets:
    """Video packets in file order; n is their number.

    Attributes:
        stamps: int64 (n,) presentation time stamps; unused where ``ordered`` is False.
        sizes: int64 (n,) bytes.
        positions: int64 (n,) byte offsets in the file, -1 = unknown.
        keyframes: bool (n,).
        damaged: bool (n,), True where the demultiplexer marks the packet as corrupt.
        other: int64 (m,2) byte offset and size of the packets of all other streams.
        ordered: False if the container stores no presentation time stamps.
    """

    stamps: NDArray[np.int64]
    sizes: NDArray[np.int64]
    positions: NDArray[np.int64]
    keyframes: NDArray[np.bool_]
    damaged: NDArray[np.bool_]
    other: NDArray[np.int64]
    ordered: bool = True

    def without(self, dropped: NDArray[np.bool_]) -> Packets:
        """The same packets but those that ``dropped``, bool (n,), marks."""
        kept = ~dropped
        fields = ("stamps", "sizes", "positions", "keyframes", "damaged")
        return replace(self, **{name: getattr(self, name)[kept] for name in fields})


@dataclass(frozen=True)
class Timeline:
    """The frame numbers of a video.

    Attributes:
        stamps: int64 (n,) rising time stamps of the packets that exist, in ticks; empty in a counted timeline.
        indices: int64 (n,) frame number of each stamp; numbers left out are frames that the file has lost.
        count: Number of frame numbers, lost ones included, up to the last packet.
        step: Ticks from one frame to the next.
        tick: Seconds per tick.
        keyframes: int64 (k,) frame numbers where decoding can start.
        damaged: int64 (d,) frame numbers whose packet is marked corrupt.
        counted: True if frames are numbered in the order in which the decoder returns them.
    """

    stamps: NDArray[np.int64]
    indices: NDArray[np.int64]
    count: int
    step: float
    tick: Fraction
    keyframes: NDArray[np.int64]
    damaged: NDArray[np.int64]
    counted: bool = False

    def index_of(self, stamp: int | None) -> int:
        """Frame number of a decoded frame's time stamp, -1 if no packet within half a step has it."""
        if stamp is None:
            return -1
        place = int(np.searchsorted(self.stamps, stamp))
        near = min((p for p in (place - 1, place) if 0 <= p < len(self.stamps)), key=lambda p: self._off(p, stamp))
        return int(self.indices[near]) if self._off(near, stamp) < max(self.step / 2, 1) else -1

    def _off(self, place: int, stamp: int) -> int:
        return abs(int(self.stamps[place]) - stamp)

    def stamp_of(self, index: int) -> float:
        """Time stamp of a frame number in ticks, interpolated for lost frames."""
        if self.counted:
            return index * self.step
        return float(np.interp(index, self.indices, self.stamps))

    def time_of(self, index: int) -> float:
        """Seconds from the first frame to frame ``index``."""
        first = 0 if self.counted else int(self.stamps[0])
        return (self.stamp_of(index) - first) * float(self.tick)

    def lost(self) -> list[int]:
        """Frame numbers known to be unreadable before decoding: without a packet, or with a corrupt one."""
        present = np.ones(self.count, bool) if self.counted else np.zeros(self.count, bool)
        present[self.indices] = True
        present[self.damaged] = False
        return [int(index) for index in np.flatnonzero(~present)]


def build_timeline(packets: Packets, tick: Fraction, default_step: float) -> Timeline:
    """Number the frames of a video by the rank of their time stamps.

    Where the stamps jump and the file holds bytes there that belong to no packet, the frames in between were lost to
    damage and get numbers too; a jump without such bytes is a variable frame rate. A packet whose own stamp is damaged
    counts as lost.

    Args:
        packets: At least one packet.
        tick: Seconds per tick.
        default_step: Ticks per frame, for a video of one frame and for counted timelines.
    """
    count = len(packets.stamps)
    stamps = np.unique(packets.stamps)
    step = float(np.median(np.diff(stamps))) if len(stamps) > 1 else default_step
    strays = _strays(packets.stamps, REORDER_LIMIT * step)
    if not packets.ordered or strays.sum() > MAX_STRAY_SHARE * count:
        return _counted(count, tick, default_step)
    packets = packets.without(strays)
    stamps, first_of = np.unique(packets.stamps, return_index=True)
    gaps = _lost_frames(packets, first_of, stamps, step)
    indices = np.arange(len(stamps), dtype=np.int64)
    indices[1:] += np.cumsum(gaps)
    flags = [np.zeros(len(stamps), bool), np.zeros(len(stamps), bool)]
    places = np.searchsorted(stamps, packets.stamps)
    for flag, values in zip(flags, (packets.keyframes, packets.damaged), strict=True):
        np.logical_or.at(flag, places, values)
    keyframes, damaged = (indices[flag] for flag in flags)
    return Timeline(stamps, indices, int(indices[-1]) + 1, step, tick, keyframes, damaged)


def _counted(count: int, tick: Fraction, step: float) -> Timeline:
    empty = np.zeros(0, np.int64)
    return Timeline(empty, empty, count, step, tick, np.zeros(1, np.int64), empty, counted=True)


def _strays(stamps: NDArray[np.int64], limit: float) -> NDArray[np.bool_]:
    """bool (n,): stamps in file order that contradict the others by more than ``limit`` ticks; the fewer are wrong."""
    ahead = stamps - np.minimum.accumulate(stamps[::-1])[::-1] > limit
    behind = np.maximum.accumulate(stamps) - stamps > limit
    return ahead if ahead.sum() <= behind.sum() else behind


def _lost_frames(
    packets: Packets, order: NDArray[np.int64], stamps: NDArray[np.int64], step: float
) -> NDArray[np.int64]:
    """Number of frames lost between neighbouring stamps, int64 (n-1,)."""
    lost = np.zeros(max(len(stamps) - 1, 0), np.int64)
    jumps = np.flatnonzero(np.diff(stamps) > 1.5 * step)
    if not len(jumps) or np.any(packets.positions < 0):
        return lost
    coverage = _Coverage(packets)
    for jump in jumps:
        missing = round(float(stamps[jump + 1] - stamps[jump]) / step) - 1
        orphans = coverage.orphans(order[max(0, jump - NEIGHBOURS) : jump + 2 + NEIGHBOURS])
        if orphans > 0.25 * missing * coverage.packet_size:
            lost[jump] = min(missing, orphans)
    return lost


class _Coverage:
    """Larger stretches of a file that belong to no packet, between any two packets."""

    def __init__(self, packets: Packets) -> None:
        spans = np.concatenate([np.stack([packets.positions, packets.sizes], 1), packets.other])
        spans = spans[np.argsort(spans[:, 0], kind="stable")]
        self.starts = spans[:, 0]
        gaps = np.maximum(spans[1:, 0] - spans[:-1].sum(1), 0)
        # Container headers between packets are no loss; 95 of 100 places show how large they are here.
        usual = 64 + 2 * float(np.quantile(gaps, 0.95, method="lower")) if len(gaps) else 64.0
        self.until = np.concatenate([[0], np.cumsum(np.where(gaps > usual, gaps, 0))])
        self.positions = packets.positions
        self.packet_size = float(np.median(packets.sizes))

    def orphans(self, packets: NDArray[np.int64]) -> int:
        """Bytes that no packet owns between the first and the last in the file of ``packets`` (file-order numbers)."""
        places = self.positions[packets]
        left, right = np.searchsorted(self.starts, (places.min(), places.max()))
        return int(self.until[right] - self.until[left])


def missing_at_end(covered: float, duration: float, step: float, *, slack: float = 0.0) -> int:
    """Frames that a header's duration announces beyond the last packet.

    Args:
        covered: Ticks from the start to the end of the last packet.
        duration: Announced ticks; 0 or less = nothing announced.
        step: Ticks per frame.
        slack: Further ticks to tolerate, for durations that also cover other streams.
    """
    gap = duration - covered
    return round(gap / step) if gap > max(1.5 * step, slack) else 0
