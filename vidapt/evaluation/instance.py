"""Average precision of instances: by COCO's definition and by that of Cityscapes.

Each frame becomes an ``InstanceOverlaps``, made from a panoptic frame or from masks that may overlap; both average
precisions take it, and keep no more than the outcome of each prediction.

>>> import numpy as np
>>> from vidapt.labels import CITYSCAPES
>>> person = CITYSCAPES.index("person")
>>> semantic = np.full((40, 40), person, np.uint8)
>>> instance = np.ones((40, 40), np.int32); instance[:, 20:] = 2
>>> masks = np.zeros((2, 40, 40), bool); masks[0, :, :20] = True; masks[1, :, 2:20] = True
>>> overlaps = overlaps_of_masks(masks, [0.9, 0.6], [person, person], semantic, instance, CITYSCAPES)
>>> overlaps.shared.tolist()
[[800, 0], [720, 0]]
>>> for metric in (CocoAveragePrecision(CITYSCAPES), CityscapesAveragePrecision(CITYSCAPES)):
...     metric.update("frame 0", overlaps)
...     scores = metric.result()
...     print(round(scores.ap, 4), round(scores.ap50, 4), scores.classes)
0.505 0.505 ('person',)
0.5 0.5 ('person',)
"""

from vidapt.evaluation.instance_cityscapes import CityscapesAveragePrecision, CityscapesQuality, CityscapesScores
from vidapt.evaluation.instance_coco import CocoAveragePrecision, CocoQuality, CocoScores
from vidapt.evaluation.instance_overlaps import (
    InstanceOverlaps,
    instance_codes,
    overlaps_of_frame,
    overlaps_of_histogram,
    overlaps_of_masks,
)

__all__ = [
    "CityscapesAveragePrecision",
    "CityscapesQuality",
    "CityscapesScores",
    "CocoAveragePrecision",
    "CocoQuality",
    "CocoScores",
    "InstanceOverlaps",
    "instance_codes",
    "overlaps_of_frame",
    "overlaps_of_histogram",
    "overlaps_of_masks",
]
