"""``vidapt data show``: a sheet of the right size that shows pictures, classes and instances."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import cityscapes, cityscapes_sequence, synthia_seq
from tests.datasets.miniature.truth import Truth
from vidapt.errors import ConfigError, InputError, StorageError
from vidapt.io.images import resize_image, resize_label
from vidapt.jobs.data_open import section_for
from vidapt.jobs.data_show import CELL_HEIGHT, instance_picture, legend, run_show
from vidapt.labels import CITYSCAPES, find_space

TITLE, GAP = 18, 2
CELL = (CELL_HEIGHT + TITLE, 2 * CELL_HEIGHT)


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return cityscapes.build(tmp_path / "data")


def section(root: Path, *options: str, kind: str = "cityscapes", split: str | None = None):
    return section_for(kind, root, split, options)


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    """The picture in a cell, without its title."""
    top, left = row * (CELL[0] + GAP) + TITLE, column * (CELL[1] + GAP)
    return sheet[top : top + CELL_HEIGHT, left : left + CELL[1]]


def shown(tmp_path: Path, made, **options) -> np.ndarray:
    run_show(made, out=tmp_path / "sheet.png", **options)
    return np.array(Image.open(tmp_path / "sheet.png"))


def classes_of(truth: Truth) -> list[int]:
    """Ids of the classes that the pictures show, void left out."""
    space = find_space("cityscapes_ids")
    found = np.unique(np.concatenate([frame.classes.reshape(-1) for frame in truth.frames.values()])).tolist()
    return [index for index in found if index >= 0 and not space.classes[index].is_void]


def test_the_sheet_has_a_row_for_each_frame_and_a_legend(truth: Truth, tmp_path: Path) -> None:
    sheet = shown(tmp_path, section(truth.root))
    rows = 3 * (CELL[0] + GAP) - GAP
    width = 3 * (CELL[1] + GAP) - GAP
    names = legend(find_space("cityscapes_ids"), classes_of(truth), width)
    assert sheet.shape == (rows + names.shape[0], width, 3)
    assert np.array_equal(sheet[rows:], names)


def test_a_row_shows_picture_classes_and_instances(truth: Truth, tmp_path: Path) -> None:
    sheet = shown(tmp_path, section(truth.root))
    space = find_space("cityscapes_ids")
    for row, [path] in enumerate(truth.videos):
        true = truth.frames[path]
        image = resize_image(true.image, CELL_HEIGHT)
        assert np.array_equal(cell(sheet, row, 0), image)
        palette = space.palette.copy()
        palette[[index for index, label in enumerate(space.classes) if label.is_void]] = 0
        classes = palette[resize_label(true.classes, CELL_HEIGHT)]
        blended = 0.6 * classes.astype(float) + 0.4 * image
        assert np.abs(cell(sheet, row, 1) - blended).max() <= 1
        objects = resize_label(true.objects, CELL_HEIGHT)
        assert (cell(sheet, row, 2)[(objects == 0) & ~resize_label(true.crowd, CELL_HEIGHT)] == 40).all()
        colours = {tuple(np.unique(cell(sheet, row, 2)[objects == one], axis=0).reshape(-1).tolist())
                   for one in np.unique(objects[objects > 0])}  # fmt: skip
        assert all(len(colour) == 3 for colour in colours)
        assert len(colours) == len(np.unique(objects[objects > 0]))


def test_titles_stand_above_the_pictures(truth: Truth, tmp_path: Path) -> None:
    sheet = shown(tmp_path, section(truth.root))
    strips = [sheet[row * (CELL[0] + GAP) :][:TITLE, : CELL[1]] for row in range(3)]
    assert all((strip < 100).any() and (strip == 255).mean() > 0.8 for strip in strips)
    assert not np.array_equal(strips[0], strips[2])


def test_classes_of_another_space(truth: Truth, tmp_path: Path) -> None:
    sheet = shown(tmp_path, section(truth.root), labels="cityscapes", samples=1)
    names = find_space("cityscapes_ids").names
    first = truth.frames[truth.videos[0][0]]
    found = sorted(CITYSCAPES.names.index(names[index]) for index in np.unique(first.classes)
                   if index >= 0 and names[index] in CITYSCAPES.names)  # fmt: skip
    strip = legend(CITYSCAPES, found, sheet.shape[1])
    assert np.array_equal(sheet[-strip.shape[0] :], strip)
    # Parking is in no class of the other space, so that only the darkened picture is left.
    parking = resize_label(first.classes == names.index("parking"), CELL_HEIGHT)
    assert parking.any()
    picture = resize_image(first.image, CELL_HEIGHT)[parking]
    assert np.abs(cell(sheet, 0, 1)[parking] - 0.4 * picture).max() <= 1


@pytest.mark.parametrize(("samples", "frames"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (50, [0, 1, 2])])
def test_samples_are_spread_over_the_split(
    truth: Truth, tmp_path: Path, samples: int, frames: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = shown(tmp_path, section(truth.root), samples=samples)
    assert capsys.readouterr().out == f"{tmp_path}/sheet.png: {len(frames)} of 3 frames\n"
    for row, number in enumerate(frames):
        image = truth.frames[truth.videos[number][0]].image
        assert np.array_equal(cell(sheet, row, 0), resize_image(image, CELL_HEIGHT))


def test_only_labelled_frames_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cityscapes_sequence.build(tmp_path / "data")
    shown(tmp_path, section(tmp_path / "data", kind="cityscapes_sequence", split="val"))
    assert capsys.readouterr().out.endswith("4 of 4 frames\n")


def test_footage_without_labels_is_shown_alone(tmp_path: Path) -> None:
    truth = cityscapes.build(tmp_path / "data", split="test")
    sheet = shown(tmp_path, section(tmp_path / "data", split="test"))
    assert sheet.shape == (2 * (CELL[0] + GAP) - GAP, CELL[1], 3)
    assert np.array_equal(cell(sheet, 1, 0), resize_image(truth.frames[truth.videos[1][0]].image, CELL_HEIGHT))


def test_an_object_keeps_its_colour_over_a_video(tmp_path: Path) -> None:
    truth = synthia_seq.build(tmp_path / "data")
    sheet = shown(tmp_path, section(tmp_path / "data", kind="synthia_seq"))
    colours: dict[int, tuple[int, ...]] = {}
    for row, path in enumerate(truth.videos[0]):
        objects = resize_label(truth.frames[path].objects, CELL_HEIGHT)
        for one in np.unique(objects[objects > 0]).tolist():
            [colour] = np.unique(cell(sheet, row, 2)[objects == one], axis=0).tolist()
            assert colours.setdefault(one, tuple(colour)) == tuple(colour)
    assert len(set(colours.values())) == len(colours) > 2


# --- instances and legend on their own


def test_neighbouring_instances_have_colours_far_apart() -> None:
    instance = np.arange(1, 41, dtype=np.int32)[None]
    picture = instance_picture(np.full((1, 40), 13, np.uint8), instance, CITYSCAPES)[0].astype(int)
    assert np.abs(np.diff(picture, axis=0)).max(1).min() > 20
    assert picture.min() > 40


def test_crowds_are_striped_and_the_rest_is_dark() -> None:
    semantic = np.array([[13] * 20, [0] * 20, [255] * 20, [13] * 20], np.uint8)
    instance = np.zeros((4, 20), np.int32)
    instance[3] = 7
    picture = instance_picture(semantic, instance, CITYSCAPES)
    assert {tuple(colour) for colour in picture[0].tolist()} == {(0, 0, 142), (40, 40, 40)}
    assert (picture[1:3] == 40).all()
    assert len(np.unique(picture[3], axis=0)) == 1
    assert picture.shape == (4, 20, 3)
    assert picture.dtype == np.uint8


def test_a_narrow_legend_has_more_lines() -> None:
    wide, narrow = (legend(CITYSCAPES, list(range(19)), width) for width in (2000, 300))
    assert wide.shape == (28, 2000, 3)
    assert narrow.shape[0] > 100
    assert narrow.shape[1] == 300
    for picture in (wide, narrow):
        colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
        assert {label.colour for label in CITYSCAPES.classes} <= colours


def test_a_class_name_longer_than_the_sheet_stays_on_its_line() -> None:
    assert legend(CITYSCAPES, [0, 1], 30).shape == (50, 30, 3)


# --- refused


def test_a_damaged_frame_is_named(truth: Truth, tmp_path: Path) -> None:
    path = truth.root / truth.videos[0][0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=path.name):
        shown(tmp_path, section(truth.root))
    assert not (tmp_path / "sheet.png").exists()


def test_an_unknown_label_space(truth: Truth, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no label space 'citys'"):
        shown(tmp_path, section(truth.root), labels="citys")


def test_folders_above_the_file_are_made(truth: Truth, tmp_path: Path) -> None:
    run_show(section(truth.root), out=tmp_path / "a" / "b" / "sheet", samples=1)
    with Image.open(tmp_path / "a" / "b" / "sheet") as sheet:
        assert sheet.format == "PNG"


def test_a_file_that_cannot_be_written(truth: Truth, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    for out in (tmp_path / "a" / "sheet.png", truth.root):
        with pytest.raises(StorageError, match="cannot be written"):
            run_show(section(truth.root), out=out, samples=1)
