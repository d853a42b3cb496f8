"""Checkpoint folders that are either complete or not there.

``checkpoints/step_000123/`` holds ``<name>.safetensors`` for each network, and under ``state/`` the rest of the run's
state (``state.json``, ``tensors.safetensors``) and ``manifest.json`` with every file's size and SHA-256. A folder is
filled under a temporary name, flushed to disk and renamed last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vidapt.engine.state import join_state, split_state
from vidapt.errors import CheckpointError, StorageError

logger = logging.getLogger(__name__)

FORMAT = 1
_FOLDER = "checkpoints"
_TEMPORARY = ".unfinished_"
_MANIFEST = "state/manifest.json"
_STATE = "state/state.json"
_TENSORS = "state/tensors.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder.

    Attributes:
        path: The folder.
        step: Steps done when it was saved.
        weights: State dict of each network by name.
        state: Everything else that resuming needs.
    """

    path: Path
    step: int
    weights: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the folder that a step's checkpoint has."""
    return run / _FOLDER / f"step_{step:06d}"


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's complete checkpoint folders, oldest first, without reading their tensors."""
    return [folder for _, folder in _numbered(run) if is_complete(folder)]


def _numbered(run: Path) -> list[tuple[int, Path]]:
    """Return all checkpoint folders with their steps, damaged ones too, oldest first."""
    folders = (run / _FOLDER).glob("step_*")
    return sorted((int(folder.name[5:]), folder) for folder in folders if folder.name[5:].isdigit())


def latest_checkpoint(run: Path) -> Path | None:
    """Return the newest complete checkpoint folder of a run, or None."""
    found = list_checkpoints(run)
    return found[-1] if found else None


def is_complete(folder: Path) -> bool:
    """Tell whether every file that the manifest names is there with its size."""
    try:
        files = _read_manifest(folder)["files"]
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (CheckpointError, OSError):
        return False


def save_checkpoint(
    run: Path,
    step: int,
    weights: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    header: Mapping[str, str],
    keep: int,
) -> Path:
    """Write a checkpoint folder, then remove all but the newest ``keep``.

    Args:
        run: Run folder.
        step: Steps done.
        weights: State dict of each network by name.
        state: Nested dicts and lists of tensors and plain values.
        header: Text that every weight file carries in its safetensors header; ``weights`` and ``step`` are added.
        keep: Complete checkpoints that stay.

    Raises:
        StorageError: If writing fails; older checkpoints are untouched and nothing unfinished is left.
    """
    target = checkpoint_path(run, step)
    temporary = target.with_name(_TEMPORARY + target.name)
    try:
        remove_unfinished(run)
        (temporary / "state").mkdir(parents=True)
        for name, tensors in weights.items():
            _write_tensors(temporary / f"{name}.safetensors", tensors, {**header, "weights": name, "step": str(step)})
        _write_state(temporary, {"step": step, **state})
        _write_manifest(temporary, step)
        _publish(temporary, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(_storage_message(target, error)) from error
    _remove_old(run, keep)
    return target


def _storage_message(target: Path, error: Exception) -> str:
    text = str(error)
    full = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or "No space left" in text
    advice = "the disk is full; free some space" if full else "check the folder's disk and permissions"
    return f"saving {target} failed ({text}); {advice}, then resume: earlier checkpoints are intact"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    # Clones, because safetensors refuses tensors that share memory, such as tied weights.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(copies, path, metadata=dict(header))
    _flush(path)


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    tree, tensors = split_state(state)
    _write_tensors(folder / _TENSORS, tensors, {"content": "state"})
    _write_text(folder / _STATE, json.dumps(tree, separators=(",", ":")))


def _write_manifest(folder: Path, step: int) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths
    }
    manifest = {"format": FORMAT, "step": step, "files": files}
    _write_text(folder / _MANIFEST, json.dumps(manifest, separators=(",", ":")))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(temporary: Path, target: Path) -> None:
    for path in temporary.glob("**/*.safetensors"):
        # safetensors makes files that only their owner may read; the text files follow the user's umask.
        shutil.copymode(temporary / _STATE, path)
    _flush(temporary / "state")
    _flush(temporary)
    if target.exists():
        _discard(target)
    temporary.rename(target)
    _flush(target.parent)


def _discard(folder: Path) -> None:
    # Renamed first, so that a half-removed folder never looks like a checkpoint.
    doomed = folder.with_name(f"{_TEMPORARY}removed_{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _remove_old(run: Path, keep: int) -> None:
    for folder in list_checkpoints(run)[:-keep]:
        try:
            _discard(folder)
        except OSError as error:
            logger.warning("could not remove the old checkpoint %s: %s", folder, error)


def remove_unfinished(run: Path) -> None:
    """Remove what an interrupted save or removal left in a run's folder of checkpoints."""
    for leftover in (run / _FOLDER).glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder and verify every byte of it.

    Raises:
        CheckpointError: Naming the file that is missing, truncated or changed.
    """
    manifest = _read_manifest(folder)
    for name in manifest["files"]:
        _verify(folder, name, manifest)
    files = [folder / name for name in manifest["files"] if "/" not in name]
    weights = {path.stem: _read_tensors(path)[0] for path in files}
    tree = _read_json(folder / _STATE)
    state = join_state(tree, _read_tensors(folder / _TENSORS)[0])
    if state["step"] != manifest["step"]:
        raise CheckpointError(f"{folder / _MANIFEST} is damaged: it names step {manifest['step']}, not {state['step']}")
    return Checkpoint(folder, state["step"], weights, state)


def newest_loadable(run: Path) -> Checkpoint | None:
    """Return the newest checkpoint whose files are undamaged, or None if the run has none at all.

    Damaged ones are passed over with a warning.

    Raises:
        CheckpointError: If there are checkpoints and all are damaged.
    """
    failure: CheckpointError | None = None
    for _, folder in reversed(_numbered(run)):
        try:
            checkpoint = load_checkpoint(folder)
        except CheckpointError as error:
            logger.warning("%s; going back to the previous checkpoint", error)
            failure = error
        else:
            if failure is not None:
                logger.warning("resuming from %s instead", folder)
            return checkpoint
    if failure is not None:
        raise CheckpointError(f"no usable checkpoint under {run / _FOLDER}: {failure}")
    return None


def set_aside_after(run: Path, step: int) -> None:
    """Rename the damaged checkpoints that resuming from ``step`` passed over, so that they no longer count."""
    for number, folder in _numbered(run):
        if number > step:
            aside = folder.with_name(f"damaged_{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def load_weights(path: Path, name: str = "student") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read one network's weights and header from a run folder, a checkpoint folder or a .safetensors file.

    Returns:
        State dict on the CPU (copies, not memory maps) and the header's entries.

    Raises:
        CheckpointError: If there is no such checkpoint or the file is damaged.
    """
    if path.is_file():
        return _read_tensors(path)
    folder = path if (path / f"{name}.safetensors").is_file() else latest_checkpoint(path)
    if folder is None:
        raise CheckpointError(
            f"{path} holds no complete checkpoint; give a run folder, a checkpoint folder or a .safetensors file"
        )
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        found = ", ".join(sorted(f.stem for f in folder.glob("*.safetensors"))) or "none"
        raise CheckpointError(f"{folder} has no {name} weights (it has: {found})")
    verify_weights(file)
    return _read_tensors(file)


def verify_weights(file: Path) -> None:
    """Compare a weights file with what its checkpoint's manifest says was written; files elsewhere have none.

    Raises:
        CheckpointError: If the file or the manifest is damaged.
    """
    if (file.parent / _MANIFEST).is_file():
        _verify(file.parent, file.name, _read_manifest(file.parent))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    manifest = _read_json(path)
    try:
        version, _ = manifest["format"], int(manifest["step"])
        wrong = [n for n, e in manifest["files"].items() if not isinstance(e["bytes"], int) or len(e["sha256"]) != 64]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version!r}; this version reads format {FORMAT}")
    if wrong or not {_STATE, _TENSORS} <= set(manifest["files"]):
        raise CheckpointError(f"{path} is damaged (its list of files)")
    return dict(manifest)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error


def _verify(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    path, entry = folder / name, manifest["files"].get(name)
    if entry is None:
        raise CheckpointError(f"{path} is not in {folder / _MANIFEST}, which is damaged or belongs to another folder")
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"{path} is truncated or changed: {size} bytes where {entry['bytes']} were written")
        if _sha256(path) != entry["sha256"]:
            raise CheckpointError(f"{path} is damaged: its content differs from what was written")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: a memory-mapped tensor would change if the file were replaced in place.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error})") from error
