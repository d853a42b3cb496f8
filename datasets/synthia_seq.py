"""SYNTHIA video sequences (SYNTHIA-SEQS): rendered drives at 5 frames a second (Ros et al., CVPR 2016).

Labels are stored as in SYNTHIA-RAND-CITYSCAPES, with other class ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from vidapt.datasets.frame_index import Frame, Video, files_below
from vidapt.datasets.instance_codes import thing_instances
from vidapt.datasets.listing import misnamed, missing_pictures
from vidapt.datasets.stored import DatasetCard, StoredArguments, StoredDataset
from vidapt.datasets.synthia import HOME, LICENCE
from vidapt.errors import InputError
from vidapt.io.images import read_deep_colours
from vidapt.labels import find_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

FPS = 5.0


class SynthiaSeq(StoredDataset):
    """Sequences of SYNTHIA seen by one camera; further arguments as in ``StoredDataset``.

    A root that holds ``rgb`` and ``label`` is read as one sequence in the flat layout of DA-VSN (Guan et al., ICCV
    2021), which leaves nothing to choose. Only pixels with an instance number above 0 are instances: number 0 gathers
    whatever does not move, over a whole sequence.

    Args:
        sequences: Folders below the root.
        camera: Stereo_Left or Stereo_Right.
        view: Omni_F (forward), Omni_B, Omni_L or Omni_R.

    Raises:
        InputError: Also if a sequence or the chosen camera and view is missing or named twice.
    """

    card = DatasetCard(
        name="synthia_seq",
        title="SYNTHIA-Seq",
        labels="panoptic video",
        video=True,
        splits={"train": None},
        layout=(
            "<sequence>/RGB/<camera>/<view>/<number>.png\n"
            "<sequence>/GT/LABELS/<camera>/<view>/<number>.png\n"
            "or one sequence as rgb/<number>.png and label/<number>.png"
        ),
        licence=LICENCE,
        home=HOME,
        checked="on generated files only",
    )
    space = "synthia_seq"
    has_instances = True

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        sequences: Sequence[str] = ("SYNTHIA-SEQS-04-DAWN",),
        camera: str = "Stereo_Left",
        view: str = "Omni_F",
        **arguments: Unpack[StoredArguments],
    ) -> None:
        self.sequences = tuple(sequences)
        self.camera_view = f"{camera}/{view}"
        super().__init__(root, split, **arguments)

    def find_videos(self) -> list[Video]:
        """List the chosen sequences, or the one of the flat layout."""
        if (self.root / "rgb").is_dir():
            return [self._video(self.root.resolve().name, "rgb", "label", "")]
        if len(set(self.sequences)) < len(self.sequences):
            raise InputError(f"sequences {', '.join(self.sequences)} name one twice; list each once")
        return [self._sequence(name) for name in self.sequences]

    def _sequence(self, name: str) -> Video:
        folder = f"{name}/RGB/{self.camera_view}"
        if not files_below(self.root, folder, ".png"):
            raise InputError(
                f"{self.root} holds no pictures {name}/RGB/{self.camera_view}/<number>.png; choose sequences, camera "
                "and view that are there"
            )
        return self._video(name, folder, f"{name}/GT/LABELS/{self.camera_view}", f"{PurePosixPath(name).name}_")

    def _video(self, name: str, folder: str, label_folder: str, prefix: str) -> Video:
        """The frames of ``folder``, their names after ``prefix``; notes its problems."""
        paths = [PurePosixPath(image) for image in files_below(self.root, folder, ".png")]
        frames = tuple(_frame(path, label_folder, prefix) for path in paths if path.stem.isdecimal())
        rule = "by its number, as pictures of SYNTHIA are"
        problems = [misnamed(str(path), rule) for path in paths if not path.stem.isdecimal()]
        if self.labelled:
            labels = files_below(self.root, label_folder, ".png")
            used = {label for frame in frames for label in frame.labels}
            problems += missing_pictures(labels, used, lambda label: _picture(label, folder, prefix))
        self.index_problems = (*self.index_problems, *problems)
        return Video(name, frames, fps=FPS)

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode classes and instances of a ``GT/LABELS`` picture."""
        semantic, number, _ = np.moveaxis(read_deep_colours(self.root / frame.labels[0]), -1, 0)
        instance = thing_instances(semantic, number, find_space(self.space))
        return semantic, np.where(number > 0, instance, 0)


def _frame(image: PurePosixPath, label_folder: str, prefix: str) -> Frame:
    label = f"{label_folder}/{image.name}"
    return Frame(f"{prefix}{image.stem}", str(image), (label,), number=int(image.stem))


def _picture(label: str, folder: str, prefix: str) -> tuple[str, str]:
    path = PurePosixPath(label)
    return f"{prefix}{path.stem}", f"{folder}/{path.name}"
