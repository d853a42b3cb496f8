"""Your own labelled footage in a plain folder.

Layout of the root::

    classes.yaml                     name, classes: [{name, thing, colour, synonyms}], in train-id order
    images/<video>/*.png|jpg         frames in natural name order; or images/*.png|jpg for single images
    semantic/<video>/*.png           same names; 8-bit grey or palette train ids, 255 = ignore
    instance/<video>/*.png           optional: 16-bit track ids, constant over the video, 0 = none or crowd
    panoptic/<video>/*.png           optional, instead of instance: RGB ids as in COCO panoptic, R + 256 G + 65536 B

Single images are videos of one frame each.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.clip_dataset import ClipDataset, Labels, Sample, VideoTimes, steady
from vidapt.errors import InputError
from vidapt.io.coco import decode_ids
from vidapt.io.frames import ASSUMED_FPS
from vidapt.io.images import list_images, natural_key, read_image, read_label, resize_image, resize_label
from vidapt.labels import LabelSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LabelledFolder(ClipDataset):
    """Clips of a labelled folder (layout: see this module).

    Args:
        root: Folder with ``classes.yaml``, ``images`` and ``semantic``.
        clip_length: Frames of a clip.
        interval: Distance between its frames.
        height: Height to scale to, aspect kept; None keeps the stored size.
        fps: Frames per second of the footage.

    Raises:
        ConfigError: If ``classes.yaml`` is missing or no class table.
        InputError: If a folder or file is missing or unreadable, a label lies outside the classes or sizes differ.
    """

    def __init__(
        self,
        root: str | Path,
        clip_length: int = 1,
        interval: int = 1,
        height: int | None = None,
        fps: float = ASSUMED_FPS,
    ) -> None:
        self.root = Path(root)
        self.height = height
        self.fps = fps
        space = LabelSpace.from_yaml(self.root / "classes.yaml")
        self._allowed = np.zeros(256, bool)
        self._allowed[[*range(len(space)), IGNORE]] = True
        self._is_thing = space.is_thing
        self._to_own = np.full(IGNORE + 1, IGNORE, np.uint8)
        for index, label in enumerate(space.classes):
            self._to_own[index] = IGNORE if label.is_void else index
        self._images = find_images(self.root)
        self._instances = next((name for name in ("instance", "panoptic") if (self.root / name).is_dir()), None)
        self.has_instances = self._instances is not None
        for kind in ("semantic", self._instances):
            self._check_labels(kind)
        tables = [VideoTimes(name, *steady(len(paths), fps)) for name, paths in self._images.items()]
        super().__init__(tables, clip_length=clip_length, interval=interval, label_space=space)

    def _check_labels(self, kind: str | None) -> None:
        paths = [path for group in self._images.values() for path in group]
        missing = [path for path in paths if kind and not self._label_path(kind, path).is_file()]
        if kind and missing:
            raise InputError(
                f"{self._label_path(kind, missing[0])} is missing ({len(missing)} of {len(paths)} images have no "
                f"{kind} picture); every image needs one of the same name"
            )

    def _label_path(self, kind: str, image: Path) -> Path:
        return (self.root / kind / image.relative_to(self.root / "images")).with_suffix(".png")

    def _read(self, video: int, position: int) -> Sample:
        path = self._images[self.videos[video]][position]
        image = read_image(path)
        semantic = self._read_semantic(self._label_path("semantic", path), image.shape[:2])
        instance = self._read_instance(path, semantic)
        labels = Labels(resize_label(semantic, self.height), resize_label(instance, self.height))
        return Sample(resize_image(image, self.height), labels)

    def _read_semantic(self, path: Path, size: tuple[int, ...]) -> NDArray[np.uint8]:
        label = read_label(path)
        _check_size(path, label, size)
        if label.min(initial=0) < 0 or label.max(initial=0) > IGNORE or not self._allowed[label].all():
            outside = sorted({int(value) for value in np.unique(label) if value > IGNORE or not self._allowed[value]})
            space = f"'{self.label_space.name}'" if self.label_space else "classes.yaml"
            raise InputError(
                f"{path} has labels {outside[:5]} outside the classes of {space}; "
                f"allowed: 0..{int(self._allowed[:IGNORE].sum()) - 1} and {IGNORE} = ignore"
            )
        return self._to_own[label]

    def _read_instance(self, image: Path, semantic: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Track ids on things; ids on stuff and ignore are dropped."""
        if self._instances is None:
            return np.zeros(semantic.shape, np.int32)
        path = self._label_path(self._instances, image)
        label = read_label(path)
        if label.ndim == 3:
            label = decode_ids(label)
        elif self._instances == "panoptic":
            raise InputError(
                f"{path} must be an RGB picture with id = R + 256 G + 65536 B; grey track ids go to instance/"
            )
        _check_size(path, label, semantic.shape)
        return np.where(self._is_thing[semantic], label, 0).astype(np.int32)


def _check_size(path: Path, label: NDArray[np.int32], size: tuple[int, ...]) -> None:
    if label.shape != size:
        kind = "a colour picture" if label.ndim == 3 else f"{label.shape[1]}x{label.shape[0]}"
        raise InputError(f"{path} is {kind} but its image is {size[1]}x{size[0]}; a label is one grey value per pixel")


def find_images(root: Path) -> dict[str, list[Path]]:
    """Image files by video below ``root/images``, in natural order; images directly in it are videos of one frame.

    Raises:
        InputError: If there are none.
    """
    folder = root / "images"
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; a labelled folder needs classes.yaml, images/ and semantic/")
    groups = {path.stem: [path] for path in list_images(folder)}
    for child in sorted((path for path in folder.rglob("*") if path.is_dir()), key=natural_key):
        images = list_images(child)
        if images:
            groups[child.relative_to(folder).as_posix()] = images
    if not groups:
        raise InputError(f"{folder} contains no images; put frames into images/<video>/ or images/")
    return groups
