import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.video_files import make_images, make_video, number_of, overwrite
from vidapt.clip import collate
from vidapt.datasets.clip_dataset import clip_starts
from vidapt.datasets.frame_cache import MIN_STRETCH, FrameCache, stretches
from vidapt.datasets.video_folder import VideoFolder, find_videos
from vidapt.errors import InputError
from vidapt.io.video_scan import scan_video


def numbers(frames: torch.Tensor) -> list[int]:
    return [number_of(frame.permute(1, 2, 0).numpy()) for frame in frames]


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    root = tmp_path / "footage"
    (root / "day").mkdir(parents=True)
    make_video(root / "day" / "drive.mp4", 30)
    make_video(root / "night.mkv", 20, first=50)
    make_images(root / "frames", 12)
    return root


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_clips_of_all_videos_in_order(footage: Path, cache_bytes: int) -> None:
    dataset = VideoFolder(footage, clip_length=3, interval=2, cache_bytes=cache_bytes)
    assert dataset.videos == ["day/drive", "frames", "night"]
    assert dataset.label_space is None
    assert len(dataset) == 26 + 8 + 16
    for item, video, start in ((0, "day/drive", 0), (25, "day/drive", 25), (26, "frames", 0), (49, "night", 15)):
        clip = dataset[item]
        wanted = [start, start + 2, start + 4]
        assert clip.video == video
        assert clip.frames.shape == (3, 3, 64, 96)
        assert clip.frames.dtype == torch.uint8
        assert clip.indices.tolist() == wanted == numbers(clip.frames)
        assert clip.times.tolist() == pytest.approx([index / 25 for index in wanted], abs=1e-3)
        assert clip.target is None
    assert torch.equal(dataset[-1].indices, dataset[49].indices)
    with pytest.raises(IndexError):
        dataset[50]


def test_cached_and_direct_frames_are_equal(footage: Path) -> None:
    cached, direct = (VideoFolder(footage, clip_length=2, height=32, cache_bytes=size) for size in (1 << 30, 0))
    for item in (0, 17, 28, 45, 40, 3):
        assert torch.equal(cached[item].frames, direct[item].frames)
        assert cached[item].frames.shape == (2, 3, 32, 48)


def test_a_full_cache_only_costs_speed(footage: Path) -> None:
    small = VideoFolder(footage, clip_length=2, cache_bytes=20_000)
    direct = VideoFolder(footage, clip_length=2, cache_bytes=0)
    for item in (0, 17, 28, 45):
        assert torch.equal(small[item].frames, direct[item].frames)


def test_whole_videos(footage: Path) -> None:
    dataset = VideoFolder(footage, clip_length=2, height=32)
    clip = dataset.video_clip(2)
    assert clip.indices.tolist() == list(range(20))
    frames = [image for image, target in dataset.iterate_video(2) if target is None]
    assert np.array_equal(np.stack(frames).transpose(0, 3, 1, 2), clip.frames.numpy())
    assert dataset.frame_count(1) == len(list(dataset.iterate_video(1))) == 12


def test_workers_give_the_same_clips(footage: Path) -> None:
    dataset = VideoFolder(footage, clip_length=2)
    with_workers = DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context="forkserver", sampler=[0, 30, 45, 7]
    )
    for clip, item in zip(with_workers, (0, 30, 45, 7), strict=True):
        assert clip.indices.tolist() == numbers(clip.frames)
        assert torch.equal(clip.frames, dataset[item].frames)
    assert collate([dataset[0], dataset[1]], [0, 1]).frames.shape == (2, 2, 3, 64, 96)


def test_the_cache_folder_vanishes_and_copies_leave_it(footage: Path) -> None:
    dataset = VideoFolder(footage, clip_length=2)
    first = dataset[0].frames
    folder = dataset._cache._folder
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[0].frames, first)
    del copy
    assert any(folder.glob("*.frames"))
    del dataset
    assert not folder.exists()


def test_cached_frames_are_not_decoded_again(footage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = VideoFolder(footage, clip_length=2, include="day/*")
    first = dataset[3].frames
    monkeypatch.setattr("vidapt.datasets.frame_cache.decode_range", lambda *_, **__: pytest.fail("decoded again"))
    assert torch.equal(dataset[3].frames, first)


def test_a_clip_with_a_damaged_frame_gives_way_to_its_neighbour(tmp_path: Path) -> None:
    import av

    whole = make_video(tmp_path / "w.mp4", 30, b_frames=0, key_every=5)
    with av.open(str(whole)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][14]
        position, size = packet.pos, packet.size
    (tmp_path / "in").mkdir()
    overwrite(whole, tmp_path / "in" / "a.mp4", position, b"\xff" * size)
    dataset = VideoFolder(tmp_path / "in", clip_length=3)
    for item in range(len(dataset)):
        clip = dataset[item]
        assert 14 not in clip.indices
        assert clip.indices.tolist() == list(range(clip.indices[0], clip.indices[0] + 3)) == numbers(clip.frames)
    assert dataset[13].indices[0] == 11
    assert dataset[14].indices[0] == 15
    assert dataset.video_clip(0).indices.tolist() == [index for index in range(30) if index != 14]


def test_unreadable_images_are_skipped_and_sizes_must_agree(tmp_path: Path) -> None:
    paths = make_images(tmp_path, 6)
    paths[2].write_bytes(b"x")
    dataset = VideoFolder(tmp_path, clip_length=2)
    assert dataset[1].indices.tolist() == [0, 1]
    assert len(list(dataset.iterate_video(0))) == 5
    make_images(tmp_path, 1, size=(32, 48))
    with pytest.raises(InputError, match="must have one size"):
        dataset[4]


def test_files_that_cannot_be_opened_are_listed(footage: Path, caplog: pytest.LogCaptureFixture) -> None:
    (footage / "broken.mp4").write_text("no video")
    (footage / "empty.avi").touch()
    dataset = VideoFolder(footage, clip_length=2)
    assert dataset.videos == ["day/drive", "frames", "night"]
    assert sorted(os.path.basename(path) for path in dataset.failed) == ["broken.mp4", "empty.avi"]
    assert "broken.mp4" in caplog.text


@pytest.mark.parametrize("wrong", [{"clip_length": 0}, {"clip_length": 2, "interval": 0}, {"clip_length": 31}])
def test_clips_that_fit_nowhere_are_refused(footage: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError):
        VideoFolder(footage, **wrong)


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no footage"):
        VideoFolder(tmp_path, clip_length=1)
    (tmp_path / "a.mp4").write_text("x")
    with pytest.raises(InputError, match="cannot be opened"):
        VideoFolder(tmp_path, clip_length=1)
    with pytest.raises(InputError, match="does not exist"):
        VideoFolder(tmp_path / "none", clip_length=1)


def test_roots_of_every_kind(footage: Path) -> None:
    assert list(find_videos(footage / "night.mkv")) == ["night"]
    assert list(find_videos(footage / "frames")) == ["frames"]
    assert list(find_videos(str(footage / "*.mkv"))) == ["night"]
    assert len(find_videos(str(footage / "frames" / "*.png"))["frames"]) == 12
    assert list(find_videos(footage, "*e*")) == ["day/drive", "frames"]
    make_images(footage / "night", 2)
    assert list(find_videos(footage)) == ["day/drive", "frames", "night", "night.mkv"]


def test_clip_starts_never_cross_a_break() -> None:
    breaks = np.zeros(9, bool)
    breaks[4] = True
    assert clip_starts(breaks, 10, 3, 1).tolist() == [0, 1, 2, 5, 6, 7]
    assert clip_starts(breaks, 10, 2, 4).tolist() == [0, 5]
    assert clip_starts(breaks, 10, 1, 1).tolist() == list(range(10))
    assert clip_starts(np.zeros(0, bool), 0, 1, 1).tolist() == []


def test_stretches_begin_at_key_frames() -> None:
    assert stretches(np.array([0, 30, 70, 100, 140]), 150).tolist() == [0, 70, 140, 150]
    assert stretches(np.array([0]), 1000).tolist() == [0, 1000]
    assert stretches(np.zeros(0, np.int64), 5).tolist() == [0, 5]


def test_frames_across_stretches(tmp_path: Path) -> None:
    info = scan_video(make_video(tmp_path / "a.mp4", 200, key_every=10))
    assert len(stretches(info.timeline.keyframes, 200)) > 2
    cache = FrameCache(None, 1 << 30)
    for positions in ([MIN_STRETCH, MIN_STRETCH + 30, 199], [0, 69, 70, 71]):
        found = cache.read("a", info, positions)
        assert [number_of(image) for image in found] == positions


def test_glob_over_folders_keeps_every_video_and_folder_apart(tmp_path: Path) -> None:
    import cv2

    for number, folder in enumerate(("a", "b", "c")):
        (tmp_path / "frames" / folder).mkdir(parents=True)
        for index in range(2):
            path = tmp_path / "frames" / folder / f"{index}.png"
            cv2.imwrite(str(path), np.full((8, 8, 3), 40 * number, np.uint8))
    found = find_videos(str(tmp_path / "frames" / "*" / "*.png"))
    assert list(found) == ["a", "b", "c"]
    assert all(isinstance(images, tuple) and len(images) == 2 for images in found.values())
    for folder in ("a", "b", "c"):
        (tmp_path / "drives" / folder).mkdir(parents=True)
        (tmp_path / "drives" / folder / "clip.mp4").write_bytes(b"x")
    assert list(find_videos(str(tmp_path / "drives" / "*" / "clip.mp4"))) == ["a/clip", "b/clip", "c/clip"]
