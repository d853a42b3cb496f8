import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tests.video_files import SHARED
from vidapt.errors import InputError
from vidapt.io.coco import (
    PanopticJson,
    categories,
    decode_ids,
    encode_ids,
    iterate_annotations,
    read_header,
)
from vidapt.labels import CAMVID


@given(arrays(np.int32, st.tuples(st.integers(0, 5), st.integers(0, 5)), elements=st.integers(0, (1 << 24) - 1)))
def test_ids_round_trip(ids: np.ndarray) -> None:
    picture = encode_ids(ids)
    assert picture.dtype == np.uint8
    assert picture.shape == (*ids.shape, 3)
    assert np.array_equal(decode_ids(picture), ids)


def test_id_is_red_plus_256_green_plus_65536_blue() -> None:
    assert encode_ids(np.array([[1 + 2 * 256 + 3 * 65536]], np.int32)).tolist() == [[[1, 2, 3]]]
    assert encode_ids(np.arange(6, dtype=np.int64).reshape(2, 3).T.astype(np.int32))[2, 1].tolist() == [5, 0, 0]


@pytest.mark.parametrize("value", [-1, 1 << 24])
def test_ids_outside_three_bytes_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="16777215"):
        encode_ids(np.array([[value]], np.int32))


def record(index: int) -> dict[str, object]:
    return {"image_id": index, "video_id": 1, "time": 0.0, "file_name": f"{index}.png", "segments_info": []}


def test_streamed_json_is_valid_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "panoptic.json"
    with path.open("w+") as file:
        writer = PanopticJson(file, io.StringIO(), CAMVID, 'a "quoted"\nname')
        for index in range(3):
            writer.add(record(index), (4, 6))
        writer.finish()
    data = json.loads(path.read_text())
    assert data["videos"][0]["name"] == 'a "quoted"\nname'
    assert data["categories"] == categories(CAMVID) == read_header(path)["categories"]
    assert data["annotations"] == [record(index) for index in range(3)] == list(iterate_annotations(path))
    assert data["images"][2] == {
        "id": 2, "video_id": 1, "file_name": "2.png", "height": 4, "width": 6, "time": 0.0
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        '{"annotations": 3, "categories": []}',
        '{"annotations": [{"image_id": 1, "file_name": "a", "segments_info": [{"category_id": 9}]}], "categories": []}',
        '{"annotations": [{"image_id": 1, "segments_info": []}], "categories": []}',
        "[" * 100_000,
    ],
)
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError):
        list(iterate_annotations(tmp_path / "a.json"))


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        read_header(tmp_path / "none.json")


def test_official_sample_has_the_areas_it_says() -> None:
    folder = SHARED / "coco_panoptic"
    found = sorted(folder.rglob("*.json")) if folder.is_dir() else []
    if not found:
        pytest.skip("the COCO panoptic sample is not at hand")
    checked = 0
    for path in found:
        if "annotations" not in json.loads(path.read_text()):
            continue
        for annotation in json.loads(path.read_text())["annotations"]:
            for picture in folder.rglob(annotation["file_name"]):
                ids = decode_ids(np.asarray(Image.open(picture).convert("RGB")))
                for info in annotation["segments_info"]:
                    assert int((ids == info["id"]).sum()) == info["area"]
                    checked += 1
    assert checked
