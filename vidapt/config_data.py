"""The data sections of a recipe: one model for each kind of data, named by ``kind``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
Size = tuple[Positive, Positive]
Rows = tuple[Count, Count]


class Section(BaseModel):
    """Base of every part of a recipe: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class DataSection(Section):
    """What every kind of data offers."""

    kind: str
    weight: float = Field(1.0, gt=0, description="Share of the clips that are drawn from it, where source is a list.")
    mapping: str | None = Field(
        None, description="Class mapping into the space that is trained or scored: a name or a file; null finds it."
    )
    ignored_rows: Rows = Field(
        (0, 0), description="Rows at the top and bottom of the scaled frame whose pseudo-labels do not count."
    )

    def own_options(self) -> dict[str, Any]:
        """The keys that only this kind has, for the data set that reads it."""
        shared = (StoredData if isinstance(self, StoredData) else DataSection).model_fields
        return {name: getattr(self, name) for name in type(self).model_fields if name not in shared}


class StreetWorldData(DataSection):
    """Embedded procedural street video (generated; a test bed, not a benchmark)."""

    kind: Literal["street_world"] = "street_world"
    seed: int = Field(0, description="World seed; distinct seeds share no world.")
    videos: Positive = 16
    frames: Positive = 24
    size: Size = (128, 256)
    style: Literal["source", "fog", "night", "texture"] = "source"
    strength: Fraction = 1.0


class VideosData(DataSection):
    """Unlabelled footage: a video file, a folder of videos or frame folders, or a glob."""

    kind: Literal["videos"] = "videos"
    root: Path
    height: Positive | None = Field(
        None, description="Frames are resized to this height, aspect kept; null keeps them."
    )


class LabelledFolderData(DataSection):
    """Labelled footage in the generic folder layout of docs/data.md (``classes.yaml``, images, semantic, instance)."""

    kind: Literal["labelled_folder"] = "labelled_folder"
    root: Path
    height: Positive | None = None


class CamVidData(DataSection):
    """CamVid in the SegNet layout (``train``, ``trainannot``, ``val``, ``valannot``); semantic labels, 11 classes."""

    kind: Literal["camvid"] = "camvid"
    root: Path
    split: Literal["train", "val"] = "train"
    height: Positive | None = None


class StoredData(DataSection):
    """A published data set in its official layout, see docs/datasets.md."""

    root: Path
    split: str = "train"
    height: Positive | None = Field(None, description="Height to scale to, aspect kept; null keeps the stored size.")
    fit: Size | None = Field(None, description="Instead: the box (height, width) into which frames are scaled.")
    trim: Rows = Field((0, 0), description="Rows cut off at the top and bottom of the stored picture, before scaling.")
    every: Positive = Field(1, description="Only key frames whose number is a multiple of this.")
    context: Count | None = Field(
        None, description="Only this many frames, unlabelled, before each key frame; null keeps all frames."
    )
    videos: Positive | None = Field(None, description="Only this many videos, spread evenly; null takes all.")
    damaged: Literal["refuse", "skip"] = Field(
        "refuse", description="What training does about damaged frames: refuse to start, or leave out and count."
    )
    cache: Path | None = Field(None, description="Folder that keeps scaled frames between runs; null keeps none.")

    @model_validator(mode="after")
    def _one_size(self) -> StoredData:
        if self.height is not None and self.fit is not None:
            raise ValueError(f"height {self.height} and fit {list(self.fit)} both give a size; drop one")
        return self


class CityscapesData(StoredData):
    """Cityscapes, still images."""

    kind: Literal["cityscapes"] = "cityscapes"
    instances: bool = Field(True, description="false reads semantic labels only.")


class CityscapesSequenceData(StoredData):
    """Cityscapes sequences: snippets of 30 frames, the 20th labelled."""

    kind: Literal["cityscapes_sequence"] = "cityscapes_sequence"
    instances: bool = Field(True, description="false reads semantic labels only.")


class CityscapesVpsData(StoredData):
    """Cityscapes-VPS: every fifth frame of the sequences with video panoptic labels."""

    kind: Literal["cityscapes_vps"] = "cityscapes_vps"


def _fog_density(value: float) -> float:
    if value not in (0.005, 0.01, 0.02):
        raise ValueError("Input should be 0.005, 0.01 or 0.02")
    return value


class FoggyCityscapesData(StoredData):
    """Foggy Cityscapes: Cityscapes with rendered fog."""

    kind: Literal["foggy_cityscapes"] = "foggy_cityscapes"
    beta: Annotated[float, AfterValidator(_fog_density)] = Field(0.02, description="0.005, 0.01 or 0.02.")
    instances: bool = Field(True, description="false reads semantic labels only.")


class SynthiaData(StoredData):
    """SYNTHIA-RAND-CITYSCAPES."""

    kind: Literal["synthia"] = "synthia"


class SynthiaSeqData(StoredData):
    """SYNTHIA video sequences."""

    kind: Literal["synthia_seq"] = "synthia_seq"
    sequences: tuple[str, ...] = Field(("SYNTHIA-SEQS-04-DAWN",), description="Folders below the root.")
    camera: Literal["Stereo_Left", "Stereo_Right"] = "Stereo_Left"
    view: Literal["Omni_F", "Omni_B", "Omni_L", "Omni_R"] = "Omni_F"


class Gta5Data(StoredData):
    """GTA5 (Playing for Data), semantic labels."""

    kind: Literal["gta5"] = "gta5"


class ViperData(StoredData):
    """VIPER (Playing for Benchmarks), video panoptic labels."""

    kind: Literal["viper"] = "viper"
    ego_vehicle: Literal["keep", "ignore"] = Field(
        "keep", description="ignore: the car that touches the bottom centre carries no label (DA-VSN, TPS, CMOM)."
    )
    instances: bool = Field(True, description="false reads the cls pictures only.")


class MapillaryData(StoredData):
    """Mapillary Vistas."""

    kind: Literal["mapillary"] = "mapillary"
    version: Literal["v1.2", "v2.0"] = Field("v1.2", description="Version of the labels.")


class AcdcData(StoredData):
    """ACDC: Cityscapes classes in adverse conditions."""

    kind: Literal["acdc"] = "acdc"
    conditions: tuple[Literal["fog", "night", "rain", "snow"], ...] = ("fog", "night", "rain", "snow")
    panoptic: Path | None = Field(
        None, description="COCO panoptic JSON of the split below the root, for instances; null gives semantic labels."
    )


class DarkZurichData(StoredData):
    """Dark Zurich: night, twilight and day drives; night validation labels."""

    kind: Literal["dark_zurich"] = "dark_zurich"
    times: tuple[Literal["night", "twilight", "day"], ...] = ("night",)


class Bdd100kData(StoredData):
    """BDD100K: semantic or panoptic labels of images, or tracked instances of videos."""

    kind: Literal["bdd100k"] = "bdd100k"
    labels: Literal["semantic", "panoptic", "seg_track"] = "panoptic"


class KittiStepData(StoredData):
    """KITTI-STEP: video panoptic labels, tracked persons and cars."""

    kind: Literal["kitti_step"] = "kitti_step"


class VipSegData(StoredData):
    """VIPSeg: video panoptic labels in the wild."""

    kind: Literal["vipseg"] = "vipseg"


class CocoPanopticData(StoredData):
    """Any data set in the COCO panoptic format: pictures of ids and one JSON."""

    kind: Literal["coco_panoptic"] = "coco_panoptic"
    json_file: Path | None = Field(None, description="Below the root; null: annotations/panoptic_<split>.json.")
    images: Path | None = Field(None, description="Folder of pictures below the root; null: <split>.")
    panoptic: Path | None = Field(None, description="Folder of id pictures below the root; null: the JSON's name.")


class CarlaData(StoredData):
    """Frames recorded in CARLA: tags and instances."""

    kind: Literal["carla"] = "carla"


Data = Annotated[
    StreetWorldData
    | VideosData
    | LabelledFolderData
    | CamVidData
    | CityscapesData
    | CityscapesSequenceData
    | CityscapesVpsData
    | FoggyCityscapesData
    | SynthiaData
    | SynthiaSeqData
    | Gta5Data
    | ViperData
    | MapillaryData
    | AcdcData
    | DarkZurichData
    | Bdd100kData
    | KittiStepData
    | VipSegData
    | CocoPanopticData
    | CarlaData,
    Field(discriminator="kind"),
]


def _how_many(value: object) -> str:
    return "<list>" if isinstance(value, list | tuple) else "<one>"


Sources = Annotated[
    Annotated[Data, Tag("<one>")] | Annotated[tuple[Data, ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_how_many),
]
"""One data section or a list of them; the names of the two in error locations are left out of messages."""
