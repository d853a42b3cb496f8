"""CamVid: driving footage with 11 semantic classes, in the SegNet layout.

Layout: ``train/<sequence>_<number>.jpg`` (or .png) with ``trainannot/<same name>.png``, and the same for ``val``;
8-bit labels 0..10 in the order of ``vidapt.labels.CAMVID``, 11 = void. Names end in the frame number of the 30 Hz
recording.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.clip_dataset import ClipDataset, Labels, Sample, VideoTimes
from vidapt.errors import InputError
from vidapt.io.images import list_images, read_image, read_label, resize_image, resize_label
from vidapt.labels import CAMVID

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECORDING_FPS = 30.0
"""Rate at which the frame numbers in the file names count."""

SPLIT_FPS = {"train": 1.0, "val": 15.0}
"""Rate of the labelled frames of each split."""

VOID = 11
"""Label of pixels without a class."""

Frames = list[tuple[int, Path]]


class CamVid(ClipDataset):
    """Clips of CamVid; a sequence (file-name prefix) is a video, and clips do not cross its gaps.

    Frames of the train split are a second apart, so clips of several frames show large motion there. Labels carry no
    instances: ``instance`` is 0 everywhere.

    Args:
        root: Folder with ``train``, ``trainannot``, ``val``, ``valannot``.
        split: ``"train"`` or ``"val"``.
        clip_length: Frames of a clip.
        interval: Distance between its frames, in labelled frames.
        height: Height to scale to, aspect kept; None keeps the stored size.
        labelled: False leaves the labels unread.

    Attributes:
        fps: Labelled frames per second of the split.

    Raises:
        InputError: If the folder, the split, a label or a file is not as documented.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        clip_length: int = 1,
        interval: int = 1,
        height: int | None = None,
        labelled: bool = True,
    ) -> None:
        if split not in SPLIT_FPS:
            raise InputError(f"CamVid split {split!r} is unknown; allowed: {', '.join(SPLIT_FPS)}")
        self.fps = SPLIT_FPS[split]
        self.height = height
        self.labelled = labelled
        self._label_folder = Path(root) / f"{split}annot"
        sequences = find_sequences(Path(root) / split)
        self._paths = {name: [path for _, path in frames] for name, frames in sequences.items()}
        if labelled:
            check_labels_exist(self._label_folder, [path for paths in self._paths.values() for path in paths])
        tables = [_times(name, frames, self.fps) for name, frames in sequences.items()]
        super().__init__(tables, clip_length=clip_length, interval=interval, label_space=CAMVID)

    def _read(self, video: int, position: int) -> Sample:
        path = self._paths[self.videos[video]][position]
        image = read_image(path)
        labels = self._read_labels(path, image.shape[:2]) if self.labelled else None
        return Sample(resize_image(image, self.height), labels)

    def _read_labels(self, path: Path, size: tuple[int, ...]) -> Labels:
        label_path = self._label_folder / f"{path.stem}.png"
        semantic = resize_label(read_semantic(label_path, size), self.height)
        return Labels(semantic, np.zeros(semantic.shape, np.int32))


def read_semantic(path: Path, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a CamVid label picture as uint8 (H,W) train ids with 255 = ignore.

    Raises:
        InputError: If it is unreadable, not of the image's ``size`` (H, W) or has a label above 11.
    """
    label = read_label(path)
    if label.shape != size:
        raise InputError(f"{path} is {label.shape} but its image is {size}; both must be (H, W) of the same frame")
    if label.max(initial=0) > VOID:
        raise InputError(f"{path} has label {label.max()}; CamVid labels are 0..{len(CAMVID) - 1} and {VOID} = void")
    return np.where(label == VOID, IGNORE, label).astype(np.uint8)


def find_sequences(folder: Path) -> dict[str, Frames]:
    """Frame numbers and image files of each sequence, in order.

    Raises:
        InputError: If the folder is missing, empty or has a file that is not named ``<sequence>_<number>``.
    """
    if not folder.is_dir():
        raise InputError(f"CamVid folder {folder} does not exist; the root needs train, trainannot, val and valannot")
    sequences: dict[str, Frames] = {}
    for path in list_images(folder):
        match = re.fullmatch(r"(.+)_f?(\d+)", path.stem)
        if match is None:
            raise InputError(f"{path} is not named <sequence>_<number>, as CamVid frames are")
        sequences.setdefault(match[1], []).append((int(match[2]), path))
    if not sequences:
        raise InputError(f"CamVid folder {folder} contains no images")
    return {name: sorted(frames) for name, frames in sorted(sequences.items())}


def check_labels_exist(folder: Path, images: Sequence[Path]) -> None:
    """Raise InputError if ``folder`` lacks ``<stem>.png`` for an image."""
    present = {path.name for path in folder.glob("*.png")}
    missing = [f"{path.stem}.png" for path in images if f"{path.stem}.png" not in present]
    if missing:
        raise InputError(f"{folder} lacks {missing[0]} ({len(missing)} of {len(images)} label pictures are missing)")


def _times(name: str, frames: Frames, fps: float) -> VideoTimes:
    numbers = np.array([number for number, _ in frames], np.int64)
    step = RECORDING_FPS / fps
    return VideoTimes(name, (numbers - numbers[0]) / RECORDING_FPS, np.diff(numbers) > 1.5 * step)
