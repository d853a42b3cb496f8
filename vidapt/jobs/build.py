"""From a recipe to its network, its training step and its clips."""

from __future__ import annotations

import copy
import logging
import sys
from typing import Any

import torch
from accelerate import Accelerator

from vidapt.adaptation.feature_distance import thing_table
from vidapt.adaptation.ingredients import Ingredients
from vidapt.adaptation.memory import MemoryBank
from vidapt.adaptation.rare_classes import RareClassDraw
from vidapt.adaptation.step import SelfTrainingStep, identical
from vidapt.adaptation.supervised import Labelled, SupervisedStep
from vidapt.config import ModelConfig, Recipe, TrackingConfig
from vidapt.config_method import MethodConfig
from vidapt.config_model import PixelProjectionConfig, TextProjectionConfig
from vidapt.engine.agreement import mean_in_losses
from vidapt.engine.distributed import all_reduce_mean, gather_tensor, on_main, rank
from vidapt.engine.loading import clip_loader
from vidapt.engine.train import Loader
from vidapt.jobs.clip_counts import clip_class_counts
from vidapt.jobs.data import class_counts
from vidapt.jobs.weights import find_weights
from vidapt.labels import LabelSpace, find_space
from vidapt.models.encoder import Encoder, build_encoder
from vidapt.models.losses import class_weights
from vidapt.models.network import PanopticNetwork
from vidapt.models.network import build_network as new_network
from vidapt.models.network_file import load_weights
from vidapt.models.text import find_table
from vidapt.segmenter import new_tracker
from vidapt.tracking.tracker import OnlineTracker
from vidapt.transforms import StrongAugment, TrainTransform


def model_config(recipe: Recipe, space: LabelSpace) -> ModelConfig:
    """The recipe's architecture with the projections that its method needs.

    Raises:
        UserError: If the method's text table cannot be used.
    """
    model, method = recipe.model, recipe.method
    if method is None:
        return model
    changes: dict[str, Any] = {}
    if model.pixel_projection is None and (method.pixel_contrast or method.patch_contrast or method.temporal_contrast):
        changes["pixel_projection"] = PixelProjectionConfig()
    if (align := method.text_alignment) is not None:
        width = find_table(align.table, space).embeddings.shape[1]
        changes["text"] = TextProjectionConfig(dim=width, at=align.at, project=align.project)
    return model.model_copy(update=changes)


def build_network(recipe: Recipe, *, fresh: bool) -> PanopticNetwork:
    """The network before its first step; if not ``fresh``, with weights that a checkpoint is going to replace.

    Raises:
        UserError: If the architecture, its pretrained weights or ``training.initial`` cannot be used.
    """
    space, initial = find_space(recipe.labels), recipe.training.initial
    model = model_config(recipe, space)
    if not fresh or initial is not None:
        model = model.model_copy(update={"encoder": model.encoder.model_copy(update={"pretrained": False})})
    torch.manual_seed(recipe.training.seed)
    # The hub's client reports every attempt; the error that the encoder raises says the same in one line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    network = new_network(model, space)
    if fresh and initial is not None:
        load_weights(network, find_weights(initial).path)
    return network


def build_step(
    recipe: Recipe, network: PanopticNetwork, source: Any, device: torch.device, *, dry_run: bool = False
) -> SupervisedStep | SelfTrainingStep:
    """What one training iteration of a recipe computes.

    Args:
        recipe: The stage's recipe.
        network: What is trained, on ``device``.
        source: Labelled clips; class weights come from their pixels.
        device: Where training runs.
        dry_run: Neither load nor download the pretrained encoder that a feature distance compares with, and exchange
            nothing with other processes: the main one measures its step alone.
    """
    space, weight = network.space, None
    if recipe.training.class_balance > 0:
        weight = class_weights(class_counts(source, len(space)), recipe.training.class_balance).to(device)
    distort = recipe.training.augment
    augment = StrongAugment(distort.jitter, distort.jitter_probability, distort.blur_probability)
    labelled = Labelled(recipe.training.seed, weight, augment)
    if recipe.method is None:
        return SupervisedStep(network, labelled)
    score = recipe.method.pseudo_instances.score
    return SelfTrainingStep(
        _ingredients(recipe, recipe.method, network, labelled, device, dry_run=dry_run),
        steps=recipe.training.steps,
        new_tracker=lambda: verifying_tracker(recipe.tracking, score, len(space)),
        reduce=identical if dry_run else all_reduce_mean,
        reduce_in_losses=identical if dry_run else mean_in_losses,
        gather=identical if dry_run else gather_tensor,
    )


def verifying_tracker(tracking: TrackingConfig, score: float, classes: int) -> OnlineTracker:
    """The tracker that verifies pseudo-instances: the one of videos, but it starts tracks from ``score`` on.

    Args:
        tracking: How videos are tracked; limits on scores that are above ``score`` are lowered to it.
        score: Score that a pseudo-instance must reach.
        classes: Number of classes.
    """
    limits = {name: min(getattr(tracking, name), score) for name in ("birth_score", "high_score", "low_score")}
    return new_tracker(tracking.model_copy(update=limits), classes, None)


def _ingredients(
    recipe: Recipe,
    method: MethodConfig,
    network: PanopticNetwork,
    labelled: Labelled,
    device: torch.device,
    *,
    dry_run: bool,
) -> Ingredients:
    space, distance, contrast = network.space, method.feature_distance, method.pixel_contrast
    bank = None
    if contrast is not None and contrast.bank is not None and network.config.pixel_projection is not None:
        bank = MemoryBank(len(space), network.config.pixel_projection.dim, contrast.bank, device)
    align = method.text_alignment
    text = None if align is None else find_table(align.table, space)
    return Ingredients(
        network,
        method,
        labelled,
        reference=_reference(recipe, network, device, dry_run=dry_run),
        distant=None if distance is None else thing_table(space, distance.classes).to(device),
        table=None if text is None else text.embeddings.to(device),
        table_hash="" if text is None else text.hash,
        bank=bank,
    )


def _reference(recipe: Recipe, network: PanopticNetwork, device: torch.device, *, dry_run: bool) -> Encoder | None:
    """The frozen encoder of the feature distance; without pretrained weights that part is off and says so."""
    method, encoder = recipe.method, recipe.model.encoder
    if method is None or method.feature_distance is None or method.feature_distance.weight == 0:
        return None
    if encoder.pretrained is False:
        if rank() == 0 and not dry_run:
            reason = "model.encoder.pretrained is false, so there are no pretrained features to keep to"
            print(f"method.feature_distance is off: {reason}", file=sys.stderr)
        return None
    found = copy.deepcopy(network.encoder) if dry_run else build_encoder(encoder)
    return found.to(device).requires_grad_(False).eval()


def build_loader(dataset: Any, recipe: Recipe, domain: str, accelerator: Accelerator) -> Loader:
    """The stream of training clips of a domain, ``source`` or ``target``."""
    config, transform = recipe.training, TrainTransform(recipe.training.crop, recipe.training.scale)
    draw = _rare_class_draw(recipe, dataset, transform) if domain == "source" else None
    return lambda start_step: clip_loader(
        dataset,
        transform,
        seed=config.seed,
        domain=domain,
        batch=config.batch,
        start_step=start_step,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        accumulate=config.accumulate,
        workers=config.workers,
        draw=draw,
    )


def _rare_class_draw(recipe: Recipe, dataset: Any, transform: TrainTransform) -> RareClassDraw | None:
    if recipe.method is None or recipe.method.rare_classes is None:
        return None
    counts = on_main(lambda: clip_class_counts(dataset, len(find_space(recipe.labels))))
    return RareClassDraw(
        dataset, transform, counts.clips, counts.pixels, counts.frequencies, recipe.method.rare_classes
    )
