"""Label spaces: the classes of a data set, which of them are things, and maps between spaces by class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
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
    """One class.

    Attributes:
        name: Its name, unique in its space.
        is_thing: True if it is countable.
        colour: RGB, 0..255.
        synonyms: Further words for it (text prompts, mapping).
        is_void: True for an id of a data set that is never trained or scored; readers turn it into 255.
        group: Its category, such as Cityscapes' ``flat``; not compared, since older checkpoints do not carry it.
    """

    name: str
    is_thing: bool
    colour: Colour
    synonyms: tuple[str, ...] = ()
    is_void: bool = False
    group: str = field(default="", compare=False)


@dataclass(frozen=True)
class LabelSpace:
    """An ordered list of classes; a class's id is its position (0..254), 255 = ignore.

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

    @cached_property
    def words(self) -> dict[str, int]:
        """Train ids by class name and synonym; a name goes before a synonym, and the first class before later ones."""
        synonyms = {word: index for index, label in reversed([*enumerate(self.classes)]) for word in label.synonyms}
        return synonyms | {name: index for index, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """Train id of the class ``name`` or of the class that lists it as a synonym.

        Raises:
            ConfigError: If no class has that name.
        """
        if name not in self.words:
            raise ConfigError(f"label space {self.name!r} has no class {name!r}; it has {', '.join(self.names)}")
        return self.words[name]

    def map_to(self, other: LabelSpace, names: Mapping[str, str] | None = None) -> NDArray[np.uint8]:
        """uint8 (256,) table from this space's train ids to ``other``'s; classes without a counterpart become 255.

        A class goes to the class that ``names`` gives, else to that of its name, else to that of its first synonym
        that ``other`` knows. Void classes of either space have no counterpart.

        Args:
            other: The space to map into.
            names: Class name here -> class name there, for classes whose names differ.

        Raises:
            ConfigError: If ``names`` leads to a class that ``other`` has not.
        """
        table = np.full(256, IGNORE, np.uint8)
        for index, label in enumerate(self.classes):
            given = (names or {}).get(label.name)
            wanted = (label.name, *label.synonyms) if given is None else (given,)
            found = next((other.words[word] for word in wanted if word in other.words), None)
            if found is None and given is not None:
                raise ConfigError(f"class {given!r} is not in {other.name!r}; it has {', '.join(other.names)}")
            if found is not None and not (label.is_void or other.classes[found].is_void):
                table[index] = found
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML and checkpoint headers; ``from_dict`` reads it back."""
        return {"name": self.name, "classes": [_write_class(label) for label in self.classes]}

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
        """Read a ``classes.yaml``: ``name`` and ``classes``, each ``{name, thing, colour, synonyms, void, group}``.

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


def _write_class(label: LabelClass) -> dict[str, Any]:
    data: dict[str, Any] = {"name": label.name, "thing": label.is_thing, "colour": list(label.colour)}
    data["synonyms"] = list(label.synonyms)
    if label.is_void:
        data["void"] = True
    if label.group:
        data["group"] = label.group
    return data


_KEYS = ("name", "thing", "colour", "synonyms", "void", "group")


def _read_class(item: object, index: int) -> LabelClass:
    if isinstance(item, str):
        item = {"name": item}
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        raise ConfigError(f"class {index} needs a 'name'; got {item!r}")
    name, synonyms, group = item["name"], item.get("synonyms", ()), item.get("group", "")
    unknown = {str(key) for key in item} - set(_KEYS)
    if unknown:
        raise ConfigError(f"class {name!r} has unknown keys {sorted(unknown)}; allowed: {', '.join(_KEYS)}")
    for key in ("thing", "void"):
        if not isinstance(item.get(key, False), bool):
            raise ConfigError(f"class {name!r}: {key} must be true or false, got {item[key]!r}")
    if not isinstance(synonyms, Sequence) or isinstance(synonyms, str) or not all(isinstance(w, str) for w in synonyms):
        raise ConfigError(f"class {name!r}: synonyms must be a list of words, got {synonyms!r}")
    if not isinstance(group, str):
        raise ConfigError(f"class {name!r}: group must be a word, got {group!r}")
    thing, void = (bool(item.get(key)) for key in ("thing", "void"))
    return LabelClass(name, thing, _read_colour(item, index), tuple(synonyms), void, group)


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


def space_names() -> list[str]:
    """Names of the shipped label spaces, which ``find_space`` accepts."""
    return sorted(path.stem for path in _tables().glob("*.yaml"))


def find_space(name: str) -> LabelSpace:
    """The shipped label space called ``name``, or the one that the class table at that path describes.

    Raises:
        ConfigError: If it is neither.
    """
    if name in space_names():
        return _shipped_space(name)
    if Path(name).suffix not in (".yaml", ".yml") and not Path(name).is_file():
        raise ConfigError(f"no label space {name!r}; use {', '.join(space_names())} or a path to a classes.yaml")
    return LabelSpace.from_yaml(name)


def _tables() -> Path:
    return Path(str(files("vidapt.configs"))) / "labels"


@cache
def _shipped_space(name: str) -> LabelSpace:
    return LabelSpace.from_yaml(_tables() / f"{name}.yaml")


def space_map(source: LabelSpace, target: LabelSpace) -> NDArray[np.uint8]:
    """uint8 (256,) table from ``source`` to ``target`` train ids, found as ``vidapt.mapping.find_mapping`` does."""
    from vidapt.mapping import find_mapping

    return find_mapping(source, target).table


CITYSCAPES: LabelSpace
"""The 19 Cityscapes train classes (11 stuff, 8 things)."""

CAMVID: LabelSpace
"""The 11 CamVid classes in label order (SegNet split); labels are semantic only."""

CITYSCAPES_TO_CAMVID: dict[str, str]
"""Cityscapes class name -> CamVid class name; probabilities are summed, then argmax."""


def __getattr__(name: str) -> LabelSpace | dict[str, str]:
    """Read the tables behind the constants when they are first asked for."""
    if name in ("CITYSCAPES", "CAMVID"):
        return _shipped_space(name.lower())
    if name == "CITYSCAPES_TO_CAMVID":
        from vidapt.mapping import read_mapping

        return read_mapping(name.lower()).names
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
