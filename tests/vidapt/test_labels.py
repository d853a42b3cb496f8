"""Label spaces: the shipped class tables, look-up, maps and reading."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from vidapt.errors import ConfigError
from vidapt.labels import (
    CAMVID,
    CITYSCAPES,
    CITYSCAPES_TO_CAMVID,
    IGNORE,
    LabelClass,
    LabelSpace,
    find_space,
    space_map,
    space_names,
)
from vidapt.recipe import load_recipe, recipe_names

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


# --- the tables of the data sets, typed from their publications and not from the files

CITYSCAPES_IDS = """0 unlabeled void|1 ego vehicle void|2 rectification border void|3 out of roi void|4 static void
5 dynamic void|6 ground void|7 road flat|8 sidewalk flat|9 parking flat|10 rail track flat|11 building construction
12 wall construction|13 fence construction|14 guard rail construction|15 bridge construction|16 tunnel construction
17 pole object|18 polegroup object|19 traffic light object|20 traffic sign object|21 vegetation nature
22 terrain nature|23 sky sky|24 person human|25 rider human|26 car vehicle|27 truck vehicle|28 bus vehicle
29 caravan vehicle|30 trailer vehicle|31 train vehicle|32 motorcycle vehicle|33 bicycle vehicle
34 license plate vehicle"""
SYNTHIA = """0 void|1 sky|2 building|3 road|4 sidewalk|5 fence|6 vegetation|7 pole|8 car|9 traffic sign|10 pedestrian
11 bicycle|12 motorcycle|13 parking slot|14 road work|15 traffic light|16 terrain|17 rider|18 truck|19 bus|20 train
21 wall|22 lane marking"""
SYNTHIA_SEQ = """0 void|1 sky|2 building|3 road|4 sidewalk|5 fence|6 vegetation|7 pole|8 car|9 traffic sign
10 pedestrian|11 cyclist|12 lane marking|13 reserved 13|14 reserved 14|15 traffic light"""
VIPER = """0 unlabeled|1 ambiguous|2 sky|3 road|4 sidewalk|5 rail track|6 terrain|7 tree|8 vegetation|9 building
10 infrastructure|11 fence|12 billboard|13 traffic light|14 traffic sign|15 mobile barrier|16 fire hydrant|17 chair
18 trash|19 trash can|20 person|21 animal|22 bicycle|23 motorcycle|24 car|25 van|26 bus|27 truck|28 trailer|29 train
30 plane|31 boat"""
MAPILLARY_1 = """0 bird|1 ground animal|2 curb|3 fence|4 guard rail|5 barrier|6 wall|7 bike lane|8 crosswalk - plain
9 curb cut|10 parking|11 pedestrian area|12 rail track|13 road|14 service lane|15 sidewalk|16 bridge|17 building
18 tunnel|19 person|20 bicyclist|21 motorcyclist|22 other rider|23 lane marking - crosswalk|24 lane marking - general
25 mountain|26 sand|27 sky|28 snow|29 terrain|30 vegetation|31 water|32 banner|33 bench|34 bike rack|35 billboard
36 catch basin|37 cctv camera|38 fire hydrant|39 junction box|40 mailbox|41 manhole|42 phone booth|43 pothole
44 street light|45 pole|46 traffic sign frame|47 utility pole|48 traffic light|49 traffic sign (back)
50 traffic sign (front)|51 trash can|52 bicycle|53 boat|54 bus|55 car|56 caravan|57 motorcycle|58 on rails
59 other vehicle|60 trailer|61 truck|62 wheeled slow|63 car mount|64 ego vehicle|65 unlabeled"""
MAPILLARY_2 = """0 bird|1 ground animal|2 ambiguous barrier|4 curb|12 wall|13 bike lane|16 driveway|21 road|24 sidewalk
27 building|30 person|31 person group|32 bicyclist|33 motorcyclist|34 other rider|35 lane marking - dashed line
45 lane marking - crosswalk|58 lane marking (only) - text|61 sky|63 terrain|64 vegetation|84 street light|85 pole
86 pole group|89 traffic cone|90 traffic light - general (single)|91 traffic light - pedestrians
92 traffic light - general (upright)|93 traffic light - general (horizontal)|94 traffic light - cyclists
95 traffic light - other|96 traffic sign - ambiguous|100 traffic sign (front)|105 bicycle|106 boat|107 bus|108 car
110 motorcycle|111 on rails|113 trailer|114 truck|115 vehicle group|117 water valve|120 ego vehicle|123 unlabeled"""
BDD100K = """0 unlabeled|1 dynamic|2 ego vehicle|3 ground|4 static|5 parking|6 rail track|7 road|8 sidewalk|9 bridge
10 building|11 fence|12 garage|13 guard rail|14 tunnel|15 wall|16 banner|17 billboard|18 lane divider|19 parking sign
20 pole|21 polegroup|22 street light|23 traffic cone|24 traffic device|25 traffic light|26 traffic sign
27 traffic sign frame|28 terrain|29 vegetation|30 sky|31 person|32 rider|33 bicycle|34 bus|35 car|36 caravan
37 motorcycle|38 trailer|39 train|40 truck"""
VIPSEG = "0 wall|18 road|28 sky|48 car|49 bus|50 truck|51 bicycle|60 person|66 tree|123 train"
CARLA = """0 unlabeled|1 road|2 sidewalk|3 building|4 wall|5 fence|6 pole|7 traffic light|8 traffic sign|9 vegetation
10 terrain|11 sky|12 pedestrian|13 rider|14 car|15 truck|16 bus|17 train|18 motorcycle|19 bicycle|20 static|21 dynamic
22 other|23 water|24 road line|25 ground|26 bridge|27 rail track|28 guard rail"""
VIPER_CITYSCAPES = """0 road|1 sidewalk|2 building|3 fence|4 traffic light|5 traffic sign|6 vegetation|7 terrain|8 sky
9 person|10 car|11 truck|12 bus|13 motorcycle|14 bicycle"""
SYNTHIA_SEQ_CITYSCAPES = """0 road|1 sidewalk|2 building|3 fence|4 pole|5 traffic light|6 traffic sign|7 vegetation
8 sky|9 person|10 rider|11 car"""

TABLES = {
    "synthia": (23, SYNTHIA),
    "synthia_seq": (16, SYNTHIA_SEQ),
    "viper": (32, VIPER),
    "mapillary_v1.2": (66, MAPILLARY_1),
    "mapillary_v2.0": (124, MAPILLARY_2),
    "bdd100k": (41, BDD100K),
    "vipseg": (124, VIPSEG),
    "carla": (29, CARLA),
    "viper_cityscapes": (15, VIPER_CITYSCAPES),
    "synthia_seq_cityscapes": (12, SYNTHIA_SEQ_CITYSCAPES),
}


def entries(table: str) -> list[tuple[int, str]]:
    parts = (entry.partition(" ") for entry in table.replace("\n", "|").split("|"))
    return [(int(index), name) for index, _, name in parts]


@pytest.mark.parametrize("name", TABLES)
def test_a_class_stands_at_its_id(name: str) -> None:
    count, table = TABLES[name]
    found = find_space(name)
    assert len(found) == count
    assert [(index, found.names[index]) for index, _ in entries(table)] == entries(table)


def test_cityscapes_ids_with_their_categories() -> None:
    found = find_space("cityscapes_ids")
    pairs = [(index, f"{label.name} {label.group}") for index, label in enumerate(found.classes)]
    assert pairs == entries(CITYSCAPES_IDS)
    assert len(found) == 35


def test_kitti_step_is_cityscapes_with_two_things() -> None:
    kitti = find_space("kitti_step")
    assert kitti.names == CITYSCAPES.names
    assert [kitti.names[index] for index in kitti.things] == ["person", "car"]
    assert np.array_equal(kitti.palette, CITYSCAPES.palette)


def test_every_shipped_space_is_tested_here() -> None:
    assert set(space_names()) == {"cityscapes", "cityscapes_ids", "camvid", "kitti_step", *TABLES}


THINGS = {
    "cityscapes_ids": range(24, 34),
    "synthia": [8, 10, 11, 12, 17, 18, 19, 20],
    "synthia_seq": [8, 10, 11],
    "viper": [13, 16, 17, 19, 20, 23, 24, 25, 26, 27],
    "mapillary_v1.2": {0, 1, 8, *range(19, 24), *range(32, 63)} - {43, 58},
    "bdd100k": range(31, 41),
    "carla": range(12, 20),
    "viper_cityscapes": range(9, 15),
    "synthia_seq_cityscapes": [9, 10, 11],
}


@pytest.mark.parametrize("name", THINGS)
def test_things_are_those_of_the_publication(name: str) -> None:
    assert find_space(name).things == tuple(sorted(THINGS[name]))


VOID = {
    "cityscapes_ids": [*range(7), 34],
    "synthia": [0],
    "synthia_seq": [0, 13, 14],
    "viper": [0, 1],
    "mapillary_v1.2": [65],
    "mapillary_v2.0": [2, 31, 38, 79, 86, 96, 115, 123],
    "bdd100k": [0],
    "carla": [0],
}


@pytest.mark.parametrize("name", space_names())
def test_void_classes_are_those_that_are_never_scored(name: str) -> None:
    found = find_space(name)
    assert [index for index, label in enumerate(found.classes) if label.is_void] == VOID.get(name, [])
    assert not any(label.is_thing for label in found.classes if label.is_void)


def test_counts_that_are_published_for_the_long_tables() -> None:
    """Mapillary v2.0: 70 instance, 46 stuff and 8 void classes; VIPSeg: 58 things of 124 classes."""
    mapillary = find_space("mapillary_v2.0")
    assert len(mapillary.things) == 70
    assert sum(not label.is_void for label in mapillary.classes) - 70 == 46
    assert len(find_space("vipseg").things) == 58


def test_cityscapes_groups_are_its_categories() -> None:
    groups: dict[str, list[int]] = {}
    for index, label in enumerate(CITYSCAPES.classes):
        groups.setdefault(label.group, []).append(index)
    assert groups == {
        "flat": [0, 1], "construction": [2, 3, 4], "object": [5, 6, 7], "nature": [8, 9], "sky": [10],
        "human": [11, 12], "vehicle": [13, 14, 15, 16, 17, 18],
    }  # fmt: skip


def test_mapillary_colours_that_are_its_own() -> None:
    """Unlike Cityscapes' palette in these classes, so a copy of that would fail."""
    palette = find_space("mapillary_v1.2").palette
    assert palette[[7, 21, 62, 47]].tolist() == [[128, 64, 255], [255, 0, 100], [0, 0, 192], [0, 0, 80]]
    assert find_space("mapillary_v2.0").palette[[7, 8, 78]].tolist() == [[90, 120, 150], [250, 170, 33], [250, 171, 30]]
    assert find_space("viper").palette[[7, 8, 25]].tolist() == [[87, 182, 35], [35, 142, 35], [0, 80, 100]]
    assert find_space("synthia_seq").palette[[4, 11, 12]].tolist() == [[0, 0, 192], [0, 128, 192], [0, 172, 0]]


@pytest.mark.parametrize("name", ["viper_cityscapes", "synthia_seq_cityscapes"])
def test_joint_spaces_take_their_classes_from_cityscapes(name: str) -> None:
    own = {label.name: label for label in CITYSCAPES.classes}
    for label in find_space(name).classes:
        assert (label, label.group) == (own[label.name], own[label.name].group)


@pytest.mark.parametrize("name", ["cityscapes", "camvid", "viper_cityscapes", "synthia_seq_cityscapes"])
def test_classes_that_are_trained_differ_in_colour(name: str) -> None:
    known = find_space(name)
    assert len({tuple(row) for row in known.palette[: len(known)]}) == len(known)


@pytest.mark.parametrize("name", space_names())
def test_no_synonym_is_the_word_of_another_class(name: str) -> None:
    words = [word for label in find_space(name).classes for word in (label.name, *label.synonyms)]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("name", space_names())
def test_things_and_stuff_partition_the_classes(name: str) -> None:
    known = find_space(name)
    assert sorted(known.things + known.stuff) == list(range(len(known)))
    assert np.flatnonzero(known.is_thing).tolist() == list(known.things)
    assert known.is_thing.shape == (256,)
    assert known.palette.shape == (256, 3)
    assert known.palette.dtype == np.uint8
    assert not known.palette[len(known) :].any()


# --- look-up


def test_index_finds_names_and_synonyms() -> None:
    assert CITYSCAPES.index("car") == 13
    assert CITYSCAPES.index("pedestrian") == CITYSCAPES.index("person")
    with pytest.raises(ConfigError, match="no class 'cat'; it has road"):
        CITYSCAPES.index("cat")


def test_a_name_goes_before_a_synonym_and_the_first_synonym_counts() -> None:
    rows = [("plant", ("tree", "green")), ("tree", ()), ("lawn", ("green",))]
    plants = LabelSpace("plants", tuple(LabelClass(name, False, (1, 2, 3), words) for name, words in rows))
    assert (plants.index("tree"), plants.index("green"), plants.index("lawn")) == (1, 0, 2)


def test_the_constants_are_the_shipped_tables() -> None:
    assert CITYSCAPES is find_space("cityscapes")
    assert CAMVID is find_space("camvid")
    assert CITYSCAPES_TO_CAMVID["wall"] == "building"


def test_an_unknown_attribute_is_none_of_the_constants() -> None:
    import vidapt.labels

    with pytest.raises(AttributeError, match=r"module 'vidapt\.labels' has no attribute 'KITTI'"):
        _ = vidapt.labels.KITTI


def test_importing_reads_no_table() -> None:
    code = "import sys, vidapt.labels; sys.exit('vidapt.recipe' in sys.modules or 'yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_space_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        find_space("kitti")
    assert str(caught.value) == f"no label space 'kitti'; use {', '.join(space_names())} or a path to a classes.yaml"


def test_a_mistyped_version_is_not_taken_for_a_file() -> None:
    with pytest.raises(ConfigError, match=r"no label space 'mapillary_v1\.3'; use bdd100k, camvid"):
        find_space("mapillary_v1.3")


@pytest.mark.parametrize("name", ["../labels/camvid", "labels/camvid"])
def test_a_space_is_not_reached_over_folders(name: str) -> None:
    with pytest.raises(ConfigError, match="no label space"):
        find_space(name)


@pytest.mark.parametrize("file", ["classes.yaml", "classes.yml", "classes.txt"])
def test_a_space_from_a_file(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("name: farm\nclasses: [field, cow]\n")
    assert find_space(str(tmp_path / file)).names == ("field", "cow")


def test_tables_are_no_recipes() -> None:
    assert not [name for name in recipe_names() if "labels" in name or "mappings" in name]
    assert {"demo", "methods/vidapt", "benchmarks/street_world_fog"} <= set(recipe_names())
    with pytest.raises(ConfigError) as caught:
        load_recipe("cityscape")
    assert "labels/cityscapes" not in str(caught.value)


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
    assert space_map(CITYSCAPES, CAMVID).tolist() == table.tolist()


def test_map_keeps_things_things() -> None:
    table = CITYSCAPES.map_to(CAMVID, CITYSCAPES_TO_CAMVID)
    assert (CAMVID.is_thing[table[:19]] == CITYSCAPES.is_thing[:19]).all()


def test_map_without_counterpart_is_ignore() -> None:
    assert space("a", "b").map_to(space("b")).tolist()[:2] == [IGNORE, 0]


def test_map_to_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="class 'z' is not in 'test'; it has b"):
        space("a").map_to(space("b"), {"a": "z"})


def test_map_tries_the_name_then_the_synonyms_of_either_side() -> None:
    source = LabelSpace(
        "source",
        tuple(
            LabelClass(name, False, (1, 2, 3), words)
            for name, words in [("auto", ("vehicle", "car")), ("person", ("cow",)), ("lorry", ()), ("cat", ())]
        ),
    )
    target = LabelSpace(
        "target",
        (
            LabelClass("car", True, (1, 2, 3)),
            LabelClass("cow", True, (1, 2, 3)),
            LabelClass("person", True, (1, 2, 3)),
            LabelClass("truck", True, (1, 2, 3), ("lorry",)),
        ),
    )
    assert source.map_to(target)[:4].tolist() == [0, 2, 3, IGNORE]


def test_void_classes_have_no_counterpart() -> None:
    road, void = LabelClass("road", False, (1, 2, 3)), LabelClass("rest", False, (1, 2, 3), is_void=True)
    rest = LabelClass("rest", False, (1, 2, 3))
    raw, trained = LabelSpace("raw", (void, road)), LabelSpace("trained", (road, rest))
    assert raw.map_to(trained)[:2].tolist() == [IGNORE, 0]
    assert trained.map_to(raw)[:2].tolist() == [1, IGNORE]
    assert raw.map_to(raw)[:2].tolist() == [IGNORE, 1]


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


@pytest.mark.parametrize("name", space_names())
def test_round_trip_through_plain_data_and_yaml(tmp_path: Path, name: str) -> None:
    known = find_space(name)
    assert known.name == name
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump(known.to_dict()))
    for again in (LabelSpace.from_dict(known.to_dict()), LabelSpace.from_yaml(path)):
        assert again == known
        assert [label.group for label in again.classes] == [label.group for label in known.classes]


def test_new_keys_are_written_only_where_they_say_something() -> None:
    plain, full = LabelClass("a", True, (1, 2, 3), ("b",)), LabelClass("c", False, (4, 5, 6), (), True, "flat")
    written = LabelSpace("test", (plain, full)).to_dict()["classes"]
    assert written[0] == {"name": "a", "thing": True, "colour": [1, 2, 3], "synonyms": ["b"]}
    assert written[1] == {
        "name": "c", "thing": False, "colour": [4, 5, 6], "synonyms": [], "void": True, "group": "flat"
    }  # fmt: skip


def test_a_table_of_an_older_checkpoint_is_still_the_same_space() -> None:
    """Checkpoints written before there were groups carry none."""
    data = CITYSCAPES.to_dict()
    for label in data["classes"]:
        del label["group"]
    assert LabelSpace.from_dict(data) == CITYSCAPES


def test_classes_yaml(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(
        "name: farm\nclasses:\n- field\n- {name: cow, thing: true, colour: [1, 2, 3], synonyms: [cattle]}\n"
        "- {name: fog, void: true, group: air}\n"
    )
    farm = LabelSpace.from_yaml(path)
    assert (farm.name, farm.names, farm.things) == ("farm", ("field", "cow", "fog"), (1,))
    assert farm.classes[1] == LabelClass("cow", True, (1, 2, 3), ("cattle",))
    assert (farm.classes[2].is_void, farm.classes[2].group) == (True, "air")
    assert (farm.classes[1].is_void, farm.classes[1].group) == (False, "")
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
        (
            "classes: [{name: a, color: [1, 2, 3]}]",
            "class 'a' has unknown keys ['color']; allowed: name, thing, colour, synonyms, void, group",
        ),
        ("classes: [{name: a, 1: b}]", "class 'a' has unknown keys ['1']"),
        ("classes: [{name: a, colour: red}]", "colour must be three whole numbers 0..255, got 'red'"),
        ("classes: [{name: a, colour: [1, 2]}]", "colour must be three whole numbers"),
        ("classes: [{name: a, colour: [1, 2, 256]}]", "colour must be three whole numbers"),
        ("classes: [{name: a, colour: [1, 2, 0.5]}]", "colour must be three whole numbers"),
        ("classes: [{name: a, thing: yes}]", "class 'a': thing must be true or false, got 'yes'"),
        ("classes: [{name: a, void: 1}]", "class 'a': void must be true or false, got 1"),
        ("classes: [{name: a, group: [b]}]", "class 'a': group must be a word, got ['b']"),
        ("classes: [{name: a, synonyms: b}]", "class 'a': synonyms must be a list of words, got 'b'"),
        ("classes: [{name: a, synonyms: [1]}]", "class 'a': synonyms must be a list of words, got [1]"),
        ("classes: [{name: a, synonyms: 7}]", "class 'a': synonyms must be a list of words, got 7"),
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
