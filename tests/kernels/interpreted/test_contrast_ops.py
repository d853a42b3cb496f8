"""What the operators of the contrast losses promise besides their values: compilation, autograd, buffers, memory."""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.plain_contrast import paired_problem, record_splits, supervised_problem
from vidapt.kernels import dispatch
from vidapt.kernels.contrast import (
    kernel,
    kernel_grad,
    kernel_operand,
    kernel_sort,
    ops,
    paired_contrast,
    reference,
    reference_paired,
    supervised_contrast,
)

SYNCHRONISING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "item", "_unique2")
CANARIES = 64

Loss = Callable[..., Tensor]


def supervised(kind: str, features: int = 17, **options: Any) -> tuple[Loss, list[Tensor]]:
    """Return a loss of leaves, and the leaves: query and key, or the queries that are the keys as well."""
    query, key, query_label, key_label = supervised_problem(19, 21, features, dtype=torch.float32)
    if kind == "itself":
        return lambda q: supervised_contrast(q, q, query_label, query_label, exclude_self=True, **options), [query]
    return lambda q, k: supervised_contrast(q, k, query_label, key_label, **options), [query, key]


def paired(positive: str, features: int = 17, **options: Any) -> tuple[Loss, list[Tensor]]:
    """Return a loss of leaves, and the leaves: query, key and the positives if those are features."""
    data = paired_problem(2, 17, 18, features, dtype=torch.float32)
    options |= {name: data[name] for name in ("query_label", "key_label", "gate")}
    if positive == "index":
        return lambda q, k: paired_contrast(q, k, data["index"], **options), [data["query"], data["key"]]
    return lambda q, k, p: paired_contrast(q, k, p, **options), [data["query"], data["key"], data["rows"]]


PROBLEMS: dict[str, tuple[Callable[..., tuple[Loss, list[Tensor]]], tuple[str], dict[str, Any]]] = {
    "self contrast": (supervised, ("itself",), {"normalize": True, "temperature": 0.1}),
    "supcon": (supervised, ("apart",), {"form": "supcon", "temperature": 0.5}),
    "per positive": (supervised, ("apart",), {"normalize": True, "temperature": 0.01}),
    "index": (paired, ("index",), {"negatives": "different_label", "temperature": 0.5}),
    "rows": (paired, ("rows",), {"normalize": True, "temperature": 0.1}),
}


@pytest.fixture(params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> tuple[Loss, list[Tensor]]:
    build, arguments, options = PROBLEMS[request.param]
    return build(*arguments, **options)


@pytest.fixture(params=[False, True], ids=["as given", "sorted"])
def sort(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(ops, "SORT_FROM", 0 if request.param else math.inf)
    return request.param


def loss_and_gradients(loss: Loss, leaves: list[Tensor]) -> list[Tensor]:
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    value = loss(*inputs)
    value.backward()
    return [value.detach(), *(one.grad for one in inputs if one.grad is not None)]


def same_bits(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Guard:
    """Give every new tensor garbage for contents and canaries for neighbours."""

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self.empty = torch.empty

    def __call__(self, *size: Any, dtype: torch.dtype = torch.float32, device: Any = None) -> Tensor:
        shape = size[0] if size and not isinstance(size[0], int) else size
        garbage = math.nan if dtype.is_floating_point else True if dtype == torch.bool else torch.iinfo(dtype).max
        buffer = self.empty(math.prod(shape) + 2 * CANARIES, dtype=dtype, device=device).fill_(garbage)
        self.buffers.append(buffer)
        return buffer[CANARIES:-CANARIES].view(shape)

    def like(self, other: Tensor) -> Tensor:
        return self(other.shape, dtype=other.dtype)

    def new(self, other: Tensor, *size: Any, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        return self(*size, dtype=dtype or other.dtype, **options)

    def untouched(self) -> bool:
        edges = [torch.cat([one[:CANARIES], one[-CANARIES:]]) for one in self.buffers]
        return all((one != one).all() if one.is_floating_point() else (one == one[0]).all() for one in edges)


@pytest.mark.parametrize("tiles_per_split", [1, 4])
def test_buffers_hold_garbage_first_and_keep_their_bounds_and_runs_repeat(
    sort: bool, monkeypatch: pytest.MonkeyPatch, problem: tuple[Loss, list[Tensor]], tiles_per_split: int
) -> None:
    record_splits(monkeypatch, tiles_per_split)
    expected = loss_and_gradients(*problem)
    guard = Guard()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", guard)
        patch.setattr(torch, "empty_like", guard.like)
        patch.setattr(Tensor, "new_empty", lambda *size, **options: guard.new(*size, **options))
        actual = loss_and_gradients(*problem)
    assert len(guard.buffers) > 8
    assert guard.untouched()
    assert same_bits(actual, expected)


def test_inputs_are_left_alone(sort: bool, problem: tuple[Loss, list[Tensor]]) -> None:
    loss, leaves = problem
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    loss(*inputs).backward()
    assert same_bits(inputs, leaves)


def test_losses_without_gradients(problem: tuple[Loss, list[Tensor]]) -> None:
    loss, leaves = problem
    expected = loss(*leaves)
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            actual = loss(*inputs)
        assert not actual.requires_grad
        assert torch.equal(actual, expected)


def test_autocast_changes_nothing(problem: tuple[Loss, list[Tensor]]) -> None:
    expected = loss_and_gradients(*problem)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = loss_and_gradients(*problem)
    assert actual[0].dtype == torch.float32
    assert same_bits(actual, expected)


def test_gradients_are_not_differentiable(problem: tuple[Loss, list[Tensor]]) -> None:
    loss, leaves = problem
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    gradients = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
    for gradient in gradients:
        with pytest.raises(RuntimeError, match="differentiable once"):
            torch.autograd.grad(gradient.sum(), inputs, retain_graph=True)


def test_features_must_not_change_before_the_backward(problem: tuple[Loss, list[Tensor]]) -> None:
    loss, leaves = problem
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    changed = [one * 1 for one in inputs]
    value = loss(*changed)
    with torch.no_grad():
        changed[-1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_no_gradient_reaches_the_weights(sort: bool) -> None:
    query, key, *labels = supervised_problem(9, 11, dtype=torch.float32)
    weight = torch.rand(9, requires_grad=True)
    query.requires_grad_()
    supervised_contrast(query, key, *labels, temperature=0.5, weight=weight).backward()
    assert weight.grad is None
    assert query.grad is not None
    assert query.grad.any()
    assert not supervised_contrast(query.detach(), key, *labels, temperature=0.5, weight=weight).requires_grad


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("contrast_forward", "contrast_backward"):
        monkeypatch.setattr(torch.ops.vidapt, name, mock.Mock(side_effect=AssertionError("the kernel ran")))


def test_float64_takes_the_reference(no_kernel: None, problem: tuple[Loss, list[Tensor]]) -> None:
    loss, leaves = problem
    for place in range(len(leaves)):
        mixed = [leaf.double() if index == place else leaf for index, leaf in enumerate(leaves)]
        results = loss_and_gradients(loss, mixed)
        assert results[0].dtype == torch.float64
        assert [one.dtype for one in results[1:]] == [one.dtype for one in mixed]
        assert all(one.any() for one in results)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)], ids=str)
def test_empty_inputs_take_the_reference(no_kernel: None, shape: tuple[int, int, int]) -> None:
    query, key, *labels = supervised_problem(*shape, dtype=torch.float32)
    data = paired_problem(2, *shape, dtype=torch.float32)
    for reduction in ("none", "sum", "mean"):
        options: dict[str, Any] = {"temperature": 0.5, "reduction": reduction}
        losses = [supervised_contrast(query.requires_grad_(), key, *labels, **options)]
        for positive in ("index", "rows"):
            losses.append(paired_contrast(data["query"].requires_grad_(), data["key"], data[positive], **options))
        for loss, features in zip(losses, (query, data["query"], data["query"]), strict=True):
            assert loss.shape == (features.shape[:-1] if reduction == "none" else ())
            assert loss.isfinite().all()
            # Without features all logits are 0, but the losses are not.
            assert shape[2] == 0 or not loss.any()
            assert not torch.autograd.grad(loss.sum(), features)[0].any()


def test_the_public_functions_take_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.zeros(1)
    assert dispatch.implementation("supervised_contrast", reference.supervised_contrast, device) is (
        ops.supervised_contrast
    )
    assert dispatch.implementation("paired_contrast", reference_paired.paired_contrast, device) is ops.paired_contrast
    monkeypatch.setenv("VIDAPT_KERNELS", "reference")
    assert dispatch.implementation("paired_contrast", reference_paired.paired_contrast, device) is (
        reference_paired.paired_contrast
    )


@pytest.mark.parametrize(
    ("cuda", "query", "key", "normalize", "precision", "expected"),
    [
        (False, torch.float32, torch.float32, True, None, "exact"),
        (False, torch.float16, torch.float16, True, None, "exact"),
        (False, torch.float32, torch.float32, False, "fp16", "fp16"),
        (True, torch.float32, torch.float32, True, None, "fp16"),
        (True, torch.float32, torch.float32, False, None, "exact"),
        (True, torch.float32, torch.float32, True, "exact", "exact"),
        (True, torch.float16, torch.float16, False, None, "fp16"),
        (True, torch.bfloat16, torch.bfloat16, True, None, "bf16"),
        (True, torch.bfloat16, torch.float32, True, None, "fp16"),
        (True, torch.float32, torch.float16, False, None, "exact"),
    ],
)
def test_the_precision_of_the_operands(
    cuda: bool, query: torch.dtype, key: torch.dtype, normalize: bool, precision: str | None, expected: str
) -> None:
    features = [mock.Mock(is_cuda=cuda, dtype=dtype) for dtype in (query, key)]
    assert ops.operand_precision(precision, normalize, *features) == expected


def arguments(name: str) -> tuple[Any, ...]:
    """Return the arguments of `contrast_forward` for a small problem."""
    query, key, query_label, key_label = (one[None] for one in supervised_problem(5, 7, 16, dtype=torch.float32))
    data = paired_problem(2, 5, 7, 3, dtype=torch.float32)
    labels = data["query_label"], data["key_label"]
    return {
        "symmetric": (query, None, None, query_label, None, None, 0.1, "per_positive", "self", 255, True, "fp16", True),
        "sorted": (query, key, None, query_label, key_label, None, 0.1, "supcon", "none", 255, True, "exact", True),
        "no copies": (query, key, None, query_label, key_label, None, 1.0, "supcon", "none", 3, False, "exact", False),
        "index": (
            *(data[one] for one in ("query", "key", "index")), *labels, data["gate"],
            0.5, "paired", "index", 255, False, "exact", True,
        ),
        "rows": (
            *(data[one] for one in ("query", "key", "rows")), None, None, None,
            0.5, "paired", "none", 255, True, "fp16", False,
        ),
    }[name]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", ["symmetric", "sorted", "no copies", "index", "rows"])
def test_opcheck(name: str) -> None:
    given = arguments(name)
    leaves = [one.requires_grad_() if isinstance(one, Tensor) and one.is_floating_point() else one for one in given]
    torch.library.opcheck(torch.ops.vidapt.contrast_forward.default, tuple(leaves))
    plain = tuple(one.detach() if isinstance(one, Tensor) else one for one in given)
    saved = torch.ops.vidapt.contrast_forward(*plain)[2:]
    upstream = torch.rand(plain[0].shape[:2])
    for needed in ((True, plain[1] is not None, True), (True, False, False)):
        backward = (upstream, *plain[:5], *saved, *plain[6:], *needed)
        torch.library.opcheck(torch.ops.vidapt.contrast_backward.default, backward)


def test_compiles_to_one_graph(sort: bool, problem: tuple[Loss, list[Tensor]]) -> None:
    loss, leaves = problem
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert same_bits(loss_and_gradients(compiled, leaves), loss_and_gradients(loss, leaves))


def test_one_graph_serves_many_sizes() -> None:
    def loss(query: Tensor, key: Tensor, query_label: Tensor, key_label: Tensor) -> Tensor:
        return supervised_contrast(query, key, query_label, key_label, temperature=0.3, normalize=True)

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=True)
    for queries, keys in ((5, 9), (7, 11), (19, 4)):
        query, key, *labels = supervised_problem(queries, keys, 6, dtype=torch.float32)
        expected = loss_and_gradients(lambda q, k, labels=labels: loss(q, k, *labels), [query, key])
        actual = loss_and_gradients(lambda q, k, labels=labels: compiled(q, k, *labels), [query, key])
        assert same_bits(actual, expected)
    assert counter.frame_count == 1


class Allocations(TorchDispatchMode):
    """Record the storages that operations make, and the operations that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[Tensor, int]] = {}
        self.waits: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        boolean = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in SYNCHRONISING or boolean:
            self.waits.add(name)
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, Tensor) and name.startswith(
                ("empty", "new_empty", "zeros", "full", "clone", "_to_copy")
            ):
                self.storages[one.untyped_storage().data_ptr()] = one, one.untyped_storage().nbytes()
        return result


class Unlaunched:
    """Stand in for a kernel."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *arguments, **options: None


@pytest.mark.parametrize("kind", ["per_positive", "supcon", "paired"])
@pytest.mark.parametrize("sorts", [False, True])
def test_memory_is_linear_and_nothing_synchronises(monkeypatch: pytest.MonkeyPatch, kind: str, sorts: bool) -> None:
    for module in (kernel, kernel_grad, kernel_operand, kernel_sort):
        for name in vars(module):
            if hasattr(getattr(module, name), "arg_names"):
                monkeypatch.setattr(module, name, Unlaunched())
    pairs, queries, keys, features = 2 if kind == "paired" else 1, 5000, 9000, 64
    query, key = torch.zeros(pairs, queries, features), torch.zeros(pairs, keys, features)
    labels = torch.zeros(pairs, queries).long(), torch.zeros(pairs, keys).long()
    positive, gate = torch.zeros(pairs, queries).long(), torch.ones(pairs, queries, dtype=torch.bool)
    extra = (positive, *labels, gate) if kind == "paired" else (None, *labels, None)
    options = (0.1, kind, "index" if kind == "paired" else "none", 255, True, "fp16", sorts)
    with Allocations() as allocations:
        saved = ops.contrast_forward(query, key, *extra, *options)[2:]
        ops.contrast_backward(torch.zeros(pairs, queries), query, key, *extra[:3], *saved, *options, True, True, False)
    rows = pairs * (queries + keys)
    gradients, operands, vectors = 4 * rows * features, 2 * rows * features, 64 * rows
    total = sum(size for _, size in allocations.storages.values())
    # The partial sums of the queries are gone before those of the keys come.
    assert gradients + operands < total <= 1.1 * gradients + operands + vectors + 2 * 8 * 2**20
    assert not allocations.waits
