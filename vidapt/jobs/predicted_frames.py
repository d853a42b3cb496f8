"""What all kinds of stored predictions share: looking frames up, and mapping their classes to those that are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vidapt.clip import FIRST_THING_ID, IGNORE, PanopticFrame, Segment
from vidapt.errors import ConfigError, InputError
from vidapt.evaluation.histogram import compact
from vidapt.io.coco import ID_LIMIT
from vidapt.labels import LabelSpace
from vidapt.mapping import ClassMapping, find_mapping

if TYPE_CHECKING:
    from numpy.typing import NDArray

Lookup = Callable[[int, str, tuple[int, int]], PanopticFrame]
"""The prediction for a frame of a video, by its position, name and size (H, W); called with rising positions."""


@dataclass(frozen=True)
class VideoFrames:
    """Names of the frames of a video.

    Attributes:
        read: Those that are scored, in order.
        whole: All of the recording; the same where none is left out.
    """

    read: tuple[str, ...]
    whole: tuple[str, ...]


class ClassPixels:
    """Counts predicted pixels by class, before the classes are mapped; the state is int64 (256,), void last."""

    def __init__(self) -> None:
        self.counts = np.zeros(IGNORE + 1, np.int64)

    def add(self, frame: PanopticFrame) -> None:
        """Count a frame."""
        self.counts += np.bincount(frame.semantic.reshape(-1), minlength=IGNORE + 1)


class Predictions(Protocol):
    """Predictions for the videos of a data set.

    Attributes:
        mapping: From the classes of the predictions to those that are scored.
        names_classes: True if the predictions say which classes theirs are.
    """

    @property
    def mapping(self) -> ClassMapping:
        """From the classes of the predictions to those that are scored."""

    @property
    def names_classes(self) -> bool:
        """True if the predictions say which classes theirs are."""

    def video(self, number: int, pixels: ClassPixels | None = None) -> Lookup:
        """Open the predictions for video ``number``; ``pixels`` counts what is looked up."""

    def refuse_missing(self, videos: Sequence[VideoFrames]) -> None:
        """Look whether every frame has a prediction.

        Raises:
            InputError: If some have none; it names them.
        """


def some_names(names: Sequence[str], most: int = 10) -> str:
    """The first names, quoted.

    >>> some_names(["a", "b", "c"], most=2)
    "'a', 'b', ..."
    """
    return ", ".join(repr(name) for name in names[:most]) + (", ..." if len(names) > most else "")


def space_of_categories(name: str, categories: Sequence[Mapping[str, Any]], path: Path) -> LabelSpace:
    """The label space of COCO ``categories``, in their order.

    Raises:
        InputError: If one has no name, or two have the same; ``path`` is the file that lists them.
    """
    try:
        classes = [
            {"name": item["name"], "thing": bool(item.get("isthing", 0)), "colour": item.get("color")}
            for item in categories
        ]
        return LabelSpace.from_dict({"name": name, "classes": classes})
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise InputError(f"the categories of {path} are not a list of {{id, name, isthing}}: {error}") from error


def mapping_to_scored(space: LabelSpace, own: ClassMapping, path: Path) -> ClassMapping:
    """From the classes of predictions to those that are scored; the classes of the ground truth go where it goes."""
    mapping = own if space.names == own.source.names else find_mapping(space, own.target)
    if not mapping.names:
        some = ", ".join(space.names[:5]) + (", ..." if len(space) > 5 else "")
        raise InputError(
            f"no class of {path} ({some}) is one of label space {own.target.name!r} ({', '.join(own.target.names)}); "
            "name the classes of predictions as the label space does"
        )
    return mapping


def check_size(ids: NDArray[np.int32], size: tuple[int, int], what: str, name: str) -> None:
    """Raise InputError if ids (H,W) of ``what`` have another size than the labels of the frame ``name``."""
    if ids.shape != size:
        raise InputError(
            f"{what} is {ids.shape[1]}x{ids.shape[0]}, but {name} is scored at {size[1]}x{size[0]}; resize predictions "
            "to that (nearest neighbour), or predict at that size"
        )


def remap_frame(frame: PanopticFrame, mapping: ClassMapping) -> PanopticFrame:
    """The same segmentation with the classes of ``mapping.target``.

    Stuff segments get the id ``train id + 1``, things keep an id of their own, the same in every frame: from 256 up
    theirs, and those below 256 above all that a picture can hold. Segments without a counterpart become void.

    Args:
        frame: Segments with unique ids, of any numbering; 0 is void.
        mapping: From the frame's classes.
    """
    is_thing = mapping.target.is_thing
    table, segments = {0: 0}, []
    for segment in frame.segments:
        category = int(mapping.table[segment.category])
        if category == IGNORE:
            table[segment.id] = 0
            continue
        thing = bool(is_thing[category])
        single = segment.id if segment.id >= FIRST_THING_ID else ID_LIMIT + segment.id
        table[segment.id] = single if thing else category + 1
        segments.append(replace(segment, id=table[segment.id], category=category, is_thing=thing))
    present, place = compact(frame.ids)
    ids = np.array([table[own] for own in present.tolist()], np.int32)[place]
    return PanopticFrame(frame.index, frame.time, mapping.table[frame.semantic], ids, _merged(segments))


def _merged(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """One segment for each id: stuff segments of one class become one."""
    found: dict[int, Segment] = {}
    for segment in segments:
        first = found.get(segment.id)
        found[segment.id] = segment if first is None else replace(first, area=first.area + segment.area)
    return tuple(found.values())
