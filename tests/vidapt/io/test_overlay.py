from pathlib import Path

import numpy as np
import pytest

from tests.video_files import number_of, picture
from vidapt.clip import PanopticFrame, Segment
from vidapt.errors import StorageError
from vidapt.io.overlay import VideoWriter, contact_sheet, draw_overlay, label_picture, segment_colour, write_video
from vidapt.io.reader import open_video
from vidapt.labels import CAMVID, CITYSCAPES


def thing(number: int) -> Segment:
    return Segment(number, 13, True, 1.0, 4, (0, 0, 2, 2))


def frame_of(ids: np.ndarray, *segments: Segment) -> PanopticFrame:
    return PanopticFrame(0, 0.0, np.zeros(ids.shape, np.uint8), ids.astype(np.int32), segments)


def test_neighbouring_ids_have_different_colours() -> None:
    colours = np.array([segment_colour(thing(number)) for number in range(256, 512)], int)
    for distance in (1, 2, 3):
        assert np.abs(colours[distance:] - colours[:-distance]).sum(1).min() > 25
    assert segment_colour(thing(300)) == segment_colour(thing(300))


def test_stuff_has_the_colour_of_its_class() -> None:
    road = Segment(1, 0, False, 1.0, 4, (0, 0, 2, 2))
    assert segment_colour(road) == (128, 64, 128)
    assert segment_colour(road, CAMVID.palette) == (128, 128, 128)


def test_void_keeps_the_image_and_segments_are_blended() -> None:
    ids = np.zeros((6, 8), np.int32)
    ids[:, 5:] = 1
    image = np.full((6, 8, 3), 100, np.uint8)
    road = Segment(1, 0, False, 1.0, 18, (5, 0, 8, 6))
    drawn = draw_overlay(image, frame_of(ids, road), alpha=0.5)
    assert np.array_equal(drawn[:, :4], image[:, :4])
    assert drawn[3, 6].tolist() == [114, 82, 114]
    assert drawn.dtype == np.uint8
    assert np.all(image == 100)


def test_things_have_white_outlines_one_pixel_wide() -> None:
    ids = np.zeros((8, 8), np.int32)
    ids[2:6, 2:6] = 256
    drawn = draw_overlay(np.zeros((8, 8, 3), np.uint8), frame_of(ids, thing(256)))
    white = (drawn == 255).all(2)
    assert white[2:6, 1].all()
    assert white[2:6, 5].all()
    assert white.sum() == 15
    assert not white[3:5, 3:5].any()


@pytest.mark.parametrize("largest", [255, 300, (1 << 24) - 1])
def test_any_id_and_frame_method(largest: int) -> None:
    ids = np.full((4, 4), largest, np.int32)
    frame = frame_of(ids, thing(largest))
    assert np.array_equal(frame.overlay(np.zeros((4, 4, 3), np.uint8), alpha=1.0)[0, 0], segment_colour(thing(largest)))


def test_sizes_must_agree_and_empty_is_allowed() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        draw_overlay(np.zeros((4, 5, 3), np.uint8), frame_of(np.zeros((4, 4), np.int32)))
    assert draw_overlay(np.zeros((0, 4, 3), np.uint8), frame_of(np.zeros((0, 4), np.int32))).shape == (0, 4, 3)
    assert np.all(draw_overlay(np.full((4, 4, 3), 7, np.uint8), frame_of(np.zeros((4, 4), np.int32))) == 7)


def test_label_picture_uses_the_palette() -> None:
    semantic = np.array([[0, 13, 255]], np.uint8)
    assert label_picture(semantic).tolist() == [[[128, 64, 128], [0, 0, 142], [0, 0, 0]]]
    assert np.array_equal(label_picture(semantic, CITYSCAPES.palette), label_picture(semantic))


def test_contact_sheet_places_every_image() -> None:
    rows = [[np.full((4, 6, 3), value, np.uint8) for value in (10, 20)], [np.full((3, 6, 3), 30, np.uint8)]]
    sheet = contact_sheet(rows, gap=1)
    assert sheet.shape == (9, 13, 3)
    assert (sheet[0, 0, 0], sheet[0, 7, 0], sheet[5, 0, 0], sheet[0, 6, 0], sheet[8, 12, 0]) == (10, 20, 30, 255, 255)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


@pytest.mark.parametrize("size", [(64, 96), (63, 97)])
def test_written_video_plays_in_order_with_even_size(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_video((picture(index, size) for index in range(20)), tmp_path / "a.mp4", 12.5)
    with open_video(path) as reader:
        assert [number_of(frame.image) for frame in reader] == list(range(20))
    assert reader.size == (64, 96 if size[1] == 96 else 98)
    assert reader.fps == pytest.approx(12.5)


def test_video_of_mixed_sizes_is_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as video:
        video.write(picture(0))
        with pytest.raises(ValueError, match="one size"):
            video.write(picture(0, (32, 96)))


def test_unwritable_video_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        write_video([picture(0)], tmp_path / "no" / "a.mp4", 25)
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="cannot be written"):
        write_video([picture(index) for index in range(3)], tmp_path / "full.mp4", 25)
