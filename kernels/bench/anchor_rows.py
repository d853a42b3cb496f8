"""The row that measures the sampling of anchors (A): two images of 32 768 pixels, with a prediction."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vidapt.kernels.bench.floors import Work
from vidapt.kernels.bench.gates import Answer, Gate, exact_gate
from vidapt.kernels.bench.rows import CALL, OURS, Provider, Row, Streets, halvings
from vidapt.kernels.contrast import sample_anchors

CLASSES = 19
PER_CLASS, TOTAL, MIN_PIXELS = 100, 1024, 100
PER_IMAGE = 256  # class numbers that one image can have
SEED = 5
WRONG = 0.3  # share of pixels that are predicted wrongly


@dataclass
class AnchorInputs:
    """labels and prediction (B,L) int64, and the generator that decides which pixels are judged."""

    labels: Tensor
    prediction: Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class AnchorRow(Row):
    """B images of L labelled pixels."""

    modes: ClassVar[tuple[str, ...]] = (CALL,)
    baseline: ClassVar[str] = "loop"
    group: ClassVar[str] = "Anchor sampling"

    images: int
    pixels: int

    def shape(self) -> dict[str, int | float | str]:
        """Return images B, pixels L, the anchors of a class and of all."""
        return {"B": self.images, "L": self.pixels, "per_class": PER_CLASS, "total": TOTAL}

    def scaled(self, limit: int) -> "AnchorRow":
        """Divide L by a power of two until B·L is at most `limit`."""
        return replace(self, pixels=self.pixels // halvings(self.images * self.pixels, limit, by=1))

    def small(self, device: torch.device) -> None:
        """The row itself is judged."""

    def inputs(self, device: torch.device, seed: int, streets: Streets) -> AnchorInputs:
        """Return balanced labels, and a prediction that is wrong in 30 % of the pixels."""
        generator = torch.Generator(device).manual_seed(seed)
        shape = self.images, self.pixels
        labels = torch.randint(0, CLASSES, shape, generator=generator, device=device)
        wrong = torch.rand(shape, generator=generator, device=device) < WRONG
        return AnchorInputs(labels, torch.where(wrong, (labels + 1) % CLASSES, labels), generator)

    def providers(self, device: torch.device, compiled: str | None) -> list[Provider]:
        """Return ours, the loop of public code, and on a GPU our reference."""
        gpu = device.type == "cuda"
        made = [Provider(OURS, {CALL: our_anchors}, _our_answer, kernels="triton" if gpu else "reference")]
        made.append(Provider("loop", {CALL: loop_anchors}, lambda inputs: _drawn(inputs, loop_anchors(inputs))))
        if gpu:
            made.append(Provider("reference", {CALL: our_anchors}, _our_answer))
        return made

    def judge(self, problem: str, inputs: AnchorInputs) -> Callable[[Provider], Gate]:
        """Compare indices one by one with those that the noise decides; a loop with its own noise by their numbers."""
        indices, valid = anchors_by_noise(inputs)
        truth = {"indices": indices, "valid": valid, **_drawn(inputs, indices[valid])}

        def judged(provider: Provider) -> Gate:
            answer = provider.judged_answer(inputs)
            return exact_gate(problem, answer, {name: truth[name] for name in answer})

        return judged

    def work(self, mode: str, inputs: AnchorInputs) -> tuple[Work, ...]:
        """The inputs are so small that launches bound the time: no floor."""
        return ()

    def kept_bytes(self, mode: str, inputs: AnchorInputs) -> int:
        """Return the bytes of indices and valid."""
        return 9 * TOTAL


def our_anchors(inputs: AnchorInputs, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw anchors as the training step does; CUDA graphs know the default generator only."""
    return sample_anchors(
        inputs.labels,
        inputs.prediction,
        per_class=PER_CLASS,
        total=TOTAL,
        min_pixels=MIN_PIXELS,
        generator=generator,
    )


def loop_anchors(inputs: AnchorInputs) -> Tensor:
    """Draw anchors as ContrastiveSeg does (Wang et al. 2021): loops over images and classes, `nonzero`, `randperm`.

    Returns:
        Indices into the B·L pixels, as many as were drawn.
    """
    groups = []
    for image in range(inputs.labels.shape[0]):
        for number in torch.unique(inputs.labels[image]).tolist():
            if (inputs.labels[image] == number).nonzero().shape[0] > MIN_PIXELS:
                groups.append((image, number))
    wanted = min(TOTAL // max(1, len(groups)), PER_CLASS)
    drawn = []
    for image, number in groups:
        own = inputs.labels[image] == number
        hard = (own & (inputs.prediction[image] != number)).nonzero().flatten()
        easy = (own & (inputs.prediction[image] == number)).nonzero().flatten()
        from_hard, from_easy = _quota(hard.numel(), easy.numel(), wanted)
        for pixels, count in ((hard, from_hard), (easy, from_easy)):
            chosen = torch.randperm(pixels.numel(), device=pixels.device)[:count]
            drawn.append(pixels[chosen] + image * inputs.labels.shape[1])
    return torch.cat(drawn)


def anchors_by_noise(inputs: AnchorInputs) -> tuple[Tensor, Tensor]:
    """Return what the documented draw of `sample_anchors` must give, group by group, with the generator rewound."""
    noise = torch.rand(inputs.labels.shape, generator=inputs.generator.manual_seed(SEED), device=inputs.labels.device)
    classes = [(image, number) for image in range(inputs.labels.shape[0]) for number in range(CLASSES)]
    groups = [group for group in classes if int((inputs.labels[group[0]] == group[1]).sum()) > MIN_PIXELS]
    wanted = min(TOTAL // max(1, len(groups)), PER_CLASS)
    drawn = []
    for image, number in groups:
        own, wrong = inputs.labels[image] == number, inputs.prediction[image] != number
        hard, easy = (mask.nonzero().flatten() for mask in (own & wrong, own & ~wrong))
        from_hard, from_easy = _quota(hard.numel(), easy.numel(), wanted)
        for pixels, count in ((easy, from_easy), (hard, from_hard)):
            order = noise[image, pixels].sort(stable=True).indices
            drawn.append(pixels[order[:count]] + image * inputs.labels.shape[1])
    indices = torch.cat(drawn)
    padded = indices.new_zeros(TOTAL)
    padded[: indices.numel()] = indices
    return padded, torch.arange(TOTAL, device=padded.device) < indices.numel()


def _quota(hard: int, easy: int, wanted: int) -> tuple[int, int]:
    """Return how many hard and easy pixels a group gives: half each, and the shortfall of one from the other."""
    from_hard = min(hard, max(wanted // 2, wanted - easy))
    return from_hard, min(easy, wanted - from_hard)


def _drawn(inputs: AnchorInputs, indices: Tensor) -> Answer:
    """Return how many hard and easy anchors each image and class has."""
    label, wrong = inputs.labels.flatten(), (inputs.prediction != inputs.labels).flatten().long()
    image = torch.arange(label.numel(), device=label.device) // inputs.labels.shape[1]
    part = 2 * (PER_IMAGE * image + label) + wrong
    return {"anchors of each class": torch.bincount(part[indices], minlength=2 * PER_IMAGE * inputs.labels.shape[0])}


def _our_answer(inputs: AnchorInputs) -> Answer:
    indices, valid = our_anchors(inputs, inputs.generator.manual_seed(SEED))
    return {"indices": indices, "valid": valid}


def anchor_rows() -> Iterator[AnchorRow]:
    """Yield the one size."""
    yield AnchorRow("A", "class-balanced anchors, half of them hard", images=2, pixels=32768)
