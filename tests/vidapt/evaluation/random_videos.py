"""Random labelled videos of Cityscapes classes with their predictions, wrong in every way that a metric tells apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidapt.clip import FIRST_THING_ID, IGNORE, PanopticFrame, Segment
from vidapt.evaluation.runner import FrameQuality, VideoEvaluator
from vidapt.labels import CITYSCAPES

METRICS = ("ap_coco", "ap_cityscapes", "instance_weighted", "boundary", "constancy")
NAMES = ("road", "sky", "vegetation", "terrain", "person", "car", "bus", "train")
CLASSES = np.array([CITYSCAPES.index(name) for name in NAMES])
BLOCK = (12, 16)


@dataclass(frozen=True)
class LabelledFrame:
    """A prediction, its target and the name of the frame."""

    frame: PanopticFrame
    semantic: NDArray[np.uint8]
    instance: NDArray[np.int32]
    name: str


def random_video(seed: int, frames: int = 3) -> Iterator[LabelledFrame]:
    """A grid of 4x4 blocks of stuff, objects, crowds and void, predicted with shifts, noise and misses."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice(CLASSES, (4, 4))
    tracks = np.where(rng.random((4, 4)) < 0.15, 0, np.arange(1, 17).reshape(4, 4))
    void = rng.random((4, 4)) < 0.15
    guesses = np.where(rng.random((4, 4)) < 0.3, rng.choice(CLASSES, (4, 4)), blocks)
    scores = rng.random(17).round(1)
    for index in range(frames):
        semantic, instance = (_enlarge(map_) for map_ in (np.where(void, IGNORE, blocks), tracks))
        thing = CITYSCAPES.is_thing[_enlarge(blocks)]
        instance = np.where(thing, instance, 0)
        # Noise in one column of blocks only: single pixels are nothing but boundary.
        noise = np.where(np.arange(semantic.shape[1]) < BLOCK[1], rng.random(semantic.shape), 0.5)
        semantic = np.where(noise < 0.02, rng.choice(CLASSES, semantic.shape), semantic)
        guess = np.roll(np.where(noise > 0.97, CLASSES[0], _enlarge(guesses)), int(rng.integers(4)), 1)
        number = np.where(rng.random((4, 4)) < 0.2, 20, 0) + np.arange(1, 17).reshape(4, 4)
        objects = np.roll(_enlarge(number), 1, 1)
        ids = np.where(CITYSCAPES.is_thing[guess], FIRST_THING_ID + objects, guess + 1)
        ids[(noise > 0.02) & (noise < 0.06)] = 0
        segments = tuple(_segment(i, ids, guess, scores) for i in np.unique(ids[ids > 0]).tolist())
        frame = PanopticFrame(index, index / 10, guess.astype(np.uint8), ids.astype(np.int32), segments)
        instance = np.where(CITYSCAPES.is_thing[semantic] | (semantic == IGNORE), instance, 0)
        yield LabelledFrame(frame, semantic.astype(np.uint8), instance.astype(np.int32), f"video {seed} frame {index}")


def _enlarge(blocks: NDArray[Any]) -> NDArray[Any]:
    return blocks.repeat(BLOCK[0], 0).repeat(BLOCK[1], 1)


def _segment(panoptic_id: int, ids: NDArray[Any], guess: NDArray[Any], scores: NDArray[Any]) -> Segment:
    mask = ids == panoptic_id
    is_thing = panoptic_id >= FIRST_THING_ID
    category = int(np.bincount(guess[mask]).argmax()) if is_thing else panoptic_id - 1
    return Segment(panoptic_id, category, is_thing, float(scores[panoptic_id % 17]), int(mask.sum()), (0, 0, 1, 1))


def feed(evaluator: VideoEvaluator, seed: int, frames: int = 3) -> list[FrameQuality | None]:
    """Score a random video with still flow; returns what the evaluator says of each frame."""
    qualities = []
    for item in random_video(seed, frames):
        flow = np.zeros((*item.semantic.shape, 2), np.float32), np.ones(item.semantic.shape, bool)
        qualities.append(evaluator.update(item.frame, item.semantic, item.instance, flow=flow, name=item.name))
    evaluator.end_video()
    return qualities
