"""Running the cells of a comparison that are not finished: starts first, equal trainings once, then their files."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vidapt
from vidapt.errors import Interrupted
from vidapt.jobs.compare_cells import FORMAT, START, Cell, Start, cell_head, cell_path, fits, read_cell, write_copy
from vidapt.jobs.compare_progress import Board
from vidapt.jobs.files import write_text
from vidapt.jobs.processes import Task, run_tasks


@dataclass
class ComparisonRun:
    """A comparison that runs.

    Attributes:
        out: Its folder.
        cells: All cells that are wanted.
        found: The files of finished cells and starts by key; those that finish are added.
        device: ``cpu`` or ``cuda``; None picks a GPU if there is one.
        keep_runs: Keep run folders of finished cells.
        command: What the user typed.
        copies: Cells that are the same training as another, by the key of that one.
        owners: Cells that have to be run.
        starts: Shared starts that have to be trained for them.
    """

    out: Path
    cells: Sequence[Cell]
    found: dict[str, dict[str, Any]]
    device: str | None
    keep_runs: bool
    command: str
    copies: dict[str, list[Cell]] = field(default_factory=dict)
    owners: dict[str, Cell] = field(default_factory=dict)
    starts: dict[str, Start] = field(default_factory=dict)
    board: Board | None = None

    def __post_init__(self) -> None:
        stale = {cell.key for cell in self.cells if not self.is_finished(cell)}
        ready = {data["digest"]: key for key, data in self.found.items() if key not in stale}
        first: dict[str, str] = {}
        for cell in self.cells:
            if self.is_finished(cell):
                continue
            owner = ready.get(cell.digest) or first.setdefault(cell.digest, cell.key)
            if owner == cell.key:
                self.owners[cell.key] = cell
            else:
                self.copies.setdefault(owner, []).append(cell)
        for cell in self.owners.values():
            if not self.has_weights(cell.start):
                self.starts[cell.start.key] = cell.start

    def is_finished(self, cell: Cell) -> bool:
        """Whether the file of a cell is there and was written for the same recipe."""
        return fits(self.found.get(cell.key), cell.digest)

    def has_weights(self, start: Start) -> bool:
        """Whether a start is finished and its checkpoint still there."""
        return fits(self.found.get(start.key), start.digest) and (self.run_folder(start.key) / "checkpoints").is_dir()

    def run_folder(self, key: str) -> Path:
        """Where a cell or start is trained."""
        return self.out / "runs" / key

    def notes(self, *, planned: bool) -> list[str]:
        """What to say before anything runs; with ``planned`` a line for each start and cell."""
        changed = [cell.key for cell in self.cells if cell.key in self.found and not self.is_finished(cell)]
        lines = [f"run with other settings before, run again: {', '.join(changed)}"] if changed else []
        if not planned:
            return lines
        copied = {cell.key: owner for owner, cells in self.copies.items() for cell in cells}
        lines += [f"{key}: shared start, {start.recipe.training.steps} steps" for key, start in self.starts.items()]
        for cell in self.cells:
            steps = 0 if cell.name == START else cell.recipe.training.steps
            plan = f"{steps} steps from {cell.start.key}" if steps else f"{cell.start.key} scored"
            plan = f"the same training as {copied[cell.key]}" if cell.key in copied else plan
            lines.append(f"{cell.key}: {'finished' if self.is_finished(cell) else plan}")
        done = len(self.cells) - len(self.owners) - len(copied)
        return [*lines, f"{len(self.cells)} cells: {done} finished, {len(self.owners)} to run, {len(copied)} copies"]

    def run(self, jobs: int) -> dict[str, str]:
        """Do everything that is not finished; returns the reasons by the cells that failed."""
        from vidapt.jobs.compare_worker import perform

        self.board = Board(self.cells, list(self.starts.values()), self.out / "runs")
        for cell in self.cells:
            if self.is_finished(cell):
                self.board.finished(cell.key, self.found[cell.key], before=True)
        with self.board:
            for owner in [key for key in self.copies if key not in self.owners]:
                self._copy(owner, read_cell(cell_path(self.out, owner)))
            try:
                lost = run_tasks(self._tasks(), perform, jobs=jobs, watch=self, preload=("vidapt.jobs.compare_worker",))
            except Interrupted as outcome:
                raise self._interrupted(outcome) from None
        return self._note_failures(lost)

    def _interrupted(self, outcome: Interrupted) -> Interrupted:
        done = sum(map(self.is_finished, self.cells))
        return Interrupted(
            f"stopped with {done} of {len(self.cells)} cells finished and the running ones saved; "
            f"continue with: {self.command}",
            outcome.exit_code - 128,
        )

    def _note_failures(self, lost: Mapping[str, str]) -> dict[str, str]:
        """Write failed.jsonl; a copy fails with its owner."""
        failed = dict(lost)
        for owner, cells in self.copies.items():
            failed |= {cell.key: f"the same training as {owner}, which failed" for cell in cells if owner in lost}
        path = self.out / "failed.jsonl"
        if failed:
            logs = {key: str(self._log(key)) for key in failed}
            lines = [json.dumps({"cell": key, "error": failed[key], "log": logs[key]}) for key in failed]
            write_text(path, "".join(f"{line}\n" for line in lines))
        else:
            path.unlink(missing_ok=True)
        return failed

    def _log(self, key: str) -> Path:
        return self.out / "logs" / f"{key}.log"

    def _tasks(self) -> list[Task]:
        """Each start before the first cell that needs it."""
        tasks: dict[str, Task] = {}
        facts = {"command": self.command, "commit": commit()}
        for cell in self.owners.values():
            start = cell.start
            if start.key in self.starts and start.key not in tasks:
                tasks[start.key] = Task(start.key, self._start_work(start, facts), self._log(start.key))
            needs = (start.key,) if start.key in self.starts else ()
            tasks[cell.key] = Task(cell.key, self._cell_work(cell, facts), self._log(cell.key), needs)
        return list(tasks.values())

    def _start_work(self, start: Start, facts: Mapping[str, Any]) -> Any:
        head = {"format": FORMAT, "key": start.key, "comparison": "", "recipe": START, "seed": start.seed}
        head |= {"sweep": None, "digest": start.digest, "same_as": None, **facts}
        return self._work(start.key, head, start, None, train=True)

    def _cell_work(self, cell: Cell, facts: Mapping[str, Any]) -> Any:
        return self._work(cell.key, {**cell_head(cell), **facts}, cell, cell.start, train=cell.name != START)

    def _work(self, key: str, head: dict[str, Any], one: Cell | Start, start: Start | None, *, train: bool) -> Any:
        from vidapt.jobs.compare_worker import Work

        head["config"] = one.recipe.model_dump(mode="json")
        folder = None if start is None else self.run_folder(start.key).absolute()
        return Work(head, one.recipe, self.run_folder(key), folder, train, cell_path(self.out, key), self.device)

    def started(self, key: str) -> None:
        """A task begins."""
        if self.board is not None:
            self.board.started(key)

    def finished(self, key: str) -> None:
        """A task is done: its copies are written, and what nobody needs any more is removed."""
        data = read_cell(cell_path(self.out, key))
        self.found[key] = data
        if self.board is not None:
            self.board.finished(key, data)
        self._copy(key, data)
        if key in self.owners:
            self._remove(key)
            start = self.owners[key].start
            if all(self.is_finished(cell) for cell in self.owners.values() if cell.start.key == start.key):
                self._remove(start.key)

    def _copy(self, owner: str, data: Mapping[str, Any]) -> None:
        for cell in self.copies.get(owner, ()):
            write_copy(self.out, cell, data)
            self.found[cell.key] = read_cell(cell_path(self.out, cell.key))
            if self.board is not None:
                self.board.finished(cell.key, self.found[cell.key])

    def _remove(self, key: str) -> None:
        if not self.keep_runs:
            shutil.rmtree(self.run_folder(key), ignore_errors=True)

    def failed(self, key: str, reason: str) -> None:
        """A task has failed."""
        if self.board is not None:
            self.board.failed(key, reason)

    def tick(self) -> None:
        """Some time has passed."""
        if self.board is not None:
            self.board.refresh()


def commit() -> str | None:
    """The git commit that this code is checked out at, marked where files differ; None outside a checkout."""
    folder = Path(vidapt.__file__).parent
    tracked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"]
    named = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        subprocess.run(tracked, check=True, capture_output=True)  # noqa: S603 - a fixed command
        return subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
