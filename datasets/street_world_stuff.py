"""Stuff of the street world: facades, walls, fences, trees, poles, signs, lights and the textures of the ground.

Builders return `Part`s in a frame whose origin is a ground point, x right, y up, z ahead, metres.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vidapt.datasets.street_world_style import Look
from vidapt.datasets.street_world_texture import (
    Color,
    Grain,
    Pixels,
    Sheet,
    Texture,
    add_grain,
    later,
    random_color,
    tint,
)
from vidapt.datasets.street_world_things import Part, Patch, card

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY = range(11)

KERB = 0.12
PIECE = 12.0
FLOOR = 3.1


class Facade(NamedTuple):
    """Colours and window grid of one building."""

    wall: Color
    trim: Color
    shop: Color
    pattern: str
    bay: float
    window: tuple[float, float]


def facade_style(rng: np.random.Generator) -> Facade:
    """Draw the look of a building: brick, plaster or stone with its window size."""
    warm = rng.random() < 0.55
    wall = random_color(rng, (0.05, 0.2), (0.45, 0.85)) if not warm else tint((188, 132, 98), rng.uniform(0.55, 1.15))
    trim = tint((225, 220, 208), rng.uniform(0.6, 1.0))
    window = (rng.uniform(0.45, 0.65), rng.uniform(0.5, 0.68))
    return Facade(
        wall,
        trim,
        random_color(rng, (0.1, 0.65), (0.2, 0.7)),
        "brick" if warm else "blotch",
        rng.uniform(1.9, 3.2),
        window,
    )


def _window_cell(style: Facade, look: Look, shade: float, rng: np.random.Generator) -> Pixels:
    """Return the RGBA pixels of four bays with one window each, one floor high."""
    sheet = Sheet(4 * style.bay, FLOOR, look.density * 0.42)
    sheet.fill(tint(style.wall, shade))
    wide, high = style.bay * style.window[0], FLOOR * style.window[1]
    for index in range(4):
        x, y = style.bay * (index + 0.5) - wide / 2, 0.75
        sheet.rectangle(x - 0.14, y - 0.16, x + wide + 0.14, y + high + 0.12, tint(style.trim, shade))
        glass = tint((70, 82, 96), rng.uniform(0.55, 1.5)) if rng.random() < 0.85 else look.lit_window
        sheet.rectangle(x, y, x + wide, y + high, tint(glass, shade))
        sheet.rectangle(x + wide / 2 - 0.05, y, x + wide / 2 + 0.05, y + high, tint(style.trim, shade))
    return _reduced(sheet)


def _reduced(sheet: Sheet) -> Pixels:
    return sheet.pixels[::2, ::2]


def _shop(width: float, style: Facade, look: Look, shade: float) -> Pixels:
    sheet = Sheet(width, FLOOR + 0.4, look.density * 0.42)
    sheet.fill(tint(style.shop, 0.8 * shade))
    for x in np.arange(0.3, width - 1.2, 2.6):
        sheet.rectangle(x, 0.5, min(x + 2.1, width - 0.2), 2.5, tint((62, 70, 80), shade))
        sheet.rectangle(x + 0.2, 0.7, x + 0.9, 2.1, tint((120, 116, 104), shade))
    sheet.rectangle(0.0, 2.75, width, FLOOR + 0.3, tint(style.shop, 1.25 * shade))
    return _reduced(sheet)


def _facade(width: float, floors: int, style: Facade, look: Look, *, rng: np.random.Generator, shade: float) -> Pixels:
    """Return the texture of a wall with `floors` rows of windows over a shop floor."""
    shop = _shop(width, style, look, shade)
    cell = _window_cell(style, look, shade, rng)
    columns = shop.shape[1]
    rows = np.concatenate([np.roll(cell, int(rng.integers(0, 4)) * cell.shape[1] // 4, 1) for _ in range(floors)])
    rows = np.tile(rows, (1, columns // cell.shape[1] + 1, 1))[:, :columns]
    rows[:2] = (*(int(value) for value in tint(style.trim, shade)), 255)
    grains = look.grains(BUILDING, 7.0)
    return add_grain(np.concatenate([rows, shop]), rng, Grain(style.pattern, 8.0), *grains)


def building(length: float, side: int, rng: np.random.Generator, look: Look, floors: int) -> list[Part]:
    """Build a house whose street wall runs from z = 0 to `length` at x = 0, left (-1) or right (+1) of the street."""
    style = facade_style(rng)
    height = FLOOR * (floors + 1) + 0.4
    street = (later(rng, _facade, length, floors, style, look, shade=0.95),)
    deep = rng.uniform(6.0, 10.0)
    end = (later(rng, _facade, deep, floors, style, look, shade=0.72),)
    if side > 0:
        wall = Patch((0.0, height, length), (0.0, 0.0, -length), (0.0, -height, 0.0), street)
        gable = Patch((0.0, height, 0.0), (deep, 0.0, 0.0), (0.0, -height, 0.0), end)
    else:
        wall = Patch((0.0, height, 0.0), (0.0, 0.0, length), (0.0, -height, 0.0), street)
        gable = Patch((-deep, height, 0.0), (deep, 0.0, 0.0), (0.0, -height, 0.0), end)
    return [Part(BUILDING, [wall, gable])]


def _along(category: int, length: float, height: float, texture: Texture) -> list[Part]:
    """Return an upright patch from z = 0 to `length` at x = 0."""
    return [Part(category, [Patch((0.0, height, 0.0), (0.0, 0.0, length), (0.0, -height, 0.0), (texture,))])]


def wall(length: float, height: float, rng: np.random.Generator, look: Look) -> list[Part]:
    """Build a low wall of stone or brick courses with a coping from z = 0 to `length`."""
    return _along(WALL, length, height, later(rng, _wall, length, height, look))


def _wall(length: float, height: float, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(length, height, look.density * 0.5)
    stone = rng.random() < 0.75
    color = tint((176, 160, 136), rng.uniform(0.7, 1.1)) if stone else tint((160, 104, 82), rng.uniform(0.7, 1.1))
    sheet.fill(color)
    for row, y in enumerate(np.arange(0.0, height - 0.2, 0.34)):
        sheet.rectangle(0.0, y, length, y + 0.06, tint(color, 0.62))
        for x in np.arange(0.5 * (row % 2), length, 1.0):
            sheet.rectangle(x, y, x + 0.07, y + 0.34, tint(color, 0.68))
    sheet.rectangle(0.0, height - 0.18, length, height, tint(color, 1.3))
    return sheet.finish(rng, Grain("blotch", 9.0), *look.grains(WALL, 6.0))


def fence(length: float, height: float, rng: np.random.Generator, look: Look) -> list[Part]:
    """Build a fence of upright bars between rails; the gaps are dark and belong to the fence."""
    return _along(FENCE, length, height, later(rng, _fence, length, height, look))


def _fence(length: float, height: float, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(length, height, look.density * 0.6)
    bars = tint((214, 220, 222), rng.uniform(0.75, 1.1)) if rng.random() < 0.75 else (96.0, 128.0, 108.0)
    sheet.fill(tint((62, 72, 58), rng.uniform(0.6, 1.1)))
    for x in np.arange(0.1, length, 0.42):
        sheet.rectangle(x, 0.0, x + 0.17, height, bars)
    for y in (0.15, height - 0.22):
        sheet.rectangle(0.0, y, length, y + 0.13, tint(bars, 0.85))
    return sheet.finish(rng, *look.grains(FENCE, 5.0))


def hedge(length: float, height: float, rng: np.random.Generator, look: Look) -> list[Part]:
    """Build a hedge (vegetation) from z = 0 to `length` at x = 0."""
    return _along(VEGETATION, length, height, later(rng, _hedge, length, height, look))


def _hedge(length: float, height: float, look: Look, *, rng: np.random.Generator) -> Pixels:
    color = tint((70, 100, 48), rng.uniform(0.7, 1.2))
    sheet = Sheet(length, height, look.density * 0.4, color)
    sheet.fill(color)
    sheet.shade(1.25, 0.6)
    return sheet.finish(rng, Grain("blotch", 18.0, 0.5), Grain("grain", 10.0), *look.grains(VEGETATION, 8.0))


def tree(rng: np.random.Generator, look: Look) -> list[Part]:
    """Build a tree: trunk and a crown of overlapping leaf clumps (all vegetation)."""
    height, width = rng.uniform(4.5, 8.5), rng.uniform(3.0, 5.0)
    return [Part(VEGETATION, [card(width, height, (later(rng, _tree, width, height, look),))])]


def _tree(width: float, height: float, look: Look, *, rng: np.random.Generator) -> Pixels:
    green = rng.random() < 0.8
    color = tint((82, 108, 58), rng.uniform(0.65, 1.2)) if green else tint((142, 116, 58), rng.uniform(0.7, 1.1))
    sheet = Sheet(width, height, look.density * 0.55, tint(color, 0.8))
    sheet.rectangle(width / 2 - 0.16, 0.0, width / 2 + 0.16, height * 0.6, (78, 62, 46))
    low = height * rng.uniform(0.28, 0.42)
    middle, half = (low + height) / 2, (height - low) / 2
    for shade in np.linspace(0.6, 1.3, 16):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.62)
        x = width / 2 + 0.45 * radius * width * float(np.cos(angle))
        y = middle + radius * half * float(np.sin(angle)) + 0.1 * half * (shade - 0.9)
        sheet.ellipse(x, y, width * 0.22, half * 0.42, tint(color, float(shade)))
    return sheet.finish(rng, Grain("grain", 14.0), *look.grains(VEGETATION, 8.0))


def _metal(width: float, height: float, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(width, height, look.density)
    color = tint((124, 130, 134), rng.uniform(0.7, 1.15))
    sheet.fill(color)
    sheet.rectangle(0.0, 0.0, min(width * 0.3, 0.1), height, tint(color, 1.3))
    return sheet.finish(rng, *look.grains(POLE, 3.0))


def _pole(height: float, width: float, rng: np.random.Generator, look: Look) -> Part:
    return Part(POLE, [card(width, height, (later(rng, _metal, width, height, look),))])


def lamp(rng: np.random.Generator, look: Look, toward: float) -> list[Part]:
    """Build a lamp post with an arm of `toward` metres (signed) over the street."""
    height = rng.uniform(6.0, 8.0)
    mast = _pole(height, 0.32, rng, look)
    arm = later(rng, _metal, abs(toward), 0.22, look)
    bar = Patch((min(toward, 0.0), height, 0.0), (abs(toward), 0.0, 0.0), (0.0, -0.22, 0.0), (arm,))
    return [Part(POLE, [*mast.patches, bar])]


def traffic_light(rng: np.random.Generator, look: Look) -> list[Part]:
    """Build a signal head (class traffic light) on a pole, one lamp lit."""
    head = card(0.62, 1.5, (later(rng, _signal, look),))
    raised = head._replace(origin=(head.origin[0], 4.0, -0.1))
    return [_pole(3.4, 0.28, rng, look), Part(LIGHT, [raised])]


def _signal(look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(0.62, 1.5, look.density * 1.6)
    sheet.fill((30, 32, 30))
    lit = int(rng.integers(0, 3))
    for index, color in enumerate(((40, 235, 110), (250, 190, 50), (250, 45, 35))):
        sheet.ellipse(0.31, 0.28 + 0.47 * index, 0.21, 0.21, color if index == lit else tint(color, 0.22))
    return sheet.finish(rng, *look.grains(LIGHT, 3.0))


def sign(rng: np.random.Generator, look: Look) -> list[Part]:
    """Build a traffic sign (round, triangular, blue or yellow board) on a pole."""
    size, height = rng.uniform(0.75, 1.1), rng.uniform(2.5, 3.1)
    plate = card(size, size, (later(rng, _plate, look),))
    raised = plate._replace(origin=(plate.origin[0], height, -0.1))
    return [_pole(2.3, 0.22, rng, look), Part(SIGN, [raised])]


def _plate(look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(1.0, 1.0, look.density * 1.5, (120, 120, 120))
    kind = int(rng.integers(0, 4))
    if kind == 0:
        sheet.ellipse(0.5, 0.5, 0.48, 0.48, (200, 32, 36))
        sheet.ellipse(0.5, 0.5, 0.33, 0.33, (236, 236, 232))
        sheet.rectangle(0.38, 0.36, 0.62, 0.64, (30, 30, 30))
    elif kind == 1:
        sheet.polygon([(0.0, 0.04), (1.0, 0.04), (0.5, 0.96)], (200, 32, 36))
        sheet.polygon([(0.2, 0.16), (0.8, 0.16), (0.5, 0.7)], (240, 236, 224))
    elif kind == 2:
        sheet.fill((34, 84, 168))
        sheet.polygon([(0.2, 0.45), (0.8, 0.45), (0.5, 0.85)], (236, 236, 240))
        sheet.rectangle(0.42, 0.12, 0.58, 0.5, (236, 236, 240))
    else:
        sheet.fill((224, 190, 52))
        sheet.rectangle(0.15, 0.25, 0.85, 0.4, (30, 30, 30))
        sheet.rectangle(0.15, 0.55, 0.7, 0.7, (30, 30, 30))
    return sheet.finish(rng, *look.grains(SIGN, 3.0))


def flat(x0: float, x1: float, y: float, z0: float, z1: float, texture: Texture) -> Patch:
    """Return a horizontal patch whose texture has its upper edge at the far end z1."""
    return Patch((x0, y, z1), (x1 - x0, 0.0, 0.0), (0.0, 0.0, z0 - z1), (texture,))


def pavement(width: float, kerb: int, look: Look, *, rng: np.random.Generator) -> Pixels:
    """Paint the slabs of a sidewalk, PIECE metres long; the kerb stones lie left (-1) or right (+1)."""
    sheet = Sheet(width, PIECE, look.density * 0.45)
    color = tint((158, 150, 146), rng.uniform(0.8, 1.1))
    sheet.fill(color)
    for y in np.arange(0.0, PIECE, 1.0):
        sheet.rectangle(0.0, y, width, y + 0.08, tint(color, 0.78))
    for x in np.arange(0.0, width, 1.0):
        sheet.rectangle(x, 0.0, x + 0.07, PIECE, tint(color, 0.8))
    edge = 0.0 if kerb < 0 else width - 0.3
    sheet.rectangle(edge, 0.0, edge + 0.3, PIECE, tint(color, 1.28))
    return sheet.finish(rng, Grain("blotch", 6.0), *look.grains(SIDEWALK, 6.0))


def asphalt(
    width: float, marks: list[tuple[float, float, float]], color: Color, look: Look, *, rng: np.random.Generator
) -> Pixels:
    """Paint PIECE metres of road; `marks` are (x, width, dash) with dash 0 for a solid line, else metres per dash."""
    sheet = Sheet(width, PIECE, look.density * 0.45)
    sheet.fill(color)
    for _ in range(3):
        x, y = rng.uniform(0.5, width - 1.5), rng.uniform(0, PIECE - 2)
        sheet.rectangle(x, y, x + rng.uniform(0.6, 1.6), y + rng.uniform(1, 4), tint(color, rng.uniform(0.84, 1.1)))
    for x, wide, dash in marks:
        starts = [0.0] if dash == 0 else list(np.arange(0.0, PIECE, 2 * dash))
        for y in starts:
            sheet.rectangle(x - wide / 2, y, x + wide / 2, y + (PIECE if dash == 0 else dash), (222, 222, 214))
    return sheet.finish(rng, Grain("blotch", 5.0), *look.grains(ROAD, 7.0))


def zebra(width: float, length: float, color: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    """Paint a pedestrian crossing over the whole road width."""
    sheet = Sheet(width, length, look.density * 0.45)
    sheet.fill(color)
    for x in np.arange(0.3, width - 0.5, 1.0):
        sheet.rectangle(x, 0.0, x + 0.5, length, (224, 224, 216))
    return sheet.finish(rng, *look.grains(ROAD, 7.0))


def soil(look: Look, *, rng: np.random.Generator) -> Pixels:
    """Paint a square of grass or earth (terrain)."""
    grass = rng.random() < 0.7
    color = tint((116, 128, 66), rng.uniform(0.75, 1.15)) if grass else tint((142, 116, 84), rng.uniform(0.7, 1.1))
    sheet = Sheet(12.0, 12.0, look.density * 0.25)
    sheet.fill(color)
    return sheet.finish(rng, Grain("blotch", 10.0, 0.5), Grain("grain", 9.0), *look.grains(TERRAIN, 8.0))


def sky(blue: bool, look: Look, *, rng: np.random.Generator) -> Pixels:
    """Paint the sky: a gradient from the zenith to a pale horizon with clouds."""
    sheet = Sheet(2.4, 0.9, 160)
    top: Color = (110, 150, 204) if blue else (168, 178, 190)
    low: Color = (196, 214, 232) if blue else (214, 218, 222)
    mix = np.linspace(0, 1, sheet.pixels.shape[0])[:, None, None] ** 0.8
    sheet.pixels[..., :3] = np.asarray(top) * (1 - mix) + np.asarray(low) * mix
    sheet.pixels[..., 3] = 255
    return sheet.finish(rng, Grain("blotch", rng.uniform(6.0, 16.0), 1.5), *look.grains(SKY, 1.0))


def skyline(color: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    """Paint the far end of the view: a row of houses or trees of uneven height, 1600 x 60 metres."""
    sheet = Sheet(1600.0, 60.0, 0.3, color)
    x = 0.0
    while x < 1600.0:
        width, height = rng.uniform(20, 60), rng.uniform(14, 52)
        sheet.rectangle(x, 0.0, x + width + 1, height, tint(color, rng.uniform(0.85, 1.15)))
        x += width
    return sheet.finish(rng, *look.grains(BUILDING, 4.0))
