"""Nested training state as JSON plus safetensors: no pickle is written or read."""

from __future__ import annotations

from typing import Any

from torch import Tensor

_PLAIN = (bool, int, float, str, type(None))


def split_state(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split nested dicts, lists and tuples of tensors and plain values into a JSON tree and named tensors.

    Raises:
        TypeError: If a value is neither a tensor nor plain, with its place.
    """
    tensors: dict[str, Tensor] = {}
    return _split(state, "state", tensors), tensors


def _split(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d} {place}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        # Pairs, because JSON keys are strings and an optimiser's are numbers.
        return {"dict": [[_key(k, place), _split(v, f"{place}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_split(item, f"{place}.{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(f"{place} is a {type(value).__name__}; state holds tensors, numbers, strings, dicts and lists only")


def _key(key: Any, place: str) -> str | int:
    if not isinstance(key, str | int):
        raise TypeError(f"{place} has the key {key!r}; keys of state are strings or whole numbers")
    return key


def join_state(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo ``split_state``."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: join_state(value, tensors) for key, value in content}
    items = [join_state(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
