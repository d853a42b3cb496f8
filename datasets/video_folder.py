"""Unlabelled footage: any videos and folders of frames below a root."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidapt.clip import Clip
from vidapt.datasets.clip_dataset import ClipDataset, Sample, VideoTimes, steady
from vidapt.datasets.frame_cache import FrameCache
from vidapt.errors import InputError
from vidapt.io.frames import ASSUMED_FPS
from vidapt.io.images import IMAGE_SUFFIXES, check_same_size, list_images, natural_key, read_image, resize_image
from vidapt.io.reader import VIDEO_SUFFIXES, check_local_file, expand_glob
from vidapt.io.video_pyav import decode_range, to_rgb
from vidapt.io.video_scan import VideoInfo, scan_video

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES = 2 * 1024**3
"""Disk space for decoded frames."""


@dataclass(frozen=True)
class _FrameFolder:
    """Image files that form a video."""

    paths: tuple[Path, ...]


class VideoFolder(ClipDataset):
    """Clips of unlabelled footage; every video file and every folder that directly contains images is a video.

    Opening reads the packets of each video file but decodes nothing. Frames are decoded when a clip needs them, in the
    process that needs them, and kept scaled on disk for the next time. A clip with a damaged frame is replaced by the
    nearest whole clip of the same video; a file that cannot be opened is left out, logged and listed in ``failed``.

    Args:
        root: A folder, one video file, one folder of frames, or a glob pattern of videos or images.
        clip_length: Frames of a clip.
        interval: Distance between its frames.
        height: Height to scale to, aspect kept; None keeps the size.
        include: Only videos whose name matches this pattern (``*`` and ``?``).
        fps: Frame rate of folders of frames; video files have their own.
        cache_bytes: Disk space for decoded frames in the temporary folder; 0 decodes every clip anew.

    Attributes:
        failed: Reason by path for every video that could not be opened.

    Raises:
        InputError: If nothing below ``root`` can be read, or no clip fits.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        clip_length: int,
        interval: int = 1,
        height: int | None = None,
        include: str = "*",
        fps: float = ASSUMED_FPS,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.height = height
        self.failed: dict[str, str] = {}
        self._sources: list[VideoInfo | _FrameFolder] = []
        self._cache = FrameCache(height, cache_bytes)
        self._holes: set[tuple[int, int]] = set()
        tables = list(self._index(find_videos(root, include), fps))
        if not tables:
            reason = next(iter(self.failed.values()), "no video and no folder of images matches")
            raise InputError(f"{root} holds no footage that can be read: {reason}")
        super().__init__(tables, clip_length=clip_length, interval=interval, label_space=None)

    def _index(self, videos: dict[str, Path | tuple[Path, ...]], fps: float) -> Iterator[VideoTimes]:
        for name, place in videos.items():
            if isinstance(place, tuple):
                self._sources.append(_FrameFolder(place))
                yield VideoTimes(name, *steady(len(place), fps))
                continue
            try:
                check_local_file(place)
                info = scan_video(place)
            except InputError as error:
                logger.warning("left out: %s", error)
                self.failed[str(place)] = str(error)
                continue
            self._sources.append(info)
            yield _video_times(name, info)

    def _clip(self, video: int, start: int) -> Clip:
        starts = self._starts[video]
        for candidate in starts[np.argsort(np.abs(starts - start), kind="stable")].tolist():
            positions = [candidate + step * self.interval for step in range(self.clip_length)]
            images = self._images(video, positions)
            if images is not None:
                return self._assemble(video, positions, [Sample(image) for image in images])
        raise InputError(f"{self.videos[video]}: every clip of {self.clip_length} frames has a damaged frame")

    def _images(self, video: int, positions: list[int]) -> list[NDArray[np.uint8]] | None:
        """The frames at ``positions``, or None if one is damaged."""
        if any((video, position) in self._holes for position in positions):
            return None
        source = self._sources[video]
        if isinstance(source, VideoInfo):
            found = self._cache.read(_cache_key(source.path), source, positions)
        else:
            found = [self._read_file(source, position) for position in positions]
        self._holes |= {(video, p) for p, image in zip(positions, found, strict=True) if image is None}
        whole = [image for image in found if image is not None]
        return whole if len(whole) == len(found) else None

    def _read_file(self, source: _FrameFolder, position: int) -> NDArray[np.uint8] | None:
        path, first = source.paths[position], source.paths[0]
        try:
            image = read_image(path)
            reference = image if path == first else read_image(first)
        except InputError as error:
            logger.warning("damaged frame: %s", error)
            return None
        check_same_size((first, (reference.shape[0], reference.shape[1])), path, image)
        return resize_image(image, self.height)

    def _read(self, video: int, position: int) -> Sample:
        images = self._images(video, [position])
        if images is None:
            raise InputError(f"{self.videos[video]}: frame {position} is damaged")
        return Sample(images[0])

    def _samples(self, video: int) -> Iterator[tuple[int, Sample]]:
        source = self._sources[video]
        if isinstance(source, VideoInfo):
            for index, frame in decode_range(source):
                image = None if frame is None else to_rgb(frame)
                if image is not None and image.shape[:2] == source.size:
                    yield index, Sample(resize_image(image, self.height))
            return
        for position in range(len(source.paths)):
            image = self._read_file(source, position)
            if image is not None:
                yield position, Sample(image)


def _video_times(name: str, info: VideoInfo) -> VideoTimes:
    count = info.timeline.count
    times = np.array([info.timeline.time_of(index) for index in range(count)])
    lost = np.zeros(count, bool)
    lost[info.timeline.lost()] = True
    return VideoTimes(name, times, lost[1:] | lost[:-1])


def _cache_key(path: Path) -> str:
    return hashlib.blake2b(str(path.resolve()).encode(), digest_size=12).hexdigest()


def find_videos(root: str | Path, include: str = "*") -> dict[str, Path | tuple[Path, ...]]:
    """Videos by name: the path of a video file, or the image files of a folder, in natural order of the names.

    Args:
        root: A folder, a video file, a folder of frames, or a glob pattern.
        include: Only names that match this pattern.

    Raises:
        InputError: If ``root`` does not exist or the pattern matches nothing.
    """
    path = Path(root)
    if path.is_dir():
        found = _below(path)
    elif not path.exists() and any(sign in str(root) for sign in "*?["):
        found = _matches(str(root))
    else:
        check_local_file(path)
        found = {path.stem: path}
    return {name: found[name] for name in sorted(found, key=natural_key) if fnmatch(name, include)}


def _below(root: Path) -> dict[str, Path | tuple[Path, ...]]:
    found: dict[str, Path | tuple[Path, ...]] = {}
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        images = list_images(folder)
        if images:
            found[root.name if folder == root else folder.relative_to(root).as_posix()] = tuple(images)
    for file in sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()):
        relative = file.relative_to(root)
        short = relative.with_suffix("").as_posix()
        found[relative.as_posix() if short in found else short] = file
    return found


def _matches(pattern: str) -> dict[str, Path | tuple[Path, ...]]:
    """Videos that a glob matches, named by their path below the folder that all share; images group by folder."""
    files = expand_glob(pattern)
    folders: dict[Path, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            folders.setdefault(path.parent, []).append(path)
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    above = [folder.parent for folder in folders] + [path.parent for path in videos]
    root = Path(os.path.commonpath(above)) if above else Path()
    found: dict[str, Path | tuple[Path, ...]] = {
        _name_below(root, folder): tuple(images) for folder, images in folders.items()
    }
    for path in videos:
        short = _name_below(root, path.with_suffix(""))
        found[_name_below(root, path) if short in found else short] = path
    return found


def _name_below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
