"""What a run reports while it trains: metrics.jsonl, TensorBoard, and a progress bar or lines."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vidapt.errors import StorageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SECONDS_BETWEEN_LINES = 10.0


class RunLog:
    """Writes a run's metrics; used by the main process only.

    Args:
        run: Run folder; ``metrics.jsonl``, ``skipped.jsonl`` and TensorBoard's event files go there.
        steps: Steps of the whole run.
        start: Steps done before; metrics of later steps that an interrupted run left are removed.
        tensorboard: Write TensorBoard events if the package is installed.
    """

    def __init__(self, run: Path, *, steps: int, start: int, tensorboard: bool = True) -> None:
        self._run, self._steps, self._start = run, steps, start
        self._printed = -math.inf
        self._writer = _summary_writer(run, start) if tensorboard else None
        self._progress: Progress | None = None
        for name in ("metrics.jsonl", "skipped.jsonl"):
            drop_records_after(run / name, start)

    def __enter__(self) -> RunLog:
        console = Console(stderr=True)
        if console.is_terminal:
            self._progress = _progress_bar(console)
            self._progress.start()
            self._task = self._progress.add_task("training", total=self._steps, completed=self._start, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Write one line of metrics: ``step``, ``lr``, ``grad_norm``, ``losses`` and so on."""
        self._append("metrics.jsonl", record)
        if self._writer is not None:
            with _writing(self._run):
                for name, value in _scalars(record):
                    self._writer.add_scalar(name, value, record["step"])
        self._show(record)

    def skipped(self, record: Mapping[str, Any]) -> None:
        """Write down a step that was skipped because a loss or a gradient was not finite."""
        self._append("skipped.jsonl", record)
        self.say(f"step {record['step']}: skipped, {record['reason']}; clips: {'; '.join(record['clips'])}")

    def say(self, text: str) -> None:
        """Print a line without disturbing the progress bar."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        path = self._run / name
        with _writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n")

    def _show(self, record: Mapping[str, Any]) -> None:
        line = summary_line(record, self._steps)
        if self._progress is not None:
            self._progress.update(self._task, text=f"loss {record['loss']:.3f}")
        elif time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES or record["step"] == self._steps:
            self._printed = time.monotonic()
            self.say(line)


def summary_line(record: Mapping[str, Any], steps: int) -> str:
    """Return one metrics record as a line for people."""
    return (
        f"step {record['step']}/{steps}  loss {record['loss']:.4f}  lr {record['lr']:.2e}  "
        f"{record['samples_per_second']:.1f} clips/s  ETA {duration(record['eta_seconds'])}"
    )


def duration(seconds: float) -> str:
    """Return seconds as ``2h 03m``, ``4m 05s`` or ``6s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def drop_records_after(path: Path, step: int) -> None:
    """Remove lines of later steps, and a line that was cut, from a .jsonl file."""
    if not path.is_file():
        return
    with _writing(path):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text("".join(f"{line}\n" for line in lines if _step_of(line) <= step), encoding="utf-8")
        os.replace(temporary, path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"writing {path} failed ({error}); free some space, then resume") from error


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    losses = [(f"loss/{name}", value) for name, value in record["losses"].items()]
    rest = [(f"train/{name}", record[name]) for name in ("loss", "lr", "grad_norm", "samples_per_second", "skipped")]
    return losses + rest


def _summary_writer(run: Path, start: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run), purge_step=start + 1 if start else None)


def _progress_bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    return Progress(*columns, console=console)
