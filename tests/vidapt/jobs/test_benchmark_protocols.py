"""What makes the shipped benchmarks comparable with their papers: frames, classes, conventions, ignored margins."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import vidapt.configs
from tests.benchmark_data import Truths, benchmark_data
from vidapt.adaptation.confidence import trust
from vidapt.adaptation.mixing import class_mix, instance_mix
from vidapt.adaptation.pseudo_labels import PseudoLabels
from vidapt.clip import IGNORE, ClipBatch, PanopticFrame, Segment, collate
from vidapt.config import Recipe
from vidapt.datasets.viper import ego_vehicle_mask
from vidapt.evaluation.scores import Scores
from vidapt.io.writer import SegmentationWriter
from vidapt.jobs.evaluate import evaluate
from vidapt.jobs.scored_videos import labelled_frames, scored_space, scored_videos
from vidapt.jobs.train import open_data
from vidapt.labels import CITYSCAPES, find_space
from vidapt.recipe import load_recipe
from vidapt.transforms import TrainTransform

ABSENT = ("terrain", "truck", "train")
THIRTEEN = (
    *("road", "sidewalk", "building", "traffic light", "traffic sign", "vegetation", "sky", "person", "rider", "car"),
    *("bus", "motorcycle", "bicycle"),
)
FIFTEEN = (
    *("road", "sidewalk", "building", "fence", "traffic light", "traffic sign", "vegetation", "terrain", "sky"),
    *("person", "car", "truck", "bus", "motorcycle", "bicycle"),
)
ELEVEN = (
    *("road", "sidewalk", "building", "pole", "traffic light", "traffic sign", "vegetation", "sky", "person", "rider"),
    "car",
)
PERSON, RIDER, PERSON_ID, RIDER_ID = 11, 12, 24, 25

Labels = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def truths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truths]:
    with benchmark_data(tmp_path_factory.mktemp("protocols")) as written:
        yield written


def benchmark(name: str, *overrides: str) -> Recipe:
    return load_recipe(
        f"benchmarks/{name}+methods/vidapt", ("training.clip_length=2", "training.interval=1", *overrides)
    )


def scored_labels(recipe: Recipe) -> list[Labels]:
    """(semantic, instance) of all labelled frames that are scored, in the space that is scored."""
    videos = scored_videos(recipe)
    frames = (frame for number in range(len(videos.videos)) for frame in labelled_frames(videos, number))
    return [labels for _, labels, _ in frames if labels[0] is not None]


def true_classes(truths: Truths, name: str) -> list[np.ndarray]:
    return [frame.classes for frame in truths[name].frames.values() if frame.classes is not None]


# --- which frames are read


def test_viper_gives_every_tenth_frame_after_the_one_before(truths: Truths) -> None:
    source, _ = open_data(benchmark("viper_to_cityscapes_sequence", "source.fit=null"))
    stored = source.dataset
    numbers = {video.name: [frame.number for frame in video.frames] for video in stored.index()}
    clips = [stored[index] for index in range(len(stored))]
    assert [[numbers[clip.video][place] for place in clip.indices] for clip in clips] == [[9, 10], [19, 20]] * 2
    truth = truths["viper/train"]
    wanted = [truth.frames[truth.videos[0][number - 8]] for number in (9, 10)]
    for shown, frame in zip(source[0].frames, wanted, strict=True):
        assert np.abs(shown.permute(1, 2, 0).numpy().astype(int) - frame.image).mean() < 4


@pytest.mark.parametrize("name", ["viper_to_cityscapes_sequence", "synthia_seq_to_cityscapes_sequence"])
def test_cityscapes_gives_the_labelled_frame_after_the_one_before(name: str) -> None:
    recipe = benchmark(name)
    _, target = open_data(recipe)
    frames = [[frame.name for frame in video.frames] for video in target.index()]
    assert frames[1] == ["aachen_000001_000018", "aachen_000001_000019"]
    assert frames[2] == ["hamburg_000000_042504", "hamburg_000000_042505"]
    assert len(target) == len(frames) == 3
    assert target[0].target is None
    videos = scored_videos(recipe)
    labelled = [[labels[0] is not None for _, labels, _ in labelled_frames(videos, number)] for number in range(3)]
    assert labelled == [[False, True]] * 3


def test_foggy_cityscapes_is_read_in_its_densest_fog(truths: Truths) -> None:
    recipe = benchmark("cityscapes_to_foggy", "target.height=null", "target.ignored_rows=[0,0]")
    _, target = open_data(recipe)
    truth = truths["foggy_cityscapes/train"].frames
    densest = [frame.image for path, frame in truth.items() if path.endswith("_beta_0.02.png")]
    assert len(densest) == len(target) == 3
    for clip, image in zip(map(target.__getitem__, range(3)), densest, strict=True):
        np.testing.assert_array_equal(clip.frames[0].permute(1, 2, 0), image)


@pytest.mark.parametrize("name", ["synthia_to_mapillary", "cityscapes_to_mapillary"])
def test_mapillary_is_scaled_into_a_box_labels_too(name: str) -> None:
    sizes = [semantic.shape for semantic, _ in scored_labels(benchmark(name))]
    assert sorted(sizes) == [(482, 1024), (494, 1024), (512, 1024)]
    own = [semantic.shape for semantic, _ in scored_labels(benchmark(name, "evaluation.fit=null"))]
    assert sorted(own) == [(48, 96), (56, 116), (64, 136)]


# --- which classes are trained and scored


def test_fence_is_trained_but_not_averaged() -> None:
    recipe = benchmark("synthia_seq_to_cityscapes_sequence")
    source, _ = open_data(recipe)
    space = find_space("synthia_seq_cityscapes")
    assert source.label_space == space
    assert len(space) == 12
    clip = source[0]
    assert clip.frames.shape == (2, 3, 128, 160)
    assert (clip.target.semantic == space.index("fence")).sum() > 100
    assert recipe.scoring.classes == ELEVEN


def test_pixels_of_fence_count(tmp_path: Path) -> None:
    """All of it predicted as road makes road worse than leaving it out would."""
    recipe = benchmark("synthia_seq_to_cityscapes_sequence")
    road, fence = (scored_space(recipe).index(name) for name in ("road", "fence"))
    table = np.arange(256, dtype=np.uint8)
    table[[fence, IGNORE]] = road
    scores = score(recipe, lambda semantic, instance: (table[semantic], instance), tmp_path)
    labels = np.concatenate([semantic.ravel() for semantic, _ in scored_labels(recipe)])
    roads, fences = (labels == road).sum(), (labels == fence).sum()
    assert fences > 100
    assert scores.iou["road"] == pytest.approx(roads / (roads + fences))
    assert scores.averaged["miou"] == ELEVEN
    assert scores.miou == pytest.approx((10 + roads / (roads + fences)) / 11)
    assert scores.pq is None


def test_both_rider_conventions_give_other_persons(truths: Truths) -> None:
    raw = np.stack(true_classes(truths, "cityscapes_sequence/val"))
    assert (raw == RIDER_ID).any()
    together, apart = (
        np.stack([semantic for semantic, _ in scored_labels(benchmark(f"viper_to_cityscapes_sequence{suffix}"))])
        for suffix in ("", "_rider_ignored")
    )
    person = find_space("viper_cityscapes").index("person")
    np.testing.assert_array_equal(together == person, np.isin(raw, [PERSON_ID, RIDER_ID]))
    np.testing.assert_array_equal(apart == person, raw == PERSON_ID)
    assert (apart[raw == RIDER_ID] == IGNORE).all()
    np.testing.assert_array_equal(together[raw != RIDER_ID], apart[raw != RIDER_ID])


def test_both_rider_conventions_read_the_own_car_differently(truths: Truths) -> None:
    names = [f"viper_to_cityscapes_sequence{suffix}" for suffix in ("", "_rider_ignored")]
    ignored, kept = (open_data(benchmark(name, "source.fit=null"))[0][0].target for name in names)
    truth = truths["viper/train"]
    car = find_space("viper_cityscapes").index("car")
    assert kept.labelled.tolist() == ignored.labelled.tolist() == [False, True]
    hood = ego_vehicle_mask(truth.frames[truth.videos[0][2]].classes)
    assert hood.sum() > 100
    assert (kept.semantic[1][torch.from_numpy(hood)] == car).all()
    assert (ignored.semantic[1][torch.from_numpy(hood)] == IGNORE).all()
    np.testing.assert_array_equal(ignored.semantic[1][~hood], kept.semantic[1][~hood])


def test_persons_of_cityscapes_vps_include_riders(truths: Truths) -> None:
    recipe = benchmark("viper_to_cityscapes_vps")
    assert scored_space(recipe).names == FIFTEEN
    person = scored_space(recipe).index("person")
    frames = list(truths["cityscapes_vps/val"].frames.values())
    assert any((frame.classes == RIDER).any() for frame in frames)
    for (semantic, instance), frame in zip(scored_labels(recipe), frames, strict=True):
        persons = np.isin(frame.classes, [PERSON, RIDER])
        np.testing.assert_array_equal(semantic == person, persons)
        np.testing.assert_array_equal(instance[persons], frame.objects[persons])


def test_two_sources_take_turns_in_one_space() -> None:
    source, _ = open_data(benchmark("synthia_gta5_to_cityscapes", "training.crop=[64,128]"))
    assert source.label_space == CITYSCAPES
    clips = [source[index] for index in range(len(source))]
    sizes = [tuple(clip.frames.shape[-2:]) for clip in clips]
    assert sizes == [(48, 96), (640, 1280)] * 4
    assert [bool(clip.target.instance.any()) for clip in clips] == [True, False] * 4
    assert all(set(clip.target.semantic.unique().tolist()) <= {*range(19), IGNORE} for clip in clips)


# --- margins without pseudo-labels


def test_margins_of_the_target_are_those_of_the_papers() -> None:
    """EDAPS and MC-PanDA ignore 15 rows at the top and 120 at the bottom of pictures of 512 rows."""
    _, target = open_data(benchmark("synthia_to_cityscapes"))
    ignored = target[0].ignored
    assert ignored.shape == (1, 512, 1024)
    assert (ignored.all(-1) == ignored.any(-1)).all()
    assert torch.nonzero(ignored[0, :, 0]).flatten().tolist() == [*range(15), *range(392, 512)]


def test_margins_weigh_nothing() -> None:
    small = ("training.crop=[64,128]", "target.height=64", "target.ignored_rows=[4,16]")
    recipe = benchmark("synthia_to_cityscapes", *small)
    transform = TrainTransform(recipe.training.crop)
    source, target = (collate([transform(part[0], np.random.default_rng(0))], [0]) for part in open_data(recipe))
    assert torch.equal(target.ignored[0, 0].any(-1), torch.tensor([True] * 4 + [False] * 44 + [True] * 16))
    pseudo = certain(target)
    mixed = class_mix(source, target, pseudo, torch.rand(1, 19, generator=torch.Generator().manual_seed(0)))
    own = (mixed.frames == target.frames).all(2) & (mixed.frames != source.frames).any(2)
    assert (mixed.weight[own & target.ignored] == 0).all()
    assert (mixed.weight[own & ~target.ignored] == 0.75).all()
    assert (own & target.ignored).sum() > 100
    assert mixed.weight[~own].unique().tolist() == [1.0]
    pasted = instance_mix(source, target, pseudo)
    assert pasted.weight[0, 0, 2:6, 10].tolist() == [0.0, 0.0, 0.75, 0.75]
    assert (pasted.weight[..., 60:] == 1).all()


def certain(target: ClipBatch) -> PseudoLabels:
    """Pseudo-labels, three quarters of them confident: all is road, but for one verified car over the left columns."""
    shape = (*target.frames.shape[:2], *target.frames.shape[-2:])
    semantic, instance = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.int32)
    semantic[..., :50], instance[..., :50] = CITYSCAPES.index("car"), 1
    confidence = (torch.arange(shape[-1]) % 4 < 3).float().expand(shape)
    weight = trust(semantic, confidence, torch.full((19,), 0.5), "clip", ignored=target.ignored)
    verified = torch.tensor([[False, True]])
    category = verified * torch.tensor(CITYSCAPES.index("car"), dtype=torch.uint8)
    return PseudoLabels(
        semantic, confidence, weight, torch.tensor([0.75]), instance, verified, torch.ones(1, 2), category
    )


# --- conventions of the scores


Predict = Callable[[np.ndarray, np.ndarray], Labels]
"""Makes predicted classes and instances from the true ones."""


def score(recipe: Recipe, predict: Predict, folder: Path) -> Scores:
    """Scores of predictions made from the labels; frames without labels are predicted as road."""
    videos, space = scored_videos(recipe), scored_space(recipe)
    for number, name in enumerate(videos.videos):
        images, labels, _ = zip(*labelled_frames(videos, number), strict=True)
        pairs = [predict(*known(found, image)) for found, image in zip(labels, images, strict=True)]
        semantic, instance = (np.stack(maps) for maps in zip(*pairs, strict=True))
        ids = lasting_ids(semantic, instance, space.is_thing)
        with SegmentationWriter(folder / name, space, video_name=name, fps=1, overlay=False) as writer:
            for index, image in enumerate(images):
                shown = tuple(segment(ids[index], semantic[index], key) for key in np.unique(ids[index]).tolist())
                writer.write(PanopticFrame(index, 0.0, semantic[index], ids[index], shown), image)
    return evaluate(recipe, predictions=folder, jobs=1)


def known(labels: tuple[np.ndarray | None, np.ndarray | None], image: np.ndarray) -> Labels:
    """Labels of a frame, 0 where there are none."""
    semantic, instance = (np.zeros(image.shape[:2], np.int64) if part is None else part for part in labels)
    return semantic, instance


def lasting_ids(semantic: np.ndarray, instance: np.ndarray, is_thing: np.ndarray) -> np.ndarray:
    """Panoptic ids (T,H,W) that are constant over a video; things of one class without number are one."""
    keys = np.where(is_thing[semantic], semantic.astype(np.int64) << 32 | instance, -1)
    things = np.unique(keys[keys >= 0])
    return np.where(keys >= 0, np.searchsorted(things, keys) + 256, semantic.astype(np.int32) + 1).astype(np.int32)


def segment(ids: np.ndarray, semantic: np.ndarray, key: int) -> Segment:
    rows, columns = np.nonzero(ids == key)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return Segment(key, int(semantic[rows[0], columns[0]]), key >= 256, 1.0, len(rows), box)


def exact(semantic: np.ndarray, instance: np.ndarray) -> Labels:
    """The labels themselves, with road instead of void."""
    return np.where(semantic == IGNORE, 0, semantic).astype(np.uint8), instance


def sixteen_classes(semantic: np.ndarray, instance: np.ndarray) -> Labels:
    """What a network with 16 classes may predict: a pixel aside, and other classes for those that it does not know."""
    table = np.arange(256, dtype=np.uint8)
    table[[CITYSCAPES.index(name) for name in ABSENT]] = [CITYSCAPES.index(n) for n in ("vegetation", "car", "bus")]
    table[IGNORE] = 0
    return np.roll(table[semantic], 1, 1), np.roll(instance, 1, 1)


@pytest.fixture(scope="module")
def conventions(truths: Truths, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scores]:
    """The same predictions scored over 16 classes by both conventions, and over all 19."""
    recipes = {
        "edaps": benchmark("synthia_to_cityscapes"),
        "cvrn": benchmark("synthia_to_cityscapes_cvrn"),
        "all": benchmark("synthia_to_cityscapes", "scoring.classes=null"),
        "semantic": benchmark("synthia_to_cityscapes_semantic"),
    }
    return {name: score(recipe, sixteen_classes, tmp_path_factory.mktemp(name)) for name, recipe in recipes.items()}


def test_sixteen_classes_by_edaps_are_nineteen_stretched(conventions: dict[str, Scores]) -> None:
    sixteen, nineteen = conventions["edaps"], conventions["all"]
    assert nineteen.averaged["vpq_1"] == nineteen.averaged["miou"] == CITYSCAPES.names
    assert sixteen.averaged["vpq_1"] == sixteen.averaged["miou"]
    assert set(CITYSCAPES.names) - set(sixteen.averaged["miou"]) == set(ABSENT)
    for name in ("miou", "pq", "sq", "rq"):
        assert 0.2 < getattr(sixteen, name) < 1
        assert getattr(sixteen, name) == pytest.approx(getattr(nineteen, name) * 19 / 16, abs=1e-12)
    parts = sixteen.headline(), nineteen.headline()
    assert parts[0]["pq_things"] == pytest.approx(parts[1]["pq_things"] * 8 / 6, abs=1e-12)
    assert parts[0]["pq_stuff"] == pytest.approx(parts[1]["pq_stuff"] * 11 / 10, abs=1e-12)


def test_cvrn_ignores_the_pixels_of_the_three_in_miou(conventions: dict[str, Scores]) -> None:
    counted, ignored = conventions["edaps"], conventions["cvrn"]
    labels = np.stack([semantic for semantic, _ in scored_labels(benchmark("synthia_to_cityscapes"))])
    predicted = np.stack([sixteen_classes(semantic, semantic)[0] for semantic in labels])
    absent = np.isin(labels, [CITYSCAPES.index(name) for name in ABSENT])
    for name in counted.averaged["miou"]:
        label, answer = (maps == CITYSCAPES.index(name) for maps in (labels, predicted))
        for scores, valid in ((counted, labels != IGNORE), (ignored, (labels != IGNORE) & ~absent)):
            assert scores.iou[name] == pytest.approx((label & answer & valid).sum() / ((label | answer) & valid).sum())
        assert ignored.iou[name] >= counted.iou[name]
        assert (ignored.iou[name] > counted.iou[name]) == (answer & absent).any()
    assert ignored.miou > counted.miou + 0.01


def test_cvrn_takes_the_three_for_no_void_in_pq(conventions: dict[str, Scores], tmp_path: Path) -> None:
    """A car predicted over a truck stays a false positive, as it would not over void; so both give the same PQ."""
    counted, ignored = (conventions[name].panoptic for name in ("edaps", "cvrn"))
    for name in conventions["edaps"].averaged["vpq_1"]:
        assert counted.per_class[name] == ignored.per_class[name]
    assert conventions["cvrn"].pq == pytest.approx(conventions["edaps"].pq, abs=1e-12)
    void = score(
        benchmark("synthia_to_cityscapes", f"evaluation.mapping={void_mapping(tmp_path)}"), sixteen_classes, tmp_path
    )
    assert void.panoptic.per_class["car"].fp == ignored.per_class["car"].fp - 1
    assert void.pq > conventions["cvrn"].pq


def void_mapping(folder: Path) -> Path:
    """The shipped mapping of Cityscapes, but for the three absent classes, which become void."""
    sheet = yaml.safe_load(
        (Path(vidapt.configs.__path__[0]) / "mappings/cityscapes_ids_to_cityscapes.yaml").read_text()
    )
    for name in ABSENT:
        sheet["ignored"] += sheet["classes"].pop(name)
        sheet.setdefault("missing", []).append(name)
    path = folder / "mapping.yaml"
    path.write_text(yaml.safe_dump(sheet))
    return path


def test_thirteen_classes_leave_out_wall_fence_and_pole_too(conventions: dict[str, Scores]) -> None:
    scores = conventions["semantic"]
    assert scores.pq is None
    assert scores.averaged["miou13"] == THIRTEEN
    assert scores.means["miou13"] == pytest.approx(np.mean([scores.iou[name] for name in THIRTEEN]))
    assert scores.miou == pytest.approx(conventions["edaps"].miou)
    assert scores.miou != pytest.approx(scores.means["miou13"])


def test_windows_of_cityscapes_vps_are_labelled_frames(tmp_path: Path) -> None:
    """Perfect predictions score 1 in every window; the frames are 5 apart, so windows span 0 to 15 frames."""
    recipe = benchmark("viper_to_cityscapes_vps")
    scores: Any = score(recipe, exact, tmp_path)
    assert scores.windows == (1, 2, 3, 4)
    assert sorted(scores.vpq_windows) == [1, 2, 3, 4]
    assert (scores.vpq, scores.stq, scores.miou) == pytest.approx((1, 1, 1))
    assert scores.vpq_long is None
    videos = scored_videos(recipe).dataset.index()
    assert all(np.diff([frame.number for frame in video.frames]).tolist() == [5] * 5 for video in videos)
