"""The cases of the contrastive losses: forms, shapes, number formats, options, labels and views."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from vidapt.kernels.bench.correctness_cases import Case, named, size
from vidapt.kernels.bench.correctness_problems import (
    IGNORE,
    Asked,
    Problem,
    Sides,
    case,
    paired,
    supervised,
    zero_case,
)

FORMS = ("per_positive", "supcon")
NEGATIVES = ("all", "different_label")
# From 2^23 logits on the rows are sorted by label. No tile divides any of these numbers.
SIZES, QUICK_SIZES = ((200, 333), (3000, 3100)), ((37, 70),)
DEPTHS, QUICK_DEPTHS = (128, 256, 64), (32,)
OTHER_DEPTHS = (96, 600, 17)
ODD_SHAPES = ((1, 1, 1), (1, 40, 3), (33, 1, 17), (16, 16, 16), (17, 50, 33), (129, 257, 65))
PAIRS = 3
FP16, BF16 = torch.float16, torch.bfloat16
NAMES = {FP16: "fp16", BF16: "bf16"}
# At the usual 0.1 even the plain form in bf16 leaves the limit of bf16: attraction and repulsion nearly cancel.
BF16_SUPCON_TEMPERATURE = 0.3


def inside(rows: Tensor) -> Tensor:
    """Return every other column of a larger matrix of NaN that holds the rows."""
    wide = rows.new_full((*rows.shape[:-2], rows.shape[-2] + 4, 2 * rows.shape[-1] + 3), torch.nan)
    return wide[..., 2:-2, 3::2].copy_(rows)


def plain(rows: Tensor) -> Tensor:
    """Return the rows as they are."""
    return rows


def turned(rows: Tensor) -> Tensor:
    """Return the rows as columns of memory."""
    return rows.mT.contiguous().mT


def expanded(rows: Tensor) -> Tensor:
    """Return the first row again and again, in the memory of one."""
    return rows[..., :1, :].expand(rows.shape)


def strided(labels: Tensor) -> Tensor:
    """Return labels with others between them in memory."""
    return torch.stack([labels, labels + 1], -1)[..., 0]


def viewed(view: Callable[[Tensor], Tensor], sides: Sides) -> Sides:
    """Return sides of which nothing is contiguous."""
    return Sides(view(sides.query), turned(sides.key), strided(sides.query_label), strided(sides.key_label))


def converted(query: torch.dtype, key: torch.dtype, view: Callable[[Tensor], Tensor], sides: Sides) -> Sides:
    """Return features of other types, in a view."""
    return sides._replace(query=view(sides.query.to(query)), key=view(sides.key.to(key)))


def typed(query: torch.dtype, key: torch.dtype, above: int, sides: Sides) -> Sides:
    """Return labels of other types, with `above` added to all but the ignored ones."""
    labels = (torch.where(label == IGNORE, label, label + above) for label in (sides.query_label, sides.key_label))
    return sides._replace(query_label=next(labels).to(query), key_label=next(labels).to(key))


def relabelled(label: Tensor, sides: Sides) -> Sides:
    """Return queries with labels of which the caller knows what must come out."""
    return sides._replace(query_label=label.to(sides.query_label))


def supervised_cases(precision: str, device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield both forms at the depths of the training step, in few rows and in enough to be sorted."""
    yield from _forms(device, QUICK_SIZES if quick else SIZES, QUICK_DEPTHS if quick else DEPTHS, precision)


def depth_cases(precision: str, device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield features that no tile is made for, and more of them than one holds."""
    yield from _forms(device, QUICK_SIZES if quick else SIZES, OTHER_DEPTHS, precision)


def _forms(
    device: torch.device, sizes: Iterable[tuple[int, int]], depths: Iterable[int], precision: str
) -> Iterator[Case]:
    for (queries, keys), depth, form in product(sizes, depths, FORMS):
        options: dict[str, Any] = {"form": form}
        if (form, precision) == ("supcon", "bf16"):
            options["temperature"] = BF16_SUPCON_TEMPERATURE
        yield _supervised(device, (queries, keys, depth), Asked(True, precision, precision), **options)


def paired_cases(precision: str, device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield positives as features and as places, with negatives by label or not, few and enough to be sorted."""
    axes = product(QUICK_SIZES if quick else SIZES, (False, True), NEGATIVES)
    for (queries, keys), as_features, negatives in axes:
        problem = PAIRS, queries, keys, 32 if quick else 128
        asked = Asked(True, precision, precision)
        yield _paired(device, problem, asked, as_features=as_features, negatives=negatives)


def self_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield queries against each other, normalised or not, exact and as a GPU chooses."""
    for count, normalize, form in product((40,) if quick else (500, 3000), (True, False), FORMS):
        asked = [Asked(normalize, "exact", "exact"), *([Asked()] if normalize else [])]
        for each in asked:
            temperature = 0.1 if normalize else 0.5
            problem = count, 32 if quick else 128
            yield _supervised(device, problem, each, form=form, temperature=temperature, exclude_self=True)


def bank_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield keys that are the queries and then a bank in fp16 that is not full; 0.01 needs the online maximum.

    Operands in fp16 would lose too much at 0.01, which therefore asks for exact ones.
    """
    queries, keys, filled = (20, 70, 50) if quick else (900, 3000, 2400)
    for depth, temperature in product((8, 24, 128), (0.1, 0.01)):
        asked = Asked(True, None if temperature == 0.1 else "exact")
        options = {"change": partial(_with_bank, filled), "exclude_self": True, "key_grad": False}
        yield _supervised(device, (queries, keys, depth), asked, temperature=temperature, **options)


def _with_bank(filled: int, sides: Sides) -> Sides:
    rows, count = sides.query.shape[0], sides.key.shape[0]
    key, key_label = sides.key.clone(), sides.key_label.clone()
    key[:rows], key_label[:rows] = sides.query, sides.query_label
    empty = torch.arange(count, device=key.device) >= filled
    return sides._replace(key=key.half(), key_label=torch.where(empty, IGNORE, key_label))


def label_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield labels without positives or negatives, whose loss is exactly 0, and labels of every type."""
    count = 60 if quick else 700
    nothing = {"all ignored": torch.full((count,), IGNORE), "all different": IGNORE + 1 + torch.arange(count)}
    for form, (text, label) in [
        *product(FORMS, nothing.items()), ("per_positive", ("one class", torch.zeros(count)))
    ]:  # fmt: skip
        change = partial(relabelled, label)
        options: dict[str, Any] = {"form": form, "change": change, "exclude_self": True}
        yield zero_case(named(text, form), partial(supervised, device, (count, 64), Asked(), **options))
    types = [(torch.uint8, torch.uint8, 0), (torch.int16, torch.int32, 300), (torch.int64, torch.int64, 2**40)]
    for query, key, above in types:
        axes, text = (count, count + 70, 64), named("labels", _short(query), _short(key), above=above)
        change = partial(typed, query, key, above)
        yield case(text, partial(supervised, device, axes, Asked(), change=change))


def half_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield features that are operands as they are (D=128, contiguous, not normalised), copied, or mixed with float32.

    Losses are summed: the gradients of a mean are too small for fp16.
    """
    axes = (50, 60, 32) if quick else (1200, 1300, 128)
    for dtype, normalize, view in product((FP16, BF16), (False, True), (plain, turned)):
        asked = Asked(normalize, None, NAMES[dtype])
        options: dict[str, Any] = {"reduction": "sum", "temperature": 0.1 if normalize else 1.0}
        for problem in (axes, (axes[0], axes[2])):
            text = named(NAMES[dtype], size(*problem), view.__name__, normalize=normalize)
            change = partial(converted, dtype, dtype, view)
            yield case(text, partial(supervised, device, problem, asked, change=change, **options))
        text = named(NAMES[dtype], "positives", size(1, *axes), view.__name__, normalize=normalize)
        yield case(text, partial(paired, device, (1, *axes), asked, change=change, as_features=True, **options))
    change = partial(converted, FP16, torch.float32, plain)
    text = named("fp16 queries, float32 keys", size(*axes))
    yield case(text, partial(supervised, device, axes, Asked(), change=change, reduction="sum"))


def option_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield every reduction with and without weights, detached keys, no normalisation, a low and a high temperature."""
    asked = Asked(True, "exact", "exact")
    queries, keys, depth = (30, 50, 16) if quick else (500, 700, 64)
    weights = {"weight=None": None, "weighted": torch.linspace(0, 1, queries, device=device)}
    for reduction, (text, weight), key_grad in product(("mean", "sum", "none"), weights.items(), (True, False)):
        options: dict[str, Any] = {"reduction": reduction, "key_grad": key_grad}
        build = partial(supervised, device, (queries, keys, depth), asked, weight=weight, **options)
        yield case(named("supervised", text, **options), build)
        weight = None if weight is None else weight.expand(PAIRS, -1)
        build = partial(paired, device, (PAIRS, queries, keys, depth), asked, weight=weight, **options)
        yield case(named("paired", text, **options), build)
    for normalize, temperature in ((False, 0.5), (True, 0.02), (True, 1.0)):
        asked = Asked(normalize, "exact", "exact")
        for form in FORMS:
            yield _supervised(device, (queries, keys, depth), asked, form=form, temperature=temperature)
        yield _paired(device, (PAIRS, queries, keys, depth), asked, as_features=True, temperature=temperature)


def view_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield shapes around the tiles, and features and labels that are not contiguous, between NaN."""
    asked = Asked(True, "exact", "exact")
    for axes in ODD_SHAPES:
        yield _supervised(device, axes, asked)
        yield _paired(device, (2, *axes), asked, negatives="different_label")
    axes = (37, 70, 33) if quick else (300, 410, 96)
    for view, form in zip((inside, turned, expanded), (*FORMS, FORMS[0]), strict=True):
        change = partial(viewed, view)
        text = named(view.__name__, size(*axes), form)
        yield case(text, partial(supervised, device, axes, asked, change=change, form=form))
        build: partial[Problem] = partial(paired, device, (2, *axes), asked, change=change, as_features=True)
        yield case(named("paired", text), partial(build, negatives="different_label"))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _supervised(device: torch.device, axes: tuple[int, ...], asked: Asked, **options: Any) -> Case:
    text = named(size(*axes), *asked[:2], **{name: value for name, value in options.items() if name != "change"})
    return case(text, partial(supervised, device, axes, asked, **options))


def _paired(device: torch.device, axes: tuple[int, int, int, int], asked: Asked, **options: Any) -> Case:
    return case(named("paired", size(*axes), *asked[:2], **options), partial(paired, device, axes, asked, **options))
