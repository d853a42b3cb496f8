"""The kernels on a GPU, where `make test-all` finds one: what neither the interpreter nor the compiler shows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vidapt.kernels.contrast import paired_contrast, sample_anchors, supervised_contrast
from vidapt.kernels.paste import instance_stats, paste_instances

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
FROBENIUS = {"exact": 1e-5, "fp16": 1e-3, "bf16": 5e-3}
LOSS = {"exact": 2e-6, "fp16": 1e-4, "bf16": 1e-3}
# From 2^23 logits on the rows are sorted by label.
SIZES = [(200, 333), (3000, 3100)]

Loss = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded inputs, and kernels by default."""
    monkeypatch.delenv("VIDAPT_KERNELS", raising=False)
    torch.manual_seed(0)


def clustered(*shape: int, classes: int = 19) -> tuple[Tensor, Tensor]:
    """Features (..., D) around the centre of their class, not normalised, and labels (...) with some ignored."""
    label = torch.randint(0, classes, shape[:-1], device=DEVICE)
    centres = torch.randn(classes, shape[-1], device=DEVICE)
    features = centres[label] + torch.randn(shape, device=DEVICE)
    return features, torch.where(torch.rand(shape[:-1], device=DEVICE) < 0.1, 255, label)


def gradients(loss: Loss, *features: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradients with respect to the features, in float64."""
    leaves = [each.detach().clone().requires_grad_() for each in features]
    value = loss(*leaves)
    value.backward()
    return value.detach().double(), [leaf.grad.double() for leaf in leaves if leaf.grad is not None]


def assert_right(loss: Loss, features: tuple[Tensor, ...], precision: str) -> None:
    """Loss and gradients lie within the limits of `precision` of the reference in float64."""
    truth, expected = gradients(loss, *(each.double() for each in features))
    value, given = gradients(loss, *features)
    assert abs(value - truth) <= LOSS[precision] * abs(truth)
    for one, other in zip(given, expected, strict=True):
        assert (one - other).norm() <= FROBENIUS[precision] * other.norm()


@pytest.mark.parametrize("precision", ["exact", "fp16", "bf16"])
@pytest.mark.parametrize("form", ["per_positive", "supcon"])
@pytest.mark.parametrize("depth", [64, 96, 128, 256, 600])
@pytest.mark.parametrize("size", SIZES)
def test_supervised(size: tuple[int, int], depth: int, form: str, precision: str) -> None:
    query, query_label = clustered(size[0], depth)
    key, key_label = clustered(size[1], depth)

    def loss(query: Tensor, key: Tensor) -> Tensor:
        options: dict[str, Any] = {"temperature": 0.1, "form": form, "normalize": True, "precision": precision}
        return supervised_contrast(query, key, query_label, key_label, **options)

    assert_right(loss, (query, key), precision)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rows", [500, 3000])
def test_self_contrast(rows: int, normalize: bool) -> None:
    features, label = clustered(rows, 128)
    features *= 1 if normalize else 0.1

    def loss(query: Tensor) -> Tensor:
        options: dict[str, Any] = {"temperature": 0.1, "exclude_self": True, "normalize": normalize}
        return supervised_contrast(query, query, label, label, precision="exact", **options)

    assert_right(loss, (features,), "exact")


@pytest.mark.parametrize("precision", ["exact", "fp16", "bf16"])
@pytest.mark.parametrize("negatives", ["all", "different_label"])
@pytest.mark.parametrize("as_features", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_paired(size: tuple[int, int], as_features: bool, negatives: str, precision: str) -> None:
    query, query_label = clustered(3, size[0], 128)
    key, key_label = clustered(3, size[1], 128)
    positive = clustered(3, size[0], 128)[0] if as_features else torch.randint(-1, size[1], (3, size[0]), device=DEVICE)
    gate = torch.rand(3, size[0], device=DEVICE) < 0.8

    def loss(query: Tensor, key: Tensor, *positives: Tensor) -> Tensor:
        labels = {"query_label": query_label, "key_label": key_label, "negatives": negatives, "gate": gate}
        options: dict[str, Any] = {"temperature": 0.1, "normalize": True, "precision": precision, **labels}
        return paired_contrast(query, key, *(positives or (positive,)), **options)

    assert_right(loss, (query, key, positive) if as_features else (query, key), precision)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("normalize", [False, True])
def test_half_features_are_their_own_operands(dtype: torch.dtype, normalize: bool) -> None:
    """Not normalised and at D=128 they are read as they are; strided ones are copied."""
    features, label = clustered(1200, 128)
    features = (features * (1 if normalize else 0.1)).to(dtype)
    precision = "fp16" if dtype == torch.float16 else "bf16"
    for given in (features, features.T.contiguous().T):

        def loss(query: Tensor) -> Tensor:
            options: dict[str, Any] = {"temperature": 0.1, "exclude_self": True, "normalize": normalize}
            return supervised_contrast(query, query, label, label, **options)

        assert_right(loss, (given,), precision)


@pytest.mark.parametrize("depth", [8, 24, 128])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_a_bank_of_half_precision_with_unfilled_rows(depth: int, temperature: float) -> None:
    """Keys are the queries and then the bank; 0.01 needs the online maximum, and exact operands for the same limits."""
    query, label = clustered(900, depth)
    bank, bank_label = clustered(2100, depth)
    key = torch.cat([query, bank]).half()
    key_label = torch.cat([label, torch.where(torch.arange(2100, device=DEVICE) < 1500, bank_label, 255)])

    def loss(query: Tensor) -> Tensor:
        precision = None if temperature == 0.1 else "exact"
        options: dict[str, Any] = {"exclude_self": True, "normalize": True, "key_grad": False, "precision": precision}
        return supervised_contrast(query, key, label, key_label, temperature=temperature, **options)

    assert_right(loss, (query,), "fp16")


@pytest.mark.parametrize("labels", ["one class", "all ignored", "all different"])
def test_labels_without_negatives_or_positives(labels: str) -> None:
    features, _ = clustered(700, 64)
    label = {"one class": torch.zeros(700), "all ignored": torch.full((700,), 255), "all different": torch.arange(700)}
    value, (grad,) = gradients(lambda query: self_contrast(query, label[labels].long().to(DEVICE)), features)
    assert value == 0
    assert torch.all(grad == 0)


def self_contrast(features: Tensor, label: Tensor) -> Tensor:
    return supervised_contrast(features, features, label, label, temperature=0.1, exclude_self=True, normalize=True)


def test_two_runs_agree_to_the_last_bit() -> None:
    features, label = clustered(4000, 128)
    first, second = (gradients(lambda query: self_contrast(query, label), features) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1][0], second[1][0])


def paste_inputs(height: int = 96, width: int = 160) -> tuple[Tensor, ...]:
    shape = (2, 3, height, width)
    image, donor_image = torch.rand(2, *shape[:2], 3, *shape[2:], device=DEVICE)
    semantic, donor_semantic = torch.randint(0, 19, (2, *shape), device=DEVICE, dtype=torch.uint8)
    blocks = torch.randint(0, 9, (2, 2, 3, height // 16, width // 16), device=DEVICE, dtype=torch.int32)
    ids, donor_ids = blocks.repeat_interleave(16, -2).repeat_interleave(16, -1)
    return image, semantic, ids, donor_image, donor_semantic, donor_ids


def test_nothing_waits_for_the_gpu() -> None:
    features, label = clustered(3000, 128)
    positive = torch.arange(3000, device=DEVICE)[None]
    selected = torch.rand(2, 9, device=DEVICE) < 0.5
    inputs = paste_inputs()

    def everything() -> None:
        gradients(lambda query: self_contrast(query, label), features)
        gradients(
            lambda query, key: paired_contrast(query, key, positive, temperature=0.1), features[None], features[None]
        )
        sample_anchors(label[None], per_class=20, total=200, min_pixels=10)
        paste_instances(*inputs, selected)
        instance_stats(inputs[2], 8)

    everything()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            label.sum().item()
        everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("rows", [1024, 3000])
def test_a_cuda_graph_replays_the_step(rows: int) -> None:
    """Few rows as they come, and enough of them to be sorted."""
    features, label = clustered(rows, 256)
    leaf = features.clone().requires_grad_()

    def step() -> Tensor:
        leaf.grad = None
        loss = self_contrast(leaf, label)
        loss.backward()
        return loss

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    with torch.no_grad():
        leaf.copy_(clustered(rows, 256)[0])
    graph.replay()
    expected, (grad,) = gradients(lambda query: self_contrast(query, label), leaf)
    assert torch.equal(loss.double(), expected)
    assert torch.equal(leaf.grad.double(), grad)


def test_compiles_without_a_break() -> None:
    features, label = clustered(3000, 128)
    compiled = torch.compile(self_contrast, fullgraph=True)
    expected, (grad,) = gradients(lambda query: self_contrast(query, label), features)
    value, (given,) = gradients(lambda query: compiled(query, label), features)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(given, grad)


def test_autocast_changes_nothing() -> None:
    features, label = clustered(1000, 128)
    expected = self_contrast(features, label)
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(self_contrast(features, label), expected)


def test_memory_grows_with_the_rows() -> None:
    """One fp16 copy of the features, row vectors and 8 MiB beside the gradient; the matrix would take 1 GiB."""
    features, label = clustered(16384, 128)
    leaf = features.requires_grad_()
    self_contrast(leaf, label).backward()
    leaf.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    self_contrast(leaf, label).backward()
    extra = torch.cuda.max_memory_allocated() - before
    gradient, operand, vector = features.nbytes, features.nbytes // 2, 4 * 16384
    assert extra <= 1.1 * (gradient + 20 * vector) + operand + 8 * 2**20


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("crop", [(96, 160), (48, 112), (33, 101)])
def test_paste_is_the_reference_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, crop: tuple[int, int], inplace: bool, dtype: torch.dtype
) -> None:
    inputs = [each[..., : crop[0], : crop[1]].clone() for each in paste_inputs()]
    inputs[0], inputs[3] = ((255 * each).to(dtype) for each in (inputs[0], inputs[3]))
    weights = torch.rand(2, *inputs[1].shape, device=DEVICE)
    selected, classes = torch.rand(2, 9, device=DEVICE) < 0.5, torch.rand(2, 19, device=DEVICE) < 0.2
    results = []
    for choice in ("reference", "triton"):
        monkeypatch.setenv("VIDAPT_KERNELS", choice)
        copies = [each.clone() for each in inputs]
        weight, donor_weight = weights.clone()
        options: dict[str, Any] = {"selected_class": classes, "weight": weight, "donor_weight": donor_weight}
        results.append(paste_instances(*copies, selected, inplace=inplace, **options))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_stats_and_anchors_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = paste_inputs()[2]
    labels = torch.randint(0, 19, (2, 65536), device=DEVICE, dtype=torch.uint8)
    prediction = torch.where(torch.rand(2, 65536, device=DEVICE) < 0.3, 0, labels)
    stats, anchors = [], []
    for choice in ("reference", "triton"):
        monkeypatch.setenv("VIDAPT_KERNELS", choice)
        stats.append(instance_stats(ids, 8))
        generator = torch.Generator(DEVICE).manual_seed(1)
        anchors.append(sample_anchors(labels, prediction, per_class=50, total=1024, generator=generator))
    for one, other in [*zip(*stats, strict=True), *zip(*anchors, strict=True)]:
        assert torch.equal(one, other)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_tensors_on_another_gpu() -> None:
    features, label = clustered(500, 64)
    expected = self_contrast(features, label)
    there = self_contrast(features.to("cuda:1"), label.to("cuda:1"))
    torch.testing.assert_close(there.to(DEVICE), expected)
