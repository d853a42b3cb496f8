"""Things of the street world: vehicles as textured boxes, people and two-wheelers as cards.

Every builder returns `Part`s in the object's own frame: x right, y up from the ground, z ahead, metres, centred on the
ground point. Vehicles head towards +z.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vidapt.datasets.street_world_style import Look
from vidapt.datasets.street_world_texture import Color, Pixels, Sheet, Texture, later, random_color, tint

PERSON, RIDER, CAR, TRUCK, BUS, MOTORCYCLE, BICYCLE = 11, 12, 13, 14, 15, 17, 18
SHADOW = 254

GLASS: Color = (52, 62, 74)
TYRE: Color = (26, 26, 28)
WALK_PHASES = 6
HIP = 0.52

Vector = tuple[float, float, float]


class Patch(NamedTuple):
    """A textured parallelogram: corner `origin`, texture axes `u` (right) and `v` (down), metres.

    `textures` has one entry, or one per animation phase. `rigid` is the share of v, from the top, that moves as one body.
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


def _sides(half: float, z0: float, z1: float, top: float, height: float, side: Texture, lean: float = 0.0) -> list[Patch]:
    """Return the right and left wall of a box; the side texture shows the front at its right end."""
    inner, length = half - lean, z1 - z0
    right = Patch((inner, top, z0), (0.0, 0.0, length), (lean, -height, 0.0), (side,), True)
    left = Patch((-inner, top, z1), (0.0, 0.0, -length), (-lean, -height, 0.0), (flipped(side),), True)
    return [right, left]


def _ends(half: float, z0: float, z1: float, top: float, height: float, faces: tuple[Texture, Texture]) -> list[Patch]:
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
    sheet.polygon(
        [(0.02, 0.25), (length - 0.1, 0.22), (length, 0.5), (length - 0.25, belt - 0.1), (length * 0.6, belt), (0.05, belt)],
        tint(color, 0.85),
    )
    sheet.rectangle(0.02, 0.2, length - 0.1, 0.36, tint(color, 0.5))
    sheet.rectangle(0.4, belt - 0.2, length - 0.5, belt - 0.14, tint(color, 1.15))
    sheet.rectangle(0.45 * length, 0.3, 0.46 * length, belt, tint(color, 0.55))
    for wheel in (0.19 * length, 0.8 * length):
        sheet.ellipse(wheel, 0.34, 0.4, 0.4, tint(color, 0.3))
        sheet.ellipse(wheel, 0.32, 0.32, 0.32, TYRE)
        sheet.ellipse(wheel, 0.32, 0.18, 0.18, (150, 150, 152))
    return sheet.finish(rng, *look.grains(CAR, 4.0))


def _car_end(width: float, belt: float, color: Color, look: Look, *, rng: np.random.Generator, rear: bool) -> Pixels:
    sheet = Sheet(width, belt, look.density, tint(color, 0.7))
    sheet.polygon([(0, 0.3), (width, 0.3), (width, belt - 0.08), (width - 0.1, belt), (0.1, belt), (0, belt - 0.08)], color)
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
    sheet.polygon([(width * 0.3, 0.05), (width * 0.42, 0.05), (width * 0.58, height - 0.1), (width * 0.46, height - 0.1)], (96, 110, 124))
    return sheet.finish(rng, *look.grains(CAR, 4.0))


def _cabin_side(length: float, height: float, color: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(length, height, look.density, tint(color, 0.6))
    sheet.polygon([(0, 0), (length, 0), (length * 0.7, height), (length * 0.14, height)], tint(color, 0.9))
    top = height - 0.09
    sheet.polygon([(0.14, 0.02), (length * 0.5, 0.02), (length * 0.5, top), (length * 0.18, top)], GLASS)
    sheet.polygon([(length * 0.53, 0.02), (length * 0.92, 0.02), (length * 0.68, top), (length * 0.53, top)], tint(GLASS, 1.2))
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
    ends = (later(rng, _car_end, 2 * half, belt, color, look, rear=True), later(rng, _car_end, 2 * half, belt, color, look, rear=False))
    patches = _ends(half, rear, front, belt, belt, ends)
    patches += _sides(half, rear, front, belt, belt, later(rng, _car_side, length, belt, color, look))
    patches += _sides(half - 0.06, *base, roof, up, later(rng, _cabin_side, base[1] - base[0], up, color, look), lean=0.14)
    pane, wide = later(rng, _window, 2 * half - 0.12, up, 0.14, color, look), half - 0.06
    patches.append(Patch((-wide, roof, top[0]), (2 * wide, 0.0, 0.0), (0.0, -up, base[0] - top[0]), (pane,), True))
    patches.append(Patch((wide, roof, top[1]), (-2 * wide, 0.0, 0.0), (0.0, -up, base[1] - top[1]), (pane,), True))
    deck = plain(tint(color, 1.12), rng, look, CAR)
    patches += [_lid(half, rear + 0.04, front - 0.2, belt, deck), _lid(half - 0.2, *top, roof, deck)]
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
    ends = (later(rng, _bus_end, 2 * half, height, color, look, rear=True), later(rng, _bus_end, 2 * half, height, color, look, rear=False))
    patches = _ends(half, -length / 2, length / 2, height, height, ends)
    patches += _sides(half, -length / 2, length / 2, height, height, later(rng, _bus_side, length, height, color, look))
    return [Part(BUS, patches), shadow(half + 0.2, length + 0.4)]


def _truck_side(length: float, height: float, cargo: Color, cab: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(length, height, look.density * 0.7, tint(cargo, 0.7))
    split = length - 1.9
    sheet.rectangle(0.0, 0.55, length, 0.95, (48, 48, 50))
    sheet.rectangle(0.0, 0.95, split - 0.12, height, tint(cargo, 0.86))
    for x in np.arange(0.9, split - 0.3, 0.9):
        sheet.rectangle(x, 1.0, x + 0.07, height, tint(cargo, 0.7))
    sheet.polygon([(split, 0.5), (length, 0.5), (length, 1.5), (length - 0.25, 2.5), (split, 2.5)], tint(cab, 0.86))
    sheet.polygon([(split + 0.5, 1.5), (length - 0.12, 1.5), (length - 0.3, 2.3), (split + 0.5, 2.3)], GLASS)
    _wheels(sheet, length, 0.5, 0.14, 0.28, 0.86)
    return sheet.finish(rng, *look.grains(TRUCK, 4.0))


def _truck_end(width: float, height: float, color: Color, look: Look, *, rng: np.random.Generator, rear: bool) -> Pixels:
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
    patches.append(Patch((half, height, z1 - 2.0), (-2 * half, 0.0, 0.0), (0.0, 2.4 - height, 0.0), (plain(cargo, rng, look, TRUCK),), True))
    patches += _sides(half, z0, z1, height, height, later(rng, _truck_side, length, height, cargo, cab, look))
    return [Part(TRUCK, patches), shadow(half + 0.2, length + 0.4)]


def _walker(swing: float, colors: tuple[Color, Color, Color, Color], shape: NDArray[np.float64], look: Look, *, rng: np.random.Generator) -> Pixels:
    """Draw one walking phase; colours are skin, hair, coat, trousers, `shape` scales shoulders and coat length."""
    skin, hair, coat, trousers = colors
    sheet = Sheet(0.9, 1.76, look.density * 1.6, tint(coat, 0.8))
    wide, hem = 0.2 * shape[0], 0.86 - 0.28 * shape[1]
    for side, shade in ((-1, 0.75), (1, 1.0)):
        foot = 0.45 + side * (0.07 + swing * 0.2)
        sheet.polygon([(0.33, 0.9), (0.57, 0.9), (foot + 0.08, 0.06), (foot - 0.08, 0.06)], tint(trousers, shade))
        sheet.rectangle(foot - 0.1, 0.0, foot + 0.1, 0.08, (30, 26, 24))
    for side, shade in ((-1, 0.7), (1, 0.85)):
        hand = 0.45 + side * (wide + 0.1 - 0.1 * swing)
        shoulder = 0.45 + side * wide
        sheet.polygon([(shoulder - 0.06, 1.42), (shoulder + 0.06, 1.42), (hand + 0.05, 0.8), (hand - 0.05, 0.8)], tint(coat, shade))
        sheet.ellipse(hand, 0.78, 0.05, 0.06, skin)
    sheet.polygon([(0.45 - wide, 1.46), (0.45 + wide, 1.46), (0.45 + wide * 0.95, hem), (0.45 - wide * 0.95, hem)], coat)
    sheet.rectangle(0.4, 1.42, 0.5, 1.54, tint(skin, 0.85))
    sheet.ellipse(0.45, 1.62, 0.115, 0.14, hair)
    sheet.ellipse(0.46, 1.6, 0.095, 0.12, skin)
    return sheet.finish(rng, *look.grains(PERSON, 6.0))


def _people_colors(rng: np.random.Generator) -> tuple[Color, Color, Color, Color]:
    skin = tint((232, 190, 160), rng.uniform(0.45, 1.05))
    hair = tint((90, 66, 44), rng.uniform(0.3, 1.7))
    coat = random_color(rng, (0.05, 0.75), (0.15, 0.9))
    trousers = random_color(rng, (0.05, 0.5), (0.12, 0.5))
    return skin, hair, coat, trousers


def person(rng: np.random.Generator, look: Look) -> list[Part]:
    """Build a walking person: a card with `WALK_PHASES` pictures whose legs and arms swing."""
    colors, shape = _people_colors(rng), rng.uniform((0.85, 0.0), (1.3, 1.0))
    scale = look.tallness * rng.uniform(0.92, 1.08)
    swings = np.cos(np.linspace(0, 2 * np.pi, WALK_PHASES, endpoint=False))
    textures = tuple(later(rng, _walker, float(swing), colors, shape, look) for swing in swings)
    return [Part(PERSON, [card(0.9 * scale, 1.76 * scale, textures, rigid=HIP)]), shadow(0.3, 0.4)]


def _bicycle(color: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(1.8, 1.12, look.density * 1.4, (60, 60, 62))
    for x in (0.38, 1.42):
        sheet.ellipse(x, 0.36, 0.36, 0.36, (34, 34, 36))
        sheet.ellipse(x, 0.36, 0.27, 0.27, (98, 98, 100))
    frame = [(0.38, 0.36), (0.8, 0.34), (1.24, 0.84), (0.66, 0.84), (0.38, 0.36)]
    sheet.line(frame, color, 0.1)
    sheet.line([(0.8, 0.34), (0.62, 0.98)], color, 0.09)
    sheet.line([(1.42, 0.36), (1.22, 0.98), (1.36, 1.06)], color, 0.09)
    sheet.rectangle(0.46, 0.94, 0.8, 1.04, (30, 28, 28))
    return sheet.finish(rng, *look.grains(BICYCLE, 5.0))


def _motorcycle(color: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(2.1, 1.2, look.density * 1.3, (50, 50, 52))
    for x in (0.38, 1.72):
        sheet.ellipse(x, 0.35, 0.36, 0.35, TYRE)
        sheet.ellipse(x, 0.35, 0.16, 0.16, (135, 135, 138))
    sheet.polygon([(0.4, 0.34), (1.5, 0.28), (1.6, 0.6), (0.5, 0.66)], (62, 62, 66))
    sheet.polygon([(0.1, 0.72), (1.0, 0.6), (1.72, 0.72), (1.6, 1.0), (1.1, 1.02), (0.9, 0.84), (0.2, 0.86)], color)
    sheet.rectangle(0.3, 0.82, 1.0, 0.94, (26, 24, 24))
    sheet.line([(1.72, 0.36), (1.5, 1.0), (1.34, 1.16)], (150, 150, 154), 0.1)
    sheet.ellipse(1.74, 0.86, 0.11, 0.11, (250, 246, 220))
    return sheet.finish(rng, *look.grains(MOTORCYCLE, 5.0))


def _rider(colors: tuple[Color, Color, Color, Color], look: Look, *, rng: np.random.Generator) -> Pixels:
    """Draw a seated rider whose saddle is at (0.6, 0.95) of a 1.8 m wide card."""
    skin, helmet, coat, trousers = colors
    sheet = Sheet(1.8, 1.85, look.density * 1.4, tint(coat, 0.8))
    sheet.line([(0.66, 0.98), (0.98, 0.66), (0.84, 0.3)], tint(trousers, 0.8), 0.17)
    sheet.line([(0.66, 0.98), (1.06, 0.78), (0.92, 0.36)], trousers, 0.17)
    sheet.polygon([(0.48, 0.92), (0.82, 0.92), (1.08, 1.42), (0.82, 1.52)], coat)
    sheet.line([(0.98, 1.4), (1.16, 1.14), (1.3, 1.08)], tint(coat, 0.8), 0.12)
    sheet.ellipse(1.06, 1.63, 0.13, 0.15, skin)
    sheet.ellipse(1.03, 1.7, 0.15, 0.13, helmet)
    return sheet.finish(rng, *look.grains(RIDER, 6.0))


def _parked_two_wheeler(category: int, rng: np.random.Generator, look: Look, turn: float) -> tuple[Part, float]:
    color = random_color(rng, (0.2, 0.8), (0.3, 0.9))
    if category == BICYCLE:
        width, height, painter = 1.8, 1.12, _bicycle
    else:
        width, height, painter = 2.1, 1.2, _motorcycle
    scale = look.tallness * 1.05
    patch = card(width * scale, height * scale, (later(rng, painter, color, look),), turn=turn)
    return Part(category, [patch]), scale


def two_wheeler(category: int, rng: np.random.Generator, look: Look, *, turn: float, ridden: bool) -> list[Part]:
    """Build a bicycle (18) or motorcycle (17) card turned by `turn` radians, with a rider as a second part if `ridden`."""
    vehicle, scale = _parked_two_wheeler(category, rng, look, turn)
    if not ridden:
        return [vehicle]
    colors = _people_colors(rng)
    helmet = random_color(rng, (0.2, 0.95), (0.4, 0.98))
    picture = later(rng, _rider, (colors[0], helmet, colors[2], colors[3]), look)
    rider = card(1.8 * scale, 1.85 * scale, (picture,), turn=turn)
    nearer = rider._replace(origin=(rider.origin[0], rider.origin[1], rider.origin[2] - 0.12))
    return [vehicle, Part(RIDER, [nearer]), shadow(0.35, 0.9)]
