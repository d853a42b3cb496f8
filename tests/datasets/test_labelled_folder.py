from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.video_files import make_images, picture
from vidapt.datasets.labelled_folder import LabelledFolder
from vidapt.errors import ConfigError, InputError, SingleImagesError, UserError
from vidapt.io.coco import encode_ids

CLASSES = "name: mine\nclasses:\n- {name: road}\n- {name: sky}\n- {name: car, thing: true}\n"


def semantic(index: int) -> np.ndarray:
    label = np.full((64, 96), 255, np.uint8)
    label[40:] = 0
    label[:20] = 1
    label[44:56, 10 + index : 40 + index] = 2
    return label


def instance(index: int) -> np.ndarray:
    ids = np.where(semantic(index) == 2, 40_000, 0).astype(np.uint16)
    ids[:5] = 9
    return ids


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "classes.yaml").write_text(CLASSES)
    for video, count in (("town", 4), ("village/north", 3)):
        for index, path in enumerate(make_images(tmp_path / "images" / video, count, suffix=".jpg")):
            for kind, label in (("semantic", semantic(index)), ("instance", instance(index))):
                target = tmp_path / kind / video / f"{path.stem}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(target), label)
    return tmp_path


def test_clips_with_targets(root: Path) -> None:
    dataset = LabelledFolder(root, clip_length=2, interval=2, fps=10)
    assert dataset.videos == ["town", "village/north"]
    assert dataset.label_space.names == ("road", "sky", "car")
    assert len(dataset) == 2 + 1
    clip = dataset[1]
    assert clip.indices.tolist() == [1, 3]
    assert clip.times.tolist() == pytest.approx([0.1, 0.3])
    assert np.array_equal(clip.target.semantic.numpy(), [semantic(1), semantic(3)])
    assert clip.target.instance.dtype == torch.int32
    assert np.array_equal(clip.target.instance[0].numpy(), np.where(semantic(1) == 2, 40_000, 0))
    assert clip.target.labelled.all()
    assert LabelledFolder(root, height=32)[0].target.instance.shape == (1, 32, 48)


def test_void_classes_become_ignored(root: Path) -> None:
    (root / "classes.yaml").write_text(CLASSES.replace("name: sky", "name: sky, void: true"))
    assert "void" in (root / "classes.yaml").read_text()
    found = LabelledFolder(root)[1].target.semantic[0].numpy()
    assert np.array_equal(found, np.where(semantic(1) == 1, 255, semantic(1)))
    assert (semantic(1) == 1).any()


def test_without_instances_ids_are_zero(root: Path) -> None:
    (root / "instance").rename(root / "unused")
    assert not LabelledFolder(root)[0].target.instance.any()


def test_coco_coloured_ids(root: Path) -> None:
    (root / "instance").rename(root / "panoptic")
    for path in (root / "panoptic").rglob("*.png"):
        ids = cv2.imread(str(path), -1).astype(np.int32) + 100_000
        cv2.imwrite(str(path), encode_ids(ids)[..., ::-1])
    found = LabelledFolder(root)[1].target.instance[0].numpy()
    assert np.array_equal(found, np.where(semantic(1) == 2, 140_000, 0))


def test_single_images_are_videos_of_one_frame(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text(CLASSES)
    (tmp_path / "semantic").mkdir()
    for index, path in enumerate(make_images(tmp_path / "images", 3)):
        cv2.imwrite(str(tmp_path / "semantic" / path.name), semantic(index))
    dataset = LabelledFolder(tmp_path)
    assert dataset.videos == ["frame0", "frame1", "frame2"]
    assert np.array_equal(dataset[2].target.semantic[0].numpy(), semantic(2))
    with pytest.raises(SingleImagesError, match="longest has 1"):
        LabelledFolder(tmp_path, clip_length=2)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.full((64, 96), 3, np.uint8), r"labels \[3\] outside the classes of 'mine'; allowed: 0\.\.2 and 255"),
        (np.full((64, 96), 300, np.uint16), r"labels \[300\] outside"),
        (np.zeros((32, 48), np.uint8), "is 48x32 but its image is 96x64"),
        (np.zeros((64, 96, 3), np.uint8), "colour picture"),
    ],
)
def test_wrong_labels_are_named(root: Path, label: np.ndarray, words: str) -> None:
    path = root / "semantic" / "town" / "frame1.png"
    cv2.imwrite(str(path), label)
    dataset = LabelledFolder(root)
    assert dataset[0].target is not None
    with pytest.raises(InputError, match=words) as caught:
        dataset[1]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_missing_and_unreadable_labels_are_named(root: Path, kind: str) -> None:
    path = root / kind / "town" / "frame2.png"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"frame2\.png"):
        LabelledFolder(root)[2]
    path.unlink()
    with pytest.raises(InputError, match=r"frame2\.png is missing \(1 of 7"):
        LabelledFolder(root)


def test_wrong_folders_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"classes\.yaml"):
        LabelledFolder(tmp_path / "none")
    for path in (root / "images").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(InputError, match="contains no images"):
        LabelledFolder(root)
    (root / "classes.yaml").write_text("classes: 3")
    with pytest.raises(UserError):
        LabelledFolder(root)


def test_grey_panoptic_pictures_are_refused(root: Path) -> None:
    (root / "instance").rename(root / "panoptic")
    with pytest.raises(InputError, match="grey track ids go to instance/"):
        LabelledFolder(root)[0]


def test_images_are_what_the_files_show(root: Path) -> None:
    frame = LabelledFolder(root)[3].frames[0].permute(1, 2, 0).numpy()
    assert np.abs(frame.astype(int) - picture(3)).mean() < 6
