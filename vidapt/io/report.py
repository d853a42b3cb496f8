"""``report.html``: one self-contained file with tables, curves, pictures and a short video."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jinja2 import Environment, StrictUndefined

from vidapt.errors import StorageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Table:
    """A table: column heads and rows of text; the first column names the row.

    Attributes:
        head: Column heads.
        rows: Cells.
        colours: RGB colour of each row, shown beside its name; empty for none.
        bold: Row and column of the cells that stand out.
        caption: What the table shows; empty where a heading says it.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    colours: Sequence[tuple[int, int, int]] = ()
    bold: Collection[tuple[int, int]] = ()
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """An image with its caption; ``data`` is PNG or JPEG bytes of the type ``mime``."""

    caption: str
    data: bytes
    mime: str = "image/png"

    @property
    def source(self) -> str:
        """A data URL."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class ReportSection:
    """A part with a heading of its own: lines of text, its main table, remarks, pictures and further tables."""

    title: str
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class ReportContent:
    """What a report shows; every text is escaped.

    Attributes:
        title: Heading.
        notice: A sentence about what the numbers are, shown first (a generated test bed says so here).
        facts: Name and value of what the reader must know: data, command, versions, device.
        summary: Scores of the compared models, or None.
        classes: Scores per class, or None.
        curves: Training curves.
        pictures: Overlays.
        video: H.264 MP4 bytes, or None.
        video_caption: What the video shows.
        command: The next command to type.
        sections: Further parts, shown first.
    """

    title: str
    notice: str | None
    facts: Sequence[tuple[str, str]]
    summary: Table | None
    classes: Table | None
    curves: Sequence[Picture] = ()
    pictures: Sequence[Picture] = ()
    video: bytes | None = None
    video_caption: str = ""
    command: str | None = None
    sections: Sequence[ReportSection] = ()

    @property
    def video_source(self) -> str | None:
        """The video as a data URL."""
        return None if self.video is None else f"data:video/mp4;base64,{base64.b64encode(self.video).decode()}"


def write_report(path: Path, content: ReportContent) -> None:
    """Render the report and write it under a temporary name, then rename.

    Raises:
        StorageError: If writing fails; an older report is intact.
    """
    template = (files("vidapt.io") / "report.html").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(template).render(report=content)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written ({error.strerror}); free space and run it again") from error


def jpeg(image: NDArray[np.uint8], caption: str, scale: int = 1) -> Picture:
    """Encode uint8 (H,W,3) RGB as a JPEG picture, enlarged by a whole factor without smoothing."""
    if scale > 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return Picture(caption, data.tobytes(), "image/jpeg")


def curve(title: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], unit: str) -> Picture:
    """Draw named (steps, values) series into one plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, (steps, values) in series.items():
        axes.plot(list(steps), list(values), label=name, linewidth=1.3)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    if series:
        axes.legend(fontsize=7, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Picture(title, buffer.getvalue())
