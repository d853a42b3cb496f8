"""The segmentation folder: panoptic pictures, panoptic.json, tracks.csv, overlay.mp4 and summary.json, streamed."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from vidapt.clip import PanopticFrame
from vidapt.errors import StorageError, UserError
from vidapt.io.coco import FORMAT, PanopticJson, annotation, encode_ids
from vidapt.io.encoder import VideoWriter
from vidapt.io.overlay import draw_overlay
from vidapt.io.segmentation_folder import (
    encode_png,
    installed_versions,
    peak_memory_bytes,
    prepare_folder,
    read_segmentation,
    reserve_space,
    safe_cell,
    write_bytes,
)
from vidapt.labels import LabelSpace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TRACK_COLUMNS", "SegmentationWriter", "read_segmentation"]

TRACK_COLUMNS = ("frame", "time", "id", "category", "score", "area", "x0", "y0", "x1", "y1")
"""Columns of tracks.csv; one row per thing and frame."""

_RESERVE_BYTES = 1 << 20
_RESERVE_BYTES_PER_FRAME = 512


class SegmentationWriter:
    """Writes a segmentation folder frame by frame; memory does not grow with the video.

    The folder is valid whenever the writer has been closed, also after an error or a full disk: every frame is either
    wholly in it or not at all.

    Args:
        folder: Folder to write; it may be new, empty or an older segmentation, which is replaced.
        label_space: Classes of the frames.
        video_name: Name of the video.
        fps: Frames per second of the frames that will be written.
        overlay: Whether to write overlay.mp4; where PyAV is missing, the summary says why there is none.

    Raises:
        InputError: If the folder holds something else.
        StorageError: If it cannot be created.
    """

    def __init__(
        self, folder: str | Path, label_space: LabelSpace, *, video_name: str, fps: float, overlay: bool = True
    ) -> None:
        self.folder = Path(folder)
        self.label_space = label_space
        self.frames = 0
        self._summary: dict[str, Any] = {"video": video_name, "fps": fps}
        self._size: tuple[int, int] | None = None
        self._closed = False
        prepare_folder(self.folder)
        self._overlay_note: str | None = None if overlay else "switched off"
        self._overlay = self._open_overlay(fps) if overlay else None
        try:
            self._open(video_name)
        except OSError as error:
            raise self._storage_error(error) from error

    def _open(self, video_name: str) -> None:
        reserve_space(self.folder / ".reserve", _RESERVE_BYTES)
        self._images = (self.folder / ".images.part").open("w+", encoding="utf-8")
        self._annotations = (self.folder / "panoptic.json").open("w+", encoding="utf-8")
        self._tracks = (self.folder / "tracks.csv").open("w+", encoding="utf-8", newline="")
        self._json = PanopticJson(self._annotations, self._images, self.label_space, video_name)
        csv.writer(self._tracks).writerow(TRACK_COLUMNS)
        self._tracks.flush()
        self._tracks_good = self._tracks.tell()

    def _open_overlay(self, fps: float) -> VideoWriter | None:
        try:
            return VideoWriter(self.folder / "overlay.mp4", fps)
        except UserError as error:
            self._overlay_note = str(error)
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None:
            self.close()
        else:
            self._close_after(error)

    def write(self, frame: PanopticFrame, image: NDArray[np.uint8]) -> None:
        """Append a frame and the image (H,W,3 RGB uint8, same size) it belongs to.

        Raises:
            StorageError: If the disk is full or fails; the frames before this one stay valid.
        """
        name = f"{frame.index:06d}.png"
        picture = self.folder / "panoptic" / name
        try:
            write_bytes(picture, encode_png(encode_ids(frame.ids)))
            self._add_records(frame, name)
        except OSError as error:
            picture.unlink(missing_ok=True)
            raise self._storage_error(error) from error
        self.frames += 1
        self._size = (frame.ids.shape[0], frame.ids.shape[1])
        if self._overlay is not None:
            self._overlay.write(draw_overlay(image, frame, palette=self.label_space.palette))

    def _add_records(self, frame: PanopticFrame, name: str) -> None:
        rows = csv.writer(self._tracks)
        for segment in frame.segments:
            if segment.is_thing:
                category = safe_cell(self.label_space.names[segment.category])
                score = round(float(segment.score), 4)
                rows.writerow(
                    [frame.index, round(frame.time, 6), segment.id, category, score, segment.area, *segment.box]
                )
        self._tracks.flush()
        if (self.frames + 1) % 1024 == 0:
            reserve_space(self.folder / ".reserve", _RESERVE_BYTES + self.frames * _RESERVE_BYTES_PER_FRAME)
        self._json.add(annotation(frame, name), (frame.ids.shape[0], frame.ids.shape[1]))
        self._tracks_good = self._tracks.tell()

    def close(self, summary: Mapping[str, Any] | None = None) -> None:
        """Complete all files and write summary.json; calling it twice is harmless.

        Args:
            summary: Further entries, for example ``holes`` (frame numbers) and ``truncated`` ({decoded, expected}).

        Raises:
            StorageError: If the disk is full or fails.
        """
        self._finish({"complete": True, **(summary or {})})

    def _close_after(self, error: BaseException | None) -> None:
        """Complete the files after a failure; a second failure here must not hide the first."""
        reason = type(error).__name__ if not str(error) else str(error).splitlines()[0]
        try:
            self._finish({"complete": False, "stopped_by": reason})
        except StorageError:
            return

    def _finish(self, summary: Mapping[str, Any]) -> None:
        if self._closed:
            return
        self._closed = True
        (self.folder / ".reserve").unlink(missing_ok=True)
        try:
            self._finish_records()
            self._finish_overlay()
            self._write_summary(summary)
        except OSError as error:
            raise self._storage_error(error) from error

    def _finish_records(self) -> None:
        files: tuple[IO[str], ...] = (self._annotations, self._images, self._tracks)
        try:
            self._tracks.seek(self._tracks_good)
            self._tracks.truncate()
            self._json.finish()
        finally:
            for file in files:
                file.close()
        (self.folder / ".images.part").unlink(missing_ok=True)

    def _finish_overlay(self) -> None:
        if self._overlay is None:
            return
        try:
            self._overlay.close()
        except StorageError as error:
            self._overlay_note = str(error)
        if not self._overlay.frames:
            self._overlay_note = self._overlay_note or "no frame was written"

    def _write_summary(self, extra: Mapping[str, Any]) -> None:
        data = {
            "format": FORMAT,
            **self._summary,
            "frames": self.frames,
            "holes": [],
            "truncated": None,
            "size": self._size,
            "label_space": self.label_space.name,
            "overlay": self._overlay_note or "overlay.mp4",
            "peak_memory_bytes": peak_memory_bytes(),
            "versions": installed_versions(),
            **extra,
        }
        part = self.folder / "summary.json.part"
        write_bytes(part, (json.dumps(data, indent=2, default=str) + "\n").encode())
        part.replace(self.folder / "summary.json")

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self.folder} cannot be written ({error.strerror or error}); {self.frames} frames are complete in it: "
            "free some space and run again"
        )
