"""The rows that measure the contrastive losses: pixel contrast (P), patch contrast (C) and temporal contrast (T)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.kernels.bench.contrast_baselines import chunked_loss, eager_loss, plain_bytes
from vidapt.kernels.bench.contrast_inputs import (
    CITYSCAPES_SHARES,
    ContrastInputs,
    clustered,
    differentiated,
    draw_labels,
)
from vidapt.kernels.bench.floors import Work, contrast_backward, contrast_forward
from vidapt.kernels.bench.gates import Gate, floating_gate
from vidapt.kernels.bench.measure import free_bytes
from vidapt.kernels.bench.rows import OURS, Provider, Row, Streets, conditions, halvings
from vidapt.kernels.contrast import paired_contrast, supervised_contrast

FORWARD, BOTH = "forward", "forward+backward"
BALANCED = (1 / 19,) * 19
ROUNDING = {"fp16": torch.float16, "bf16": torch.bfloat16}
FORMATS = ("bf16", "exact")  # of the operands, beside the one that a GPU chooses itself

# Most queries of the gate's small problem. The kernels sort by label from 2^23 logits on, and the small problem must
# sort where its row does; both numbers are odd, so that no tile divides them.
SMALL = {"cuda": 4099, "cpu": 257}


@dataclass(frozen=True)
class ContrastRow(Row):
    """N queries against M keys of D features, for P pairs at once.

    Attributes:
        gradients: "self" (the keys are the queries), "query" (detached keys) or "both".
        positives: "label" (all keys of the label: the supervised loss), "index" or "features" (the paired loss).
        different_label: whether the negatives of the paired loss are the keys of another label, or all keys.
        shares: of the classes.
    """

    modes: ClassVar[tuple[str, ...]] = (FORWARD, BOTH)
    baseline: ClassVar[str] = "eager"
    group: ClassVar[str] = "Contrast"

    pairs: int
    queries: int
    keys: int
    features: int
    gradients: Literal["self", "query", "both"]
    positives: Literal["label", "index", "features"] = "label"
    different_label: bool = True
    shares: tuple[float, ...] = field(default=BALANCED, repr=False)

    def shape(self) -> dict[str, int | float | str]:
        """Return pairs P, queries N, keys M and features D, and which of them get gradients."""
        sizes = {"P": self.pairs, "N": self.queries, "M": self.keys, "D": self.features}
        return {**sizes, "gradients": {"self": "Q=K", "query": "Q", "both": "Q,K"}[self.gradients]}

    def scaled(self, limit: int) -> "ContrastRow":
        """Divide N and M by one power of two until P·N·M is at most `limit`."""
        factor = halvings(self.pairs * self.queries * self.keys, limit, by=2)
        return replace(self, queries=-(-self.queries // factor), keys=-(-self.keys // factor))

    def small(self, device: torch.device) -> "ContrastRow":
        """Cut N to a few thousand on a GPU and a few hundred on the CPU, M to twice that, and P to 2."""
        queries = min(self.queries, SMALL[device.type])
        keys = queries if self.keys == self.queries else min(self.keys, 2 * queries + 1)
        return replace(self, pairs=min(2, self.pairs), queries=queries, keys=keys)

    def inputs(self, device: torch.device, seed: int, streets: Streets) -> ContrastInputs:
        """Return rows around class centres, of random lengths, in random order."""
        generator = torch.Generator(device).manual_seed(seed)
        centres = F.normalize(torch.randn(len(self.shares), self.features, generator=generator, device=device), dim=-1)
        query_label = draw_labels(self.pairs, self.queries, self.shares, generator)
        query = clustered(centres, query_label, generator).requires_grad_()
        if self.gradients == "self":
            return ContrastInputs(query, query, None, query_label, query_label, None)
        key_label = draw_labels(self.pairs, self.keys, self.shares, generator)
        key = clustered(centres, key_label, generator)
        if self.positives == "label":
            key[:, : self.queries], key_label[:, : self.queries] = query.detach(), query_label
        key.requires_grad_(self.gradients == "both")
        positive, gate = None, None
        if self.positives == "features":
            positive = clustered(centres, query_label, generator).requires_grad_(self.gradients == "both")
        elif self.positives == "index":
            step = torch.randint(-3, 4, query_label.shape, generator=generator, device=device)
            positive = (torch.arange(self.queries, device=device) + step) % self.keys
        if positive is not None:
            gate = torch.rand(query_label.shape, generator=generator, device=device) < 0.9
        return ContrastInputs(query, key, positive, query_label, key_label, gate, self.different_label)

    def clear(self, inputs: ContrastInputs) -> None:
        """Drop the gradients."""
        inputs.clear()

    def providers(self, device: torch.device, compiled: str | None) -> list[Provider]:
        """Return ours, the plain form eager, in chunks and compiled, and on a GPU other formats and our reference."""
        gpu = device.type == "cuda"
        plain = "tf32" if gpu else "exact"
        needed = plain_bytes(self.pairs, self.queries, self.keys)
        made = [_provider(OURS, our_loss, "fp16" if gpu else "exact", "triton" if gpu else "reference")]
        if gpu:
            made += [_provider(f"{OURS} {name}", partial(our_loss, precision=name), name, "triton") for name in FORMATS]
        made.append(replace(_provider("eager", eager_loss, plain), needs_bytes=needed))
        made.append(_provider("chunked", chunked_loss, plain))
        if compiled is not None:
            function = torch.compile(eager_loss, dynamic=False, mode=compiled)
            made.append(replace(_provider("compiled", function, plain), needs_bytes=needed, compiles=True))
        if gpu:
            made.append(_provider("reference", our_loss, "exact"))
        return made

    def judge(self, problem: str, inputs: ContrastInputs) -> Callable[[Provider], Gate]:
        """Hold loss and gradients against the plain form in float64, or our reference in it where that does not fit."""
        fits = 2 * plain_bytes(self.pairs, self.queries, self.keys) < free_bytes(inputs.query.device) / 2
        with conditions("reference", "highest"):
            truth = differentiated(eager_loss if fits else our_loss, inputs.double())
        plain: dict[str, dict[str, Tensor]] = {}

        def judged(provider: Provider) -> Gate:
            precision = provider.precision
            if fits and precision != "tf32" and precision not in plain:
                with conditions("reference", "highest"):
                    plain[precision] = differentiated(partial(eager_loss, rounding=ROUNDING.get(precision)), inputs)
            return floating_gate(problem, provider.judged_answer(inputs), truth, plain.get(precision), precision)

        return judged

    def work(self, mode: str, inputs: ContrastInputs) -> tuple[Work, ...]:
        """Return the forward pass, and the backward pass with one or two sides."""
        sizes = self.pairs, self.queries, self.keys, self.features
        forward = contrast_forward(*sizes)
        return (forward,) if mode == FORWARD else (forward, contrast_backward(*sizes, self.gradients == "both"))

    def kept_bytes(self, mode: str, inputs: ContrastInputs) -> int:
        """Return the bytes of the gradients."""
        leaves = inputs.leaves().values() if mode == BOTH else ()
        return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


def our_loss(inputs: ContrastInputs, precision: str | None = None) -> Tensor:
    """Return the loss as the training step asks for it."""
    if inputs.positive is None:
        itself = inputs.key is inputs.query
        query, label = inputs.query[0], inputs.query_label[0]
        return supervised_contrast(
            query,
            query if itself else inputs.key[0],
            label,
            label if itself else inputs.key_label[0],
            temperature=inputs.temperature,
            exclude_self=True,
            key_grad=inputs.key.requires_grad,
            normalize=True,
            precision=precision,
        )
    return paired_contrast(
        inputs.query,
        inputs.key,
        inputs.positive,
        temperature=inputs.temperature,
        query_label=inputs.query_label if inputs.different_label else None,
        key_label=inputs.key_label if inputs.different_label else None,
        negatives="different_label" if inputs.different_label else "all",
        gate=inputs.gate,
        key_grad=inputs.key.requires_grad,
        normalize=True,
        precision=precision,
    )


def _provider(
    name: str, loss: Callable[[ContrastInputs], Tensor], precision: str, kernels: str = "reference"
) -> Provider:
    def both(inputs: ContrastInputs) -> None:
        loss(inputs).backward()

    return Provider(name, {FORWARD: loss, BOTH: both}, partial(differentiated, loss), precision, kernels)


def contrast_rows() -> Iterator[ContrastRow]:
    """Yield the shapes of pixel, patch and temporal contrast, at the sizes that a GPU is measured at."""
    bank = partial(ContrastRow, pairs=1, gradients="query")
    dense = partial(ContrastRow, pairs=1, gradients="self")
    yield dense("P0", "PiPa's own size, against itself", queries=1024, keys=1024, features=256)
    yield bank("P1", "512²: 4k anchors x 16k pixels + 16k bank", queries=4096, keys=32768, features=256)
    for name, features in (("P2", 256), ("P2b", 128), ("P2c", 64)):
        yield dense(name, "512² at stride 4: all pixels", queries=16384, keys=16384, features=features)
    skewed = "P2 with the class frequencies of Cityscapes"
    yield dense("P2f", skewed, queries=16384, keys=16384, features=256, shares=CITYSCAPES_SHARES)
    yield bank("P3", "640²: all pixels x pixels + 64k bank", queries=25600, keys=90112, features=128)
    yield bank("P4", "1024²: 16k anchors x 64k pixels + 64k bank", queries=16384, keys=131072, features=256)
    yield dense("P5", "clip of 4 frames of 512²: all pixels", queries=65536, keys=65536, features=128)

    patch = partial(ContrastRow, pairs=1, features=128)
    yield patch("C0", "PiPa's own patches", queries=8100, keys=3200, gradients="query", positives="features")
    yield patch("C1", "two dense crops, both ways", queries=16200, keys=16200, gradients="both", positives="index")

    time = partial(ContrastRow, features=128, gradients="both")
    frames = partial(time, queries=16384, keys=16384, positives="index")
    yield frames("T1", "adjacent frames, all pixels", pairs=1)
    yield frames("T2", "7 frame pairs, one launch", pairs=7)
    yield frames("T3", "15 frame pairs, one launch", pairs=15)
    warped = partial(time, queries=65536, keys=1024, positives="features", different_label=False)
    yield warped("T4", "7 pairs of 1024², warped positives, 1024 negatives", pairs=7)
