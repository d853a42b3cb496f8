"""Small problems that make every operation launch its kernels; only `compile_only` runs them, on CPU tensors.

Each calls the function that dispatch puts in place of the reference, with the reference's arguments, and its backward
where there is one. What the tensors hold does not matter, for nothing is computed; their shapes are those of the suite
where a launch chooses its kernel by the shape.
"""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vidapt.kernels.dispatch import kernel

Classes = Collection[str]  # problem classes for which the chip has tiles, as tiles.json names them

IMAGE_DTYPES = {"8bit": torch.uint8, "16bit": torch.float16, "32bit": torch.float32}
MANY = 40_000  # rows that need no split to fill a GPU


class Problem(NamedTuple):
    """One call of an operation; `kernels` are those of its kernels to compile, None for all of them.

    Where `aligned` is False no access needs to be 16 bytes wide.
    """

    name: str
    launch: Callable[[], object]
    aligned: bool = True
    kernels: Collection[str] | None = None


def paste_problems(classes: Classes, thorough: bool) -> Iterator[Problem]:
    """Yield pastes into images of every width that the table lists, and instance statistics."""
    for image_class in sorted(IMAGE_DTYPES.keys() & classes):
        dtype = IMAGE_DTYPES[image_class]
        yield Problem(f"{image_class} by id and class", partial(_paste, dtype, by_id=True, by_class=True, weights=2))
        yield Problem(f"{image_class} by id in place", partial(_paste, dtype, by_id=True, inplace=True))
        if thorough:
            launch = partial(_paste, dtype, by_class=True, weights=1, inplace=True)
            yield Problem(f"{image_class} by class in place", launch)
            launch = partial(_paste, dtype, by_id=True, shape=(63, 101))
            yield Problem(f"{image_class} of odd size", launch, aligned=False)
    ids = torch.zeros(2, 2, 64, 128, dtype=torch.int32)
    yield Problem("instance_stats", partial(kernel("instance_stats"), ids, 60))


def _paste(
    dtype: torch.dtype,
    *,
    by_id: bool = False,
    by_class: bool = False,
    weights: int = 0,
    inplace: bool = False,
    shape: tuple[int, int] = (64, 128),
) -> None:
    image, donor_image = torch.zeros(2, 2, 2, 3, *shape, dtype=dtype)
    semantic, donor_semantic = torch.zeros(2, 2, 2, *shape, dtype=torch.uint8)
    ids, donor_ids = torch.zeros(2, 2, 2, *shape, dtype=torch.int32)
    weight, donor_weight = (torch.zeros(2, 2, *shape) if place < weights else None for place in range(2))
    selected = torch.ones(2, 61, dtype=torch.bool) if by_id else None
    selected_class = torch.ones(2, 19, dtype=torch.bool) if by_class else None
    offset = torch.zeros(2, dtype=torch.int32)
    clip, donor = (image, semantic, ids, weight), (donor_image, donor_semantic, donor_ids, donor_weight)
    kernel("paste_instances")(*clip, *donor, selected, selected_class, offset, inplace)


def anchor_problems() -> Iterator[Problem]:
    """Yield anchor sampling from labels of the usual types, with and without a prediction."""
    options = {"per_class": 100, "total": 1024, "min_pixels": 100, "ignore_label": 255}
    for dtype in (torch.uint8, torch.int64):
        labels, noise = torch.zeros(2, 4096, dtype=dtype), torch.zeros(2, 4096)
        for kind, prediction in (("easy", None), ("hard", labels)):
            launch = partial(kernel("sample_anchors"), labels, prediction, noise, **options)
            yield Problem(f"sample_anchors {str(dtype).removeprefix('torch.')} {kind}", launch)


def contrast_problems(classes: Classes, thorough: bool) -> Iterator[Problem]:
    """Yield anchor sampling, and the losses at every feature length and precision that the table lists.

    Each tile is compiled for the variants that need most registers, and one class of tiles for all the others too.
    """
    yield from anchor_problems()
    for problem_class in sorted(classes):
        bits, _, length = problem_class.partition("_d")
        size = int(length), {"16bit": "fp16", "32bit": "exact"}[bits]
        name = f"{size[1]} d{length}"
        yield Problem(f"symmetric {name}", partial(_symmetric, *size), kernels={"sum_positives", "sum_gradients"})
        yield Problem(f"supcon {name}", partial(_supcon, *size, thorough), kernels={"sum_rows", "sum_gradients"})
    yield Problem("supcon fp16 d128", partial(_supcon, 128, "fp16"))
    yield Problem("patches fp16 d128", partial(_patches, 128, "fp16"))
    if thorough:
        yield Problem("symmetric bf16 d128", partial(_symmetric, 128, "bf16"))
        yield Problem("symmetric split fp16 d128", partial(_symmetric, 128, "fp16", rows=4096, temperature=0.1))
        yield Problem("bank fp16 d128", partial(_bank, 128, "fp16"))
        yield Problem("paired fp16 d128", partial(_paired, 128, "fp16"))
        yield Problem("symmetric exact d256", partial(_symmetric, 256, "exact"), kernels={"sum_gradients"})
        yield Problem("supcon exact d512", partial(_supcon, 512, "exact"), kernels={"sum_rows", "sum_gradients"})
        yield Problem("bank exact d24", partial(_bank, 24, "exact"))
        yield Problem("patches exact d24", partial(_patches, 24, "exact"))


def _symmetric(depth: int, precision: str, rows: int = MANY, temperature: float = 0.02) -> None:
    """Pixel contrast of one sorted set with itself; at this temperature the maximum is not fixed."""
    query, label = _features(rows, depth, precision=precision), torch.zeros(rows, dtype=torch.int64)
    _supervised(query, None, label, label, precision, exclude_self=True, normalize=True, temperature=temperature)


def _supcon(depth: int, precision: str, query_grad: bool = True) -> None:
    """SupCon of a few queries and many keys, sorted: the gradient of the keys is finished in one kernel."""
    query, key = _features(512, depth, precision=precision), _features(MANY, depth, precision=precision)
    labels = torch.zeros(512, dtype=torch.int64), torch.zeros(MANY, dtype=torch.int64)
    query.requires_grad_(query_grad)
    _supervised(query, key, *labels, precision, form="supcon", exclude_self=True, normalize=True, temperature=0.02)


def _bank(depth: int, precision: str) -> None:
    """SupCon against a few keys of other rows, not sorted, not normalised, with byte labels."""
    query, key = _features(1000, depth, precision=precision), _features(2000, depth, precision=precision)
    labels = torch.zeros(1000, dtype=torch.uint8), torch.zeros(2000, dtype=torch.uint8)
    _supervised(query, key, *labels, precision, form="supcon", normalize=False)


def _paired(depth: int, precision: str) -> None:
    """Temporal contrast with one place of the next frame."""
    query, key = (_features(2, 1024, depth, precision=precision) for _ in range(2))
    _pair(query, key, torch.zeros(2, 1024, dtype=torch.int64), None, None, precision)


def _patches(depth: int, precision: str) -> None:
    """Patch contrast: the positives are features, the negatives sorted keys of another label."""
    query, key, positive = (_features(1, 4096, depth, precision=precision) for _ in range(3))
    label, gate = torch.zeros(1, 4096, dtype=torch.int64), torch.ones(1, 4096, dtype=torch.bool)
    _pair(query, key, positive, label, gate, precision)


def _supervised(
    query: Tensor,
    key: Tensor | None,
    query_label: Tensor,
    key_label: Tensor,
    precision: str,
    **options: Any,
) -> None:
    given = {"form": "per_positive", "exclude_self": False, "temperature": 0.1, "ignore_label": 255} | options
    losses, _ = kernel("supervised_contrast")(query, key, query_label, key_label, precision=precision, **given)
    losses.sum().backward()


def _pair(
    query: Tensor, key: Tensor, positive: Tensor, label: Tensor | None, gate: Tensor | None, precision: str
) -> None:
    options = {"temperature": 0.1, "gate": gate, "ignore_label": 255, "normalize": True, "precision": precision}
    losses, _ = kernel("paired_contrast")(query, key, positive, query_label=label, key_label=label, **options)
    losses.sum().backward()


def _features(*shape: int, precision: str) -> Tensor:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "exact": torch.float32}[precision]
    return torch.zeros(shape, dtype=dtype, requires_grad=True)


PROBLEMS: dict[str, Callable[[Classes, bool], Iterator[Problem]]] = {
    "contrast": contrast_problems,
    "paste": paste_problems,
}
