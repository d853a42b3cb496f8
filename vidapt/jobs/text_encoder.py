"""The text tower of a CLIP model, through open_clip: from a local weights file without a network, or from a tag."""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidapt.errors import InputError, UserError

Encode = Callable[[Sequence[str]], Tensor]
"""Texts to their features, float32 (N,D) on the CPU."""

_NAMES_SHOWN = 3
_REASON_LENGTH = 240


@dataclass(frozen=True)
class ClipWeights:
    """Weights of a CLIP model that are known to exist, not loaded.

    Attributes:
        model: Name of the architecture in open_clip.
        pretrained: File name or tag, for people.
        key: The content's hash, or the tag.
        path: The local file; None for a tag.
    """

    model: str
    pretrained: str
    key: str
    path: Path | None


def open_clip() -> Any:
    """The package, imported when it is first needed.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return import_module("open_clip")
    except ModuleNotFoundError as error:
        raise UserError(f"text tables need {error.name}, which is missing: pip install open_clip_torch") from error


def find_clip_weights(model: str, pretrained: str) -> ClipWeights:
    """Check names and compute what identifies the weights; nothing is downloaded.

    Args:
        model: Architecture, such as ``ViT-L-14-quickgelu``.
        pretrained: A weights file, or one of the architecture's tags, such as ``openai``.

    Raises:
        InputError: If the architecture is unknown, or ``pretrained`` is neither a file nor one of its tags, or a tag
            was trained with QuickGELU and the architecture has none.
    """
    clip, model = open_clip(), model.replace("/", "-")
    known = clip.list_models()
    if model not in known:
        near = difflib.get_close_matches(model, known, _NAMES_SHOWN, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else "open_clip.list_models() names them"
        raise InputError(f"open_clip has no model {model!r}; {hint}")
    path = Path(pretrained)
    if path.is_file():
        return ClipWeights(model, path.name, f"sha256 {_digest(path)}", path)
    tags = clip.list_pretrained_tags_by_model(model)
    tag = pretrained.lower().replace("-", "_")
    if tag not in tags:
        allowed = f"its tags: {', '.join(tags)}" if tags else "it has no tags"
        raise InputError(f"weights {pretrained!r} of {model} are neither a file nor a tag; {allowed}")
    _check_activation(clip, model, tag)
    return ClipWeights(model, tag, f"tag {tag}", None)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"weights {path} cannot be read: {error.strerror}") from error


def _check_activation(clip: Any, model: str, tag: str) -> None:
    """open_clip only warns of this, and the features are wrong."""
    quick = bool(clip.get_pretrained_cfg(model, tag).get("quick_gelu", False))
    if quick and not clip.get_model_config(model).get("quick_gelu", False):
        raise InputError(
            f"weights {tag!r} were trained with QuickGELU, not {model}'s GELU; use --model {model}-quickgelu"
        )


def load_text_encoder(weights: ClipWeights, *, projected: bool, device: torch.device) -> Encode:
    """Load the model and keep its text tower.

    Args:
        weights: As found; a tag is downloaded into open_clip's own cache.
        projected: True ends with the text projection, in the space of image features; False before it (LIDAPS).
        device: Where it runs.

    Raises:
        InputError: If weights cannot be downloaded, read, or belong to another architecture.
    """
    clip, name = open_clip(), weights.model
    path = weights.path or _download(clip, weights)
    try:
        with _without_logging():
            model = clip.create_model(name, pretrained=str(path.resolve()), require_pretrained=True)
            tokenizer = clip.get_tokenizer(name)
    except Exception as error:  # a foreign weights file can raise anything
        raise InputError(f"weights {path} cannot be loaded into {name}: {_reason(error)}") from error
    del model.visual
    if not projected:
        _drop_projection(model if isinstance(model, clip.CLIP) else model.text, clip.get_model_config(name))
    return partial(_encode, model.eval().to(device), tokenizer, device)


@torch.inference_mode()
def _encode(model: Any, tokenizer: Any, device: torch.device, texts: Sequence[str]) -> Tensor:
    features: Tensor = model.encode_text(tokenizer(list(texts)).to(device))
    return features.float().cpu()


def _drop_projection(tower: Any, config: dict[str, Any]) -> None:
    if "hf_model_name" in config["text_cfg"]:
        tower.proj = nn.Identity()
    else:
        tower.text_projection = None


def _download(clip: Any, weights: ClipWeights) -> Path:
    try:
        with _without_logging():
            return Path(clip.download_pretrained(clip.get_pretrained_cfg(weights.model, weights.pretrained)))
    except Exception as error:  # the hub's client, urllib and open_clip raise errors of their own
        raise InputError(
            f"weights {weights.pretrained!r} of {weights.model} cannot be downloaded: {_reason(error)}; download them "
            "where there is a network and give --pretrained FILE"
        ) from error


@contextmanager
def _without_logging() -> Iterator[None]:
    """open_clip logs on the root logger what it raises, and would print it twice."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _REASON_LENGTH else f"{text[:_REASON_LENGTH]}..."
