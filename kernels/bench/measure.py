"""What a call costs: time, memory, launches and waits of the host, on a GPU or on the CPU."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Protocol, TypeVar

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Key = TypeVar("Key")
Call = Callable[[], object]
Ready = Callable[[int], AbstractContextManager[Call]]

# More than the second-level cache of any GPU; written before every call, as triton.testing.do_bench does.
FLUSH_BYTES = 2**28
WARM_UP_REPLAYS = 3
ASSUMED_PAGES = 2**20  # where the system does not say how much memory is free


@dataclass(frozen=True)
class Effort:
    """How long each call is measured: seconds in all, and the least and most repetitions."""

    seconds: float
    least: int
    most: int

    def repetitions(self, estimate: float) -> int:
        """Return how often to time a call that takes about `estimate` seconds."""
        return max(self.least, min(self.most, int(self.seconds / max(estimate, 1e-9))))


@dataclass(frozen=True)
class Timing:
    """Median, 20th and 80th percentile in seconds, over some repetitions."""

    median: float
    low: float
    high: float
    repetitions: int


class Clock(Protocol):
    """Times calls one after the other."""

    def time(self, call: Call) -> None:
        """Run a call and take its time."""

    def seconds(self) -> list[float]:
        """Return the times taken so far."""


class HostClock:
    """Times calls that are done when they return."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def time(self, call: Call) -> None:
        """Run a call and take its time."""
        started = perf_counter()
        call()
        self._seconds.append(perf_counter() - started)

    def seconds(self) -> list[float]:
        """Return the times taken so far."""
        return self._seconds


class EventClock:
    """Times calls on a GPU by events, each on a cold cache; waits for the GPU only when it is read."""

    def __init__(self, flush: torch.Tensor) -> None:
        self._flush = flush
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def time(self, call: Call) -> None:
        """Queue a call between two events."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        start.record()
        call()
        end.record()
        self._events.append((start, end))

    def seconds(self) -> list[float]:
        """Return the times taken so far."""
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in self._events]


def interleaved(
    calls: Mapping[Key, Ready], repetitions: Mapping[Key, int], device: torch.device, sets: int
) -> dict[Key, Timing]:
    """Time several calls in turns, so that a machine that speeds up or slows down does so for all of them.

    `calls[key](i)` makes the call on input set i < `sets` ready, untimed; `repetitions` says how often each is timed.
    """
    flush = torch.empty(FLUSH_BYTES if device.type == "cuda" else 0, dtype=torch.uint8, device=device)
    clocks: dict[Key, Clock] = {key: EventClock(flush) if device.type == "cuda" else HostClock() for key in calls}
    for turn in range(max(repetitions.values(), default=0)):
        for key, ready in calls.items():
            if turn < repetitions[key]:
                with ready(turn % sets) as call:
                    clocks[key].time(call)
    return {key: timing(clock.seconds()) for key, clock in clocks.items()}


def estimate(call: Call, device: torch.device) -> float:
    """Return roughly how many seconds a call takes."""
    synchronize(device)
    started = perf_counter()
    call()
    synchronize(device)
    return perf_counter() - started


def timing(seconds: Sequence[float]) -> Timing:
    """Return the quantiles of some times."""
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0], 1)
    fifths = quantiles(seconds, n=5, method="inclusive")
    return Timing(median(seconds), fifths[0], fifths[3], len(seconds))


def replayed(call: Call, clear: Call, effort: Effort) -> Timing:
    """Time a call as a CUDA graph, without the host's share; `clear` drops gradients so that none is added up."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_REPLAYS):
            clear()
            call()
        clear()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    clock = EventClock(torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda"))
    for _ in range(effort.repetitions(estimate(graph.replay, torch.device("cuda")))):
        clock.time(graph.replay)
    return timing(clock.seconds())


def extra_bytes(call: Call, kept: int) -> int:
    """Return the peak of GPU memory that a call adds, less the `kept` bytes of its outputs and gradients."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return max(0, torch.cuda.max_memory_allocated() - before - kept)


def launches(call: Call) -> int:
    """Return how many kernels, fills and copies a call puts on the GPU."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiled:
        call()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA and not event.is_user_annotation for event in profiled.events())


def host_synchronisations(call: Call) -> int:
    """Return how often the host waits for the GPU during a call."""
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free, on a GPU together with what PyTorch holds without using it."""
    if device.type != "cuda":
        pages = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else ASSUMED_PAGES
        return pages * os.sysconf("SC_PAGE_SIZE")
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what was put on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
