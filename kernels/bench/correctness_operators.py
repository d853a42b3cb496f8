"""The cases of the six operators under `torch.library.opcheck`: schema, autograd, fake tensors and tracing."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from vidapt.kernels import dispatch
from vidapt.kernels.bench.correctness_cases import Case, ours
from vidapt.kernels.bench.correctness_exact import CLASSES, IDS, clip
from vidapt.kernels.bench.correctness_problems import sides
from vidapt.kernels.bench.gates import Gate

Arguments = tuple[Any, ...]

ANCHORS = 9, 60, 5, 255  # per class, total, least pixels, ignored label
SAVED = slice(2, None)  # what the backward reads of what the forward returns
NEEDED = ((True, True, True), (True, False, False))


def operator_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield the operators with every kind of argument, or quickly with one; all problems are small."""
    kinds: dict[str, Mapping[str, Callable[[], Arguments]]] = {
        "paste_instances": _pastes(device),
        "paste_instances_": _pastes(device),
        "instance_stats": _statistics(device),
        "sample_anchors": _anchors(device),
        "contrast_forward": {text: partial(_forward, device, text) for text in contrast_arguments(device)},
        "contrast_backward": {
            f"{text} {needed}": partial(_backward, device, text, needed)
            for text, needed in product(contrast_arguments(device), NEEDED)
        },
    }
    for operator, builds in kinds.items():
        for text, build in list(builds.items())[: 1 if quick else None]:
            yield _checked(operator, text, build)


def _checked(operator: str, text: str, build: Callable[[], Arguments]) -> Case:
    """Return the case that passes where opcheck raises nothing."""
    text = f"{operator} {text}"

    def judge() -> Gate:
        for operation in dispatch.SHIPPED_KERNELS:
            dispatch.kernel(operation)  # defines its operators
        arguments = build()
        device = next(given.device for given in arguments if isinstance(given, Tensor))
        with ours(device):
            torch.library.opcheck(getattr(torch.ops.vidapt, operator).default, arguments)
        return Gate(text, "opcheck", 0.0, 0.0)

    return Case(text, judge)


def _pastes(device: torch.device) -> dict[str, Callable[[], Arguments]]:
    def arguments(shape: tuple[int, int], weighted: tuple[bool, bool], by_class: bool) -> Arguments:
        base, donor = (clip(torch.float32, shape, seed, device) for seed in (1, 2))
        weights = (each[3] if wanted else None for each, wanted in zip((base, donor), weighted, strict=True))
        chosen = [torch.arange(count, device=device).repeat(2, 1) % 2 == 1 for count in (IDS, CLASSES)]
        selection = (*chosen, torch.zeros(2, dtype=torch.int32, device=device)) if by_class else (chosen[0], None, None)
        return (*base[:3], next(weights), *donor[:3], next(weights), *selection)

    return {
        "without weights": partial(arguments, (7, 11), (False, False), True),
        "of a weighted clip": partial(arguments, (7, 11), (True, False), False),
        "of weighted clips": partial(arguments, (4, 16), (True, True), True),
        "of nothing": partial(arguments, (0, 4), (True, True), True),
    }


def _statistics(device: torch.device) -> dict[str, Callable[[], Arguments]]:
    def arguments(shape: tuple[int, int], count: int) -> Arguments:
        return clip(torch.uint8, shape, 1, device)[2], count

    kinds = {"of ids": ((5, 9), 4), "of no ids": ((5, 9), 0), "of nothing": ((0, 3), 4)}
    return {text: partial(arguments, *kind) for text, kind in kinds.items()}


def _anchors(device: torch.device) -> dict[str, Callable[[], Arguments]]:
    def arguments(shape: tuple[int, int], predicted: bool) -> Arguments:
        labels = torch.arange(shape[0] * shape[1], device=device).view(shape) % 3
        noise = torch.rand(shape, generator=torch.Generator(device).manual_seed(1), device=device)
        return labels, labels.flip(-1) if predicted else None, noise, *ANCHORS

    return {
        "without prediction": partial(arguments, (2, 40), False),
        "with one": partial(arguments, (2, 40), True),
        "of nothing": partial(arguments, (0, 4), True),
    }


def contrast_arguments(device: torch.device) -> dict[str, Arguments]:
    """Return small problems of `vidapt::contrast_forward`, by what is special about them."""
    query, key, query_label, key_label = sides(device, 1, 5, 7, 16)
    given = sides(device, 2, 5, 7, 3)
    labels = given.query_label, given.key_label
    places, gate = torch.arange(10, device=device).view(2, 5) % 7, torch.ones(2, 5, dtype=torch.bool, device=device)
    rows = sides(device, 2, 5, 7, 3, seed=2).query
    one, other = (query, key, None, query_label, key_label, None), (given.query, given.key)
    return {
        "symmetric": (query, None, None, query_label, None, None, 0.1, "per_positive", "self", 255, True, "fp16", True),
        "sorted": (*one, 0.1, "supcon", "none", 255, True, "exact", True),
        "without copies": (*one, 1.0, "supcon", "none", 3, False, "exact", False),
        "places": (*other, places, *labels, gate, 0.5, "paired", "index", 255, False, "exact", True),
        "rows": (*other, rows, None, None, None, 0.5, "paired", "none", 255, True, "fp16", False),
    }


def _forward(device: torch.device, text: str) -> Arguments:
    return tuple(
        given.requires_grad_() if isinstance(given, Tensor) and given.is_floating_point() else given
        for given in contrast_arguments(device)[text]
    )


def _backward(device: torch.device, text: str, needed: tuple[bool, bool, bool]) -> Arguments:
    given = contrast_arguments(device)[text]
    saved = torch.ops.vidapt.contrast_forward(*given)[SAVED]
    upstream = torch.rand(given[0].shape[:2], generator=torch.Generator(device).manual_seed(1), device=device)
    return (upstream, *given[:5], *saved, *given[6:], needed[0], needed[1] and given[1] is not None, needed[2])
