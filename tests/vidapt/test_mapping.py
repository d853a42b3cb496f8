"""Class mappings: the shipped ones against published id pairs, reading, and how a mapping is found."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vidapt.errors import ConfigError
from vidapt.labels import CAMVID, CITYSCAPES, IGNORE, LabelClass, LabelSpace, find_space, space_map
from vidapt.mapping import ClassMapping, find_mapping, mapping_names, read_mapping, unmapped_counts


def space(name: str, *classes: str) -> LabelSpace:
    """Stuff classes by name; one that starts with a dash is void, and ``a=b=c`` has the synonyms b and c."""
    labels = []
    for text in classes:
        word, *synonyms = text.removeprefix("-").split("=")
        labels.append(LabelClass(word, False, (1, 2, 3), tuple(synonyms), text.startswith("-")))
    return LabelSpace(name, tuple(labels))


# --- shipped mappings, against id pairs typed from the publications

PAIRS = {
    "cityscapes_ids_to_cityscapes": "7>0 8>1 11>2 12>3 13>4 17>5 19>6 20>7 21>8 22>9 23>10 24>11 25>12 26>13 27>14 "
    "28>15 31>16 32>17 33>18",
    "synthia_to_cityscapes": "1>10 2>2 3>0 4>1 5>4 6>8 7>5 8>13 9>7 10>11 11>18 12>17 15>6 16>9 17>12 18>14 19>15 "
    "20>16 21>3",
    "synthia_seq_to_synthia_seq_cityscapes": "3>0 4>1 2>2 5>3 7>4 15>5 9>6 6>7 1>8 10>9 11>10 8>11",
    "cityscapes_ids_to_synthia_seq_cityscapes": "7>0 8>1 11>2 13>3 17>4 19>5 20>6 21>7 23>8 24>9 25>10 26>11",
    "viper_to_viper_cityscapes": "3>0 4>1 9>2 11>3 13>4 14>5 7>6 8>6 6>7 2>8 20>9 24>10 27>11 26>12 23>13 22>14",
    "cityscapes_ids_to_viper_cityscapes": "7>0 8>1 11>2 13>3 19>4 20>5 21>6 22>7 23>8 24>9 25>9 26>10 27>11 28>12 "
    "32>13 33>14",
    "cityscapes_ids_to_viper_cityscapes_rider_ignored": "7>0 8>1 11>2 13>3 19>4 20>5 21>6 22>7 23>8 24>9 26>10 27>11 "
    "28>12 32>13 33>14",
    "cityscapes_to_viper_cityscapes": "0>0 1>1 2>2 4>3 6>4 7>5 8>6 9>7 10>8 11>9 12>9 13>10 14>11 15>12 17>13 18>14",
    "cityscapes_to_viper_cityscapes_rider_ignored": "0>0 1>1 2>2 4>3 6>4 7>5 8>6 9>7 10>8 11>9 13>10 14>11 15>12 "
    "17>13 18>14",
    "viper_to_cityscapes": "3>0 4>1 9>2 11>4 13>6 14>7 7>8 8>8 6>9 2>10 20>11 24>13 27>14 26>15 29>16 23>17 22>18",
    "synthia_seq_to_cityscapes": "3>0 4>1 2>2 5>4 7>5 15>6 9>7 6>8 1>10 10>11 11>12 8>13",
    "mapillary_v1.2_to_cityscapes": "7>0 8>0 10>0 13>0 14>0 23>0 24>0 2>1 9>1 11>1 15>1 17>2 6>3 3>4 45>5 47>5 48>6 "
    "49>7 50>7 30>8 29>9 27>10 19>11 20>12 21>12 22>12 55>13 61>14 54>15 58>16 57>17 52>18",
    "bdd100k_to_cityscapes": "7>0 8>1 10>2 11>4 15>3 20>5 25>6 26>7 28>9 29>8 30>10 31>11 32>12 33>18 34>15 35>13 "
    "37>17 39>16 40>14",
    "carla_to_cityscapes": " ".join(f"{tag}>{tag - 1}" for tag in range(1, 20)) + " 24>0",
    "camvid_to_cityscapes": "0>10 1>2 2>5 3>0 4>1 5>8 6>7 7>4 8>13 9>11 10>12",
    "cityscapes_to_camvid": "0>3 1>4 2>1 3>1 4>7 5>2 6>6 7>6 8>5 9>5 10>0 11>9 12>10 13>8 14>8 15>8 16>8 17>10 18>10",
    "vipseg_to_cityscapes": "18>0 20>0 21>2 22>2 12>5 58>6 66>8 68>8 15>9 28>10 60>11 48>13 50>14 49>15 123>16 52>17 "
    "51>18",
}


def table_of(pairs: str) -> list[int]:
    table = [IGNORE] * 256
    for source, target in (pair.split(">") for pair in pairs.split()):
        assert table[int(source)] == IGNORE
        table[int(source)] = int(target)
    return table


@pytest.mark.parametrize("name", PAIRS)
def test_a_shipped_mapping_is_the_published_one(name: str) -> None:
    mapping = read_mapping(name)
    assert mapping.table.tolist() == table_of(PAIRS[name])
    assert (mapping.table.dtype, mapping.table.shape) == (np.uint8, (256,))
    assert f"{mapping.source.name}_to_{mapping.target.name}" == name.removesuffix("_rider_ignored")
    assert (mapping.name, mapping.found) == (name, "shipped")


def test_every_shipped_mapping_is_tested_here() -> None:
    assert set(mapping_names()) == {*PAIRS, "mapillary_v2.0_to_cityscapes"}


@pytest.mark.parametrize("name", mapping_names())
def test_a_shipped_file_places_every_class_of_both_spaces_once(name: str) -> None:
    """Counted from the file itself, without the reader."""
    path = Path(__file__).parents[2] / "configs" / "mappings" / f"{name}.yaml"
    sheet = yaml.safe_load(path.read_text())
    placed = [member for members in sheet["classes"].values() for member in members] + sheet["ignored"]
    source, target = find_space(sheet["source"]), find_space(sheet["target"])
    assert sorted(placed) == sorted(label.name for label in source.classes if not label.is_void)
    assert sorted([*sheet["classes"], *sheet["missing"]]) == sorted(target.names)
    assert path.read_text().startswith("# ")
    mapping = read_mapping(name)
    assert list(mapping.ignored) == sheet["ignored"]
    assert list(mapping.missing) == sheet["missing"]
    assert mapping.names == {member: key for key, members in sheet["classes"].items() for member in members}


def test_mapillary_v2_goes_where_v1_went() -> None:
    """Classes of the same name agree, and the classes that v2.0 split follow the one that they were."""
    old, new = (read_mapping(f"mapillary_{version}_to_cityscapes") for version in ("v1.2", "v2.0"))
    shared = set(old.source.names) & {label.name for label in new.source.classes if not label.is_void}
    assert {*old.source.names} - shared == {"unlabeled", "lane marking - general", "traffic light", "billboard"}
    for name in shared:
        assert new.names.get(name) == old.names.get(name), name
    for name in new.source.names:
        for start, target in (("lane marking", "road"), ("traffic light - ", "traffic light")):
            if name.startswith(start) and not new.source.classes[new.source.index(name)].is_void:
                assert new.names[name] == target
    assert {name for name, target in new.names.items() if target == "traffic sign"} == {
        "traffic sign (back)", "traffic sign (front)", "traffic sign - direction (back)", "traffic sign - parking",
        "traffic sign - direction (front)", "traffic sign - temporary (back)", "traffic sign - temporary (front)",
    }  # fmt: skip


def test_carla_tags_are_train_ids_plus_one() -> None:
    table = read_mapping("carla_to_cityscapes").table
    assert (table[1:20] == np.arange(19)).all()
    assert table[24] == 0
    assert (np.delete(table, [*range(1, 20), 24]) == IGNORE).all()


def test_the_two_rider_conventions_differ_in_riders_only() -> None:
    names = "cityscapes_ids_to_viper_cityscapes", "cityscapes_ids_to_viper_cityscapes_rider_ignored"
    counted, ignored = (read_mapping(name).table for name in names)
    assert np.flatnonzero(counted != ignored).tolist() == [25]
    assert (counted[25], ignored[25]) == (9, IGNORE)


def test_what_viper_lacks_is_listed() -> None:
    mapping = read_mapping("viper_to_cityscapes")
    assert mapping.missing == ("wall", "pole", "rider")
    assert {"van", "infrastructure", "trailer"} <= set(mapping.ignored)
    assert "unlabeled" not in mapping.ignored


# --- reading

SOURCE = {"name": "raw", "classes": [{"name": "void", "void": True}, "street", "lane", "tree", "hedge", "cat"]}
TARGET = {"name": "few", "classes": ["road", "plant", "rider", {"name": "rest", "void": True}]}
GOOD = """
source: raw.yaml
target: few.yaml
classes:
  road: [street, lane]
  plant: [tree, hedge]
ignored: [cat]
missing: [rider]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "raw.yaml").write_text(yaml.safe_dump(SOURCE))
    (folder / "few.yaml").write_text(yaml.safe_dump(TARGET))
    path = folder / "raw_to_few.yaml"
    path.write_text(text)
    return path


def test_a_mapping_of_your_own_with_tables_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    for name in (path, str(path)):
        mapping = read_mapping(name)
        assert mapping.table[:7].tolist() == [IGNORE, 0, 0, 1, 1, IGNORE, IGNORE]
        assert (mapping.ignored, mapping.missing) == (("cat",), ("rider",))
        assert mapping.names == {"street": "road", "lane": "road", "tree": "plant", "hedge": "plant"}
        assert (mapping.name, mapping.found) == ("raw_to_few", f"file {path}")
        assert (mapping.source.name, mapping.target.name) == ("raw", "few")


def test_ignored_and_missing_may_be_left_out_where_there_is_nothing(tmp_path: Path) -> None:
    text = "source: raw.yaml\ntarget: few.yaml\nclasses: {road: [street, lane, cat], plant: [tree], rider: [hedge]}\n"
    mapping = read_mapping(write(tmp_path, text))
    assert (mapping.ignored, mapping.missing) == ((), ())


def test_naming_a_void_class_as_ignored_is_fine(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("ignored: [cat]", "ignored: [void, cat]"))
    assert read_mapping(path).ignored == ("cat",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ignored: [cat]", "ignored: []", "source classes neither mapped nor ignored: cat"),
        ("[street, lane]", "[]", "source classes neither mapped nor ignored: street, lane; target classes that receive"
         " nothing and are not listed as missing: road"),
        ("missing: [rider]", "missing: []", "target classes that receive nothing and are not listed as missing: rider"),
        ("[street, lane]", "[strete, lane]", "'strete' is no class of 'raw'; did you mean 'street'?; "
         "source classes neither mapped nor ignored: street"),
        ("  plant:", "  plants:", "'plants' is no class of 'few'; did you mean 'plant'?; target classes that receive"),
        ("[rider]", "[ridre]", "'ridre' is no class of 'few'; did you mean 'rider'?"),
        ("[cat]", "[cat, zzzzz]", "'zzzzz' is no class of 'raw'"),
        ("[tree, hedge]", "[tree, hedge, street]", "source class 'street' stands under road and plant; leave it under"),
        ("[tree, hedge]", "[tree, tree, hedge]", "source class 'tree' stands under plant and plant"),
        ("[cat]", "[cat, lane]", "source class 'lane' stands under road and ignored"),
        ("[cat]", "[cat, cat]", "source class 'cat' stands under ignored and ignored"),
        ("[tree, hedge]", "[tree, hedge, void]", "source class 'void' is void and cannot be mapped; drop it"),
        ("  plant:", "  rest: [hedge]\n  plant:", "target class 'rest' is void and cannot receive classes"),
        ("[rider]", "[rider, plant]", "target class 'plant' is listed as missing but receives tree, hedge"),
        ("[rider]", "[rider, rider]", "target class 'rider' stands under missing twice"),
        ("missing: [rider]", "mising: [rider]", "unknown key 'mising'; did you mean 'missing'? allowed: source"),
        ("source: raw.yaml", "source: 3", "source must name a label space, got 3"),
        ("target: few.yaml\n", "", "target must name a label space, got None"),
        ("[tree, hedge]", "tree", "plant must be followed by a list of class names, got 'tree'"),
        ("[tree, hedge]", "[tree, 3]", "plant must be followed by a list of class names, got ['tree', 3]"),
        ("  plant:", "  7:", "7 must be followed by a list of class names"),
        ("ignored: [cat]", "ignored: cat", "'ignored' must be followed by a list of class names, got 'cat'"),
        ("missing: [rider]", "missing:", "'missing' must be followed by a list of class names, got None"),
        ("  plant:", "  road: [cat]\n  plant:", "key 'road' stands twice"),
        ("source: raw.yaml", "source: raws", "no label space 'raws'; use bdd100k"),
    ],
)  # fmt: skip
def test_a_wrong_mapping_says_what_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_mapping(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value) or "no label space" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have the keys source, target, classes, ignored, missing"),
        ("- road", "must have the keys source"),
        ("source: viper\ntarget: cityscapes", "classes must give source classes for each target class"),
        ("source: viper\ntarget: cityscapes\nclasses: [road]", "classes must give source classes"),
        ("source: [viper", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_mapping(write(tmp_path, text))


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("[street, lane]", "[street, lnae]").replace("missing: [rider]", "missing: []")
    with pytest.raises(ConfigError) as caught:
        read_mapping(write(tmp_path, text))
    assert str(caught.value).split(": ", 1)[1].split("; ") == [
        "'lnae' is no class of 'raw'",
        "did you mean 'lane'?",
        "source classes neither mapped nor ignored: lane",
        "target classes that receive nothing and are not listed as missing: rider",
    ]


def test_a_file_that_cannot_be_decoded(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"raw_to_few\.yaml cannot be read"):
        read_mapping(path)


def test_an_unknown_mapping_suggests_the_nearest_shipped_one() -> None:
    with pytest.raises(ConfigError) as caught:
        read_mapping("vipper_to_cityscapes")
    assert str(caught.value).startswith(
        "no class mapping 'vipper_to_cityscapes': it is neither a file nor a shipped mapping; "
        "did you mean 'viper_to_cityscapes'? shipped: bdd100k_to_cityscapes, "
    )
    with pytest.raises(ConfigError, match="nor a shipped mapping; shipped: bdd100k"):
        read_mapping("qqqq")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=12), st.data())
def test_any_complete_file_is_read_and_any_gap_is_named(
    tmp_path_factory: pytest.TempPathFactory, places: list[int], data: st.DataObject
) -> None:
    """``places``: the target of each source class, -1 = ignored."""
    folder = tmp_path_factory.mktemp("mapping")
    (folder / "a.yaml").write_text(yaml.safe_dump({"classes": [f"s{index}" for index in range(len(places))]}))
    (folder / "b.yaml").write_text(yaml.safe_dump({"classes": ["t0", "t1", "t2", "t3"]}))
    groups = {place: [f"s{index}" for index, own in enumerate(places) if own == place] for place in range(-1, 4)}
    sheet = {
        "source": "a.yaml",
        "target": "b.yaml",
        "classes": {f"t{place}": groups[place] for place in range(4) if groups[place]},
        "ignored": groups[-1],
        "missing": [f"t{place}" for place in range(4) if not groups[place]],
    }
    path = folder / "a_to_b.yaml"
    path.write_text(yaml.safe_dump(sheet))
    expected = [IGNORE if place < 0 else place for place in places]
    assert read_mapping(path).table.tolist() == expected + [IGNORE] * (256 - len(places))
    lost = data.draw(st.integers(0, len(places) - 1))
    list(groups.values())[places[lost] + 1].remove(f"s{lost}")
    path.write_text(yaml.safe_dump(sheet))
    with pytest.raises(ConfigError, match=rf"neither mapped nor ignored: s{lost}(;|$)"):
        read_mapping(path)


# --- finding


def test_a_named_mapping_goes_first() -> None:
    source, target = find_space("cityscapes_ids"), find_space("viper_cityscapes")
    usual = find_mapping(source, target)
    named = find_mapping(source, target, "cityscapes_ids_to_viper_cityscapes_rider_ignored")
    assert (usual.name, usual.table[25]) == ("cityscapes_ids_to_viper_cityscapes", 9)
    assert (named.name, named.table[25]) == ("cityscapes_ids_to_viper_cityscapes_rider_ignored", IGNORE)


def test_a_file_of_your_own_for_spaces_at_hand(tmp_path: Path) -> None:
    """Its words are the names of the spaces, which need no table on disk."""
    path = tmp_path / "mine.yaml"
    path.write_text("source: farm\ntarget: cityscapes\nclasses: {road: [track]}\nignored: [cow]\n")
    missing = ", ".join(CITYSCAPES.names[1:])
    farm = space("farm", "cow", "track")
    with pytest.raises(ConfigError, match="not listed as missing: sidewalk, building"):
        find_mapping(farm, CITYSCAPES, str(path))
    path.write_text(path.read_text() + f"missing: [{missing}]\n")
    mapping = find_mapping(farm, CITYSCAPES, str(path))
    assert mapping.table[:2].tolist() == [IGNORE, 0]
    assert (mapping.name, mapping.found) == ("mine", f"file {path}")
    assert mapping.source is farm


def test_a_named_mapping_between_other_spaces_is_refused() -> None:
    with pytest.raises(ConfigError, match="maps viper to cityscapes, but the classes at hand are those of 'synthia'"):
        find_mapping(find_space("synthia"), CITYSCAPES, "viper_to_cityscapes")
    with pytest.raises(ConfigError, match="those of 'camvid', not of 'cityscapes'; name a mapping between"):
        find_mapping(find_space("viper"), CAMVID, "viper_to_cityscapes")


def test_a_copy_of_a_space_under_another_name_fits_a_named_mapping() -> None:
    copy = LabelSpace("copy", CITYSCAPES.classes)
    assert find_mapping(find_space("viper"), copy, "viper_to_cityscapes").target is copy


def test_a_space_of_a_shipped_name_with_other_classes_does_not_get_its_mapping() -> None:
    own = space("cityscapes", "road", "car", "bear")
    mapping = find_mapping(own, space("camvid", "road", "bear"))
    assert mapping.names == {"road": "road", "bear": "bear"}
    assert mapping.found == "by name"
    assert find_mapping(find_space("synthia"), own).names == {"road": "road", "car": "car"}
    with pytest.raises(ConfigError, match="'wall' is no class of 'cityscapes'"):
        find_mapping(find_space("synthia"), own, "synthia_to_cityscapes")


@pytest.mark.parametrize("name", [None, "viper_to_cityscapes"])
def test_a_space_read_from_predictions_lacks_void_flags_and_still_maps(name: str | None) -> None:
    bare = LabelSpace("viper", tuple(LabelClass(word, False, (1, 2, 3)) for word in find_space("viper").names))
    mapping = find_mapping(bare, CITYSCAPES, name)
    assert mapping.table.tolist() == table_of(PAIRS["viper_to_cityscapes"])
    assert mapping.source is bare


@pytest.mark.parametrize("name", [name for name in mapping_names() if not name.endswith("rider_ignored")])
def test_the_shipped_mapping_is_found_by_its_spaces(name: str) -> None:
    shipped = read_mapping(name)
    found = find_mapping(shipped.source, shipped.target)
    assert (found.name, found.found) == (name, "shipped")
    assert found.table.tolist() == shipped.table.tolist()
    assert space_map(shipped.source, shipped.target).tolist() == shipped.table.tolist()


def test_the_same_class_names_are_the_identity() -> None:
    mapping = find_mapping(CITYSCAPES, LabelSpace("other", CITYSCAPES.classes))
    assert mapping.table.tolist() == [*range(19), *[IGNORE] * 237]
    assert (mapping.name, mapping.found) == ("cityscapes_to_other", "the same classes")
    assert (mapping.ignored, mapping.missing) == ((), ())


def test_void_classes_stay_void_under_the_identity() -> None:
    viper = find_space("viper")
    mapping = find_mapping(viper, viper)
    assert mapping.table[:32].tolist() == [IGNORE, IGNORE, *range(2, 32)]
    assert (mapping.ignored, mapping.missing) == ((), ())


def test_over_cityscapes_in_two_shipped_steps() -> None:
    """SYNTHIA 21 wall -> Cityscapes 3 wall -> CamVid 1 building, which no name would give."""
    mapping = find_mapping(find_space("synthia"), CAMVID)
    first, second = table_of(PAIRS["synthia_to_cityscapes"]), table_of(PAIRS["cityscapes_to_camvid"])
    assert mapping.table.tolist() == [IGNORE if index == IGNORE else second[index] for index in first]
    assert mapping.table[21] == 1
    assert mapping.name == "synthia_to_camvid"
    assert mapping.found == "over cityscapes: synthia_to_cityscapes and cityscapes_to_camvid"
    assert mapping.ignored == ("parking slot", "road work", "lane marking")


def test_over_cityscapes_into_some_of_its_classes() -> None:
    """SYNTHIA's 16 classes: the second step goes by name."""
    absent = ("terrain", "truck", "train")
    sixteen = LabelSpace("sixteen", tuple(label for label in CITYSCAPES.classes if label.name not in absent))
    mapping = find_mapping(find_space("mapillary_v1.2"), sixteen)
    assert mapping.found == "over cityscapes: mapillary_v1.2_to_cityscapes and names"
    whole = table_of(PAIRS["mapillary_v1.2_to_cityscapes"])
    for index, target in enumerate(whole):
        kept = target != IGNORE and CITYSCAPES.names[target] not in absent
        assert mapping.table[index] == (sixteen.names.index(CITYSCAPES.names[target]) if kept else IGNORE)
    assert mapping.missing == ()


def test_over_cityscapes_from_a_space_of_your_own() -> None:
    own = space("own", "pavement", "wall", "fountain")
    mapping = find_mapping(own, CAMVID)
    assert mapping.names == {"pavement": "sidewalk", "wall": "building"}
    assert mapping.found == "over cityscapes: names and cityscapes_to_camvid"


def test_names_win_where_cityscapes_knows_fewer_classes() -> None:
    target = space("target", "manhole", "bench", "trash can", "car")
    mapping = find_mapping(find_space("mapillary_v1.2"), target)
    assert mapping.names == {name: name for name in target.names}
    assert mapping.found == "by name"


def test_by_name_and_synonym() -> None:
    source = space("source", "street=road", "walker", "fox", "-rest")
    mapping = find_mapping(source, space("target", "person=walker", "road", "rest", "boat"))
    assert mapping.table[:4].tolist() == [1, 0, IGNORE, IGNORE]
    assert (mapping.name, mapping.found) == ("source_to_target", "by name")
    assert (mapping.ignored, mapping.missing) == (("fox",), ("rest", "boat"))


def test_spaces_without_a_common_class_give_an_empty_mapping() -> None:
    mapping = find_mapping(space("kitchen", "spoon"), CITYSCAPES)
    assert (mapping.table == IGNORE).all()
    assert (mapping.ignored, len(mapping.missing), mapping.names) == (("spoon",), 19, {})


def test_a_table_belongs_to_its_caller() -> None:
    source = find_space("viper")
    find_mapping(source, CITYSCAPES).table[:] = 0
    assert find_mapping(source, CITYSCAPES).table.tolist() == table_of(PAIRS["viper_to_cityscapes"])
    assert torch.from_numpy(find_mapping(source, CITYSCAPES).table).dtype == torch.uint8


def test_a_mapping_pickles() -> None:
    mapping = read_mapping("viper_to_cityscapes")
    again = pickle.loads(pickle.dumps(mapping))
    assert (again.name, again.source, again.target, again.found) == (
        mapping.name, mapping.source, mapping.target, mapping.found,
    )  # fmt: skip
    assert again.table.tolist() == mapping.table.tolist()


# --- counting


def test_unmapped_pixels_are_counted_most_first() -> None:
    counts = np.zeros(256, np.int64)
    counts[[0, 3, 10, 25, 77, 255]] = [500, 1000, 7, 90, 8, 600]
    found = unmapped_counts(read_mapping("viper_to_cityscapes"), counts)
    assert list(found.items()) == [("van", 90), ("id 77", 8), ("infrastructure", 7)]
    assert all(type(value) is int for value in found.values())


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.int64])
def test_nothing_unmapped(dtype: type) -> None:
    mapping = read_mapping("cityscapes_to_camvid")
    counts = np.zeros(256, dtype)
    assert unmapped_counts(mapping, counts) == {}
    counts[:19] = 5
    assert unmapped_counts(mapping, counts) == {}


def test_large_counts_are_exact() -> None:
    counts = np.zeros(256, np.int64)
    counts[1] = 2**60 + 1
    mapping = ClassMapping("m", space("a", "x", "y"), space("b", "x"), space("a", "x", "y").map_to(space("b", "x")))
    assert unmapped_counts(mapping, counts) == {"y": 2**60 + 1}
