"""The rows that measure instance statistics (K1b), on id maps of streets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from vidapt.kernels.bench.floors import Work, instance_stats_bytes
from vidapt.kernels.bench.gates import Gate, exact_gate, worst
from vidapt.kernels.bench.paste_baselines import loop_stats
from vidapt.kernels.bench.rows import CALL, OURS, Provider, Row, Streets, halvings
from vidapt.kernels.paste import instance_stats

MOST_IDS = 60
SIZES = ((512, 512, 1), (512, 512, 4), (640, 640, 8), (1024, 1024, 8), (1024, 2048, 16))  # height, width, frames
# Centroids are float32; everything else is exact.
CENTROID_ERROR = 1e-6


@dataclass(frozen=True)
class StatsRow(Row):
    """Id maps of T frames HxW with up to 60 ids each."""

    modes: ClassVar[tuple[str, ...]] = (CALL,)
    baseline: ClassVar[str] = "loop"
    group: ClassVar[str] = "Instance statistics"

    height: int
    width: int
    frames: int

    def shape(self) -> dict[str, int | float | str]:
        """Return frames T, height H, width W and the number of ids."""
        return {"T": self.frames, "H": self.height, "W": self.width, "ids": MOST_IDS}

    def scaled(self, limit: int) -> "StatsRow":
        """Divide H and W by one power of two until T·H·W is at most `limit`."""
        factor = halvings(self.frames * self.height * self.width, limit, by=2)
        return replace(self, height=self.height // factor, width=self.width // factor)

    def small(self, device: torch.device) -> None:
        """The row itself is judged."""

    def inputs(self, device: torch.device, seed: int, streets: Streets) -> Tensor:
        """Return the ids (1,T,H,W) of a street."""
        return streets(seed, self.frames, self.height, self.width).ids[None].to(device)

    def providers(self, device: torch.device, compiled: str | None) -> list[Provider]:
        """Return ours, the loop over frames and instances, and on a GPU our reference."""
        gpu = device.type == "cuda"
        made = [_stats_provider(OURS, instance_stats, "triton" if gpu else "reference")]
        made.append(_stats_provider("loop", loop_stats))
        if gpu:
            made.append(_stats_provider("reference", instance_stats))
        return made

    def judge(self, problem: str, inputs: Tensor) -> Callable[[Provider], Gate]:
        """Compare areas and boxes with those of the loop, element by element, and centroids to float32."""
        truth = _named_stats(loop_stats, inputs)
        exact = {name: truth[name] for name in ("area", "box")}

        def judged(provider: Provider) -> Gate:
            answer = provider.judged_answer(inputs)
            distance = float(
                (answer["centroid"] - truth["centroid"]).abs().max() / truth["centroid"].max().clamp(min=1)
            )
            return worst([exact_gate(problem, answer, exact), Gate(problem, "centroid", distance, CENTROID_ERROR)])

        return judged

    def work(self, mode: str, inputs: Tensor) -> tuple[Work, ...]:
        """Return the bytes of the ids and of the results."""
        return (instance_stats_bytes(inputs.numel(), inputs.shape[1] * (MOST_IDS + 1)),)

    def kept_bytes(self, mode: str, inputs: Tensor) -> int:
        """Return the bytes of area, box and centroid."""
        return 28 * inputs.shape[1] * (MOST_IDS + 1)


def _stats_provider(
    name: str, stats: Callable[[Tensor, int], tuple[Tensor, ...]], kernels: str = "reference"
) -> Provider:
    return Provider(name, {CALL: lambda ids: stats(ids, MOST_IDS)}, partial(_named_stats, stats), kernels=kernels)


def _named_stats(stats: Callable[[Tensor, int], tuple[Tensor, ...]], ids: Tensor) -> dict[str, Tensor]:
    return dict(zip(("area", "box", "centroid"), stats(ids, MOST_IDS), strict=True))


def size_name(height: int, width: int, frames: int) -> str:
    """Return a size as ids have it: "512t4" is four frames of 512², "1024x2048t16" sixteen of 1024 x 2048."""
    return f"{height}t{frames}" if height == width else f"{height}x{width}t{frames}"


def stats_rows() -> Iterator[StatsRow]:
    """Yield each size of the id maps."""
    for height, width, frames in SIZES:
        yield StatsRow(f"K1b.{size_name(height, width, frames)}", "areas, boxes, centroids", height, width, frames)
