"""What the published data sets share: an index of files, label ids that are checked, selection and scaling of frames.

A data set is one file of this folder with one class: a ``card`` that describes it, ``find_videos`` that lists its
files and ``read_labels`` that decodes the labels of one frame. Everything else is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict

import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.clip_dataset import ClipDataset, Labels, Sample
from vidapt.datasets.frame_index import (
    Frame,
    Problem,
    Video,
    refuse_same_names,
    select_frames,
    spread_videos,
    stamp,
    video_times,
    without_labels,
)
from vidapt.datasets.sample_store import SampleStore
from vidapt.errors import ConfigError, InputError
from vidapt.io.images import (
    fitted_size,
    picture_size,
    read_image,
    resize_image_to,
    resize_label_to,
    scaled_size,
)
from vidapt.labels import LabelSpace, find_space

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class DatasetCard:
    """What ``vidapt data list`` and docs/datasets.md say about a data set.

    Attributes:
        name: Name in recipes (``kind``) and on the command line.
        title: Name in print.
        labels: What its labels say.
        video: True if its frames form videos.
        splits: Official number of key frames (the labelled ones, or all where none is labelled) by split; None where
            the number is not certain.
        layout: Files below the root, one pattern a line.
        licence: Terms of use in a few words.
        home: Where it is obtained.
        checked: Which files the reader was checked on.
        unlabelled: Splits that have no labels in the release, or none that are read.
    """

    name: str
    title: str
    labels: Literal["semantic", "panoptic", "panoptic video"]
    video: bool
    splits: Mapping[str, int | None]
    layout: str
    licence: str
    home: str
    checked: Literal["checked on real files", "on generated files only"]
    unlabelled: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadOptions:
    """How the frames of a stored data set are selected and scaled.

    Attributes:
        height: Height to scale to, aspect kept; None keeps the stored size.
        fit: Instead: the box (H, W) into which frames are scaled, aspect kept.
        trim: Rows cut off at the top and at the bottom of the stored picture, before scaling.
        every: Only key frames whose number is a multiple of this.
        context: Only this many frames before each key frame, without their labels; None keeps all frames.
        videos: Only this many videos, spread evenly over the split; None takes all.
        cache: Folder for scaled frames, see ``SampleStore``; None reads the original files each time.

    Raises:
        InputError: If a value is out of range or both sizes are given.
    """

    height: int | None = None
    fit: tuple[int, int] | None = None
    trim: tuple[int, int] = (0, 0)
    every: int = 1
    context: int | None = None
    videos: int | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.height is not None and self.fit is not None:
            raise InputError(f"height {self.height} and fit {list(self.fit)} both give a size; drop one")
        if min(self.trim) < 0 or (self.context is not None and self.context < 0):
            raise InputError(f"trim {list(self.trim)} and context {self.context} must be 0 or more")
        if any(n is not None and n < 1 for n in (self.every, self.height, self.videos, *(self.fit or ()))):
            fit = None if self.fit is None else list(self.fit)
            raise InputError(
                f"every {self.every}, height {self.height}, fit {fit} and videos {self.videos} must be 1 or more"
            )


class StoredArguments(TypedDict, total=False):
    """The keyword arguments of ``StoredDataset``, which data sets with options of their own pass on."""

    clip_length: int
    interval: int
    labelled: bool
    options: ReadOptions | None


class StoredDataset(ClipDataset):
    """Clips of a published data set in its official layout.

    Opening it lists the folders and reads no picture. It pickles, so loader processes share the index. Labels are the
    data set's own ids (``label_space``); void classes are 255. ``instance`` numbers every single instance, 0 is none,
    crowd or group.

    Args:
        root: Folder that the layout of the ``card`` describes.
        split: One of ``card.splits``.
        clip_length: Frames of a clip.
        interval: Distance between its frames.
        labelled: False leaves the labels out, and their files may be missing.
        options: Selection and scaling.

    Raises:
        InputError: If the split is unknown or empty, a folder is missing or a clip does not fit.
    """

    card: DatasetCard
    """What it is, known without opening it; a reader whose splits depend on its options refines it when opened."""

    space: ClassVar[str]
    """Name of the label space of the stored ids."""

    first_category: ClassVar[int] = 0
    """Category id that the official panoptic JSON files give to the first class."""

    version: ClassVar[int] = 1
    """Raised whenever the reader decodes the same files to other labels, so that nothing kept from before is used."""

    split_has_labels: bool = False
    """True if the split has label files, whether or not they are read."""

    index_problems: tuple[Problem, ...] = ()
    """What ``find_videos`` found wrong in the index itself, such as a JSON entry twice; those frames are left out."""

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        clip_length: int = 1,
        interval: int = 1,
        labelled: bool = True,
        options: ReadOptions | None = None,
    ) -> None:
        if split not in self.card.splits:
            raise InputError(f"{self.card.title} has no split {split!r}; allowed: {', '.join(self.card.splits)}")
        self.root = Path(root)
        self.split = split
        self.labelled = labelled
        self.options = options or ReadOptions()
        self._store = None if self.options.cache is None else SampleStore(self.options.cache)
        self._index = self._select(self.find_videos())
        space = self.own_label_space()
        self._own_ids = _id_table(space)
        tables = [video_times(video) for video in self._index]
        super().__init__(tables, clip_length=clip_length, interval=interval, label_space=space if labelled else None)

    def find_videos(self) -> list[Video]:
        """List the videos of the split with all their frames, label files included where the split has labels."""
        raise NotImplementedError

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode the labels of a frame.

        Returns:
            (H,W) ids of ``label_space``, IGNORE where there is none; int32 (H,W) instances, 0 = none.
        """
        raise NotImplementedError

    def scales_label(self, frame: Frame) -> bool:
        """True if the label of this frame is known to have another size and ``read_labels`` scales it to its image."""
        del frame
        return False

    def own_space(self) -> str:
        """Name of the label space of the stored ids; a reader with several versions answers by its options."""
        return self.space

    def own_label_space(self) -> LabelSpace:
        """Label space of the stored ids; a reader whose files list their classes answers by those."""
        return find_space(self.own_space())

    def _select(self, videos: list[Video]) -> list[Video]:
        picked = [select_frames(video, self.options.every, self.options.context) for video in videos]
        found = spread_videos([video for video in picked if video.frames], self.options.videos)
        kept = {video.name for video in found}
        self._whole = {
            video.name: tuple(frame.name for frame in video.frames)
            for video, chosen in zip(videos, picked, strict=True)
            if video.name in kept and len(chosen.frames) < len(video.frames)
        }
        if not found and self.index_problems:
            first = self.index_problems[0]
            raise InputError(f"no frame of {self.root} can be used; the first problem: {first.file} {first.reason}")
        if not found:
            raise InputError(
                f"{self.card.title} split {self.split!r} in {self.root} holds no frames; expected files:\n"
                f"{self.card.layout}"
            )
        refuse_same_names(found)
        self.split_has_labels = any(frame.labels for video in found for frame in video.frames)
        if not self.labelled:
            return [without_labels(video) for video in found]
        if not self.split_has_labels:
            raise InputError(
                f"{self.card.title} split {self.split!r} in {self.root} has pictures but no labels; use it as an "
                f"unlabelled target, or add the label files:\n{self.card.layout}"
            )
        return found

    def frame(self, video: int, position: int) -> Frame:
        """Names and files of one frame."""
        return self._index[video].frames[position]

    def index(self) -> tuple[Video, ...]:
        """All videos with their frames."""
        return tuple(self._index)

    def frames(self) -> Iterator[Frame]:
        """All frames, video by video."""
        for video in self._index:
            yield from video.frames

    def frame_name(self, video: int, position: int) -> str:
        """Name under which predictions of a frame are stored."""
        return self.frame(video, position).name

    def whole_video(self, video: int) -> tuple[str, ...]:
        """Names of all frames of a video in order, those too that ``every``, ``context`` or ``without`` leave out."""
        chosen = self._index[video]
        return self._whole.get(chosen.name) or tuple(frame.name for frame in chosen.frames)

    def without(self, names: Iterable[str]) -> None:
        """Leave out the frames with these names, for example damaged ones; no clip reaches across the gap.

        Raises:
            InputError: If nothing is left, or no label where labels are wanted.
        """
        left_out = set(names)
        kept = (tuple(frame for frame in video.frames if frame.name not in left_out) for video in self._index)
        videos = [replace(video, frames=frames) for video, frames in zip(self._index, kept, strict=True) if frames]
        if not videos or (self.labelled and not any(frame.labels for video in videos for frame in video.frames)):
            lost = "no labelled frame" if videos else "nothing"
            raise InputError(
                f"{self.card.title} split {self.split!r} in {self.root}: {lost} is left without the {len(left_out)} "
                "frames to leave out; mend their files"
            )
        before = {video.name: tuple(frame.name for frame in video.frames) for video in self._index}
        self._whole = {video.name: self._whole.get(video.name) or before[video.name] for video in videos}
        self._index = videos
        super().__init__(
            [video_times(video) for video in videos],
            clip_length=self.clip_length,
            interval=self.interval,
            label_space=self.label_space,
        )

    def read_frame(self, frame: Frame) -> Sample:
        """Read, check and scale one frame, without the cache.

        Raises:
            InputError: If a file is missing or damaged, sizes differ or an id is not in the table.
        """
        image = read_image(self.root / frame.image)
        labels = self.read_checked(frame, (image.shape[0], image.shape[1])) if frame.labels else None
        return self._scaled(image, labels)

    def read_frame_labels(self, frame: Frame) -> Labels:
        """Read, check and scale the labels of a frame without decoding its picture, whose head gives the size.

        Raises:
            InputError: If a file is missing or damaged, sizes differ or an id is not in the table.
        """
        labels = self.read_checked(frame, picture_size(self.root / frame.image))
        rows, size = self._target_size(labels.semantic.shape[0], labels.semantic.shape[1])
        return _scaled_labels(labels, rows, size)

    def _clip_starts(self, video: int, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of labelled data only the clips that hold a labelled frame."""
        if not self.labelled:
            return starts
        counts = np.cumsum([0, *(bool(frame.labels) for frame in self._index[video].frames)])
        ends = starts + (self.clip_length - 1) * self.interval
        if self.interval == 1:
            return starts[counts[ends + 1] > counts[starts]]
        has = np.diff(counts) > 0
        steps = np.arange(self.clip_length) * self.interval
        return starts[has[starts[:, None] + steps].any(1)]

    def _read(self, video: int, position: int) -> Sample:
        frame = self.frame(video, position)
        if self._store is None:
            return self.read_frame(frame)
        return self._store.get(self._cache_key(frame), lambda: self.read_frame(frame))

    def _cache_key(self, frame: Frame) -> tuple[object, ...]:
        """Everything that the cached form of a frame depends on."""
        files = [self.root / path for path in (frame.image, *frame.labels)]
        return (*self.describe(), frame.name, *(stamp(path) for path in files))

    def describe(self) -> tuple[object, ...]:
        """What the content of a read frame depends on besides its files."""
        options, space = self.options, self.own_label_space()
        meaning = (self.own_space(), space.names, self._own_ids.table.tobytes())
        return (self.card.name, self.version, *meaning, options.height, options.fit, options.trim, self.labelled)

    def read_checked(self, frame: Frame, size: tuple[int, int]) -> Labels:
        """Labels of a frame whose picture has ``size`` (H, W), unscaled.

        Raises:
            InputError: If a file is missing or damaged, sizes differ or an id is not in the table.
        """
        semantic, instance = self.read_labels(frame)
        path = self.root / frame.labels[0]
        if semantic.ndim != 2:
            raise InputError(f"{path} holds colours, but the labels of {self.card.title} are one value per pixel")
        if semantic.shape != size or instance.shape != size:
            raise InputError(
                f"{path} is {semantic.shape[1]}x{semantic.shape[0]} but its image is {size[1]}x{size[0]}; "
                "both must show the same frame"
            )
        own = self._to_own(semantic, path)
        return Labels(own, np.where(own == IGNORE, 0, instance).astype(np.int32))

    def _to_own(self, semantic: NDArray[np.integer[Any]], path: Path) -> NDArray[np.uint8]:
        """Check raw ids against the table and turn void classes into 255."""
        low, high = int(semantic.min(initial=0)), int(semantic.max(initial=0))
        found = np.flatnonzero(np.bincount(semantic.reshape(-1), minlength=1)) if low >= 0 and high < 4096 else None
        if found is None or not np.isin(found, self._own_ids.allowed).all():
            present = np.unique(semantic)
            wrong = present[~np.isin(present, self._own_ids.allowed)].tolist()
            count = len(self.own_label_space())
            raise InputError(
                f"{path} has label ids {wrong[:5]} that {self.card.title} does not define; allowed: 0..{count - 1} "
                f"and {IGNORE} = ignore"
            )
        return self._own_ids.table[semantic]

    def _scaled(self, image: NDArray[np.uint8], labels: Labels | None) -> Sample:
        rows, size = self._target_size(image.shape[0], image.shape[1])
        scaled = None if labels is None else _scaled_labels(labels, rows, size)
        return Sample(np.ascontiguousarray(resize_image_to(image[rows], size)), scaled)

    def _target_size(self, height: int, width: int) -> tuple[slice, tuple[int, int]]:
        """The rows that are kept of a stored picture, and the size (H, W) that they are scaled to."""
        top, bottom = self.options.trim
        if top + bottom >= height:
            raise ConfigError(f"trim [{top}, {bottom}] leaves no row of pictures that are {height} rows high")
        stored = (height - top - bottom, width)
        box = self.options.fit
        size = scaled_size(stored, self.options.height) if box is None else fitted_size(stored, box)
        return slice(top, height - bottom), size


def _scaled_labels(labels: Labels, rows: slice, size: tuple[int, int]) -> Labels:
    semantic, instance = (resize_label_to(part[rows], size) for part in (labels.semantic, labels.instance))
    return Labels(np.ascontiguousarray(semantic), np.ascontiguousarray(instance))


@dataclass(frozen=True)
class _IdTable:
    """Raw ids that may occur, and what each becomes."""

    allowed: NDArray[np.int64]
    table: NDArray[np.uint8] = field(repr=False)


def _id_table(space: LabelSpace) -> _IdTable:
    table = np.full(IGNORE + 1, IGNORE, np.uint8)
    for index, label in enumerate(space.classes):
        table[index] = IGNORE if label.is_void else index
    return _IdTable(np.array([*range(len(space)), IGNORE]), table)
