"""Recipes: frozen, strictly checked configuration, one field for one thing.

A recipe is YAML with an optional ``extends`` (a list of paths or of names under ``vidapt.configs``, merged left to
right, the file's own keys last). ``--set a.b=c`` values are read by the same YAML parser. Unknown keys are errors
that suggest the nearest name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from vidapt.config_data import CamVidData as CamVidData
from vidapt.config_data import Data as Data
from vidapt.config_data import DataSection as DataSection
from vidapt.config_data import Fraction, NotNegative, Positive, Section, Size, Sources
from vidapt.config_data import LabelledFolderData as LabelledFolderData
from vidapt.config_data import StoredData as StoredData
from vidapt.config_data import StreetWorldData as StreetWorldData
from vidapt.config_data import VideosData as VideosData
from vidapt.config_method import AugmentConfig as AugmentConfig
from vidapt.config_method import ClassMixConfig as ClassMixConfig
from vidapt.config_method import MethodConfig as MethodConfig
from vidapt.config_model import CenterOffsetConfig as CenterOffsetConfig
from vidapt.config_model import EncoderConfig as EncoderConfig
from vidapt.config_model import ModelConfig as ModelConfig
from vidapt.config_model import ProjectionConfig as ProjectionConfig
from vidapt.config_model import SemanticConfig as SemanticConfig

Metric = Literal["ap_coco", "ap_cityscapes", "instance_weighted", "boundary", "constancy"]
"""Metrics that cost extra: instance AP by either definition, iIoU, boundary PQ, video constancy VC8 and VC16."""


class SourceAugmentConfig(AugmentConfig):
    """Photometric distortion of labelled clips; off by default."""

    jitter: Fraction = 0.0
    blur_probability: Fraction = 0.0


class TrainingConfig(Section):
    """The training loop."""

    steps: Positive = 40000
    batch: Positive = Field(2, description="Clips per step and domain, over all processes and accumulated parts.")
    accumulate: Positive = Field(1, description="Parts into which a process splits its share of the batch.")
    clip_length: Positive = Field(1, description="Frames per clip; 1 = single images.")
    interval: Positive = Field(1, description="Distance of a clip's frames in the video.")
    crop: Size = Field((512, 512), description="Height and width of the training crops in pixels.")
    scale: tuple[float, float] = Field((1.0, 1.0), description="Range of the random resize before cropping.")
    augment: SourceAugmentConfig = SourceAugmentConfig()
    lr: float = Field(6e-5, gt=0)
    head_lr_factor: float = Field(10.0, gt=0)
    weight_decay: NotNegative = 0.01
    warmup: int = Field(1500, ge=0)
    power: NotNegative = 1.0
    max_grad_norm: NotNegative = Field(0.0, description="Gradients are clipped to this norm; 0 does not clip.")
    class_balance: Fraction = Field(
        0.0, description="Power p of the class weights frequency^-p in the semantic losses; 0 weighs all alike."
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(0, ge=0)
    workers: int = Field(0, ge=0)
    log_every: Positive = 50
    checkpoint_every: Positive = 4000
    keep: Positive = Field(2, description="Checkpoints kept; older ones are removed.")
    patience: Positive = Field(5, description="Non-finite steps in a row that stop the run.")
    initial: Path | None = Field(
        None, description="Run, checkpoint folder or .safetensors whose weights training starts from."
    )

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> TrainingConfig:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale must be two factors 0 < low <= high, got [{low}, {high}]")
        return self


class TrackingConfig(Section):
    """Online tracker and stabiliser (video_panoptic configuration G)."""

    iou_threshold: Fraction = 0.3
    high_score: Fraction = 0.5
    low_score: Fraction = 0.1
    birth_score: Fraction = 0.5
    memory: Positive = Field(30, description="Frames that a lost track is kept.")
    embedding_threshold: float | Literal["calibrated", "off"] = Field(
        "calibrated", description="Cosine that links lost tracks; 'calibrated' uses the value stored in the checkpoint."
    )
    vote_decay: Fraction = 0.9
    max_tracks: Positive = 256

    @model_validator(mode="after")
    def _levels_are_ordered(self) -> TrackingConfig:
        if self.low_score > self.high_score:
            raise ValueError(f"low_score {self.low_score} is above high_score {self.high_score}; lower it")
        return self


class InferenceConfig(Section):
    """How videos are segmented."""

    height: Positive | None = Field(None, description="Network input height; null uses the frames' own height.")
    smoothing: float = Field(
        0.5, ge=0, lt=1, description="Weight of the past in the probability average over time; 0 is off."
    )
    warp: bool = Field(
        False,
        description="true: the past follows DIS optical flow, and the maps of a centre/offset head are smoothed too; "
        "false: it stays at its pixel.",
    )
    batch: Positive = Field(4, description="Frames per network call; changes speed only.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="bf16 multiplies in half precision: meant for GPUs; labels may change where classes are close.",
    )
    compile: bool = Field(
        False, description="Run the network through torch.compile: a minute or more at the start of each frame size."
    )
    stuff_area: NotNegative = Field(
        2048 / (1024 * 2048), description="Smaller stuff segments become void (share of frame)."
    )
    instance_area: NotNegative = Field(
        32 / (1024 * 2048), description="Smaller instances are dropped (share of frame)."
    )
    weights: Literal["student", "teacher"] = "student"


class EvaluationConfig(Section):
    """The protocol: what is scored on the evaluation videos, and over which classes."""

    protocol: str = Field("", description="The protocol in a few words; printed beside the scores.")
    labels: str | None = Field(
        None, description="Label space that is scored in, a name or a classes.yaml; null is the recipe's labels."
    )
    classes: tuple[str, ...] | None = Field(None, description="Classes that means are taken over; null is all.")
    unscored: Literal["counted", "ignored"] = Field(
        "counted",
        description="Pixels of the other classes: a scored class predicted there is an error, or they are ignored.",
    )
    means: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Further class means of mIoU by name, each over some of the scored classes."
    )
    windows: tuple[Positive, ...] = Field((1, 2, 3, 4), description="VPQ window lengths in labelled frames.")
    long_windows: tuple[Positive, ...] = Field((1, 5, 10, 15), description="Further ones, averaged separately.")
    metrics: tuple[Metric, ...] = Field((), description="Metrics beyond the usual ones.")
    flow: bool = Field(
        True, description="Measure flicker and TC on videos, which takes optical flow and decoding every picture."
    )


class WarmStartConfig(Section):
    """Training on source labels before the adaptation starts; everything else is as in ``training``."""

    steps: Positive
    lr: float | None = Field(None, gt=0, description="null uses training.lr.")
    batch: Positive | None = Field(None, description="Clips per step; null uses training.batch.")
    clip_length: Positive | None = Field(
        None, description="Frames per clip, 1 = single images; null uses training.clip_length. The upper bound too."
    )


class Recipe(Section):
    """One run: data, network, method and schedule."""

    name: str = "run"
    labels: str = Field("cityscapes", description="Label space of the source: a name, or a path to classes.yaml.")
    source: Sources = Field(
        StreetWorldData(), description="Labelled footage; a list is drawn from with the weights of its entries."
    )
    target: Data | None = None
    validation: Data | None = Field(None, description="Labelled source videos that calibrate the tracker.")
    evaluation: Data | None = Field(None, description="Labelled target videos, never trained on.")
    upper_bound: Data | None = Field(
        None,
        description="Labelled target footage: an upper bound is trained on it from the same start, for comparison.",
    )
    train_on: Literal["source", "upper_bound"] = Field(
        "source", description="upper_bound: supervised training on the target's labels, as an oracle."
    )
    model: ModelConfig = ModelConfig()
    method: MethodConfig | None = Field(None, description="null trains on source labels only.")
    warm_start: WarmStartConfig | None = None
    training: TrainingConfig = TrainingConfig()
    tracking: TrackingConfig = TrackingConfig()
    inference: InferenceConfig = InferenceConfig()
    scoring: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _rows_are_ignored_on_the_target(self) -> Recipe:
        sources = self.source if isinstance(self.source, tuple) else (self.source,)
        labelled = [*sources, *filter(None, (self.validation, self.evaluation, self.upper_bound))]
        if any(any(data.ignored_rows) for data in labelled):
            raise ValueError("ignored_rows concern pseudo-labels; give them to the target only")
        return self

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> Recipe:
        for name, data in (("validation", self.validation), ("evaluation", self.evaluation)):
            if isinstance(data, StoredData) and data.cache is not None:
                raise ValueError(
                    f"{name}.cache: kept pictures are compressed; what is scored is read from the originals"
                )
        if self.target is not None and (self.target.weight != 1 or self.target.mapping is not None):
            raise ValueError("target.weight and target.mapping have no effect: the target is one, without labels")
        return self

    @model_validator(mode="after")
    def _method_needs_target(self) -> Recipe:
        if self.method is not None and self.target is None:
            raise ValueError("method needs a target: set target, or method: null for training on source labels only")
        return self

    @model_validator(mode="after")
    def _oracle_needs_labels(self) -> Recipe:
        if self.train_on == "upper_bound" and (self.upper_bound is None or self.method is not None):
            raise ValueError("train_on: upper_bound needs labelled footage in upper_bound, and method: null")
        return self
