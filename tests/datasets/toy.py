"""A data set of tiny pictures, for what all published data sets share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vidapt.datasets.frame_index import Frame, Video, files_below
from vidapt.datasets.stored import DatasetCard, StoredDataset
from vidapt.io.images import read_label

ROAD, CAR = 7, 26


class Toy(StoredDataset):
    """Pictures ``<video>/<number>.png`` of constant colour = number; labels ``<video>/<number>_ids.png`` where made."""

    card = DatasetCard(
        name="toy",
        title="Toy",
        labels="panoptic video",
        video=True,
        splits={"train": 3, "val": None},
        layout="<video>/<number>.png",
        licence="none",
        home="here",
        checked="on generated files only",
    )
    space = "cityscapes_ids"
    has_instances = True

    def find_videos(self) -> list[Video]:
        if self.split == "val":
            return []
        return [self._video(folder.name) for folder in sorted(path for path in self.root.iterdir() if path.is_dir())]

    def _video(self, name: str) -> Video:
        images = [path for path in files_below(self.root, name, ".png") if "_ids" not in path]
        frames = []
        for image in images:
            label = image.replace(".png", "_ids.png")
            labels = (label,) if (self.root / label).exists() else ()
            number = int(Path(image).stem)
            frames.append(Frame(f"{name}_{number:03d}", image, labels, number, bool(labels)))
        return Video(name, tuple(frames), fps=10.0)

    def read_labels(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        picture = read_label(self.root / frame.labels[0])
        return picture, np.where(picture == CAR, 5, 0).astype(np.int32)


def write_video(folder: Path, numbers: Sequence[int], keys: Sequence[int] = (), size: tuple[int, int] = (6, 8)) -> Path:
    """Frames with these numbers; those of ``keys`` are labelled: road, one car at the top left."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(np.full((*size, 3), number, np.uint8)).save(folder / f"{number:03d}.png")
    for number in keys:
        label = np.full(size, ROAD, np.uint8)
        label[:2, :2] = CAR
        Image.fromarray(label).save(folder / f"{number:03d}_ids.png")
    return folder


def all_clips(dataset: StoredDataset) -> list[list[int]]:
    """Frame numbers of every clip."""
    found = []
    for item in range(len(dataset)):
        clip = dataset[item]
        place = dataset.videos.index(clip.video)
        found.append([dataset.frame(place, position).number for position in clip.indices.tolist()])
    return found
