"""Checks of the arguments of the contrastive operations; each raises with one line that says what is allowed."""

import math

import torch
from torch import Tensor

PRECISIONS = (None, "exact", "fp16", "bf16")
REDUCTIONS = ("mean", "sum", "none")


def check_supervised(query: Tensor, key: Tensor, query_label: Tensor, key_label: Tensor, weight: Tensor | None) -> None:
    """Check the tensors of `supervised_contrast`."""
    check_features("query", query, 2, query)
    check_features("key", key, 2, query)
    check_labels("query_label", query_label, (query.shape[0],), query)
    check_labels("key_label", key_label, (key.shape[0],), query)
    check_weight(weight, (query.shape[0],), query)


def check_paired(query: Tensor, key: Tensor, positive: Tensor, gate: Tensor | None, weight: Tensor | None) -> None:
    """Check the tensors of `paired_contrast` but its labels."""
    check_features("query", query, 3, query)
    check_features("key", key, 3, query)
    if key.shape[0] != query.shape[0]:
        raise ValueError(f"query and key must have the same pairs (P,...), got {query.shape[0]} and {key.shape[0]}")
    places = tuple(query.shape[:2])
    if positive.is_floating_point():
        check_place("positive", positive, tuple(query.shape), query)
    else:
        check_labels("positive", positive, places, query)
    if gate is not None:
        if gate.dtype != torch.bool:
            raise TypeError(f"gate must be bool, got {gate.dtype}")
        check_place("gate", gate, places, query)
    check_weight(weight, places, query)


def check_pair_labels(query: Tensor, key: Tensor, query_label: Tensor | None, key_label: Tensor | None) -> None:
    """Check that both labels of `paired_contrast` are there."""
    if query_label is None or key_label is None:
        raise ValueError('negatives="different_label" needs query_label (P,N) and key_label (P,M)')
    check_labels("query_label", query_label, tuple(query.shape[:2]), query)
    check_labels("key_label", key_label, tuple(key.shape[:2]), query)


def check_anchor_inputs(labels: Tensor, prediction: Tensor | None, per_class: int, total: int, min_pixels: int) -> None:
    """Check the arguments of `sample_anchors`."""
    if labels.ndim != 2:
        raise ValueError(f"labels must be (B,L), got shape {tuple(labels.shape)}")
    check_labels("labels", labels, tuple(labels.shape), labels)
    if prediction is not None:
        check_labels("prediction", prediction, tuple(labels.shape), labels)
    for name, value in (("per_class", per_class), ("total", total), ("min_pixels", min_pixels)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")


def check_options(temperature: float, precision: str | None, reduction: str) -> None:
    """Check the options that both losses share."""
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a number, got {type(temperature).__name__}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be finite and above 0, got {temperature}")
    check_choice("precision", precision, PRECISIONS)
    check_choice("reduction", reduction, REDUCTIONS)


def check_choice(name: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def check_features(name: str, tensor: Tensor, axes: int, query: Tensor) -> None:
    """Raise unless `tensor` is floating, has that many axes and the feature length and device of `query`."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating, got {tensor.dtype}")
    if tensor.ndim != axes:
        raise ValueError(f"{name} must have {axes} axes, got shape {tuple(tensor.shape)}")
    check_place(name, tensor, (*tensor.shape[:-1], query.shape[-1]), query)


def check_labels(name: str, tensor: Tensor, shape: tuple[int, ...], query: Tensor) -> None:
    """Raise unless `tensor` is of an integer type, has that shape and the device of `query`."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be of an integer type, got {tensor.dtype}")
    check_place(name, tensor, shape, query)


def check_weight(weight: Tensor | None, shape: tuple[int, ...], query: Tensor) -> None:
    """Raise unless `weight` is None or floating with that shape and the device of `query`."""
    if weight is not None:
        if not weight.is_floating_point():
            raise TypeError(f"weight must be floating, got {weight.dtype}")
        check_place("weight", weight, shape, query)


def check_place(name: str, tensor: Tensor, shape: tuple[int, ...], query: Tensor) -> None:
    """Raise unless `tensor` has that shape and the device of `query`."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    if tensor.device != query.device:
        raise ValueError(f"{name} must be on {query.device} like the other inputs, got {tensor.device}")
