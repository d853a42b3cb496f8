"""Label spaces: class tables, look-up, maps and reading."""

import re
from pathlib import Path

import numpy as np
import pytest

from vidapt.errors import ConfigError
from vidapt.labels import CAMVID, CITYSCAPES, CITYSCAPES_TO_CAMVID, IGNORE, SPACES, LabelClass, LabelSpace

PUBLISHED = (
    "road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky "
    "person* rider* car* truck* bus* train* motorcycle* bicycle*"
)
"""Cityscapes' train ids in order; a star marks a thing."""
CITYSCAPES_TABLE = PUBLISHED.split()


def space(*names: str) -> LabelSpace:
    return LabelSpace("test", tuple(LabelClass(name, name.isupper(), (1, 2, 3)) for name in names))


def test_cityscapes_is_the_published_table() -> None:
    assert CITYSCAPES.names == tuple(name.rstrip("*").replace("_", " ") for name in CITYSCAPES_TABLE)
    assert CITYSCAPES.things == tuple(i for i, name in enumerate(CITYSCAPES_TABLE) if name.endswith("*"))
    assert len(CITYSCAPES) == 19
    assert CITYSCAPES.palette[0].tolist() == [128, 64, 128]
    assert CITYSCAPES.palette[13].tolist() == [0, 0, 142]


def test_camvid_has_eleven_classes_in_label_order() -> None:
    assert len(CAMVID) == 11
    assert (CAMVID.names[0], CAMVID.names[3], CAMVID.names[10]) == ("sky", "road", "bicyclist")
    assert [CAMVID.names[i] for i in CAMVID.things] == ["car", "pedestrian", "bicyclist"]


@pytest.mark.parametrize("known", SPACES.values(), ids=lambda known: known.name)
def test_things_and_stuff_partition_the_classes(known: LabelSpace) -> None:
    assert sorted(known.things + known.stuff) == list(range(len(known)))
    assert np.flatnonzero(known.is_thing).tolist() == list(known.things)
    assert known.is_thing.shape == (256,)
    assert known.palette.shape == (256, 3)
    assert known.palette.dtype == np.uint8
    assert not known.palette[len(known) :].any()
    assert len({tuple(row) for row in known.palette[: len(known)]}) == len(known), "two classes share a colour"


def test_index_finds_names_and_synonyms() -> None:
    assert CITYSCAPES.index("car") == 13
    assert CITYSCAPES.index("pedestrian") == CITYSCAPES.index("person")
    with pytest.raises(ConfigError, match="no class 'cat'; it has road"):
        CITYSCAPES.index("cat")


# --- maps


def test_map_to_itself_is_the_identity() -> None:
    table = CITYSCAPES.map_to(CITYSCAPES)
    assert table.dtype == np.uint8
    assert table[:19].tolist() == list(range(19))
    assert (table[19:] == IGNORE).all()


def test_map_to_camvid_leaves_no_class_out() -> None:
    table = CITYSCAPES.map_to(CAMVID, CITYSCAPES_TO_CAMVID)
    named = {name: CAMVID.names[table[i]] for i, name in enumerate(CITYSCAPES.names)}
    assert named["wall"] == "building"
    assert named["traffic light"] == named["traffic sign"] == "sign"
    assert named["terrain"] == named["vegetation"] == "tree"
    assert named["truck"] == named["bus"] == named["train"] == named["car"] == "car"
    assert named["rider"] == named["motorcycle"] == named["bicycle"] == "bicyclist"
    assert set(named.values()) == set(CAMVID.names)
    assert table[IGNORE] == IGNORE


def test_map_keeps_things_things() -> None:
    table = CITYSCAPES.map_to(CAMVID, CITYSCAPES_TO_CAMVID)
    assert (CAMVID.is_thing[table[:19]] == CITYSCAPES.is_thing[:19]).all()


def test_map_without_counterpart_is_ignore() -> None:
    assert space("a", "b").map_to(space("b")).tolist()[:2] == [IGNORE, 0]


def test_map_to_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="class 'z' is not in 'test'; it has b"):
        space("a").map_to(space("b"), {"a": "z"})


# --- limits


@pytest.mark.parametrize("count", [0, 256])
def test_number_of_classes_is_limited(count: int) -> None:
    with pytest.raises(ConfigError, match=f"has {count} classes; 1 to 255 are allowed"):
        space(*(f"c{i}" for i in range(count)))


def test_255_classes_leave_255_for_ignore() -> None:
    full = space(*(f"C{i}" for i in range(255)))
    assert len(full.things) == 255
    assert not full.is_thing[IGNORE]


def test_names_are_unique() -> None:
    with pytest.raises(ConfigError, match="names a more than once; rename one"):
        space("a", "b", "a")


# --- reading


def test_round_trip_through_plain_data() -> None:
    for known in SPACES.values():
        assert LabelSpace.from_dict(known.to_dict()) == known


def test_classes_yaml(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(
        "name: farm\nclasses:\n- field\n- {name: cow, thing: true, colour: [1, 2, 3], synonyms: [cattle]}\n"
    )
    farm = LabelSpace.from_yaml(path)
    assert (farm.name, farm.names, farm.things) == ("farm", ("field", "cow"), (1,))
    assert farm.classes[1] == LabelClass("cow", True, (1, 2, 3), ("cattle",))
    assert farm.index("cattle") == 1


def test_colours_are_made_up_and_differ() -> None:
    made = LabelSpace.from_dict({"classes": [f"c{i}" for i in range(50)]})
    assert len({label.colour for label in made.classes}) == 50
    assert all(0 <= value <= 255 for label in made.classes for value in label.colour)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping"),
        ("[a, b]", "must be a mapping"),
        ("name: x", "needs 'classes'"),
        ("classes: []", "needs 'classes'"),
        ("classes: road", "needs 'classes'"),
        ("classes: [1]", "class 0 needs a 'name'; got 1"),
        ("classes: [{thing: true}]", "class 0 needs a 'name'"),
        ("classes: [{name: a, color: [1, 2, 3]}]", "class 'a' has unknown keys ['color']; allowed: name"),
        ("classes: [{name: a, colour: red}]", "colour must be three whole numbers 0..255, got 'red'"),
        ("classes: [{name: a, colour: [1, 2]}]", "colour must be three whole numbers"),
        ("classes: [{name: a, colour: [1, 2, 256]}]", "colour must be three whole numbers"),
        ("classes: [{name: a, colour: [1, 2, 0.5]}]", "colour must be three whole numbers"),
        ("classes: [a, a]", "names a more than once"),
        ("classes: [a", "is not valid YAML"),
    ],
)
def test_wrong_class_table_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        LabelSpace.from_yaml(path)


def test_missing_class_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        LabelSpace.from_yaml(tmp_path / "classes.yaml")
