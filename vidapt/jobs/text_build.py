"""``vidapt text build``: text embeddings of the classes of a label space, computed once with a CLIP model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.errors import ConfigError, InputError
from vidapt.jobs.progress import progress_bar
from vidapt.jobs.text_encoder import ClipWeights, Encode, find_clip_weights, load_text_encoder
from vidapt.jobs.text_prompts import PROMPTS, read_prompts
from vidapt.labels import find_space
from vidapt.models.text import FORMAT, TextTable, read_text_table, save_text_table
from vidapt.segmenter import find_device

VOID_TEXT = ""
"""The text behind the void row, without any prompt around it (LIDAPS)."""


@dataclass(frozen=True)
class TextOptions:
    """How texts become rows; the defaults are those of LIDAPS.

    Attributes:
        normalise: Bring the features of every text, and then the rows, to length 1.
        projected: Take features after the text projection, which lie in the space of image features.
        synonyms: Average over the class's synonyms too.
    """

    normalise: bool = False
    projected: bool = False
    synonyms: bool = False


def run_text_build(
    labels: str,
    model: str,
    pretrained: str,
    *,
    out: Path,
    prompts: str = "imagenet",
    options: TextOptions | None = None,
    device: str | None = None,
) -> TextTable:
    """Compute a text table and write it, unless ``out`` holds just that table; says what was done.

    Args:
        labels: A shipped label space or a ``classes.yaml``.
        model: Architecture in open_clip.
        pretrained: A weights file, or a tag that open_clip downloads.
        out: The ``.safetensors`` file.
        prompts: As ``read_prompts`` takes them.
        options: Of the rows.
        device: Where the model runs.

    Raises:
        UserError: If an argument is wrong, ``out`` is something else, or weights cannot be had or read.
        StorageError: If writing fails.
    """
    space, where, options = find_space(labels), find_device(device), options or TextOptions()
    templates = read_prompts(prompts)
    weights = find_clip_weights(model, pretrained)
    words = [(label.name, *(label.synonyms if options.synonyms else ())) for label in space.classes]
    key = _key(words, templates, weights, options)
    old = _existing(out)
    if old is not None and old.hash == key:
        print(f"{out} is up to date: {_describe(old)}")
        return old
    if old is not None:
        print(f"{out} was made from other classes, prompts, weights or options ({old.source}): building it again")
    encode = load_text_encoder(weights, projected=options.projected, device=where)
    rows = embed_classes(words, templates, encode, normalise=options.normalise)
    if not rows.isfinite().all():
        raise InputError(f"weights {weights.pretrained!r} of {weights.model} give values that are not finite")
    table = TextTable(rows, space.names, _source(weights, prompts, templates, options), key)
    save_text_table(table, out, _origin(weights, templates, options))
    print(f"wrote {out}: {_describe(table)}\nuse it with --set method.text_alignment.table={out}")
    return table


def embed_classes(
    words: list[tuple[str, ...]], templates: tuple[str, ...], encode: Encode, *, normalise: bool
) -> Tensor:
    """One row per class, the mean over its names and all templates, and the row of void.

    Args:
        words: The names of every class.
        templates: Texts in which ``{}`` stands for a name.
        encode: Features of texts.
        normalise: Bring features, and then the rows, to length 1.

    Returns:
        float32 (C+1,D).
    """
    texts = [[template.replace("{}", word) for word in names for template in templates] for names in words]
    rows = []
    with progress_bar("text embeddings", len(texts) + 1) as advance:
        for group in (*texts, [VOID_TEXT]):
            features = encode(group)
            rows.append((F.normalize(features, dim=1) if normalise else features).mean(0))
            advance()
    stacked = torch.stack(rows)
    return F.normalize(stacked, dim=1) if normalise else stacked


def _existing(out: Path) -> TextTable | None:
    """The table at ``out``; anything else there is not overwritten."""
    if not out.exists():
        return None
    try:
        return read_text_table(out)
    except ConfigError as error:
        message = f"{out} exists and is no text table that can be read: remove it or give another --out"
        raise InputError(message) from error


def _key(words: list[tuple[str, ...]], templates: tuple[str, ...], weights: ClipWeights, options: TextOptions) -> str:
    """Hash of all that the rows depend on; the names of files do not count."""
    parts = [FORMAT, words, templates, weights.model, weights.key, asdict(options)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _origin(weights: ClipWeights, templates: tuple[str, ...], options: TextOptions) -> dict[str, str]:
    digest = hashlib.sha256(json.dumps(templates).encode()).hexdigest()
    found = {"model": weights.model, "pretrained": weights.key, "templates": digest}
    return {**found, "options": json.dumps(asdict(options))}


def _source(weights: ClipWeights, prompts: str, templates: tuple[str, ...], options: TextOptions) -> str:
    named = prompts if prompts in PROMPTS else Path(prompts).name
    place = "after the text projection" if options.projected else "before the text projection"
    scale = "normalised" if options.normalise else "not normalised"
    names = ", with synonyms" if options.synonyms else ""
    count = f"{len(templates)} prompt{'s' if len(templates) > 1 else ''}"
    return f"{weights.model} {weights.pretrained}, {count} ({named}){names}, {place}, {scale}"


def _describe(table: TextTable) -> str:
    rows, width = table.embeddings.shape
    length = table.embeddings.norm(dim=1).mean()
    return f"{rows - 1} classes and void, {width} values each, mean length {length:.3g}; {table.source}"
