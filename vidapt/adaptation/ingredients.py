"""What the graphs of a self-training step are made from: the student, the method and what its parts need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vidapt.adaptation.memory import MemoryBank
from vidapt.adaptation.sampling import Purpose, clip_generators, clip_rngs
from vidapt.adaptation.supervised import Labelled
from vidapt.clip import ClipBatch
from vidapt.config_method import MethodConfig
from vidapt.models.encoder import Encoder
from vidapt.models.network import PanopticNetwork
from vidapt.transforms import StrongAugment


@dataclass(frozen=True)
class Ingredients:
    """What stays the same over the steps of a run.

    Attributes:
        network: The student.
        method: The parts and their weights.
        labelled: Seed, class weights and the augmentation of source clips.
        reference: Frozen pretrained encoder of the feature distance, or None.
        distant: bool (256,) classes whose features are compared with the reference's, or None.
        table: float32 (C+1,D) text embeddings, or None.
        bank: Memory of the pixel contrast, or None.
        table_hash: Hash of what the table was computed from; a run goes on with the same only.
    """

    network: PanopticNetwork
    method: MethodConfig
    labelled: Labelled
    reference: Encoder | None = None
    distant: Tensor | None = None
    table: Tensor | None = None
    bank: MemoryBank | None = None
    table_hash: str = ""

    @cached_property
    def augment(self) -> StrongAugment:
        """Strong augmentation of target clips."""
        config = self.method.augment
        return StrongAugment(config.jitter, config.jitter_probability, config.blur_probability)

    def rngs(self, purpose: Purpose, batch: ClipBatch) -> list[np.random.Generator]:
        """One numpy generator per clip."""
        return clip_rngs(self.labelled.seed, purpose, batch.samples)

    def generators(self, purpose: Purpose, batch: ClipBatch) -> list[torch.Generator]:
        """One torch generator per clip, on the clips' device."""
        return list(clip_generators(self.labelled.seed, purpose, batch.samples, batch.frames.device))
