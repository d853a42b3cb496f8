from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest

from tests.datasets.miniature import cityscapes_sequence
from tests.datasets.miniature.truth import Truth
from tests.datasets.reading import check_damaged_files, check_index, check_label_of_another_size, check_reading
from tests.video_files import SHARED
from vidapt.datasets.cityscapes_sequence import CityscapesSequence, by_sequence, find_snippets
from vidapt.datasets.frame_index import Frame
from vidapt.datasets.stored import ReadOptions
from vidapt.errors import InputError

REAL = SHARED / "cityscapes"


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Whole snippets of val; tests must leave the files as they are."""
    return cityscapes_sequence.build(tmp_path_factory.mktemp("sequence"), size=(24, 48))


@pytest.mark.parametrize(
    ("split", "suffix", "instances"), [("train", ".png", True), ("val", ".jpg", True), ("val", ".png", False)]
)
def test_reads_what_the_pictures_show(tmp_path: Path, split: str, suffix: str, instances: bool) -> None:
    truth = cityscapes_sequence.build(tmp_path, split=split, suffix=suffix, snippet=5)
    check_reading(CityscapesSequence(tmp_path, split, clip_length=3, instances=instances), truth)


def test_whole_snippets(truth: Truth) -> None:
    dataset = CityscapesSequence(truth.root, "val", clip_length=2)
    check_index(dataset, truth)
    assert [dataset.frame_count(video) for video in range(len(truth.videos))] == [30] * len(truth.videos)
    assert len(dataset) == 2 * len(truth.videos)
    assert len(CityscapesSequence(truth.root, "val", clip_length=2, labelled=False)) == 29 * len(truth.videos)
    distant = {"clip_length": 4, "interval": 9}
    assert len(CityscapesSequence(truth.root, "val", labelled=False, **distant)) == 3 * len(truth.videos)
    with pytest.raises(InputError, match="no clip of 31 frames"):
        CityscapesSequence(truth.root, "val", clip_length=31)


def test_snippets_are_named_after_their_labelled_frames(truth: Truth) -> None:
    dataset = CityscapesSequence(truth.root, "val")
    assert dataset.videos == [
        "frankfurt_000000_000294",
        "frankfurt_000000_000576",
        "frankfurt_000001_049698",
        "lindau_000000_000019",
    ]
    assert [frame.name for frame in labelled(dataset)] == dataset.videos
    assert next(dataset.frames()) == Frame(
        "frankfurt_000000_000275",
        "leftImg8bit_sequence/val/frankfurt/frankfurt_000000_000275_leftImg8bit.png",
        number=275,
        key=False,
    )


def labelled(dataset: CityscapesSequence) -> list[Frame]:
    return [frame for frame in dataset.frames() if frame.labels]


def test_the_twentieth_frame_alone_is_labelled(truth: Truth) -> None:
    dataset = CityscapesSequence(truth.root, "val", clip_length=30)
    for item in range(len(dataset)):
        clip = dataset[item]
        assert clip.target.labelled.nonzero().tolist() == [[19]]
        assert clip.times.tolist() == pytest.approx([place / 17 for place in range(30)])
        assert (clip.target.semantic[:19] == 255).all()
        assert (clip.target.semantic[19] != 255).any()
    pairs = CityscapesSequence(truth.root, "val", clip_length=2)
    assert [pairs[item].target.labelled.tolist() for item in (0, 1)] == [[False, True], [True, False]]
    assert all(frame.key is bool(frame.labels) for frame in dataset.frames())


def test_without_labels_the_same_snippets_are_found(tmp_path: Path) -> None:
    truth = cityscapes_sequence.build(tmp_path, size=(24, 48))
    before = CityscapesSequence(tmp_path, "val", labelled=False)
    expected = [frame for frame in before.frames() if frame.key]
    assert len(expected) == len(truth.videos)
    rmtree(tmp_path / "gtFine")
    dataset = CityscapesSequence(tmp_path, "val", labelled=False, clip_length=2)
    check_index(dataset, truth)
    assert dataset.videos == before.videos
    assert [frame for frame in dataset.frames() if frame.key] == expected
    assert dataset[0].target is None


def test_context_keeps_frames_before_the_labelled_one(truth: Truth) -> None:
    dataset = CityscapesSequence(truth.root, "val", clip_length=2, options=ReadOptions(context=1))
    assert len(dataset) == len(truth.videos)
    assert [frame.number for frame in dataset.frames()][:4] == [293, 294, 575, 576]
    assert all(dataset[item].target.labelled.tolist() == [False, True] for item in range(len(dataset)))
    only = CityscapesSequence(truth.root, "val", options=ReadOptions(context=0))
    assert [frame.name for frame in only.frames()] == only.videos


def test_no_clip_reaches_over_a_missing_frame(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path, size=(24, 48))
    (tmp_path / "leftImg8bit_sequence/val/lindau/lindau_000000_000010_leftImg8bit.png").unlink()
    rmtree(tmp_path / "leftImg8bit_sequence/val/frankfurt")
    dataset = CityscapesSequence(tmp_path, "val", clip_length=3, labelled=False)
    assert dataset.videos == ["lindau_000000_000019"]
    numbers = [[dataset.frame(0, place).number for place in dataset[item].indices] for item in range(len(dataset))]
    assert numbers == [[start, start + 1, start + 2] for start in [*range(8), *range(11, 28)]]


def test_png_goes_before_jpeg_of_the_same_frame(tmp_path: Path) -> None:
    truth = cityscapes_sequence.build(tmp_path, snippet=2, size=(24, 48))
    first = truth.root / truth.videos[0][0]
    first.with_suffix(".jpg").write_bytes(b"x")
    check_index(CityscapesSequence(tmp_path, "val"), truth)


def test_missing_labels_are_reported_not_passed_over(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path, snippet=3, size=(24, 48))
    path = tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_instanceIds.png"
    path.unlink()
    dataset = CityscapesSequence(tmp_path, "val")
    frame = labelled(dataset)[-1]
    assert frame.labels == (path.relative_to(tmp_path).as_posix(),)
    with pytest.raises(InputError, match=r"lindau_000000_000019_gtFine_instanceIds.png cannot be read"):
        dataset.read_frame(frame)


def test_test_split_is_unlabelled(tmp_path: Path) -> None:
    truth = cityscapes_sequence.build(tmp_path, split="val", snippet=3, size=(24, 48))
    for folder in ("leftImg8bit_sequence", "gtFine"):
        (tmp_path / folder / "val").rename(tmp_path / folder / "test")
    dataset = CityscapesSequence(tmp_path, "test", labelled=False)
    assert sum(frame.key for frame in dataset.frames()) == len(truth.videos)
    with pytest.raises(InputError, match=r"split 'test' in .* has pictures but no labels"):
        CityscapesSequence(tmp_path, "test")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path, snippet=2)
    check_damaged_files(CityscapesSequence(tmp_path, "val"))
    check_label_of_another_size(CityscapesSequence(tmp_path, "val"))


def test_wrong_roots_and_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no split 'train_extra'; allowed: train, val, test"):
        CityscapesSequence(tmp_path, "train_extra")
    with pytest.raises(InputError, match=r"Cityscapes sequences split 'val' .* holds no frames; .*\nleftImg8bit_seq"):
        CityscapesSequence(tmp_path, "val")
    strange = tmp_path / "leftImg8bit_sequence/val/lindau/lindau_19_leftImg8bit.png"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"x")
    with pytest.raises(InputError, match=r"lindau/lindau_19_leftImg8bit.png is not named <city>_<seq>_<frame>"):
        CityscapesSequence(tmp_path, "val")


def spans(numbers: list[int], keys: list[int]) -> list[tuple[int, int, int | None]]:
    return [(frames[0], frames[-1], key) for frames, key in find_snippets(numbers, keys)]


def test_snippets_that_run_on_are_divided_by_their_labelled_frames() -> None:
    assert spans([*range(100, 160)], [119, 149]) == [(100, 129, 119), (130, 159, 149)]
    assert spans([*range(100, 160)], []) == [(100, 129, 119), (130, 159, 149)]
    assert spans([*range(100, 145)], [119]) == [(100, 129, 119), (130, 144, None)]


def test_frames_that_two_snippets_could_claim_belong_to_the_first() -> None:
    assert spans([*range(100, 150)], [119, 139]) == [(100, 129, 119), (130, 149, 139)]


def test_labelled_frames_that_are_not_there_claim_the_others() -> None:
    assert spans([*range(10)], [19]) == spans([*range(10)], []) == [(0, 9, 19)]
    assert spans([280, 281, 304, 305], [294]) == [(280, 304, 294), (305, 305, None)]
    assert spans([5, 6], [4000]) == [(5, 6, None)]


def test_runs_of_other_lengths_have_no_known_labelled_frame() -> None:
    assert spans([*range(40, 69)], []) == [(40, 68, None)]
    assert spans([40, 41, 43], []) == [(40, 41, None), (43, 43, None)]
    assert spans([*range(31)], []) == [(0, 29, 19), (30, 30, None)]
    assert spans([*range(5, 30)], []) == [(5, 29, 19)]
    assert spans([*range(5, 31)], []) == [(5, 30, None)]


def test_every_frame_is_in_one_snippet() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        numbers = np.flatnonzero(rng.random(300) < 0.9)
        keys = np.flatnonzero(rng.random(300) < 0.01)
        found = find_snippets(numbers.tolist(), keys.tolist())
        assert sorted(number for frames, _ in found for number in frames) == numbers.tolist()
        for frames, key in found:
            assert frames == sorted(frames)
            assert key is None or (key - 19 <= frames[0] and frames[-1] <= key + 10)


def test_by_sequence_takes_the_last_of_one_frame() -> None:
    files = ["a/bad_x_000001_000019_leftImg8bit.jpg", "a/bad_x_000001_000019_leftImg8bit.png"]
    assert by_sequence(files) == ({"bad_x_000001": {19: files[1]}}, [])
    assert by_sequence([]) == ({}, [])


def test_real_sequence() -> None:
    if not REAL.is_dir():
        pytest.skip("the Cityscapes sample is not at hand")
    dataset = CityscapesSequence(REAL, clip_length=10, labelled=False)
    assert dataset.videos == ["aachen_000000_000019"]
    clip = dataset[0]
    assert clip.frames.shape == (10, 3, 1024, 2048)
    assert clip.target is None
    assert clip.times.tolist() == pytest.approx([place / 17 for place in range(10)])
    steps = np.abs(np.diff(clip.frames[:, :, ::8, ::8].numpy().astype(float), axis=0)).mean((1, 2, 3))
    assert ((steps > 0.5) & (steps < 20)).all()
    assert not any(frame.key for frame in dataset.frames())
    with pytest.raises(InputError, match="has pictures but no labels; use it as an unlabelled target"):
        CityscapesSequence(REAL)
