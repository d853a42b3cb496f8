"""From the data sections of a recipe to data sets: roots, labels left out or mapped, damage, shares, pixels counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.datasets.miniature import cityscapes, cityscapes_sequence, synthia
from tests.tiny_runs import moving_frames, write_camvid, write_images, write_labelled
from vidapt.clip import Clip, PanopticTarget
from vidapt.config import CamVidData, LabelledFolderData, Recipe, StoredData, StreetWorldData, VideosData
from vidapt.config_data import CityscapesData, CityscapesSequenceData, DataSection, SynthiaData, SynthiaSeqData
from vidapt.datasets.cityscapes_sequence import CityscapesSequence
from vidapt.datasets.integrity import forget_checks, refuse_or_skip
from vidapt.datasets.stored import StoredDataset
from vidapt.datasets.views import IgnoredRows, Mixture, Relabelled, SkipDamaged, Unlabelled
from vidapt.engine.logging import RunLog
from vidapt.errors import ConfigError, InputError
from vidapt.jobs import data, train
from vidapt.jobs.data import (
    build_dataset,
    build_stored,
    class_counts,
    find_root,
    in_space,
    sections_of,
    training_source,
    training_target,
    with_cache,
)
from vidapt.labels import CAMVID, CITYSCAPES, LabelClass, LabelSpace, find_space
from vidapt.mapping import find_mapping

CLIPS: dict[str, Any] = {"clip_length": 1, "interval": 1}
WORLD = StreetWorldData(videos=1, frames=3, size=(32, 64))


class Labels:
    """A data set of one clip with given labels."""

    def __init__(self, space: LabelSpace, *semantic: list[int]) -> None:
        self.label_space = space
        self.maps = [torch.tensor([[row]], dtype=torch.uint8) for row in semantic]

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Clip:
        semantic = self.maps[index]
        size = semantic.shape[-2:]
        target = PanopticTarget(semantic, torch.full((1, *size), 9, dtype=torch.int32), torch.ones(1, dtype=torch.bool))
        return Clip(torch.zeros(1, 3, *size, dtype=torch.uint8), "v", torch.tensor([0]), torch.zeros(1), target)


# --- roots


def test_a_root_is_looked_up_here_and_below_vidapt_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, here = tmp_path / "store", tmp_path / "here"
    for folder in (store / "camvid", store / "both", here / "both"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("VIDAPT_DATA", str(store))
    assert find_root(Path("camvid")) == store / "camvid"
    assert find_root(Path("both")) == Path("both")
    assert find_root(store / "camvid") == store / "camvid"
    with pytest.raises(InputError, match=rf"no data at none or {store}.none; give an existing path"):
        find_root(Path("none"))
    monkeypatch.delenv("VIDAPT_DATA")
    with pytest.raises(InputError, match=r"no data at camvid; .* set VIDAPT_DATA"):
        find_root(Path("camvid"))


def test_a_pattern_is_looked_up_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drives" / "a").mkdir(parents=True)
    (tmp_path / "drives" / "a" / "x.mp4").touch()
    monkeypatch.setenv("VIDAPT_DATA", str(tmp_path))
    assert find_root(Path("drives/*/*.mp4")) == tmp_path / "drives/*/*.mp4"
    assert find_root(Path("**/x.mp4")) == tmp_path / "**/x.mp4"
    with pytest.raises(InputError, match="no data at"):
        find_root(Path("drives/*.mkv"))


def test_an_existing_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "run [1]").mkdir()
    assert find_root(tmp_path / "run [1]") == tmp_path / "run [1]"


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    assert find_root(Path("~/data")) == tmp_path / "data"


# --- data sets


def test_every_section_becomes_its_data_set(tmp_path: Path) -> None:
    assert len(build_dataset(WORLD, **CLIPS)) == 3
    camvid = build_dataset(CamVidData(root=write_camvid(tmp_path / "camvid"), split="val", height=24), **CLIPS)
    assert camvid[0].frames.shape == (1, 3, 24, 32)
    frames = write_images(moving_frames(4), tmp_path / "frames")
    videos = build_dataset(VideosData(root=frames, height=24), clip_length=2, interval=1, labelled=False)
    assert (len(videos), videos[0].frames.shape, videos[0].target) == (3, (2, 3, 24, 40), None)


@pytest.mark.parametrize("kind", ["street_world", "camvid", "labelled_folder"])
def test_an_unlabelled_target_carries_no_labels(tmp_path: Path, kind: str) -> None:
    if kind == "street_world":
        section: Any = WORLD
    elif kind == "camvid":
        section = CamVidData(root=write_camvid(tmp_path), split="val")
    else:
        section = LabelledFolderData(root=write_labelled(tmp_path, ["road", "car"]))
    labelled = build_dataset(section, **CLIPS)
    bare = build_dataset(section, **CLIPS, labelled=False)
    assert len(bare) == len(labelled)
    assert labelled[0].target is not None
    assert [bare[index].target for index in range(len(bare))] == [None] * len(bare)
    assert bare.label_space is None or kind == "camvid"
    assert torch.equal(bare[1].frames, labelled[1].frames)


def test_camvid_targets_need_no_label_files(tmp_path: Path) -> None:
    root = write_camvid(tmp_path)
    for path in (root / "valannot").iterdir():
        path.unlink()
    bare = build_dataset(CamVidData(root=root, split="val"), **CLIPS, labelled=False)
    assert bare[0].target is None


def test_footage_cannot_be_asked_for_labels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unlabelled footage \(kind: videos\); give kind: labelled_folder"):
        build_dataset(VideosData(root=tmp_path), **CLIPS)


def test_generated_videos_are_rendered_once() -> None:
    assert build_dataset(WORLD, **CLIPS) is build_dataset(WORLD.model_copy(), **CLIPS)


def test_unlabelled_hides_the_labels_of_any_data_set() -> None:
    hidden = Unlabelled(Labels(CITYSCAPES, [0, 1, 2]))
    assert (len(hidden), hidden[0].target, hidden.label_space) == (1, None, None)


# --- label spaces


def test_camvid_labels_become_cityscapes_labels() -> None:
    semantic = [*range(11), 255]
    clip = Relabelled(Labels(CAMVID, semantic), find_mapping(CAMVID, CITYSCAPES))[0]
    names = "sky building pole road sidewalk vegetation sign fence car person rider"
    expected = [CITYSCAPES.index(name) for name in names.split()]
    assert clip.target is not None
    assert clip.target.semantic[0, 0].tolist() == [*expected, 255]
    assert clip.target.semantic.dtype == torch.uint8
    is_thing = [name in ("car", "person", "rider") for name in names.split()]
    assert clip.target.instance[0, 0].tolist() == [9 if thing else 0 for thing in (*is_thing, False)]


def test_classes_without_a_counterpart_are_ignored() -> None:
    few = LabelSpace("few", (LabelClass("car", True, (0, 0, 1)), LabelClass("road", False, (0, 0, 2))))
    relabelled = in_space(Labels(CITYSCAPES, [0, 2, 13, 255]), few)
    assert relabelled[0].target.semantic[0, 0].tolist() == [1, 255, 0, 255]
    assert relabelled.label_space == few


def test_an_equal_space_leaves_the_data_set_alone() -> None:
    own = Labels(CITYSCAPES, [0])
    assert in_space(own, CITYSCAPES) is own


def test_a_space_without_a_common_class_is_refused() -> None:
    kitchen = LabelSpace("kitchen", (LabelClass("spoon", True, (0, 0, 1)),))
    with pytest.raises(ConfigError, match=r"no class of the data \(spoon\) is one of label space 'cityscapes'"):
        in_space(Labels(kitchen, [0]), CITYSCAPES)


def test_a_mapping_of_the_section_is_used_even_between_equal_spaces(tmp_path: Path) -> None:
    own = Labels(CITYSCAPES, [0, 12])
    with pytest.raises(ConfigError, match="no class mapping 'nowhere'"):
        in_space(own, CITYSCAPES, "nowhere")
    ignoring = in_space(
        Labels(find_space("cityscapes_ids"), [24, 25]),
        find_space("viper_cityscapes"),
        "cityscapes_ids_to_viper_cityscapes_rider_ignored",
    )
    person = find_space("viper_cityscapes").index("person")
    assert ignoring[0].target.semantic[0, 0].tolist() == [person, 255]


# --- published data sets


def test_a_section_opens_its_data_set_with_all_options(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path)
    section = CityscapesSequenceData(
        root=tmp_path, split="val", height=24, trim=(8, 8), context=3, videos=2, instances=False
    )
    dataset = build_stored(section, clip_length=2, interval=2)
    assert isinstance(dataset, CityscapesSequence)
    assert (len(dataset.videos), len(dataset), dataset.has_instances) == (2, 2, False)
    assert dataset[0].frames.shape == (2, 3, 24, 72)
    assert build_stored(section, labelled=False)[0].target is None


def test_sections_know_their_own_options_only() -> None:
    section = SynthiaSeqData(root=Path("x"), weight=2, height=5, view="Omni_B")
    assert set(section.own_options()) == {"sequences", "camera", "view"}
    assert section.own_options()["view"] == "Omni_B"
    assert CityscapesData(root=Path("x")).own_options() == {"instances": True}
    assert SynthiaData(root=Path("x")).own_options() == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 10, "fit": (5, 5)},
        {"height": 0},
        {"fit": (0, 5)},
        {"trim": (-1, 0)},
        {"every": 0},
        {"context": -1},
        {"videos": 0},
        {"damaged": "ignore"},
        {"weight": 0},
        {"weight": -1},
        {"ignored_rows": (0, -1)},
        {"beta": 0.02},
    ],
    ids=str,
)
def test_sections_refuse_what_is_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CityscapesData(root=Path("x"), **wrong)


# --- damaged files


@pytest.fixture
def damaged_root(tmp_path: Path) -> Path:
    """Miniature Cityscapes whose second label is cut."""
    cityscapes.build(tmp_path / "data")
    label = tmp_path / "data/gtFine/train/aachen/aachen_000001_000019_gtFine_instanceIds.png"
    label.write_bytes(label.read_bytes()[:300])
    return tmp_path / "data"


def test_training_refuses_damaged_files_at_the_start(damaged_root: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 3 frames of Cityscapes in .* are damaged, the first: gtFine/.*is cut"):
        training_source(CityscapesData(root=damaged_root), CITYSCAPES, **CLIPS)


def test_training_leaves_damaged_files_out_and_says_so(damaged_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = training_source(CityscapesData(root=damaged_root, damaged="skip"), CITYSCAPES, **CLIPS)
    assert len(dataset) == 2
    assert {dataset[index].video for index in range(2)} == {"aachen_000000_000019", "hamburg_000000_042505"}
    line = capsys.readouterr().err
    assert line.startswith("Cityscapes: left out 1 damaged frames: gtFine/train/aachen/aachen_000001_000019_gtFine_")
    assert "is cut: the end of a PNG file is missing" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("number", [0, 1])
def test_the_main_process_looks_and_tells_the_others(
    damaged_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    section = CityscapesData(root=damaged_root, damaged="skip")
    found = refuse_or_skip(build_stored(section), "skip")
    looked: list[int] = []

    def on_main(action: Any) -> Any:
        if number:
            return found
        looked.append(number)
        return action()

    monkeypatch.setattr(data, "on_main", on_main)
    monkeypatch.setattr(data, "rank", lambda: number)
    source = training_source(section, CITYSCAPES, **CLIPS)
    assert {source[index].video for index in range(len(source))} == {"aachen_000000_000019", "hamburg_000000_042505"}
    assert bool(looked) == bool(capsys.readouterr().err) == (number == 0)


def test_a_process_alone_waits_for_no_other(damaged_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(action: Any) -> Any:
        raise AssertionError("the other processes do not come here")

    monkeypatch.setattr(data, "on_main", refuse)
    assert len(training_target(CityscapesData(root=damaged_root), **CLIPS, alone=True)) == 3


@pytest.mark.parametrize("limit", [5, 6])
def test_looking_at_many_files_shows_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    cityscapes.build(tmp_path)
    forget_checks()
    bars: list[tuple[str, int]] = []
    steps: list[int] = []

    @contextmanager
    def bar(title: str, total: int) -> Iterator[Any]:
        bars.append((title, total))
        yield lambda: steps.append(1)

    monkeypatch.setattr(data, "progress_bar", bar)
    monkeypatch.setattr(data, "MANY_FILES", limit)
    training_source(CityscapesData(root=tmp_path), CITYSCAPES, **CLIPS)
    assert bars == ([("looking at cityscapes train", 3)] if limit == 5 else [])
    assert len(steps) == 3 * len(bars)


def test_a_target_needs_whole_pictures_only(damaged_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(training_target(CityscapesData(root=damaged_root), **CLIPS)) == 3
    picture = damaged_root / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    picture.write_bytes(b"")
    forget_checks()
    with pytest.raises(InputError, match=r"1 of 3 frames .* is empty"):
        training_target(CityscapesData(root=damaged_root), **CLIPS)
    assert len(training_target(CityscapesData(root=damaged_root, damaged="skip"), **CLIPS)) == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", ["refuse", "skip"])
def test_damage_that_shows_late(tmp_path: Path, damaged: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Head and tail are whole; only decoding tells."""
    cityscapes.build(tmp_path / "data")
    picture = tmp_path / "data/leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png"
    content = bytearray(picture.read_bytes())
    content[len(content) // 2] ^= 0xFF
    picture.write_bytes(content)
    section = CityscapesData(root=tmp_path / "data", damaged=damaged)
    record = tmp_path / "damaged.jsonl"
    for dataset in (
        training_source(section, CITYSCAPES, **CLIPS, skipped=record),
        training_target(section, **CLIPS, skipped=record),
    ):
        assert isinstance(dataset, SkipDamaged) == (damaged == "skip")
        if damaged == "refuse":
            with pytest.raises(InputError, match=picture.name):
                dataset[1]
        else:
            assert dataset[1].video == "hamburg_000000_042505"
    assert record.exists() == (damaged == "skip")
    assert (picture.name in capsys.readouterr().err) == (damaged == "skip")


def test_the_record_of_damaged_clips_outlives_a_resume(tmp_path: Path) -> None:
    """The log of skipped steps drops what lies after the checkpoint; clips carry no step and stay."""
    line = '{"clip": 3, "reason": "a.png is cut"}\n'
    (tmp_path / train.SKIPPED).write_text(line)
    with RunLog(tmp_path, steps=9, start=4, tensorboard=False) as log:
        log.skipped({"step": 5, "reason": "loss is nan", "clips": ["a"]})
    assert (tmp_path / train.SKIPPED).read_text() == line


def test_nothing_but_damaged_files(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    for label in (tmp_path / "gtFine").rglob("*_instanceIds.png"):
        label.write_bytes(b"")
    with pytest.raises(InputError, match="nothing is left"):
        training_source(CityscapesData(root=tmp_path, damaged="skip"), CITYSCAPES, **CLIPS)


# --- ignored rows, several sources, the cache


def test_rows_of_the_target_whose_pseudo_labels_do_not_count(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    target = training_target(CityscapesData(root=tmp_path, height=24, ignored_rows=(2, 5)), **CLIPS)
    assert isinstance(target, IgnoredRows)
    assert target[0].ignored[0, :, 0].tolist() == [True] * 2 + [False] * 17 + [True] * 5
    assert target[0].target is None
    assert training_target(CityscapesData(root=tmp_path), **CLIPS)[0].ignored is None


@pytest.fixture
def two_sources(tmp_path: Path) -> tuple[DataSection, DataSection]:
    """SYNTHIA, twice as often as Cityscapes."""
    root = synthia.build(tmp_path / "synthia").root
    cityscapes.build(tmp_path / "cityscapes")
    return SynthiaData(root=root, weight=2), CityscapesData(root=tmp_path / "cityscapes")


def test_several_sources_are_drawn_by_their_weights(two_sources: tuple[Any, Any]) -> None:
    mixture = training_source(two_sources, CITYSCAPES, **CLIPS)
    assert isinstance(mixture, Mixture)
    assert mixture.label_space == CITYSCAPES
    names = [mixture[index].video for index in range(len(mixture))]
    own = [name for name in names if name.startswith("00000")]
    assert len(names) == 9
    assert sorted(own) == sorted(["0000000", "0000001", "0000002"] * 2)
    assert len(set(names) - set(own)) == 3
    assert names[:3].count(names[2]) == 1


def test_several_sources_share_the_label_space(two_sources: tuple[Any, Any]) -> None:
    mixture = training_source(two_sources, CITYSCAPES, **CLIPS)
    alone = [training_source(section, CITYSCAPES, **CLIPS) for section in two_sources]
    assert [isinstance(dataset, Relabelled) for dataset in alone] == [True, True]
    by_name = {dataset[index].video: dataset[index] for dataset in alone for index in range(3)}
    for index in range(len(mixture)):
        clip = mixture[index]
        assert torch.equal(clip.target.semantic, by_name[clip.video].target.semantic)
        assert set(clip.target.semantic.unique().tolist()) <= {*range(19), 255}


def test_one_damaged_source_of_several_is_refused(two_sources: tuple[Any, Any]) -> None:
    (two_sources[0].root / "GT/LABELS/0000001.png").unlink()
    with pytest.raises(InputError, match=r"1 of 3 frames of SYNTHIA-RAND-CITYSCAPES"):
        training_source(two_sources, CITYSCAPES, **CLIPS)


def test_a_source_without_a_common_class_is_refused(two_sources: tuple[Any, Any]) -> None:
    kitchen = LabelSpace("kitchen", (LabelClass("spoon", True, (0, 0, 1)),))
    with pytest.raises(ConfigError, match="no class of the data"):
        training_source(two_sources, kitchen, **CLIPS)


def test_sections_of_one_or_many(two_sources: tuple[Any, Any]) -> None:
    assert sections_of(WORLD) == [WORLD]
    assert sections_of(two_sources) == sections_of(list(two_sources)) == list(two_sources)


def test_a_cache_for_all_that_is_trained_on(two_sources: tuple[Any, Any], tmp_path: Path) -> None:
    recipe = Recipe(source=two_sources, target=two_sources[1], evaluation=two_sources[1], validation=WORLD)
    cached = with_cache(recipe, tmp_path / "cache")
    assert [section.cache for section in sections_of(cached.source)] == [tmp_path / "cache"] * 2
    assert isinstance(cached.target, StoredData)
    assert cached.target.cache == tmp_path / "cache"
    assert isinstance(cached.evaluation, StoredData)
    assert cached.evaluation.cache is None
    assert cached.validation == WORLD
    assert all(section.cache is None for section in sections_of(recipe.source))
    dataset = training_source(cached.source, CITYSCAPES, **CLIPS)
    first = [dataset[index].target.instance for index in range(len(dataset))]
    read = StoredDataset.read_frame
    try:
        StoredDataset.read_frame = None  # type: ignore[assignment, method-assign]
        assert all(map(torch.equal, first, [dataset[index].target.instance for index in range(len(dataset))]))
    finally:
        StoredDataset.read_frame = read  # type: ignore[method-assign]


# --- counting


def test_class_counts_leave_out_what_is_ignored() -> None:
    counts = class_counts(Labels(CITYSCAPES, [0, 0, 13, 255], [2, 255, 255, 255]), 19)
    assert counts.dtype == torch.int64
    assert {index: int(n) for index, n in enumerate(counts) if n} == {0: 2, 2: 1, 13: 1}


def test_class_counts_spread_over_a_large_data_set() -> None:
    """Four of eight clips, evenly: numbers 0, 2, 4 and 6."""
    counts = class_counts(Labels(CITYSCAPES, *([index] for index in range(8))), 19, clips=4)
    assert counts.nonzero().flatten().tolist() == [0, 2, 4, 6]


def test_class_counts_of_ignored_labels_only() -> None:
    assert class_counts(Labels(CITYSCAPES, [255, 255]), 19).sum() == 0
