"""Encoders: any timm model that gives a feature pyramid, and Mix Transformers by name."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidapt.config import EncoderConfig
from vidapt.errors import CheckpointError, ConfigError
from vidapt.models.encoder_weights import download_mit, load_encoder_weights
from vidapt.models.grid import STRIDE, cells

MIT_NAMES = tuple(f"mit_b{size}" for size in range(6))
"""Mix Transformers (SegFormer encoders): timm's PVTv2 of the same size with MLP ratio 4 in every stage."""

LEVELS = 4
PAD = 32


class Encoder(nn.Module):
    """Four feature maps, finest first, of frames of any size.

    Frames are padded at the bottom and right to a multiple of 32 (border pixels repeated) and the maps are cut back, so
    that map i has ceil(H / stride) rows and ceil(W / stride) columns.

    Args:
        body: timm feature extractor.
        levels: Positions of the four maps among those that ``body`` returns.
        channels_last: Whether ``body`` returns (N,H,W,C).

    Attributes:
        channels: Channels of the four maps.
        strides: Pixels per cell of the four maps, starting with 4.
    """

    def __init__(self, body: nn.Module, levels: range, channels_last: bool) -> None:
        super().__init__()
        self.body = body
        self.levels = levels
        self.channels_last = channels_last
        info: Any = body.feature_info
        self.channels = tuple(int(info.channels()[level]) for level in levels)
        self.strides = tuple(int(info.reduction()[level]) for level in levels)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Encode normalised frames (N,3,H,W) into four maps (N,channels[i],ceil(H/strides[i]),ceil(W/strides[i]))."""
        height, width = frames.shape[-2:]
        missing = (-height % PAD, -width % PAD)
        if any(missing):
            frames = F.pad(frames, (0, missing[1], 0, missing[0]), mode="replicate")
        maps = self.body(frames)
        chosen = [maps[level] for level in self.levels]
        if self.channels_last:
            chosen = [level.permute(0, 3, 1, 2).contiguous() for level in chosen]
        return [
            level[..., : cells(height, stride), : cells(width, stride)]
            for level, stride in zip(chosen, self.strides, strict=True)
        ]


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build the encoder that ``config`` names and load its pretrained weights, if any.

    ``pretrained: true`` downloads through timm (Mix Transformers: the ImageNet weights that smp-hub republishes, NVIDIA
    source code licence, non-commercial); a path loads a ``.pth`` or ``.safetensors`` file.

    Raises:
        ConfigError: If timm has no such model, refuses an option, or the model gives no pyramid for frames of any size.
        CheckpointError: If the weights cannot be read or downloaded, or belong to another architecture.
    """
    body = _create(config, download=False)
    levels = _pyramid_levels(body, config.name)
    encoder = Encoder(body, levels, _is_channels_last(body, levels, config.name))
    if not isinstance(config.pretrained, bool):
        load_encoder_weights(body, config.pretrained, config.name)
    elif config.pretrained and config.name in MIT_NAMES:
        download_mit(body, config.name)
    elif config.pretrained:
        body.load_state_dict(_create(config, download=True).state_dict())
    return encoder


def _create(config: EncoderConfig, download: bool) -> nn.Module:
    name, arguments = config.name, dict[str, Any](config.options)
    if name in MIT_NAMES:
        name = name.replace("mit_", "pvt_v2_")
        arguments["mlp_ratios"] = (4, 4, 4, 4)
    elif not timm.is_model(name):
        nearest = difflib.get_close_matches(name, [*timm.list_models(), *MIT_NAMES], n=3, cutoff=0.4)
        raise ConfigError(f"encoder {name!r} is not known to timm; nearest names: {', '.join(nearest) or 'none'}")
    if config.drop_path:
        arguments["drop_path_rate"] = config.drop_path
    try:
        return timm.create_model(name, pretrained=download, features_only=True, **arguments)
    except Exception as error:  # timm and the hub's client raise many unrelated types
        if download:
            raise CheckpointError(
                f"weights of {name!r} cannot be downloaded ({_first_line(error)}); "
                "set encoder.pretrained to a local .pth or .safetensors file, or to false"
            ) from error
        raise ConfigError(f"encoder {name!r} cannot be built: {_first_line(error)}") from error


def _pyramid_levels(body: nn.Module, name: str) -> range:
    """Positions of the four maps from stride 4 on."""
    info: Any = body.feature_info
    strides: list[int] = info.reduction()
    first = strides.index(STRIDE) if STRIDE in strides else len(strides)
    if len(strides) - first < LEVELS:
        raise ConfigError(
            f"encoder {name!r} gives feature maps at strides {strides}; needed are four, the first at stride 4. "
            "Take a pyramid model such as mit_b0, resnet18, convnext_tiny or swin_tiny_patch4_window7_224"
        )
    return range(first, first + LEVELS)


def _is_channels_last(body: nn.Module, levels: range, name: str) -> bool:
    """Find the axis order from one small frame, as not every timm model declares it; refuse a model of fixed size."""
    info: Any = body.feature_info
    training = body.training
    try:
        with torch.no_grad():
            finest = body.eval()(torch.zeros(1, 3, PAD, 2 * PAD))[levels[0]]
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"encoder {name!r} does not take frames of any size ({_first_line(error)}); lift this with an option "
            "(swin models: options: {strict_img_size: false}) or choose another encoder"
        ) from error
    body.train(training)
    rows, columns, channels = PAD // STRIDE, 2 * PAD // STRIDE, info.channels()[levels[0]]
    shapes = {(1, channels, rows, columns): False, (1, rows, columns, channels): True}
    if tuple(finest.shape) not in shapes:
        raise ConfigError(f"encoder {name!r} gives maps of shape {tuple(finest.shape)}, not one of {list(shapes)}")
    return shapes[tuple(finest.shape)]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
