"""Class mappings: which class of a data set becomes which class of a label space, from readable files or by name.

A mapping file lists every class of the source once, under the target class that it becomes or under ``ignored``, and
under ``missing`` the target classes that receive nothing, so that nothing is forgotten on either side::

    source: viper
    target: viper_cityscapes
    classes:
      road: [road]
      vegetation: [tree, vegetation]
    ignored: [van]
    missing: []
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.errors import ConfigError
from vidapt.labels import CITYSCAPES, IGNORE, LabelSpace, find_space, space_names
from vidapt.recipe import parse_yaml

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ClassMapping:
    """Which class of one label space becomes which class of another.

    Attributes:
        name: Name of the mapping file, or ``<source>_to_<target>``.
        source: The space mapped from, such as the raw ids of a data set.
        target: The space mapped into.
        table: uint8 (256,) from ids of the source to ids of the target, 255 = none.
        found: Where the mapping comes from, in a few words.
    """

    name: str
    source: LabelSpace
    target: LabelSpace
    table: NDArray[np.uint8] = field(repr=False)
    found: str = ""

    @property
    def names(self) -> dict[str, str]:
        """Source class name -> target class name, for the classes that have one."""
        pairs = zip(self.source.names, self.table.tolist(), strict=False)
        return {name: self.target.names[index] for name, index in pairs if index != IGNORE}

    @property
    def ignored(self) -> tuple[str, ...]:
        """Classes of the source that become 255; its void classes, which always do, are not named."""
        mapped = self.names
        return tuple(c.name for c in self.source.classes if not c.is_void and c.name not in mapped)

    @property
    def missing(self) -> tuple[str, ...]:
        """Classes of the target that no class of the source becomes, its void classes aside."""
        reached = set(self.names.values())
        return tuple(c.name for c in self.target.classes if not c.is_void and c.name not in reached)


def unmapped_counts(mapping: ClassMapping, counts: NDArray[np.integer[Any]]) -> dict[str, int]:
    """Pixels that a mapping turns into 255, most first.

    Args:
        mapping: The mapping.
        counts: int (256,) pixels per raw id.

    Returns:
        Pixels by class name, or by ``id 77`` for an id that is not in the source's table. Void classes, 255 and what
        does not occur are left out.
    """
    found = {}
    for index in np.flatnonzero((mapping.table == IGNORE) & (np.asarray(counts) > 0)).tolist():
        label = mapping.source.classes[index] if index < len(mapping.source) else None
        if index != IGNORE and (label is None or not label.is_void):
            found[label.name if label else f"id {index}"] = int(counts[index])
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def mapping_names() -> list[str]:
    """Names of the shipped mappings."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def read_mapping(path_or_name: str | Path) -> ClassMapping:
    """Read a mapping file whose spaces are shipped or class tables beside it.

    Args:
        path_or_name: A shipped name such as ``viper_to_cityscapes``, or a path to a YAML file.

    Raises:
        ConfigError: If it is neither, is no mapping file, or does not place every class of both spaces once.
    """
    sheet = _read_sheet(_locate(path_or_name))
    return _build(sheet, _space(sheet.source, sheet.path), _space(sheet.target, sheet.path))


def find_mapping(source: LabelSpace, target: LabelSpace, name: str | None = None) -> ClassMapping:
    """Find how the classes of ``source`` become classes of ``target``.

    The first that applies: the file that ``name`` gives; the shipped ``<source>_to_<target>``; identity, if the class
    names are the same; over Cityscapes' 19 classes, if one of the two steps is shipped and this maps no fewer classes
    than names do; class names and synonyms. The last may map few classes or none; see ``ignored`` and ``missing``.

    Args:
        source: The space mapped from.
        target: The space mapped into.
        name: Name of a shipped mapping or path to a mapping file.

    Raises:
        ConfigError: If that file is missing or wrong, or maps between other spaces.
    """
    if name is not None:
        sheet = _read_sheet(_locate(name))
        built = _build(sheet, _fitting(sheet, sheet.source, source), _fitting(sheet, sheet.target, target))
        return replace(built, source=source, target=target)
    shipped = _shipped(source, target)
    if shipped is not None:
        return shipped
    names = ClassMapping(_stem(source, target), source, target, source.map_to(target), "by name")
    if source.names == target.names:
        return ClassMapping(names.name, source, target, names.table, "the same classes")
    through = _through_cityscapes(source, target)
    return through if through is not None and len(through.names) >= len(names.names) else names


def _through_cityscapes(source: LabelSpace, target: LabelSpace) -> ClassMapping | None:
    """The mapping in two steps, of which at least one is shipped."""
    first, second = _shipped(source, CITYSCAPES), _shipped(CITYSCAPES, target)
    if first is None and second is None:
        return None
    tables = (
        source.map_to(CITYSCAPES) if first is None else first.table,
        CITYSCAPES.map_to(target) if second is None else second.table,
    )
    steps = " and ".join("names" if step is None else step.name for step in (first, second))
    return ClassMapping(_stem(source, target), source, target, tables[1][tables[0]], f"over cityscapes: {steps}")


def _shipped(source: LabelSpace, target: LabelSpace) -> ClassMapping | None:
    """The shipped mapping between two spaces; a space of a shipped name with other classes has none."""
    stem = _stem(source, target)
    if stem not in mapping_names() or not all(_has_shipped_classes(space) for space in (source, target)):
        return None
    return replace(read_mapping(stem), source=source, target=target)


def _has_shipped_classes(space: LabelSpace) -> bool:
    return space.name in space_names() and find_space(space.name).names == space.names


def _stem(source: LabelSpace, target: LabelSpace) -> str:
    return f"{source.name}_to_{target.name}"


def _folder() -> Path:
    return Path(str(files("vidapt.configs"))) / "mappings"


def _locate(path_or_name: str | Path) -> Path:
    text = str(path_or_name)
    names = mapping_names()
    if text in names:
        return _folder() / f"{text}.yaml"
    if not Path(text).is_file():
        raise ConfigError(
            f"no class mapping {text!r}: it is neither a file nor a shipped mapping;{_hint(text, names)} "
            f"shipped: {', '.join(names)}"
        )
    return Path(text)


def _space(word: str, path: Path) -> LabelSpace:
    """The space that a mapping file names: a class table beside the file, or what ``find_space`` finds."""
    beside = path.parent / word
    return LabelSpace.from_yaml(beside) if beside.is_file() else find_space(word)


def _fitting(sheet: _Sheet, word: str, given: LabelSpace) -> LabelSpace:
    """The space that the file calls ``word``, if ``given`` has its classes; ``given`` may lack the void flags."""
    if word == given.name and not _has_shipped_classes(given):
        return given
    own = _space(word, sheet.path)
    if own.names != given.names:
        raise ConfigError(
            f"class mapping {sheet.path} maps {sheet.source} to {sheet.target}, but the classes at hand are those of "
            f"{given.name!r}, not of {word!r}; name a mapping between the right spaces"
        )
    return own


@dataclass(frozen=True)
class _Sheet:
    """A mapping file as it is written; its names are not looked up yet."""

    path: Path
    source: str
    target: str
    classes: Mapping[str, Sequence[str]]
    ignored: Sequence[str]
    missing: Sequence[str]


_KEYS = ("source", "target", "classes", "ignored", "missing")


def _read_sheet(path: Path) -> _Sheet:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"class mapping {path} cannot be read: {error}") from None
    data = parse_yaml(text, f"class mapping {path}")
    if not isinstance(data, Mapping):
        raise ConfigError(f"class mapping {path} must have the keys {', '.join(_KEYS)}")
    for key in data:
        if key not in _KEYS:
            raise ConfigError(
                f"class mapping {path}: unknown key {key!r};{_hint(str(key), _KEYS)} allowed: {', '.join(_KEYS)}"
            )
    for key in ("source", "target"):
        if not isinstance(data.get(key), str):
            raise ConfigError(f"class mapping {path}: {key} must name a label space, got {data.get(key)!r}")
    classes = data.get("classes")
    if not isinstance(classes, Mapping):
        raise ConfigError(f"class mapping {path}: classes must give source classes for each target class")
    lists = {**classes, **{f"'{key}'": data.get(key, []) for key in ("ignored", "missing")}}
    for key, words in lists.items():
        if not isinstance(key, str) or not _is_words(words):
            raise ConfigError(f"class mapping {path}: {key} must be followed by a list of class names, got {words!r}")
    return _Sheet(path, data["source"], data["target"], classes, data.get("ignored", []), data.get("missing", []))


def _is_words(words: object) -> bool:
    return isinstance(words, list) and all(isinstance(word, str) for word in words)


def _build(sheet: _Sheet, source: LabelSpace, target: LabelSpace) -> ClassMapping:
    problems = [*_wrong_sources(sheet, source), *_wrong_targets(sheet, target)]
    if problems:
        raise ConfigError(f"class mapping {sheet.path}: {'; '.join(problems)}")
    table = np.full(256, IGNORE, np.uint8)
    for name, members in sheet.classes.items():
        table[[source.names.index(member) for member in members]] = target.names.index(name)
    shipped = sheet.path.parent == _folder()
    return ClassMapping(sheet.path.stem, source, target, table, "shipped" if shipped else f"file {sheet.path}")


def _wrong_sources(sheet: _Sheet, source: LabelSpace) -> list[str]:
    """What is wrong with the source classes of a file."""
    places: dict[str, list[str]] = {}
    for place, members in (*sheet.classes.items(), ("ignored", sheet.ignored)):
        for member in members:
            places.setdefault(member, []).append(place)
    problems = [_unknown(name, source) for name in places if name not in source.names]
    for name, found in places.items():
        if len(found) > 1:
            problems.append(f"source class {name!r} stands under {' and '.join(found)}; leave it under one")
    void = [c.name for c in source.classes if c.is_void and places.get(c.name, ["ignored"]) != ["ignored"]]
    problems += [f"source class {name!r} is void and cannot be mapped; drop it" for name in void]
    left = [c.name for c in source.classes if not c.is_void and c.name not in places]
    if left:
        problems.append(f"source classes neither mapped nor ignored: {', '.join(left)}")
    return problems


def _wrong_targets(sheet: _Sheet, target: LabelSpace) -> list[str]:
    """What is wrong with the target classes of a file."""
    named = [*sheet.classes, *sheet.missing]
    problems = [_unknown(name, target) for name in dict.fromkeys(named) if name not in target.names]
    for name in sorted({name for name in sheet.missing if sheet.missing.count(name) > 1}):
        problems.append(f"target class {name!r} stands under missing twice; leave one")
    for name in dict.fromkeys(sheet.missing):
        if sheet.classes.get(name):
            members = ", ".join(sheet.classes[name])
            problems.append(f"target class {name!r} is listed as missing but receives {members}")
    problems += [
        f"target class {c.name!r} is void and cannot receive classes"
        for c in target.classes
        if c.is_void and sheet.classes.get(c.name)
    ]
    empty = [c.name for c in target.classes if not c.is_void and not sheet.classes.get(c.name)]
    left = [name for name in empty if name not in sheet.missing]
    if left:
        problems.append(f"target classes that receive nothing and are not listed as missing: {', '.join(left)}")
    return problems


def _unknown(name: str, space: LabelSpace) -> str:
    return f"{name!r} is no class of {space.name!r};{_hint(name, space.names)}".rstrip(";")


def _hint(word: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, names, 1, cutoff=0.5)
    return f" did you mean {near[0]!r}?" if near else ""
