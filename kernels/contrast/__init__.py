"""Contrastive losses over pixels and time, and the sampling of their anchors, in linear memory.

s_ij = <q_i, k_j> / temperature throughout. All losses are float32 (float64 for float64 inputs), differentiable once
with respect to the features, never with respect to weights, gates or the temperature, and the same under autocast. A
query that does not count gets a gradient of exactly 0.
"""

import torch
from torch import Tensor

from vidapt.kernels.contrast import checks, reference, reference_anchors, reference_paired
from vidapt.kernels.contrast.operands import reduce_losses
from vidapt.kernels.dispatch import implementation


def supervised_contrast(
    query: Tensor,
    key: Tensor,
    query_label: Tensor,
    key_label: Tensor,
    *,
    temperature: float,
    form: str = "per_positive",
    exclude_self: bool = False,
    ignore_label: int = 255,
    weight: Tensor | None = None,
    key_grad: bool = True,
    normalize: bool = False,
    precision: str | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Pull each query to the keys of its label and push it from the keys of every other label.

    P_i are the keys of the query's label, N_i those of another label that is not ignored.

    - `"per_positive"`: loss_i = mean over P_i of -log(e^s_ij / (e^s_ij + sum over N_i of e^s_ik)); 0 without negatives.
      The pixel contrast of ContrastiveSeg (Wang et al. 2021) and PiPa (Chen et al. 2023).
    - `"supcon"`: loss_i = mean over P_i of -log(e^s_ij / sum over P_i and N_i of e^s_ik).
      Supervised Contrastive Learning (Khosla et al. 2020), equation 2.

    Ignored queries and queries without a positive do not count.

    Args:
        query: (N,D) floating features; `key is query` computes the self-contrast with one gradient buffer, and with
            `key_label is query_label` on a GPU from one tile of similarities for both sides.
        key: (M,D) floating features.
        query_label: (N,) of any integer type.
        key_label: (M,) of any integer type; rows with the ignore label (such as unfilled bank rows) take no part.
        temperature: above 0.
        form: `"per_positive"` or `"supcon"`.
        exclude_self: key i is query i for i < N, and neither its positive nor its negative; further keys are bank rows.
        ignore_label: label of pixels that take no part.
        weight: (N,) floating weight of each query in the reduction.
        key_grad: False sends no gradient to the keys.
        normalize: divide query and key by max(their L2 norm, 1e-6) first, in at least float32, gradient included.
        precision: None, `"exact"`, `"fp16"` or `"bf16"` operands of the similarity; the reference is always exact.
        reduction: `"mean"` = sum of w_i loss_i over sum of w_i of the counted queries, 0 if none counts; `"sum"` of w_i
            loss_i; `"none"` = (N,) unweighted, 0 where not counted.

    Raises:
        ValueError: shapes or devices disagree, M < N with `exclude_self`, or an option is unknown.
        TypeError: features or weight are not floating, labels not integer, temperature not a number.
    """
    checks.check_supervised(query, key, query_label, key_label, weight)
    checks.check_options(temperature, precision, reduction)
    checks.check_choice("form", form, ("per_positive", "supcon"))
    if exclude_self and key.shape[0] < query.shape[0]:
        raise ValueError(f"exclude_self needs the {query.shape[0]} queries as first keys, got {key.shape[0]} keys")
    itself = key is query and key_grad
    function = implementation("supervised_contrast", reference.supervised_contrast, query)
    with torch.autocast(query.device.type, enabled=False):
        losses, counted = function(
            query,
            None if itself else key if key_grad else key.detach(),
            query_label,
            key_label,
            temperature=float(temperature),
            form=form,
            exclude_self=exclude_self,
            ignore_label=ignore_label,
            normalize=normalize,
            precision=precision,
        )
        return reduce_losses(losses, counted, weight, reduction)


def paired_contrast(
    query: Tensor,
    key: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    query_label: Tensor | None = None,
    key_label: Tensor | None = None,
    negatives: str = "all",
    gate: Tensor | None = None,
    ignore_label: int = 255,
    weight: Tensor | None = None,
    key_grad: bool = True,
    normalize: bool = False,
    precision: str | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Pull each query to its one positive and push it from the other keys, for P pairs of frames at once.

    loss_i = -log(e^s_ip / (e^s_ip + sum over N_i of e^s_ik)), 0 without negatives: InfoNCE (van den Oord et al. 2018).
    Serves temporal contrast (the same or the flow-warped place in the neighbouring frame), identity contrast (the same
    track) and patch contrast (the overlap of two crops).

    Args:
        query: (P,N,D) floating features.
        key: (P,M,D) floating features.
        positive: (P,N) integer index of the positive key, where -1 and everything outside 0..M-1 mean none; or (P,N,D)
            floating features of the positives, which get a gradient and leave every key a candidate negative.
        temperature: above 0.
        query_label: (P,N) of any integer type, needed for `"different_label"`.
        key_label: (P,M) of any integer type, needed for `"different_label"`.
        negatives: N_i = `"all"` keys but p (labels are not read), or the keys but p of a `"different_label"` that is
            not ignored; the latter drops the queries whose own label is ignored. p is the positive whatever its label.
        gate: (P,N) bool; False drops a query.
        ignore_label: label of pixels that take no part in `"different_label"`.
        weight: (P,N) floating weight of each query in the reduction.
        key_grad: False sends no gradient to the keys; positives given as features keep theirs.
        normalize: divide query, key and positives by max(their L2 norm, 1e-6) first, gradient included.
        precision: None, `"exact"`, `"fp16"` or `"bf16"` operands of the similarity; the reference is always exact.
        reduction: one `"mean"` over the counted queries of all pairs, `"sum"` or `"none"` = (P,N), as in
            `supervised_contrast`.

    Raises:
        ValueError: shapes or devices disagree, labels are missing, or an option is unknown.
        TypeError: features or weight are not floating, labels not integer, gate not bool, temperature not a number.
    """
    checks.check_paired(query, key, positive, gate, weight)
    checks.check_options(temperature, precision, reduction)
    checks.check_choice("negatives", negatives, ("all", "different_label"))
    by_label = negatives == "different_label"
    if by_label:
        checks.check_pair_labels(query, key, query_label, key_label)
    function = implementation("paired_contrast", reference_paired.paired_contrast, query)
    with torch.autocast(query.device.type, enabled=False):
        losses, counted = function(
            query,
            key if key_grad else key.detach(),
            positive,
            temperature=float(temperature),
            query_label=query_label if by_label else None,
            key_label=key_label if by_label else None,
            gate=gate,
            ignore_label=ignore_label,
            normalize=normalize,
            precision=precision,
        )
        return reduce_losses(losses, counted, weight, reduction)


def sample_anchors(
    labels: Tensor,
    prediction: Tensor | None = None,
    *,
    per_class: int,
    total: int,
    min_pixels: int = 100,
    ignore_label: int = 255,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw class-balanced anchor pixels, half of them hard ones, without loops or host synchronisation.

    A group is a class of one image with more than `min_pixels` pixels. Each gives n = min(total // groups in the batch,
    per_class) anchors: n // 2 hard (prediction differs from label) and the rest easy; what one kind lacks comes from
    the other. Without a prediction all pixels are easy. The anchor sampling of ContrastiveSeg (Wang et al. 2021).

    Args:
        labels: (B,L) of any integer type, classes 0..255.
        prediction: (B,L) of any integer type, or None.
        per_class: most anchors of a group, at least 0.
        total: length of the result, at least 0.
        min_pixels: pixels that a group must exceed.
        ignore_label: class that is never drawn.
        generator: source of the one `torch.rand(B, L)` that decides which pixels are drawn.

    Returns:
        indices (total,) int64 into the B·L pixels, ordered by image and class, and valid (total,) bool, true ones
        first; where it is false the index is 0.

    Raises:
        ValueError: shapes disagree or a number is negative.
        TypeError: labels or prediction are not integer.
    """
    checks.check_anchor_inputs(labels, prediction, per_class, total, min_pixels)
    noise = torch.rand(labels.shape, generator=generator, device=labels.device)
    function = implementation("sample_anchors", reference_anchors.sample_anchors, labels)
    return function(
        labels,
        prediction,
        noise,
        per_class=per_class,
        total=total,
        min_pixels=min_pixels,
        ignore_label=ignore_label,
    )
