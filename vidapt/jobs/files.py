"""Small files of a run folder: written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vidapt.errors import StorageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename; folders above it are made.

    Raises:
        StorageError: If writing fails; an older file at ``path`` is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        reason = error.strerror or error
        raise StorageError(f"{path} cannot be written ({reason}); free space or choose another folder") from error


def write_json(path: Path, data: Any) -> None:
    """``write_text`` of plain data as JSON."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an RGB picture uint8 (H,W,3) as PNG; folders above it are made.

    Raises:
        StorageError: If writing fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, format="PNG")
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error}); choose another file") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
