"""Files of a miniature data set read back with Pillow alone, to be compared with its truth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.datasets.miniature.truth import Truth


def pixels(path: Path, mode: str) -> np.ndarray:
    """The stored values of a PNG, which must have the given mode of Pillow."""
    with Image.open(path) as image:
        assert image.mode == mode
        return np.array(image).astype(np.int64)


def segment_ids(path: Path) -> np.ndarray:
    return pixels(path, "RGB") @ np.array([1, 256, 65536])


def labelled(truth: Truth) -> Iterator[tuple[str, Any]]:
    """The pictures that have classes, by their paths."""
    return ((path, frame) for path, frame in truth.frames.items() if frame.classes is not None)


def label_files(truth: Truth, suffix: str) -> list[str]:
    return sorted(path.relative_to(truth.root).as_posix() for path in truth.root.rglob(f"*{suffix}"))


def check_segments(ids: np.ndarray, annotation: dict[str, Any], frame: Any) -> None:
    """A panoptic PNG and its segments tell the same as the truth, category ids being those of ``frame``."""
    segments = {segment["id"]: segment for segment in annotation["segments_info"]}
    assert set(np.unique(ids)) - {0} == set(segments)
    for key, segment in segments.items():
        mask = ids == key
        assert mask.sum() == segment["area"]
        assert set(frame.classes[mask]) == {segment["category_id"]}
        assert len(set(frame.objects[mask])) == 1
        assert set(frame.crowd[mask]) == {bool(segment["iscrowd"])}
    owners = {(int(n), key) for n, key in zip(frame.objects.flat, ids.flat, strict=True) if n}
    assert len({number for number, _ in owners}) == len(owners)
