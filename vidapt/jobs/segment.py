"""``vidapt segment``: from a video to a segmentation folder, streaming."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from vidapt.clip import PanopticFrame
from vidapt.errors import InputError
from vidapt.io.reader import Reader, open_video
from vidapt.io.writer import SegmentationWriter
from vidapt.jobs.progress import progress_bar
from vidapt.segmenter import Segmenter, load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Result = tuple[PanopticFrame, NDArray[np.uint8]]


@dataclass(frozen=True)
class SegmentResult:
    """What was written.

    Attributes:
        folder: The segmentation folder.
        frames: Frames written.
        holes: Indices of frames that could not be decoded.
        truncated: A sentence if the video ends before its stated duration, else None.
        frames_per_second: Frames written per second of wall time.
    """

    folder: Path
    frames: int
    holes: tuple[int, ...]
    truncated: str | None
    frames_per_second: float


def segment(
    input: str | Path,
    *,
    checkpoint: str | Path,
    out: str | Path,
    weights: Literal["student", "teacher"] | None = None,
    start: int | None = None,
    stop: int | None = None,
    stride: int = 1,
    device: str | None = None,
    overlay: bool = True,
    backend: Literal["pyav", "decord"] = "pyav",
) -> SegmentResult:
    """Segment one video into ``out``.

    Args:
        input: Video file, folder of images or glob.
        checkpoint: Run folder, checkpoint folder or ``.safetensors`` file.
        out: Segmentation folder to write.
        weights: Which weights of a run; None uses what its recipe says.
        start: First frame index.
        stop: Index after the last frame.
        stride: Every stride-th frame.
        device: Where the network runs.
        overlay: Write ``overlay.mp4`` too.
        backend: Decoder of video files.

    Raises:
        InputError: If the input cannot be read. A damaged input is first written as far as it can be read; an older
            segmentation in ``out`` is replaced only once a frame has been read.
        CheckpointError: If the checkpoint does not load.
        StorageError: If writing fails; what was written stays valid.
    """
    with open_video(str(input), start=start, stop=stop, stride=stride, backend=backend) as reader:
        result = write_segmentation(load(checkpoint, weights, device), reader, Path(out), overlay=overlay)
    problems = []
    if result.holes:
        problems.append(f"{len(result.holes)} frame(s) could not be decoded ({_some(result.holes)})")
    if result.truncated:
        problems.append(result.truncated)
    if problems:
        raise InputError(f"{input}: {'; '.join(problems)}; the {result.frames} readable frames are in {result.folder}")
    line = f"{result.frames} frames in {result.folder} ({result.frames_per_second:.1f} frames/s)"
    Console(soft_wrap=True, markup=False, highlight=False).print(line)
    return result


def write_segmentation(segmenter: Segmenter, reader: Reader, out: Path, *, overlay: bool) -> SegmentResult:
    """Segment an open reader into the folder ``out``.

    Raises:
        InputError: If the source fails; the frames before that are in ``out``, which is untouched if there are none.
        StorageError: If writing fails; what was written stays valid.
    """
    begin, frames = time.monotonic(), 0
    results = _from_first(segmenter.segment_reader(reader))
    with (
        SegmentationWriter(
            out, segmenter.space, video_name=reader.name, fps=reader.fps / reader.selection.stride, overlay=overlay
        ) as writer,
        progress_bar("segmenting", reader.expected_frames) as advance,
    ):
        try:
            for frame, image in results:
                writer.write(frame, image)
                frames += 1
                advance()
        except InputError as error:
            raise InputError(f"{error}; the {frames} frames before that are in {out}") from error
        seconds = max(time.monotonic() - begin, 1e-9)
        truncated = reader.truncated
        writer.close(
            {
                "holes": list(reader.holes),
                "truncated": None
                if truncated is None
                else {"decoded": truncated.decoded, "expected": truncated.expected},
                "processed_frames_per_second": round(frames / seconds, 2),
            }
        )
    cut = None if truncated is None else f"the video ends early: {truncated.decoded} of {truncated.expected} frames"
    return SegmentResult(out, frames, tuple(reader.holes), cut, frames / seconds)


def _from_first(results: Iterator[Result]) -> Iterator[Result]:
    """The same results, the first of them already there: a source without any fails here."""
    return chain([next(results)], results)


def _some(indices: tuple[int, ...]) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    return shown if len(indices) <= 5 else f"{shown}, ..."
