"""Running tasks that depend on each other, each in a process of its own, so that one that fails ends alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from vidapt.engine.signals import StopRequests
from vidapt.errors import Interrupted, UserError, VidaptError

POLL = 0.5
"""Seconds between looks at what the processes have done."""


@dataclass(frozen=True)
class Task:
    """Something to do.

    Attributes:
        key: Its name.
        argument: What the function is called with.
        log: File that its output is added to.
        needs: Names of tasks that must be done before.
    """

    key: str
    argument: Any
    log: Path
    needs: tuple[str, ...] = ()


class Watch(Protocol):
    """Who is told what happens; called in the process that runs the tasks."""

    def started(self, key: str) -> None:
        """A task begins."""

    def finished(self, key: str) -> None:
        """A task is done."""

    def failed(self, key: str, reason: str) -> None:
        """A task has failed, or cannot begin because another has."""

    def tick(self) -> None:
        """Some time has passed."""


@dataclass
class _Child:
    task: Task
    process: BaseProcess
    answers: Connection


def run_tasks(
    tasks: Sequence[Task], function: Callable[[Any], None], *, jobs: int, watch: Watch, preload: Sequence[str] = ()
) -> dict[str, str]:
    """Run tasks in the order given, ``jobs`` at once; a task that fails does not stop those that do not need it.

    The first Ctrl-C or SIGTERM is passed on to the processes, which may save what they have; the second ends all.

    Args:
        tasks: What to do; ``needs`` name earlier ones.
        function: Importable by name; called with the argument of a task in a process of its own.
        jobs: Processes at once.
        watch: Is told what happens.
        preload: Modules that the processes need.

    Returns:
        Reasons by the names of the tasks that failed.

    Raises:
        UserError: If ``jobs`` is below 1.
        Interrupted: After a stop signal, once all processes have ended.
    """
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: give 1 or more processes")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    waiting, running, failed = list(tasks), dict[str, _Child](), dict[str, str]()
    with StopRequests() as requests:
        try:
            while (waiting or running) and not requests.received:
                waiting = _refuse_hopeless(waiting, failed, watch)
                _start_ready(waiting, running, context, function, jobs, watch)
                _reap(running, failed, watch)
                watch.tick()
        finally:
            _end(running, requests.received or signal.SIGTERM)
    if requests.received and (waiting or running):
        raise Interrupted("interrupted", requests.received)
    return failed


def _refuse_hopeless(waiting: list[Task], failed: dict[str, str], watch: Watch) -> list[Task]:
    """Drop tasks that need one that failed."""
    for task in list(waiting):
        lost = [key for key in task.needs if key in failed]
        if lost:
            failed[task.key] = f"it needs {lost[0]}, which failed"
            watch.failed(task.key, failed[task.key])
            waiting.remove(task)
    return waiting


def _start_ready(
    waiting: list[Task],
    running: dict[str, _Child],
    context: ForkServerContext,
    function: Callable[[Any], None],
    jobs: int,
    watch: Watch,
) -> None:
    undone = {task.key for task in waiting} | running.keys()
    for task in list(waiting):
        if len(running) >= jobs:
            return
        if undone.isdisjoint(task.needs):
            task.log.parent.mkdir(parents=True, exist_ok=True)
            answers, sender = context.Pipe(duplex=False)
            process = context.Process(target=_run_child, args=(function, task.argument, str(task.log), sender))
            process.start()
            sender.close()
            waiting.remove(task)
            running[task.key] = _Child(task, process, answers)
            watch.started(task.key)


def _reap(running: dict[str, _Child], failed: dict[str, str], watch: Watch) -> None:
    """Take the answers of the processes that have ended."""
    wait([child.process.sentinel for child in running.values()], timeout=POLL)
    for key, child in list(running.items()):
        if child.process.is_alive():
            continue
        del running[key]
        reason = _answer(child)
        if reason is None:
            watch.finished(key)
        else:
            failed[key] = reason
            watch.failed(key, reason)


def _answer(child: _Child) -> str | None:
    """None where the task was done, else why not."""
    child.process.join()
    try:
        return str(answer) if (answer := child.answers.recv()) is not None else None
    except EOFError:
        code = child.process.exitcode or 0
        how = f"by signal {-code}, as when memory runs out" if code < 0 else f"with exit code {code}"
        return f"its process ended {how}; {child.task.log} has its output"
    finally:
        child.answers.close()


def _end(running: dict[str, _Child], number: int) -> None:
    """Pass a signal on and wait; processes save their state after it."""
    for child in running.values():
        if child.process.pid is not None and child.process.is_alive():
            os.kill(child.process.pid, number)
    for child in running.values():
        child.process.join()


def _run_child(function: Callable[[Any], None], argument: Any, log: str, sender: Connection) -> None:
    """Body of a process: away from the terminal's Ctrl-C, which the parent passes on once, with output to a file."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        function(argument)
        sender.send(None)
    except (KeyboardInterrupt, Interrupted):
        sender.send("interrupted")
    except VidaptError as error:
        traceback.print_exc()
        sender.send(" ".join(str(error).split()))
    except Exception as error:
        traceback.print_exc()
        sender.send(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
