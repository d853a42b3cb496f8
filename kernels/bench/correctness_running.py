"""The cases of how operations run: operators, CUDA graphs, torch.compile, autocast, waits, memory and repetition."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vidapt.kernels import dispatch
from vidapt.kernels.bench.correctness_cases import Case, ours
from vidapt.kernels.bench.correctness_exact import CLASSES, IDS, clip
from vidapt.kernels.bench.correctness_problems import Asked, Problem, differentiated, paired, supervised
from vidapt.kernels.bench.gates import Answer, Gate, exact_gate, floating_gate
from vidapt.kernels.bench.measure import extra_bytes, host_synchronisations
from vidapt.kernels.contrast import reference_anchors, sample_anchors
from vidapt.kernels.paste import instance_stats, paste_instances

WARM_UPS = 3
# What a call may hold beside gradients and one copy of the operands: float32 vectors of the rows, and partial sums.
ROW_VECTORS, PARTIAL_BYTES = 20, 8 * 2**20
MEMORY_SLACK = 1.1


class Step(NamedTuple):
    """A call that is ready, which gives its answer by name, and the tensors that it reads."""

    run: Callable[[], Answer]
    inputs: list[Tensor]


def problems(device: torch.device, quick: bool) -> dict[str, Callable[[], Problem]]:
    """Return the ways in which the training step calls the losses, few rows and enough to be sorted."""
    large, small, depth = (90, 50, 32) if quick else (3000, 1024, 128)
    alone = partial(supervised, device, asked=Asked(), exclude_self=True)
    return {
        "self": partial(alone, (small, depth)),
        "self, sorted": partial(alone, (large, depth)),
        "both sides": partial(supervised, device, (large, large + 7, depth), Asked()),
        "paired": partial(paired, device, (2, small, small, depth), Asked(), as_features=True),
        "paired, by label": partial(paired, device, (1, large, large, depth), Asked(), negatives="different_label"),
    }


def autocast_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield losses that must be the same under autocast, to the bit."""
    for text, build in problems(device, quick).items():
        yield Case(text, partial(_same_under_autocast, text, build, device))


def _same_under_autocast(text: str, build: Callable[[], Problem], device: torch.device) -> Gate:
    problem = build()
    with ours(device):
        expected = differentiated(problem, problem.features)
        with torch.autocast(device.type, torch.bfloat16):
            return exact_gate(text, differentiated(problem, problem.features), expected)


def repeat_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield operations that must do the same twice, to the bit."""
    for text, build in steps(device, quick).items():
        yield Case(text, partial(_same_twice, text, build, device))


def _same_twice(text: str, build: Callable[[], Step], device: torch.device) -> Gate:
    step = build()
    with ours(device):
        return exact_gate(text, step.run(), step.run())


def graph_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield operations that a CUDA graph must replay on new inputs, to the bit."""
    for text, build in steps(device, quick).items():
        yield Case(text, partial(_same_replayed, text, build, device))


def _same_replayed(text: str, build: Callable[[], Step], device: torch.device) -> Gate:
    step, stream, graph = build(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with ours(device):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                step.run()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            answer = step.run()
        for given in step.inputs:
            given.copy_(given.flip(0))
        graph.replay()
        return exact_gate(text, answer, step.run())


def compile_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield operations that torch.compile must take in one graph; tracing every block of a reference takes minutes."""
    quick = quick or device.type == "cpu"
    for text, build in problems(device, quick).items():
        yield Case(text, partial(_same_compiled_loss, text, build, device))
    for text, build_step in exact_steps(device, quick).items():
        yield Case(text, partial(_same_compiled, text, build_step, device))


def _compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend="inductor" if device.type == "cuda" else "aot_eager")


def _same_compiled_loss(text: str, build: Callable[[], Problem], device: torch.device) -> Gate:
    """Allow for a mean that is summed in another order."""
    problem = build()
    with ours(device):
        expected = {name: value.double() for name, value in differentiated(problem, problem.features).items()}
        compiled = replace(problem, loss=_compiled(problem.loss, device))
        return floating_gate(text, differentiated(compiled, problem.features), expected, None, "exact")


def _same_compiled(text: str, build: Callable[[], Step], device: torch.device) -> Gate:
    step = build()
    with ours(device):
        return exact_gate(text, _compiled(step.run, device)(), step.run())


def wait_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield operations during which the host must not wait, after one during which it does."""
    waiting = partial(host_synchronisations, torch.ones(1, device=device).item)
    yield Case("a wait is noticed", lambda: Gate("a wait is noticed", "waits missed", 1.0 - (waiting() > 0), 0.0))
    drawing = {"anchors and their noise": partial(_drawing_step, device, quick)}
    for text, build in (steps(device, quick) | drawing).items():
        yield Case(text, partial(_no_waits, text, build, device))


def _no_waits(text: str, build: Callable[[], Step], device: torch.device) -> Gate:
    step = build()
    with ours(device):
        step.run()
        return Gate(text, "waits of the host", host_synchronisations(step.run), 0.0)


def memory_cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """Yield losses whose memory must grow with the rows, not with their matrix; float32 features, fp16 operands."""
    rows, depth = (4096 if quick else 16384), 128
    builds = {
        "self": partial(supervised, device, (rows, depth), Asked(), exclude_self=True),
        "both sides": partial(supervised, device, (rows, rows, depth), Asked()),
        "paired": partial(paired, device, (2, rows, rows, depth), Asked(), negatives="different_label"),
    }
    for text, build in builds.items():
        yield Case(text, partial(_little_memory, text, build, device))


def _little_memory(text: str, build: Callable[[], Problem], device: torch.device) -> Gate:
    problem = build()
    gradients = sum(rows.nbytes for rows in problem.features.values())
    vectors = ROW_VECTORS * 4 * sum(rows[..., 0].numel() for rows in problem.features.values())
    allowed = MEMORY_SLACK * (gradients + vectors) + gradients // 2 + PARTIAL_BYTES
    with ours(device):
        differentiated(problem, problem.features)
        used = extra_bytes(lambda: differentiated(problem, problem.features), kept=0)
    return Gate(text, "bytes beyond the inputs", used, allowed)


def steps(device: torch.device, quick: bool) -> dict[str, Callable[[], Step]]:
    """Return what makes a call of each operation ready."""
    losses = {text: partial(_loss_step, build) for text, build in problems(device, quick).items()}
    return losses | exact_steps(device, quick)


def exact_steps(device: torch.device, quick: bool) -> dict[str, Callable[[], Step]]:
    """Return the same of the operations that are exact."""
    made = {"paste": _paste_step, "statistics": _stats_step, "anchors": _anchors_step}
    return {text: partial(step, device, quick) for text, step in made.items()}


def _loss_step(build: Callable[[], Problem]) -> Step:
    problem = build()
    return Step(partial(differentiated, problem, problem.features), list(problem.features.values()))


def _paste_step(device: torch.device, quick: bool) -> Step:
    inputs = [part for seed in (1, 2) for part in clip(torch.float32, _shape(quick), seed, device)[:3]]
    selected = (torch.arange(IDS, device=device) % 2 == 1).repeat(2, 1)

    def run() -> Answer:
        image, semantic, ids, *donor = inputs
        pasted = paste_instances(image, semantic, ids, donor[0], donor[1], donor[2], selected)
        return {"image": pasted.image, "semantic": pasted.semantic, "ids": pasted.ids}

    return Step(run, inputs)


def _stats_step(device: torch.device, quick: bool) -> Step:
    ids = clip(torch.uint8, _shape(quick), 1, device)[2]
    return Step(lambda: instance_stats(ids, IDS - 1)._asdict(), [ids])


def _anchors_step(device: torch.device, quick: bool) -> Step:
    """Return the draw from noise that is given: graphs and compiled code make other noise than a call does."""
    generator = torch.Generator(device).manual_seed(1)
    labels = torch.randint(0, CLASSES, (2, 500 if quick else 32771), generator=generator, device=device)
    noise = torch.rand(labels.shape, generator=generator, device=device)
    options = {"per_class": 50, "total": 1024, "min_pixels": 10, "ignore_label": 255}

    def run() -> Answer:
        function = dispatch.implementation("sample_anchors", reference_anchors.sample_anchors, labels)
        indices, valid = function(labels, None, noise, **options)
        return {"indices": indices, "valid": valid}

    return Step(run, [labels, noise])


def _drawing_step(device: torch.device, quick: bool) -> Step:
    labels = _anchors_step(device, quick).inputs[0]

    def run() -> Answer:
        indices, valid = sample_anchors(labels, per_class=50, total=1024, min_pixels=10)
        return {"indices": indices, "valid": valid}

    return Step(run, [labels])


def _shape(quick: bool) -> tuple[int, int]:
    return (12, 20) if quick else (96, 160)
