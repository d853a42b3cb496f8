"""Doing the same for many items in several processes, in order, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from vidapt.errors import Interrupted, UserError, VidaptError
from vidapt.jobs.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")
Shared = TypeVar("Shared")

_CHUNKS = 8
_state: dict[str, Any] = {}


def default_jobs() -> int:
    """Number of processes where none is given: the cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def interruptible(what: str) -> Iterator[None]:
    """Turn Ctrl-C into one line: ``what`` was interrupted and how it goes on.

    Raises:
        Interrupted: With exit code 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {what}", signal.SIGINT) from None


def in_processes(
    function: Callable[[Shared, Item], Result],
    shared: Shared,
    items: Sequence[Item],
    *,
    jobs: int | None = None,
    title: str = "",
) -> Iterator[Result]:
    """Yield ``function(shared, item)`` for each item, in the order of the items.

    Args:
        function: Importable by name.
        shared: Sent to each process once.
        items: What differs.
        jobs: Processes; None takes one a core, 1 stays in this process.
        title: Words before the progress bar.

    Raises:
        UserError: If ``jobs`` is below 1.
        VidaptError: If a process is killed, for example because memory ran out.
    """
    count = default_jobs() if jobs is None else jobs
    if count < 1:
        raise UserError(f"--jobs {count}: give 1 or more processes")
    count = min(count, len(items)) or 1
    with progress_bar(title, len(items)) as advance:
        results = (function(shared, item) for item in items) if count == 1 else _spread(function, shared, items, count)
        for result in results:
            advance()
            yield result


def _spread(
    function: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], jobs: int
) -> Iterator[Result]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vidapt.datasets.stored"])
    chunk = max(1, min(32, len(items) // (jobs * _CHUNKS)))
    with ProcessPoolExecutor(jobs, context, _prepare, (function, shared)) as pool:
        try:
            yield from pool.map(_one, items, chunksize=chunk)
        except BrokenProcessPool:
            reason = "a process ended on its own, it was killed or memory ran out; run again with fewer --jobs"
            raise VidaptError(reason) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _prepare(function: Callable[[Any, Any], Any], shared: object) -> None:
    """Keep a worker to one thread, let Ctrl-C end it without a word and give it what all items share."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    cv2.setNumThreads(0)
    _state.update(function=function, shared=shared)


def _one(item: object) -> Any:
    return _state["function"](_state["shared"], item)
