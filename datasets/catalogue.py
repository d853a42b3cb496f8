"""The published data sets by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vidapt.errors import InputError

if TYPE_CHECKING:
    from vidapt.datasets.stored import StoredDataset

CLASSES = {
    "cityscapes": ("cityscapes", "Cityscapes"),
    "cityscapes_sequence": ("cityscapes_sequence", "CityscapesSequence"),
    "cityscapes_vps": ("cityscapes_vps", "CityscapesVps"),
    "foggy_cityscapes": ("foggy_cityscapes", "FoggyCityscapes"),
    "synthia": ("synthia", "Synthia"),
    "synthia_seq": ("synthia_seq", "SynthiaSeq"),
    "gta5": ("gta5", "Gta5"),
    "viper": ("viper", "Viper"),
    "mapillary": ("mapillary", "Mapillary"),
    "acdc": ("acdc", "Acdc"),
    "dark_zurich": ("dark_zurich", "DarkZurich"),
    "bdd100k": ("bdd100k", "Bdd100k"),
    "kitti_step": ("kitti_step", "KittiStep"),
    "vipseg": ("vipseg", "VipSeg"),
    "coco_panoptic": ("coco_panoptic", "CocoPanoptic"),
    "carla": ("carla", "Carla"),
}
"""File below vidapt.datasets and class, by the name that recipes and the command line use."""


def find_dataset(name: str) -> type[StoredDataset]:
    """The class of the data set ``name``; imports its file only.

    Raises:
        InputError: If there is none of that name.
    """
    if name not in CLASSES:
        raise InputError(f"no data set {name!r}; allowed: {', '.join(CLASSES)}")
    module, attribute = CLASSES[name]
    found: type[StoredDataset] = getattr(import_module(f"vidapt.datasets.{module}"), attribute)
    return found
