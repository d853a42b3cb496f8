"""The label table of Cityscapes, which half of the field's data sets share."""

from typing import NamedTuple

import numpy as np

IGNORED = 255


class Label(NamedTuple):
    """One row of the table; ``train_id`` 255 marks a class that is never scored."""

    id: int
    name: str
    train_id: int
    category: str
    colour: tuple[int, int, int]

    @property
    def is_thing(self) -> bool:
        """Whether single instances of the class are annotated."""
        return self.category in ("human", "vehicle")


LABELS = (
    Label(0, "unlabeled", 255, "void", (0, 0, 0)),
    Label(1, "ego vehicle", 255, "void", (0, 0, 0)),
    Label(2, "rectification border", 255, "void", (0, 0, 0)),
    Label(3, "out of roi", 255, "void", (0, 0, 0)),
    Label(4, "static", 255, "void", (0, 0, 0)),
    Label(5, "dynamic", 255, "void", (111, 74, 0)),
    Label(6, "ground", 255, "void", (81, 0, 81)),
    Label(7, "road", 0, "flat", (128, 64, 128)),
    Label(8, "sidewalk", 1, "flat", (244, 35, 232)),
    Label(9, "parking", 255, "flat", (250, 170, 160)),
    Label(10, "rail track", 255, "flat", (230, 150, 140)),
    Label(11, "building", 2, "construction", (70, 70, 70)),
    Label(12, "wall", 3, "construction", (102, 102, 156)),
    Label(13, "fence", 4, "construction", (190, 153, 153)),
    Label(14, "guard rail", 255, "construction", (180, 165, 180)),
    Label(15, "bridge", 255, "construction", (150, 100, 100)),
    Label(16, "tunnel", 255, "construction", (150, 120, 90)),
    Label(17, "pole", 5, "object", (153, 153, 153)),
    Label(18, "polegroup", 255, "object", (153, 153, 153)),
    Label(19, "traffic light", 6, "object", (250, 170, 30)),
    Label(20, "traffic sign", 7, "object", (220, 220, 0)),
    Label(21, "vegetation", 8, "nature", (107, 142, 35)),
    Label(22, "terrain", 9, "nature", (152, 251, 152)),
    Label(23, "sky", 10, "sky", (70, 130, 180)),
    Label(24, "person", 11, "human", (220, 20, 60)),
    Label(25, "rider", 12, "human", (255, 0, 0)),
    Label(26, "car", 13, "vehicle", (0, 0, 142)),
    Label(27, "truck", 14, "vehicle", (0, 0, 70)),
    Label(28, "bus", 15, "vehicle", (0, 60, 100)),
    Label(29, "caravan", 255, "vehicle", (0, 0, 90)),
    Label(30, "trailer", 255, "vehicle", (0, 0, 110)),
    Label(31, "train", 16, "vehicle", (0, 80, 100)),
    Label(32, "motorcycle", 17, "vehicle", (0, 0, 230)),
    Label(33, "bicycle", 18, "vehicle", (119, 11, 32)),
)

TRAIN_LABELS = tuple(sorted((label for label in LABELS if label.train_id != IGNORED), key=lambda label: label.train_id))


def train_ids(label_ids: np.ndarray) -> np.ndarray:
    """Train ids, 255 where never scored, of label ids (H,W): uint8 (H,W)."""
    return np.array([label.train_id for label in LABELS], np.uint8)[label_ids]


def label_colours(label_ids: np.ndarray) -> np.ndarray:
    """The colour image of label ids (H,W): uint8 (H,W,3)."""
    return np.array([label.colour for label in LABELS], np.uint8)[label_ids]
