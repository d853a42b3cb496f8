"""The paired contrast against loops over pairs and queries in float64, its gradients, edge cases and memory."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.plain_contrast import IGNORE
from tests.kernels.plain_contrast import paired_problem as problem
from vidapt.kernels.contrast import blocks, paired_contrast


def loss_by_loops(
    query: Tensor,
    key: Tensor,
    positive: Tensor,
    /,
    *,
    temperature: float,
    query_label: Tensor | None = None,
    key_label: Tensor | None = None,
    negatives: str = "all",
    gate: Tensor | None = None,
    weight: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
) -> Tensor:
    indexed = not positive.is_floating_point()
    query, key = query.double(), key.double()
    if normalize:
        query, key = (rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-6) for rows in (query, key))
        positive = positive if indexed else positive / positive.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    losses, total, norm = [], query.sum() * 0, 0.0
    for p in range(query.shape[0]):
        for i in range(query.shape[1]):
            place = int(positive[p, i]) if indexed else -1
            exists = (place >= 0) if indexed else True
            exists = exists and (gate is None or bool(gate[p, i]))
            rest = [j for j in range(key.shape[1]) if j != place]
            if negatives == "different_label":
                assert query_label is not None
                assert key_label is not None
                own = int(query_label[p, i])
                exists = exists and own != IGNORE
                rest = [j for j in rest if int(key_label[p, j]) not in (own, IGNORE)]
            if not exists:
                losses.append(query.sum() * 0)
                continue
            target = (query[p, i] @ (key[p, place] if indexed else positive[p, i].double()) / temperature)[None]
            loss = torch.logsumexp(torch.cat([target, key[p, rest] @ query[p, i] / temperature]), 0) - target[0]
            losses.append(loss)
            share = 1.0 if weight is None else float(weight[p, i])
            total, norm = total + share * loss, norm + share
    if reduction == "none":
        return torch.stack(losses).view(query.shape[:2]) if losses else query.sum(-1)
    return total if reduction == "sum" else total / (norm or 1)


def select(data: dict[str, Tensor], positive: str, *names: str) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
    return (data["query"], data["key"], data[positive]), {name: data[name] for name in names}


def grads(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(inputs, found, strict=True)]


@pytest.fixture(params=["one block", "many blocks"])
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "many blocks":
        monkeypatch.setattr(blocks, "CPU_BLOCK_ELEMENTS", 24)
        monkeypatch.setattr(blocks, "MIN_ROWS", 3)
    return request.param


@pytest.mark.parametrize("positive", ["index", "rows"])
@pytest.mark.parametrize("negatives", ["all", "different_label"])
@pytest.mark.parametrize(("normalize", "temperature"), [(False, 0.7), (True, 0.1), (True, 0.01)])
def test_value_and_gradient_equal_the_loop(
    block_size: str, positive: str, negatives: str, normalize: bool, temperature: float
) -> None:
    data = problem(3, 7, 10)
    tensors, extra = select(data, positive, "gate", "weight", "query_label", "key_label")
    inputs = [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]
    options: dict[str, Any] = {"temperature": temperature, "negatives": negatives, "normalize": normalize}
    for reduction in ("none", "sum", "mean"):
        actual = paired_contrast(*tensors, **extra, **options, reduction=reduction)
        expected = loss_by_loops(*tensors, **extra, **options, reduction=reduction)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    assert actual > 0
    for one, other in zip(grads(actual, *inputs), grads(expected, *inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("positive", ["index", "rows"])
@pytest.mark.parametrize("negatives", ["all", "different_label"])
@pytest.mark.parametrize("normalize", [False, True])
def test_gradcheck(block_size: str, positive: str, negatives: str, normalize: bool) -> None:
    tensors, extra = select(problem(2, 4, 5), positive, "gate", "query_label", "key_label")
    options: dict[str, Any] = {"temperature": 0.5, "negatives": negatives, "normalize": normalize, "reduction": "none"}

    def loss(query: Tensor, key: Tensor, rows: Tensor) -> Tensor:
        return paired_contrast(query, key, rows, **extra, **options)

    inputs = [tensor.requires_grad_() if tensor.is_floating_point() else tensor for tensor in tensors]
    assert torch.autograd.gradcheck(loss, inputs)


def test_all_negatives_read_no_labels() -> None:
    tensors, _ = select(problem(2, 4, 5), "index")
    expected = paired_contrast(*tensors, temperature=0.5)
    labels = {"query_label": torch.full((2, 4), IGNORE), "key_label": torch.full((2, 5), IGNORE)}
    assert expected > 0
    assert torch.equal(paired_contrast(*tensors, temperature=0.5, **labels), expected)


def test_the_positive_is_never_a_negative() -> None:
    query = torch.randn(1, 1, 4, dtype=torch.float64)
    key = torch.randn(1, 3, 4, dtype=torch.float64)
    labels = {"query_label": torch.tensor([[0]]), "key_label": torch.tensor([[1, 0, IGNORE]])}
    for negatives in ("all", "different_label"):
        loss = paired_contrast(
            query,
            key[:, :1],
            torch.tensor([[0]]),
            temperature=0.5,
            negatives=negatives,
            query_label=labels["query_label"],
            key_label=labels["key_label"][:, :1],
        )
        assert loss.item() == 0
    by_label = paired_contrast(query, key, torch.tensor([[1]]), temperature=0.5, negatives="different_label", **labels)
    score = (key @ query[0, 0])[0] / 0.5
    torch.testing.assert_close(by_label, torch.logsumexp(score[:2], 0) - score[1])


def test_dropped_queries_get_gradient_zero() -> None:
    tensors, extra = select(problem(2, 6, 5, dtype=torch.float32), "index", "gate")
    extra["gate"] = torch.arange(6).expand(2, 6) > 0
    tensors[2][:, 1], tensors[2][:, 2] = -1, 3
    query = tensors[0].requires_grad_()
    (gradient,) = grads(paired_contrast(*tensors, **extra, temperature=0.1, normalize=True), query)
    assert not gradient[:, :2].any()
    assert gradient[:, 2].any()


def test_an_index_outside_the_keys_means_none() -> None:
    tensors, _ = select(problem(2, 4, 5), "index")
    query, key, index = tensors
    expected = paired_contrast(query, key, torch.where(index == 2, -1, index), temperature=0.5)
    for outside in (-7, 5, 1000):
        actual = paired_contrast(query, key, torch.where(index == 2, outside, index), temperature=0.5)
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_any_integer_type(dtype: torch.dtype) -> None:
    tensors, labels = select(problem(2, 4, 5), "index", "query_label", "key_label")
    query, key, index = tensors
    index = index.clamp(min=0)
    options: dict[str, Any] = {"temperature": 0.5, "negatives": "different_label"}
    expected = paired_contrast(query, key, index, **labels, **options)
    labels = {name: label.to(dtype) for name, label in labels.items()}
    assert torch.equal(paired_contrast(query, key, index.to(dtype), **labels, **options), expected)


def test_key_grad_false_sends_nothing_to_the_keys() -> None:
    for positive in ("index", "rows"):
        tensors, _ = select(problem(2, 4, 5), positive)
        inputs = [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]
        paired_contrast(*tensors, temperature=0.5, key_grad=False).backward()
        assert inputs[1].grad is None
        assert all(tensor.grad is not None and tensor.grad.any() for tensor in (inputs[0], *inputs[2:]))


@pytest.mark.parametrize("positive", ["index", "rows"])
@pytest.mark.parametrize("negatives", ["all", "different_label"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 0, 0)], ids=str)
def test_empty_inputs_give_zero(positive: str, negatives: str, normalize: bool, shape: tuple[int, int, int]) -> None:
    tensors, extra = select(problem(*shape, dtype=torch.float32), positive, "query_label", "key_label")
    inputs = [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]
    options: dict[str, Any] = {"temperature": 0.1, "negatives": negatives, "normalize": normalize}
    for reduction in ("mean", "sum", "none"):
        loss = paired_contrast(*tensors, **extra, **options, reduction=reduction)
        assert loss.shape == (shape[:2] if reduction == "none" else ())
        assert not loss.any()
        assert not any(gradient.any() for gradient in grads(loss.sum(), *inputs))


@pytest.mark.parametrize(
    "drop",
    [
        {"gate": torch.zeros(2, 4, dtype=torch.bool)},
        {"positive": torch.full((2, 4), -1)},
        {"negatives": "different_label", "query_label": torch.full((2, 4), IGNORE)},
        {"weight": torch.zeros(2, 4)},
    ],
    ids=["gate", "no positive", "ignored", "weights"],
)
def test_nothing_counts_gives_zero(drop: dict[str, Any]) -> None:
    tensors, labels = select(problem(2, 4, 5), "index", "query_label", "key_label")
    query, key = tensors[0].requires_grad_(), tensors[1].requires_grad_()
    arguments = {"query": query, "key": key, "positive": tensors[2], **labels, "temperature": 0.1} | drop
    loss = paired_contrast(**arguments)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in grads(loss, query, key))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("positive", ["index", "rows"])
def test_duplicate_and_zero_rows_stay_finite(normalize: bool, positive: str) -> None:
    row = torch.randn(1, 1, 8)
    query = torch.cat([row.repeat(1, 4, 1), torch.zeros(1, 2, 8)], 1).requires_grad_()
    key = query.detach().clone().requires_grad_()
    target = torch.arange(6)[None] if positive == "index" else query.detach().clone()
    loss = paired_contrast(query, key, target, temperature=0.07, normalize=normalize)
    expected = loss_by_loops(query, key, target, temperature=0.07, normalize=normalize)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert all(gradient.isfinite().all() for gradient in grads(loss, query, key))


def test_large_logits_stay_finite() -> None:
    tensors, _ = select(problem(2, 6, 9, dtype=torch.float32), "index")
    query = (tensors[0] * 40).requires_grad_()
    loss = paired_contrast(query, *tensors[1:], temperature=0.05)
    expected = loss_by_loops(query, *tensors[1:], temperature=0.05)
    assert expected > 500
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    gradient, exact = grads(loss, query)[0], grads(expected, query)[0]
    torch.testing.assert_close(gradient, exact, rtol=1e-3, atol=1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("positive", ["index", "rows"])
def test_half_inputs_are_computed_in_float32(dtype: torch.dtype, positive: str) -> None:
    tensors, _ = select(problem(2, 6, 9, dtype=dtype), positive)
    query = tensors[0].requires_grad_()
    loss = paired_contrast(*tensors, temperature=0.1, normalize=True)
    single = [tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors]
    expected = paired_contrast(*single, temperature=0.1, normalize=True)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert grads(loss, query)[0].dtype == dtype
    assert torch.equal(grads(loss, query)[0], grads(expected, query)[0])


@pytest.mark.parametrize("positive", ["index", "rows"])
def test_autocast_changes_nothing(positive: str) -> None:
    tensors, _ = select(problem(2, 6, 9, features=32, dtype=torch.float32), positive)
    inputs = [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]
    loss = paired_contrast(*tensors, temperature=0.1, normalize=True)
    expected = grads(loss, *inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = paired_contrast(*tensors, temperature=0.1, normalize=True)
        actual = grads(under, *inputs)
    assert torch.equal(under, loss)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


class LargestTensor(TorchDispatchMode):
    """Record the number of elements of the largest tensor made, and whether anything waits for the device."""

    elements = 0
    waits = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        self.waits |= func.__name__.split(".")[0] in ("_local_scalar_dense", "nonzero", "masked_select")
        return result


@pytest.mark.parametrize("positive", ["index", "rows"])
@pytest.mark.parametrize("negatives", ["all", "different_label"])
def test_memory_is_linear_and_nothing_synchronises(positive: str, negatives: str) -> None:
    data = problem(2, 1000, 1500, features=8, dtype=torch.float32)
    tensors, extra = select(data, positive, "gate", "query_label", "key_label")
    tensors[0].requires_grad_()
    tensors[1].requires_grad_()
    with LargestTensor() as largest:
        paired_contrast(*tensors, **extra, temperature=0.1, negatives=negatives, normalize=True).backward()
    assert largest.elements <= blocks.CPU_BLOCK_ELEMENTS
    assert largest.elements * 10 < 2 * 1000 * 1500
    assert not largest.waits


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 6), st.integers(1, 4)),
    seed=st.integers(0, 99),
    positive=st.sampled_from(["index", "rows"]),
    negatives=st.sampled_from(["all", "different_label"]),
    normalize=st.booleans(),
    elements=st.sampled_from([1, 7, 40, 2**18]),
)
def test_any_shape(
    shape: tuple[int, int, int, int], seed: int, positive: str, negatives: str, normalize: bool, elements: int
) -> None:
    tensors, extra = select(problem(*shape, seed=seed), positive, "gate", "query_label", "key_label", "weight")
    query, key = tensors[0].requires_grad_(), tensors[1].requires_grad_()
    options: dict[str, Any] = {"temperature": 0.3, "negatives": negatives, "normalize": normalize}
    expected = loss_by_loops(*tensors, **extra, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CPU_BLOCK_ELEMENTS", elements)
        patch.setattr(blocks, "MIN_ROWS", 2)
        loss = paired_contrast(*tensors, **extra, **options)
        gradient = grads(loss, query, key)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient, grads(expected, query, key), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.zeros(3, 2)}, ValueError, "query must have 3 axes"),
        ({"key": torch.zeros(1, 4, 2)}, ValueError, "same pairs"),
        ({"key": torch.zeros(2, 4, 3)}, ValueError, "key must have shape"),
        ({"positive": torch.zeros(2, 4).int()}, ValueError, "positive must have shape"),
        ({"positive": torch.zeros(2, 3, 3)}, ValueError, "positive must have shape"),
        ({"positive": torch.ones(2, 3, dtype=torch.bool)}, TypeError, "positive must be of an integer type"),
        ({"gate": torch.ones(2, 3)}, TypeError, "gate must be bool"),
        ({"gate": torch.ones(3, dtype=torch.bool)}, ValueError, "gate must have shape"),
        ({"weight": torch.ones(3)}, ValueError, "weight must have shape"),
        ({"negatives": "different_label"}, ValueError, "needs query_label"),
        (
            {
                "negatives": "different_label",
                "query_label": torch.zeros(2, 3).int(),
                "key_label": torch.zeros(2, 3).int(),
            },
            ValueError,
            "key_label must have shape",
        ),
        ({"negatives": "hard"}, ValueError, "negatives must be one of all, different_label"),
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"reduction": "avg"}, ValueError, "reduction"),
    ],
)
def test_wrong_arguments_raise(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "query": torch.zeros(2, 3, 2),
        "key": torch.zeros(2, 4, 2),
        "positive": torch.zeros(2, 3).int(),
        "temperature": 0.1,
    }
    with pytest.raises(error, match=message):
        paired_contrast(**(arguments | change))
