"""Cityscapes sequences: snippets of 30 frames at 17 Hz, the 20th of which has the fine labels of Cityscapes.

Most cities count the frames of each snippet from 0, some number hours of driving through, so a snippet is found by its
labelled frame: where that is number f, it holds f - 19 to f + 10.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from vidapt.datasets.cityscapes import HOME, LICENCE, Cityscapes
from vidapt.datasets.frame_index import Frame, Problem, Video, files_below
from vidapt.datasets.listing import misnamed
from vidapt.datasets.stored import DatasetCard

FPS = 17.0
"""Frames per second."""

LENGTH = 30
"""Frames of a snippet."""

BEFORE = 19
"""Frames of a snippet before its labelled one."""

_FOLDER = "leftImg8bit_sequence"
_IMAGES = ("_leftImg8bit.jpg", "_leftImg8bit.png")
_LABELS = ("_gtFine_instanceIds.png", "_gtFine_labelIds.png", "_gtFine_polygons.json")

Snippet = tuple[list[int], int | None]


class CityscapesSequence(Cityscapes):
    """Snippets of Cityscapes with the labels of their 20th frames; arguments as in ``Cityscapes``.

    Snippets are found by the labelled frames in ``gtFine``; where these are missing, by ``find_snippets``' rules.
    """

    card = DatasetCard(
        name="cityscapes_sequence",
        title="Cityscapes sequences",
        labels="panoptic",
        video=True,
        splits={"train": 2975, "val": 500, "test": 1525},
        layout=(
            "leftImg8bit_sequence/<split>/<city>/<city>_<seq>_<frame>_leftImg8bit.png (or .jpg)\n"
            "gtFine/<split>/<city>/<city>_<seq>_<frame>_gtFine_instanceIds.png (semantic only: _labelIds.png)"
        ),
        licence=LICENCE,
        home=HOME,
        checked="checked on real files",
        unlabelled=("test",),
    )

    def find_videos(self) -> list[Video]:
        """List the snippets of the split."""
        images, strange = by_sequence(files_below(self.root, f"{_FOLDER}/{self.split}", _IMAGES))
        labelled, strange_labels = by_sequence(files_below(self.root, f"gtFine/{self.split}", _LABELS))
        videos = [
            self._video(sequence, {number: paths[number] for number in numbers}, key)
            for sequence, paths in images.items()
            for numbers, key in find_snippets(sorted(paths), sorted(labelled.get(sequence, ())))
        ]
        stored = next((path for paths in images.values() for path in paths.values()), ".png")
        missing = self.missing_stills(videos, _FOLDER, f"_leftImg8bit{stored[-4:]}")
        self.index_problems = (*strange, *strange_labels, *missing)
        return videos

    def _video(self, sequence: str, images: dict[int, str], key: int | None) -> Video:
        names = {number: f"{sequence}_{number:06d}" for number in images}
        frames = (
            Frame(names[number], image, self.label_files(names[number]) if number == key else (), number, number == key)
            for number, image in images.items()
        )
        named_after = min(images) if key is None else key
        return Video(f"{sequence}_{named_after:06d}", tuple(frames), fps=FPS)


def by_sequence(files: Iterable[str]) -> tuple[dict[str, dict[int, str]], list[Problem]]:
    """Files named ``<city>_<seq>_<frame>_...`` by ``<city>_<seq>`` and frame number; the last of one number stays.

    Returns:
        The files, and a problem for each that is named otherwise.
    """
    found: dict[str, dict[int, str]] = {}
    problems = []
    for file in files:
        match = re.match(r"(.+_\d{6})_(\d{6})_", file.rpartition("/")[2])
        if match is None:
            problems.append(misnamed(file, "<city>_<seq>_<frame>_..., as files of Cityscapes are"))
        else:
            found.setdefault(match[1], {})[int(match[2])] = file
    return found, problems


def find_snippets(numbers: Sequence[int], keys: Sequence[int]) -> list[Snippet]:
    """Divide the frames of one sequence into snippets.

    Frames that no known labelled frame claims are divided by what all snippets have in common: numbers below 30 are
    one snippet, whose labelled frame is 19; of others each run of consecutive numbers is cut every 30 frames, and the
    20th of 30 is the labelled one.

    >>> [(f"{frames[0]}-{frames[-1]}", key) for frames, key in find_snippets([*range(275, 335), 400], [294])]
    [('275-304', 294), ('305-334', 324), ('400-400', None)]

    Args:
        numbers: Rising numbers of the frames, at least one.
        keys: Rising numbers of the frames known to be labelled, whether or not they are among ``numbers``.

    Returns:
        The numbers of each snippet, in order, and that of its labelled frame, None if unknown.
    """
    if not keys and numbers[-1] < LENGTH:
        keys = [BEFORE]
    claimed: dict[int, list[int]] = {}
    left = []
    for number in numbers:
        key = _claiming(number, keys)
        if key is None:
            left.append(number)
        else:
            claimed.setdefault(key, []).append(number)
    snippets: list[Snippet] = [(frames, key) for key, frames in claimed.items()]
    snippets += [(run, run[BEFORE] if len(run) == LENGTH else None) for run in _runs(left)]
    return sorted(snippets, key=lambda snippet: snippet[0])


def _claiming(number: int, keys: Sequence[int]) -> int | None:
    """The first labelled frame whose snippet reaches over ``number``."""
    after = LENGTH - 1 - BEFORE
    place = bisect_left(keys, number - after)
    return keys[place] if place < len(keys) and keys[place] <= number + BEFORE else None


def _runs(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Runs of consecutive numbers, cut every 30."""
    run: list[int] = []
    for number in numbers:
        if run and (number != run[-1] + 1 or len(run) == LENGTH):
            yield run
            run = []
        run.append(number)
    if run:
        yield run
