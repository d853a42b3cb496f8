"""A suite so small that a cell takes a second: supervised recipes on street_world at 64x128."""

from pathlib import Path
from typing import Any

import yaml

from tests.tiny_runs import MODEL, TRACKING

WORLD: dict[str, Any] = {"kind": "street_world", "videos": 1, "frames": 3, "size": [64, 128]}
BENCHMARK: dict[str, Any] = {
    "source": {**WORLD, "seed": 0},
    "target": {**WORLD, "seed": 1, "style": "fog"},
    "validation": {**WORLD, "seed": 2},
    "evaluation": {**WORLD, "seed": 3, "style": "fog"},
    "upper_bound": {**WORLD, "seed": 1, "style": "fog"},
}
TRAINING: dict[str, Any] = {
    "steps": 2, "crop": [64, 64], "lr": 1e-3, "warmup": 0, "log_every": 1, "checkpoint_every": 1, "keep": 1,
}  # fmt: skip


def write_suite(folder: Path, **changes: Any) -> Path:
    """Write ``tiny.yaml`` and its benchmark ``tiny_fog.yaml``; ``changes`` replace keys of the suite."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny_fog.yaml").write_text(yaml.safe_dump(BENCHMARK))
    suite: dict[str, Any] = {
        "title": "in miniature",
        "start": {"settings": {"training": {"batch": 1, "clip_length": 1}}},
        "settings": {
            "model": {**MODEL, "instance": {"kind": "center_offset", **MODEL["instance"]}},
            "tracking": TRACKING,
            "training": TRAINING,
            "scoring": {"windows": [1, 2], "long_windows": [1, 2], "metrics": ["ap_coco"]},
        },
        "defaults": {"training": {"clip_length": 1}},
        "frames_per_step": 2,
        "comparisons": [
            {"benchmark": str(folder / "tiny_fog.yaml"), "recipes": ["source_only", "oracle"], "seeds": [0, 1]}
        ],
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**suite, **changes}))
    return path
