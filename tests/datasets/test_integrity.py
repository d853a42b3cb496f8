"""Damaged, missing and mismatched files: found by their heads and tails, found by reading, refused or left out."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import cityscapes, cityscapes_sequence, synthia
from vidapt.datasets import integrity
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.cityscapes_sequence import CityscapesSequence
from vidapt.datasets.frame_index import Problem
from vidapt.datasets.integrity import (
    check_ends,
    describe_skipped,
    examine,
    forget_checks,
    quick_problems,
    refuse_or_skip,
)
from vidapt.datasets.stored import ReadOptions
from vidapt.datasets.synthia import Synthia
from vidapt.errors import ConfigError, InputError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(autouse=True)
def _nothing_known() -> None:
    forget_checks()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    cityscapes.build(tmp_path)
    return tmp_path


def image_file(root: Path, number: int = 0) -> Path:
    return root / Cityscapes(root).frame(number, 0).image


def label_file(root: Path, number: int = 0) -> Path:
    return root / Cityscapes(root).frame(number, 0).labels[0]


def write_header(path: Path, width: int, height: int) -> None:
    """A PNG whose header speaks of a size that its content does not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 99)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def cut(path: Path, share: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def damage_inside(path: Path) -> None:
    """Change bytes in the middle; head and tail stay."""
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 8):
        data[place] ^= 0xFF
    path.write_bytes(data)


# --- heads and tails


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_whole_files_say_their_size(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    Image.fromarray(NOISE).save(path)
    assert check_ends(path) == check_ends(path, deep=False) == (40, 60)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "is missing"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("<html>404</html>"), "cannot be read: cannot identify image file"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: write_header(path, 60000, 60000), "cannot be read: Image size"),
        (lambda path: write_header(path, 0, 4), "cannot be read"),
        (lambda path: path.symlink_to("nowhere"), "is missing"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(InputError, match=f"^{reason}"):
        check_ends(path)


@pytest.mark.parametrize(("ending", "kind"), [(".png", "PNG"), (".jpg", "JPEG")])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.999])
def test_cut_files(tmp_path: Path, ending: str, kind: str, share: float) -> None:
    path = tmp_path / f"a{ending}"
    Image.fromarray(NOISE).save(path)
    cut(path, share)
    with pytest.raises(InputError, match=f"^is cut: the end of a {kind} file is missing"):
        check_ends(path)


def test_a_jpeg_may_end_in_other_bytes(tmp_path: Path) -> None:
    """Cameras pad their files."""
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(path)
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert check_ends(path) == (40, 60)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_sixteen_bits_are_for_labels_only(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.arange(np.prod(shape), dtype=np.uint16).reshape(shape))
    assert check_ends(path) == (4, 6)
    with pytest.raises(InputError, match=r"^has more than 8 bits per channel; pictures must have 8$"):
        check_ends(path, deep=False)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA"])
def test_eight_bits_in_any_mode_are_fine(tmp_path: Path, mode: str) -> None:
    Image.fromarray(NOISE).convert(mode).save(tmp_path / "a.png")
    assert check_ends(tmp_path / "a.png", deep=False) == (40, 60)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_turned_picture_has_the_size_as_it_is_read(tmp_path: Path, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).save(tmp_path / f"a{ending}", exif=exif)
    assert check_ends(tmp_path / f"a{ending}") == (60, 40)


def test_a_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    opened: list[object] = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda file: (opened.append(file), original(file))[1])
    check_ends(tmp_path / "a.png")
    [file] = opened
    assert not isinstance(file, (str, Path))


# --- a data set at a glance


def test_a_whole_data_set_has_no_problems(root: Path) -> None:
    assert quick_problems(Cityscapes(root)) == []


def test_sixteen_bit_labels_are_no_problem(tmp_path: Path) -> None:
    truth = synthia.build(tmp_path)
    assert quick_problems(Synthia(truth.root)) == []


def test_all_problems_in_one_pass_in_the_order_of_the_frames(root: Path) -> None:
    cut(image_file(root, 0))
    label_file(root, 0).unlink()
    Image.fromarray(np.zeros((48, 90), np.uint16)).save(label_file(root, 1))
    image_file(root, 2).write_bytes(b"")
    found = [(problem.frame, Path(problem.file).name, problem.reason) for problem in quick_problems(Cityscapes(root))]
    assert found == [
        ("aachen_000000_000019", "aachen_000000_000019_leftImg8bit.png", "is cut: the end of a PNG file is missing"),
        ("aachen_000000_000019", "aachen_000000_000019_gtFine_instanceIds.png", "is missing"),
        ("aachen_000001_000019", "aachen_000001_000019_gtFine_instanceIds.png", "is 90x48 but its image is 96x48"),
        ("hamburg_000000_042505", "hamburg_000000_042505_leftImg8bit.png", "is empty"),
    ]


def test_problem_files_lie_below_the_root(root: Path) -> None:
    label_file(root).unlink()
    [problem] = quick_problems(Cityscapes(root))
    assert problem.file == label_file(root).relative_to(root).as_posix()


def test_a_deep_picture_is_a_problem(root: Path) -> None:
    picture = cv2.imread(str(image_file(root))).astype(np.uint16) * 257
    cv2.imwrite(str(image_file(root)), picture)
    [problem] = quick_problems(Cityscapes(root))
    assert problem.reason == "has more than 8 bits per channel; pictures must have 8"


def test_labels_of_unlabelled_footage_are_not_looked_at(root: Path) -> None:
    shutil.rmtree(root / "gtFine")
    assert quick_problems(Cityscapes(root, labelled=False)) == []


def test_problems_of_the_index_come_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Problem("", "panoptic.json", "names x.png twice")
    monkeypatch.setattr(Cityscapes, "missing_stills", lambda *arguments: [index])
    label_file(root).unlink()
    assert [problem.reason for problem in quick_problems(Cityscapes(root))] == ["names x.png twice", "is missing"]


# --- reading a frame whole


def test_a_whole_frame_gives_its_pixels(root: Path) -> None:
    dataset = Cityscapes(root)
    frame = dataset.frame(0, 0)
    found = examine(dataset, frame)
    semantic = dataset.read_frame(frame).labels.semantic
    assert found.problems == ()
    assert found.counts.shape == (256,)
    assert found.counts.sum() == semantic.size
    assert [found.counts[index] for index in (7, 26, 255)] == [(semantic == index).sum() for index in (7, 26, 255)]


def test_a_frame_without_labels_has_no_counts(root: Path) -> None:
    dataset = Cityscapes(root, labelled=False)
    found = examine(dataset, dataset.frame(0, 0))
    assert (found.problems, found.counts) == ((), None)


def test_damage_inside_a_picture_names_the_picture(root: Path) -> None:
    damage_inside(image_file(root))
    dataset = Cityscapes(root)
    assert quick_problems(dataset) == []
    [problem] = examine(dataset, dataset.frame(0, 0)).problems
    assert problem.file == dataset.frame(0, 0).image
    assert problem.reason.startswith("cannot be read as an image: ")
    assert str(root) not in problem.reason


def test_an_id_outside_the_table_names_the_label(root: Path) -> None:
    ids = np.array(Image.open(label_file(root)))
    ids[0, 0] = 77
    Image.fromarray(ids).save(label_file(root))
    dataset = Cityscapes(root)
    assert quick_problems(dataset) == []
    [problem] = examine(dataset, dataset.frame(0, 0)).problems
    assert problem.file == dataset.frame(0, 0).labels[0]
    assert problem.reason.startswith("has label ids [77] that Cityscapes does not define; allowed: 0..34")


def test_picture_and_label_are_both_named(root: Path) -> None:
    ids = np.array(Image.open(label_file(root)))
    ids[0, 0] = 77
    Image.fromarray(ids).save(label_file(root))
    damage_inside(image_file(root))
    dataset = Cityscapes(root)
    frame = dataset.frame(0, 0)
    assert [problem.file for problem in examine(dataset, frame).problems] == [frame.image, frame.labels[0]]


def test_a_damaged_label_inside(tmp_path: Path) -> None:
    truth = synthia.build(tmp_path)
    dataset = Synthia(truth.root)
    frame = dataset.frame(0, 0)
    damage_inside(truth.root / frame.labels[0])
    [problem] = examine(dataset, frame).problems
    assert (problem.file, problem.frame) == (frame.labels[0], frame.name)
    assert problem.reason.startswith("cannot be read as a label picture")


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_examining_finds_what_the_glance_finds(root: Path, share: float) -> None:
    cut(image_file(root), share)
    label_file(root).unlink()
    dataset = Cityscapes(root)
    assert list(examine(dataset, dataset.frame(0, 0)).problems) == quick_problems(dataset)


def test_no_single_byte_crashes_the_check(root: Path) -> None:
    """Whatever is wrong with a file, it is a problem of that file or goes unnoticed, but never an error of ours."""
    dataset = Cityscapes(root)
    frame = dataset.frame(0, 0)
    for path in (image_file(root), label_file(root)):
        data = path.read_bytes()
        for place in [*range(60), *range(60, len(data), max(1, len(data) // 60))]:
            damaged = bytearray(data)
            damaged[place] ^= 0xFF
            path.write_bytes(damaged)
            files = {problem.file for problem in examine(dataset, frame).problems}
            assert files <= {frame.image, frame.labels[0]}
        path.write_bytes(data)


def test_rows_that_are_all_cut_off_are_no_damage(root: Path) -> None:
    dataset = Cityscapes(root, options=ReadOptions(trim=(24, 24)))
    with pytest.raises(ConfigError, match=r"^trim \[24, 24\] leaves no row of pictures that are 48 rows high"):
        examine(dataset, dataset.frame(0, 0))


# --- refuse or skip


def test_whole_data_pass_either_policy(root: Path) -> None:
    for policy in ("refuse", "skip"):
        dataset = Cityscapes(root)
        assert refuse_or_skip(dataset, policy) == []
        assert len(dataset) == 3


def test_refusing_counts_frames_and_names_the_first_file(root: Path) -> None:
    cut(image_file(root, 0))
    label_file(root, 0).unlink()
    label_file(root, 1).unlink()
    with pytest.raises(InputError) as caught:
        refuse_or_skip(Cityscapes(root), "refuse")
    message = str(caught.value)
    assert message.startswith(
        f"2 of 3 frames of Cityscapes in {root} are damaged, the first: leftImg8bit/train/aachen/"
    )
    assert "is cut: the end of a PNG file is missing; list them with 'vidapt data check'" in message
    assert message.endswith("set damaged: skip")


def test_skipping_leaves_the_damaged_frames_out(root: Path) -> None:
    label_file(root, 1).unlink()
    dataset = Cityscapes(root)
    problems = refuse_or_skip(dataset, "skip")
    assert [problem.frame for problem in problems] == ["aachen_000001_000019"]
    assert dataset.videos == ["aachen_000000_000019", "hamburg_000000_042505"]
    assert all(dataset[item].target is not None for item in range(len(dataset)))
    assert refuse_or_skip(dataset, "skip") == []


def test_no_clip_reaches_across_a_skipped_frame(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path, snippet=30)
    dataset = CityscapesSequence(tmp_path, "val", clip_length=2, labelled=False)
    full = len(dataset)
    (tmp_path / dataset.frame(0, 10).image).unlink()
    assert [problem.reason for problem in refuse_or_skip(dataset, "skip")] == ["is missing"]
    assert len(dataset) == full - 2
    numbers = [dataset.frame(0, place).number for place in range(dataset.frame_count(0))]
    assert 285 not in numbers
    pairs = [[numbers[place] for place in dataset[item].indices.tolist()] for item in range(27)]
    assert all(second - first == 1 for first, second in pairs)


def test_nothing_left_to_train_on(root: Path) -> None:
    shutil.rmtree(root / "gtFine" / "train")
    (root / "gtFine" / "train").mkdir()
    with pytest.raises(InputError, match=r"Cityscapes split 'train' in .*: nothing is left without the 3 frames"):
        refuse_or_skip(Cityscapes(root), "skip")


def test_no_label_left_to_train_on(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path)
    dataset = CityscapesSequence(tmp_path, "val")
    for frame in dataset.frames():
        for label in frame.labels:
            cut(tmp_path / label)
    with pytest.raises(InputError, match="no labelled frame is left without the 4 frames"):
        refuse_or_skip(dataset, "skip")


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the frames whose files are looked at from now on."""
    names: list[str] = []
    original = integrity._quick_frame
    monkeypatch.setattr(
        integrity, "_quick_frame", lambda dataset, frame: (names.append(frame.name), original(dataset, frame))[1]
    )
    return names


def test_a_process_looks_at_a_data_set_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = looked_at(monkeypatch)
    monkeypatch.chdir(root.parent)
    refuse_or_skip(Cityscapes(root), "refuse")
    assert len(names) == 3
    refuse_or_skip(Cityscapes(root.name), "skip")
    refuse_or_skip(Cityscapes(root, clip_length=1), "refuse")
    assert len(names) == 3
    refuse_or_skip(Cityscapes(root, labelled=False), "refuse")
    assert len(names) == 6
    forget_checks()
    refuse_or_skip(Cityscapes(root), "refuse")
    assert len(names) == 9


def test_other_frames_are_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_or_skip(Cityscapes(root, options=ReadOptions(videos=1)), "refuse")
    names = looked_at(monkeypatch)
    label_file(root, 1).unlink()
    with pytest.raises(InputError, match="1 of 3 frames"):
        refuse_or_skip(Cityscapes(root), "refuse")
    assert len(names) == 3


def test_what_was_damaged_is_looked_at_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever mends a file in a running process is not told that it is damaged."""
    whole = label_file(root, 1).read_bytes()
    cut(label_file(root, 1))
    with pytest.raises(InputError, match="1 of 3 frames"):
        refuse_or_skip(Cityscapes(root), "refuse")
    names = looked_at(monkeypatch)
    assert [problem.reason for problem in refuse_or_skip(Cityscapes(root), "skip")] == [
        "is cut: the end of a PNG file is missing"
    ]
    label_file(root, 1).write_bytes(whole)
    assert refuse_or_skip(Cityscapes(root), "refuse") == []
    assert names == ["aachen_000001_000019"] * 2


def test_every_frame_advances_the_bar(root: Path) -> None:
    label_file(root, 1).unlink()
    steps: list[int] = []
    refuse_or_skip(Cityscapes(root), "skip", advance=lambda: steps.append(1))
    assert len(steps) == 3


# --- what is said


def problems_of(*frames: str) -> list[Problem]:
    return [Problem(frame, f"{frame}_{number}.png", "is empty") for number, frame in enumerate(frames)]


def test_few_skipped_frames_are_all_named() -> None:
    line = describe_skipped(problems_of("a", "b"))
    assert line == "left out 2 damaged frames: a_0.png (is empty), b_1.png (is empty)"


def test_many_skipped_frames_are_counted() -> None:
    line = describe_skipped(problems_of(*"abcdefg"))
    assert line.startswith("left out 7 damaged frames: a_0.png (is empty), b_1.png")
    assert line.endswith("c_2.png (is empty) and 4 more")


def test_frames_are_counted_not_files() -> None:
    assert describe_skipped(problems_of("a", "a", "b")).startswith("left out 2 damaged frames: a_0.png")
