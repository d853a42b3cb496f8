"""The model section of a recipe: encoder, heads and projections of the panoptic network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from vidapt.config_data import Fraction, NotNegative, Positive, Section, Size

Norm = Literal["batch", "group"]


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
    norm: Norm = "batch"


class CenterOffsetConfig(Section):
    """Centre/offset instance head (Panoptic-DeepLab) on its own light decoder."""

    kind: Literal["center_offset"] = "center_offset"
    channels: Positive = 128
    norm: Norm = "batch"
    sigma: float = Field(
        8.0, gt=0, description="Gaussian radius of a centre in pixels at 1024 rows; scales with height."
    )
    minimum_sigma: float = Field(2.0, gt=0, description="Lower limit of the scaled radius, in pixels.")
    center_weight: NotNegative = 200.0
    offset_weight: NotNegative = 0.01
    threshold: Fraction = Field(0.1, description="Smallest centre score that becomes an instance.")
    kernel: Positive = Field(7, description="Side of the maximum filter over centres, in output cells (odd).")
    top_k: Positive = 200


class MaskRCNNConfig(Section):
    """Mask R-CNN instance head on a feature pyramid over the encoder; values of EDAPS."""

    kind: Literal["mask_rcnn"] = "mask_rcnn"
    channels: Positive = Field(256, description="Width of the feature pyramid.")
    norm: Literal["none", "batch", "group"] = Field(
        "none", description="Norm of the feature pyramid; DINOv2 encoders need group (MC-PanDA++)."
    )
    box_channels: Positive = Field(1024, description="Width of the two shared layers of the box head.")
    mask_channels: Positive = 256
    anchor_scale: float = Field(8.0, gt=0, description="Side of an anchor in cells of its level.")
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_samples: Positive = Field(256, description="Anchors per frame in the proposal loss, half of them positive.")
    proposals_before_nms: Positive = Field(2000, description="Per level; half as many without training.")
    proposals: Positive = 1000
    roi_samples: Positive = Field(512, description="Proposals per frame in the box and mask losses.")
    positive_share: Fraction = Field(0.25, description="Share of roi_samples that may be positive.")
    score: Fraction = Field(0.05, description="Smallest score of a detection.")
    nms: Fraction = Field(0.5, description="Overlap of boxes above which the weaker detection is dropped.")
    detections: Positive = Field(100, description="Largest number per frame.")
    loss_weight: NotNegative = Field(1.0, description="Weight of each of the five losses.")


def _instance_kind(value: Any) -> str:
    kind = value.get("kind", "center_offset") if isinstance(value, dict) else getattr(value, "kind", "")
    return str(kind)


InstanceHeadConfig = Annotated[
    Annotated[CenterOffsetConfig, Tag("center_offset")] | Annotated[MaskRCNNConfig, Tag("mask_rcnn")],
    Discriminator(_instance_kind),
]
"""The instance head, named by ``kind``; centre/offset where it is left out."""


class ProjectionConfig(Section):
    """Two-layer projection head: the tracker's embeddings, which identity contrast trains."""

    dim: Positive = 32
    hidden: Positive = 128


class PixelProjectionConfig(ProjectionConfig):
    """Two-layer projection head for contrast between pixels of classes (PiPa); not used without training."""

    dim: Positive = 128
    hidden: Positive = 256


class MultiResolutionConfig(Section):
    """HRDA: a context view of the whole frame and a detail crop at full size, joined by a learned attention.

    Instances and embeddings read the context view.
    """

    context_scale: Fraction = Field(
        0.5, gt=0, description="Size of the context view relative to the frame: 1, 0.5, 0.25 or a further half."
    )
    detail: Size | None = Field(
        None,
        description="Height and width of the detail crop in pixels, rounded up to whole cells of the context view "
        "(8 pixels at half size); null is half of the frame's.",
    )
    detail_weight: Fraction = Field(0.1, description="Share of the loss on the detail crop alone.")
    attention_channels: Positive = 256
    overlap: Fraction = Field(0.5, lt=1, description="Overlap of detail windows where the whole frame is segmented.")


class TextProjectionConfig(Section):
    """Where features meet text embeddings; set from the text table of ``method.text_alignment``."""

    dim: Positive = Field(description="Width of the text embeddings.")
    at: Literal["decoder", "encoder"] = Field(
        "decoder", description="The semantic head's map, or the last encoder map."
    )
    project: bool = Field(True, description="false needs a map that is as wide as the embeddings (LIDAPS).")


class ModelConfig(Section):
    """The panoptic network."""

    encoder: EncoderConfig = EncoderConfig()
    semantic: SemanticConfig = SemanticConfig()
    instance: InstanceHeadConfig = CenterOffsetConfig()
    projection: ProjectionConfig = ProjectionConfig()
    pixel_projection: PixelProjectionConfig | None = Field(
        None, description="null: none; pixel, patch and temporal contrast add it with its default widths."
    )
    multi_resolution: MultiResolutionConfig | None = None
    text: TextProjectionConfig | None = None
