"""Camera and painter of the street world: planar patches by homography into a depth buffer, exact flow and depth.

A patch maps texture coordinates (s, t) in 0..1 to the screen by a 3x3 homography H, whose third row gives the depth of
the point. So for a pixel p = (u, v, 1): 1/depth is the third row of inv(H) times p, and the point's place in another
frame is H' inv(H) p. Pixel centres lie at half-integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from vidapt.datasets.street_world_scene import Body, Pose
from vidapt.datasets.street_world_style import Look, grade
from vidapt.datasets.street_world_texture import Texture
from vidapt.datasets.street_world_things import SHADOW

Floats = NDArray[np.float64]

NEAR = 0.4
FAR = 1000.0
SMALLEST = 0.5
# Metres beyond which an object of a class is left out: it would be a few pixels that nobody could tell.
REACH = {
    3: 50.0,
    4: 50.0,
    5: 32.0,
    6: 36.0,
    7: 30.0,
    11: 28.0,
    12: 32.0,
    13: 60.0,
    14: 75.0,
    15: 75.0,
    17: 32.0,
    18: 32.0,
}
SHADE = 0.45
GROUND = (0, 1, 9)
_CORNERS = np.array([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])


class Lens(NamedTuple):
    """Image size in pixels, focal length in pixels and the row of the horizon."""

    height: int
    width: int
    focal: float
    horizon: float


@dataclass(slots=True)
class Scene:
    """The patches on screen at one moment, near ones first: N rows in each table.

    `inverse` (N, 3, 3) maps homogeneous pixels to texture coordinates, `box` (N, 4) is x0 y0 x1 y1 in pixels, `near`
    the inverse of the nearest depth, `lengths` (N, 2) the edges on screen, `row` the patch's place among all patches.
    """

    inverse: Floats
    box: NDArray[np.int64]
    near: Floats
    lengths: Floats
    row: NDArray[np.int64]
    category: NDArray[np.uint8]
    track: NDArray[np.int32]
    uid: NDArray[np.int64]
    rigid: NDArray[np.float32]
    textures: list[Texture]


@dataclass(slots=True)
class Painting:
    """A painted moment: RGBA (H, W, 4), index of the visible patch (H, W) and the scene it points into."""

    color: NDArray[np.uint8]
    surface: NDArray[np.int32]
    scene: Scene

    def semantic(self) -> NDArray[np.uint8]:
        """Train ids (H, W)."""
        return self.scene.category[self.surface]

    def instance(self) -> NDArray[np.int32]:
        """Track ids (H, W), 0 on stuff."""
        return self.scene.track[self.surface]


def camera_matrix(pose: Pose, lens: Lens) -> Floats:
    """Return K R (3, 3), which takes world directions (x right, y up, z ahead) to homogeneous pixels."""
    cos, sin = np.cos(pose.yaw), np.sin(pose.yaw)
    yaw = np.array([[cos, 0.0, -sin], [0.0, -1.0, 0.0], [sin, 0.0, cos]])
    cos, sin = np.cos(pose.pitch), np.sin(pose.pitch)
    pitch = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    intrinsic = np.array([[lens.focal, 0.0, lens.width / 2], [0.0, lens.focal, lens.horizon], [0.0, 0.0, 1.0]])
    return intrinsic @ pitch @ yaw


def homographies(bodies: list[Body], time: float, pose: Pose, lens: Lens) -> Floats:
    """Return the (N, 3, 3) maps from texture coordinates to homogeneous pixels of all patches of the bodies."""
    geometry = np.concatenate([body.geometry(time) for body in bodies])
    geometry[:, :, 2] -= pose.position
    return camera_matrix(pose, lens) @ geometry


def make_scene(bodies: list[Body], time: float, pose: Pose, lens: Lens) -> Scene:
    """Collect the patches of the bodies that lie on screen, face the camera and are large enough to see."""
    matrices = homographies(bodies, time, pose, lens)
    repeats = np.array([len(body.patches) for body in bodies])
    owner = np.repeat(np.arange(len(bodies)), repeats)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    box, nearest, lengths = _boxes(matrices, lens)
    inverse, determinant = _inverse(matrices)
    one_sided = np.array([patch.one_sided for body in bodies for patch in body.patches])
    seen = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1]) & (determinant != 0) & (~one_sided | (determinant > 0))
    seen &= nearest < np.array([REACH.get(body.category, FAR) for body in bodies])[owner]
    seen &= (lengths.min(axis=1) > SMALLEST) & (lengths.max(axis=1) > 4 * SMALLEST)
    rows = np.flatnonzero(seen)
    rows = rows[np.argsort(nearest[rows], kind="stable")]
    picked = [(bodies[body], patch) for body, patch in zip(owner[rows].tolist(), place[rows].tolist(), strict=True)]
    return Scene(
        inverse[rows],
        box[rows],
        1.0 / nearest[rows],
        lengths[rows],
        rows,
        np.array([body.category for body, _ in picked], np.uint8),
        np.array([body.track for body, _ in picked], np.int32),
        np.array([body.uid * 64 + patch for body, patch in picked], np.int64),
        np.array([body.patches[patch].rigid for body, patch in picked], np.float32),
        [body.texture(patch, time) for body, patch in picked],
    )


def _inverse(matrices: Floats) -> tuple[Floats, Floats]:
    """Return inverses and determinants of (N, 3, 3) matrices, both zero where a patch is seen edge-on."""
    rows = matrices
    adjugate = np.stack(
        [_cross(rows[:, 1], rows[:, 2]), _cross(rows[:, 2], rows[:, 0]), _cross(rows[:, 0], rows[:, 1])], 2
    )
    determinant = np.einsum("ni,ni->n", rows[:, 0], adjugate[:, :, 0])
    determinant[np.abs(determinant) <= 1e-6] = 0.0
    scale = np.where(determinant == 0, 0.0, 1.0 / np.where(determinant == 0, 1.0, determinant))
    return adjugate * scale[:, None, None], determinant


def _cross(first: Floats, second: Floats) -> Floats:
    ahead, behind = [1, 2, 0], [2, 0, 1]
    return first[:, ahead] * second[:, behind] - first[:, behind] * second[:, ahead]


def _boxes(homography: Floats, lens: Lens) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return pixel boxes (N, 4) of what lies beyond the near plane, nearest depths (N,) and edge lengths (N, 2)."""
    corners = homography @ _CORNERS
    depth = corners[:, 2]
    following = np.roll(corners, -1, axis=2)
    span = following[:, 2] - depth
    share = (NEAR - depth) / np.where(np.abs(span) < 1e-9, 1.0, span)
    cut = corners + share[:, None] * (following - corners)
    points = np.concatenate([corners, cut], axis=2)
    kept = np.concatenate([depth >= NEAR, (share > 0) & (share < 1) & (np.abs(span) >= 1e-9)], axis=1)
    screen = points[:, :2] / np.where(kept, np.maximum(points[:, 2], NEAR / 2), 1.0)[:, None]
    low = np.where(kept[:, None], screen, np.inf).min(axis=2)
    high = np.where(kept[:, None], screen, -np.inf).max(axis=2)
    limits = np.array([lens.width, lens.height])
    start = np.clip(np.floor(low), 0, limits)
    stop = np.clip(np.ceil(high), 0, limits)
    lengths = np.stack([_edge(screen, 0, 1, 3, 2), _edge(screen, 1, 2, 0, 3)], axis=1)
    lengths[(depth < NEAR).any(axis=1)] = 1e4
    return np.concatenate([start, stop], axis=1).astype(np.int64), np.maximum(depth.min(axis=1), NEAR), lengths


def _edge(screen: Floats, a: int, b: int, c: int, d: int) -> Floats:
    first = np.hypot(*(screen[:, :, b] - screen[:, :, a]).T)
    return np.maximum(first, np.hypot(*(screen[:, :, d] - screen[:, :, c]).T))


def _nearness(
    row: list[float], box: list[int], grid: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return 1/depth (h, w) of a plane over a pixel box."""
    x0, y0, x1, y1 = box
    return grid[1][y0:y1] * np.float32(row[1]) + (grid[0][:, x0:x1] * np.float32(row[0]) + np.float32(row[2]))


def _warp(picture: NDArray[np.uint8], inverse: Floats, box: list[int]) -> NDArray[np.uint8]:
    """Return the picture as it appears in a pixel box, (h, w, 4)."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box
    texels = np.array([[width, 0.0, -0.5], [0.0, height, -0.5], [0.0, 0.0, 1.0]])
    window = np.array([[1.0, 0.0, x0 + 0.5], [0.0, 1.0, y0 + 0.5], [0.0, 0.0, 1.0]])
    matrix = texels @ inverse @ window
    return cv2.warpPerspective(picture, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


class _Canvas:
    """Colour, surface index and depth buffer (as 1/depth) of a frame being painted."""

    def __init__(self, scene: Scene, lens: Lens) -> None:
        shape = (lens.height, lens.width)
        self.scene = scene
        self.color = np.zeros((*shape, 4), np.uint8)
        self.surface = np.full(shape, len(scene.textures) - 1, np.int32)
        self.buffer = np.zeros(shape, np.float32)
        self.grid = (
            np.arange(lens.width, dtype=np.float32)[None] + 0.5,
            np.arange(lens.height, dtype=np.float32)[:, None] + 0.5,
        )
        self.boxes, self.planes, self.lengths = scene.box.tolist(), scene.inverse[:, 2].tolist(), scene.lengths.tolist()

    def paint(self, index: int) -> None:
        """Paint one patch where it is opaque and nearer than what is there."""
        x0, y0, x1, y1 = box = self.boxes[index]
        buffer = self.buffer[y0:y1, x0:x1]
        if buffer.min() >= self.scene.near[index]:
            return
        near = _nearness(self.planes[index], box, self.grid)
        mask = near > buffer
        if not mask.any():
            return
        picture = self.scene.textures[index].level(self.lengths[index])
        warped = _warp(picture, self.scene.inverse[index], box)
        mask &= warped[..., 3] > 127
        cv2.copyTo(warped, mask.view(np.uint8), self.color[y0:y1, x0:x1])
        np.copyto(self.surface[y0:y1, x0:x1], index, where=mask)
        np.copyto(buffer, near, where=mask)

    def shade(self, index: int, ground: NDArray[np.bool_]) -> None:
        """Darken the visible ground under one shadow."""
        x0, y0, x1, y1 = box = self.boxes[index]
        near = _nearness(self.planes[index], box, self.grid)
        mask = ground[y0:y1, x0:x1] & (near > 0.9 * self.buffer[y0:y1, x0:x1])
        if not mask.any():
            return
        mask &= _warp(self.scene.textures[index].base, self.scene.inverse[index], box)[..., 3] > 127
        color = self.color[y0:y1, x0:x1]
        cv2.copyTo(cv2.convertScaleAbs(np.ascontiguousarray(color), alpha=SHADE), mask.view(np.uint8), color)


def paint(scene: Scene, lens: Lens) -> Painting:
    """Paint all patches into colour and surface index with a depth buffer."""
    canvas = _Canvas(scene, lens)
    shadows = scene.category == SHADOW
    for index in np.flatnonzero(~shadows).tolist():
        canvas.paint(index)
    ground = np.isin(scene.category, GROUND)[canvas.surface]
    for index in np.flatnonzero(shadows).tolist():
        canvas.shade(index, ground)
    return Painting(canvas.color, canvas.surface, scene)


def _pixel_grid(lens: Lens) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    y, x = np.mgrid[0 : lens.height, 0 : lens.width].astype(np.float32) + np.float32(0.5)
    return x, y


def depth_map(painting: Painting, lens: Lens) -> NDArray[np.float32]:
    """Return the depth along the optical axis (H, W) in metres, at most FAR."""
    x, y = _pixel_grid(lens)
    row = painting.scene.inverse[:, 2].astype(np.float32)[painting.surface]
    return np.minimum(1.0 / np.maximum(row[..., 0] * x + row[..., 1] * y + row[..., 2], 1.0 / FAR), np.float32(FAR))


def flow_to(
    painting: Painting, moved: Floats, following: Painting, lens: Lens
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return forward flow (H, W, 2) as (x, y) pixels and where the point is still visible in the following painting.

    moved: homographies (all patches, 3, 3) of the painting's bodies at the following moment.
    """
    x, y = _pixel_grid(lens)
    steps = (moved[painting.scene.row] @ painting.scene.inverse)[painting.surface]
    target = steps[..., 0] * x[..., None] + steps[..., 1] * y[..., None] + steps[..., 2]
    depth = target[..., 2]
    place = target[..., :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)[..., None]
    flow = (place - np.stack([x, y], axis=2)).astype(np.float32)
    column, line = np.floor(place[..., 0]), np.floor(place[..., 1])
    valid = (column >= 0) & (column < lens.width) & (line >= 0) & (line < lens.height) & (depth > 0)
    landing = np.where(valid, line, 0).astype(np.int64), np.where(valid, column, 0).astype(np.int64)
    valid &= following.scene.uid[following.surface[landing]] == painting.scene.uid[painting.surface]
    return flow, valid & _rigid(painting, x, y)


def _rigid(painting: Painting, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where a pixel belongs to the part of its patch that moves as one body (not to walking legs)."""
    rigid = painting.scene.rigid[painting.surface]
    rows = painting.scene.inverse[:, 1:][painting.surface]
    both = rows[..., 0] * x[..., None] + rows[..., 1] * y[..., None] + rows[..., 2]
    return (rigid >= 1.0) | (both[..., 0] <= rigid * both[..., 1])


def photograph(
    painting: Painting, lens: Lens, look: Look, depth: NDArray[np.float32] | None, shift: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the RGB image (H, W, 3) of a painting in a look."""
    if depth is None and look.weight > 0 and look.style in ("fog", "night"):
        depth = depth_map(painting, lens)
    return grade(np.ascontiguousarray(painting.color[..., :3]), painting.semantic(), depth, look, shift)
