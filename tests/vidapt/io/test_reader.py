import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.video_files import FASTSTART, FRAGMENTED, SHARED, make_images, make_video, number_of, picture
from vidapt.errors import InputError, UserError
from vidapt.io.reader import open_video
from vidapt.io.video_pyav import decode_range, to_rgb
from vidapt.io.video_scan import scan_video

KINDS = {
    "b_frames.mp4": {},
    "faststart.mp4": {"options": FASTSTART},
    "fragmented.mp4": {"options": FRAGMENTED},
    "late_start.mp4": {"first": 100},
    "late_start.mkv": {"first": 100},
    "variable_rate.mkv": {"stamp": lambda index: index * (index + 1) // 2},
    "variable_rate.mp4": {"stamp": lambda index: index + 7 * (index // 5)},
    "no_b_frames.avi": {"b_frames": 0},
    "b_frames.avi": {},
    "stream.ts": {},
    "raw.h264": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "odd.webm": {"codec": "libvpx", "b_frames": 0, "size": (63, 97)},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_has_its_own_number(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, 40, **KINDS[name])
    with open_video(path) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == list(range(40))
    assert [number_of(frame.image) for frame in frames] == list(range(40))
    assert reader.expected_frames == reader.decoded == 40
    assert reader.holes == []
    assert reader.truncated is None
    assert reader.problems == []
    assert reader.size == frames[0].image.shape[:2]


def test_times_start_at_zero_and_follow_the_stamps(tmp_path: Path) -> None:
    late = open_video(make_video(tmp_path / "late.mp4", 5, first=100))
    assert [frame.time for frame in late] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    varying = open_video(make_video(tmp_path / "v.mkv", 5, stamp=lambda index: index * index))
    assert [frame.time for frame in varying] == pytest.approx([0, 0.04, 0.16, 0.36, 0.64], abs=1e-3)


@pytest.mark.parametrize("name", ["b_frames.mp4", "late_start.mkv", "variable_rate.mkv", "stream.ts", "b_frames.avi"])
def test_random_access_equals_reading_in_order(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, 40, **KINDS[name])
    in_order = [frame.image for frame in open_video(path)]
    info = scan_video(path)
    for index in random.Random(0).sample(range(40), 12):
        ((found, frame),) = decode_range(info, index, index + 1)
        assert found == index
        assert np.array_equal(to_rgb(frame), in_order[index])


def test_mpeg_program_streams_fall_back_where_seeking_misses(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mpg", 40, codec="mpeg2video")
    info = scan_video(path)
    in_order = [frame.image for frame in open_video(path)]
    for index in (15, 29, 38):
        ((_, frame),) = decode_range(info, index, index + 1)
        assert np.array_equal(to_rgb(frame), in_order[index])


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_start_stop_and_stride_keep_the_frame_numbers(tmp_path: Path, backend: str) -> None:
    path = make_video(tmp_path / "a.mp4", 40)
    with open_video(path, start=13, stop=30, stride=4, backend=backend) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == [13, 17, 21, 25, 29]
    assert [number_of(frame.image) for frame in frames] == [13, 17, 21, 25, 29]
    assert frames[0].time == pytest.approx(13 / 25)
    assert reader.expected_frames == 5


def test_decord_gives_the_same_pictures(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 20)
    ours, theirs = (list(open_video(path, backend=backend)) for backend in ("pyav", "decord"))
    assert len(ours) == len(theirs) == 20
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.image.astype(int) - other.image).mean() < 2


def test_rotation_of_the_container_is_applied(tmp_path: Path) -> None:
    plain = next(iter(open_video(make_video(tmp_path / "a.mp4", 3))))
    with open_video(make_video(tmp_path / "b.mp4", 3, rotation=90)) as reader:
        turned = next(iter(reader))
        assert reader.size == turned.image.shape[:2] == (96, 64)
    assert np.array_equal(turned.image, np.rot90(plain.image, 1))


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    reader = open_video(make_video(tmp_path / "a.mp4", 8))
    first = [frame.index for frame in reader]
    assert first == [frame.index for frame in reader]
    assert reader.decoded == 8


def test_no_file_stays_open(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 20)
    for _ in range(20):
        with open_video(path) as reader:
            next(iter(reader))
            assert str(path) in open_files()
        assert str(path) not in open_files()


def open_files() -> set[str]:
    """What this process has open; other tests' files may come and go in between."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(os.readlink(descriptor))
    return found


def test_images_come_in_natural_order(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "frames", 12)
    for source in (tmp_path / "frames", str(tmp_path / "frames" / "frame*.png"), paths, [str(path) for path in paths]):
        with open_video(source, fps=10) as reader:
            frames = list(reader)
        assert [number_of(frame.image) for frame in frames] == list(range(12))
        assert frames[3].time == pytest.approx(0.3)
        assert reader.expected_frames == 12
        assert reader.size == (64, 96)


def test_one_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    (frame,) = open_video(make_images(tmp_path, 1)[0])
    assert np.array_equal(frame.image, picture(0))


def test_glob_of_one_video_opens_it(tmp_path: Path) -> None:
    make_video(tmp_path / "drive.mp4", 4)
    assert len(list(open_video(str(tmp_path / "*.mp4")))) == 4


def test_arrays_pass_through(tmp_path: Path) -> None:
    frames = [picture(index) for index in range(7)]
    reader = open_video((frame for frame in frames), start=1, stride=2)
    found = list(reader)
    assert reader.expected_frames is None
    assert [frame.index for frame in found] == [1, 3, 5]
    assert found[1].image is frames[3]
    assert open_video(np.stack(frames)).expected_frames == 7


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ([np.zeros((4, 4, 3), np.float32)], "float32"),
        ([np.zeros((4, 4), np.uint8)], "(4, 4)"),
        (["not an array", 3][1:], "int"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], "frame 1"),
        ([], "no frame"),
    ],
)
def test_wrong_arrays_are_named(arrays: list[object], words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(").replace(")", r"\)")):
        list(open_video(arrays))


@pytest.mark.parametrize(
    "wrong", [{"start": -1}, {"stride": 0}, {"start": 5, "stop": 5}, {"fps": 0.0}, {"start": 99}, {"backend": "vlc"}]
)
def test_wrong_selection_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    path = make_video(tmp_path / "a.mp4", 4)
    with pytest.raises(UserError) as caught:
        open_video(path, **wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("blocked", "call", "words"),
    [
        ("av", "open_video(r'{video}')", "pip install av"),
        ("decord", "open_video(r'{video}', backend='decord')", "pip install decord"),
        ("av", "list(open_video(r'{folder}'))", "ok"),
    ],
)
def test_missing_decoders_are_named_and_images_need_none(tmp_path: Path, blocked: str, call: str, words: str) -> None:
    video = make_video(tmp_path / "a.mp4", 2)
    make_images(tmp_path / "frames", 2)
    code = (
        f"import sys\nsys.modules[{blocked!r}] = None\n"
        "from vidapt.errors import UserError\nfrom vidapt.io.reader import open_video\n"
        f"try:\n    {call.format(video=video, folder=tmp_path / 'frames')}\n    print('ok')\n"
        "except UserError as error:\n    print(error)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert words in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.slow
def test_memory_stays_flat_over_a_long_video(tmp_path: Path) -> None:
    path = make_video(tmp_path / "long.mp4", 2000, size=(240, 320), key_every=50)
    code = (
        "import resource\nfrom vidapt.io.reader import open_video\n"
        f"for frame in open_video({str(path)!r}):\n"
        "    if frame.index in (200, 1999):\n"
        "        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    early, late = (int(line) for line in done.stdout.split())
    assert late - early < 8 * 1024


@pytest.mark.parametrize(("name", "count"), [("highway_221f_960x540.mp4", 221), ("highway_38f_1280x720.mp4", 38)])
def test_real_videos_decode_whole(name: str, count: int) -> None:
    path = SHARED / "video" / name
    if not path.is_file():
        pytest.skip(f"real sample {name} is not at hand")
    with open_video(path) as reader:
        assert [frame.index for frame in reader] == list(range(count))
    assert (reader.decoded, reader.holes, reader.truncated) == (count, [], None)
