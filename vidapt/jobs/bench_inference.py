"""Section ``inference`` of `vidapt bench gpu`: frames per second of whole segmentation, ids included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from vidapt.config import EncoderConfig, Recipe, TrackingConfig
from vidapt.datasets.street_world import render_video
from vidapt.errors import VidaptError
from vidapt.jobs.bench_training import SIZES
from vidapt.kernels.bench.measure import estimate
from vidapt.labels import CITYSCAPES
from vidapt.models.network import PanopticNetwork, build_network
from vidapt.models.network_file import load_weights
from vidapt.recipe import load_recipe
from vidapt.segmenter import Segmenter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

HEADS = {"center_offset": "methods/vidapt", "mask_rcnn": "methods/edaps"}
"""Kinds of instance heads, and the recipes that they are taken from."""
FRAME_SIZES = ((512, 1024), (1024, 2048))
BATCHES = (4, 1, 2, 8)
SEED = 4242
RENDERED = (128, 256)
SCORE = 0.1
"""Scores from which tracks begin; networks that have hardly been trained are not sure of anything."""


@dataclass(frozen=True)
class InferenceCase:
    """One network at one frame size.

    Attributes:
        encoder: Name of the encoder.
        size: Height and width of the frames, which are the network's input.
        head: Kind of instance head.
        precision: ``bf16`` or ``fp32``.
        compiled: Whether the network runs through torch.compile.
    """

    encoder: str
    size: tuple[int, int]
    head: str
    precision: str = "bf16"
    compiled: bool = False

    @property
    def name(self) -> str:
        """What it is called in files and tables."""
        mode = f"{self.precision}{'-compiled' if self.compiled else ''}"
        return f"{self.encoder}-{self.size[0]}x{self.size[1]}-{self.head}-{mode}"


def inference_cases(*, quick: bool) -> dict[str, InferenceCase]:
    """What is measured by name, in order of worth; the first has a target. Quick ones are two small ones."""
    if quick:
        cases = [InferenceCase("test_byobnet", (64, 128), head, "fp32") for head in HEADS]
    else:
        cases = [
            InferenceCase(encoder, size, head, compiled=compiled)
            for compiled in (False, True)
            for size in FRAME_SIZES
            for encoder in ("mit_b2", "mit_b5")
            for head in HEADS
        ]
        # beside the first, what its target may need, and what half precision brings
        first = cases[0]
        cases.remove(compiled_first := replace(first, compiled=True))
        cases[1:1] = [compiled_first, replace(first, precision="fp32")]
    return {case.name: case for case in cases}


def measure_inference(case: InferenceCase, *, device: torch.device, weights: Path, quick: bool) -> dict[str, Any]:
    """Segment generated street video, and time the network alone on the same frames.

    The network alone is the encoder, the semantic and the instance head and the projection, frames on the device
    already; everything else is uploading, stabilising, fusion and tracking.

    Args:
        case: What is measured.
        device: Where.
        weights: Folder in which the training section leaves weights; random ones where it has left none.
        quick: A few frames.

    Returns:
        Plain data: ``weights`` ("trained briefly" or "random"), ``instances`` per frame, ``tracks``, and ``batches``:
        for each number of frames in a network call ``frames_per_second``, ``network_ms`` and ``wall_ms`` of a frame,
        and on a GPU ``peak_mib``.

    Raises:
        VidaptError: If frames come back without ids that fit the contract; nothing is timed then.
    """
    torch.compiler.reset()  # the limit of recompilations counts over all cases of a process
    frames = street_frames(case.size, 8 if quick else 48)
    network, trained = _network(case, weights)
    batches = {}
    tracks, found = 0, 0.0
    for batch in BATCHES[:1] if case.compiled else BATCHES[:2] if quick else BATCHES:
        segmenter = _segmenter(case, network, batch, device)
        tracks, found = _check(segmenter, frames[: 2 * batch])
        batches[str(batch)] = _time(segmenter, frames, batch, rounds=1 if quick else 3)
    weights_used = "trained briefly" if trained else "random"
    return {"weights": weights_used, "instances": found, "tracks": tracks, "batches": batches}


def street_frames(size: tuple[int, int], count: int) -> list[Image]:
    """Frames uint8 (H,W,3) of one generated video, enlarged to ``size``."""
    video = render_video(SEED, frames=count, size=RENDERED)
    return [cv2.resize(frame.image, size[::-1], interpolation=cv2.INTER_CUBIC) for frame in video]


def _network(case: InferenceCase, folder: Path) -> tuple[PanopticNetwork, bool]:
    """The network, with weights of the training section where they fit."""
    model = _recipe(case).model
    network = build_network(
        model.model_copy(update={"encoder": EncoderConfig(name=case.encoder, pretrained=False)}), CITYSCAPES
    )
    height, width = SIZES.get(case.encoder, case.size)
    path = folder / f"{case.encoder}-{height}x{width}-{case.head}.safetensors"
    if path.is_file():
        load_weights(network, path)
    return network, path.is_file()


def _recipe(case: InferenceCase) -> Recipe:
    return load_recipe(f"benchmarks/street_world_fog+{HEADS[case.head]}")


def _segmenter(case: InferenceCase, network: PanopticNetwork, batch: int, device: torch.device) -> Segmenter:
    tracking = TrackingConfig(birth_score=SCORE, high_score=SCORE, low_score=SCORE / 2)
    changes = {"batch": batch, "precision": case.precision, "compile": case.compiled, "height": None}
    inference = _recipe(case).inference.model_copy(update=changes)
    return Segmenter(network, tracking=tracking, inference=inference, device=device)


def _check(segmenter: Segmenter, frames: list[Image]) -> tuple[int, float]:
    """Number of tracks and mean number of things in a frame, after a look at the results; a warm-up, too."""
    tracks, things = set[int](), 0
    stream, batch = segmenter.stream(), segmenter.inference.batch
    for found in stream.push_clip(frames[:batch]) + stream.push_clip(frames[batch:]):
        ids = {segment.id for segment in found.segments if segment.is_thing}
        if found.ids.shape != frames[0].shape[:2] or not ids <= set(np.unique(found.ids).tolist()):
            raise VidaptError(f"frame {found.index} has segments without pixels; no speed is shown")
        tracks |= ids
        things += len(ids)
    return len(tracks), things / len(frames)


def _time(segmenter: Segmenter, frames: list[Image], batch: int, rounds: int) -> dict[str, float | None]:
    device = segmenter.device
    groups = [frames[start : start + batch] for start in range(0, len(frames) - batch + 1, batch)]
    gpu = device.type == "cuda"

    def whole() -> None:
        stream = segmenter.stream()
        for group in groups:
            stream.push_clip(group)

    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    whole()
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if gpu else None
    uploaded = [torch.from_numpy(np.stack(group)).permute(0, 3, 1, 2).contiguous().to(device) for group in groups]

    def alone() -> None:
        for group in uploaded:
            network_alone(segmenter, group)

    alone()
    # in turns, so that a machine that slows down does so for both
    times = [(estimate(whole, device), estimate(alone, device)) for _ in range(rounds)]
    count = batch * len(groups)
    wall, network = (1e3 * median(side) / count for side in zip(*times, strict=True))
    return {
        "frames_per_second": 1e3 / wall,
        "wall_ms": wall,
        "network_ms": network,
        "peak_mib": peak,
    }


def network_alone(segmenter: Segmenter, frames: torch.Tensor) -> None:
    """Run all of the network on frames uint8 (N,3,H,W) on its device, and keep nothing.

    A Mask R-CNN head predicts from its own proposals, so all that it does counts; a centre/offset head stops at its
    maps, whose grouping needs the stabilised classes.
    """
    network = segmenter.network
    with segmenter.running():
        output = network(frames)
        network.project(output)
        if segmenter.network.config.instance.kind == "center_offset":
            network.instance(output.features)
        else:
            network.instance.predict(output.features, network.upsample(network.probabilities(output), output.size))
