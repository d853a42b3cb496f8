"""A small simulated street: boxes that pass one another, seen through an imperfect detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from vidapt.tracking.detections import Detections

CLASSES = 4


@dataclass
class Observed:
    """Detections of one frame and the true object of each (0 = false positive)."""

    detections: Detections
    truth: np.ndarray


def paint(boxes, size=(64, 96), classes=None, scores=None, embeddings=None):
    """Detections from boxes x0, y0, x1, y1; earlier boxes lie in front."""
    count = len(boxes)
    labels = np.zeros(size, np.int32)
    for k in reversed(range(count)):
        x0, y0, x1, y1 = (max(0, int(value)) for value in boxes[k])
        labels[y0:y1, x0:x1] = k + 1
    categories = np.zeros(count, int) if classes is None else np.asarray(classes, int)
    votes = np.eye(CLASSES, dtype=np.float32)[categories].reshape(count, CLASSES)
    scores = np.full(count, 0.9, np.float32) if scores is None else np.asarray(scores, np.float32)
    vectors = None if embeddings is None else np.asarray(embeddings, np.float32)
    return Detections(labels, votes, scores, vectors)


class Street:
    """Objects of constant speed in depth order that leave, return as new ones and occlude one another."""

    def __init__(self, seed, *, size=(128, 256), count=14, speed=1.5, informative=True, dimensions=16):
        self.rng = np.random.default_rng(seed)
        self.size, self.count, self.speed, self.dimensions = size, count, speed, dimensions
        self.noise = 0.5 if informative else 2.0
        self.next_id = 1
        self.objects = [self._spawn(anywhere=True) for _ in range(count)]

    def _spawn(self, anywhere=False):
        height, width = self.size
        rng = self.rng
        h = rng.uniform(0.08, 0.3) * height
        w = h * rng.uniform(0.5, 1.8)
        vx = rng.choice([-1, 1]) * rng.uniform(0.3, 1.6) * self.speed
        x = rng.uniform(0, width - w) if anywhere else (1 - w if vx > 0 else width - 1)
        vector = rng.normal(size=self.dimensions)
        new = {
            "id": self.next_id, "x": x, "y": rng.uniform(0.2, 0.65) * height, "w": w, "h": h, "vx": vx,
            "vy": rng.uniform(-0.1, 0.1) * self.speed, "class": int(rng.integers(CLASSES)), "missed": 0,
            "vector": vector / np.linalg.norm(vector),
        }  # fmt: skip
        self.next_id += 1
        return new

    def _move(self):
        for k, item in enumerate(self.objects):
            item["x"] += item["vx"]
            item["y"] += item["vy"]
            if item["x"] + item["w"] <= 0 or item["x"] >= self.size[1]:
                self.objects[k] = self._spawn()

    def frame(self):
        """Move everything and look at it."""
        self._move()
        rng = self.rng
        order = sorted(self.objects, key=lambda item: item["y"] + item["h"])
        visible = np.zeros(self.size, np.int32)
        for k, item in enumerate(order, 1):
            x0, y0, x1, y1 = np.round([item["x"], item["y"], item["x"] + item["w"], item["y"] + item["h"]]).astype(int)
            visible[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = k
        return self._observe(order, visible, rng)

    def _observe(self, order, visible, rng):
        labels, votes, scores, vectors, truth = np.zeros(self.size, np.int32), [], [], [], []
        for k, item in enumerate(order, 1):
            mask = visible == k
            if mask.sum() < 12 or self._missed(item):
                continue
            mask = np.roll(mask, rng.integers(-1, 2, 2), (0, 1)) & (mask | (visible == 0))
            if not mask.any():
                continue
            labels[mask] = len(truth) + 1
            truth.append(item["id"])
            votes.append(item["class"] if rng.random() > 0.03 else int(rng.integers(CLASSES)))
            scores.append(np.clip(rng.normal(0.75, 0.2), 0.12, 1))
            vector = item["vector"] + self.noise * rng.normal(size=self.dimensions) / np.sqrt(self.dimensions)
            vectors.append(vector / np.linalg.norm(vector))
        if rng.random() < 0.5:
            y, x = rng.integers(0, self.size[0] - 10), rng.integers(0, self.size[1] - 10)
            spot = np.zeros(self.size, bool)
            spot[y : y + 10, x : x + 10] = True
            if (spot & (labels == 0)).any():
                labels[spot & (labels == 0)] = len(truth) + 1
                truth.append(0)
                votes.append(int(rng.integers(CLASSES)))
                scores.append(np.clip(rng.normal(0.35, 0.15), 0.12, 1))
                vector = rng.normal(size=self.dimensions)
                vectors.append(vector / np.linalg.norm(vector))
        count = len(truth)
        present = np.bincount(labels.ravel(), minlength=count + 1)[1:] > 0
        relabel = np.concatenate([[0], np.where(present, np.cumsum(present), 0)]).astype(np.int32)
        detections = Detections(
            relabel[labels],
            np.eye(CLASSES, dtype=np.float32)[votes][present],
            np.array(scores, np.float32)[present],
            np.array(vectors, np.float32).reshape(count, self.dimensions)[present],
        )
        return Observed(detections, np.array(truth, int)[present])

    def _missed(self, item):
        """Misses come in bursts."""
        if item["missed"] > 0:
            item["missed"] -= 1
            return True
        if self.rng.random() < 0.04:
            item["missed"] = int(self.rng.integers(0, 12))
            return True
        return False


@pytest.fixture(scope="session")
def draw():
    """The function ``paint``."""
    return paint


@pytest.fixture(scope="session")
def street():
    """The class ``Street``."""
    return Street
