"""Self-training: the teacher, its pseudo-labels, and the graphs that the student is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vidapt.adaptation.confidence import ClassThresholds
from vidapt.adaptation.pseudo_labels import PseudoLabels, pseudo_labels
from vidapt.adaptation.source_graphs import pasted_graph, source_graph
from vidapt.adaptation.supervised import Loss, summed
from vidapt.adaptation.target_graphs import masked_graph, mixed_graph, patch_graph
from vidapt.adaptation.teacher import ema_momentum, ema_update, make_teacher, own_statistics, statistics_names
from vidapt.adaptation.tools import Round, Tools, single_frames
from vidapt.clip import ClipBatch
from vidapt.config_method import MethodConfig
from vidapt.tracking.tracker import OnlineTracker

GRAPHS = {
    "source": source_graph,
    "mixed": mixed_graph,
    "pasted": pasted_graph,
    "masked": masked_graph,
    "patches": patch_graph,
}
"""What the student is trained on in each step, in this order; a graph that gives no losses is left out."""


def identical(value: Tensor) -> Tensor:
    """What one process makes of a value that several would average or collect."""
    return value.clone()


class SelfTrainingStep:
    """Mean-teacher adaptation on clips with the parts that a method lists.

    Args:
        tools: The student, the method and what its parts work with.
        steps: Steps of the run, for parts that begin later.
        new_tracker: Makes the tracker that verifies pseudo-instances over a clip.
        reduce: Averages a tensor over processes; the default is for one process.
        gather: Joins the tensors of all processes along their first axis.
    """

    def __init__(
        self,
        tools: Tools,
        *,
        steps: int,
        new_tracker: Callable[[], OnlineTracker],
        reduce: Callable[[Tensor], Tensor] = identical,
        gather: Callable[[Tensor], Tensor] = identical,
    ) -> None:
        self._tools, self._steps = tools, steps
        self._new_tracker = new_tracker
        self._reduce, self._gather = reduce, gather
        self._network, self._method = tools.network, tools.method
        self._teacher = make_teacher(tools.network)
        self._updates = 0
        labels = self._method.pseudo_labels
        device = tools.network.mean.device
        self._limits = torch.full((len(tools.network.space),), labels.threshold, device=device)
        self._thresholds: ClassThresholds | None = None
        if labels.class_thresholds is not None:
            classes = len(tools.network.space)
            self._thresholds = ClassThresholds(classes, labels.class_thresholds, labels.threshold, device)

    @property
    def network(self) -> nn.Module:
        """The student, which is optimised."""
        return self._network

    def weights(self) -> dict[str, nn.Module]:
        """Modules that a checkpoint saves, by name."""
        return {"student": self._network, "teacher": self._teacher}

    def begin_step(self) -> None:
        """Forget what a step that was skipped has gathered."""
        if self._thresholds is not None:
            self._thresholds.discard()
        if self._tools.bank is not None:
            self._tools.bank.discard()

    def losses(self, source: ClipBatch, target: ClipBatch | None) -> Iterator[Loss]:
        """Yield one loss per graph; detached entries are only logged."""
        if target is None:
            raise ValueError("SelfTrainingStep.losses needs target clips")
        clips = Round(source, target, self._label(target), self._updates / self._steps)
        if self._method.student == "frames":
            clips = single_frames(clips, self._tools.labelled.seed)
        yield "confidence", clips.pseudo.confident.mean()
        if needs_instances(self._method):
            yield "instances", clips.pseudo.verified.sum(1).float().mean()
        for name, graph in GRAPHS.items():
            yield from summed(name, graph(self._tools, clips))

    def after_update(self) -> None:
        """Move teacher, thresholds and memory on; statistics of the teacher's own are averaged over the processes."""
        own = self._method.target_statistics
        momentum = ema_momentum(self._updates, self._method.alpha)
        ema_update(self._teacher, self._network, momentum, statistics=not own)
        if own:
            buffers = self._teacher.state_dict(keep_vars=True)
            for name in sorted(statistics_names(self._teacher)):
                if buffers[name].is_floating_point():
                    buffers[name].copy_(self._reduce(buffers[name]))
        if self._thresholds is not None:
            self._thresholds.commit(self._reduce)
        if self._tools.bank is not None:
            self._tools.bank.commit(self._gather)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Counters, thresholds and memory; the teacher's weights are among ``weights()``."""
        state: dict[str, Any] = {"updates": self._updates}
        if self._thresholds is not None:
            state["thresholds"] = self._thresholds.state_dict()
        if self._tools.bank is not None:
            state["bank"] = self._tools.bank.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._updates = int(state["updates"])
        if self._thresholds is not None:
            self._thresholds.load_state_dict(state["thresholds"])
        if self._tools.bank is not None:
            self._tools.bank.load_state_dict(state["bank"])

    def _label(self, target: ClipBatch) -> PseudoLabels:
        """The teacher's view of the target clips."""
        limits = self._limits if self._thresholds is None else self._thresholds.thresholds()
        with own_statistics(self._teacher) if self._method.target_statistics else nullcontext():
            pseudo = pseudo_labels(
                self._teacher,
                target,
                self._method,
                thresholds=limits,
                new_tracker=self._new_tracker if needs_instances(self._method) else None,
                reduce=self._reduce,
            )
        if self._thresholds is not None:
            self._thresholds.stage(pseudo.semantic, pseudo.confidence, target.ignored)
        return pseudo


def needs_instances(method: MethodConfig) -> bool:
    """Whether some part of a method trains on pseudo-instances."""
    mix, identity = method.class_mix, method.identity_contrast
    return (
        method.instance_mix is not None
        or (mix is not None and mix.instance_weight > 0)
        or (identity is not None and identity.target)
    )
