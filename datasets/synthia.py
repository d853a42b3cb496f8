"""SYNTHIA-RAND-CITYSCAPES: 9400 rendered street scenes with panoptic labels (Ros et al., CVPR 2016).

Label pictures have 16 bits per channel: red is the class id, green the number of the instance, blue is unused.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.datasets.frame_index import Frame, Video, files_below
from vidapt.datasets.instance_codes import thing_instances
from vidapt.datasets.listing import misnamed, missing_pictures, used_labels
from vidapt.datasets.stored import DatasetCard, StoredDataset
from vidapt.io.images import read_deep_colours
from vidapt.labels import find_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

LICENCE = "CC BY-NC-SA 3.0"
HOME = "https://synthia-dataset.net"
FOLDER = "RAND_CITYSCAPES"


class Synthia(StoredDataset):
    """Still images of SYNTHIA; arguments as in ``StoredDataset``, the root is RAND_CITYSCAPES or the folder above.

    Pixels of a thing class whose instance number is 0 form one instance for each class and image, as in the
    conversion of EDAPS (Saha et al., ICCV 2023).
    """

    card = DatasetCard(
        name="synthia",
        title="SYNTHIA-RAND-CITYSCAPES",
        labels="panoptic",
        video=False,
        splits={"train": 9400},
        layout="RAND_CITYSCAPES/RGB/<number>.png\nRAND_CITYSCAPES/GT/LABELS/<number>.png",
        licence=LICENCE,
        home=HOME,
        checked="on generated files only",
    )
    space = "synthia"
    has_instances = True

    def find_videos(self) -> list[Video]:
        """List ``RGB``."""
        base = f"{FOLDER}/" if (self.root / FOLDER).is_dir() else ""
        paths = [PurePosixPath(image) for image in files_below(self.root, f"{base}RGB", ".png")]
        videos = [_still(path, f"{base}GT/LABELS/{path.name}") for path in paths if path.stem.isdecimal()]
        rule = "by its number, as pictures of SYNTHIA are"
        problems = [misnamed(str(path), rule) for path in paths if not path.stem.isdecimal()]
        if self.labelled:
            labels = files_below(self.root, f"{base}GT/LABELS", ".png")
            problems += missing_pictures(labels, used_labels(videos), _picture)
        self.index_problems = tuple(problems)
        return videos

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode classes and instances of a ``GT/LABELS`` picture."""
        semantic, number, _ = np.moveaxis(read_deep_colours(self.root / frame.labels[0]), -1, 0)
        return semantic, thing_instances(semantic, number, find_space(self.space))


def _picture(label: str) -> tuple[str, str]:
    path = PurePosixPath(label)
    return path.stem, str(path.parents[2] / "RGB" / path.name)


def _still(image: PurePosixPath, label: str) -> Video:
    return Video(image.stem, (Frame(image.stem, str(image), (label,), number=int(image.stem)),))
