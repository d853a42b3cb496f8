"""Records of a conversion that goes on where it stopped: which pictures are written, and that they still are."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from vidapt.datasets.frame_index import Problem
from vidapt.errors import UserError
from vidapt.jobs.files import write_text

Record = dict[str, Any]

FAILED = "failed.jsonl"
"""File beside the JSON that lists what could not be converted."""


def journal_path(out: Path, split: str, key: str) -> Path:
    """File of the records of the conversion with this key."""
    return out / f".{split}.{key}.jsonl"


def other_journals(out: Path, split: str, key: str) -> list[Path]:
    """Files of the records of other conversions of the same split."""
    pattern, own = re.compile(rf"\.{re.escape(split)}\.[0-9a-f]{{32}}\.jsonl"), journal_path(out, split, key)
    return [path for path in out.glob(".*.jsonl") if pattern.fullmatch(path.name) and path != own]


def forget_others(out: Path, split: str, key: str) -> None:
    """Remove what says that the pictures of the split are those of another conversion: they are about to change."""
    for path in other_journals(out, split, key):
        path.unlink(missing_ok=True)
    finished = out / f"{split}.json"
    if finished.is_file() and _content(finished)[0] != key:
        finished.unlink(missing_ok=True)


def is_finished(path: Path, key: str, names: Collection[str], folder: Path) -> bool:
    """True if an earlier call has written the conversion with this key of these frames whole, and nothing changed."""
    found, records = _content(path)
    whole = found == key and {record.get("image_id") for record in records} == set(names)
    return whole and all(is_intact(record, folder) for record in records)


def _content(path: Path) -> tuple[str | None, list[Record]]:
    """Key and records of a finished conversion; None and nothing of any other file."""
    try:
        data = json.loads(path.read_text("utf-8"))
        return data["info"]["content"], [dict(record) for record in data["annotations"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None, []


def write_picture(path: Path, data: bytes) -> Record:
    """Write a picture whole or not at all; returns the part of its record by which ``is_intact`` knows it again."""
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return {"file_name": path.name, "bytes": len(data), "crc32": zlib.crc32(data)}


def abandoned_parts(folder: Path) -> list[Path]:
    """Half-written pictures; those that are still there when a whole conversion has passed belong to nobody."""
    return list(folder.glob(".*.png.*.part"))


def is_intact(record: Record, folder: Path) -> bool:
    """True if the picture of a record is there with the very bytes that were written."""
    try:
        path = folder / record["file_name"]
        return path.stat().st_size == record["bytes"] and zlib.crc32(path.read_bytes()) == record["crc32"]
    except (OSError, KeyError, TypeError):
        return False


def read_journal(path: Path, folder: Path) -> dict[str, Record]:
    """Records of an interrupted conversion whose pictures are intact; a half-written last line is dropped."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
    records = (record for record in map(_read_record, lines) if record is not None)
    done = {record["image_id"]: record for record in records if "image_id" in record and is_intact(record, folder)}
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), "utf-8")
    return done


def _read_record(line: str) -> Record | None:
    """The record of a whole line; None for one that is cut or damaged."""
    try:
        record = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def refuse_disturbed(out: Path, split: str, key: str, records: Collection[Record]) -> None:
    """Make sure that all pictures are still those of this conversion, before its JSON says so.

    Raises:
        UserError: If another conversion wrote into the same folder meanwhile; a JSON that it wrote is removed.
    """
    if other_journals(out, split, key) or not all(is_intact(record, out / split) for record in records):
        (out / f"{split}.json").unlink(missing_ok=True)
        raise UserError(
            f"another conversion wrote into {out / split} while this one ran, so that the pictures of both are mixed; "
            "give each its own --out and run again"
        )


def list_failed(out: Path, split: str, problems: Sequence[Problem]) -> Path:
    """Write the problems of a split into ``failed.jsonl``; those of other splits stay, without any there is no file."""
    path = out / FAILED
    new = [json.dumps({"split": split, **asdict(problem)}) + "\n" for problem in problems]
    lines = [*_of_other_splits(path, split), *new]
    if lines:
        write_text(path, "".join(lines))
    else:
        path.unlink(missing_ok=True)
    return path


def _of_other_splits(path: Path, split: str) -> Iterator[str]:
    for line in path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else ():
        record = _read_record(line)
        if record is not None and record.get("split") != split:
            yield line
