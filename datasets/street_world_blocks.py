"""What stands, parks and walks along one chunk of the street."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from vidapt.datasets import street_world_people as people
from vidapt.datasets import street_world_scene as scene
from vidapt.datasets import street_world_stuff as stuff
from vidapt.datasets import street_world_things as things
from vidapt.datasets.street_world_scene import CHUNK, Body, Ego, Ground, Street, bodies_of, fixed, moving, turned
from vidapt.datasets.street_world_style import Look

STEP = 6.0
CROSS_REACH = 26.0


class Block(NamedTuple):
    """What the builders of one chunk share; `start` is the z of its near end."""

    street: Street
    ground: Ground
    ego: Ego
    look: Look
    rng: np.random.Generator
    tracks: Iterator[int]
    start: float
    crossing: bool


def time_at(ego: Ego, distance: float) -> float:
    """Return the time at which the camera has travelled `distance` metres, by bisection."""
    low, high = distance / ego.speed - 2 * ego.period, distance / ego.speed + 2 * ego.period
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if ego.distance(middle) < distance else (low, middle)
    return low


def chunk_bodies(block: Block, chunk: int) -> list[Body]:
    """Make all bodies of one chunk."""
    parts = scene.ground_parts(block.street, block.ground, chunk, block.rng)
    bodies = bodies_of(parts, fixed(0.0, 0.0, block.start), block.tracks)
    # Each maker draws from its own generator, so that a style's rates change no other object.
    makers: list[Callable[[Block], list[Body]]] = []
    for side in (-1, 1):
        makers += [partial(make, side=side) for make in (_lots, _furniture, _parked, _walkers)]
    if block.crossing:
        makers += [_crossing_walkers, _cross_traffic]
    for make, rng in zip(makers, block.rng.spawn(len(makers)), strict=True):
        bodies += make(block._replace(rng=rng))
    return bodies


def _lots(block: Block, side: int) -> list[Body]:
    rng, start = block.rng, stuff.PIECE if block.crossing else 0.0
    cuts = [start, CHUNK] if block.crossing or rng.random() < 0.3 else [0.0, 12.0, CHUNK]
    x = block.street.edge(side) + side * block.street.walk[0 if side < 0 else 1]
    bodies: list[Body] = []
    for (z0, z1), own in zip(pairwise(cuts), rng.spawn(len(cuts) - 1), strict=True):
        block, kind = block._replace(rng=own), own.random()
        green = min(block.street.green * block.look.rate(stuff.VEGETATION), 0.8)
        if kind < green:
            bodies += _park(block, side, x, z0, z1 - z0)
        elif kind < green + 0.2:
            bodies += _yard(block, side, x, z0, z1 - z0)
        else:
            bodies += _house(block, side, x + side * own.uniform(0.0, 1.5), z0, z1 - z0)
    return bodies


def _house(block: Block, side: int, x: float, z: float, length: float) -> list[Body]:
    floors = int(block.rng.integers(*block.street.floors))
    parts = stuff.building(length - block.rng.uniform(0, 1.2), side, block.rng, block.look, floors)
    x0, x1 = sorted((x, x - 2.0 * side))
    slab = [stuff.flat(x0, x1, stuff.KERB - 0.02, z, z + length, block.ground.kerb)]
    bodies = bodies_of(parts, fixed(x, 0.0, block.start + z), block.tracks)
    return bodies + bodies_of([stuff.Part(stuff.SIDEWALK, slab)], fixed(0.0, 0.0, block.start), block.tracks)


def _lawn(block: Block, side: int, x: float, z: float, length: float) -> list[Body]:
    soil = block.ground.soils[0 if side < 0 else 1]
    patch = stuff.flat(min(x, x + 14.0 * side), max(x, x + 14.0 * side), stuff.KERB + 0.02, z, z + length, soil)
    return bodies_of([stuff.Part(stuff.TERRAIN, [patch])], fixed(0.0, 0.0, block.start), block.tracks)


def _border(block: Block, x: float, z: float, length: float) -> list[Body]:
    """Return what separates a lot from the sidewalk: a fence, a wall, a hedge or nothing."""
    rng, kind = block.rng, block.rng.random()
    height = block.look.tallness * rng.uniform(0.9, 1.5)
    if kind < 0.36:
        parts = stuff.fence(length, height, rng, block.look)
    elif kind < 0.62:
        parts = stuff.wall(length, height, rng, block.look)
    elif kind < 0.76:
        parts = stuff.hedge(length, height, rng, block.look)
    else:
        return []
    return bodies_of(parts, fixed(x, 0.0, block.start + z), block.tracks)


def _park(block: Block, side: int, x: float, z: float, length: float) -> list[Body]:
    rng = block.rng
    bodies = _lawn(block, side, x, z, length) + _border(block, x + side * 0.1, z, length)
    for _ in range(int(rng.integers(2, 5))):
        place = fixed(x + side * rng.uniform(2.5, 8.0), 0.0, block.start + z + rng.uniform(0.5, length - 0.5))
        bodies += bodies_of(stuff.tree(rng, block.look), place, block.tracks)
    if rng.random() < 0.45:
        bodies += _house(block, side, x + side * 11.0, z, length)
    return bodies


def _yard(block: Block, side: int, x: float, z: float, length: float) -> list[Body]:
    rng = block.rng
    height = block.look.tallness * rng.uniform(1.5, 2.6)
    make = stuff.wall if rng.random() < 0.65 else stuff.fence
    bodies = bodies_of(make(length, height, rng, block.look), fixed(x, 0.0, block.start + z), block.tracks)
    if rng.random() < 0.6:
        return bodies + _house(block, side, x + side * rng.uniform(3.0, 6.0), z, length)
    place = fixed(x + side * rng.uniform(2.2, 4.0), 0.0, block.start + z + length / 2)
    return bodies + bodies_of(stuff.tree(rng, block.look), place, block.tracks)


def _furniture(block: Block, side: int) -> list[Body]:
    """Return what stands at the kerb: lamps, lights, signs, trees, a verge and parked two-wheelers."""
    rng, look, bodies = block.rng, block.look, []
    kerb = block.street.edge(side) + side * 0.55

    def put(parts: list[things.Part], z: float, out: float = 0.0) -> None:
        place = fixed(kerb + side * out, stuff.KERB, block.start + z)
        bodies.extend(bodies_of(parts, place, block.tracks))

    first = stuff.PIECE if block.crossing else 0.0
    if rng.random() < 0.5:
        x0, x1 = sorted((-0.2 * side, 1.3 * side))
        verge = stuff.flat(x0, x1, 0.015, first, CHUNK, block.ground.soils[0])
        bodies += bodies_of([stuff.Part(stuff.TERRAIN, [verge])], fixed(kerb, stuff.KERB, block.start), block.tracks)
    if rng.random() < 0.7:
        put(stuff.lamp(rng, look, -side * rng.uniform(1.2, 2.2)), first + rng.uniform(1.0, 4.0))
    if block.crossing or rng.random() < 0.12:
        put(stuff.traffic_light(rng, look), first + 0.4)
    for _ in range(int(rng.integers(0, 3))):
        put(stuff.sign(rng, look), rng.uniform(first + 1, CHUNK - 1))
    for z in (first + 5.0, first + 11.0):
        if rng.random() < 0.22 * look.rate(stuff.VEGETATION):
            put(stuff.tree(rng, look), z, 0.3)
    for _ in range(int(rng.integers(0, 3))):
        kind = things.BICYCLE if rng.random() < 0.6 else things.MOTORCYCLE
        turn = rng.uniform(-0.8, 0.8)
        put(people.two_wheeler(kind, rng, look, turn=turn, ridden=False), rng.uniform(first + 1, CHUNK - 1), 0.5)
    return bodies


def _parked(block: Block, side: int) -> list[Body]:
    if not block.street.parking[0 if side < 0 else 1]:
        return []
    rng, bodies, z = block.rng, [], (14.5 if block.crossing else 0.0) + STEP / 2
    x = block.street.edge(side) - side * 1.2
    while z < CHUNK - 2.0:
        if rng.random() < 0.6 * block.look.rate(things.CAR):
            parts = scene.parked_vehicle(rng, block.look)
            long = parts[0].category != things.CAR
            z += STEP / 2 if long else 0.0
            if not long or z < CHUNK - 5.0:
                heading = 0.0 if side == block.street.hand else np.pi
                place = fixed(x, 0.0, block.start + z)
                bodies += bodies_of([turned(part, heading) for part in parts], place, block.tracks)
            z += STEP / 2 if long else 0.0
        z += STEP
    return bodies


def _walkers(block: Block, side: int) -> list[Body]:
    rng, bodies = block.rng, []
    inner, wide = block.street.edge(side), block.street.walk[0 if side < 0 else 1]
    for _ in range(rng.poisson(2.2 * block.look.rate(things.PERSON))):
        z = block.start + rng.uniform(0.0, CHUNK)
        x = inner + side * rng.uniform(0.9, wide - 0.3)
        pace = rng.uniform(0.9, 1.6) * (1 if rng.random() < 0.5 else -1)
        still = rng.random() < 0.2
        path = moving(x, z, 0.0, 0.0 if still else pace, time_at(block.ego, z - 15.0))
        raised = _raised(people.person(rng, block.look), stuff.KERB)
        bodies += bodies_of(raised, path, block.tracks, stride=0.0 if still else 4.0 * abs(pace))
    return bodies


def _raised(parts: list[things.Part], height: float) -> list[things.Part]:
    lifted = []
    for part in parts:
        patches = [p._replace(origin=(p.origin[0], p.origin[1] + height, p.origin[2])) for p in part.patches]
        lifted.append(part._replace(patches=patches))
    return lifted


def _within(bodies: list[Body], middle: float, reach: float) -> list[Body]:
    for body in bodies:
        body.since, body.until = middle - reach, middle + reach
    return bodies


def _crossing_walkers(block: Block) -> list[Body]:
    rng, bodies = block.rng, []
    for _ in range(int(rng.integers(0, 4))):
        z = block.start + rng.uniform(11.8, 14.2)
        pace = rng.uniform(1.1, 1.7) * (1 if rng.random() < 0.5 else -1)
        reference = time_at(block.ego, z - rng.uniform(10.0, 24.0))
        path = moving(0.0, z, pace, 0.0, reference)
        crowd = bodies_of(people.person(rng, block.look), path, block.tracks, stride=6.0)
        bodies += _within(crowd, reference, 8.0 / abs(pace))
    return bodies


def _cross_traffic(block: Block) -> list[Body]:
    rng, look, bodies = block.rng, block.look, []
    for direction, z in ((1, 7.9), (-1, 4.1)):
        kind = rng.random()
        pace = rng.uniform(5.0, 8.0)
        if kind < 0.55:
            parts = [turned(part, direction * np.pi / 2) for part in scene.parked_vehicle(rng, look)]
        elif kind < 0.9:
            category = things.BICYCLE if rng.random() < 0.55 else things.MOTORCYCLE
            turn = 0.0 if direction > 0 else np.pi
            parts, pace = people.two_wheeler(category, rng, look, turn=turn, ridden=True), 0.6 * pace
        else:
            continue
        reference = time_at(block.ego, block.start + z - rng.uniform(20.0, 40.0))
        path = moving(0.0, block.start + z, direction * pace, 0.0, reference)
        bodies += _within(bodies_of(parts, path, block.tracks), reference, CROSS_REACH / pace)
    return bodies
