"""How a running comparison shows itself: a live table of cells on a terminal, a line for each cell elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vidapt.jobs.compare_cells import START, Cell, Start, sweep_text

_TAIL = 4096
_STYLES = {"waiting": "dim", "running": "cyan", "finished": "", "failed": "red"}


class Board:
    """What has become of each cell and start.

    Args:
        cells: All cells that are wanted, finished ones too.
        starts: The starts that have to be trained.
        runs: Folder of their run folders.
        console: Where to print; None is standard output.
    """

    def __init__(
        self, cells: Sequence[Cell], starts: Sequence[Start], runs: Path, console: Console | None = None
    ) -> None:
        self.cells, self.starts, self.runs = cells, starts, runs
        self.console = console or Console()
        everything: list[Start | Cell] = [*starts, *cells]
        self.state: dict[str, tuple[str, str]] = {one.key: ("waiting", "") for one in everything}
        self._steps = {one.key: one.recipe.training.steps for one in everything}
        self._steps |= {cell.key: 0 for cell in cells if cell.name == START}
        self._began: dict[str, float] = {}
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self.refresh()
            self._live.stop()

    def started(self, key: str) -> None:
        """A cell or start begins."""
        self.state[key] = ("running", "")
        self._began[key] = time.monotonic()
        self._say(f"{key}: {f'{self._steps[key]} steps begin' if self._steps[key] else 'scoring begins'}")

    def finished(self, key: str, data: Mapping[str, Any], *, before: bool = False) -> None:
        """A cell or start is done; ``before`` says that it was before this run of the command."""
        self.state[key] = ("finished", score_text(data))
        if not before:
            seconds = f", {time.monotonic() - self._began[key]:.0f} s" if key in self._began else ""
            same = f", the same training as {data['same_as']}" if data.get("same_as") else ""
            self._say(f"{self._count()} {key}: {score_text(data)}{same}{seconds}")

    def failed(self, key: str, reason: str) -> None:
        """A cell or start has failed."""
        self.state[key] = ("failed", "failed")
        self._say(f"{self._count()} {key}: failed: {reason}")

    def refresh(self) -> None:
        """Show how far the running ones are."""
        if self._live is None:
            return
        for key, (status, _) in self.state.items():
            if status == "running":
                done = last_step(self.runs / key)
                scoring = (done or 0) >= self._steps[key]
                self.state[key] = (status, "scoring" if scoring else f"{done or 0}/{self._steps[key]}")
        self._live.update(self._table(), refresh=True)

    def _count(self) -> str:
        over = sum(self.state[cell.key][0] in ("finished", "failed") for cell in self.cells)
        return f"[{over}/{len(self.cells)}]"

    def _say(self, line: str) -> None:
        if self._live is None:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Group:
        rows: dict[tuple[str, str], dict[int, str]] = {}
        for cell in self.cells:
            swept = "" if cell.sweep is None else f" {cell.sweep[0]}={sweep_text(cell.sweep[1])}"
            rows.setdefault((cell.comparison, cell.name + swept), {})[cell.seed] = cell.key
        seeds = sorted({cell.seed for cell in self.cells})
        table = Table("comparison", "recipe", *(f"seed {seed}" for seed in seeds), box=None, pad_edge=False)
        for start in self.starts:
            table.add_row("", Text("shared start"), *(self._text(start.key) if s == start.seed else "" for s in seeds))
        for (comparison, name), keys in rows.items():
            table.add_row(Text(comparison), Text(name), *(self._text(keys[s]) if s in keys else "" for s in seeds))
        return Group(table, Text(f"{self._count()} cells are over"))

    def _text(self, key: str) -> Text:
        status, text = self.state[key]
        return Text(text or status, _STYLES[status])


def score_text(data: Mapping[str, Any]) -> str:
    """mIoU and STQ of the weights that a recipe reports, in percent."""
    scores = data["scores"].get(data.get("weights"), {})
    found = {title: scores.get(name) for title, name in (("mIoU", "miou"), ("STQ", "stq"))}
    return " ".join(f"{title} {100 * value:.1f}" for title, value in found.items() if value is not None) or "done"


def last_step(run: Path) -> int | None:
    """The last step that a run has logged, or None."""
    path = run / "metrics.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, IndexError, KeyError):
        return None
