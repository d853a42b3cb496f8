"""Self-training: the teacher, its pseudo-labels, and the graphs that the student is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vidapt.adaptation.confidence import ClassThresholds
from vidapt.adaptation.ingredients import Ingredients
from vidapt.adaptation.pseudo_labels import PseudoLabels, pseudo_labels
from vidapt.adaptation.rounds import Round, needs_instances, single_frames
from vidapt.adaptation.source_graphs import pasted_graph, source_graph
from vidapt.adaptation.supervised import Loss, summed
from vidapt.adaptation.target_graphs import masked_graph, mixed_graph, patch_graph
from vidapt.adaptation.teacher import average_statistics, ema_momentum, ema_update, make_teacher, own_statistics
from vidapt.clip import ClipBatch
from vidapt.errors import CheckpointError
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
        ingredients: The student, the method and what its parts work with.
        steps: Steps of the run, for parts that begin later.
        new_tracker: Makes the tracker that verifies pseudo-instances over a clip.
        reduce: Averages a tensor over processes after an update; the default is for one process.
        reduce_in_losses: The same within the losses, where another process may have failed.
        gather: Joins the tensors of all processes along their first axis.
    """

    def __init__(
        self,
        ingredients: Ingredients,
        *,
        steps: int,
        new_tracker: Callable[[], OnlineTracker],
        reduce: Callable[[Tensor], Tensor] = identical,
        reduce_in_losses: Callable[[Tensor], Tensor] = identical,
        gather: Callable[[Tensor], Tensor] = identical,
    ) -> None:
        self._ingredients, self._steps = ingredients, steps
        self._new_tracker = new_tracker
        self._reduce, self._reduce_in_losses, self._gather = reduce, reduce_in_losses, gather
        self._network, self._method = ingredients.network, ingredients.method
        self._teacher = make_teacher(ingredients.network)
        self._updates = 0
        labels = self._method.pseudo_labels
        device = ingredients.network.mean.device
        self._limits = torch.full((len(ingredients.network.space),), labels.threshold, device=device)
        self._thresholds: ClassThresholds | None = None
        if labels.class_thresholds is not None:
            classes = len(ingredients.network.space)
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
        if self._ingredients.bank is not None:
            self._ingredients.bank.discard()

    def losses(self, source: ClipBatch, target: ClipBatch | None) -> Iterator[Loss]:
        """Yield one loss per graph; detached entries are only logged."""
        if target is None:
            raise ValueError("SelfTrainingStep.losses needs target clips")
        progress = self._updates / self._steps
        instances = needs_instances(self._method, progress)
        clips = Round(source, target, self._label(target, instances=instances), progress)
        if self._method.student == "frames":
            clips = single_frames(clips, self._ingredients.labelled.seed)
        yield "confidence", clips.pseudo.confident.mean()
        if instances:
            yield "instances", clips.pseudo.verified.sum(1).float().mean()
        for name, graph in GRAPHS.items():
            yield from summed(name, graph(self._ingredients, clips))

    def after_update(self) -> None:
        """Move teacher, thresholds and memory on; statistics of the teacher's own are averaged over the processes."""
        own = self._method.target_statistics
        momentum = ema_momentum(self._updates, self._method.alpha)
        ema_update(self._teacher, self._network, momentum, statistics=not own)
        if own:
            average_statistics(self._teacher, self._reduce)
        if self._thresholds is not None:
            self._thresholds.commit(self._reduce)
        if self._ingredients.bank is not None:
            self._ingredients.bank.commit(self._gather)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Counter, thresholds, memory and the text table's hash; the teacher's weights are among ``weights()``."""
        state: dict[str, Any] = {"updates": self._updates, "text_table": self._ingredients.table_hash}
        if self._thresholds is not None:
            state["thresholds"] = self._thresholds.state_dict()
        if self._ingredients.bank is not None:
            state["bank"] = self._ingredients.bank.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            CheckpointError: If it was trained with another text table.
        """
        known, given = state["text_table"], self._ingredients.table_hash
        if known != given:
            raise CheckpointError(
                f"the run was trained with another text table ({known[:12] or 'none'}) than "
                f"method.text_alignment.table is now ({given[:12] or 'none'}); restore that file"
            )
        self._updates = int(state["updates"])
        if self._thresholds is not None:
            self._thresholds.load_state_dict(state["thresholds"])
        if self._ingredients.bank is not None:
            self._ingredients.bank.load_state_dict(state["bank"])

    def _label(self, target: ClipBatch, *, instances: bool) -> PseudoLabels:
        """The teacher's view of the target clips, with pseudo-instances where a part trains on them."""
        limits = self._limits if self._thresholds is None else self._thresholds.thresholds()
        with own_statistics(self._teacher) if self._method.target_statistics else nullcontext():
            pseudo = pseudo_labels(
                self._teacher,
                target,
                self._method,
                thresholds=limits,
                new_tracker=self._new_tracker if instances else None,
                reduce=self._reduce_in_losses,
            )
        if self._thresholds is not None:
            self._thresholds.stage(pseudo.semantic, pseudo.confidence, target.ignored)
        return pseudo
