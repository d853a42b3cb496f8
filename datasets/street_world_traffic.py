"""Traffic on the road and the world that joins street, blocks and traffic.

Traffic is drawn per lane and time slot: each slot holds at most one vehicle, whose path is a closed function of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from vidapt.datasets import street_world_people as people
from vidapt.datasets import street_world_scene as scene
from vidapt.datasets import street_world_things as things
from vidapt.datasets.street_world_blocks import Block, chunk_bodies
from vidapt.datasets.street_world_scene import AHEAD, BEHIND, CHUNK, Body, Ego, Path, bodies_of, turned
from vidapt.datasets.street_world_style import Look

STREET, CHUNKS, TRAFFIC = range(3)
ONCOMING, SECOND, LEAD, CYCLIST, OPPOSITE_CYCLIST = range(5)
SLOT_SECONDS = (2.8, 3.4, 18.0, 4.5, 6.0)
LIFE_SECONDS = 14.0
TRACKS_PER_SOURCE = 64


def generator(key: tuple[int, ...], purpose: int, index: int) -> np.random.Generator:
    """Return the random generator of one part of the world, whatever else has been drawn."""
    return np.random.default_rng(np.random.SeedSequence([*key, purpose, index]))


def _passing(x: float, pace: float, ego: Ego, moment: float, gap: float = 0.0) -> Path:
    """Return a path along the lane at x that is `gap` metres ahead of the camera at `moment`."""
    return scene.moving(x, ego.distance(moment) + gap, 0.0, pace, moment)


def _leading(x: float, ego: Ego, moment: float, gap: float) -> Path:
    """Return the path of a vehicle ahead that comes as near as `gap` metres at `moment` and draws away again."""

    def path(time: float) -> np.ndarray:
        lag = 7.0 * (np.hypot(time - moment, 3.0) - 3.0)
        return np.array([x, 0.0, ego.distance(time) + gap + lag])

    return path


class World:
    """One street with its traffic; `bodies(time)` is what the camera may see then."""

    def __init__(self, key: tuple[int, ...], look: Look) -> None:
        """Lay out the street of a world key (non-negative integers) in a look."""
        rng = generator(key, STREET, 0)
        self.key, self.look = key, look
        self.street = scene.make_street(rng)
        self.ego = scene.make_ego(rng, look)
        self.oncoming_pace = float(rng.uniform(5.0, 9.0))
        self.ground = scene.Ground(self.street, rng, look)
        self._uids = count(1)
        self._sky = self._register(bodies_of(scene.sky_part(rng, look), self._sky_path, iter(())))
        self._chunks: dict[int, list[Body]] = {}
        self._slots: dict[tuple[int, int], list[Body]] = {}

    def _sky_path(self, time: float) -> np.ndarray:
        return self.ego.pose(time).position

    def _register(self, bodies: list[Body]) -> list[Body]:
        for body in bodies:
            body.uid = next(self._uids)
        return bodies

    def bodies(self, time: float) -> list[Body]:
        """Return the bodies near the camera at `time` seconds; call it with times that do not go back far."""
        here = self.ego.distance(time)
        self._fill_chunks(here)
        self._fill_slots(time, here)
        found = list(self._sky)
        for group in (self._chunks, self._slots):
            for bodies in group.values():
                found += [body for body in bodies if body.since <= time <= body.until]
        return found

    def _fill_chunks(self, here: float) -> None:
        wanted = range(int((here - BEHIND) // CHUNK), int((here + AHEAD) // CHUNK) + 1)
        for chunk in [old for old in self._chunks if old < wanted[0] - 1]:
            del self._chunks[chunk]
        for chunk in wanted:
            if chunk not in self._chunks:
                self._chunks[chunk] = self._register(chunk_bodies(self._block(chunk), chunk))

    def _block(self, chunk: int) -> Block:
        rng = generator(self.key, CHUNKS, chunk + 8)
        tracks = count(1 + 2 * TRACKS_PER_SOURCE * (chunk + 8), 2)
        start = chunk * CHUNK
        return Block(self.street, self.ground, self.ego, self.look, rng, tracks, start, self.street.crosses(chunk))

    def _fill_slots(self, time: float, here: float) -> None:
        for lane, seconds in enumerate(SLOT_SECONDS):
            first, last = int((time - LIFE_SECONDS) // seconds), int((time + LIFE_SECONDS) // seconds)
            for old in [key for key in self._slots if key[0] == lane and key[1] < first - 1]:
                del self._slots[old]
            for slot in range(first, last + 1):
                if (lane, slot) not in self._slots:
                    self._try_slot(lane, slot, time, here)

    def _try_slot(self, lane: int, slot: int, time: float, here: float) -> None:
        rng = generator(self.key, TRAFFIC + lane, slot + 64)
        path, kind, busy = self._slot_path(lane, slot, rng)
        if path is None or not here - BEHIND < path(time)[2] < here + AHEAD:
            return
        tracks = count(2 + 2 * (len(SLOT_SECONDS) * (slot + 64) + lane) * 2, 2)
        self._slots[lane, slot] = self._register(self._slot_bodies(lane, kind, path, rng, tracks)) if busy else []

    def _slot_path(self, lane: int, slot: int, rng: np.random.Generator) -> tuple[Path | None, float, bool]:
        """Draw path, kind and presence of a slot's vehicle."""
        street, ego = self.street, self.ego
        moment = SLOT_SECONDS[lane] * (slot + rng.uniform(0.2, 0.6))
        kind, busy = float(rng.random()), bool(rng.random() < (0.75, 0.6, 0.85, 0.75, 0.6)[lane])
        gap = float(rng.uniform(8.5, 15.0))
        outer = street.lane * 2.0 * -street.hand
        room = abs(street.edge(-street.hand)) - street.lane * 2.5
        if lane == ONCOMING:
            return _passing(-street.hand * street.lane, -self.oncoming_pace, ego, moment), kind, busy
        if lane == SECOND:
            return (_passing(outer, -1.2 * self.oncoming_pace, ego, moment) if room > 0 else None), kind, busy
        if lane == LEAD:
            return _leading(0.0, ego, moment, gap), kind, busy
        if lane == CYCLIST:
            return _passing(street.hand * (street.lane / 2 - 0.2), 3.4, ego, moment), kind, busy
        x = -street.hand * (street.lane * (2.5 if room > 0 else 1.5) - 0.3)
        return _passing(x, -4.2, ego, moment), kind, busy

    def _slot_bodies(
        self, lane: int, kind: float, path: Path, rng: np.random.Generator, tracks: Iterator[int]
    ) -> list[Body]:
        heading = np.pi if lane in (ONCOMING, SECOND, OPPOSITE_CYCLIST) else 0.0
        if lane in (CYCLIST, OPPOSITE_CYCLIST) or kind < 0.1:
            category = things.BICYCLE if lane not in (ONCOMING, SECOND, LEAD) and kind < 0.75 else things.MOTORCYCLE
            turn = rng.uniform(0.5, 0.95) * (1 if rng.random() < 0.5 else -1) + (np.pi if rng.random() < 0.5 else 0.0)
            return bodies_of(people.two_wheeler(category, rng, self.look, turn=turn, ridden=True), path, tracks)
        if kind < 0.68:
            parts = things.car(rng, self.look)
        else:
            parts = things.truck(rng, self.look) if kind < 0.85 else things.bus(rng, self.look)
        return bodies_of([turned(part, heading) for part in parts], path, tracks)
