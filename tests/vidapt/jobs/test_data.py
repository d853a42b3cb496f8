"""From the data sections of a recipe to data sets: roots, labels left out, labels mapped, pixels counted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_runs import moving_frames, write_camvid, write_images, write_labelled
from vidapt.clip import Clip, PanopticTarget
from vidapt.config import CamVidData, LabelledFolderData, StreetWorldData, VideosData
from vidapt.datasets.views import Relabelled, Unlabelled
from vidapt.errors import ConfigError, InputError
from vidapt.jobs.data import build_dataset, class_counts, find_root, in_space
from vidapt.labels import CAMVID, CITYSCAPES, LabelClass, LabelSpace
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
    assert (clip.target.instance == 9).all()


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
