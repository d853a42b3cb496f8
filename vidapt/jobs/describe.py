"""The data of a recipe in one phrase, without opening them."""

from __future__ import annotations

from collections.abc import Sequence

from vidapt.config import Data, MethodConfig, StoredData, StreetWorldData


def sections_of(source: Data | Sequence[Data]) -> list[Data]:
    """The data sections of a recipe's ``source``, which is one or a list."""
    return list(source) if isinstance(source, Sequence) else [source]


def describe(data: Data | None) -> str:
    """One phrase that names a data section."""
    if data is None:
        return "none"
    if isinstance(data, StreetWorldData):
        return f"street_world {data.style} seed {data.seed}, {data.videos} generated videos of {data.frames} frames"
    split = f" {data.split}" if isinstance(data, StoredData) else ""
    return f"{data.kind}{split} {data.root}"


def describe_all(source: Data | Sequence[Data]) -> str:
    """One phrase that names all data sections of a recipe's ``source`` and their shares."""
    sections = sections_of(source)
    if len(sections) == 1:
        return describe(sections[0])
    total = sum(data.weight for data in sections)
    return " + ".join(f"{describe(data)} ({data.weight / total:.0%})" for data in sections)


def describe_method(method: MethodConfig | None) -> str:
    """The parts that a method uses, by the names of their sections."""
    if method is None:
        return "none (supervised)"
    optional = (name for name, field in MethodConfig.model_fields.items() if field.default is None)
    return ", ".join(name for name in optional if getattr(method, name) is not None) or "no part"
