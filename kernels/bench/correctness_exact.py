"""The cases of the operations that are exact: pasting, statistics and anchors, against their references to the bit."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.kernels.bench.correctness_cases import Case, named, ours, poisoned, size, truth
from vidapt.kernels.bench.gates import Answer, Gate, exact_gate
from vidapt.kernels.contrast import sample_anchors
from vidapt.kernels.paste import Pasted, Stats, instance_stats, paste_instances

CLASSES, IDS, BLOCK = 19, 9, 16
# Whole 16-byte accesses, a crop of them, and widths that none divides.
SHAPES, QUICK_SHAPES = ((96, 160), (48, 112), (33, 101), (5, 7), (1, 1)), ((5, 32), (7, 11))
VIEWED, QUICK_VIEWED = (96, 160), (12, 20)
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "cropped": lambda pixels: pixels[..., 1:-2, 3:-1],
    "turned": lambda pixels: pixels.mT,
    "every other": lambda pixels: pixels[..., ::2, 1::2],
    "frames first": lambda pixels: pixels[:, :2].transpose(0, 1),
}
TAKEN = ("ids", "classes", "both")
WEIGHTS = {"neither": (), "base": (0,), "donor": (1,), "both": (0, 1)}


def clip(dtype: torch.dtype, shape: tuple[int, int], seed: int, device: torch.device) -> list[Tensor]:
    """Return image, semantic, ids and weight of 2 clips of 3 frames; some ids lie outside the table."""
    generator = torch.Generator(device).manual_seed(seed)
    draw = partial(torch.randint, generator=generator, device=device)
    pixels = 2, 3, *shape
    image = draw(0, 256, (2, 3, 3, *shape)).to(dtype)
    semantic = draw(0, CLASSES + 1, pixels).to(torch.uint8)
    semantic = torch.where(semantic == CLASSES, 255, semantic)
    blocks = draw(-1, IDS + 2, (2, 3, *(-(-axis // BLOCK) for axis in shape)), dtype=torch.int32)
    ids = blocks.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)[..., : shape[0], : shape[1]]
    return [image, semantic, ids.contiguous(), torch.rand(pixels, generator=generator, device=device)]


def paste_cases(dtype: torch.dtype, device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield sizes, views, selections, weights and offsets, into new tensors and in place."""
    whole, viewed = (QUICK_SHAPES, QUICK_VIEWED) if quick else (SHAPES, VIEWED)
    for inplace in (False, True):
        pasted = partial(_paste, device, dtype, inplace=inplace)
        yield from (pasted(shape) for shape in whole)
        yield from (pasted(viewed, view=view) for view in VIEWS)
        yield from (pasted(viewed, taken=taken) for taken in TAKEN)
        yield from (pasted(viewed, weights=weights) for weights in WEIGHTS)
        yield pasted(viewed, offset=2**31 - 3)


def _paste(device: torch.device, dtype: torch.dtype, shape: tuple[int, int], **how: Any) -> Case:
    text = named("paste", str(dtype).removeprefix("torch."), size(*shape), **how)

    def judge() -> Gate:
        with truth():
            expected = pasted(device, dtype, shape, **how)
        with ours(device), poisoned():
            return exact_gate(text, pasted(device, dtype, shape, **how), expected)

    return Case(text, judge)


def pasted(
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int],
    *,
    inplace: bool,
    view: str | None = None,
    taken: str = "both",
    weights: str = "both",
    offset: int | None = None,
) -> Answer:
    """Return what a paste gives, and what it leaves of the memory around its inputs."""
    buffers, donor_buffers = clip(dtype, shape, 1, device), clip(dtype, shape, 2, device)
    cut = VIEWS.get(view or "", lambda pixels: pixels)
    base, donor = ([cut(buffer) for buffer in each] for each in (buffers, donor_buffers))
    generator = torch.Generator(device).manual_seed(3)
    chosen = [torch.rand(len(base[0]), count, generator=generator, device=device) < 0.5 for count in (IDS, CLASSES)]
    result = paste_instances(
        base[0],
        base[1],
        base[2],
        donor[0],
        donor[1],
        donor[2],
        chosen[0] if taken != "classes" else None,
        selected_class=chosen[1] if taken != "ids" else None,
        id_offset=offset,
        weight=base[3] if 0 in WEIGHTS[weights] else None,
        donor_weight=donor[3] if 1 in WEIGHTS[weights] else None,
        inplace=inplace,
    )
    answer = {name: part for name, part in zip(Pasted._fields, result, strict=True) if part is not None}
    around = {f"memory of {name}": buffer for name, buffer in zip(Pasted._fields, buffers, strict=True)}
    return answer | around | {f"donor's {name}": part for name, part in zip(Pasted._fields, donor, strict=True)}


def stats_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield maps of instances and of noise, of odd sizes, in views, for few ids, many and none."""
    shapes = (*(QUICK_SHAPES if quick else SHAPES), (0, 3))
    for shape, count in product(shapes, (0, IDS - 1, 300)):
        yield _stats(device, shape, count, "noise", lambda pixels: pixels)
        yield _stats(device, shape, count, "whole", lambda pixels: pixels)
    for name, view in VIEWS.items():
        yield _stats(device, QUICK_VIEWED if quick else VIEWED, IDS + 1, name, view)


def _stats(
    device: torch.device, shape: tuple[int, int], count: int, name: str, view: Callable[[Tensor], Tensor]
) -> Case:
    text = named("statistics", size(*shape), name, count=count)

    def judge() -> Gate:
        ids = clip(torch.uint8, shape, 4, device)[2]
        if name == "noise":
            generator = torch.Generator(device).manual_seed(5)
            ids = torch.randint(-1, 2 + count, ids.shape, generator=generator, device=device, dtype=torch.int32)
        with truth():
            expected = instance_stats(view(ids), count)
        with ours(device), poisoned():
            given = instance_stats(view(ids), count)
        return exact_gate(text, *(dict(zip(Stats._fields, each, strict=True)) for each in (given, expected)))

    return Case(text, judge)


def anchor_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield batches of every label type, with and without a prediction, from one pixel to more than are ranked."""
    options: dict[str, Any] = {"per_class": 50, "total": 1024, "min_pixels": 100}
    full = 3000 if quick else 65536
    for dtype, hard in product((torch.uint8, torch.int16, torch.int64), (None, 0.3, 1.0)):
        yield _anchors(device, (2, full), dtype, hard, **options)
    for shape in ((1, 1), (3, 129), (5, 7), (1, full + 3), (0, 4)):
        yield _anchors(device, shape, torch.uint8, 0.3, **options | {"min_pixels": 0})
    for few in ({"per_class": 0}, {"total": 5}, {"per_class": 10**6, "total": 4000}, {"min_pixels": 10**6}):
        yield _anchors(device, (2, full), torch.uint8, 0.3, **options | few)
    yield _anchors(device, (2, full), torch.int64, 0.3, strided=True, **options)


def _anchors(
    device: torch.device,
    shape: tuple[int, int],
    dtype: torch.dtype,
    hard: float | None,
    *,
    strided: bool = False,
    **options: int,
) -> Case:
    text = named("anchors", size(*shape), str(dtype).removeprefix("torch."), hard=hard, strided=strided, **options)

    def judge() -> Gate:
        labels, prediction = _labels(shape, dtype, hard, device)
        if strided:
            labels = F.pad(labels[..., None], (0, 1))[..., 0]
            prediction = None if prediction is None else prediction.mT.contiguous().mT
        with truth():
            expected = _drawn(labels, prediction, options)
        with ours(device), poisoned():
            return exact_gate(text, _drawn(labels, prediction, options), expected)

    return Case(text, judge)


def _labels(
    shape: tuple[int, int], dtype: torch.dtype, hard: float | None, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return labels of 19 classes and the ignored one, and a prediction that is wrong in that share of them."""
    generator = torch.Generator(device).manual_seed(6)
    labels = torch.randint(0, CLASSES + 1, shape, generator=generator, device=device)
    labels = torch.where(labels == CLASSES, 255, labels).to(dtype)
    wrong = torch.rand(shape, generator=generator, device=device) < (hard or 0.0)
    return labels, None if hard is None else torch.where(wrong, (labels + 1) % CLASSES, labels)


def _drawn(labels: Tensor, prediction: Tensor | None, options: dict[str, int]) -> Answer:
    """Return the anchors that a generator of one seed decides on."""
    generator = torch.Generator(labels.device).manual_seed(7)
    indices, valid = sample_anchors(labels, prediction, generator=generator, **options)
    return {"indices": indices, "valid": valid}
