"""Stage ``adaptation`` of `vidapt bench pipeline`: what a training step spends beside its networks, by recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import median

import torch
from torch import Tensor

from vidapt.adaptation import graph_losses, pseudo_labels, rounds, source_graphs, step, target_graphs
from vidapt.adaptation.memory import MemoryBank
from vidapt.adaptation.step import SelfTrainingStep
from vidapt.adaptation.supervised import SupervisedStep
from vidapt.clip import ClipBatch
from vidapt.config import Recipe
from vidapt.config_suite import ComparisonConfig, Suite
from vidapt.engine.distributed import make_accelerator
from vidapt.engine.optimisation import clip_gradients, learning_rate, make_optimizer, update
from vidapt.errors import VidaptError
from vidapt.jobs.bench_clock import Clock, Place, watched
from vidapt.jobs.bench_stage import StageResult, Target, Timing, one_thread
from vidapt.jobs.build import build_loader, build_network, build_step
from vidapt.jobs.progress import progress_bar
from vidapt.jobs.train import open_data
from vidapt.models.instance.center_offset import CenterOffsetHead
from vidapt.models.network import PanopticNetwork
from vidapt.suite import load_suite, method_recipe, start_recipe
from vidapt.transforms import StrongAugment

SUITE = "street_world"
START = "source_only"
RECIPES = ("dacs", "mic", "lidaps", "pipa", "pipapp_video", "vidapt")
QUICK = ("dacs", "lidaps", "pipapp_video", "vidapt")
SETTINGS = ("source.videos=6", "target.videos=6", "training.workers=0", "training.precision=fp32")
"""What the benchmark changes of a recipe: fewer videos are generated."""
START_STEPS = 150
"""Steps on source labels before: without them the teacher finds no instances, and there is nothing to track."""
PROGRESS = 0.9
"""Share of the run that counts as done, so that parts that begin later have begun."""
BATCHES = 4
LIMIT = 15.0
TOLERANCE = 1e-4

FORWARD, BACKWARD, REST = "forward", "backward", "rest"
_NETWORK = ("forward", "project", "project_pixels", "project_text", "instance_loss", "semantic_loss", "probabilities")
PARTS: dict[str, Sequence[Place]] = {
    FORWARD: (
        *((PanopticNetwork, name) for name in (*_NETWORK, "upsample")),
        (CenterOffsetHead, "forward"),
        (graph_losses, "text_alignment"),
    ),
    "pseudo-labels": ((step, "pseudo_labels"),),
    "tracking": ((PanopticNetwork, "instances"), (pseudo_labels, "_verified")),
    "mixing": ((target_graphs, "class_mix"), (target_graphs, "unmixed"), (source_graphs, "instance_mix")),
    "augmentation": (
        (StrongAugment, "__call__"),
        (target_graphs, "mask_blocks"),
        (target_graphs, "cut_views"),
        (source_graphs, "transfer_colours"),
    ),
    "flow": ((rounds, "clip_flow"),),
    "contrast": ((MemoryBank, "stage"), (MemoryBank, "commit")),
    "teacher": ((SelfTrainingStep, "after_update"),),
}
LOSSES: dict[str, Sequence[Place]] = {
    "contrast": (
        (source_graphs, "pixel_contrast"),
        (source_graphs, "identity_contrast"),
        (source_graphs, "feature_distance"),
        (target_graphs, "identity_contrast"),
        (target_graphs, "temporal_contrast"),
        (target_graphs, "temporal_consistency"),
        (target_graphs, "patch_contrast"),
    )
}
COLUMNS = (FORWARD, BACKWARD, *(name for name in PARTS if name != FORWARD), REST)


@dataclass
class Case:
    """A recipe that is measured.

    Attributes:
        step: What trains; its state is that of a run of which the share ``PROGRESS`` is done.
        batches: Source and target clips of the steps that take turns.
        seconds: Seconds of each measured step by part.
    """

    step: SelfTrainingStep
    batches: list[tuple[ClipBatch, ClipBatch]]
    seconds: list[dict[str, float]] = field(default_factory=list)

    @property
    def totals(self) -> list[float]:
        """Seconds of each measured step."""
        return [sum(parts.values()) for parts in self.seconds]

    def shares(self) -> dict[str, float]:
        """Percent of the time of all measured steps by part."""
        whole = sum(self.totals)
        return {name: 100 * sum(parts.get(name, 0.0) for parts in self.seconds) / whole for name in COLUMNS}


def measure(quick: bool) -> StageResult:
    """Compare steps with and without the clock, then time the steps of each recipe of the suite on one thread.

    A step is what the engine does between loading clips and the optimiser: pseudo-labels, all graphs with their
    backward passes, and ``after_update``. Forward and backward passes of the networks include those of all heads and
    of the losses that heads are trained with, text alignment among them. Everything else is adaptation: contrast and
    consistency losses with their own backward passes, too. The time is that of the processor. Recipes take turns.

    Args:
        quick: Fewer recipes and steps.

    Raises:
        VidaptError: If a loss or gradient changes with the clock; nothing is timed then.
    """
    suite = load_suite(SUITE)
    with one_thread(), _one_torch_thread():
        start = _trained(_start(suite))
        cases = {name: _case(suite, name, start) for name in (QUICK if quick else RECIPES)}
        for name, case in cases.items():
            check(name, case)
        _time(cases, 4 if quick else 10)
    shares = {name: case.shares() for name, case in cases.items()}
    return StageResult(
        title=f"Training steps of suite {SUITE}, time of one core without loading and the optimiser",
        about=_about(cases),
        checked="losses equal with and without the clock, gradients within rounding",
        rows=tuple(Timing.of(name, case.totals) for name, case in cases.items()),
        baseline="dacs",
        targets=tuple(
            Target(f"{name}, % beside the networks", 100 - found[FORWARD] - found[BACKWARD], LIMIT)
            for name, found in shares.items()
        ),
        unit="step",
        shares=shares,
    )


def _about(cases: dict[str, Case]) -> dict[str, int]:
    source, _ = next(iter(cases.values())).batches[0]
    frames, *_, height, width = source.frames.flatten(0, 1).shape
    found = [_instances(case.step, *case.batches[0]) for case in cases.values()]
    return {
        "frames of each domain": frames,
        "rows": height,
        "columns": width,
        "steps on source labels before": START_STEPS,
        "instances in a clip, where they are looked for": round(median([count for count in found if count > 0] or [0])),
    }


def _instances(case: SelfTrainingStep, source: ClipBatch, target: ClipBatch) -> float:
    return next((float(value) for name, value in case.losses(source, target) if name == "instances"), 0.0)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _comparison(suite: Suite) -> ComparisonConfig:
    return suite.comparisons[0]


def _start(suite: Suite) -> Recipe:
    """The recipe of the shared start, cut short."""
    recipe = start_recipe(suite, _comparison(suite), [text for text in SETTINGS if text.startswith("source")])
    training = recipe.training.model_copy(update={"steps": START_STEPS, "workers": 0})
    return recipe.model_copy(update={"training": training})


def _trained(recipe: Recipe) -> dict[str, Tensor]:
    """Weights after training on source labels."""
    accelerator = make_accelerator("fp32", "cpu")
    source, _ = open_data(recipe)
    network = build_network(recipe, fresh=True)
    training, method = recipe.training, build_step(recipe, network, source, accelerator.device)
    if not isinstance(method, SupervisedStep):
        raise TypeError(f"the start of suite {SUITE} adapts")
    optimizer, parameters = make_optimizer(network, training), list(network.parameters())
    batches = islice(build_loader(source, recipe, "source", accelerator)(0), training.steps)
    with progress_bar("training on source labels", training.steps) as advance:
        for index, batch in enumerate(batches):
            for _, loss in method.losses(batch, None):
                if loss.requires_grad:
                    loss.backward()
            clip_gradients(parameters, training.max_grad_norm)
            update(optimizer, learning_rate(index, training))
            optimizer.zero_grad()
            advance()
    return network.state_dict()


def _case(suite: Suite, name: str, start: dict[str, Tensor]) -> Case:
    accelerator = make_accelerator("fp32", "cpu")
    recipe = method_recipe(suite, _comparison(suite), name, SETTINGS)
    source, target = open_data(recipe)
    network = build_network(recipe, fresh=True)
    network.load_state_dict(start, strict=False)
    method = build_step(recipe, network.train(), source, accelerator.device)
    if not isinstance(method, SelfTrainingStep):
        raise TypeError(f"recipe {name} does not adapt")
    method.load_state_dict(method.state_dict() | {"updates": round(PROGRESS * recipe.training.steps)})
    streams = (
        build_loader(data, recipe, domain, accelerator)(0) for data, domain in ((source, "source"), (target, "target"))
    )
    return Case(method, list(islice(zip(*streams, strict=True), BATCHES)))


def check(name: str, case: Case) -> None:
    """Compare the losses and gradients of a step with and without the clock.

    Raises:
        VidaptError: If a loss differs at all, or a gradient by more than rounding does.
    """
    plain, timed = (_gradients(case, with_clock=with_clock) for with_clock in (False, True))
    if plain[0] != timed[0]:
        raise VidaptError(f"the clock changes the losses of {name}; no share is shown")
    for one, other in zip(plain[1], timed[1], strict=True):
        if not (one - other).norm() <= TOLERANCE * one.norm():
            raise VidaptError(f"the clock changes the gradients of {name}; no share is shown")


def _gradients(case: Case, *, with_clock: bool) -> tuple[list[tuple[str, float]], list[Tensor]]:
    """Losses of a step by name, and gradients of the parameters that get one."""
    clock, parameters = Clock(), list(case.step.network.parameters())
    with watched(clock, *((PARTS, LOSSES) if with_clock else ({}, {}))):
        losses = _backward(case.step, clock, *case.batches[0])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    _forget_gradients(case.step)
    return losses, gradients


def _backward(method: SelfTrainingStep, clock: Clock, source: ClipBatch, target: ClipBatch) -> list[tuple[str, float]]:
    losses = []
    method.begin_step()
    for name, loss in method.losses(source, target):
        if loss.requires_grad:
            with clock.part(BACKWARD):
                loss.backward()
        losses.append((name, float(loss.detach())))
    return losses


def _forget_gradients(method: SelfTrainingStep) -> None:
    for parameter in method.network.parameters():
        parameter.grad = None


def _time(cases: dict[str, Case], rounds: int) -> None:
    clock = Clock()
    with progress_bar("measuring", rounds) as advance, watched(clock, PARTS, LOSSES):
        for number, batch in enumerate(islice(cycle(range(BATCHES)), rounds + 1)):
            for case in cases.values():
                with clock.part(REST):
                    _backward(case.step, clock, *case.batches[batch])
                    case.step.after_update()
                _forget_gradients(case.step)
                found = clock.take()
                # the first one fills caches
                if number:
                    case.seconds.append(found)
            if number:
                advance()
