"""Label spaces: the classes of a data set, which of them are things, and maps between spaces by class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORE = 255

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelClass:
    """One class: its name, whether it is countable, its colour and further words for it (text prompts, mapping)."""

    name: str
    is_thing: bool
    colour: Colour
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelSpace:
    """An ordered list of classes; a class's train id is its position (0..254), 255 = ignore.

    Raises:
        ConfigError: If there is no class, more than 255, or two of one name.
    """

    name: str
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        names = self.names
        if not 1 <= len(names) <= IGNORE:
            raise ConfigError(f"label space {self.name!r} has {len(names)} classes; 1 to 255 are allowed")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"label space {self.name!r} names {', '.join(twice)} more than once; rename one")

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names in train-id order."""
        return tuple(label.name for label in self.classes)

    @cached_property
    def things(self) -> tuple[int, ...]:
        """Train ids of the things."""
        return tuple(index for index, label in enumerate(self.classes) if label.is_thing)

    @cached_property
    def stuff(self) -> tuple[int, ...]:
        """Train ids of the stuff classes."""
        return tuple(index for index, label in enumerate(self.classes) if not label.is_thing)

    @cached_property
    def is_thing(self) -> NDArray[np.bool_]:
        """bool (256,): True where the train id is a thing."""
        table = np.zeros(256, bool)
        table[list(self.things)] = True
        return table

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """uint8 (256,3) RGB colours by train id; unused ids are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = [label.colour for label in self.classes]
        return table

    def index(self, name: str) -> int:
        """Train id of the class ``name`` or of the class that lists it as a synonym.

        Raises:
            ConfigError: If no class has that name.
        """
        for position, label in enumerate(self.classes):
            if name == label.name or name in label.synonyms:
                return position
        raise ConfigError(f"label space {self.name!r} has no class {name!r}; it has {', '.join(self.names)}")

    def map_to(self, other: LabelSpace, names: Mapping[str, str] | None = None) -> NDArray[np.uint8]:
        """uint8 (256,) table from this space's train ids to ``other``'s; classes without a counterpart become 255.

        Args:
            other: The space to map into.
            names: Class name here -> class name there, for classes whose names differ.
        """
        table = np.full(256, IGNORE, np.uint8)
        known = {word: index for index, label in enumerate(other.classes) for word in (label.name, *label.synonyms)}
        for index, label in enumerate(self.classes):
            target = (names or {}).get(label.name, label.name)
            if target in known:
                table[index] = known[target]
            elif names and label.name in names:
                raise ConfigError(f"class {target!r} is not in {other.name!r}; it has {', '.join(other.names)}")
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML and checkpoint headers; ``from_dict`` reads it back."""
        return {
            "name": self.name,
            "classes": [
                {
                    "name": label.name,
                    "thing": label.is_thing,
                    "colour": list(label.colour),
                    "synonyms": list(label.synonyms),
                }
                for label in self.classes
            ],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LabelSpace:
        """Read what ``to_dict`` wrote, or the content of a ``classes.yaml``.

        Raises:
            ConfigError: If a class has no name or a colour is not three values 0..255.
        """
        classes = data.get("classes") if isinstance(data, Mapping) else None
        if not isinstance(classes, Sequence) or isinstance(classes, str) or not classes:
            raise ConfigError("a class table needs 'classes': a list of {name, thing, colour}; see docs/data.md")
        return LabelSpace(
            str(data.get("name", "custom")), tuple(_read_class(item, i) for i, item in enumerate(classes))
        )

    @staticmethod
    def from_yaml(path: str | Path) -> LabelSpace:
        """Read a ``classes.yaml``: ``name`` and ``classes``, a list of ``{name, thing, colour, synonyms}``.

        Raises:
            ConfigError: If the file is missing or is no class table.
        """
        from vidapt.recipe import parse_yaml

        try:
            text = Path(path).read_text("utf-8")
        except OSError as error:
            raise ConfigError(f"class table {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"class table {path} is not UTF-8 text: {error}") from error
        data = parse_yaml(text, f"class table {path}")
        if not isinstance(data, dict):
            raise ConfigError(f"class table {path} must be a mapping with 'name' and 'classes'")
        return LabelSpace.from_dict(data)


def _read_class(item: object, index: int) -> LabelClass:
    if isinstance(item, str):
        item = {"name": item}
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        raise ConfigError(f"class {index} needs a 'name'; got {item!r}")
    unknown = set(item) - {"name", "thing", "colour", "synonyms"}
    if unknown:
        raise ConfigError(
            f"class {item['name']!r} has unknown keys {sorted(unknown)}; allowed: name, thing, colour, synonyms"
        )
    synonyms = item.get("synonyms", ())
    if isinstance(synonyms, str) or not all(isinstance(word, str) for word in synonyms):
        raise ConfigError(f"class {item['name']!r}: synonyms must be a list of words, got {synonyms!r}")
    return LabelClass(item["name"], bool(item.get("thing", False)), _read_colour(item, index), tuple(synonyms))


def _read_colour(item: Mapping[str, Any], index: int) -> Colour:
    colour = item.get("colour")
    if colour is None:
        return _distinct_colour(index)
    if (
        not isinstance(colour, Sequence)
        or len(colour) != 3
        or not all(isinstance(v, int) and 0 <= v <= 255 for v in colour)
    ):
        raise ConfigError(f"class {item['name']!r}: colour must be three whole numbers 0..255, got {colour!r}")
    return (colour[0], colour[1], colour[2])


def _distinct_colour(index: int) -> Colour:
    """A colour per index, far from its neighbours (golden-ratio hue)."""
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.65, 0.95)
    return (round(red * 255), round(green * 255), round(blue * 255))


def _cityscapes() -> LabelSpace:
    rows: list[tuple[str, bool, Colour, tuple[str, ...]]] = [
        ("road", False, (128, 64, 128), ()),
        ("sidewalk", False, (244, 35, 232), ("pavement",)),
        ("building", False, (70, 70, 70), ()),
        ("wall", False, (102, 102, 156), ()),
        ("fence", False, (190, 153, 153), ()),
        ("pole", False, (153, 153, 153), ()),
        ("traffic light", False, (250, 170, 30), ()),
        ("traffic sign", False, (220, 220, 0), ("sign",)),
        ("vegetation", False, (107, 142, 35), ("tree",)),
        ("terrain", False, (152, 251, 152), ("grass",)),
        ("sky", False, (70, 130, 180), ()),
        ("person", True, (220, 20, 60), ("pedestrian",)),
        ("rider", True, (255, 0, 0), ()),
        ("car", True, (0, 0, 142), ()),
        ("truck", True, (0, 0, 70), ()),
        ("bus", True, (0, 60, 100), ()),
        ("train", True, (0, 80, 100), ()),
        ("motorcycle", True, (0, 0, 230), ()),
        ("bicycle", True, (119, 11, 32), ()),
    ]
    return LabelSpace("cityscapes", tuple(LabelClass(*row) for row in rows))


CITYSCAPES = _cityscapes()
"""The 19 Cityscapes train classes (11 stuff, 8 things)."""

CAMVID = LabelSpace(
    "camvid",
    (
        LabelClass("sky", False, (128, 128, 128)),
        LabelClass("building", False, (128, 0, 0)),
        LabelClass("pole", False, (192, 192, 128)),
        LabelClass("road", False, (128, 64, 128)),
        LabelClass("sidewalk", False, (0, 0, 192)),
        LabelClass("tree", False, (128, 128, 0)),
        LabelClass("sign", False, (192, 128, 128)),
        LabelClass("fence", False, (64, 64, 128)),
        LabelClass("car", True, (64, 0, 128)),
        LabelClass("pedestrian", True, (64, 64, 0)),
        LabelClass("bicyclist", True, (0, 128, 192)),
    ),
)
"""The 11 CamVid classes in label order (SegNet split); labels are semantic only."""

CITYSCAPES_TO_CAMVID: dict[str, str] = {
    "wall": "building",
    "traffic light": "sign",
    "traffic sign": "sign",
    "vegetation": "tree",
    "terrain": "tree",
    "person": "pedestrian",
    "rider": "bicyclist",
    "truck": "car",
    "bus": "car",
    "train": "car",
    "motorcycle": "bicyclist",
    "bicycle": "bicyclist",
}
"""Cityscapes class name -> CamVid class name, where they differ; probabilities are summed, then argmax."""

_RENAMED: dict[tuple[str, str], dict[str, str]] = {
    ("cityscapes", "camvid"): CITYSCAPES_TO_CAMVID,
    ("camvid", "cityscapes"): {"bicyclist": "rider"},
}


def space_map(source: LabelSpace, target: LabelSpace) -> NDArray[np.uint8]:
    """uint8 (256,) table from ``source`` to ``target`` train ids by name, synonym and the shipped renamings."""
    return source.map_to(target, _RENAMED.get((source.name, target.name)))


SPACES = {space.name: space for space in (CITYSCAPES, CAMVID)}
"""Label spaces by name."""


def find_space(name: str) -> LabelSpace:
    """The shipped label space called ``name``, or the one that the class table at that path describes.

    Raises:
        ConfigError: If it is neither.
    """
    if name in SPACES:
        return SPACES[name]
    if not Path(name).suffix:
        raise ConfigError(f"no label space {name!r}; use {', '.join(SPACES)} or a path to a classes.yaml")
    return LabelSpace.from_yaml(name)
