"""The frames that score worst, as a picture that shows where they are wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vidapt.clip import IGNORE, PanopticFrame
from vidapt.evaluation.histogram import frame_histogram, predicted_codes, target_codes
from vidapt.evaluation.panoptic import match_segments, matchable_pairs
from vidapt.evaluation.runner import FrameQuality
from vidapt.io.images import resize_image, resize_label
from vidapt.io.overlay import OUTLINE, contact_sheet, label_picture, titled
from vidapt.jobs.files import write_png
from vidapt.labels import LabelSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEIGHT = 200
"""Height of the pictures in pixels."""

WRONG_CLASS = (230, 30, 30)
"""RGB colour of pixels with a wrong class."""

WRONG_SEGMENT = (250, 160, 20)
"""RGB colour of pixels with the right class in a segment that matches none of the target."""


@dataclass(frozen=True)
class WorstFrame:
    """A frame with a low score.

    Attributes:
        name: Its name in the data set.
        score: PQ, or mIoU where there are no instances, 0..1.
        metric: Which of the two.
        panels: uint8 (h,w,3) RGB: frame, target, prediction, errors.
    """

    name: str
    score: float
    metric: str
    panels: tuple[NDArray[np.uint8], ...]


class WorstFrames:
    """Keeps the pictures of the worst frames.

    Args:
        count: How many; 0 keeps none and costs nothing.
        space: Label space of target and prediction.
        ignored: Train ids whose target pixels the protocol ignores.
    """

    def __init__(self, count: int, space: LabelSpace, ignored: Sequence[int] = ()) -> None:
        self._count = count
        self._space = space
        self._ignored = ignored
        self._kept: list[WorstFrame] = []

    def add(
        self, name: str, quality: FrameQuality | None, image: Any, target: tuple[Any, Any], frame: PanopticFrame
    ) -> None:
        """Keep the frame if it is among the worst so far; frames without labels are never."""
        if quality is None or self._count == 0:
            return
        score, metric = (quality.miou, "mIoU") if quality.pq is None else (quality.pq, "PQ")
        if np.isnan(score) or (len(self._kept) == self._count and (score, name) >= _key(self._kept[-1])):
            return
        panels = _panels(image, target, frame, self._space, self._ignored)
        self.extend([WorstFrame(name, score, metric, panels)])

    def extend(self, frames: Iterable[WorstFrame]) -> None:
        """Keep the worst of these and the present ones; the result does not depend on their order."""
        self._kept = sorted([*self._kept, *frames], key=_key)[: self._count]

    def worst_first(self) -> tuple[WorstFrame, ...]:
        """The kept frames, the worst first."""
        return tuple(self._kept)


def _key(frame: WorstFrame) -> tuple[float, str]:
    return frame.score, frame.name


def error_map(
    semantic: NDArray[np.uint8],
    instance: NDArray[np.int32] | None,
    frame: PanopticFrame,
    space: LabelSpace,
    ignored: Sequence[int] = (),
) -> NDArray[np.uint8]:
    """Where a prediction is wrong.

    Args:
        semantic: uint8 (H,W) target train ids, 255 = ignore.
        instance: int32 (H,W) target track ids, or None without instances.
        frame: The prediction.
        space: Label space of both.
        ignored: Train ids whose target pixels are ignored.

    Returns:
        uint8 (H,W): 0 right or ignored, 1 wrong class, 2 right class in a thing segment that matches none.
    """
    left_out = np.zeros(256, bool)
    left_out[[IGNORE, *ignored]] = True
    labelled = ~left_out[semantic]
    errors = (labelled & (frame.semantic != semantic)).astype(np.uint8)
    if instance is None:
        return errors
    categories = {segment.id: segment.category for segment in frame.segments}
    histogram = frame_histogram(semantic, instance, frame.ids, categories, space, left_out=left_out)
    matches = match_segments(histogram, matchable_pairs(histogram, space.is_thing))
    found = np.isin(target_codes(semantic, instance, space.is_thing), histogram.target[matches.target]) & np.isin(
        predicted_codes(frame.ids, categories, len(space)), histogram.predicted[matches.predicted]
    )
    single = labelled & space.is_thing[semantic] & (instance > 0)
    return np.where((errors == 0) & single & ~found, np.uint8(2), errors)


def _panels(
    image: NDArray[np.uint8], target: tuple[Any, Any], frame: PanopticFrame, space: LabelSpace, ignored: Sequence[int]
) -> tuple[NDArray[np.uint8], ...]:
    small = resize_image(image, HEIGHT)
    errors = resize_label(error_map(*target, frame, space, ignored), HEIGHT)
    grey = np.repeat(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)[..., None] // 2 + 60, 3, axis=2)
    for value, colour in ((1, WRONG_CLASS), (2, WRONG_SEGMENT)):
        grey[errors == value] = colour
    semantic, instance = target
    things = np.isin(frame.ids, [segment.id for segment in frame.segments if segment.is_thing])
    objects = None if instance is None else np.where(space.is_thing[semantic], instance, 0)
    found = None if instance is None else np.where(things, frame.ids, 0)
    return (small, _label_panel(semantic, objects, space), _label_panel(frame.semantic, found, space), grey)


def _label_panel(
    semantic: NDArray[np.uint8], objects: NDArray[np.int32] | None, space: LabelSpace
) -> NDArray[np.uint8]:
    """Class colours, with outlines of ``objects`` (ids of single things, 0 elsewhere), which else run together."""
    picture = label_picture(resize_label(semantic, HEIGHT), space.palette)
    if objects is not None:
        ids = resize_label(objects, HEIGHT)
        for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
            picture[here][ids[here] != ids[there]] = OUTLINE
    return picture


def write_sheet(frames: Sequence[WorstFrame], path: Path) -> None:
    """Write a PNG with a row for each frame: frame, target, prediction, errors (red: class, orange: segment).

    Raises:
        StorageError: If it cannot be written.
    """
    rows = [list(map(titled, frame.panels, _titles(frame))) for frame in frames]
    blank = np.full((HEIGHT, 400, 3), 255, np.uint8)
    write_png(path, contact_sheet(rows or [[titled(blank, "no frame with labels was scored")]]))


def _titles(frame: WorstFrame) -> tuple[str, ...]:
    # The score comes first: a narrow picture cuts the end off.
    first = f"{frame.metric} {100 * frame.score:.1f}: {frame.name}"
    return (first, "target", "prediction", "errors: class red, segment orange")
