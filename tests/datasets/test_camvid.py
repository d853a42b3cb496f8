from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.video_files import SHARED, picture
from vidapt.datasets.camvid import CamVid
from vidapt.errors import InputError
from vidapt.labels import CAMVID


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    names = {
        "train": [
            *(f"0001TP_{number:06d}" for number in (30, 60, 90)),
            *(f"0016E5_f{n:05d}" for n in (0, 30, 300, 330)),
        ],
        "val": [f"0016E5_{number:05d}" for number in (7, 9, 11, 13)],
    }
    for split, stems in names.items():
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}annot").mkdir()
        for index, stem in enumerate(stems):
            cv2.imwrite(str(tmp_path / split / f"{stem}.png"), picture(index)[..., ::-1])
            label = rng.integers(0, 12, (64, 96), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / f"{split}annot" / f"{stem}.png"), label)
    return tmp_path


def test_sequences_are_videos_and_gaps_are_not_crossed(root: Path) -> None:
    dataset = CamVid(root, "train", clip_length=2)
    assert dataset.videos == ["0001TP", "0016E5"]
    assert [dataset[item].indices.tolist() for item in range(len(dataset))] == [[0, 1], [1, 2], [0, 1], [2, 3]]
    assert dataset[3].times.tolist() == [10.0, 11.0]
    assert dataset.fps == 1.0
    assert dataset.label_space is CAMVID


def test_targets_are_train_ids_with_ignore(root: Path) -> None:
    dataset = CamVid(root, "val", clip_length=3)
    clip = dataset[1]
    raw = np.stack([cv2.imread(str(root / "valannot" / f"0016E5_{n:05d}.png"), -1) for n in (9, 11, 13)])
    assert np.array_equal(clip.target.semantic.numpy(), np.where(raw == 11, 255, raw))
    assert clip.target.semantic.dtype == torch.uint8
    assert clip.target.instance.dtype == torch.int32
    assert not clip.target.instance.any()
    assert clip.target.labelled.tolist() == [True] * 3
    assert clip.times.tolist() == pytest.approx([2 / 30, 4 / 30, 6 / 30])
    assert dataset.fps == 15.0
    assert np.array_equal(clip.frames[0].permute(1, 2, 0), picture(1))


def test_scaled_frames_and_unlabelled_reading(root: Path) -> None:
    clip = CamVid(root, "val", clip_length=1, height=32)[0]
    assert clip.frames.shape == (1, 3, 32, 48)
    assert clip.target.semantic.shape == (1, 32, 48)
    for path in (root / "valannot").iterdir():
        path.unlink()
    unlabelled = CamVid(root, "val", labelled=False)
    assert unlabelled[0].target is None
    assert len(unlabelled) == 4


def test_whole_video_in_order(root: Path) -> None:
    dataset = CamVid(root, "val", height=32)
    clip = dataset.video_clip(0)
    pairs = list(dataset.iterate_video(0))
    assert clip.frames.shape[0] == len(pairs) == 4
    for index, (image, target) in enumerate(pairs):
        assert np.array_equal(image.transpose(2, 0, 1), clip.frames[index].numpy())
        assert torch.equal(target.semantic[0], clip.target.semantic[index])


def test_wrong_roots_are_named(root: Path) -> None:
    with pytest.raises(InputError, match="train, val"):
        CamVid(root, "test")
    with pytest.raises(InputError, match="does not exist"):
        CamVid(root / "none")
    (root / "valannot" / "0016E5_00011.png").unlink()
    with pytest.raises(InputError, match=r"lacks 0016E5_00011\.png \(1 of 4"):
        CamVid(root, "val")
    (root / "val" / "strange.png").write_bytes(b"x")
    with pytest.raises(InputError, match="<sequence>_<number>"):
        CamVid(root, "val", labelled=False)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.full((64, 96), 12, np.uint8), r"label 12; CamVid labels are 0\.\.10 and 11"),
        (np.zeros((32, 96), np.uint8), "must be"),
        (np.zeros((64, 96, 3), np.uint8), "must be"),
    ],
)
def test_wrong_labels_are_named(root: Path, label: np.ndarray, words: str) -> None:
    path = root / "valannot" / "0016E5_00009.png"
    cv2.imwrite(str(path), label)
    with pytest.raises(InputError, match=words) as caught:
        CamVid(root, "val")[1]
    assert str(path) in str(caught.value)


def test_unreadable_files_are_named(root: Path) -> None:
    (root / "val" / "0016E5_00007.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"0016E5_00007\.png"):
        CamVid(root, "val")[0]


def test_real_data() -> None:
    root = SHARED / "camvid"
    if not root.is_dir():
        pytest.skip("the CamVid sample is not at hand")
    train, val = CamVid(root, "train", clip_length=2, height=120), CamVid(root, "val", clip_length=5, height=120)
    assert train.videos == ["0001TP", "0006R0", "0016E5"]
    assert [train.frame_count(video) for video in range(3)] == [62, 101, 204]
    assert len(train) == 61 + 100 + 201
    assert len(val) == 97
    clip = val[96]
    assert clip.frames.shape == (5, 3, 120, 160)
    assert clip.times[-1] == pytest.approx(100 / 15)
    assert set(clip.target.semantic.unique().tolist()) <= {*range(11), 255}
