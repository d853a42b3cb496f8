from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.video_files import picture
from vidapt.errors import InputError
from vidapt.io.images import list_images, natural_key, read_image, read_label, resize_image, resize_label, scaled_size


def test_natural_order() -> None:
    assert sorted(["f10", "f9", "g1", "f1b", "f1"], key=natural_key) == ["f1", "f1b", "f9", "f10", "g1"]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(picture(5)).convert(mode).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape == (64, 96, 3)
    assert image.max() > 200


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, 257 * 100, 65535]], np.uint16))
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 100, 255]


def test_orientation_of_photos_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(1)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(picture(1), -1))


def test_label_pictures_keep_their_values(tmp_path: Path) -> None:
    values = np.array([[0, 1, 65535], [300, 2, 7]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    assert np.array_equal(read_label(tmp_path / "a.png"), values)
    palette = Image.fromarray(values.astype(np.uint8) % 8).convert("P")
    palette.save(tmp_path / "p.png")
    assert read_label(tmp_path / "p.png").ndim == 2


def test_cut_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(3)).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match=r"a\.jpg cannot be read"):
        read_image(path)


def test_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture(3)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "a.png")


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b.PNG", ".hidden.png", "notes.txt", "a.jpeg"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in list_images(tmp_path)] == ["a.jpeg", "b.PNG"]


def test_scaling_keeps_the_aspect_and_label_values() -> None:
    assert scaled_size((360, 480), 90) == (90, 120)
    assert scaled_size((360, 480), None) == (360, 480)
    assert resize_image(picture(0), 32).shape == (32, 48, 3)
    labels = np.repeat(np.repeat(np.array([[70000, 2], [3, 4]], np.int32), 8, 0), 8, 1)
    assert np.array_equal(resize_label(labels, 2), [[70000, 2], [3, 4]])
    assert np.array_equal(resize_label(resize_label(labels, 48), 16), labels)


def test_labels_and_images_scale_to_the_same_place() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 30:50] = 255
    scaled = resize_image(np.repeat(mask[..., None], 3, 2), 30)[..., 0] > 127
    assert np.array_equal(scaled, resize_label(mask, 30) > 127)
