import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from tests.video_files import picture
from vidapt.errors import InputError
from vidapt.io.images import (
    fitted_size,
    list_images,
    natural_key,
    picture_size,
    read_deep_colours,
    read_image,
    read_label,
    resize_image,
    resize_image_to,
    resize_label,
    resize_label_to,
    scaled_size,
)
from vidapt.transforms import resize_nearest


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


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_picture_as_it_is_read(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(path, exif=exif)
    assert picture_size(path) == read_image(path).shape[:2] == ((12, 8) if orientation > 4 else (8, 12))


def test_the_size_is_known_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(tmp_path / "a.png")

    def refuse(picture: ImageFile.ImageFile) -> None:
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    assert picture_size(tmp_path / "a.png") == (8, 12)


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


# --- 16-bit colours


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_deep_colours_keep_all_bits_and_their_order(tmp_path: Path, dtype: type, channels: int) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, np.iinfo(dtype).max, (5, 7, channels), dtype, endpoint=True)
    order = [2, 1, 0, 3][:channels]
    cv2.imwrite(str(tmp_path / "a.png"), colours[..., order])
    read = read_deep_colours(tmp_path / "a.png")
    assert read.dtype == np.int32
    assert np.array_equal(read, colours[..., :3])


def test_pillow_would_lose_the_lower_byte(tmp_path: Path) -> None:
    """The reason for a function of its own."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((1, 1, 3), 300, np.uint16))
    assert read_label(tmp_path / "a.png")[0, 0].tolist() == [1, 1, 1]
    assert read_deep_colours(tmp_path / "a.png")[0, 0].tolist() == [300, 300, 300]


def test_one_channel_is_no_colour(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 5), np.uint16))
    with pytest.raises(InputError, match=r"a\.png has one channel per pixel; its labels are stored in colours"):
        read_deep_colours(tmp_path / "a.png")


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "inside", "text", "folder", "huge"])
def test_deep_colours_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.png"
    rng = np.random.default_rng(0)
    cv2.imwrite(str(path), rng.integers(0, 65535, (20, 30, 3), np.uint16))
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "inside":
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    elif damage == "huge":
        # Width and height in the head, and the checksum of the head.
        data[16:24] = struct.pack(">II", 70000, 70000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path.write_bytes(data)
    elif damage != "missing":
        path.write_bytes({"empty": b"", "cut": bytes(data[: len(data) // 2]), "text": b"<html>"}[damage])
    with pytest.raises(InputError, match=r"a\.png cannot be read as a label picture: "):
        read_deep_colours(path)


# --- sizes


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((760, 1280), (768, 1024), (608, 1024)),
        ((1024, 2048), (512, 1024), (512, 1024)),
        ((1080, 1920), (1080, 1920), (1080, 1920)),
        ((100, 50), (20, 20), (20, 10)),
        ((10, 20), (100, 100), (50, 100)),
        ((1000, 2), (10, 10), (10, 1)),
        ((1, 1), (7, 9), (7, 7)),
    ],
)
def test_fitted_size(size: tuple[int, int], box: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted_size(size, box) == expected


@given(*[st.integers(1, 3000)] * 4)
def test_a_fitted_picture_touches_the_box_and_never_leaves_it(height: int, width: int, rows: int, columns: int) -> None:
    fitted = fitted_size((height, width), (rows, columns))
    assert 1 <= fitted[0] <= rows
    assert 1 <= fitted[1] <= columns
    assert fitted[0] == rows or fitted[1] == columns
    if fitted[0] == rows:
        assert abs(fitted[1] - max(1, width * rows / height)) <= 0.5 + 1e-6
    else:
        assert abs(fitted[0] - max(1, height * columns / width)) <= 0.5 + 1e-6


def test_resizing_to_the_same_size_changes_nothing() -> None:
    image, label = picture(3), np.arange(12).reshape(3, 4)
    assert resize_image_to(image, (64, 96)) is image
    assert resize_label_to(label, (3, 4)) is label


def test_shrinking_averages_areas() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    expected = image.reshape(4, 2, 6, 2, 3).mean((1, 3))
    assert np.abs(resize_image_to(image, (4, 6)) - expected).max() <= 0.5


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (5, 3), (7, 7), (14, 21)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.bool_])
def test_labels_take_the_pixel_under_each_centre(size: tuple[int, int], dtype: type) -> None:
    label = np.random.default_rng(1).integers(0, 70000, (7, 5)).astype(dtype)
    resized = resize_label_to(label, size)
    assert (resized.shape, resized.dtype) == (size, np.dtype(dtype))
    for y, x in np.ndindex(*size):
        assert resized[y, x] == label[int((y + 0.5) * 7 / size[0]), int((x + 0.5) * 5 / size[1])]


def test_labels_and_tensors_are_resized_alike() -> None:
    """Data sets scale with numpy, transforms with torch; a pixel must not move between the two."""
    label = np.random.default_rng(2).integers(0, 1 << 20, (37, 53)).astype(np.int32)
    for size in ((16, 24), (37, 53), (80, 61), (1, 53)):
        there = resize_nearest(torch.from_numpy(label), size).numpy()
        assert np.array_equal(resize_label_to(label, size), there)
