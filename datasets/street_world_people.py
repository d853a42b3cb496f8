"""People and two-wheelers of the street world, drawn on upright cards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidapt.datasets.street_world_style import Look
from vidapt.datasets.street_world_texture import Color, Pixels, Sheet, later, random_color, tint
from vidapt.datasets.street_world_things import BICYCLE, MOTORCYCLE, PERSON, RIDER, TYRE, Part, card, shadow

WALK_PHASES = 6
HIP = 0.52


def _walker(
    swing: float,
    colors: tuple[Color, Color, Color, Color],
    shape: NDArray[np.float64],
    look: Look,
    *,
    rng: np.random.Generator,
) -> Pixels:
    """Draw one walking phase; colours are skin, hair, coat, trousers, `shape` scales shoulders and coat length."""
    skin, hair, coat, trousers = colors
    sheet = Sheet(0.9, 1.76, look.density * 1.6, tint(coat, 0.8))
    wide, hem = 0.22 * shape[0], 0.86 - 0.28 * shape[1]
    for side, shade in ((-1, 0.75), (1, 1.0)):
        foot = 0.45 + side * (0.07 + swing * 0.2)
        sheet.polygon([(0.31, 0.9), (0.59, 0.9), (foot + 0.1, 0.06), (foot - 0.1, 0.06)], tint(trousers, shade))
        sheet.rectangle(foot - 0.12, 0.0, foot + 0.12, 0.08, (30, 26, 24))
    for side, shade in ((-1, 0.7), (1, 0.85)):
        hand = 0.45 + side * (wide + 0.1 - 0.1 * swing)
        shoulder = 0.45 + side * wide
        sheet.line([(shoulder, 1.4), (hand, 0.8)], tint(coat, shade), 0.12)
        sheet.ellipse(hand, 0.78, 0.05, 0.06, skin)
    narrow = wide * 0.95
    sheet.polygon([(0.45 - wide, 1.46), (0.45 + wide, 1.46), (0.45 + narrow, hem), (0.45 - narrow, hem)], coat)
    sheet.rectangle(0.4, 1.42, 0.5, 1.54, tint(skin, 0.85))
    sheet.ellipse(0.45, 1.61, 0.14, 0.15, hair)
    sheet.ellipse(0.46, 1.58, 0.115, 0.125, skin)
    return sheet.finish(rng, *look.grains(PERSON, 6.0))


def _people_colors(rng: np.random.Generator) -> tuple[Color, Color, Color, Color]:
    skin = tint((232, 190, 160), rng.uniform(0.45, 1.05))
    hair = tint((90, 66, 44), rng.uniform(0.3, 1.7))
    coat = random_color(rng, (0.1, 0.6), (0.14, 0.62))
    trousers = random_color(rng, (0.1, 0.5), (0.1, 0.34))
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
        sheet.ellipse(x, 0.36, 0.27, 0.27, (132, 132, 134))
        sheet.ellipse(x, 0.36, 0.06, 0.06, (40, 40, 42))
    frame = [(0.38, 0.36), (0.8, 0.34), (1.24, 0.84), (0.66, 0.84), (0.38, 0.36)]
    sheet.line(frame, color, 0.13)
    sheet.line([(0.8, 0.34), (0.62, 0.98)], color, 0.09)
    sheet.line([(1.42, 0.36), (1.22, 0.98), (1.36, 1.06)], color, 0.09)
    sheet.rectangle(0.46, 0.94, 0.8, 1.04, (30, 28, 28))
    return sheet.finish(rng, *look.grains(BICYCLE, 5.0))


def _motorcycle(color: Color, look: Look, *, rng: np.random.Generator) -> Pixels:
    sheet = Sheet(2.1, 1.2, look.density * 1.3, (50, 50, 52))
    for x in (0.38, 1.72):
        sheet.ellipse(x, 0.35, 0.36, 0.35, TYRE)
        sheet.ellipse(x, 0.35, 0.16, 0.16, (135, 135, 138))
    sheet.polygon([(0.3, 0.4), (0.6, 0.16), (1.5, 0.16), (1.7, 0.6), (0.4, 0.7)], (58, 58, 62))
    sheet.polygon([(0.1, 0.72), (1.0, 0.6), (1.72, 0.72), (1.6, 1.0), (1.1, 1.02), (0.9, 0.84), (0.2, 0.86)], color)
    sheet.rectangle(0.3, 0.82, 1.0, 0.94, (26, 24, 24))
    sheet.line([(1.72, 0.36), (1.5, 1.0), (1.34, 1.16)], (150, 150, 154), 0.1)
    sheet.ellipse(1.74, 0.86, 0.11, 0.11, (250, 246, 220))
    return sheet.finish(rng, *look.grains(MOTORCYCLE, 5.0))


def _rider(colors: tuple[Color, Color, Color, Color], look: Look, *, rng: np.random.Generator) -> Pixels:
    """Draw a seated rider whose saddle is at (0.6, 0.95) of a 1.8 m wide card."""
    skin, helmet, coat, trousers = colors
    sheet = Sheet(1.8, 1.85, look.density * 1.4, tint(coat, 0.8))
    sheet.line([(0.66, 0.98), (0.98, 0.66), (0.84, 0.3)], tint(trousers, 0.8), 0.2)
    sheet.line([(0.66, 0.98), (1.06, 0.78), (0.92, 0.36)], trousers, 0.2)
    sheet.polygon([(0.42, 0.9), (0.86, 0.9), (1.14, 1.42), (0.78, 1.54)], coat)
    sheet.line([(0.98, 1.4), (1.16, 1.14), (1.3, 1.08)], tint(coat, 0.8), 0.15)
    sheet.ellipse(1.06, 1.63, 0.13, 0.15, skin)
    sheet.ellipse(1.03, 1.7, 0.15, 0.13, helmet)
    return sheet.finish(rng, *look.grains(RIDER, 6.0))


def _parked_two_wheeler(category: int, rng: np.random.Generator, look: Look, turn: float) -> tuple[Part, float]:
    if category == BICYCLE:
        color, width, height, painter = random_color(rng, (0.3, 0.8), (0.5, 0.95)), 1.8, 1.12, _bicycle
    else:
        color, width, height, painter = random_color(rng, (0.2, 0.8), (0.15, 0.6)), 2.1, 1.2, _motorcycle
    scale = look.tallness * 1.05
    patch = card(width * scale, height * scale, (later(rng, painter, color, look),), turn=turn)
    return Part(category, [patch]), scale


def two_wheeler(category: int, rng: np.random.Generator, look: Look, *, turn: float, ridden: bool) -> list[Part]:
    """Build a bicycle (18) or motorcycle (17) card turned by `turn` radians; a rider is the second part."""
    vehicle, scale = _parked_two_wheeler(category, rng, look, turn)
    if not ridden:
        return [vehicle]
    colors = _people_colors(rng)
    helmet, vest = random_color(rng, (0.3, 0.9), (0.6, 0.98)), random_color(rng, (0.45, 0.9), (0.6, 0.95))
    picture = later(rng, _rider, (colors[0], helmet, vest, colors[3]), look)
    rider = card(1.8 * scale, 1.85 * scale, (picture,), turn=turn)
    nearer = rider._replace(origin=(rider.origin[0], rider.origin[1], rider.origin[2] - 0.12))
    return [vehicle, Part(RIDER, [nearer]), shadow(0.35, 0.9)]
