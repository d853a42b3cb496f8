"""A row of each group of the benchmark suite that takes milliseconds on the CPU, and how to run it."""

import torch

from vidapt.kernels.bench.anchor_rows import AnchorRow
from vidapt.kernels.bench.contrast_rows import ContrastRow
from vidapt.kernels.bench.measure import Effort
from vidapt.kernels.bench.paste_rows import PasteRow
from vidapt.kernels.bench.rows import Row, Street
from vidapt.kernels.bench.run import Settings
from vidapt.kernels.bench.stats_rows import StatsRow

CPU = torch.device("cpu")
QUICKLY = Effort(0.0, 2, 2)


def streets(world: int, frames: int, height: int, width: int) -> Street:
    """Return vertical strips of instances 1.. over a road, shifted by a pixel a frame."""
    column = torch.arange(width) + torch.arange(frames)[:, None] + 3 * world
    ids = torch.where(column % 8 < 3, column // 8 % 20 + 1, 0)[:, None].expand(frames, height, width)
    ids = torch.where(torch.arange(height)[:, None] < height // 2, ids, 0).int()
    return Street(torch.where(ids > 0, 13, 0).to(torch.uint8).contiguous(), ids.contiguous())


SETTINGS = Settings(CPU, streets, QUICKLY, compiled=None, memory=False)
TINY: list[Row] = [
    ContrastRow("P0", "self", 1, 96, 96, 16, "self"),
    PasteRow("K1.t", "paste", 16, 32, 2, "fp32", 20),
    StatsRow("K1b.t", "stats", 16, 32, 2),
    AnchorRow("A", "anchors", 2, 3000),
]
