"""Data sets seen through something: without labels, relabelled, with ignored rows, and several as one."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.miniature import cityscapes, synthia_seq
from vidapt.clip import Clip, PanopticTarget, collate
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.synthia_seq import SynthiaSeq
from vidapt.datasets.views import IgnoredRows, Mixture, Relabelled, SkipDamaged, Unlabelled
from vidapt.errors import ConfigError, InputError
from vidapt.labels import CITYSCAPES, LabelClass, LabelSpace, find_space
from vidapt.mapping import find_mapping
from vidapt.transforms import TrainTransform, crop_clip, flip_clip, pad_clip, resize_clip


class Rows:
    """Clips whose pixels say their row (red) and column (green), without labels."""

    label_space = None

    def __init__(self, size: tuple[int, int] = (20, 30), frames: int = 2) -> None:
        rows, columns = np.indices(size)
        picture = torch.from_numpy(np.stack([rows, columns, rows * 0]).astype(np.uint8))
        self.frames = picture.expand(frames, -1, -1, -1).clone()

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Clip:
        count = len(self.frames)
        return Clip(self.frames, f"v{index}", torch.arange(count), torch.arange(count).double())


# --- without labels


def test_unlabelled_hides_labels_and_space(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    dataset = Cityscapes(tmp_path)
    bare = Unlabelled(dataset)
    assert (len(bare), bare.label_space) == (3, None)
    assert bare[1].target is None
    assert torch.equal(bare[1].frames, dataset[1].frames)


# --- in another space


def test_relabelled_maps_classes_and_keeps_instances_of_things(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    dataset = Cityscapes(tmp_path)
    raw = find_space("cityscapes_ids")
    view = Relabelled(dataset, find_mapping(raw, CITYSCAPES))
    seen = set()
    for item in range(3):
        before, after = dataset[item].target, view[item].target
        for own in before.semantic.unique().tolist():
            where = before.semantic == own
            name = "" if own == 255 else raw.names[own]
            expected = CITYSCAPES.names.index(name) if name in CITYSCAPES.names else 255
            assert (after.semantic[where] == expected).all(), name
            is_thing = expected != 255 and CITYSCAPES.is_thing[expected]
            wanted = before.instance[where] if is_thing else torch.zeros_like(before.instance[where])
            assert torch.equal(after.instance[where], wanted)
            seen.add((name, expected))
        assert torch.equal(after.labelled, before.labelled)
        assert (after.semantic.dtype, after.instance.dtype) == (torch.uint8, torch.int32)
    assert len({expected for _, expected in seen}) == 20
    assert ("caravan", 255) in seen


def test_relabelled_leaves_other_fields_alone(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    dataset = Cityscapes(tmp_path)
    view = Relabelled(dataset, find_mapping(find_space("cityscapes_ids"), CITYSCAPES))
    assert (len(view), view.label_space, view.has_instances) == (3, CITYSCAPES, True)
    assert view.videos == dataset.videos
    assert view.frame_name(2, 0) == dataset.frame_name(2, 0) == "hamburg_000000_042505"
    assert torch.equal(view[0].frames, dataset[0].frames)
    assert not Relabelled(Cityscapes(tmp_path, instances=False), view.mapping).has_instances


def test_relabelled_videos_frame_by_frame(tmp_path: Path) -> None:
    synthia_seq.build(tmp_path)
    dataset = SynthiaSeq(tmp_path, clip_length=4)
    view = Relabelled(dataset, find_mapping(find_space("synthia_seq"), CITYSCAPES))
    whole = view[0].target
    frames = list(view.iterate_video(0))
    assert len(frames) == 4
    for place, (image, target) in enumerate(frames):
        assert np.array_equal(image, dataset[0].frames[place].permute(1, 2, 0).numpy())
        assert torch.equal(target.semantic[0], whole.semantic[place])
        assert torch.equal(target.instance[0], whole.instance[place])
    assert (whole.instance > 0).any()


def test_relabelled_frames_without_labels_stay_without(tmp_path: Path) -> None:
    synthia_seq.build(tmp_path)
    view = Relabelled(SynthiaSeq(tmp_path, labelled=False), find_mapping(find_space("synthia_seq"), CITYSCAPES))
    assert [target for _, target in view.iterate_video(0)] == [None] * 4


def test_stuff_that_becomes_a_thing_keeps_its_segments() -> None:
    """Mapillary's on-rails is stuff; each of its segments is a train of Cityscapes."""
    own = LabelSpace("own", (LabelClass("on rails", False, (1, 0, 0)), LabelClass("ground", False, (2, 0, 0))))
    table = np.full(256, 255, np.uint8)
    table[0] = CITYSCAPES.index("train")
    mapping = find_mapping(own, CITYSCAPES)
    object.__setattr__(mapping, "table", table)

    class One(Rows):
        def __getitem__(self, index: int) -> Clip:
            semantic = torch.tensor([[[0, 0, 1]]], dtype=torch.uint8)
            target = PanopticTarget(semantic, torch.tensor([[[4, 5, 6]]], dtype=torch.int32), torch.ones(1).bool())
            return Clip(torch.zeros(1, 3, 1, 3, dtype=torch.uint8), "v", torch.arange(1), torch.zeros(1), target)

    target = Relabelled(One(), mapping)[0].target
    assert target.semantic.tolist() == [[[16, 16, 255]]]
    assert target.instance.tolist() == [[[4, 5, 0]]]


def test_a_mapping_without_any_class_is_refused() -> None:
    kitchen = LabelSpace("kitchen", (LabelClass("spoon", True, (0, 0, 1)), LabelClass("fork", True, (0, 0, 2))))
    with pytest.raises(ConfigError, match=r"no class of the data \(spoon, fork\) .* label space 'cityscapes' \(road"):
        Relabelled(Rows(), find_mapping(kitchen, CITYSCAPES))


# --- ignored rows


@pytest.mark.parametrize(("top", "bottom"), [(0, 0), (3, 0), (0, 5), (3, 5), (19, 0), (12, 7)])
def test_ignored_rows_lie_at_the_top_and_bottom(top: int, bottom: int) -> None:
    clip = IgnoredRows(Rows(), top, bottom)[1]
    rows = np.arange(20)
    expected = (rows < top) | (rows >= 20 - bottom)
    assert clip.ignored.shape == (2, 20, 30)
    assert clip.ignored.dtype == torch.bool
    assert np.array_equal(clip.ignored.numpy(), np.broadcast_to(expected[None, :, None], (2, 20, 30)))
    assert clip.video == "v1"


@pytest.mark.parametrize(("top", "bottom"), [(20, 0), (12, 15), (0, 40)])
def test_ignored_rows_leave_something(top: int, bottom: int) -> None:
    with pytest.raises(InputError, match=rf"ignored_rows \[{top}, {bottom}\] leave nothing of frames that are 20 rows"):
        IgnoredRows(Rows(), top, bottom)[0]


def test_a_tiny_share_is_no_memory_but_a_long_epoch() -> None:
    mixture = Mixture([range(9400), range(24964)], [1, 1e-3])
    assert 24_900_000 < len(mixture) < 25_500_000
    assert sum(array.nbytes for array in (mixture._owner, mixture._turn)) < 2e7
    assert {mixture[0], mixture[len(mixture) - 1], mixture[-1]} <= set(range(24964))
    with pytest.raises(ConfigError, match="make an epoch of"):
        Mixture([range(9400), range(24964)], [1, 1e-5])


def test_ignored_rows_keep_the_rest() -> None:
    view = IgnoredRows(Rows(), 1, 1)
    assert (len(view), view.label_space) == (3, None)
    assert torch.equal(view[0].frames, Rows()[0].frames)


def ignored_by_content(clip: Clip, top: int, bottom: int, height: int = 20) -> torch.Tensor:
    """Where the pixels themselves say that they come from an ignored row."""
    rows = clip.frames[:, 0].int()
    return (rows < top) | (rows >= height - bottom)


def test_crop_and_flip_move_ignored_rows_with_their_pixels() -> None:
    clip = IgnoredRows(Rows(), 4, 6)[0]
    for changed in (flip_clip(clip), crop_clip(clip, 2, 5, (15, 10)), flip_clip(crop_clip(clip, 10, 0, (10, 30)))):
        assert changed.ignored.shape == changed.frames[:, 0].shape
        assert torch.equal(changed.ignored, ignored_by_content(changed, 4, 6))
        assert changed.ignored.any()
        assert not changed.ignored.all()


def test_flip_mirrors_a_mask_that_is_not_of_whole_rows() -> None:
    clip = Rows()[0]
    ignored = torch.zeros(2, 20, 30, dtype=torch.bool)
    ignored[:, 3, 4] = True
    flipped = flip_clip(Clip(clip.frames, "v", clip.indices, clip.times, None, ignored))
    assert flipped.ignored.nonzero().tolist() == [[0, 3, 25], [1, 3, 25]]


def test_resize_scales_ignored_rows() -> None:
    larger = resize_clip(IgnoredRows(Rows(), 4, 6)[0], (40, 60))
    assert larger.ignored.shape == (2, 40, 60)
    rows = np.arange(40)
    assert np.array_equal(larger.ignored.any(2)[1].numpy(), (rows < 8) | (rows >= 28))
    assert torch.equal(larger.ignored.any(2), larger.ignored.all(2))
    smaller = resize_clip(IgnoredRows(Rows(), 4, 6)[0], (10, 15))
    assert smaller.ignored[0, :, 0].tolist() == [True] * 2 + [False] * 5 + [True] * 3


def test_padding_is_ignored() -> None:
    clip = pad_clip(IgnoredRows(Rows(), 4, 0)[0], (25, 32))
    expected = torch.zeros(2, 25, 32, dtype=torch.bool)
    expected[:, :4] = expected[:, 20:] = expected[:, :, 30:] = True
    assert torch.equal(clip.ignored, expected)
    assert pad_clip(Rows()[0], (25, 32)).ignored is None


@pytest.mark.parametrize("seed", range(6))
def test_training_crops_carry_their_ignored_rows(seed: int) -> None:
    transform = TrainTransform((12, 16), flip=0.5)
    clip = transform(IgnoredRows(Rows(), 4, 6)[0], np.random.default_rng(seed))
    assert clip.ignored.shape == (2, 12, 16)
    assert torch.equal(clip.ignored, ignored_by_content(clip, 4, 6))


def test_batches_stack_ignored_rows() -> None:
    batch = collate([IgnoredRows(Rows(), 2, 0)[0], Rows()[1]], [0, 1])
    assert batch.ignored.shape == (2, 2, 20, 30)
    assert batch.ignored.flatten(1).sum(1).tolist() == [2 * 2 * 30, 0]
    assert collate([Rows()[0], Rows()[1]], [0, 1]).ignored is None


# --- damage that shows only when a clip is read


class Damaged(Rows):
    """Six clips, some of which cannot be read."""

    def __init__(self, *damaged: int) -> None:
        super().__init__()
        self.damaged = damaged

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Clip:
        if not 0 <= index < 6:
            raise IndexError(index)
        if index in self.damaged:
            raise InputError(f"frame{index}.png cannot be read")
        return super().__getitem__(index)


def read_by(dataset: object) -> list[str]:
    return [dataset[index].video for index in range(6)]  # type: ignore[index]


def test_whole_clips_pass_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = SkipDamaged(Damaged(), tmp_path / "damaged.jsonl")
    assert (len(view), view.label_space) == (6, None)
    assert read_by(view) == ["v0", "v1", "v2", "v3", "v4", "v5"]
    assert not (tmp_path / "damaged.jsonl").exists()
    assert capsys.readouterr().err == ""


def test_the_next_clip_takes_the_place_of_a_damaged_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "damaged.jsonl"
    assert read_by(SkipDamaged(Damaged(1, 2, 5), record)) == ["v0", "v3", "v3", "v3", "v4", "v0"]
    noted = [json.loads(line) for line in record.read_text().splitlines()]
    assert [entry["clip"] for entry in noted] == [1, 2, 2, 5]
    assert noted[0]["reason"] == "frame1.png cannot be read"
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "left out clip 1: frame1.png cannot be read"
    assert len(said) == 4


def test_a_record_is_not_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert SkipDamaged(Damaged(0), None)[0].video == "v1"
    assert "frame0.png" in capsys.readouterr().err


def test_nothing_can_be_read() -> None:
    with pytest.raises(InputError, match="no clip of the data set can be read; list what is wrong with 'vidapt data"):
        SkipDamaged(Damaged(*range(6)), None)[2]


def test_other_errors_are_not_hidden() -> None:
    class Broken(Rows):
        def __getitem__(self, index: int) -> Clip:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        SkipDamaged(Broken(), None)[0]


# --- several as one


def draws(mixture: Mixture) -> list[tuple[int, int]]:
    return [mixture[index] for index in range(len(mixture))]


def made(sizes: list[int], shares: list[float]) -> Mixture:
    """A mixture whose items say which data set and which clip they are."""
    return Mixture([[(number, item) for item in range(size)] for number, size in enumerate(sizes)], shares)


MIXTURES = st.lists(
    st.tuples(st.integers(1, 20), st.one_of(st.integers(1, 9), st.floats(0.3, 4.0))), min_size=1, max_size=5
)


@given(MIXTURES)
@settings(max_examples=80)
def test_an_epoch_covers_everything_with_the_given_shares(parts: list[tuple[int, float]]) -> None:
    sizes, shares = [size for size, _ in parts], [share for _, share in parts]
    mixture = made(sizes, shares)
    found = draws(mixture)
    assert set(found) == {(number, item) for number, size in enumerate(sizes) for item in range(size)}
    fractions = np.array(shares) / sum(shares)
    wanted = np.max(np.array(sizes) / fractions)
    assert wanted - len(sizes) <= len(found) <= wanted + 1 + len(sizes)
    counts = np.bincount([number for number, _ in found], minlength=len(sizes))
    assert np.abs(counts - len(found) * fractions).max() <= 1 + len(sizes)


@given(MIXTURES)
@settings(max_examples=50)
def test_shares_hold_over_any_stretch(parts: list[tuple[int, float]]) -> None:
    """A run that ends early has seen the data sets in about the right shares."""
    mixture = made([size for size, _ in parts], [share for _, share in parts])
    owners = np.array([number for number, _ in draws(mixture)])
    fractions = np.array([share for _, share in parts]) / sum(share for _, share in parts)
    for number, fraction in enumerate(fractions):
        ahead = np.cumsum(owners == number) - fraction * np.arange(1, len(owners) + 1)
        assert np.abs(ahead).max() <= 1 + len(parts)


@given(MIXTURES)
@settings(max_examples=30)
def test_clips_of_one_data_set_come_in_turn(parts: list[tuple[int, float]]) -> None:
    sizes = [size for size, _ in parts]
    found = draws(made(sizes, [share for _, share in parts]))
    for number, size in enumerate(sizes):
        items = [item for owner, item in found if owner == number]
        assert items == [turn % size for turn in range(len(items))]


def test_equal_shares_alternate() -> None:
    assert draws(made([3, 3], [2.0, 2.0])) == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]


def test_one_to_three() -> None:
    owners = [number for number, _ in draws(made([2, 6], [1, 3]))]
    assert len(owners) == 8
    assert owners[:4].count(0) == owners[4:].count(0) == 1


def test_shares_that_round_to_another_total() -> None:
    """9 clips in the shares 1 and 5 are 1.5 and 7.5."""
    assert {item for item in draws(made([1, 7], [1, 5])) if item[0] == 1} == {(1, item) for item in range(7)}


def test_a_single_data_set_is_itself() -> None:
    assert draws(made([4], [0.3])) == [(0, item) for item in range(4)]


def test_which_clip_an_index_names_never_changes() -> None:
    first, second = made([3, 10, 4], [1, 2.5, 0.7]), made([3, 10, 4], [1, 2.5, 0.7])
    order = np.random.default_rng(0).permutation(len(first)).tolist()
    assert [first[index] for index in order] == [second[index] for index in order]
    assert draws(pickle.loads(pickle.dumps(first))) == draws(second)


def test_a_mixture_ends() -> None:
    mixture = made([2, 2], [1, 1])
    with pytest.raises(IndexError):
        mixture[len(mixture)]
    assert list(mixture) == draws(mixture)


def test_a_mixture_has_the_space_of_its_parts(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    view = Relabelled(Cityscapes(tmp_path), find_mapping(find_space("cityscapes_ids"), CITYSCAPES))
    mixture = Mixture([view, view], [1, 1])
    assert mixture.label_space == CITYSCAPES
    assert torch.equal(mixture[1].target.semantic, view[0].target.semantic)
