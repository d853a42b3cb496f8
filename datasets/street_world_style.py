"""Styles of the street world: what makes the source look different from the fog, night and texture targets.

A `Look` is a style at a strength. All of its numbers run continuously from the source look at strength 0, and every
change is a fixed function of class, place and depth, so that it is consistent over time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vidapt.datasets.street_world_texture import TILE, Color, Grain, noise_tile
from vidapt.errors import UserError

STYLES = ("source", "fog", "night", "texture")
CLASSES = 19

FOG_DENSITY = 0.011
FOG_COLOR: Color = (186.0, 190.0, 196.0)
TINT = 0.15
NIGHT_GAMMA = 1.14
NIGHT_CAST: Color = (0.91, 0.94, 1.0)

# Classes that cover most of the picture keep more of their colour, so that half of the first pseudo-labels is right.
_TINT_SHARE = {0: 0.3, 1: 0.5, 2: 0.6, 8: 0.7, 9: 0.8, 10: 0.5}
_PATTERNS = {0: "cell", 1: "brick", 2: "plank", 3: "blotch", 4: "cell", 8: "cell", 9: "streak"}
_RATES = {
    "fog": {11: 0.8, 8: 1.3, 13: 0.9, 12: 1.2},
    "night": {11: 0.8, 13: 0.85, 2: 1.2},
    "texture": {11: 1.2, 8: 0.8, 14: 1.3},
}
_SHAPES = {"fog": (0.12, 1.03, 1.05), "night": (-0.10, 1.0, 0.97), "texture": (0.08, 1.05, 0.96)}


@dataclass(frozen=True)
class Look:
    """One style at one strength.

    `rise` is added to the camera height (m); `girth` and `tallness` scale things; `density` is texels per metre.
    """

    style: str = "source"
    strength: float = 1.0
    density: float = 24.0

    @property
    def weight(self) -> float:
        """Strength of the shift, 0 for the source style."""
        return 0.0 if self.style == "source" else self.strength

    def _shape(self, index: int, neutral: float) -> float:
        return neutral + self.weight * (_SHAPES.get(self.style, (0.0, 1.0, 1.0))[index] - neutral)

    @property
    def rise(self) -> float:
        """Change of the camera height in metres."""
        return self._shape(0, 0.0)

    @property
    def girth(self) -> float:
        """Scale of widths of vehicles."""
        return self._shape(1, 1.0)

    @property
    def tallness(self) -> float:
        """Scale of heights of things."""
        return self._shape(2, 1.0)

    @property
    def lit_window(self) -> Color:
        """Colour of the windows with a light or curtain behind them."""
        level = self.weight if self.style == "night" else 0.0
        return (150.0 + 105 * level, 142.0 + 90 * level, 124.0 + 40 * level)

    def rate(self, category: int) -> float:
        """Factor on the probability that an object of this class is placed."""
        return 1.0 + self.weight * (_RATES.get(self.style, {}).get(category, 1.0) - 1.0)

    def grains(self, category: int, amount: float) -> tuple[Grain, ...]:
        """Return the surface noise of a class, `amount` grey levels in the source style."""
        own = Grain("grain", amount)
        if self.style != "texture" or self.weight == 0:
            return (own,)
        return own, Grain(_PATTERNS.get(category, "cell"), (8.0 if category == 10 else 30.0) * self.weight, 0.7)


def check_look(style: str, strength: float) -> None:
    """Raise UserError unless `style` is one of `STYLES` and `strength` lies in 0..1."""
    if style not in STYLES:
        raise UserError(f"street_world has no style {style!r}: choose one of {', '.join(STYLES)}")
    if not 0.0 <= strength <= 1.0:
        raise UserError(f"street_world strength must lie between 0 and 1, but is {strength}")


@lru_cache(maxsize=1)
def _class_tints() -> NDArray[np.float32]:
    """Return fixed per-class colour gains minus one, (CLASSES, 3), at full strength."""
    rng = np.random.default_rng(np.random.SeedSequence([41, CLASSES]))
    hue = 2 * np.pi * (np.arange(CLASSES) * 0.381966 % 1.0)
    colour = np.cos(hue[:, None] + np.array([0.0, 2.1, 4.2]))
    share = np.array([_TINT_SHARE.get(index, 1.0) for index in range(CLASSES)])[:, None]
    return (TINT * share * (colour + 0.5 * rng.uniform(-1, 1, (CLASSES, 1)))).astype(np.float32)


def _fog(
    image: NDArray[np.float32], semantic: NDArray[np.uint8], depth: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    tinted = image * (1.0 + weight * _class_tints())[semantic]
    clear = cv2.exp(depth * np.float32(-FOG_DENSITY * weight))[..., None]
    return tinted * clear + (1.0 - clear) * np.asarray(FOG_COLOR, np.float32)


@lru_cache(maxsize=4)
def _headlight(height: int, width: int) -> NDArray[np.float32]:
    """Return the light that the own headlamps throw on each pixel (H, W, 1), 0..1."""
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / width
    return np.exp(-(((x - 0.5) / 0.30) ** 2) - ((y - 0.72) / 0.20) ** 2)[..., None]


def _night(
    image: NDArray[np.uint8], semantic: NDArray[np.uint8], depth: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    levels = np.arange(256, dtype=np.float32) / 255.0
    dark = cv2.LUT(image, 255.0 * levels ** np.float32(1.0 + weight * (NIGHT_GAMMA - 1.0)))
    cast = 1.0 + weight * (np.asarray(NIGHT_CAST, np.float32) - 1.0)
    near = cv2.exp(depth * np.float32(-1 / 25.0))[..., None]
    beam = 1.0 + weight * (0.9 * _headlight(*semantic.shape) * near - 0.09)
    lit = dark * cast * beam
    shining = (semantic == 6)[..., None] & (image.max(axis=2, keepdims=True) > 150)
    return np.where(shining, np.maximum(lit, image), lit)


def grade(
    image: NDArray[np.uint8],
    semantic: NDArray[np.uint8],
    depth: NDArray[np.float32] | None,
    look: Look,
    shift: tuple[int, int],
) -> NDArray[np.uint8]:
    """Turn the painted frame into the style's photograph: class tint, fog or darkness, lens blur, sensor noise.

    Args:
        image: uint8 RGB (H, W, 3).
        semantic: uint8 train ids (H, W).
        depth: float32 metres (H, W); needed by fog and night only.
        look: the style and its strength.
        shift: offset (y, x) of the noise pattern, new for each frame.
    """
    weight = look.weight
    if look.style == "fog" and weight > 0 and depth is not None:
        image = np.clip(_fog(image.astype(np.float32), semantic, depth, weight), 0, 255).astype(np.uint8)
    elif look.style == "night" and weight > 0 and depth is not None:
        image = np.clip(_night(image, semantic, depth, weight), 0, 255).astype(np.uint8)
    blurred = cv2.GaussianBlur(image, (3, 3), 0.55)
    return add_sensor_noise(blurred, 2.0 + (2.5 * weight if look.style == "night" else 0.0), shift)


@lru_cache(maxsize=8)
def _sensor_tile(amount: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    tile = (
        np.stack([np.roll(noise_tile("grain")[:TILE, :TILE], 83 * channel, (0, 1)) for channel in range(3)], 2) * amount
    )
    return np.clip(tile, 0, 255).astype(np.uint8), np.clip(-tile, 0, 255).astype(np.uint8)


def add_sensor_noise(image: NDArray[np.uint8], amount: float, shift: tuple[int, int]) -> NDArray[np.uint8]:
    """Add noise of `amount` grey levels, whose pattern is moved by `shift` pixels."""
    height, width = image.shape[:2]
    rows, columns = (np.arange(height) + shift[0]) % TILE, (np.arange(width) + shift[1]) % TILE
    plus, minus = (tile[rows][:, columns] for tile in _sensor_tile(amount))
    return cv2.subtract(cv2.add(image, plus), minus)
