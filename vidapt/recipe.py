"""Reading recipes: strict YAML, ``extends``, ``--set`` values, and errors that name the nearest key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from vidapt.config import Data, Recipe
from vidapt.errors import ConfigError

Location = tuple[int | str, ...]
Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 6e-5 is a number, only true/false are booleans, and a key may stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads: a text that would be read as a number there is quoted."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # Only double quotes escape the line breaks of Unicode, which other styles write raw and read back as blanks.
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


_SCALARS = {
    "bool": (r"true|false", "tf"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
        "-+0123456789.",
    ),
    "timestamp": None,
}


def _core_scalars(kind: type[_Loader] | type[_Dumper]) -> None:
    """Replace YAML 1.1's guesses (on, 010, 1:30, dates) by those of YAML 1.2's core schema."""
    replaced = {f"tag:yaml.org,2002:{name}" for name in _SCALARS}
    kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in entries if tag not in replaced]
        for first, entries in kind.yaml_implicit_resolvers.items()
    }
    for name, rule in _SCALARS.items():
        if rule is not None:
            kind.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"^(?:{rule[0]})$"), list(rule[1]))


_core_scalars(_Loader)
_core_scalars(_Dumper)


def load_recipe(config: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        config: A path to a YAML file, or a name under ``vidapt.configs`` such as ``demo``; several joined by ``+``
            are merged left to right, as in ``benchmarks/gta5_to_cityscapes+methods/vidapt``.
        overrides: ``key.path=value`` texts, applied last; values are YAML.

    Raises:
        ConfigError: If the file is missing, is no YAML mapping, or does not fit the schema; unknown keys come with
            the nearest allowed name.
    """
    parts = [str(config)] if Path(config).is_file() else str(config).split("+")
    merged: dict[str, Any] = {"name": "+".join(Path(part).stem for part in parts)}
    for part in parts:
        merged = merge(merged, read_layers(part))
    return build_recipe(set_values(merged, overrides), str(config))


def read_layers(config: str | Path) -> dict[str, Any]:
    """Read one YAML file, by its path or shipped name, over everything that it extends; not checked.

    Raises:
        ConfigError: If a file is missing, is no YAML mapping or extends itself.
    """
    return _read(_locate(config), ())


def override_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return ``recipe`` with ``key.path=value`` texts applied, checked again.

    Raises:
        ConfigError: If a text or its value does not fit the schema.
    """
    return build_recipe(set_values(recipe.model_dump(mode="json"), overrides), recipe.name) if overrides else recipe


def build_recipe(data: Mapping[str, Any], origin: str) -> Recipe:
    """Check ``data`` against the schema; ``origin`` names it in the error.

    Raises:
        ConfigError: On the first key or value that does not fit.
    """
    return check(Recipe, data, origin)


def check(model: type[Model], data: Mapping[str, Any], origin: str) -> Model:
    """Check ``data`` against a model; ``origin`` names it in the error.

    Raises:
        ConfigError: On the first key or value that does not fit.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error, data, model)}") from None


def load_section(data: Mapping[str, Any], overrides: Sequence[str], origin: str) -> Data:
    """Check a data section on its own; ``overrides`` are ``key=value`` texts as ``--set`` takes them.

    Raises:
        ConfigError: On the first key or value that does not fit.
    """
    try:
        recipe = build_recipe({"source": set_values(dict(data), overrides)}, origin)
    except ConfigError as error:
        raise ConfigError(str(error).replace("source.", "", 1)) from None
    if isinstance(recipe.source, tuple):
        raise ConfigError(f"{origin}: one data section is wanted, not a list")
    return recipe.source


def dump_recipe(recipe: Recipe) -> str:
    """YAML text of the resolved recipe; reading it back gives an equal recipe."""
    data = recipe.model_dump(mode="json")
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def recipe_names() -> list[str]:
    """Names under ``vidapt.configs`` that ``load_recipe`` accepts; class tables, mappings and suites are no recipes."""
    root = _shipped()
    found = (path.relative_to(root).with_suffix("") for path in root.rglob("*.yaml"))
    return sorted(path.as_posix() for path in found if path.parts[0] not in ("labels", "mappings", "suites"))


def parse_yaml(text: str, origin: str) -> Any:
    """Parse YAML text with the strict loader.

    Raises:
        ConfigError: If it is not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - the loader extends SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings key by key; a section whose ``kind`` changes is replaced whole.

    A mapping over a list changes the entries that its keys number, as ``--set source.1.root=DIR`` does.
    """
    return dict(base) | {key: _merge_values(base.get(key), value) for key, value in over.items()}


def _merge_values(old: Any, new: Any) -> Any:
    if isinstance(old, list) and isinstance(new, Mapping):
        places = [str(place) for place in range(len(old))]
        if new and set(new) <= set(places):
            return [
                _merge_values(value, new[place]) if place in new else value
                for place, value in zip(places, old, strict=True)
            ]
    return merge(old, new) if _same_section(old, new) else new


def _same_section(old: object, new: object) -> bool:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return False
    return "kind" not in old or "kind" not in new or bool(old["kind"] == new["kind"])


def _shipped() -> Path:
    return Path(str(files("vidapt.configs")))


def _locate(config: str | Path, extending: Path | None = None) -> Path:
    """Find a recipe: a path (beside the recipe that extends it, else from here), then a shipped name."""
    text = str(config)
    folder = extending.parent if extending else Path()
    for candidate in (folder / text, _shipped() / text, _shipped() / f"{text}.yaml"):
        if candidate.is_file():
            return candidate.resolve()
    where = f" (extended by {extending})" if extending else ""
    hint = _suggest(text, recipe_names())
    raise ConfigError(f"no recipe {text!r}{where}: it is neither a file nor a shipped recipe; {hint}")


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Read one file over everything that it extends; ``seen`` are the recipes that led to it."""
    if path in seen:
        names = " -> ".join(recipe.name for recipe in (*seen[seen.index(path) :], path))
        raise ConfigError(f"{path} extends itself: {names}; remove one 'extends'")
    data = _read_mapping(path)
    parents = data.pop("extends", [])
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: extends must be a list of recipe names or paths, got {parents!r}")
    merged: dict[str, Any] = {}
    for parent in parents:
        merged = merge(merged, _read(_locate(parent, path), (*seen, path)))
    return merge(merged, data)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {error}") from None
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a mapping of recipe keys, got {type(data).__name__}")
    return data


def set_values(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``data`` with ``key.path=value`` texts applied in their order.

    Raises:
        ConfigError: If a text has no key or no value, or its value is not valid YAML.
    """
    for text in overrides:
        data = merge(data, _parse_override(text))
    return data


def _parse_override(text: str) -> dict[str, Any]:
    """Turn ``a.b=value`` into ``{"a": {"b": value}}``."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {text!r}: write key.path=value, for example --set training.steps=100")
    nested: Any = parse_yaml(value, f"--set {key}")
    for part in reversed(parts):
        nested = {part: nested}
    return dict(nested)


_PLAIN = {
    "missing": "a value is missing",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
}
"""Plainer words for what pydantic says in Python's terms, by error type."""


def _explain(error: ValidationError, data: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One line about the first wrong key or value: where, what was given, what is allowed."""
    errors = error.errors()
    places = [_written_keys(entry["loc"], data) for entry in errors]
    others = len(set(places)) - 1
    here = [entry for entry, place in zip(errors, places, strict=True) if place == places[0]]
    return _explain_place(places[0], here, data, root) + (f" (and {others} more)" if others else "")


def _explain_place(place: Location, errors: Sequence[Any], data: Mapping[str, Any], root: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in place) or root.__name__.lower()
    first = errors[0]
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key {where!r}; {_suggest(str(place[-1]), _allowed_keys(place, data, root))}"
        case "union_tag_not_found":
            return f"{where}: 'kind' is missing; allowed: {', '.join(_kinds(place, root))}"
        case "union_tag_invalid":
            given = str(first["ctx"]["tag"])
            return f"{where}.kind: unknown kind {given!r}; {_suggest(given, _kinds(place, root))}"
    reasons = dict.fromkeys(_PLAIN.get(entry["type"], entry["msg"].removeprefix("Value error, ")) for entry in errors)
    given = "" if isinstance(first["input"], Mapping) else f", got {first['input']!r}"
    return f"{where}: {', or '.join(reasons).replace(', or Input should be', ', or')}{given}"


def _written_keys(location: Location, data: Any) -> Location:
    """The part of an error location that stands in the user's YAML: names of union members are left out."""
    written: Location = ()
    location = tuple(part for part in location if not str(part).startswith("<"))
    for position, part in enumerate(location, 1):
        if not isinstance(data, Mapping | list | tuple):
            break
        inside = part in data if isinstance(data, Mapping) else isinstance(part, int) and part < len(data)
        if inside or (position == len(location) and isinstance(data, Mapping)):
            written = (*written, part)
        if inside:
            data = data[part]  # type: ignore[index]
    return written


def _allowed_keys(place: Location, data: Mapping[str, Any], root: type[BaseModel]) -> list[str]:
    """Keys of the section that holds the unknown key at the end of ``place``."""
    section = root
    sections: list[type[BaseModel]] = []
    for part in place[:-1]:
        data = data[part]  # type: ignore[index]
        # An entry of a list or of a mapping is one of the sections that the key above it allows.
        field = None if isinstance(part, int) else section.model_fields.get(part)
        sections = sections if field is None else _sections(field.annotation)
        if isinstance(data, Mapping):
            kind = data.get("kind")
            section = next((found for found in sections if _kind(found) == kind), (sections or [section])[0])
    return list(section.model_fields)


def _kinds(place: Location, root: type[BaseModel]) -> list[str]:
    """The kinds of section that ``place`` may hold."""
    sections = [root]
    for part in place:
        if isinstance(part, str):
            sections = _sections(sections[0].model_fields[part].annotation)
    return list(dict.fromkeys(_kind(section) for section in sections))


def _kind(section: type[BaseModel]) -> str:
    return str(section.model_fields["kind"].default) if "kind" in section.model_fields else ""


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's annotation allows, each once."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return list(dict.fromkeys(found for part in get_args(annotation) for found in _sections(part)))


def _suggest(word: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, names, 1, cutoff=0.5)
    return (f"did you mean {near[0]!r}? " if near else "") + f"allowed: {', '.join(names)}"
