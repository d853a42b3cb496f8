"""A network of a few channels, with frames and labels for it."""

import torch

from vidapt.clip import PanopticTarget
from vidapt.config import CenterOffsetConfig, EncoderConfig, ModelConfig, ProjectionConfig, SemanticConfig
from vidapt.labels import CITYSCAPES
from vidapt.models.network import build_network

SMALL = ModelConfig(
    encoder=EncoderConfig(name="test_convnext"),
    semantic=SemanticConfig(channels=16, dilations=(1, 3), norm="group"),
    instance=CenterOffsetConfig(channels=8, norm="group", kernel=3, threshold=0.0, top_k=5),
    projection=ProjectionConfig(dim=6, hidden=8),
)
CAR, ROAD = 13, 0


def seeded(config=SMALL, space=CITYSCAPES):
    torch.manual_seed(0)
    return build_network(config, space)


def frames(count=2, height=64, width=96):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def target(count=2, height=64, width=96):
    semantic = torch.zeros(count, height, width, dtype=torch.uint8)
    instance = torch.zeros(count, height, width, dtype=torch.int32)
    semantic[:, 20:40, 30:60], instance[:, 20:40, 30:60] = CAR, 4
    return PanopticTarget(semantic, instance, torch.ones(count, dtype=torch.bool))
