"""Fusion of stabilised class probabilities and instance masks into one panoptic frame, the same for every head.

Source: the merging step of Panoptic-DeepLab and EDAPS (semantic majority names an instance, small stuff becomes
void), with the majority taken over probabilities instead of labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from vidapt.clip import FIRST_THING_ID, Instances, Segment
from vidapt.errors import VidaptError

if TYPE_CHECKING:
    from numpy.typing import NDArray

STUFF_AREA = 2048 / (1024 * 2048)
"""Smallest stuff segment as a share of the frame: 2048 pixels of a Cityscapes frame."""

THING_AREA = 32 / (1024 * 2048)
"""Smallest visible thing as a share of the frame: 32 pixels of a Cityscapes frame, one pixel at 128x256."""


@dataclass(frozen=True)
class Fused:
    """One fused frame before tracking; detection k of K is painted as k + 1 in ``labels`` and 256 + k in ``ids``.

    Attributes:
        semantic: uint8 (h,w) train ids, the argmax of the probabilities.
        ids: int32 (h,w): 0 = void, stuff = train id + 1, things = 256 + k.
        labels: int32 (h,w): 0 = no thing, k + 1 = detection k.
        segments: Stuff by train id, then things by k (falling score).
        categories: int64 (K,) train ids.
        classes: float32 (K,C) mean class probabilities over the visible mask, normalised over things, 0 for stuff.
        scores: float32 (K,) in 0..1.
        embeddings: float32 (K,D), or None if the instances carried none.
        sources: int64 (K,), the position of each detection in the instances that were given.
    """

    semantic: NDArray[np.uint8]
    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    segments: tuple[Segment, ...]
    categories: NDArray[np.int64]
    classes: NDArray[np.float32]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None
    sources: NDArray[np.int64]


@dataclass(frozen=True)
class Things:
    """The instances of a frame after they were made disjoint; see the fields of ``Fused`` with the same names."""

    labels: NDArray[np.int32]
    categories: NDArray[np.int64]
    classes: NDArray[np.float32]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None
    sources: NDArray[np.int64]


@torch.no_grad()
def fuse(
    probabilities: Tensor,
    instances: Instances,
    is_thing: NDArray[np.bool_],
    *,
    stuff_area: float = STUFF_AREA,
    overlap: float = 0.5,
    min_area: float = THING_AREA,
    min_score: float = 0.1,
) -> Fused:
    """Merge class probabilities and instances into disjoint segments.

    In the order of falling score (ties: lower position first) an instance takes the pixels of its mask whose argmax
    is a thing and that no earlier one took. Its class is the thing class with the largest mean probability there.
    Thing pixels that no instance takes and stuff classes that cover too little of the frame become void in ``ids``.

    Args:
        probabilities: Floating (C,h,w) class probabilities on any device, 1 <= C <= 255.
        instances: K instances with masks of h×w.
        is_thing: bool (C,) or longer, True where the train id is a thing.
        stuff_area: Smallest stuff segment as a share of h·w.
        overlap: An instance is dropped if a larger share of its thing pixels is already taken.
        min_area: Smallest visible instance as a share of h·w, at least one pixel.
        min_score: Instances below are dropped; low ones are kept because the tracker uses them.

    Raises:
        ValueError: If shapes do not fit.
        VidaptError: If a probability is not a number.
    """
    things = _check(probabilities, instances, is_thing)
    probabilities = probabilities.float()
    classes, height, width = probabilities.shape
    semantic, confidence = most_probable(probabilities)
    found = resolve_things(
        probabilities, semantic, instances, is_thing, overlap=overlap, min_area=min_area, min_score=min_score
    )
    stuff = _stuff_segments(semantic, confidence, things, max(1.0, stuff_area * height * width))
    ids = np.arange(len(found.sources), dtype=np.int32) + FIRST_THING_ID
    return Fused(
        semantic=semantic,
        ids=_paint_ids(semantic, found.labels, stuff, classes, ids),
        segments=(*stuff, *_thing_segments(found.labels, found.categories, found.scores)),
        **vars(found),
    )


@torch.no_grad()
def resolve_things(
    probabilities: Tensor,
    semantic: NDArray[np.uint8],
    instances: Instances,
    is_thing: NDArray[np.bool_],
    *,
    overlap: float = 0.5,
    min_area: float = THING_AREA,
    min_score: float = 0.1,
) -> Things:
    """Make the instances of a frame disjoint: what ``fuse`` does with things, for those who need no segments.

    Args:
        probabilities: Floating (C,h,w), as ``fuse`` takes them.
        semantic: uint8 (h,w) most probable classes.
        instances: See ``fuse``.
        is_thing: See ``fuse``.
        overlap: See ``fuse``.
        min_area: See ``fuse``.
        min_score: See ``fuse``.

    Raises:
        ValueError: If shapes do not fit.
    """
    things = _check(probabilities, instances, is_thing)
    probabilities = probabilities.float()
    pixels = np.flatnonzero(things[semantic])
    scores = _array(instances.scores)
    sources = _candidates(scores, min_score)
    masks = _pick(instances.masks.flatten(1), sources, pixels)
    owner, kept = paint_instances(masks, overlap, max(1.0, min_area * semantic.size))
    sources = sources[kept]
    means = _class_means(probabilities, things, pixels, owner, len(sources))
    labels = np.zeros(semantic.shape, np.int32)
    labels.ravel()[pixels] = owner
    return Things(
        labels=labels,
        categories=np.where(things, means, -1.0).argmax(1) if len(sources) else np.zeros(0, np.int64),
        classes=means,
        scores=scores[sources].astype(np.float32),
        embeddings=None if instances.embeddings is None else _array(instances.embeddings)[sources].astype(np.float32),
        sources=sources,
    )


def assign_tracks(
    fused: Fused, ids: NDArray[np.int32], categories: NDArray[np.int64]
) -> tuple[NDArray[np.int32], tuple[Segment, ...]]:
    """Replace the frame's own thing ids and classes by those of the tracks.

    Args:
        fused: A frame with K detections.
        ids: int32 (K,) track ids from 256 up, 0 = without a track: its pixels become void.
        categories: int64 (K,) train ids, the class votes of the tracks.

    Returns:
        The id map int32 (h,w) and the segments that occur in it, stuff first, then things by falling score.

    Raises:
        ValueError: If the lengths do not fit or a track id is between 1 and 255.
    """
    count = len(fused.scores)
    if len(ids) != count or len(categories) != count:
        raise ValueError(f"assign_tracks: {count} detections, but {len(ids)} ids and {len(categories)} categories")
    if np.any((ids != 0) & (ids < FIRST_THING_ID)):
        raise ValueError(f"assign_tracks: track ids start at {FIRST_THING_ID}, got {int(ids[ids != 0].min())}")
    table = np.zeros(FIRST_THING_ID + count, np.int32)
    table[:FIRST_THING_ID] = np.arange(FIRST_THING_ID)
    table[FIRST_THING_ID:] = ids
    stuff = tuple(segment for segment in fused.segments if not segment.is_thing)
    things = (segment for segment in fused.segments if segment.is_thing)
    renamed = (
        Segment(int(track), int(category), True, thing.score, thing.area, thing.box)
        for thing, track, category in zip(things, ids, categories, strict=True)
        if track
    )
    return table[fused.ids], (*stuff, *renamed)


def most_probable(probabilities: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the most probable class uint8 (h,w), the lower one of a tie, and its probability float32 (h,w).

    Args:
        probabilities: Floating (C,h,w), C <= 255.

    Raises:
        VidaptError: If a probability is not a number.
    """
    # one copy to the host
    best, ranks = _array(torch.cat(rank_classes(probabilities[None])).float())
    return classes_of_ranks(ranks, probabilities.shape[0]), best


def classes_of_ranks(ranks: NDArray[Any], classes: int) -> NDArray[np.uint8]:
    """Return the most probable class of each pixel from what ``rank_classes`` gives, on the host.

    Raises:
        VidaptError: If a rank is 0, because a probability was not a number.
    """
    if not ranks.all():
        raise VidaptError("class probabilities contain NaN; the weights are damaged or half precision overflowed")
    return (classes - ranks).astype(np.uint8)


def rank_classes(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of C numbers and C minus the index of the first that is as large, 0 if there is a NaN.

    Args:
        probabilities: Floating (N,C,h,w), C <= 255.

    Returns:
        Two tensors (N,h,w) of the same type.
    """
    best, classes = probabilities.amax(1), probabilities.shape[1]
    # On a CPU a running maximum over planes takes a quarter of the time of argmax, and comparing within one type half
    # of that of making a mask.
    rank, equal = torch.zeros_like(best), torch.empty_like(best)
    for index, plane in enumerate(probabilities.unbind(1)):
        torch.maximum(rank, torch.eq(plane, best, out=equal).mul_(classes - index), out=rank)
    return best, rank


def paint_instances(
    masks: NDArray[np.bool_], overlap: float, min_area: float
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Give every pixel to the first mask that covers it, without masks that are mostly taken or too small.

    Args:
        masks: bool (K,N), the best first.
        overlap: Largest share of a mask that earlier ones may have taken.
        min_area: Smallest number of pixels that a mask must get.

    Returns:
        int32 (N,): 0 or 1 + the position in the second array, int64 (M,), which lists the masks that got pixels.
    """
    owner = np.zeros(masks.shape[1], np.int32)
    free = np.ones(masks.shape[1], bool)
    kept: list[int] = []
    for index, mask in enumerate(masks):
        visible = mask & free
        area, total = np.count_nonzero(visible), np.count_nonzero(mask)
        if area < min_area or total - area > overlap * total:
            continue
        kept.append(index)
        np.putmask(owner, visible, len(kept))
        free ^= visible
    return owner, np.asarray(kept, np.int64)


def _check(probabilities: Tensor, instances: Instances, is_thing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if probabilities.ndim != 3 or not 1 <= probabilities.shape[0] <= 255 or not probabilities.is_floating_point():
        raise ValueError(
            f"fuse: probabilities must be floating (C,h,w) with 1 <= C <= 255, "
            f"got {probabilities.dtype} {tuple(probabilities.shape)}"
        )
    count, classes = len(instances), probabilities.shape[0]
    if tuple(instances.masks.shape) != (count, *probabilities.shape[1:]) or instances.masks.dtype != torch.bool:
        raise ValueError(
            f"fuse: masks must be bool ({count},{probabilities.shape[1]},{probabilities.shape[2]}), "
            f"got {instances.masks.dtype} {tuple(instances.masks.shape)}"
        )
    if len(is_thing) < classes:
        raise ValueError(f"fuse: is_thing has {len(is_thing)} entries for {classes} classes")
    return np.asarray(is_thing, bool)[:classes]


def _candidates(scores: NDArray[np.float32], min_score: float) -> NDArray[np.int64]:
    order = np.argsort(-scores, kind="stable")
    return order[scores[order] >= min_score]


def _array(tensor: Tensor) -> NDArray:
    return tensor.detach().cpu().numpy()


def _pick(planes: Tensor, rows: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray:
    """``planes[rows][:, pixels]`` as an array on the host."""
    if planes.device.type != "cpu":
        return _pick_on_device(planes, rows, pixels)
    out = np.empty((len(rows), len(pixels)), planes.numpy().dtype)
    for target, row in zip(out, rows, strict=True):
        # Several times faster than indexing by tensor; "clip" spares the copy that bounds checks would make.
        planes[row].numpy().take(pixels, out=target, mode="clip")
    return out


def _pick_on_device(planes: Tensor, rows: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray:
    """The same, picked before the copy to the host, so that little is copied."""
    row, pixel = (torch.from_numpy(part).to(planes.device, non_blocking=True) for part in (rows, pixels))
    return _array(planes.index_select(0, row).index_select(1, pixel))


def _class_means(
    probabilities: Tensor, things: NDArray[np.bool_], pixels: NDArray[np.int64], owner: NDArray[np.int32], count: int
) -> NDArray[np.float32]:
    """Mean probability of each thing class under each detection, normalised to sum 1: float32 (K,C)."""
    means = np.zeros((count, len(things)), np.float32)
    if not count:
        return means
    owned = np.flatnonzero(owner)
    owners = owner[owned].astype(np.intp) - 1
    categories = np.flatnonzero(things)
    planes = _pick(probabilities.flatten(1), categories, pixels[owned])
    for category, plane in zip(categories, planes, strict=True):
        means[:, category] = np.bincount(owners, plane, count)
    return means / np.maximum(means.sum(1, keepdims=True), 1e-12)


def _stuff_segments(
    semantic: NDArray[np.uint8], confidence: NDArray[np.float32], things: NDArray[np.bool_], min_area: float
) -> tuple[Segment, ...]:
    classes = len(things)
    areas = np.bincount(semantic.ravel(), minlength=classes)
    totals = np.bincount(semantic.ravel(), confidence.ravel(), minlength=classes)
    keep = np.flatnonzero((areas >= min_area) & ~things)
    compact = np.zeros(256, np.uint8)
    compact[keep] = np.arange(len(keep)) + 1
    regions = ndimage.find_objects(compact[semantic], len(keep))
    return tuple(
        Segment(int(c) + 1, int(c), False, _unit(totals[c] / areas[c]), int(areas[c]), _box(region))
        for c, region in zip(keep, regions, strict=True)
    )


def _thing_segments(
    labels: NDArray[np.int32], categories: NDArray[np.int64], scores: NDArray[np.float32]
) -> tuple[Segment, ...]:
    count = len(scores)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    regions = ndimage.find_objects(labels, count) if count else []
    return tuple(
        Segment(FIRST_THING_ID + k, int(categories[k]), True, _unit(scores[k]), int(areas[k]), _box(region))
        for k, region in enumerate(regions)
    )


def _unit(value: float) -> float:
    return float(min(max(value, 0.0), 1.0))


def _box(region: tuple[slice, slice]) -> tuple[int, int, int, int]:
    rows, columns = region
    return int(columns.start), int(rows.start), int(columns.stop), int(rows.stop)


def _paint_ids(
    semantic: NDArray[np.uint8],
    labels: NDArray[np.int32],
    stuff: tuple[Segment, ...],
    classes: int,
    things: NDArray[np.int32],
) -> NDArray[np.int32]:
    table = np.zeros(classes, np.int32)
    for segment in stuff:
        table[segment.category] = segment.id
    ids = table[semantic]
    covered = np.flatnonzero(labels)
    ids.ravel()[covered] = things[labels.ravel()[covered] - 1]
    return ids
