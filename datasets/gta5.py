"""GTA5, "Playing for Data": game frames with semantic labels (Richter et al., ECCV 2016).

Label pictures are palette pictures whose index is the Cityscapes label id.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.datasets.frame_index import Frame, Video, files_below
from vidapt.datasets.listing import misnamed, missing_pictures, used_labels
from vidapt.datasets.stored import DatasetCard, StoredDataset
from vidapt.io.images import picture_size, read_ids, resize_label_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNUSABLE = (15188, 17705)
"""Pictures without content: one white, one black."""

OTHER_SIZE = range(20801, 20861)
"""Pictures whose labels are released in another size."""


_RULE = "by its number, as pictures of GTA5 are"


class Gta5(StoredDataset):
    """Still images of GTA5; arguments as in ``StoredDataset``.

    Of the 24966 pictures two are left out: 15188 is white and 17705 black. The labels of 20801 to 20860 are known to
    have another size than their pictures and are scaled to them by nearest neighbour; a difference elsewhere is an
    error.
    """

    card = DatasetCard(
        name="gta5",
        title="GTA5",
        labels="semantic",
        video=False,
        splits={"train": 24966 - len(UNUSABLE)},
        layout="images/<number>.png\nlabels/<number>.png",
        licence="research only",
        home="https://download.visinf.tu-darmstadt.de/data/from_games",
        checked="on generated files only",
    )
    space = "cityscapes_ids"

    def find_videos(self) -> list[Video]:
        """List ``images`` without the unusable ones."""
        paths = [PurePosixPath(image) for image in files_below(self.root, "images", ".png")]
        problems = [misnamed(str(path), _RULE) for path in paths if not path.stem.isdecimal()]
        numbered = ((int(path.stem), path) for path in paths if path.stem.isdecimal())
        videos = [_still(number, path) for number, path in numbered if number not in UNUSABLE]
        if self.labelled:
            labels = filter(_is_usable, files_below(self.root, "labels", ".png"))
            problems += missing_pictures(labels, used_labels(videos), _picture)
        self.index_problems = tuple(problems)
        return videos

    def scales_label(self, frame: Frame) -> bool:
        """Tell the pictures whose labels are released in another size."""
        return frame.number in OTHER_SIZE

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Read palette indices; scale them where another size is known."""
        semantic = read_ids(self.root / frame.labels[0])
        if self.scales_label(frame):
            semantic = resize_label_to(semantic, picture_size(self.root / frame.image))
        return semantic, np.zeros(semantic.shape, np.int32)


def _is_usable(label: str) -> bool:
    stem = PurePosixPath(label).stem
    return not stem.isdecimal() or int(stem) not in UNUSABLE


def _picture(label: str) -> tuple[str, str]:
    path = PurePosixPath(label)
    return path.stem, f"images/{path.name}"


def _still(number: int, image: PurePosixPath) -> Video:
    return Video(image.stem, (Frame(image.stem, str(image), (f"labels/{image.name}",), number=number),))
