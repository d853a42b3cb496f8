"""Cityscapes sequence: snippets of 30 frames at 17 Hz around each labelled picture."""

from pathlib import Path

from tests.datasets.miniature.cityscapes import true_frame, write_labels
from tests.datasets.miniature.scene import hide_labels
from tests.datasets.miniature.truth import Truth
from tests.datasets.miniature.writing import write_jpeg, write_png

RATE = 17.0
BEFORE, LENGTH = 19, 30
LABELLED = {
    "train": (("aachen", 0, 19), ("aachen", 1, 19), ("hamburg", 0, 42505), ("hamburg", 0, 43944)),
    "val": (("frankfurt", 0, 294), ("frankfurt", 0, 576), ("frankfurt", 1, 49698), ("lindau", 0, 19)),
    "test": (("berlin", 0, 19), ("bielefeld", 0, 321)),
}


def snippet_frames(labelled: int, length: int = LENGTH) -> range:
    """Frame numbers of a snippet around its labelled frame; a shorter one is part of the official one.

    Of the official 30 frames 19 come before the labelled one and 10 after it.
    """
    first = labelled - (length - 1) * BEFORE // (LENGTH - 1)
    return range(first, first + length)


def build(
    root: Path,
    *,
    split: str = "val",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    snippet: int = LENGTH,
    suffix: str = ".png",
) -> Truth:
    """Write the snippets of a split and gtFine labels of the 20th frame of each.

    Most cities number each sequence from 0, so that the labelled frame is 000019; frankfurt and hamburg number long
    drives through, and several snippets share one sequence number with a gap between them. ``snippet`` shortens the
    snippets, the labelled frame keeps its number. ``suffix`` may be ``.jpg``, as in a copy that saves space.
    """
    frames, videos = {}, []
    for index, (city, sequence, labelled) in enumerate(LABELLED[split]):
        numbers = snippet_frames(labelled, snippet)
        video = []
        for number in numbers:
            frame = true_frame(split, index, seed=seed, size=size, time=number - labelled + BEFORE)
            stem = f"{city}_{sequence:06d}_{number:06d}"
            path = f"leftImg8bit_sequence/{split}/{city}/{stem}_leftImg8bit{suffix}"
            (write_png if suffix == ".png" else write_jpeg)(root / path, frame.image)
            if number == labelled:
                write_labels(root, split, stem, frame)
            frames[path] = frame if number == labelled else hide_labels(frame)
            video.append(path)
        videos.append(video)
    return Truth(root, frames, videos, [[index / RATE for index in range(snippet)] for _ in videos])
