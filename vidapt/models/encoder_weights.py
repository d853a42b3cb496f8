"""Pretrained encoder weights: reading files and mapping the published names of Mix Transformers onto timm's."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import load_state_dict_from_hf
from torch import Tensor, nn

from vidapt.errors import CheckpointError
from vidapt.models.weights import load_strictly, read_weights

State = dict[str, Tensor]

_WRAPPERS = ("state_dict", "model", "module")
_PREFIX = re.compile(r"^(module\.)?(segformer\.|backbone\.)?(encoder\.)?")

_INSIDE_BLOCK = (
    (r"layer_norm_1\b|layernorm_before\b", "norm1"),
    (r"layer_norm_2\b|layernorm_after\b", "norm2"),
    (r"^attention\.", "attn."),
    (r"^attn\.self\.(query|key|value)\b", r"attn.\1"),
    (r"^attn\.self\.", "attn."),
    (r"^attn\.(?:output\.dense|o_proj)\b", "attn.proj"),
    (r"^attn\.(?:query|q_proj)\b", "attn.q"),
    (r"^attn\.k_proj\b", "attn.key"),
    (r"^attn\.v_proj\b", "attn.value"),
    (r"^attn\.sequence_reduction\.sequence_reduction\b", "attn.sr"),
    (r"^attn\.sequence_reduction\.layer_norm\b", "attn.norm"),
    (r"^attn\.layer_norm\b", "attn.norm"),
    (r"^mlp\.dense([12])\b", r"mlp.fc\1"),
    (r"^mlp\.dwconv\.dwconv\b", "mlp.dwconv"),
)
"""Names inside one block, older and newer Hugging Face and the official code, to timm's; applied in order."""


def load_encoder_weights(body: nn.Module, path: Path, name: str) -> None:
    """Load ``path`` (.pth or .safetensors) into a timm feature extractor, strictly but for the classification head.

    Understood names: timm's own; for Mix Transformers also the official ones and both Hugging Face conventions.

    Raises:
        CheckpointError: If the file cannot be read, or weights are missing, left over or of another shape.
    """
    _load(body, _read(Path(path)), f"{path} for encoder {name!r}")


def download_mit(body: nn.Module, name: str) -> None:
    """Download the ImageNet weights of the Mix Transformer ``name`` through timm and load them.

    Raises:
        CheckpointError: If they cannot be downloaded.
    """
    source = f"smp-hub/{name}.imagenet"
    try:
        state = load_state_dict_from_hf(source, "model.safetensors")
    except Exception as error:  # the hub's client raises many unrelated types
        raise CheckpointError(
            f"weights of {name!r} cannot be downloaded from {source} ({type(error).__name__}); "
            "set encoder.pretrained to a local .pth or .safetensors file, or to false"
        ) from error
    _load(body, dict(state), f"{source} for encoder {name!r}")


def _read(path: Path) -> State:
    if not path.is_file():
        raise CheckpointError(f"encoder weights {path} do not exist; give a .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return read_weights(path)[0]
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"encoder weights {path} cannot be read ({type(error).__name__}); the file is damaged or no weights file"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"encoder weights {path} hold no table of tensors; give a state dict")
    return dict(content)


def _load(body: nn.Module, state: State, source: str) -> None:
    expected = body.state_dict()
    given = _to_body_names(rename_mit(state), expected)
    roots = {key.split(".")[0] for key in expected}
    given = {key: value for key, value in given.items() if key.split(".")[0] in roots}
    load_strictly(body, given, source)


def _to_body_names(state: State, expected: Mapping[str, Tensor]) -> State:
    """Follow timm's feature extractors, which join the first two names (``stages_0``) or wrap a whole model."""
    roots = {key.split(".")[0] for key in expected}

    def rename(key: str) -> str:
        flattened = key.replace(".", "_", 1)
        if key not in expected and flattened.split(".")[0] in roots:
            return flattened
        return f"model.{key}" if roots == {"model"} and not key.startswith("model.") else key

    return {rename(key): value for key, value in state.items()}


def rename_mit(state: Mapping[str, Tensor]) -> State:
    """Rename Mix Transformer weights from the official or a Hugging Face convention to timm's PVTv2 names.

    Weights of other models, and names that are timm's already, pass unchanged. Separate key and value matrices are
    joined to one (keys first).
    """
    renamed = {_rename(_PREFIX.sub("", key)): value for key, value in state.items()}
    for key in [key for key in renamed if ".attn.key." in key]:
        value = renamed.pop(key.replace(".key.", ".value."), None)
        if value is not None:
            renamed[key.replace(".key.", ".kv.")] = torch.cat([renamed.pop(key), value])
    return renamed


def _rename(key: str) -> str:
    if match := re.fullmatch(r"patch_embed(\d)\.(.+)", key):
        return _patch_embed(int(match[1]) - 1, match[2])
    if match := re.fullmatch(r"(?:patch_embeddings\.(\d)|stages\.(\d)\.patch_embeddings)\.(.+)", key):
        return _patch_embed(int(match[1] or match[2]), match[3].replace("layer_norm", "norm"))
    if match := re.fullmatch(r"block(\d)\.(\d+)\.(.+)", key):
        return f"stages.{int(match[1]) - 1}.blocks.{match[2]}.{_inside_block(match[3])}"
    if match := re.fullmatch(r"(?:block|stages)\.(\d)\.(?:blocks\.)?(\d+)\.(.+)", key):
        return f"stages.{match[1]}.blocks.{match[2]}.{_inside_block(match[3])}"
    if match := re.fullmatch(r"norm(\d)\.(weight|bias)", key):
        return f"stages.{int(match[1]) - 1}.norm.{match[2]}"
    if match := re.fullmatch(r"(?:layer_norm\.(\d)|stages\.(\d)\.layer_norm)\.(weight|bias)", key):
        return f"stages.{match[1] or match[2]}.norm.{match[3]}"
    return key


def _patch_embed(stage: int, rest: str) -> str:
    return f"patch_embed.{rest}" if stage == 0 else f"stages.{stage}.downsample.{rest}"


def _inside_block(rest: str) -> str:
    for pattern, replacement in _INSIDE_BLOCK:
        rest = re.sub(pattern, replacement, rest)
    return rest
