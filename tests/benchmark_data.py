"""Every data set of the shipped benchmarks in miniature, in the folders that their recipes name."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.datasets.miniature import (
    acdc,
    cityscapes,
    cityscapes_sequence,
    cityscapes_vps,
    dark_zurich,
    foggy_cityscapes,
    gta5,
    mapillary,
    synthia,
    synthia_seq,
    viper,
)
from tests.datasets.miniature.truth import Truth
from tests.tiny_runs import write_camvid

Truths = Mapping[str, Truth]
"""What the pictures show, by ``<kind of data>/<split>``."""


@contextmanager
def benchmark_data(root: Path) -> Iterator[Truths]:
    """Write all data sets below ``root`` and let VIDAPT_DATA name it; the working folder is an empty one."""
    truths = write_benchmark_data(root / "data")
    (root / "here").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDAPT_DATA", str(root / "data"))
        patch.chdir(root / "here")
        yield truths


def write_benchmark_data(root: Path) -> Truths:
    """Write all data sets below ``root``, the folder that VIDAPT_DATA is to name, in pictures of about 48x96.

    SYNTHIA-Seq is higher, since its recipe cuts off 120 rows; VIPER is long enough for two pairs of every tenth frame
    and the one before it, and one picture of GTA5 has a label of another size. The folder cityscapes holds the stills,
    their foggy copies and the sequences around them, with one set of labels.
    """
    truths: dict[str, Truth] = {}
    for split in ("train", "val"):
        truths |= _write_cityscapes(root / "cityscapes", split)
        truths[f"viper/{split}"] = viper.build(root / "viper", split=split, frames=14)
        truths[f"acdc/{split}"] = acdc.build(root / "acdc", split=split)
        truths[f"dark_zurich/{split}"] = dark_zurich.build(root / "dark_zurich", split=split)
        write_camvid(root / "camvid", split=split)
    for split in ("training", "validation"):
        truths[f"mapillary/{split}"] = mapillary.build(root / "mapillary", split=split)
    truths["cityscapes_vps/val"] = cityscapes_vps.build(root / "cityscapes_vps", split="val")
    truths["synthia/train"] = synthia.build(root / "synthia")
    truths["synthia_seq/train"] = synthia_seq.build(root / "synthia_seq", size=(248, 160))
    truths["gta5/train"] = gta5.build(root / "gta5", mismatch=True)
    return truths


def _without_further_snippets(sequence: Truth, stills: Truth) -> Truth:
    """Remove the snippets whose labelled frame is no still, which the release does not have."""
    names = {Path(path).name for path in stills.frames}
    kept = [video for video in sequence.videos if names & {Path(path).name for path in video}]
    for path in (path for video in sequence.videos if video not in kept for path in video):
        (sequence.root / path).unlink()
        stem = Path(path).name.removesuffix("_leftImg8bit.png")
        for label in sequence.root.glob(f"gtFine/*/*/{stem}_gtFine_*"):
            label.unlink()
    frames = {path: sequence.frames[path] for video in kept for path in video}
    times = None if sequence.times is None else [[*sequence.times[sequence.videos.index(video)]] for video in kept]
    return Truth(sequence.root, frames, kept, times)


def _write_cityscapes(root: Path, split: str) -> Truths:
    """Write the three data sets that share ``gtFine``; the stills are the labelled frames of their snippets."""
    sequence = cityscapes_sequence.build(root, split=split)
    foggy = foggy_cityscapes.build(root, split=split)
    stills = cityscapes.build(root, split=split)
    sequence = _without_further_snippets(sequence, stills)
    for path, frame in stills.frames.items():
        inside = path.replace("leftImg8bit/", "leftImg8bit_sequence/", 1)
        shutil.copyfile(root / path, root / inside)
        sequence.frames[inside] = frame
    found = {"cityscapes_sequence": sequence, "foggy_cityscapes": foggy, "cityscapes": stills}
    return {f"{name}/{split}": truth for name, truth in found.items()}
