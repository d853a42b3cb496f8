"""Patches and parts, and the vehicles of the street world as textured boxes.

Every builder returns `Part`s in the object's own frame: x right, y up from the ground, z ahead, metres, centred on the
ground point. Vehicles head towards +z.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from vidapt.datasets.street_world_style import Look
from vidapt.datasets.street_world_texture import Color, Pixels, Sheet, Texture, later, random_color, tint

PERSON, RIDER, CAR, TRUCK, BUS, MOTORCYCLE, BICYCLE = 11, 12, 13, 14, 15, 17, 18
SHADOW = 254

GLASS: Color = (52, 62, 74)
TYRE: Color = (26, 26, 28)

Vector = tuple[float, float, float]


class Patch(NamedTuple):
    """A textured parallelogram: corner `origin`, texture axes `u` (right) and `v` (down), metres.

    `textures` has one entry, or one per animation phase. `rigid` is the share of v, from the top, that moves as one
    body.
    """

    origin: Vector
    u: Vector
    v: Vector
    textures: tuple[Texture, ...]
    one_sided: bool = False
    rigid: float = 1.0


class Part(NamedTuple):
    """Patches of one class and, if it is a thing, of one instance; `SHADOW` darkens the ground and is no class."""

    category: int
    patches: list[Patch]


def card(width: float, height: float, textures: tuple[Texture, ...], *, turn: float = 0.0, rigid: float = 1.0) -> Patch:
    """Return an upright card centred on x = 0, turned by `turn` radians about the vertical axis."""
    along = (width * float(np.cos(turn)), 0.0, width * float(np.sin(turn)))
    return Patch((-along[0] / 2, height, -along[2] / 2), along, (0.0, -height, 0.0), textures, False, rigid)


def flipped(texture: Texture) -> Texture:
    """Return the texture mirrored left to right."""
    return Texture(lambda: np.ascontiguousarray(texture.base[:, ::-1]))


def _sides(
    half: float, z0: float, z1: float, top: float, height: float, side: Texture, lean: float = 0.0
) -> list[Patch]:
    """Return the right and left wall of a box; the side texture shows the front at its right end."""
    inner, length = half - lean, z1 - z0
    right = Patch((inner, top, z0), (0.0, 0.0, length), (lean, -height, 0.0), (side,), True)
    left = Patch((-inner, top, z1), (0.0, 0.0, -length), (-lean, -height, 0.0), (flipped(side),), True)
    return [right, left]


def _ends(half: float, z0: float, z1: float, top: float, height: float, faces: Sequence[Texture]) -> list[Patch]:
    """Return the rear and front wall of a box from the (rear, front) textures."""
    rear = Patch((-half, top, z0), (2 * half, 0.0, 0.0), (0.0, -height, 0.0), (faces[0],), True)
    front = Patch((half, top, z1), (-2 * half, 0.0, 0.0), (0.0, -height, 0.0), (faces[1],), True)
    return [rear, front]


def _lid(half: float, z0: float, z1: float, top: float, texture: Texture) -> Patch:
    return Patch((-half, top, z1), (2 * half, 0.0, 0.0), (0.0, 0.0, z0 - z1), (texture,), True)


def plain(color: Color, rng: np.random.Generator, look: Look, category: int) -> Texture:
    """Return a small opaque texture of one colour with the class's surface noise."""
    return later(rng, _plain, color, look, category)


def _plain(color: Color, look: Look, category: int, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(1.0, 1.0, 12)
    sheet.fill(color)
    return sheet.finish(rng, *look.grains(category, 3.0))


@lru_cache(maxsize=1)
def _shadow_texture() -> Texture:
    sheet = Sheet(1.0, 1.0, 24)
    sheet.ellipse(0.5, 0.5, 0.5, 0.5, (0, 0, 0))
    sheet.rectangle(0.1, 0.1, 0.9, 0.9, (0, 0, 0))
    pixels = sheet.pixels[::2, ::2].copy()
    return Texture(lambda: pixels)


def shadow(half: float, length: float) -> Part:
    """Return the shade that an object of this footprint leaves on the ground."""
    return Part(SHADOW, [_lid(half, -length / 2, length / 2, 0.03, _shadow_texture())._replace(one_sided=False)])


def _paint_color(rng: np.random.Generator) -> Color:
    """Draw a car colour: greys, white, black, silver and some strong colours."""
    if rng.random() < 0.45:
        grey = float(rng.choice([34, 60, 105, 150, 190, 225])) + rng.uniform(-12, 12)
        return (grey, grey, grey + rng.uniform(-4, 8))
    return random_color(rng, (0.4, 0.8), (0.3, 0.8))


def _car_side(length: float, belt: float, color: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(length, belt, look.density, tint(color, 0.7))
    sheet.rectangle(0.0, 0.22, length, belt, tint(color, 0.85))
    sheet.rectangle(0.0, 0.2, length, 0.36, tint(color, 0.5))
    sheet.rectangle(0.4, belt - 0.2, length - 0.5, belt - 0.14, tint(color, 1.15))
    sheet.rectangle(0.45 * length, 0.3, 0.46 * length, belt, tint(color, 0.55))
    for wheel in (0.19 * length, 0.8 * length):
        sheet.ellipse(wheel, 0.34, 0.4, 0.4, tint(color, 0.3))
        sheet.ellipse(wheel, 0.32, 0.32, 0.32, TYRE)
        sheet.ellipse(wheel, 0.32, 0.18, 0.18, (150, 150, 152))
    return sheet.finish(rng, *look.grains(CAR, 4.0))


def _car_end(width: float, belt: float, color: Color, look: Look, *, rng: np.random.Generator, rear: bool) -> Pixels:
    sheet = Sheet(width, belt, look.density, tint(color, 0.7))
    sheet.rectangle(0.0, 0.22, width, belt, color)
    for x in (0.06, width - 0.3):
        sheet.rectangle(x, 0.0, x + 0.24, 0.35, TYRE)
    sheet.rectangle(0.0, 0.24, width, 0.42, tint(color, 0.5))
    lamp: Color = (205, 28, 24) if rear else (248, 246, 225)
    for x in (0.05, width - 0.37):
        sheet.rectangle(x, belt - 0.36, x + 0.32, belt - 0.14, lamp)
    if not rear:
        sheet.rectangle(0.45, 0.45, width - 0.45, belt - 0.16, (28, 28, 30))
    sheet.rectangle(width / 2 - 0.26, 0.44, width / 2 + 0.26, 0.56, (228, 228, 205))
    sheet.shade(1.08, 0.85)
    return sheet.finish(rng, *look.grains(CAR, 4.0))


def _window(width: float, height: float, taper: float, color: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    """Return a tapered pane with a frame in the body colour and a bright reflection."""
    sheet = Sheet(width, height, look.density, tint(color, 0.6))
    sheet.polygon([(0, 0), (width, 0), (width - taper, height), (taper, height)], tint(color, 0.9))
    pane = [(0.1, 0.03), (width - 0.1, 0.03), (width - taper - 0.08, height - 0.08), (taper + 0.08, height - 0.08)]
    sheet.polygon(pane, GLASS)
    low, high = 0.05, height - 0.1
    gleam = [(width * 0.3, low), (width * 0.42, low), (width * 0.58, high), (width * 0.46, high)]
    sheet.polygon(gleam, tint(GLASS, 1.75))
    return sheet.finish(rng, *look.grains(CAR, 4.0))


def _cabin_side(length: float, height: float, color: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(length, height, look.density, tint(color, 0.6))
    sheet.polygon([(0, 0), (length, 0), (length * 0.7, height), (length * 0.14, height)], tint(color, 0.9))
    top = height - 0.09
    sheet.polygon([(0.14, 0.02), (length * 0.5, 0.02), (length * 0.5, top), (length * 0.18, top)], GLASS)
    front = [(length * 0.53, 0.02), (length * 0.92, 0.02), (length * 0.68, top), (length * 0.53, top)]
    sheet.polygon(front, tint(GLASS, 1.2))
    return sheet.finish(rng, *look.grains(CAR, 4.0))


def car(rng: np.random.Generator, look: Look) -> list[Part]:
    """Build a car: body box with wheels, deck and a narrower cabin with windows."""
    color = _paint_color(rng)
    half, length = look.girth * rng.uniform(0.84, 0.94), rng.uniform(3.7, 4.7)
    belt, roof = look.tallness * rng.uniform(0.86, 1.0), look.tallness * rng.uniform(1.42, 1.68)
    rear, front, up = -length / 2, length / 2, roof - belt
    tail = rng.uniform(0.02, 0.16) * length
    base = (rear + tail, rear + tail + 0.62 * length)
    top = (rear + tail + 0.09 * length, rear + tail + 0.44 * length)
    ends = [later(rng, _car_end, 2 * half, belt, color, look, rear=face) for face in (True, False)]
    patches = _ends(half, rear, front, belt, belt, ends)
    patches += _sides(half, rear, front, belt, belt, later(rng, _car_side, length, belt, color, look))
    patches += _sides(
        half - 0.06, *base, roof, up, later(rng, _cabin_side, base[1] - base[0], up, color, look), lean=0.14
    )
    pane, wide = later(rng, _window, 2 * half - 0.12, up, 0.14, color, look), half - 0.06
    patches.append(Patch((-wide, roof, top[0]), (2 * wide, 0.0, 0.0), (0.0, -up, base[0] - top[0]), (pane,), True))
    patches.append(Patch((wide, roof, top[1]), (-2 * wide, 0.0, 0.0), (0.0, -up, base[1] - top[1]), (pane,), True))
    deck = plain(tint(color, 1.12), rng, look, CAR)
    patches += [_lid(half, rear, front, belt, deck), _lid(half - 0.2, *top, roof, deck)]
    return [Part(CAR, patches), shadow(half + 0.15, length + 0.3)]


def _wheels(sheet: Sheet, length: float, radius: float, *places: float) -> None:
    for place in places:
        sheet.ellipse(place * length, radius, radius * 1.15, radius * 1.15, (22, 22, 24))
        sheet.ellipse(place * length, radius, radius * 0.5, radius * 0.5, (140, 140, 142))


def _bus_side(length: float, height: float, color: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(length, height, look.density * 0.7, tint(color, 0.7))
    sheet.rectangle(0.0, 0.35, length, height, tint(color, 0.88))
    sheet.rectangle(0.0, 0.35, length, 0.65, tint(color, 0.55))
    sheet.rectangle(0.1, 1.35, length - 0.1, height - 0.5, GLASS)
    for x in np.arange(1.3, length - 0.5, 1.35):
        sheet.rectangle(x, 1.35, x + 0.12, height - 0.5, tint(color, 0.8))
    sheet.rectangle(0.72 * length, 0.5, 0.8 * length, height - 0.5, tint(GLASS, 0.75))
    _wheels(sheet, length, 0.48, 0.2, 0.87)
    return sheet.finish(rng, *look.grains(BUS, 4.0))


def _bus_end(width: float, height: float, color: Color, look: Look, *, rng: np.random.Generator, rear: bool) -> Pixels:
    sheet = Sheet(width, height, look.density * 0.8, tint(color, 0.7))
    sheet.rectangle(0.0, 0.35, width, height, color)
    for x in (0.1, width - 0.45):
        sheet.rectangle(x, 0.0, x + 0.35, 0.4, TYRE)
        sheet.rectangle(x, 0.7, x + 0.3, 0.95, (205, 28, 24) if rear else (248, 246, 225))
    sheet.rectangle(0.18, 1.6 if rear else 1.15, width - 0.18, height - 0.55, GLASS)
    sheet.polygon([(0.6, 1.7), (0.9, 1.7), (1.4, height - 0.6), (1.1, height - 0.6)], (92, 106, 120))
    sheet.rectangle(0.5, height - 0.42, width - 0.5, height - 0.12, (240, 170, 40))
    sheet.rectangle(0.0, 0.3, width, 0.5, tint(color, 0.5))
    return sheet.finish(rng, *look.grains(BUS, 4.0))


def bus(rng: np.random.Generator, look: Look) -> list[Part]:
    """Build a bus: a tall box with a continuous band of windows and a lit destination board."""
    color = random_color(rng, (0.45, 0.8), (0.45, 0.9))
    half, length, height = 1.27 * look.girth, rng.uniform(9.0, 12.0), look.tallness * rng.uniform(2.9, 3.3)
    ends = [later(rng, _bus_end, 2 * half, height, color, look, rear=face) for face in (True, False)]
    patches = _ends(half, -length / 2, length / 2, height, height, ends)
    patches += _sides(half, -length / 2, length / 2, height, height, later(rng, _bus_side, length, height, color, look))
    return [Part(BUS, patches), shadow(half + 0.2, length + 0.4)]


def _truck_side(
    length: float, height: float, cargo: Color, cab: Color, look: Look, *, rng: np.random.Generator
) -> Pixels:
    sheet = Sheet(length, height, look.density * 0.7, tint(cargo, 0.7))
    split = length - 1.9
    sheet.rectangle(0.0, 0.55, length, 0.95, (48, 48, 50))
    sheet.rectangle(0.0, 0.95, split - 0.12, height, tint(cargo, 0.86))
    sheet.rectangle(split - 0.12, 0.6, split, 2.4, (40, 40, 42))
    for x in np.arange(0.9, split - 0.3, 0.9):
        sheet.rectangle(x, 1.0, x + 0.07, height, tint(cargo, 0.7))
    sheet.polygon([(split, 0.5), (length, 0.5), (length, 1.5), (length - 0.25, 2.5), (split, 2.5)], tint(cab, 0.86))
    sheet.polygon([(split + 0.5, 1.5), (length - 0.12, 1.5), (length - 0.3, 2.3), (split + 0.5, 2.3)], GLASS)
    _wheels(sheet, length, 0.5, 0.14, 0.28, 0.86)
    return sheet.finish(rng, *look.grains(TRUCK, 4.0))


def _truck_end(
    width: float, height: float, color: Color, look: Look, *, rng: np.random.Generator, rear: bool
) -> Pixels:
    sheet = Sheet(width, height, look.density * 0.8, tint(color, 0.7))
    for x in (0.1, width - 0.55):
        sheet.rectangle(x, 0.0, x + 0.45, 0.95, TYRE)
    sheet.rectangle(0.0, 0.55, width, 0.95, (52, 52, 54))
    sheet.rectangle(0.0, 0.9, width, height, color)
    if rear:
        sheet.rectangle(width / 2 - 0.04, 0.95, width / 2 + 0.04, height, tint(color, 0.5))
        sheet.rectangle(0.0, height - 0.12, width, height, tint(color, 0.7))
        sheet.rectangle(0.3, 0.95, 0.36, height, tint(color, 0.75))
        sheet.rectangle(width - 0.36, 0.95, width - 0.3, height, tint(color, 0.75))
    else:
        sheet.rectangle(0.15, 1.5, width - 0.15, 2.35, GLASS)
        sheet.rectangle(0.5, 0.95, width - 0.5, 1.35, (34, 34, 36))
    for x in (0.12, width - 0.42):
        sheet.rectangle(x, 0.62, x + 0.3, 0.86, (205, 28, 24) if rear else (248, 246, 225))
    return sheet.finish(rng, *look.grains(TRUCK, 4.0))


def truck(rng: np.random.Generator, look: Look) -> list[Part]:
    """Build a truck: a cargo box behind a lower cab."""
    cargo = random_color(rng, (0.0, 0.35), (0.55, 0.95))
    cab = random_color(rng, (0.4, 0.9), (0.35, 0.9))
    half, length, height = 1.22 * look.girth, rng.uniform(6.0, 9.0), look.tallness * rng.uniform(2.9, 3.5)
    rear = later(rng, _truck_end, 2 * half, height, cargo, look, rear=True)
    front = later(rng, _truck_end, 2 * half, 2.5, cab, look, rear=False)
    z0, z1 = -length / 2, length / 2
    patches = [_ends(half, z0, z1, height, height, (rear, rear))[0], _ends(half, z0, z1, 2.5, 2.5, (front, front))[1]]
    bulkhead = plain(cargo, rng, look, TRUCK)
    patches.append(Patch((half, height, z1 - 2.0), (-2 * half, 0.0, 0.0), (0.0, 2.4 - height, 0.0), (bulkhead,), True))
    patches += _sides(half, z0, z1, height, height, later(rng, _truck_side, length, height, cargo, cab, look))
    return [Part(TRUCK, patches), shadow(half + 0.2, length + 0.4)]
