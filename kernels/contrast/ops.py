"""The contrastive losses as `torch.library` operators, and the functions that dispatch runs in place of the references.

One forward and one backward operator serve the supervised and the paired contrast. They take no part in autocast, are
differentiable once, and hold no Python state, so that they can be compiled and captured in CUDA graphs.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from vidapt.kernels.contrast import launch_grad, reference, reference_paired
from vidapt.kernels.contrast.launch import (
    OPERAND_DTYPES,
    Settings,
    Side,
    contrast_losses,
    depth_of,
    prepare_side,
    prepare_skip,
)
from vidapt.kernels.contrast.operands import compute_dtype
from vidapt.kernels.tiles import on_device

# Below this many logits of a pair sorting by label costs more than it saves.
SORT_FROM = 2**23
# The second and third axis of a CUDA grid end here.
MOST_PAIRS = 65535

OPTIONS = "float temperature, str form, str skip, int ignore_label, bool normalize, str precision, bool sort"
SIDES = "Tensor query, Tensor? key, Tensor? positive, Tensor? query_label, Tensor? key_label"
SAVED = (
    "Tensor scalars, Tensor skipped, Tensor query_operand, Tensor query_sorted, Tensor query_order, Tensor query_start,"
    " Tensor key_operand, Tensor key_sorted, Tensor key_order, Tensor key_start"
)
NEEDED = "bool query_grad, bool key_grad, bool positive_grad"


class Saved(NamedTuple):
    """What the forward operator leaves for the backward one; tensors are empty where a side needs none."""

    scalars: Tensor
    skip: Tensor
    query_operand: Tensor
    query_sorted: Tensor
    query_order: Tensor
    query_start: Tensor
    key_operand: Tensor
    key_sorted: Tensor
    key_order: Tensor
    key_start: Tensor

    @property
    def query(self) -> tuple[Tensor, ...]:
        """Operand, sorted labels, order and start of the queries."""
        return self[2:6]

    @property
    def key(self) -> tuple[Tensor, ...]:
        """The same of the keys."""
        return self[6:10]


class Needed(NamedTuple):
    """Which gradients are wanted."""

    query: bool
    key: bool
    positive: bool


def saved_and_options(others: tuple[Any, ...]) -> tuple[Saved, Settings, Needed]:
    """Return the arguments of the backward operator behind the tensors of the caller."""
    saved, options = len(Saved._fields), len(Settings._fields)
    return Saved(*others[:saved]), Settings(*others[saved : saved + options]), Needed(*others[saved + options :])


LIBRARY = Library("vidapt", "FRAGMENT")
LIBRARY.define(f"contrast_forward({SIDES}, Tensor? gate, {OPTIONS}) -> ({', '.join(['Tensor'] * 12)})")
LIBRARY.define(f"contrast_backward(Tensor grad, {SIDES}, {SAVED}, {OPTIONS}, {NEEDED}) -> (Tensor, Tensor, Tensor)")


def supervised_contrast(
    query: Tensor,
    key: Tensor | None,
    query_label: Tensor,
    key_label: Tensor,
    *,
    temperature: float,
    form: str,
    exclude_self: bool,
    ignore_label: int,
    normalize: bool,
    precision: str | None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each query and whether it counts, (N,); the arguments are those of the reference."""
    keys = query if key is None else key
    if compute_dtype(query, keys) == torch.float64 or query.numel() == 0 or keys.numel() == 0:
        return reference.supervised_contrast(
            query, key, query_label, key_label, temperature=temperature, form=form, exclude_self=exclude_self,
            ignore_label=ignore_label, normalize=normalize, precision=precision,
        )  # fmt: skip
    symmetric = key is None and key_label is query_label
    labels = comparable(query_label, key_label)
    sort = query.shape[0] * keys.shape[0] >= SORT_FROM
    losses, counted, *_ = torch.ops.vidapt.contrast_forward(
        query[None], None if symmetric else keys[None], None, labels[0][None], None if symmetric else labels[1][None],
        None, temperature, form, "self" if exclude_self else "none", ignore_label, normalize,
        operand_precision(precision, normalize, query, keys), sort,
    )  # fmt: skip
    return losses[0], counted[0]


def paired_contrast(
    query: Tensor,
    key: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    query_label: Tensor | None,
    key_label: Tensor | None,
    gate: Tensor | None,
    ignore_label: int,
    normalize: bool,
    precision: str | None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each query and whether it counts, (P,N); the arguments are those of the reference."""
    features = positive.is_floating_point()
    tensors = (query, key, positive) if features else (query, key)
    beyond = query.shape[0] > MOST_PAIRS or query.numel() == 0 or key.numel() == 0
    if beyond or compute_dtype(*tensors) == torch.float64:
        return reference_paired.paired_contrast(
            query, key, positive, temperature=temperature, query_label=query_label, key_label=key_label, gate=gate,
            ignore_label=ignore_label, normalize=normalize, precision=precision,
        )  # fmt: skip
    labels: tuple[Tensor | None, Tensor | None] = (None, None)
    if query_label is not None and key_label is not None:
        labels = comparable(query_label, key_label)
    sort = query_label is not None and query.shape[1] * key.shape[1] >= SORT_FROM
    losses, counted, *_ = torch.ops.vidapt.contrast_forward(
        query, key, positive if features else positive.contiguous(), *labels,
        None if gate is None else gate.contiguous(), temperature, "paired", "none" if features else "index",
        ignore_label, normalize, operand_precision(precision, normalize, query, key), sort,
    )  # fmt: skip
    return losses, counted


def comparable(query_label: Tensor, key_label: Tensor) -> tuple[Tensor, Tensor]:
    """Return contiguous labels of one integer type, in which a negative ignore label stays what it is."""
    if query_label.dtype != key_label.dtype or query_label.dtype == torch.uint32:
        query_label, key_label = query_label.long(), key_label.long()
    return query_label.contiguous(), key_label.contiguous()


def operand_precision(precision: str | None, normalize: bool, query: Tensor, key: Tensor) -> str:
    """Return the precision of the operands: as asked, else that of half inputs, else fp16 for unit rows on a GPU."""
    if precision is not None:
        return precision
    if not query.is_cuda:
        return "exact"
    if query.dtype == key.dtype and query.dtype != torch.float32:
        return "fp16" if query.dtype == torch.float16 else "bf16"
    # Also for unit rows of different dtypes, such as a projection under autocast against a float32 bank.
    return "fp16" if normalize else "exact"


def contrast_forward(
    query: Tensor,
    key: Tensor | None,
    positive: Tensor | None,
    query_label: Tensor | None,
    key_label: Tensor | None,
    gate: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    """Return losses, counted and the ten tensors that the backward reads; without `key` the queries are the keys.

    `positive` is an index (P,N) for skip "index", else the features (P,N,D) of the positives or None.
    """
    settings = Settings(*options)
    with on_device(query):
        query_side, place = prepare_side(query, query_label, settings)
        key_side, key_place = (query_side, place) if key is None else prepare_side(key, key_label, settings)
        skip = prepare_skip(query_side, key_side.rows, key_place, positive, gate, settings)
        raw_positive = None if settings.skip == "index" else positive
        result = contrast_losses(query_side, key_side, skip, raw_positive, query.shape[-1], settings)
    query_saved = saved_side(query, query_side, settings)
    key_saved = [query.new_empty(0) for _ in query_saved] if key is None else saved_side(key, key_side, settings)
    return (*result, *query_saved, *key_saved)


def saved_side(raw: Tensor, side: Side, settings: Settings) -> list[Tensor]:
    """Return operand, sorted labels, order and start; empty where it would be a tensor of the caller's."""
    operand = raw.new_empty(0) if side.features is raw else side.features
    labels = side.labels if settings.sort and side.labels is not None else raw.new_empty(0)
    return [operand, labels, side.order, side.start]


def restored_side(raw: Tensor, labels: Tensor | None, saved: tuple[Tensor, ...], settings: Settings) -> Side:
    """Return the side of which `saved_side` kept what the caller's tensors lack."""
    operand, ordered, order, start = saved
    return Side(operand if operand.numel() else raw, ordered if settings.sort else labels, order, start)


def contrast_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor | None,
    positive: Tensor | None,
    query_label: Tensor | None,
    key_label: Tensor | None,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and positive features; empty tensors where they are not needed."""
    saved, settings, needed = saved_and_options(others)
    scalars, skip = saved.scalars, saved.skip
    grads = [query.new_empty(0) for _ in range(3)]
    with on_device(query):
        query_side = restored_side(query, query_label, saved.query, settings)
        if key is None:
            grads[0] = launch_grad.symmetric_gradient(grad, query, query_side, skip, scalars, settings)
            return grads[0], grads[1], grads[2]
        key_side = restored_side(key, key_label, saved.key, settings)
        raw_positive = None if settings.skip == "index" else positive
        if needed.query:
            grads[0] = launch_grad.query_gradient(
                grad, query, raw_positive, query_side, key_side, skip, scalars, settings
            )
        if needed.key:
            grads[1] = launch_grad.key_gradient(grad, key, query_side, key_side, skip, scalars, settings)
        if needed.positive and raw_positive is not None:
            grads[2] = launch_grad.positive_gradient(grad, query, raw_positive, query_side, scalars, settings)
    return grads[0], grads[1], grads[2]


def fake_forward(
    query: Tensor,
    key: Tensor | None,
    positive: Tensor | None,
    query_label: Tensor | None,
    key_label: Tensor | None,
    gate: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    """Return empty tensors of the shapes, dtypes and device of `contrast_forward`."""
    settings = Settings(*options)
    pairs, rows = query.shape[:2]
    losses = query.new_empty((pairs, rows), dtype=torch.float32)
    counted = query.new_empty((pairs, rows), dtype=torch.bool)
    scalars = query.new_empty((3, pairs, rows), dtype=torch.float32)
    skip = query.new_empty((pairs, rows), dtype=torch.int32)
    query_saved = fake_side(query, query_label, settings)
    key_saved = [query.new_empty(0) for _ in query_saved] if key is None else fake_side(key, key_label, settings)
    return (losses, counted, scalars, skip, *query_saved, *key_saved)


def fake_side(raw: Tensor, labels: Tensor | None, settings: Settings) -> list[Tensor]:
    """Return empty tensors like those of `saved_side`."""
    pairs, rows, length = raw.shape
    depth, dtype = depth_of(length), OPERAND_DTYPES[settings.precision]
    as_is = raw.dtype == dtype and length == depth and raw.is_contiguous()
    copied = settings.sort or settings.normalize or not as_is
    operand = raw.new_empty((pairs, rows, depth), dtype=dtype) if copied else raw.new_empty(0)
    if not settings.sort or labels is None:
        nothing = raw.new_empty(0, dtype=torch.int32)
        return [operand, raw.new_empty(0), nothing, raw.new_empty(0, dtype=torch.int32)]
    order = raw.new_empty((pairs, rows), dtype=torch.int32)
    return [operand, torch.empty_like(labels), order, raw.new_empty((pairs, 129), dtype=torch.int32)]


def fake_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor | None,
    positive: Tensor | None,
    query_label: Tensor | None,
    key_label: Tensor | None,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty tensors of the shapes, dtypes and device of `contrast_backward`."""
    _, settings, needed = saved_and_options(others)

    def like(raw: Tensor | None, wanted: bool) -> Tensor:
        return query.new_empty(0) if raw is None or not wanted else raw.new_empty(raw.shape)

    positive_grad = needed.positive and settings.skip != "index"
    return like(query, needed.query), like(key, needed.key), like(positive, positive_grad)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what the backward reads."""
    ctx.save_for_backward(*inputs[:5], *output[2:])
    ctx.options = inputs[6:]
    ctx.set_materialize_grads(False)


def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients of query, key and positive; only the losses are differentiable."""
    nothing = [None] * 13
    if grad is None:
        return tuple(nothing)
    needed = ctx.needs_input_grad[:3]
    grads = torch.ops.vidapt.contrast_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.options, *needed)
    return (*(each if wanted else None for each, wanted in zip(grads, needed, strict=True)), *nothing[3:])


def no_second_backward(ctx: Any, *_: Any) -> None:
    """Refuse to differentiate the gradients."""
    raise RuntimeError("contrast losses are differentiable once; their gradients have none of their own")


for device in ("CPU", "CUDA"):
    LIBRARY.impl("contrast_forward", contrast_forward, device)
    LIBRARY.impl("contrast_backward", contrast_backward, device)
torch.library.register_fake("vidapt::contrast_forward", fake_forward, lib=LIBRARY)
torch.library.register_fake("vidapt::contrast_backward", fake_backward, lib=LIBRARY)
torch.library.register_autograd("vidapt::contrast_forward", backward, setup_context=setup_context, lib=LIBRARY)
torch.library.register_autograd("vidapt::contrast_backward", no_second_backward, lib=LIBRARY)
