"""Textures of the street world: tiled noise, anisotropic mip levels and a painter in metres.

Only this file knows pixels of textures; the painters of things and stuff speak metres and RGB colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]
Points = Sequence[tuple[float, float]]
Pixels = NDArray[np.uint8]

TILE = 256
SUPERSAMPLE = 2
NOISES = ("grain", "blotch", "streak", "brick", "plank", "cell")


def _blotch(rng: np.random.Generator, cells: int) -> NDArray[np.float32]:
    """Return smooth periodic noise (TILE, TILE), zero mean, unit deviation."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    tiled = np.tile(coarse, (3, 3))
    large = cv2.resize(tiled, (3 * TILE, 3 * TILE), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[TILE : 2 * TILE, TILE : 2 * TILE]) / large.std()


def _brick(rng: np.random.Generator, rows: int, columns: int, joint: int) -> NDArray[np.float32]:
    """Return courses of bricks (TILE, TILE) with random brick tones and dark joints."""
    tile = np.empty((TILE, TILE), np.float32)
    height, width = TILE // rows, TILE // columns
    for row in range(rows):
        tones = np.repeat(rng.standard_normal(columns).astype(np.float32) * 0.6, width)
        tones[np.arange(TILE) % width < joint] = -1.8
        tile[row * height : (row + 1) * height] = np.roll(tones, (row % 2) * width // 2)
        tile[row * height : row * height + joint] = -1.8
    return tile - tile.mean()


@lru_cache(maxsize=8)
def noise_tile(name: str) -> NDArray[np.float32]:
    """Return one of the fixed noise patterns `NOISES`, doubled in both directions.

    Returns float32 (2 * TILE, 2 * TILE), about zero mean and unit deviation, periodic with TILE, so that any crop up to
    TILE wide is a slice.
    """
    rng = np.random.default_rng(np.random.SeedSequence([7, NOISES.index(name)]))
    if name == "grain":
        tile = rng.standard_normal((TILE, TILE)).astype(np.float32) * 0.7 + 0.6 * _blotch(rng, 64)
    elif name == "blotch":
        tile = 0.7 * _blotch(rng, 8) + 0.6 * _blotch(rng, 32)
    elif name == "streak":
        tile = np.repeat(rng.standard_normal((1, TILE)), TILE, axis=0).astype(np.float32) + 0.3 * _blotch(rng, 16)
    elif name == "brick":
        tile = _brick(rng, 32, 16, 1)
    elif name == "plank":
        tile = _brick(rng, 4, 32, 1)
    else:
        tile = np.sign(_blotch(rng, 24)) + 0.3 * _blotch(rng, 64)
    return np.ascontiguousarray(np.tile(tile, (2, 2)))


def noise_crop(name: str, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a (height, width) float32 crop of a noise tile at a random place."""
    y, x = (int(offset) for offset in rng.integers(0, TILE, 2))
    tile = noise_tile(name)
    if max(height, width) > TILE:
        tile = np.tile(tile, (height // TILE + 1, width // TILE + 1))
    return tile[y : y + height, x : x + width]


class Texture:
    """An RGBA picture (h, w, 4) uint8 that is painted when first seen, with levels reduced separately along x and y."""

    __slots__ = ("_levels", "_paint")

    def __init__(self, paint: Callable[[], Pixels]) -> None:
        """Keep the painter of the picture."""
        self._paint = paint
        self._levels: dict[tuple[int, int], Pixels] = {}

    @property
    def base(self) -> Pixels:
        """The picture in full size."""
        found = self._levels.get((0, 0))
        if found is None:
            found = self._levels[0, 0] = self._paint()
        return found

    def level(self, lengths: tuple[float, float]) -> Pixels:
        """Return the picture for edges that are `lengths` (width, height) pixels long on the screen."""
        height, width = self.base.shape[:2]
        x, y = _halvings(width, lengths[0]), _halvings(height, lengths[1])
        found = self._levels.get((x, y))
        if found is None:
            size = (max(width >> x, 2), max(height >> y, 2))
            found = self._levels[x, y] = cv2.resize(self.base, size, interpolation=cv2.INTER_AREA)
        return found


def _halvings(texels: int, pixels: float) -> int:
    """Return how often to halve `texels` so that they are no more than about 1.5 times `pixels`."""
    return min(max(math.floor(math.log2(texels / max(pixels, 0.01)) + 0.35), 0), 7)


def later(rng: np.random.Generator, painter: Callable[..., Pixels], *arguments: Any, **options: Any) -> Texture:
    """Return a texture that calls `painter(*arguments, rng=..., **options)` when it is first seen.

    One number is drawn from `rng` now, so that what is painted does not depend on what is seen.
    """
    seed = int(rng.integers(0, 2**62))
    return Texture(lambda: painter(*arguments, rng=np.random.default_rng(seed), **options))


@dataclass(frozen=True)
class Grain:
    """Surface noise of a texture: pattern name, strength in grey levels and texels per noise texel."""

    pattern: str = "grain"
    amount: float = 6.0
    scale: float = 1.0


class Sheet:
    """A drawing of `width` x `height` metres; x runs right, y runs up from the lower edge, colours are RGB 0..255.

    What is not drawn stays transparent. `finish` returns the pixels of the drawing.
    """

    def __init__(self, width: float, height: float, density: float, background: Color = (90, 90, 90)) -> None:
        """Make an empty sheet with `density` texels per metre, transparent over `background`."""
        self.size = (max(round(width * density), 3), max(round(height * density), 3))
        self.height = height
        self._step = (SUPERSAMPLE * self.size[0] / width, SUPERSAMPLE * self.size[1] / height)
        self.pixels = self._uniform((*background, 0.0))

    def _uniform(self, color: Sequence[float]) -> Pixels:
        shape = (SUPERSAMPLE * self.size[1], SUPERSAMPLE * self.size[0])
        packed = np.array([int(value) for value in color], np.uint8).view(np.uint32)[0]
        return np.full(shape, packed, np.uint32).view(np.uint8).reshape(*shape, 4)

    def _map(self, points: Points) -> NDArray[np.int32]:
        across, down = 16 * self._step[0], 16 * self._step[1]
        return np.array([(round(x * across - 8), round((self.height - y) * down - 8)) for x, y in points], np.int32)

    @staticmethod
    def _paint(color: Color) -> tuple[float, float, float, float]:
        red, green, blue = (float(min(max(value, 0), 255)) for value in color)
        return red, green, blue, 255.0

    def polygon(self, points: Points, color: Color) -> None:
        """Fill a convex polygon."""
        cv2.fillConvexPoly(self.pixels, self._map(points), self._paint(color), cv2.LINE_8, 4)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        """Fill an upright rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def fill(self, color: Color) -> None:
        """Paint the whole sheet opaque."""
        self.pixels = self._uniform(self._paint(color))

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color, thickness: float = -1.0) -> None:
        """Fill an ellipse, or draw its outline `thickness` metres wide."""
        centre = self._map([(x, y)])[0]
        axes = (round(rx * self._step[0] * 16), round(ry * self._step[1] * 16))
        width = -1 if thickness < 0 else max(round(thickness * self._step[0]), 1)
        centre_point = (int(centre[0]), int(centre[1]))
        cv2.ellipse(self.pixels, centre_point, axes, 0, 0, 360, self._paint(color), width, cv2.LINE_8, 4)

    def line(self, points: Points, color: Color, thickness: float) -> None:
        """Draw an open line `thickness` metres wide."""
        width = max(round(thickness * self._step[0]), 1)
        cv2.polylines(self.pixels, [self._map(points)], False, self._paint(color), width, cv2.LINE_8, 4)

    def shade(self, top: float, bottom: float) -> None:
        """Multiply the colours by a factor that runs from `top` to `bottom`."""
        ramp = np.linspace(top, bottom, self.pixels.shape[0], dtype=np.float32)[:, None, None]
        rgb = self.pixels[..., :3]
        rgb[...] = np.minimum(rgb * ramp, 255).astype(np.uint8)

    def finish(self, rng: np.random.Generator, *grains: Grain) -> Pixels:
        """Reduce to texels (h, w, 4) and add surface noise."""
        return add_grain(cv2.resize(self.pixels, self.size, interpolation=cv2.INTER_AREA), rng, *grains)


def add_grain(picture: Pixels, rng: np.random.Generator, *grains: Grain) -> Pixels:
    """Return the RGBA picture (h, w, 4) with noise added to its colours; alpha is kept."""
    height, width = picture.shape[:2]
    total = np.zeros((height, width), np.float32)
    for grain in grains:
        size = (max(int(height / grain.scale), 2), max(int(width / grain.scale), 2))
        crop = noise_crop(grain.pattern, *size, rng)
        if size != (height, width):
            crop = cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR)
        total += grain.amount * crop
    noise = total.astype(np.int16)
    return cv2.add(picture, cv2.merge([noise, noise, noise, np.zeros_like(noise)]), dtype=cv2.CV_8U)


def tint(color: Color, factor: float) -> Color:
    """Return the colour times a factor, kept within 0..255."""
    red, green, blue = (min(max(value * factor, 0.0), 255.0) for value in color)
    return red, green, blue


def random_color(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Color:
    """Draw a colour of any hue with saturation and value (0..1) from the given ranges."""
    hue, sat, val = rng.uniform(0, 6), rng.uniform(*saturation), 255 * rng.uniform(*value)
    red, green, blue = (val * (1 - sat * min(max(min(k, 4 - k), 0), 1)) for k in ((n + hue) % 6 for n in (5, 3, 1)))
    return red, green, blue
