"""Calibrating the tracker's embedding threshold on labelled source videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from vidapt.config import Data
from vidapt.jobs.scored_videos import evaluation_videos, labelled_frames
from vidapt.segmenter import Segmenter
from vidapt.tracking.calibrate import CosinePairs

if TYPE_CHECKING:
    from numpy.typing import NDArray


def calibrate(segmenter: Segmenter, validation: Data) -> float | None:
    """Find the cosine that tells the same instance in the next frame from another one.

    Predicted instances take the identity of the labelled one that they overlap by more than half (IoU).

    Args:
        segmenter: Network whose embeddings the tracker will use.
        validation: Labelled source videos with track ids.

    Returns:
        The midpoint between the means of same and other pairs, or None where they separate by less than one
        standard deviation or the videos have no track ids.
    """
    videos = evaluation_videos(validation, segmenter.network.space)
    pairs = CosinePairs()
    for number in range(len(videos.videos)):
        pairs.start_clip()
        for image, (semantic, instance), _ in labelled_frames(videos, number):
            if semantic is None:
                continue
            if instance is None:
                return None
            pairs.add(*_identified(segmenter, image, instance))
    return pairs.threshold()


def _identified(
    segmenter: Segmenter, image: NDArray[np.uint8], instance: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings (K,D) and labelled ids (K,) of the instances that match one."""
    (frame,) = segmenter.network_outputs([image])
    full = segmenter.network.upsample(frame.probabilities[None], instance.shape)
    (found,) = segmenter.network.instances(frame.output, full)
    embeddings = found.embeddings
    if embeddings is None:
        raise ValueError("instances carry no embeddings to calibrate")
    ids = np.array([_owner(mask, instance) for mask in found.masks.cpu().numpy()], np.int64)
    keep = torch.from_numpy(np.flatnonzero(ids))
    return embeddings[keep.to(embeddings.device)].cpu().numpy(), ids[ids > 0]


def _owner(mask: NDArray[np.bool_], instance: NDArray[np.int32]) -> int:
    """The labelled id that ``mask`` overlaps with IoU above one half, or 0."""
    ids, counts = np.unique(instance[mask], return_counts=True)
    if not len(ids) or ids[counts.argmax()] == 0:
        return 0
    track, shared = int(ids[counts.argmax()]), int(counts.max())
    union = int(mask.sum()) + int((instance == track).sum()) - shared
    return track if shared > 0.5 * union else 0
