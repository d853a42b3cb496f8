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

Metric = Literal["ap_coco", "ap_cityscapes", "instance_weighted", "boundary", "constancy"]
"""Metrics that cost extra: instance AP by either definition, iIoU, boundary PQ, video constancy VC8 and VC16."""


class EncoderConfig(Section):
    """A timm model used as a feature pyramid, or a Mix Transformer by its name (``mit_b0`` .. ``mit_b5``)."""

    name: str = "mit_b0"
    pretrained: bool | Path = Field(False, description="true downloads through timm; a path loads a local file.")
    drop_path: Fraction = 0.0
    options: dict[str, int | float | bool | str | list[int]] = Field(
        default_factory=dict, description="Further keyword arguments of the timm model."
    )


class SemanticConfig(Section):
    """DAFormer semantic head."""

    channels: Positive = 256
    dilations: tuple[Positive, ...] = (1, 6, 12, 18)
    dropout: Fraction = 0.1
    norm: Literal["batch", "group"] = "batch"


class InstanceConfig(Section):
    """Centre/offset instance head (Panoptic-DeepLab) on its own light decoder."""

    kind: Literal["center_offset"] = "center_offset"
    channels: Positive = 128
    norm: Literal["batch", "group"] = "batch"
    sigma: float = Field(
        8.0, gt=0, description="Gaussian radius of a centre in pixels at 1024 rows; scales with height."
    )
    minimum_sigma: float = Field(2.0, gt=0, description="Lower limit of the scaled radius, in pixels.")
    center_weight: NotNegative = 200.0
    offset_weight: NotNegative = 0.01
    threshold: Fraction = Field(0.1, description="Smallest centre score that becomes an instance.")
    kernel: Positive = Field(7, description="Side of the maximum filter over centres, in output cells (odd).")
    top_k: Positive = 200


class ProjectionConfig(Section):
    """Two-layer projection head for contrast and for the tracker's embeddings."""

    dim: Positive = 32
    hidden: Positive = 128


class ModelConfig(Section):
    """The panoptic network."""

    encoder: EncoderConfig = EncoderConfig()
    semantic: SemanticConfig = SemanticConfig()
    instance: InstanceConfig = InstanceConfig()
    projection: ProjectionConfig = ProjectionConfig()


class AugmentConfig(Section):
    """Strong augmentation of mixed clips, one draw for all frames of a clip (DAFormer 1.1)."""

    jitter: Fraction = Field(0.2, description="Brightness, contrast, saturation and hue strength.")
    jitter_probability: Fraction = 0.8
    blur_probability: Fraction = 0.5


class ClassMixConfig(Section):
    """ClassMix over a clip: half of the source classes are pasted on all frames."""

    weight: NotNegative = Field(1.0, description="Weight of the semantic loss on mixed clips; 0 switches the part off.")
    instance_weight: NotNegative = Field(1.0, description="Weight of the instance losses on mixed clips.")


class InstanceMixConfig(Section):
    """IMix over a clip: tracked, confident target instances are pasted into source clips with one id."""

    weight: NotNegative = Field(1.0, description="Weight of the instance losses on pasted clips; 0 switches it off.")
    semantic_weight: NotNegative = Field(0.0, description="Weight of the semantic loss on pasted clips.")
    score: Fraction = Field(0.5, description="Every frame's instance score must reach this.")
    agreement: Fraction = Field(0.8, description="Share of the track's class votes that must agree.")


class PixelContrastConfig(Section):
    """Supervised pixel contrast on source clips (PiPa, ``per_positive`` form)."""

    weight: NotNegative = 0.1
    temperature: float = Field(0.1, gt=0)
    per_class: Positive = 100
    total: Positive = 1024
    min_pixels: Positive = 20
    start_step: int = Field(0, ge=0)


class TemporalContrastConfig(Section):
    """Contrast between the same place in neighbouring target frames (PiPa++), gated by teacher agreement."""

    weight: NotNegative = 0.1
    temperature: float = Field(0.1, gt=0)
    total: Positive = Field(512, description="Places drawn per frame pair.")
    warp: bool = Field(True, description="Follow DIS optical flow; false compares the same coordinates.")
    start_step: int = Field(0, ge=0)


class MethodConfig(Section):
    """Self-training on unlabelled target clips: the parts it uses, with their weights."""

    alpha: Fraction = Field(0.999, description="EMA of the teacher, ramped as min(1 - 1/(t+1), alpha).")
    target_statistics: bool = Field(
        False,
        description="true: the teacher's batch normalisation keeps target statistics (AdaBN; DAFormer's decoder too); "
        "false: they are averaged from the student's.",
    )
    threshold: Fraction = Field(0.968, description="Teacher confidence that counts towards the pseudo-label weight.")
    augment: AugmentConfig = AugmentConfig()
    class_mix: ClassMixConfig = ClassMixConfig()
    instance_mix: InstanceMixConfig = InstanceMixConfig()
    pixel_contrast: PixelContrastConfig = PixelContrastConfig()
    temporal_contrast: TemporalContrastConfig = TemporalContrastConfig()


class SourceAugmentConfig(AugmentConfig):
    """Photometric distortion of labelled clips; off by default."""

    jitter: Fraction = 0.0
    blur_probability: Fraction = 0.0


class TrainingConfig(Section):
    """The training loop."""

    steps: Positive = 40000
    batch: Positive = Field(2, description="Clips per step and domain, over all processes and accumulated parts.")
    accumulate: Positive = Field(1, description="Parts into which a process splits its share of the batch.")
    clip_length: Positive = 2
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
    batch: Positive = Field(4, description="Frames per network call; changes speed only.")
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
