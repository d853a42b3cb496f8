"""SYNTHIA-Seq: one sequence at 5 Hz, seen by two stereo rigs of four cameras each, labelled like SYNTHIA."""

from pathlib import Path

from tests.datasets.miniature.scene import Cast, draw_street
from tests.datasets.miniature.synthia import write_frame
from tests.datasets.miniature.truth import TrueFrame, Truth

THINGS = frozenset({8, 10, 11})
CAMERAS = tuple(f"Stereo_{side}/Omni_{view}" for side in ("Left", "Right") for view in "FBLR")
FRAMES_PER_SECOND = 5
_CAST = Cast(
    bands=(1, 2, 6, 5, 4, 3, 3, 12),
    columns=(7, 7),
    patches=(9, 15),
    movers=tuple(
        (class_id, number and class_id << 16 | number)
        for class_id, number in ((8, 4), (8, 300), (10, 4), (8, 0), (11, 1), (11, 512))
    ),
    voids=(0,),
)


def build(
    root: Path,
    *,
    split: str = "train",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    frames: int = 4,
    sequence: str = "SYNTHIA-SEQS-04-DAWN",
) -> Truth:
    """Write ``{sequence}/{RGB,GT/LABELS,GT/COLOR,Depth}/Stereo_*/Omni_*/{frame:06d}.png`` below ``root``.

    The true root is the folder ``sequence``. Every camera is a video of its own, the front camera of the left rig
    first; frames count from 000000 (the published list of key frames starts at 000001 and takes the frame before each).
    There is no official split. The labels are those of ``synthia``: 16-bit RGB, class in R, instance in G; objects keep
    their number over the frames, one car has number 0 and so no true object. CameraParams holds one text file per
    frame, whose content is made up.
    """
    if split != "train":
        raise ValueError(f"SYNTHIA-Seq has no splits, all frames are 'train', not {split!r}")
    top = root / sequence
    found: dict[str, TrueFrame] = {}
    videos = []
    for number, camera in enumerate(CAMERAS):
        keys = [f"RGB/{camera}/{time:06d}.png" for time in range(frames)]
        for time, key in enumerate(keys):
            frame = draw_street(_CAST, seed=seed * 1000 + number, time=time, size=size)
            write_frame(top, key.removeprefix("RGB/"), frame)
            found[key] = frame
            _write_camera(top / f"CameraParams/{camera}/{time:06d}.txt")
        videos.append(keys)
    return Truth(top, found, videos, [[time / FRAMES_PER_SECOND for time in range(frames)] for _ in videos])


def _write_camera(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n", "ascii")
