"""The method section of a recipe: the parts that self-training uses, with their weights.

A part that is null is off; ``method.class_mix=null`` switches it off in any recipe, weights of 0 do too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from vidapt.config_data import Fraction, NotNegative, Positive, Section


class WeightedPart(Section):
    """A part with a weight, which may begin later in the run."""

    weight: NotNegative = 1.0
    start: Fraction = Field(0.0, lt=1, description="Share of the steps after which it begins.")

    @property
    def used(self) -> bool:
        """Whether one of its weights is above 0."""
        return self.weight > 0


class AugmentConfig(Section):
    """Strong augmentation of mixed clips, one draw for all frames of a clip (DAFormer 1.1)."""

    jitter: Fraction = Field(0.2, description="Brightness, contrast, saturation and hue strength.")
    jitter_probability: Fraction = 0.8
    blur_probability: Fraction = 0.5


class ClassThresholdsConfig(Section):
    """One confidence threshold per class that follows the teacher (MC-PanDA++, section 3)."""

    momentum: Fraction = Field(0.999, lt=1)
    quantile: Fraction = Field(0.75, description="Quantile of the confidence in a class that its threshold follows.")


class PseudoLabelConfig(Section):
    """How far the teacher's classes are trusted."""

    threshold: Fraction = Field(0.968, description="Probability from which a pixel counts as confident.")
    class_thresholds: ClassThresholdsConfig | None = Field(
        None, description="Thresholds per class, never above 'threshold'; null uses that one for all."
    )
    weight: Literal["batch", "clip", "segment", "pixel"] = Field(
        "batch",
        description="Trust in a pixel: share of confident pixels in the batch (DACS), in its clip, among those of its "
        "class in its clip (MC-PanDA's mask weight), or 1 where it is confident itself.",
    )
    neighbours: bool = Field(
        False,
        description="true: average the teacher's probabilities with those of the neighbouring frames, along "
        "DIS optical flow.",
    )
    mirrored: bool = Field(
        False, description="true: average the teacher's probabilities with those of the mirror image."
    )


class PseudoInstanceConfig(Section):
    """Which of the teacher's instances become pseudo-instances, verified by the tracker over the target clip."""

    score: Fraction = Field(
        0.75,
        description="Score that an instance must reach on every frame where it counts. The tracker that verifies it "
        "lowers tracking.birth_score, high_score and low_score to this one where they are above it.",
    )
    agreement: Fraction = Field(0.0, description="Share of the track's class votes that must agree.")
    hits: Fraction = Field(1.0, gt=0, description="Share of the clip's frames in which the track must be found.")
    weight: Literal["one", "confident"] = Field(
        "one", description="Weight of an instance's losses: 1, or its share of confident pixels on its worst frame."
    )


class RareClassConfig(Section):
    """Rare class sampling of source clips (DAFormer 3.3): a class first, then a clip that shows enough of it."""

    temperature: float = Field(0.01, gt=0)
    min_share: Fraction = Field(
        0.003, description="Share of a frame that the class must exceed to be drawn for it (paper: 3000 of 1280x760)."
    )
    crop_share: NotNegative = Field(
        0.5, description="Crops are redrawn until they hold this share of the pixels that a frame must exceed."
    )
    tries: Positive = Field(10, description="Crops that are drawn at most.")


class ColourTransferConfig(Section):
    """Source clips take the colour statistics of a target clip (mean and spread in Lab space)."""

    probability: Fraction = 1.0
    strength: Fraction = Field(1.0, description="1 takes the target's statistics over, 0 none of them.")


class FeatureDistanceConfig(WeightedPart):
    """Distance to the features of the frozen pretrained encoder on thing classes (DAFormer 3.4)."""

    weight: NotNegative = 0.005
    classes: tuple[str, ...] | None = Field(
        None, description="Classes that count, those that the label space lacks left out; null is all things."
    )
    min_share: Fraction = Field(0.75, description="Share of a cell that its class must fill.")


class PixelSamplingConfig(Section):
    """Semantic loss of mixed clips on sampled pixels: hard ones among the confident, and random ones (MC-PanDA)."""

    share: Fraction = Field(0.25, gt=0, description="Share of the pixels that is kept.")
    confidence: Fraction = Field(0.8, description="Pixels below are never chosen as hard ones.")
    random_share: Fraction = Field(0.25, description="Share of the kept pixels that is random.")


class ClassMixConfig(WeightedPart):
    """ClassMix over a clip: half of the source classes are pasted on all frames.

    With both weights 0 classes are still pasted for the other losses on mixed clips; null pastes nothing.
    """

    weight: NotNegative = Field(1.0, description="Weight of the semantic loss on mixed clips.")
    instance_weight: NotNegative = Field(
        0.0, description="Weight of the instance losses on mixed clips; the image methods have none."
    )
    sampling: PixelSamplingConfig | None = None

    @property
    def used(self) -> bool:
        """Whether one of its weights is above 0."""
        return self.weight > 0 or self.instance_weight > 0


class InstanceMixConfig(WeightedPart):
    """IMix over a clip: pseudo-instances of the target are pasted into source clips, one id on all frames (LIDAPS)."""

    weight: NotNegative = Field(1.0, description="Weight of the instance losses on pasted clips.")
    semantic_weight: NotNegative = Field(0.0, description="Weight of the semantic loss on pasted clips.")
    direction: Literal["target_to_source", "source_to_target"] = Field(
        "target_to_source",
        description="What is pasted where; source_to_target leaves the target's own objects unlabelled.",
    )
    start: Fraction = Field(0.0, lt=1, description="Share of the steps after which it begins (LIDAPS: 0.8).")

    @property
    def used(self) -> bool:
        """Whether one of its weights is above 0."""
        return self.weight > 0 or self.semantic_weight > 0


class MaskedConsistencyConfig(WeightedPart):
    """Masked image consistency (MIC): the student predicts the pseudo-labels of a clip that it sees in part."""

    ratio: Fraction = Field(0.7, description="Share of the blocks that is hidden.")
    block: Positive = Field(64, description="Side of a block in pixels.")


class TextAlignmentConfig(WeightedPart):
    """CDA: pixels are classified by their similarity to text embeddings of the classes (LIDAPS)."""

    table: Path | Literal["orthonormal"] = Field(
        description="File that 'vidapt text build' made; orthonormal is a seeded table without meaning, for tests."
    )
    at: Literal["decoder", "encoder"] = "decoder"
    project: bool = Field(
        True, description="Project the features to the width of the table; false: they have it (LIDAPS: 768 channels)."
    )
    temperature: float | None = Field(
        None, gt=0, description="Of cosines between normalised vectors; null uses the table as it is (LIDAPS)."
    )
    mixed: bool = Field(
        True, description="Align mixed clips too, not the source alone; without class_mix there are none."
    )
    weighted: bool = Field(
        False, description="Weigh mixed clips by the trust in their pseudo-labels (LIDAPS does not)."
    )


class MemoryBankConfig(Section):
    """A ring of stored features for each class (PiPa++)."""

    size: Positive = Field(1024, description="Rows per class.")
    per_step: Positive = Field(16, description="Rows that each clip adds per class and step.")


class PixelContrastConfig(WeightedPart):
    """Supervised pixel contrast on source clips (PiPa, ``per_positive`` form)."""

    weight: NotNegative = 0.1
    temperature: float = Field(0.1, gt=0)
    per_class: Positive = 100
    total: Positive = 1024
    min_pixels: Positive = Field(20, description="Cells of a class that a clip must exceed to give anchors for it.")
    bank: MemoryBankConfig | None = Field(
        None, description="Further samples from a class-wise memory; null: the frames of the clip alone."
    )


class PatchContrastConfig(WeightedPart):
    """Contrast between two overlapping crops of one target frame, both seen by the student (PiPa)."""

    weight: NotNegative = 0.1
    temperature: float = Field(0.1, gt=0)
    crop: Fraction = Field(0.7, gt=0, description="Side of a crop relative to the frame.")
    min_overlap: Fraction = Field(0.1, description="Smallest overlap of the two crops (IoU).")
    confidence: Fraction = Field(0.9, description="Confidence that the other view must have to be followed.")
    total: Positive = Field(512, description="Places drawn per frame.")


class TemporalContrastConfig(WeightedPart):
    """Contrast between the same place in neighbouring target frames (PiPa++), gated by teacher agreement.

    ``training.interval`` is the distance of the frames.
    """

    weight: NotNegative = 0.1
    temperature: float = Field(0.1, gt=0)
    total: Positive = Field(512, description="Places drawn per frame pair.")
    warp: bool = Field(False, description="Follow DIS optical flow; false compares the same coordinates (PiPa++).")


class IdentityContrastConfig(WeightedPart):
    """Contrast between instances: the same track in another frame or view against the other instances of the clip."""

    weight: NotNegative = 0.1
    temperature: float = Field(0.1, gt=0)
    source: bool = Field(True, description="Train on the ids of source labels.")
    target: bool = Field(True, description="Train on verified pseudo-instances of mixed clips.")


class TemporalConsistencyConfig(WeightedPart):
    """Neighbouring target frames get equal probabilities along the flow, where the teacher agrees (ETC)."""

    weight: NotNegative = 0.1
    warp: bool = Field(True, description="Follow DIS optical flow; false compares the same coordinates.")


class MethodConfig(Section):
    """Self-training on unlabelled target clips: the parts it uses, with their weights."""

    alpha: Fraction = Field(0.999, description="EMA of the teacher, ramped as min(1 - 1/(t+1), alpha).")
    target_statistics: bool = Field(
        False,
        description="true: the teacher's batch normalisation keeps target statistics (AdaBN; DAFormer's decoder too); "
        "false: they are averaged from the student's.",
    )
    student: Literal["clips", "frames"] = Field(
        "clips",
        description="frames: the teacher's tracker looks at whole clips, the student trains on one frame of each, so "
        "that a step shows more scenes.",
    )
    pseudo_labels: PseudoLabelConfig = PseudoLabelConfig()
    pseudo_instances: PseudoInstanceConfig = PseudoInstanceConfig()
    augment: AugmentConfig = AugmentConfig()
    rare_classes: RareClassConfig | None = None
    colour_transfer: ColourTransferConfig | None = None
    feature_distance: FeatureDistanceConfig | None = None
    class_mix: ClassMixConfig | None = None
    instance_mix: InstanceMixConfig | None = None
    masked_consistency: MaskedConsistencyConfig | None = None
    text_alignment: TextAlignmentConfig | None = None
    pixel_contrast: PixelContrastConfig | None = None
    patch_contrast: PatchContrastConfig | None = None
    temporal_contrast: TemporalContrastConfig | None = None
    identity_contrast: IdentityContrastConfig | None = None
    temporal_consistency: TemporalConsistencyConfig | None = None

    @model_validator(mode="after")
    def _frames_are_not_compared(self) -> MethodConfig:
        if self.student == "frames":
            for name in ("temporal_contrast", "temporal_consistency"):
                part = getattr(self, name)
                if part is not None and part.used:
                    raise ValueError(
                        f"student: frames shows the student one frame of each clip, but {name} compares neighbouring "
                        f"ones; set student to clips or {name} to null"
                    )
        return self
