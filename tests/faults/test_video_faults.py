"""Damaged and wrong input: what can be read is read, the rest is reported in one line."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.video_files import (
    CLUSTERS,
    FASTSTART,
    FRAGMENTED,
    cut,
    make_images,
    make_video,
    number_of,
    overwrite,
    picture,
)
from vidapt.errors import InputError
from vidapt.io.frames import Reader
from vidapt.io.reader import open_video
from vidapt.io.video_scan import scan_video

FRAMES = 60


def read(path: object, **options: object) -> tuple[Reader, dict[int, np.ndarray]]:
    with open_video(path, **options) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    assert reader.holes == [frame.index for frame in frames if not frame.ok]
    assert reader.decoded == sum(frame.ok for frame in frames)
    return reader, {frame.index: frame.image for frame in frames if frame.ok}


def refusal(source: object, **options: object) -> str:
    with pytest.raises(InputError) as caught, open_video(source, **options) as reader:
        list(reader)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def packet_positions(path: Path) -> list[tuple[int, int]]:
    import av

    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def write_text(path: Path) -> Path:
    path.write_text("this is no video\n" * 200)
    return path


def write_empty(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none.mp4", "does not exist"),
        (lambda folder: write_empty(folder / "a.mp4"), "is empty"),
        (lambda folder: write_text(folder / "a.mp4"), "cannot be opened as a video"),
        (lambda folder: write_text(folder / "a.xyz"), "cannot be opened as a video"),
        (lambda folder: cut(make_video(folder / "b.mp4"), folder / "a.mp4"), "cut has lost its index"),
        (lambda folder: folder, "contains no images"),
        (lambda folder: str(folder / "*.png"), "no file matches"),
        (lambda folder: make_video(folder / "a.mp4").parent, "1 video files: name one"),
        (lambda folder: Path("/dev/null"), "not a regular file"),
        (lambda folder: [folder / "none.png"], r"none\.png does not exist"),
        (lambda folder: "http://example.org/a.mp4", "only local files"),
        (lambda folder: "concat:a.mp4|b.mp4", "only local files"),
        (lambda folder: "rtsp://camera/live", "only local files"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    assert words.replace("\\", "") in refusal(make(tmp_path))


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"),
        ("hidden.mp4", "#EXTM3U\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"),
        ("secret.mp4", "#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", "ffconcat version 1.0\nfile {video}\n"),
        ("indented.mp4", "\n  ffconcat version 1.0\nfile {video}\n"),
    ],
)
def test_playlists_are_refused(tmp_path: Path, name: str, text: str, backend: str) -> None:
    video = make_video(tmp_path / "real.mp4", 3)
    (tmp_path / name).write_text(text.format(video=video.name))
    refusal(tmp_path / name, backend=backend)


def test_ffmpeg_itself_refuses_playlists_too(tmp_path: Path) -> None:
    make_video(tmp_path / "real.mp4", 3)
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
    with pytest.raises(InputError, match="cannot be opened"):
        scan_video(tmp_path / "concat.mp4")


@pytest.mark.parametrize(("name", "options"), [("a.mp4", FASTSTART), ("a.mkv", None)])
def test_cut_video_is_read_up_to_the_cut_and_reported(
    tmp_path: Path, name: str, options: dict[str, str] | None
) -> None:
    whole = make_video(tmp_path / f"whole_{name}", FRAMES, options=options)
    reader, images = read(cut(whole, tmp_path / name, 0.75))
    assert 15 < reader.decoded < FRAMES - 5
    assert all(number_of(image) == index for index, image in images.items())
    assert len(reader.holes) <= 1
    assert reader.truncated is not None
    assert (reader.truncated.decoded, reader.truncated.expected) == (reader.decoded, FRAMES)
    assert reader.expected_frames == FRAMES


def test_cut_fragmented_video_is_read_up_to_the_cut(tmp_path: Path) -> None:
    reader, images = read(cut(make_video(tmp_path / "w.mp4", FRAMES, options=FRAGMENTED), tmp_path / "a.mp4"))
    assert 20 < reader.decoded < FRAMES
    assert all(number_of(image) == index for index, image in images.items())


def test_the_part_before_the_cut_is_not_truncated(tmp_path: Path) -> None:
    path = cut(make_video(tmp_path / "w.mkv", FRAMES), tmp_path / "a.mkv")
    assert read(path, stop=10)[0].truncated is None
    reader, _ = read(path, start=5, stride=2)
    assert reader.truncated is not None
    assert reader.truncated.expected == len(range(5, FRAMES, 2))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_damaged_packet_is_a_hole_and_shifts_nothing(tmp_path: Path, name: str) -> None:
    whole = make_video(tmp_path / f"whole_{name}", FRAMES, b_frames=0, key_every=5)
    position, size = packet_positions(whole)[20]
    # Matroska's position is that of the block's header, which must stay whole here.
    reader, images = read(overwrite(whole, tmp_path / name, position + 12, b"\xff" * (size - 16)))
    assert 20 in reader.holes
    assert set(reader.holes) <= set(range(20, 25))
    assert sorted(images) + reader.holes == sorted(images) + [i for i in range(FRAMES) if i not in images]
    for index in (*range(20), *range(25, FRAMES)):
        assert number_of(images[index]) == index
    assert reader.truncated is None
    assert "frame 20" in reader.problems[0]
    assert "key frame 25" in reader.problems[0]


@pytest.mark.parametrize("b_frames", [0, 2])
def test_packets_lost_with_their_headers_leave_holes(tmp_path: Path, b_frames: int) -> None:
    whole = make_video(tmp_path / "whole.mkv", FRAMES, b_frames=b_frames, key_every=10, options=CLUSTERS)
    positions = packet_positions(whole)
    begin = positions[22][0] - 12
    reader, images = read(overwrite(whole, tmp_path / "a.mkv", begin, bytes(positions[25][0] - begin)))
    assert reader.holes
    assert len(images) + len(reader.holes) == FRAMES
    assert all(number_of(images[index]) == index for index in images if index < 20 or index > max(reader.holes) + 10)
    assert number_of(images[FRAMES - 1]) == FRAMES - 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_flipped_bytes_never_shift_frames(tmp_path: Path, name: str, seed: int) -> None:
    whole = make_video(tmp_path / f"whole_{name}", FRAMES, options=CLUSTERS if name == "a.mkv" else None, key_every=6)
    data = bytearray(whole.read_bytes())
    packets = packet_positions(whole)
    places = random.Random(seed)
    for position, size in packets[15:35]:
        data[position + 12 + places.randrange(max(size - 16, 1))] ^= 0xFF
    (tmp_path / name).write_bytes(data)
    reader, images = read(tmp_path / name)
    assert reader.holes
    assert reader.decoded >= FRAMES // 3
    assert len(images) + len(reader.holes) == FRAMES
    assert all(number_of(image) == index for index, image in images.items() if index < 12 or index >= 48)
    assert set(range(12)) <= set(images)


def test_a_video_without_a_readable_frame_is_refused(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "w.mp4", 6)
    data = bytearray(whole.read_bytes())
    for position, size in packet_positions(whole):
        data[position : position + size] = b"\xff" * size
    (tmp_path / "a.mp4").write_bytes(data)
    assert "no frame can be decoded" in refusal(tmp_path / "a.mp4")


def test_a_video_file_with_sound_only_is_refused(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert "no video stream" in refusal(tmp_path / "a.mp4")


def test_a_selected_range_of_holes_only_says_so(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "w.mp4", 30, b_frames=0, key_every=10)
    position, size = packet_positions(whole)[20]
    path = overwrite(whole, tmp_path / "a.mp4", position, b"\xff" * size)
    assert "none of its 1 selected frames" in refusal(path, start=20, stop=21)


def test_folder_with_different_sizes_names_both(tmp_path: Path) -> None:
    make_images(tmp_path, 4)
    cv2.imwrite(str(tmp_path / "frame2.png"), picture(2, (32, 48)))
    seen = []
    with pytest.raises(InputError, match=r"frame2\.png is 48x32 but frame0\.png is 96x64"):
        seen.extend(frame.index for frame in open_video(tmp_path))
    assert refusal(tmp_path)
    frames = iter(open_video(tmp_path))
    assert [next(frames).index, next(frames).index] == [0, 1]


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_unreadable_image_is_a_hole_with_its_name(tmp_path: Path, damage: str) -> None:
    paths = make_images(tmp_path, 4, suffix=".jpg")
    content = {"cut": paths[1].read_bytes()[:-300], "text": b"not an image", "empty": b""}[damage]
    paths[1].write_bytes(content)
    reader, images = read(tmp_path)
    assert reader.holes == [1]
    assert sorted(images) == [0, 2, 3]
    assert number_of(images[2]) == 2
    assert "frame1.jpg" in reader.problems[0]


def test_a_folder_of_unreadable_images_is_refused(tmp_path: Path) -> None:
    for path in make_images(tmp_path, 2):
        path.write_bytes(b"x")
    assert "frame0.png" in refusal(tmp_path)


def test_decord_reports_damage_as_holes_or_refuses(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "w.mp4", FRAMES, b_frames=0, key_every=5)
    position, size = packet_positions(whole)[20]
    path = overwrite(whole, tmp_path / "a.mp4", position, b"\xff" * size)
    reader = open_video(path, backend="decord")
    # Its threads decode ahead: depending on their pace the damage spoils every frame of so short a video.
    with contextlib.suppress(InputError):
        images = {frame.index: frame.image for frame in reader if frame.ok}
        assert all(number_of(image) == index for index, image in images.items() if not 20 <= index < 30)
    assert 20 in reader.holes
    cut_reader, _ = read(cut(make_video(tmp_path / "w.mkv", FRAMES), tmp_path / "c.mkv"), backend="decord")
    assert cut_reader.truncated is not None
    assert cut_reader.truncated.expected == FRAMES
