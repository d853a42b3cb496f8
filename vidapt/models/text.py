"""Text embeddings of the classes: the table that features are aligned with, its file, and a stand-in for tests."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vidapt import __version__
from vidapt.errors import CheckpointError, ConfigError
from vidapt.labels import LabelSpace, space_names
from vidapt.models.weights import read_weights, write_weights

FORMAT = "1"
"""Version of the file, under ``text_table`` in its header."""
_ROWS = "embeddings"
_STEP = 32
_TEXTS = ("source", "hash")


@dataclass(frozen=True, eq=False)
class TextTable:
    """Text embeddings of the classes of a label space.

    Attributes:
        embeddings: float32 (C+1,D) on the CPU, one row per class in the order of ``names``; the last one is void, the
            class of ignored pixels.
        names: The C class names.
        source: What the rows come from: model, weights and prompts.
        hash: Hash of all that the rows were computed from.
    """

    embeddings: Tensor
    names: tuple[str, ...]
    source: str
    hash: str


def find_table(table: Path | Literal["orthonormal"], space: LabelSpace) -> TextTable:
    """The table that ``method.text_alignment.table`` names, in the order of ``space``.

    Raises:
        ConfigError: As ``load_text_table``.
    """
    return orthonormal_table(space) if table == "orthonormal" else load_text_table(Path(table), space)


def orthonormal_table(space: LabelSpace, dim: int | None = None, seed: int = 0) -> TextTable:
    """Seeded orthonormal rows, which know nothing of the classes but that they differ.

    Args:
        space: The classes.
        dim: Width, at least one more than the classes; None is the next multiple of 32.
        seed: Of the directions.

    Raises:
        ConfigError: If that many orthogonal rows do not fit into ``dim``.
    """
    rows = len(space) + 1
    dim = -(-rows // _STEP) * _STEP if dim is None else dim
    if dim < rows:
        raise ConfigError(
            f"{rows} orthonormal rows ({len(space)} classes and void) do not fit into {dim} values; take {rows} or more"
        )
    generator = torch.Generator().manual_seed(seed)
    columns, upper = torch.linalg.qr(torch.randn(dim, rows, dtype=torch.float64, generator=generator))
    # QR is unique only up to signs, which libraries choose differently.
    embeddings = (columns * upper.diagonal().sign()).T.float().contiguous()
    source = f"orthonormal, seed {seed}: no meaning, for tests and the embedded test bed"
    key = hashlib.sha256(repr((source, dim, space.names)).encode()).hexdigest()
    return TextTable(embeddings, space.names, source, key)


def save_text_table(table: TextTable, path: Path | str, origin: Mapping[str, str] | None = None) -> None:
    """Write a table as safetensors, atomically; names, source, hash and ``origin`` stand in its header.

    Raises:
        StorageError: If writing fails; an older file at ``path`` is intact.
    """
    own = {"vidapt": __version__, "text_table": FORMAT, "names": json.dumps(table.names)}
    header = {**(origin or {}), **own, "source": table.source, "hash": table.hash}
    write_weights({_ROWS: table.embeddings}, Path(path), header)


def read_text_table(path: Path | str) -> TextTable:
    """Read a table with the classes, and in the order, that its file has.

    Raises:
        ConfigError: If the file is missing, damaged or no text table.
    """
    try:
        state, header = read_weights(Path(path))
    except CheckpointError as error:
        raise ConfigError(f"text table {path}: {error}") from error
    if header.get("text_table") != FORMAT or any(text not in header for text in _TEXTS):
        raise ConfigError(f"{path} is no text table of this version; make one with 'vidapt text build'")
    names, rows = _read_names(header), state.get(_ROWS)
    fits = rows is not None and rows.dtype == torch.float32 and rows.ndim == 2 and len(rows) == len(names) + 1
    if rows is None or not fits or not names or not rows.isfinite().all():
        raise ConfigError(f"text table {path} is damaged: its rows do not fit its {len(names)} names; build it again")
    return TextTable(rows, names, *(header[text] for text in _TEXTS))


def load_text_table(path: Path | str, space: LabelSpace) -> TextTable:
    """Read the rows of the classes of ``space``, found by name, and void.

    Raises:
        ConfigError: If the file is missing, damaged or no text table, or lacks a class.
    """
    if not Path(path).is_file():
        raise ConfigError(f"text table {path} does not exist; {_how_to_build(path, space)}")
    stored = read_text_table(path)
    row_of = {name: row for row, name in enumerate(stored.names)}
    missing = [name for name in space.names if name not in row_of]
    if missing:
        raise ConfigError(f"text table {path} has no row for {', '.join(missing)}; {_how_to_build(path, space)}")
    rows = torch.tensor([*(row_of[name] for name in space.names), len(stored.names)])
    return TextTable(stored.embeddings[rows], space.names, stored.source, stored.hash)


def _read_names(header: Mapping[str, str]) -> tuple[str, ...]:
    """Class names of a header; none if they cannot be read."""
    try:
        names = json.loads(header.get("names", ""))
    except ValueError:
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _how_to_build(path: Path | str, space: LabelSpace) -> str:
    labels = space.name if space.name in space_names() else "classes.yaml"
    command = f"vidapt text build --labels {labels} --model ViT-L-14-quickgelu --pretrained openai --out"
    return f"build it: {command} {shlex.quote(str(path))} (a tag is downloaded; a weights file needs no network)"
