"""Pictures of segmentations: overlays with outlines, label maps, contact sheets and videos."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidapt.io.encoder import VideoWriter, write_video
from vidapt.labels import CITYSCAPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.clip import PanopticFrame, Segment

__all__ = ["VideoWriter", "contact_sheet", "draw_overlay", "label_picture", "segment_colour", "titled", "write_video"]

OUTLINE = (255, 255, 255)
"""RGB colour of the outline of things."""

_TITLE_HEIGHT = 18
_GOLDEN = 0.6180339887
_PLASTIC = 0.7548776662


def segment_colour(segment: Segment, palette: NDArray[np.uint8] | None = None) -> tuple[int, int, int]:
    """RGB colour of a segment: the class colour for stuff, a shade of it that depends on the id alone for things.

    Args:
        segment: The segment.
        palette: uint8 (256,3) class colours by train id; None = Cityscapes.
    """
    palette = CITYSCAPES.palette if palette is None else palette
    red, green, blue = (int(value) for value in palette[segment.category])
    if not segment.is_thing:
        return red, green, blue
    hue, saturation, _ = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    # Multiples of irrational numbers keep neighbouring ids far apart without remembering any colour.
    hue = (hue + 0.22 * (segment.id * _PLASTIC % 1 - 0.5)) % 1
    saturation = max(saturation, 0.55) * (1 - 0.4 * (segment.id * _PLASTIC**2 % 1))
    value = 0.5 + 0.5 * (segment.id * _GOLDEN % 1)
    bright = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(bright[0] * 255), round(bright[1] * 255), round(bright[2] * 255)


def draw_overlay(
    image: NDArray[np.uint8],
    frame: PanopticFrame,
    *,
    alpha: float = 0.55,
    palette: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Blend segment colours over an image and draw 1-pixel outlines; void keeps the image.

    Args:
        image: uint8 (H,W,3) RGB.
        frame: Segmentation of the same size.
        alpha: Weight of the colours, 0..1.
        palette: uint8 (256,3) class colours by train id; None = Cityscapes.

    Raises:
        ValueError: If the sizes differ.
    """
    if image.shape != (*frame.ids.shape, 3):
        raise ValueError(f"overlay: image {image.shape} does not fit ids {frame.ids.shape}; resize one of them")
    if not image.size:
        return image.copy()
    painted = _paint(frame, palette)
    picture = np.asarray(cv2.addWeighted(np.ascontiguousarray(painted[..., :3]), alpha, image, 1 - alpha, 0), np.uint8)
    cv2.copyTo(image, (frame.ids == 0).astype(np.uint8), picture)
    _draw_outlines(picture, frame.ids, painted[..., 3] > 0)
    return picture


def _paint(frame: PanopticFrame, palette: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """uint8 (H,W,4): segment colour and, in the last channel, 1 for things."""
    largest = int(frame.ids.max())
    table = np.zeros((largest + 1, 4), np.uint8)
    for segment in frame.segments:
        if segment.id <= largest:
            table[segment.id] = (*segment_colour(segment, palette), segment.is_thing)
    # One look-up of four bytes at once is several times faster than one per channel.
    return np.take(table.view(np.uint32)[:, 0], frame.ids).view(np.uint8).reshape(*frame.ids.shape, 4)


def _draw_outlines(picture: NDArray[np.uint8], ids: NDArray[np.int32], thing: NDArray[np.bool_]) -> None:
    """Mark the pixels whose right or lower neighbour is another segment: white at things, darker between stuff."""
    edge, bright = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differs = ids[here] != ids[there]
        edge[here] |= differs
        bright[here] |= differs & (thing[here] | thing[there])
    picture[edge] //= 2
    picture[bright] = OUTLINE


def label_picture(semantic: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Colour a map of train ids (H,W) as uint8 (H,W,3) RGB; 255 = ignore is black unless the palette says otherwise."""
    return (CITYSCAPES.palette if palette is None else palette)[semantic]


def titled(picture: NDArray[np.uint8], title: str) -> NDArray[np.uint8]:
    """An RGB picture (H,W,3) with a line of text above it."""
    strip = Image.new("RGB", (picture.shape[1], _TITLE_HEIGHT), "white")
    ImageDraw.Draw(strip).text((2, 2), title, fill="black", font=ImageFont.load_default(12))
    return np.concatenate([np.asarray(strip), picture])


def contact_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], *, gap: int = 2) -> NDArray[np.uint8]:
    """Lay out RGB images (H,W,3) in rows on white; a cell is as large as the largest image.

    Raises:
        ValueError: If there is no image.
    """
    images = [image for row in rows for image in row]
    if not images:
        raise ValueError("contact_sheet needs at least one image")
    height, width = (max(image.shape[axis] for image in images) + gap for axis in (0, 1))
    columns = max(len(row) for row in rows)
    sheet = np.full((height * len(rows) - gap, width * columns - gap, 3), 255, np.uint8)
    for line, row in enumerate(rows):
        for column, image in enumerate(row):
            y, x = line * height, column * width
            sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
    return sheet
