import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.miniature.synthia_seq import build
from tests.datasets.miniature.truth import Truth
from tests.datasets.reading import check_damaged_files, check_reading
from tests.datasets.test_synthia import write_label
from vidapt.datasets.synthia_seq import SynthiaSeq
from vidapt.errors import InputError

DAWN = "SYNTHIA-SEQS-04-DAWN"
VOID, ROAD, CAR, PEDESTRIAN = 0, 3, 8, 10


def seen_by(truth: Truth, camera: str = "Stereo_Left", view: str = "Omni_F") -> Truth:
    """The part of the truth that one camera sees."""
    wanted = f"/{camera}/{view}/"
    kept = [place for place, video in enumerate(truth.videos) if wanted in video[0]]
    return replace(truth, videos=[truth.videos[place] for place in kept], times=[truth.times[place] for place in kept])


def relaid(tmp_path: Path, frames: int = 4) -> Truth:
    """One sequence in the flat layout of DA-VSN."""
    truth = seen_by(build(tmp_path / "official", frames=frames))
    flat = tmp_path / "SEQS-04-DAWN"
    shutil.copytree(truth.root / "RGB/Stereo_Left/Omni_F", flat / "rgb")
    shutil.copytree(truth.root / "GT/LABELS/Stereo_Left/Omni_F", flat / "label")
    names = {path: f"rgb/{path.rpartition('/')[2]}" for path in truth.videos[0]}
    shown = {names[path]: truth.frames[path] for path in names}
    return replace(truth, root=flat, frames=shown, videos=[list(shown)])


@pytest.mark.parametrize(
    ("camera", "view"), [("Stereo_Left", "Omni_F"), ("Stereo_Left", "Omni_R"), ("Stereo_Right", "Omni_B")]
)
def test_frames_are_read_as_written(tmp_path: Path, camera: str, view: str) -> None:
    truth = build(tmp_path)
    dataset = SynthiaSeq(tmp_path, camera=camera, view=view, clip_length=2)
    assert dataset.videos == [DAWN]
    assert [frame.name for frame in dataset.frames()] == [f"{DAWN}_{number:06d}" for number in range(4)]
    check_reading(dataset, seen_by(truth, camera, view))


def test_several_sequences_are_several_videos(tmp_path: Path) -> None:
    names = ("SYNTHIA-SEQS-05-FOG", DAWN)
    truths = [seen_by(build(tmp_path, sequence=name, seed=seed, frames=3)) for seed, name in enumerate(names)]
    both = Truth(
        tmp_path,
        {
            f"{name}/{path}": frame
            for name, truth in zip(names, truths, strict=True)
            for path, frame in truth.frames.items()
        },
        [[f"{name}/{path}" for path in truth.videos[0]] for name, truth in zip(names, truths, strict=True)],
        [truth.times[0] for truth in truths],
    )
    dataset = SynthiaSeq(tmp_path, sequences=names, clip_length=2)
    assert dataset.videos == list(names)
    assert len(dataset) == 4
    check_reading(dataset, both)


def test_the_flat_layout_of_da_vsn_is_read(tmp_path: Path) -> None:
    truth = relaid(tmp_path)
    dataset = SynthiaSeq(truth.root, clip_length=3)
    assert dataset.videos == ["SEQS-04-DAWN"]
    assert [frame.number for frame in dataset.frames()] == [0, 1, 2, 3]
    check_reading(dataset, truth)


def test_no_clip_crosses_a_missing_frame(tmp_path: Path) -> None:
    truth = relaid(tmp_path, frames=6)
    (truth.root / "rgb/000003.png").unlink()
    dataset = SynthiaSeq(truth.root, clip_length=2)
    found = [[dataset.frame(0, place).number for place in clip.indices.tolist()] for clip in dataset]
    assert found == [[0, 1], [1, 2], [4, 5]]
    assert dataset[2].times.tolist() == pytest.approx([0.8, 1.0])


def test_number_zero_is_no_instance(tmp_path: Path) -> None:
    truth = relaid(tmp_path, frames=1)
    red = np.full((48, 96), CAR)
    red[10:20], red[20:30], red[30:] = ROAD, PEDESTRIAN, VOID
    green = np.full((48, 96), 4)
    green[:5] = 0
    write_label(truth.root / "label/000000.png", red, green)
    dataset = SynthiaSeq(truth.root)
    labels = dataset.read_frame(next(dataset.frames())).labels
    rows = labels.instance[:, 0]
    assert (labels.instance == rows[:, None]).all()
    assert not rows[:5].any()
    assert rows[5] > 0
    assert not rows[10:20].any()
    assert rows[20] > 0
    assert rows[20] != rows[5]
    assert not rows[30:].any()
    assert set(labels.semantic[30:].reshape(-1).tolist()) == {255}


def test_reserved_ids_are_void_and_further_ones_are_named(tmp_path: Path) -> None:
    truth = relaid(tmp_path, frames=1)
    red = np.full((48, 96), 13)
    red[24:] = 14
    write_label(truth.root / "label/000000.png", red, np.zeros_like(red))
    dataset = SynthiaSeq(truth.root)
    frame = next(dataset.frames())
    assert (dataset.read_frame(frame).labels.semantic == 255).all()
    red[0, 0] = 16
    write_label(truth.root / "label/000000.png", red, np.zeros_like(red))
    with pytest.raises(InputError, match=r"label/000000\.png has label ids \[16\] that SYNTHIA-Seq does not define"):
        dataset.read_frame(frame)


def test_a_label_of_another_size_is_named(tmp_path: Path) -> None:
    truth = relaid(tmp_path, frames=1)
    write_label(truth.root / "label/000000.png", np.full((48, 90), ROAD), np.zeros((48, 90), int))
    dataset = SynthiaSeq(truth.root)
    with pytest.raises(InputError, match=r"label/000000\.png is 90x48 but its image is 96x48"):
        dataset.read_frame(next(dataset.frames()))


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    check_damaged_files(SynthiaSeq(relaid(tmp_path, frames=2).root))


def test_unlabelled_reading_needs_no_label_files(tmp_path: Path) -> None:
    truth = build(tmp_path, frames=2)
    shutil.rmtree(truth.root / "GT")
    check_reading(SynthiaSeq(tmp_path, labelled=False), seen_by(truth))


def test_wrong_options_are_explained(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    with pytest.raises(InputError, match=r"no pictures SYNTHIA-SEQS-01-FOG/RGB/Stereo_Left/Omni_F/<number>\.png"):
        SynthiaSeq(tmp_path, sequences=[DAWN, "SYNTHIA-SEQS-01-FOG"])
    with pytest.raises(InputError, match=f"no pictures {DAWN}/RGB/Stereo_Left/Omni_X"):
        SynthiaSeq(tmp_path, view="Omni_X")
    with pytest.raises(InputError, match=f"sequences {DAWN}, {DAWN} name one twice"):
        SynthiaSeq(tmp_path, sequences=[DAWN, DAWN])
    with pytest.raises(InputError, match="holds no frames"):
        SynthiaSeq(tmp_path, sequences=[])
    with pytest.raises(InputError, match="has no split 'test'; allowed: train"):
        SynthiaSeq(tmp_path, "test")


def test_the_card_claims_no_count() -> None:
    assert dict(SynthiaSeq.card.splits) == {"train": None}
    assert SynthiaSeq.card.video
