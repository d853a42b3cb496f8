"""Networks and recipes so small that whole jobs run in a second, and footage for them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from vidapt.config import InferenceConfig, ModelConfig, Recipe, TrackingConfig
from vidapt.jobs.weights import recipe_header
from vidapt.labels import CITYSCAPES, LabelSpace
from vidapt.models.network import PanopticNetwork, build_network
from vidapt.models.network_file import save_network
from vidapt.segmenter import Segmenter

MODEL: dict[str, Any] = {
    "encoder": {"name": "test_byobnet"},
    "semantic": {"channels": 8, "dilations": [1], "dropout": 0.0, "norm": "group"},
    "instance": {"channels": 8, "norm": "group", "threshold": 0.05, "kernel": 3, "top_k": 20},
    "projection": {"dim": 8, "hidden": 8},
}

METHOD: dict[str, Any] = {
    "alpha": 0.9,
    "pseudo_labels": {"threshold": 0.0, "weight": "clip"},
    "pseudo_instances": {"score": 0.0},
    "class_mix": {"instance_weight": 1.0},
    "instance_mix": {},
    "pixel_contrast": {},
    "temporal_contrast": {"warp": True},
}
"""Self-training with a part of each kind, where everything counts as confident."""

STATEFUL_METHOD: dict[str, Any] = {
    "alpha": 0.9,
    "target_statistics": True,
    "pseudo_labels": {"threshold": 0.9, "weight": "batch", "class_thresholds": {"momentum": 0.5}},
    "pseudo_instances": {"score": 0.0},
    "rare_classes": {},
    "class_mix": {"instance_weight": 1.0},
    "instance_mix": {"start": 0.5},
    "masked_consistency": {"block": 16},
    "pixel_contrast": {"min_pixels": 2, "bank": {"size": 8, "per_step": 2}},
}
"""Self-training with every part that keeps state, shares values over processes, or begins later."""

MASK_RCNN: dict[str, Any] = {
    "kind": "mask_rcnn", "channels": 8, "box_channels": 16, "mask_channels": 8, "proposals": 20, "roi_samples": 16,
    "detections": 3,
}  # fmt: skip
"""A small instance head that draws proposals."""

TRACKING: dict[str, Any] = {"birth_score": 0.05, "high_score": 0.05, "low_score": 0.01}


def tiny_network(
    space: LabelSpace = CITYSCAPES, seed: int = 0, model: Mapping[str, Any] | None = None
) -> PanopticNetwork:
    """A network with seeded random weights, scaled so that frames show several classes and things."""
    torch.manual_seed(seed)
    network = build_network(ModelConfig.model_validate(model or MODEL), space).eval()
    with torch.no_grad():
        network.semantic.classify.weight.mul_(60)
        network.instance.center[-1].weight.mul_(40)
        network.instance.center[-1].bias.fill_(0.3)
    return network


def tiny_segmenter(space: LabelSpace | None = None, seed: int = 0, **inference: Any) -> Segmenter:
    """A segmenter around ``tiny_network`` on the CPU."""
    return Segmenter(
        tiny_network(seed=seed),
        tracking=TrackingConfig.model_validate(TRACKING),
        inference=InferenceConfig.model_validate(inference),
        space=space,
        device="cpu",
    )


def moving_frames(count: int, size: tuple[int, int] = (48, 80)) -> list[np.ndarray]:
    """Blocks of several colours over a textured ground, each on its own way: uint8 (H,W,3) frames."""
    rng = np.random.default_rng(5)
    ground = cv2.resize(rng.integers(0, 255, (6, 10, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    blocks = [(rng.integers(0, 255, 3).tolist(), rng.uniform(0, 1, 2), rng.uniform(-0.02, 0.02, 2)) for _ in range(4)]
    frames = []
    for index in range(count):
        frame = ground.copy()
        for colour, start, speed in blocks:
            y, x = ((start + index * speed) % 1 * (size[0], size[1])).astype(int)
            frame[y : y + size[0] // 4, x : x + size[1] // 5] = colour
        frames.append(frame)
    return frames


def tiny_recipe(**changes: Any) -> Recipe:
    """Adaptation of street_world to its fog in two steps: 64x128 frames, one video of four frames each."""
    world = {"kind": "street_world", "videos": 1, "frames": 4, "size": [64, 128]}
    data: dict[str, Any] = {
        "name": "tiny",
        "source": {**world, "seed": 0},
        "target": {**world, "seed": 1, "style": "fog"},
        "validation": {**world, "seed": 2},
        "evaluation": {**world, "seed": 3, "style": "fog"},
        "model": MODEL,
        "method": METHOD,
        "warm_start": {"steps": 2},
        "training": {
            "steps": 2, "batch": 2, "clip_length": 2, "crop": [64, 64], "lr": 1e-3, "warmup": 0, "log_every": 1,
            "checkpoint_every": 1, "keep": 1,
        },
        "tracking": TRACKING,
        "inference": {"weights": "teacher"},
    }  # fmt: skip
    return Recipe.model_validate(data | changes)


def write_images(frames: Iterable[np.ndarray], folder: Path, suffix: str = ".png") -> Path:
    """Write RGB frames (H,W,3), or label maps (H,W), as numbered images."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        assert cv2.imwrite(str(folder / f"{index:04d}{suffix}"), frame[..., ::-1])
    return folder


def write_weights(
    path: Path, recipe: Recipe | None = None, seed: int = 0, model: Mapping[str, Any] | None = None
) -> Path:
    """A weights file of ``tiny_network`` that segments on its own, with the settings of ``recipe``."""
    recipe = recipe or tiny_recipe(method=None, target=None, warm_start=None, inference={})
    save_network(tiny_network(seed=seed, model=model), path, recipe_header(recipe))
    return path


def write_camvid(root: Path, count: int = 4, split: str = "val") -> Path:
    """CamVid's layout with generated frames."""
    rng = np.random.default_rng(1)
    for kind in (split, f"{split}annot"):
        (root / kind).mkdir(parents=True)
    for index, frame in enumerate(moving_frames(count, (48, 64))):
        name = f"0016E5_{7959 + 2 * index:05d}"
        cv2.imwrite(str(root / split / f"{name}.png"), frame[..., ::-1])
        label = np.kron(rng.integers(0, 12, (3, 4), np.uint8), np.ones((16, 16), np.uint8))
        cv2.imwrite(str(root / f"{split}annot" / f"{name}.png"), label)
    return root


def write_labelled(root: Path, names: list[str], count: int = 3, size: tuple[int, int] = (64, 96)) -> Path:
    """A labelled folder with one video; the last class is a thing."""
    rng = np.random.default_rng(0)
    ids = np.repeat(np.repeat(rng.integers(0, len(names), (count, 4, 6)), size[0] // 4, 1), size[1] // 6, 2)
    write_images(moving_frames(count, size), root / "images" / "a")
    write_images(ids.astype(np.uint8), root / "semantic" / "a")
    classes = [{"name": name, "thing": name == names[-1]} for name in names]
    (root / "classes.yaml").write_text(yaml.safe_dump({"name": "mine", "classes": classes}))
    return root
