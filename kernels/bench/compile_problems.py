"""Small problems that make every operation launch its kernels; only `compile_only` runs them, on CPU tensors.

Each calls the function that dispatch puts in place of the reference, with the reference's arguments, and its backward
where there is one. What the tensors hold does not matter, for nothing is computed; their shapes are those of the suite
where a launch chooses its kernel by the shape.
"""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vidapt.kernels.dispatch import kernel

Problem = tuple[str, Callable[[], object]]
Classes = Collection[str]  # problem classes for which the chip has tiles, as tiles.json names them

PRECISIONS = {"16bit": ("fp16", "bf16"), "32bit": ("exact",)}


def anchor_problems(classes: Classes) -> Iterator[Problem]:
    """Yield anchor sampling from labels of the usual types, with and without a prediction."""
    for dtype in (torch.uint8, torch.int64):
        labels = torch.zeros(2, 4096, dtype=dtype)
        for prediction in (None, labels):
            name = f"sample_anchors {dtype} {'easy' if prediction is None else 'hard'}"
            yield (
                name,
                partial(
                    kernel("sample_anchors"),
                    labels,
                    prediction,
                    torch.zeros(2, 4096),
                    per_class=100,
                    total=1024,
                    min_pixels=100,
                    ignore_label=255,
                ),
            )


def contrast_problems(classes: Classes) -> Iterator[Problem]:
    """Yield the losses and their gradients at every feature length and precision that the table lists."""
    for problem in sorted(classes):
        bits, _, depth = problem.partition("_d")
        for precision in PRECISIONS[bits]:
            for name, launch in (("self", _self), ("bank", _bank), ("paired", _paired), ("patches", _patches)):
                yield f"{name} {precision} d{depth}", partial(launch, int(depth), precision)


def _differentiate(losses: Tensor) -> None:
    losses.sum().backward()


def _features(*shape: int, precision: str) -> Tensor:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "exact": torch.float32}[precision]
    return torch.zeros(shape, dtype=dtype, requires_grad=True)


def _self(depth: int, precision: str) -> None:
    """Pixel contrast of one set with itself, sorted, with a fixed maximum."""
    query, label = _features(4096, depth, precision=precision), torch.zeros(4096, dtype=torch.int64)
    losses, _ = kernel("supervised_contrast")(
        query, None, label, label, form="per_positive", exclude_self=True, normalize=True, **_options(precision)
    )
    _differentiate(losses)


def _bank(depth: int, precision: str) -> None:
    """SupCon against other keys, unsorted, with an online maximum."""
    query, key = _features(1000, depth, precision=precision), _features(2000, depth, precision=precision)
    losses, _ = kernel("supervised_contrast")(
        query,
        key,
        torch.zeros(1000, dtype=torch.uint8),
        torch.zeros(2000, dtype=torch.uint8),
        form="supcon",
        exclude_self=False,
        normalize=False,
        **_options(precision),
    )
    _differentiate(losses)


def _paired(depth: int, precision: str) -> None:
    """Temporal contrast with the same place of the next frame."""
    query, key = (_features(2, 1024, depth, precision=precision) for _ in range(2))
    losses, _ = kernel("paired_contrast")(
        query,
        key,
        torch.zeros(2, 1024, dtype=torch.int64),
        query_label=None,
        key_label=None,
        gate=None,
        normalize=True,
        **_options(precision),
    )
    _differentiate(losses)


def _patches(depth: int, precision: str) -> None:
    """Patch contrast with positives that are features, against keys of another label."""
    query, key, positive = (_features(1, 4096, depth, precision=precision) for _ in range(3))
    label = torch.zeros(1, 4096, dtype=torch.int64)
    losses, _ = kernel("paired_contrast")(
        query,
        key,
        positive,
        query_label=label,
        key_label=label,
        gate=torch.zeros(1, 4096, dtype=torch.bool),
        normalize=True,
        **_options(precision),
    )
    _differentiate(losses)


def _options(precision: str) -> dict[str, Any]:
    return {"temperature": 0.1, "ignore_label": 255, "precision": precision}


PROBLEMS: dict[str, Callable[[Classes], Iterator[Problem]]] = {
    "contrast": contrast_problems,
}
