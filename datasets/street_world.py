"""Street world: procedural street video with exact panoptic labels, flow and depth; a test bed, not real data.

Everything follows from a seed: worlds are the same on every machine up to rounding, whatever the number of workers, the
order of access or the number of frames asked for. Classes are Cityscapes train ids (without train, 16). Changing what
is drawn invalidates every table made with it: raise `VERSION` then.

`python -m vidapt.datasets.street_world docs/images/street_world.png` draws the overview picture of the documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from vidapt.clip import Clip, PanopticTarget
from vidapt.datasets.street_world_render import (
    Lens,
    Painting,
    depth_map,
    flow_to,
    homographies,
    make_scene,
    paint,
    photograph,
)
from vidapt.datasets.street_world_scene import Body
from vidapt.datasets.street_world_style import STYLES, Look, check_look
from vidapt.datasets.street_world_texture import TILE
from vidapt.datasets.street_world_traffic import World, generator
from vidapt.errors import UserError
from vidapt.labels import CITYSCAPES

VERSION = 1
WANTS = ("image", "depth", "flow")
NOISE = 90


@dataclass(frozen=True)
class Frame:
    """One rendered frame.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        semantic: uint8 (H, W) Cityscapes train ids 0..18, every pixel labelled.
        instance: int32 (H, W) track ids, constant over time, 0 on stuff.
        depth: float32 (H, W) metres along the optical axis, at most 1000 (sky); None unless wanted.
        flow: float32 (H, W, 2) motion (x, y) in pixels to the next frame; None unless wanted.
        flow_valid: bool (H, W), True where the point is visible in the next frame as well (walking legs are left out).
    """

    image: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    instance: NDArray[np.int32]
    depth: NDArray[np.float32] | None = None
    flow: NDArray[np.float32] | None = None
    flow_valid: NDArray[np.bool_] | None = None


@dataclass(slots=True)
class _Moment:
    """A painted frame with what the flow from it needs."""

    index: int
    painting: Painting
    bodies: list[Body]


class _Camera:
    """Renders the moments of one world through one lens."""

    def __init__(self, key: tuple[int, ...], look: Look, lens: Lens, fps: float) -> None:
        self.world = World(key, look)
        self.look, self.lens, self.fps, self.key = look, lens, fps, key

    def paint(self, index: int) -> _Moment:
        time = index / self.fps
        bodies = self.world.bodies(time)
        painting = paint(make_scene(bodies, time, self.world.ego.pose(time), self.lens), self.lens)
        return _Moment(index, painting, bodies)

    def flow(self, moment: _Moment, following: _Moment) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        time = following.index / self.fps
        moved = homographies(moment.bodies, time, self.world.ego.pose(time), self.lens)
        return flow_to(moment.painting, moved, following.painting, self.lens)

    def develop(self, moment: _Moment, want: Sequence[str]) -> Frame:
        painting, lens = moment.painting, self.lens
        dy, dx = generator(self.key, NOISE, moment.index).integers(0, TILE, 2)
        depth = depth_map(painting, lens) if "depth" in want else None
        image = photograph(painting, lens, self.look, depth, (int(dy), int(dx)))
        return Frame(image, painting.semantic(), painting.instance(), depth)


def render_video(
    seed: int | Sequence[int],
    *,
    frames: int,
    size: tuple[int, int] = (128, 256),
    style: str = "source",
    strength: float = 1.0,
    fps: float = 10.0,
    want: Sequence[str] = ("image",),
    focal: float = 0.9,
    horizon: float = 0.45,
) -> Iterator[Frame]:
    """Render a video frame by frame in constant memory; frame i does not depend on `frames`.

    The same seed gives the same street in every style, up to what the style itself changes; strength 0 of any style
    equals the source.

    Args:
        seed: non-negative integer, or several, that name the world.
        frames: number of frames, at least 1.
        size: (height, width) in pixels, each at least 32.
        style: one of `STYLES`.
        strength: of the style, 0..1.
        fps: frames per second of the camera.
        want: what to render beside image, semantic and instance: any of "depth", "flow" ("image" always is).
        focal: focal length as a multiple of the image width.
        horizon: row of the horizon as a share of the image height.

    Raises:
        UserError: on arguments outside these ranges.
    """
    key = (seed,) if isinstance(seed, int | np.integer) else tuple(seed)
    _check(key, frames, size, fps, want)
    check_look(style, strength)
    if not (0.2 <= focal <= 5.0 and 0.0 < horizon < 1.0):
        raise UserError(f"street_world needs focal in 0.2..5 and horizon in 0..1, but got {focal} and {horizon}")
    detail = min(max(size[1] / 256, 1.0), 3.0) ** 0.75
    lens = Lens(size[0], size[1], focal * size[1], horizon * size[0])
    camera = _Camera(tuple(int(part) for part in key), Look(style, float(strength), 24.0 * detail), lens, fps)
    return _stream(camera, frames, want)


def _check(key: Sequence[int], frames: int, size: tuple[int, int], fps: float, want: Sequence[str]) -> None:
    if not key or any(part < 0 for part in key):
        raise UserError(f"street_world seeds are non-negative integers, but got {key}")
    if frames < 1 or fps <= 0:
        raise UserError(f"street_world needs frames >= 1 and fps > 0, but got {frames} and {fps}")
    if len(size) != 2 or min(size) < 32:
        raise UserError(f"street_world sizes are (height, width) of at least 32 pixels, but got {size}")
    unknown = [name for name in want if name not in WANTS]
    if unknown:
        raise UserError(f"street_world cannot render {', '.join(unknown)}: want takes {', '.join(WANTS)}")


def _stream(camera: _Camera, frames: int, want: Sequence[str]) -> Iterator[Frame]:
    following: _Moment | None = None
    for index in range(frames):
        moment = following or camera.paint(index)
        frame = camera.develop(moment, want)
        if "flow" in want:
            following = camera.paint(index + 1)
            flow, valid = camera.flow(moment, following)
            frame = Frame(frame.image, frame.semantic, frame.instance, frame.depth, flow, valid)
        yield frame


class StreetWorld(Dataset[Clip]):
    """Clips of generated street videos.

    Item i is the i-th clip start over all videos: clips of `clip_length` frames, `interval` frames apart.
    """

    label_space = CITYSCAPES

    def __init__(
        self,
        *,
        seed: int,
        videos: int,
        frames: int,
        size: tuple[int, int] = (128, 256),
        style: str = "source",
        strength: float = 1.0,
        clip_length: int = 1,
        interval: int = 1,
        labelled: bool = True,
        cache: bool = True,
        fps: float = 10.0,
    ) -> None:
        """Describe the data set; videos are rendered when first needed.

        Args:
            seed: non-negative; with the style and the index of the video it names a world, so other seeds share none.
            videos: number of videos.
            frames: frames per video.
            size: (height, width) in pixels.
            style: one of `STYLES`.
            strength: of the style, 0..1.
            clip_length: frames per clip.
            interval: distance of neighbouring frames of a clip.
            labelled: whether clips carry their target.
            cache: keep rendered videos in memory as uint8 (and int32 ids).
            fps: frames per second.

        Raises:
            UserError: on arguments outside their ranges, or a video too short for one clip.
        """
        _check((seed,), frames, size, fps, ())
        check_look(style, strength)
        span = (clip_length - 1) * interval + 1
        if videos < 1 or clip_length < 1 or interval < 1:
            raise UserError(
                f"street_world needs videos, clip_length and interval >= 1, but got {videos}, {clip_length}, {interval}"
            )
        if span > frames:
            raise UserError(
                f"a clip of {clip_length} frames, {interval} apart, spans {span} frames: "
                f"street_world videos of {frames} frames are too short; raise frames"
            )
        self.seed, self.frames, self.style, self.strength = seed, frames, style, strength
        self.size = (int(size[0]), int(size[1]))
        self.clip_length, self.interval, self.labelled, self.fps = clip_length, interval, labelled, fps
        self._count, self._starts = videos, frames - span + 1
        self._cache: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] | None = {} if cache else None

    def __len__(self) -> int:
        """Return the number of clip starts over all videos."""
        return self._count * self._starts

    def __getitem__(self, index: int) -> Clip:
        """Return clip `index`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        video, start = divmod(index % len(self), self._starts)
        return self._clip(video, range(start, start + (self.clip_length - 1) * self.interval + 1, self.interval))

    @property
    def videos(self) -> tuple[str, ...]:
        """Return the names of the videos."""
        return tuple(f"{self.style}-{self.seed:03d}-{index:03d}" for index in range(self._count))

    def video_clip(self, index: int) -> Clip:
        """Return a whole video as one clip."""
        return self._clip(self._known(index), range(self.frames))

    def exact_flow(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return forward flow (F-1, H, W, 2) in pixels (x, y) and its validity (F-1, H, W) of a video."""
        pairs = list(islice(self._render(self._known(index), ("flow",)), self.frames - 1))
        flow = np.array([frame.flow for frame in pairs], np.float32).reshape(-1, *self.size, 2)
        return flow, np.array([frame.flow_valid for frame in pairs], np.bool_).reshape(-1, *self.size)

    def _known(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise IndexError(f"video {index} of {self._count}")
        return index

    def _render(self, video: int, want: Sequence[str], last: int | None = None) -> Iterator[Frame]:
        key = (self.seed, video, STYLES.index(self.style))
        frames = self.frames if last is None else last + 1
        return render_video(
            key, frames=frames, size=self.size, style=self.style, strength=self.strength, fps=self.fps, want=want
        )

    def _video(self, video: int, last: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return images (F, 3, H, W), semantic (F, H, W) and instance (F, H, W), at least up to frame `last`."""
        if self._cache is not None and video in self._cache:
            return self._cache[video]
        frames = list(self._render(video, (), None if self._cache is not None else last))
        images = torch.from_numpy(np.stack([frame.image for frame in frames])).permute(0, 3, 1, 2).contiguous()
        semantic = torch.from_numpy(np.stack([frame.semantic for frame in frames]))
        instance = torch.from_numpy(np.stack([frame.instance for frame in frames]))
        if self._cache is not None:
            self._cache[video] = images, semantic, instance
        return images, semantic, instance

    def _clip(self, video: int, indices: range) -> Clip:
        picked = torch.tensor(list(indices), dtype=torch.int64)
        images, semantic, instance = (data[picked] for data in self._video(video, indices[-1]))
        target = None
        if self.labelled:
            target = PanopticTarget(semantic, instance, torch.ones(len(picked), dtype=torch.bool))
        return Clip(images, self.videos[video], picked, picked.double() / self.fps, target)


@lru_cache(maxsize=1)
def _palette() -> NDArray[np.uint8]:
    """Return 256 well-separated colours for the overview picture, class colours first."""
    index = np.arange(256)
    hsv = np.stack([(index * 67) % 180, 130 + (index * 41) % 125, 110 + (index * 89) % 145], 1).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]


def panoptic_picture(frame: Frame) -> NDArray[np.uint8]:
    """Colour a frame's labels: one colour per stuff class and one per thing, with dark outlines of things."""
    mixed = np.where(frame.instance > 0, 32 + frame.instance * 7 % 223, frame.semantic)
    picture = _palette()[mixed]
    edge = cv2.morphologyEx(frame.instance.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    picture[edge] //= 3
    return picture


def depth_picture(frame: Frame) -> NDArray[np.uint8]:
    """Colour a frame's depth, near bright and far dark."""
    if frame.depth is None:
        raise UserError("this frame has no depth: render it with want=('depth',)")
    near = np.clip(1200 / frame.depth, 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(near, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB)


def flow_picture(frame: Frame) -> NDArray[np.uint8]:
    """Colour a frame's flow by direction (hue) and length (brightness); invalid pixels are white."""
    flow, valid = frame.flow, frame.flow_valid
    if flow is None or valid is None:
        raise UserError("this frame has no flow: render it with want=('flow',)")
    length, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])
    value = np.clip(255 * np.sqrt(length / max(float(np.percentile(length, 99)), 1e-3)), 0, 255)
    hsv = np.stack([angle * 90 / np.pi, np.full_like(value, 220), value], 2).astype(np.uint8)
    picture = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    picture[~valid] = 255
    return picture


def overview(seed: int = 114, size: tuple[int, int] = (128, 256), moment: int = 2) -> NDArray[np.uint8]:
    """Return the contact sheet of the documentation, (4 H, 2 W, 3).

    One moment of one world as source and fog, night and texture, then its depth and flow, its panoptic labels and those
    of five frames later.
    """
    tiles = [list(render_video(seed, frames=moment + 1, size=size, style=style))[-1].image for style in STYLES]
    exact = list(render_video(seed, frames=moment + 6, size=size, want=("depth", "flow")))
    now, after = exact[moment], exact[moment + 5]
    tiles += [depth_picture(now), flow_picture(now), panoptic_picture(now), panoptic_picture(after)]
    return np.concatenate([np.concatenate(pair, axis=1) for pair in zip(tiles[::2], tiles[1::2], strict=True)])


def main(arguments: Sequence[str]) -> None:
    """Write the overview picture to the path given on the command line."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m vidapt.datasets.street_world PICTURE.png")
    cv2.imwrite(arguments[0], overview()[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main(sys.argv[1:])
