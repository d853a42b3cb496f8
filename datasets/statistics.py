"""Pixels per class of labelled frames, for rare class sampling and class weights; kept with a hash of the files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from vidapt.datasets.frame_index import Frame, stamp
from vidapt.datasets.stored import StoredDataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
"""Version of the stored file; part of its hash."""


@dataclass(frozen=True)
class FrameStatistics:
    """Pixels per class of each labelled frame.

    Attributes:
        names: Names of the N frames.
        counts: int64 (N,256) pixels by id of the data set's own label space, column 255 = void.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]

    def mapped(self, table: NDArray[np.uint8]) -> FrameStatistics:
        """The same pixels by the ids of another space; ``table`` is uint8 (256,) as ``ClassMapping.table``."""
        counts = np.zeros_like(self.counts)
        for own, other in enumerate(table.tolist()):
            counts[:, other] += self.counts[:, own]
        return FrameStatistics(self.names, counts)

    def frequencies(self, classes: int) -> NDArray[np.float64]:
        """float64 (classes,) share of each class among all labelled pixels; zeros without any."""
        totals = self.counts[:, :classes].sum(0).astype(np.float64)
        return totals / max(1.0, totals.sum())

    def frames_with(self, train_id: int, min_pixels: int) -> tuple[str, ...]:
        """Names of the frames that show more than ``min_pixels`` pixels of a class (rare class sampling, DAFormer)."""
        return tuple(self.names[place] for place in np.flatnonzero(self.counts[:, train_id] > min_pixels))


def labelled_frames(dataset: StoredDataset) -> list[Frame]:
    """The frames that have labels, in order."""
    return [frame for frame in dataset.frames() if frame.labels]


def statistics_key(dataset: StoredDataset, frames: Sequence[Frame]) -> str:
    """Hash of everything that the statistics depend on: reader, options, names, sizes and times of the label files."""
    digest = hashlib.sha256(repr((FORMAT, dataset.split, dataset.describe())).encode())
    for frame in frames:
        files = [(path, *stamp(dataset.root / path)[1:]) for path in frame.labels]
        digest.update(repr((frame.name, files)).encode())
    return digest.hexdigest()[:32]


def statistics_folders(root: Path) -> list[Path]:
    """Where statistics may be kept: beside the data, else in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [root / ".vidapt", cache / "vidapt" / "statistics"]


def load_statistics(root: Path, key: str) -> FrameStatistics | None:
    """The kept statistics with this key, or None; a damaged file counts as missing."""
    found = (_load(folder / f"{key}.npz") for folder in statistics_folders(root))
    return next((statistics for statistics in found if statistics is not None), None)


def _load(path: Path) -> FrameStatistics | None:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return FrameStatistics(tuple(file["names"].tolist()), file["counts"])
    # A damaged file makes numpy, zipfile, zlib and tokenize raise errors of a dozen kinds.
    except Exception:
        return None


def save_statistics(root: Path, key: str, statistics: FrameStatistics) -> Path | None:
    """Keep statistics in the first folder that can be written; None if none can."""
    for folder in statistics_folders(root):
        part = folder / f"{key}.{uuid4().hex}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    np.savez_compressed(file, names=np.array(statistics.names, dtype=str), counts=statistics.counts)
                os.replace(part, folder / f"{key}.npz")
            except OSError:
                part.unlink(missing_ok=True)
                raise
        except OSError:
            continue
        return folder / f"{key}.npz"
    return None
