"""Tasks in processes of their own: order, needs, failures, ends by force, and stop signals."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from vidapt.errors import InputError, Interrupted, UserError
from vidapt.jobs.processes import Task, run_tasks


class Seen:
    """A watch that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.ticks = 0

    def started(self, key: str) -> None:
        self.events.append(f"+{key}")

    def finished(self, key: str) -> None:
        self.events.append(key)

    def failed(self, key: str, reason: str) -> None:
        self.events.append(f"!{key}")

    def tick(self) -> None:
        self.ticks += 1


def work(argument: tuple[str, str]) -> None:
    """What a process does: an order, and the file that it leaves."""
    order, path = argument
    print(f"doing {order}")
    match order:
        case "refuse":
            raise InputError("no such\nfile")
        case "break":
            raise ValueError("broken")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            try:
                Path(path).with_suffix(".began").touch()
                time.sleep(60)
            except KeyboardInterrupt:
                Path(path).with_suffix(".saved").touch()
                raise
    Path(path).write_text(f"{os.getpid()} {os.getsid(0)}")


def task(folder: Path, key: str, order: str = "do", needs: tuple[str, ...] = ()) -> Task:
    return Task(key, (order, str(folder / key)), folder / "logs" / f"{key}.log", needs)


def test_tasks_run_in_processes_of_their_own_in_the_order_that_needs_allow(tmp_path: Path) -> None:
    tasks = [
        task(tmp_path, "a"),
        task(tmp_path, "b", needs=("a",)),
        task(tmp_path, "c"),
        task(tmp_path, "d", needs=("b",)),
    ]
    watch = Seen()
    assert run_tasks(tasks, work, jobs=2, watch=watch) == {}
    order = watch.events
    assert sorted(order) == sorted([*"abcd", "+a", "+b", "+c", "+d"])
    assert order[:2] == ["+a", "+c"]
    assert order.index("a") < order.index("+b")
    assert order.index("b") < order.index("+d")
    owners = [(tmp_path / key).read_text().split() for key in "abcd"]
    assert len({pid for pid, _ in owners} | {str(os.getpid())}) == 5
    assert all(pid == session for pid, session in owners), "away from the terminal"
    assert (tmp_path / "logs" / "a.log").read_text() == "doing do\n"
    assert watch.ticks > 0


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("refuse", "no such file"),
        ("break", "unexpected ValueError: broken"),
        ("die", "its process ended by signal 9, as when memory runs out"),
    ],
)
def test_a_failure_stops_only_what_needs_it(tmp_path: Path, order: str, reason: str) -> None:
    tasks = [task(tmp_path, "a", order), task(tmp_path, "b", needs=("a",)), task(tmp_path, "c", needs=("b",))]
    watch = Seen()
    failed = run_tasks([*tasks, task(tmp_path, "d")], work, jobs=1, watch=watch)
    assert list(failed) == ["a", "b", "c"]
    assert failed["a"].startswith(reason)
    assert (failed["b"], failed["c"]) == ("it needs a, which failed", "it needs b, which failed")
    assert watch.events == ["+a", "!a", "!b", "!c", "+d", "d"]
    assert (tmp_path / "d").is_file()


def stop_when_begun(paths: list[Path], number: int) -> threading.Thread:
    def wait() -> None:
        while not all(path.exists() for path in paths):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_is_passed_on_once_and_waited_for(tmp_path: Path, number: int) -> None:
    tasks = [task(tmp_path, key, "wait") for key in "ab"]
    stopper = stop_when_begun([tmp_path / "a.began", tmp_path / "b.began"], number)
    begin, before = time.monotonic(), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        run_tasks([*tasks, task(tmp_path, "c")], work, jobs=2, watch=Seen())
    stopper.join()
    assert caught.value.exit_code == 128 + number
    assert time.monotonic() - begin < 30
    assert [(tmp_path / f"{key}.saved").exists() for key in "ab"] == [number == signal.SIGINT] * 2
    assert not (tmp_path / "c").exists()
    assert signal.getsignal(signal.SIGINT) == before


def test_jobs_must_be_positive() -> None:
    with pytest.raises(UserError, match="--jobs 0: give 1 or more"):
        run_tasks([], work, jobs=0, watch=Seen())


def test_nothing_to_do_is_done() -> None:
    assert run_tasks([], work, jobs=3, watch=Seen()) == {}
