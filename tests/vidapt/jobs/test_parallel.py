"""The same for many items in several processes: order, errors, what is sent once, and one process."""

import os
import signal
from typing import Any

import pytest

from vidapt.errors import InputError, Interrupted, UserError, VidaptError
from vidapt.jobs import parallel
from vidapt.jobs.parallel import default_jobs, in_processes, interruptible


def times(factor: int, item: int) -> tuple[int, int]:
    return factor * item, os.getpid()


def fail_at(limit: int, item: int) -> int:
    if item == limit:
        raise InputError(f"item {item} is damaged")
    return item


def die_at(limit: int, item: int) -> int:
    if item == limit:
        os._exit(3)
    return item


def threads_of(shared: None, item: int) -> int:
    import cv2

    return int(cv2.getNumThreads())


def ctrl_c_of(shared: None, item: int) -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_DFL


class Counted:
    """Counts how often it is sent."""

    sent = 0

    def __getstate__(self) -> dict[str, Any]:
        Counted.sent += 1
        return {}


def ignore(shared: Counted, item: int) -> int:
    return item


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_results_come_in_the_order_of_the_items(jobs: int, count: int) -> None:
    results = list(in_processes(times, 3, range(count), jobs=jobs))
    assert [value for value, _ in results] == [3 * item for item in range(count)]
    here = {pid for _, pid in results} - {os.getpid()}
    assert len(here) <= 2
    assert bool(here) == (jobs == 2 and count > 1)


def test_one_item_needs_no_process() -> None:
    [(_, pid)] = in_processes(times, 1, [5], jobs=8)
    assert pid == os.getpid()


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_through_after_what_was_before_it(jobs: int) -> None:
    seen: list[int] = []
    results = in_processes(fail_at, 9, range(40), jobs=jobs)
    with pytest.raises(InputError, match=r"^item 9 is damaged$"):
        seen.extend(results)
    assert seen == list(range(len(seen)))
    assert len(seen) <= 9
    if jobs == 1:
        assert len(seen) == 9


def test_a_process_that_dies_is_an_error_that_says_so() -> None:
    with pytest.raises(VidaptError, match=r"a process ended on its own, .* fewer --jobs"):
        list(in_processes(die_at, 3, range(8), jobs=2))


@pytest.mark.parametrize("jobs", [0, -3])
def test_fewer_than_one_process(jobs: int) -> None:
    with pytest.raises(UserError, match=f"--jobs {jobs}: give 1 or more processes"):
        list(in_processes(times, 1, [1, 2], jobs=jobs))


def test_none_takes_a_process_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def spread(function: Any, shared: Any, items: Any, jobs: int) -> Any:
        asked.append(jobs)
        return (function(shared, item) for item in items)

    monkeypatch.setattr(parallel, "_spread", spread)
    monkeypatch.setattr(parallel, "default_jobs", lambda: 5)
    list(in_processes(times, 1, range(9)))
    list(in_processes(times, 1, range(3)))
    assert asked == [5, 3]
    assert default_jobs() >= 1


def test_the_cores_are_known_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert default_jobs() == 3


def test_what_is_shared_is_not_sent_with_every_item() -> None:
    Counted.sent = 0
    assert list(in_processes(ignore, Counted(), range(60), jobs=2)) == list(range(60))
    assert 1 <= Counted.sent <= 2


def test_workers_use_one_thread_each() -> None:
    assert set(in_processes(threads_of, None, range(8), jobs=2)) == {1}


def test_leaving_early_ends_the_processes() -> None:
    results = in_processes(times, 1, range(1000), jobs=2)
    assert next(results)[0] == 0
    results.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(results)


def test_ctrl_c_becomes_one_line() -> None:
    expected = pytest.raises(Interrupted, match=r"^interrupted: run the command again$")
    with expected as caught, interruptible("run the command again"):
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130


def test_other_errors_are_no_interruption() -> None:
    with pytest.raises(InputError, match="damaged"), interruptible("run the command again"):
        raise InputError("damaged")


def test_ctrl_c_ends_workers_without_a_traceback() -> None:
    assert all(in_processes(ctrl_c_of, None, range(8), jobs=2))
