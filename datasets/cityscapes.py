"""Cityscapes: street scenes of 50 cities with fine panoptic labels (Cordts et al., CVPR 2016).

``instanceIds`` pictures hold everything: below 1000 the label id itself (stuff, void or a group region of a thing
class), from 1000 up ``label id · 1000 + number`` of a single instance.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from vidapt.datasets.frame_index import Frame, Problem, Video, files_below, still
from vidapt.datasets.instance_codes import split_instance_ids
from vidapt.datasets.listing import missing_pictures, used_labels
from vidapt.datasets.stored import DatasetCard, StoredArguments, StoredDataset
from vidapt.io.images import read_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

LICENCE = "Cityscapes terms: research and other non-commercial use, no redistribution"
HOME = "https://www.cityscapes-dataset.com"


FINE_SPLITS = ("train", "val")
"""Splits with fine labels; those of ``test`` are withheld (its files show void only), ``train_extra`` is coarse."""


class Cityscapes(StoredDataset):
    """Still images of Cityscapes with their fine labels; arguments as in ``StoredDataset``.

    Args:
        instances: False reads the ``labelIds`` pictures and gives semantic labels only.
    """

    card = DatasetCard(
        name="cityscapes",
        title="Cityscapes",
        labels="panoptic",
        video=False,
        splits={"train": 2975, "val": 500, "test": 1525, "train_extra": 19998},
        layout=(
            "leftImg8bit/<split>/<city>/<city>_<seq>_<frame>_leftImg8bit.png\n"
            "gtFine/<split>/<city>/<city>_<seq>_<frame>_gtFine_instanceIds.png (semantic only: _labelIds.png)"
        ),
        licence=LICENCE,
        home=HOME,
        checked="checked on real files",
        unlabelled=("test", "train_extra"),
    )
    space = "cityscapes_ids"

    def __init__(
        self, root: str | Path, split: str = "train", *, instances: bool = True, **arguments: Unpack[StoredArguments]
    ) -> None:
        self.has_instances = instances
        super().__init__(root, split, **arguments)

    def find_videos(self) -> list[Video]:
        """List the pictures of the split."""
        return self.stills("leftImg8bit", "_leftImg8bit.png")

    def stills(self, folder: str, ending: str) -> list[Video]:
        """The pictures of the split below ``folder`` whose names end in ``ending``, each with its fine labels."""
        images = files_below(self.root, f"{folder}/{self.split}", ending)
        named = ((image, image_id(image, ending)) for image in images)
        videos = [still(name, image, self.label_files(name)) for image, name in named]
        self.index_problems = (*self.index_problems, *self.missing_stills(videos, folder, ending))
        return videos

    def missing_stills(self, videos: Iterable[Video], folder: str, ending: str) -> list[Problem]:
        """A problem for each fine label that belongs to no frame of ``videos``; none if labels are not read.

        Args:
            videos: What was found.
            folder: Folder of the pictures.
            ending: Ending of their names.
        """
        if not self.labelled or self.split not in FINE_SPLITS:
            return []
        labels = files_below(self.root, f"gtFine/{self.split}", self.label_ending)

        def picture(label: str) -> tuple[str, str]:
            name = image_id(label, self.label_ending)
            return name, f"{folder}/{self.split}/{name.split('_')[0]}/{name}{ending}"

        return missing_pictures(labels, used_labels(videos), picture)

    @property
    def label_ending(self) -> str:
        """Ending of the label files that are read."""
        return f"_gtFine_{'instanceIds' if self.has_instances else 'labelIds'}.png"

    def label_files(self, name: str) -> tuple[str, ...]:
        """Label files of the frame ``<city>_<seq>_<frame>``; none in splits that have only coarse or no labels."""
        if self.split not in FINE_SPLITS:
            return ()
        return (f"gtFine/{self.split}/{name.split('_')[0]}/{name}{self.label_ending}",)

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode an ``instanceIds`` or ``labelIds`` picture."""
        picture = read_label(self.root / frame.labels[0])
        return split_instance_ids(picture) if self.has_instances else (picture, np.zeros(picture.shape, np.int32))


def image_id(path: str, ending: str) -> str:
    """``<city>_<seq>_<frame>`` of a file of Cityscapes."""
    return path.rpartition("/")[2].removesuffix(ending)
