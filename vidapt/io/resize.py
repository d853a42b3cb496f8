"""Bringing a panoptic frame to another size, with areas and boxes that fit the new id map."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from scipy import ndimage

from vidapt.clip import PanopticFrame


def resize_panoptic(frame: PanopticFrame, size: tuple[int, int]) -> PanopticFrame:
    """Enlarge or shrink a panoptic frame to ``size`` (H, W); segments without a pixel left are dropped."""
    if frame.ids.shape == size:
        return frame
    semantic = cv2.resize(frame.semantic, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    known = np.unique([0, *(segment.id for segment in frame.segments)]).astype(np.int32)
    compact = np.searchsorted(known, frame.ids).astype(np.uint16)
    compact = cv2.resize(compact, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    areas = np.bincount(compact.ravel(), minlength=len(known))
    regions = ndimage.find_objects(compact, len(known))
    place = {int(track): position for position, track in enumerate(known)}
    segments = tuple(
        replace(segment, area=int(areas[place[segment.id]]), box=_box(regions[place[segment.id] - 1]))
        for segment in frame.segments
        if areas[place[segment.id]]
    )
    return PanopticFrame(frame.index, frame.time, semantic, known[compact], segments)


def _box(region: tuple[slice, slice]) -> tuple[int, int, int, int]:
    rows, columns = region
    return int(columns.start), int(rows.start), int(columns.stop), int(rows.stop)
