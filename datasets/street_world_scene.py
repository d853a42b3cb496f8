"""Layout of the street world: a street without end, made chunk by chunk from the seed.

Everything static, parked or walking belongs to a chunk of `CHUNK` metres and is drawn from (world key, chunk); traffic
is drawn from (world key, time slot) in `street_world_traffic`. Both are made when they come near and dropped when they
are behind, so that memory does not grow with the length of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vidapt.datasets import street_world_stuff as stuff
from vidapt.datasets import street_world_things as things
from vidapt.datasets.street_world_style import Look
from vidapt.datasets.street_world_texture import Color, Texture, later, tint
from vidapt.datasets.street_world_things import Part, Patch

CHUNK = 24.0
AHEAD = 110.0
BEHIND = 14.0

Path = Callable[[float], NDArray[np.float64]]


@dataclass(frozen=True)
class Still:
    """The path of something that stands still."""

    place: NDArray[np.float64]

    def __call__(self, time: float) -> NDArray[np.float64]:
        """Return the place, whatever the time."""
        return self.place


class Pose(NamedTuple):
    """Position (3,) in metres and direction of the camera: yaw to the right and pitch down, radians."""

    position: NDArray[np.float64]
    yaw: float
    pitch: float


@dataclass(frozen=True)
class Ego:
    """Motion of the camera along the street as a closed function of time."""

    speed: float
    surge: float
    period: float
    phase: float
    height: float
    sway: float

    def distance(self, time: float) -> float:
        """Metres travelled at `time` seconds; strictly increasing."""
        turn = 2 * np.pi / self.period
        return float(self.speed * time + self.surge * (np.sin(turn * time + self.phase) - np.sin(self.phase)))

    def pose(self, time: float) -> Pose:
        """Return the camera pose at `time` seconds."""
        slow, fast = 2 * np.pi * time / 7.3 + self.phase, 2 * np.pi * time / 1.9 + self.phase
        x, y = self.sway * np.sin(slow), self.height + 0.012 * np.sin(fast)
        position = np.array([x, y, self.distance(time)])
        return Pose(position, float(0.02 * np.cos(slow)), float(0.0025 * np.sin(fast)))


@dataclass(frozen=True)
class Street:
    """Cross-section of the street in metres: x of the road's edges, width of lanes and sidewalks.

    `hand` is +1 for right-hand traffic and -1 for left-hand, `floors` bounds the heights of the houses, `green` is the
    share of lots with trees.
    """

    hand: int
    lane: float
    left: float
    right: float
    walk: tuple[float, float]
    parking: tuple[bool, bool]
    crossing_every: int
    crossing_phase: int
    floors: tuple[int, int]
    green: float
    asphalt: Color

    def edge(self, side: int) -> float:
        """x of the kerb on a side (-1 left, +1 right)."""
        return self.right if side > 0 else self.left

    def crosses(self, chunk: int) -> bool:
        """Whether a chunk begins with a cross street."""
        return chunk % self.crossing_every == self.crossing_phase


@dataclass(slots=True)
class Body:
    """Patches of one class that move together; `track` is 0 for stuff and else the instance id.

    `stride` is the number of animation phases per second; the body exists from `since` to `until` seconds. `uid` tells
    bodies of one world apart.
    """

    category: int
    track: int
    patches: list[Patch]
    path: Path
    stride: float = 0.0
    since: float = -np.inf
    until: float = np.inf
    uid: int = 0
    _local: NDArray[np.float64] | None = None

    def geometry(self, time: float) -> NDArray[np.float64]:
        """Return (patches, 3, 3): the columns are the axes u, v and the corner of each patch in the world."""
        if self._local is None:
            self._local = np.array([(p.u, p.v, p.origin) for p in self.patches]).transpose(0, 2, 1)
            if isinstance(self.path, Still):
                self._local[:, :, 2] += self.path(time)
        if isinstance(self.path, Still):
            return self._local
        placed = self._local.copy()
        placed[:, :, 2] += self.path(time)
        return placed

    def texture(self, patch: int, time: float) -> Texture:
        """Return the texture of one patch at `time` seconds."""
        textures = self.patches[patch].textures
        return textures[int(np.floor(time * self.stride)) % len(textures)]


def fixed(x: float, y: float, z: float) -> Path:
    """Return the path of something that stands still."""
    return Still(np.array([x, y, z]))


def moving(x: float, z: float, vx: float, vz: float, reference: float) -> Path:
    """Return a straight path that passes (x, 0, z) at time `reference` with velocity (vx, 0, vz)."""
    start, velocity = np.array([x, 0.0, z]), np.array([vx, 0.0, vz])
    return lambda time: start + velocity * (time - reference)


def turned(part: Part, angle: float) -> Part:
    """Rotate a part about the vertical axis; +pi/2 makes it head to the right."""
    cos, sin = float(np.cos(angle)), float(np.sin(angle))

    def rotate(vector: tuple[float, float, float]) -> tuple[float, float, float]:
        x, y, z = vector
        return cos * x + sin * z, y, cos * z - sin * x

    patches = [p._replace(origin=rotate(p.origin), u=rotate(p.u), v=rotate(p.v)) for p in part.patches]
    return part._replace(patches=patches)


def bodies_of(parts: Iterable[Part], path: Path, tracks: Iterator[int], *, stride: float = 0.0) -> list[Body]:
    """Turn parts into bodies on one path; each thing takes the next of `tracks`."""
    bodies = []
    for part in parts:
        thing = things.PERSON <= part.category < things.SHADOW
        bodies.append(Body(part.category, next(tracks) if thing else 0, part.patches, path, stride=stride))
    return bodies


def make_street(rng: np.random.Generator) -> Street:
    """Draw the cross-section and character of a street."""
    hand = 1 if rng.random() < 0.5 else -1
    lane, extra = rng.uniform(2.8, 3.3), int(rng.random() < 0.2)
    parking = (bool(rng.random() < 0.55), bool(rng.random() < 0.55))
    near, far = lane / 2, lane * (1.5 + extra)
    left, right = (far, near) if hand > 0 else (near, far)
    left, right = -left - 2.2 * parking[0] - 0.3, right + 2.2 * parking[1] + 0.3
    walk = (rng.uniform(2.6, 4.6), rng.uniform(2.6, 4.6))
    every = int(rng.integers(3, 6))
    low = int(rng.integers(1, 3))
    color = tint((1.0, rng.uniform(0.98, 1.02), rng.uniform(0.98, 1.06)), rng.uniform(72, 118))
    return Street(
        hand,
        lane,
        left,
        right,
        walk,
        parking,
        every,
        int(rng.integers(0, every)),
        (low, low + 3),
        rng.uniform(0.15, 0.5),
        color,
    )


def make_ego(rng: np.random.Generator, look: Look) -> Ego:
    """Draw the camera's speed, sway and height."""
    speed, period = rng.uniform(4.5, 8.0), rng.uniform(6.0, 11.0)
    surge = rng.uniform(0.0, 0.55) * speed * period / (2 * np.pi)
    return Ego(speed, surge, period, rng.uniform(0, 6.28), rng.uniform(1.35, 1.6) + look.rise, rng.uniform(0.05, 0.2))


class Ground:
    """Textures of the ground of one street, shared by all of its chunks."""

    def __init__(self, street: Street, rng: np.random.Generator, look: Look) -> None:
        """Paint road, crossing, sidewalks and soil once."""
        width = street.right - street.left
        middle = -street.hand * street.lane / 2 - street.left
        dash = float(rng.choice([1.5, 2.0, 3.0]))
        marks = [(middle, 0.18, dash)]
        marks += [(x, 0.15, 0.0) for x in (0.35, width - 0.35) if rng.random() < 0.6]
        self.road = [later(rng, stuff.asphalt, width, marks, street.asphalt, look) for _ in range(2)]
        self.plain = later(rng, stuff.asphalt, width, [], street.asphalt, look)
        self.zebra = later(rng, stuff.zebra, width, 3.0, street.asphalt, look)
        self.walks = [later(rng, stuff.pavement, w, kerb, look) for w, kerb in zip(street.walk, (1, -1), strict=True)]
        self.kerb = things.plain((186, 182, 176), rng, look, stuff.SIDEWALK)
        self.soils = [later(rng, stuff.soil, look) for _ in range(2)]


def ground_parts(street: Street, ground: Ground, chunk: int, rng: np.random.Generator) -> list[Part]:
    """Lay road, sidewalks, kerbs and the soil beside the street for one chunk starting at z = 0."""
    crossing = street.crosses(chunk)
    road = [
        stuff.flat(
            street.left, street.right, 0.0, 0.0, stuff.PIECE, ground.plain if crossing else ground.road[chunk % 2]
        )
    ]
    road.append(stuff.flat(street.left, street.right, 0.0, stuff.PIECE, CHUNK, ground.road[0]))
    walk: list[Patch] = []
    for index, side in enumerate((-1, 1)):
        inner = street.edge(side)
        outer = inner + side * street.walk[index]
        x0, x1 = min(inner, outer), max(inner, outer)
        for z in (0.0, stuff.PIECE)[int(crossing) :]:
            walk.append(stuff.flat(x0, x1, stuff.KERB, z, z + stuff.PIECE, ground.walks[index]))
            walk.append(Patch((inner, stuff.KERB, z), (0.0, 0.0, stuff.PIECE), (0.0, -stuff.KERB, 0.0), (ground.kerb,)))
    soil = [
        stuff.flat(-70.0, street.left, -0.02, 0.0, CHUNK, ground.soils[0]),
        stuff.flat(street.right, 70.0, -0.02, 0.0, CHUNK, ground.soils[1]),
    ]
    if crossing:
        road += [stuff.flat(x, x + 16.0, 0.01, 1.5, 10.5, ground.plain) for x in (-40.0, -24.0, -8.0, 8.0, 24.0)]
        road.append(stuff.flat(street.left, street.right, 0.02, 11.5, 14.5, ground.zebra))
    elif rng.random() < 0.15:
        road.append(stuff.flat(street.left, street.right, 0.02, 8.0, 11.0, ground.zebra))
    return [Part(stuff.ROAD, road), Part(stuff.SIDEWALK, walk), Part(stuff.TERRAIN, soil)]


def sky_part(rng: np.random.Generator, look: Look) -> list[Part]:
    """Make a sky card and a skyline card just above the horizon, to be placed around the camera."""
    blue, green, tone = rng.random() < 0.5, rng.random() < 0.5, rng.uniform(0.8, 1.1)
    picture = later(rng, stuff.sky, blue, look)
    sky = Patch((-1200.0, 860.0, 900.0), (2400.0, 0.0, 0.0), (0.0, -900.0, 0.0), (picture,))
    color = tint((104, 122, 92), tone) if green else tint((150, 146, 146), tone)
    far = later(rng, stuff.skyline, color, look)
    card = Patch((-800.0, 58.0, 860.0), (1600.0, 0.0, 0.0), (0.0, -60.0, 0.0), (far,))
    return [Part(stuff.SKY, [sky]), Part(stuff.VEGETATION if green else stuff.BUILDING, [card])]


def parked_vehicle(rng: np.random.Generator, look: Look) -> list[Part]:
    """Draw a parked vehicle: mostly a car."""
    kind = rng.random()
    if kind < 0.84:
        return things.car(rng, look)
    return things.truck(rng, look) if kind < 0.94 else things.bus(rng, look)
