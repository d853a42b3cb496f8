"""Every metric that the evaluator can add equals its own accumulator, which is fed with maps of pixels here."""

import pickle
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vidapt.evaluation.random_videos import METRICS, feed, random_video
from vidapt import config
from vidapt.clip import IGNORE, PanopticFrame, Segment
from vidapt.errors import UserError
from vidapt.evaluation import extra_metrics
from vidapt.evaluation.boundary import CITYSCAPES_RATIO, boundary_panoptic
from vidapt.evaluation.constancy import VideoConstancy
from vidapt.evaluation.histogram import predicted_codes, target_codes
from vidapt.evaluation.instance import CityscapesAveragePrecision, CocoAveragePrecision, overlaps_of_frame
from vidapt.evaluation.instance_weighted import InstanceWeightedIou
from vidapt.evaluation.panoptic import PanopticCounts, panoptic_scores
from vidapt.evaluation.runner import FrameQuality, VideoEvaluator
from vidapt.evaluation.semantic import ScoredClasses, category_scores, confusion_matrix
from vidapt.labels import CAMVID, CITYSCAPES, LabelClass, LabelSpace

ROAD, SKY, PERSON, CAR, BUS, TRAIN = (
    CITYSCAPES.index(name) for name in ("road", "sky", "person", "car", "bus", "train")
)
LEFT_OUT = ("terrain", "truck", "train")
SIXTEEN = tuple(name for name in CITYSCAPES.names if name not in LEFT_OUT)
SEEDS = range(3)
LONG = 10


def everything(**options):
    return VideoEvaluator(CITYSCAPES, windows=(1, 2), long_windows=(), metrics=METRICS, **options)


@pytest.fixture(scope="module")
def frames():
    return [item for seed in SEEDS for item in random_video(seed, LONG)]


@pytest.fixture(scope="module")
def scores():
    evaluator = everything()
    for seed in SEEDS:
        feed(evaluator, seed, LONG)
    return evaluator.result()


def test_the_metrics_are_those_of_the_configuration():
    assert get_args(config.Metric) == extra_metrics.METRICS == METRICS


def test_the_random_videos_are_neither_perfect_nor_hopeless(scores):
    headline = scores.headline()
    for name in ("iiou", "iiou_categories", "miou_categories", "pq_dagger", "boundary_pq", "ap_coco", "ap50_coco"):
        assert 0.02 < headline[name] < 0.98, name
    for name in ("ap_cityscapes", "ap50_cityscapes", "vc8", "pq_dagger_stuff", "boundary_pq_things"):
        assert 0.02 < headline[name] < 0.98, name
    assert scores.pq_dagger != scores.pq
    assert scores.boundary_pq < scores.pq


def test_average_precision(frames, scores):
    coco, cityscapes = CocoAveragePrecision(CITYSCAPES), CityscapesAveragePrecision(CITYSCAPES)
    for item in frames:
        overlaps = overlaps_of_frame(item.frame, item.semantic, item.instance, CITYSCAPES)
        coco.update(item.name, overlaps)
        cityscapes.update(item.name, overlaps)
    for ours, expected in ((scores.extra.coco, coco.result()), (scores.extra.cityscapes, cityscapes.result())):
        assert pickle.dumps(ours) == pickle.dumps(expected)
    assert (scores.ap_coco, scores.ap50_coco) == (coco.result().ap, coco.result().ap50)
    assert (scores.ap_cityscapes, scores.ap50_cityscapes) == (cityscapes.result().ap, cityscapes.result().ap50)
    assert scores.averaged["ap_coco"] == coco.result().classes
    assert scores.averaged["ap_cityscapes"] == cityscapes.result().classes


def test_scores_of_segments_decide_average_precision(frames, scores):
    evaluator = VideoEvaluator(CITYSCAPES, metrics=["ap_coco"])
    for item in frames:
        segments = tuple(replace(segment, score=1 - segment.score) for segment in item.frame.segments)
        evaluator.update(replace(item.frame, segments=segments), item.semantic, item.instance, name=item.name)
    evaluator.end_video()
    assert evaluator.result().ap_coco != scores.ap_coco


def test_instance_weighted_iou(frames, scores):
    weighted, scored = InstanceWeightedIou(CITYSCAPES), ScoredClasses.of(CITYSCAPES)
    for item in frames:
        weighted.update(item.semantic, item.instance, item.frame.semantic)
    found = scores.extra.instance_weighted
    assert list(found.iou.values()) == pytest.approx(weighted.iou().tolist(), abs=1e-12, nan_ok=True)
    assert scores.iiou == pytest.approx(scored.mean(weighted.iou()).value, abs=1e-12)
    assert scores.averaged["iiou"] == ("person", "car", "bus", "train") == found.classes
    assert scores.iiou_categories == pytest.approx(weighted.categories(scored).mean, abs=1e-12)
    assert scores.averaged["iiou_categories"] == ("human", "vehicle")


def test_boundary_quality(frames, scores):
    total = PanopticCounts.zeros(19)
    for item in frames:
        categories = {segment.id: segment.category for segment in item.frame.segments}
        codes = target_codes(item.semantic, item.instance, CITYSCAPES.is_thing)
        predicted = predicted_codes(item.frame.ids, categories, 19)
        total += boundary_panoptic(codes, predicted, CITYSCAPES.is_thing, 19, CITYSCAPES_RATIO)
    expected = panoptic_scores(total, ScoredClasses.of(CITYSCAPES))
    assert scores.extra.boundary == expected or pickle.dumps(scores.extra.boundary) == pickle.dumps(expected)
    assert scores.averaged["boundary_pq"] == expected.all.classes
    assert scores.extra.boundary_ratio == CITYSCAPES_RATIO
    wide = everything(boundary_ratio=0.05)
    for seed in SEEDS:
        feed(wide, seed, LONG)
    assert wide.result().boundary_pq != scores.boundary_pq


def test_constancy(scores):
    constancy = VideoConstancy((8, 16))
    for seed in SEEDS:
        for item in random_video(seed, LONG):
            constancy.update(item.semantic, item.frame.semantic)
        constancy.end_video()
    assert scores.extra.constancy[8] == constancy.result()[8]
    assert np.isnan(scores.extra.constancy[16]), "no video has 17 frames"
    assert (scores.headline()["vc8"], scores.headline()["vc16"]) == (constancy.result()[8], None)


def test_categories(frames, scores):
    confusion = sum(confusion_matrix(item.semantic, item.frame.semantic, 19) for item in frames)
    expected = category_scores(confusion, ScoredClasses.of(CITYSCAPES))
    assert scores.categories == expected or pickle.dumps(scores.categories) == pickle.dumps(expected)
    assert scores.miou_categories == expected.mean
    assert scores.averaged["miou_categories"] == ("flat", "nature", "sky", "human", "vehicle")


def test_pq_dagger(frames, scores):
    """Stuff by hand: the sum of the IoU in each frame that has the class, however small, over the number of these."""
    for name in ("road", "sky", "vegetation", "terrain"):
        ious = []
        for item in frames:
            target, void = item.semantic == CITYSCAPES.index(name), item.semantic == IGNORE
            predicted = item.frame.ids == CITYSCAPES.index(name) + 1
            if target.any():
                ious.append((target & predicted).sum() / ((target | predicted) & ~(predicted & void)).sum())
        assert scores.dagger.per_class[name].pq == pytest.approx(np.mean(ious)), name
    for name in ("person", "car", "bus", "train"):
        assert scores.dagger.per_class[name] == scores.panoptic.per_class[name]
    assert scores.pq_dagger == scores.dagger.all.pq
    assert scores.averaged["pq_dagger"] == scores.dagger.all.classes
    assert scores.headline()["pq_dagger_things"] == scores.headline()["pq_things"]


def test_nothing_extra_is_measured_unless_asked_for(frames):
    evaluator = VideoEvaluator(CITYSCAPES)
    evaluator.update(frames[0].frame, frames[0].semantic, frames[0].instance)
    evaluator.end_video()
    scores = evaluator.result()
    assert (scores.ap_coco, scores.ap_cityscapes, scores.boundary_pq, scores.iiou, scores.iiou_categories) == (
        None,
    ) * 5
    assert scores.extra.constancy is None
    assert scores.columns() == ("iou", "pq", "sq", "rq", "vpq", "pq_dagger")
    assert not {"ap_coco", "iiou", "vc8"} & scores.averaged.keys()
    assert scores.pq_dagger is not None
    assert scores.miou_categories is not None


def test_what_needs_instances_is_none_without_them(frames):
    evaluator = everything()
    for item in frames[:LONG]:
        quality = evaluator.update(item.frame, item.semantic)
        assert quality.pq is None
        assert 0 < quality.miou < 1
    evaluator.end_video()
    scores = evaluator.result()
    for name in (
        "pq_dagger",
        "boundary_pq",
        "ap_coco",
        "ap50_cityscapes",
        "iiou",
        "iiou_categories",
        "pq_dagger_stuff",
    ):
        assert scores.headline()[name] is None, name
    assert (scores.extra.coco, scores.extra.instance_weighted, scores.dagger) == (None, None, None)
    assert 0 < scores.headline()["vc8"] < 1
    assert 0 < scores.miou_categories < 1
    assert scores.columns() == ("iou",)


def test_a_space_without_groups_has_no_categories():
    space = LabelSpace("toy", tuple(LabelClass(name, False, (0, 0, i)) for i, name in enumerate("ab")))
    evaluator = VideoEvaluator(space)
    semantic = np.zeros((2, 3), np.uint8)
    evaluator.update(PanopticFrame(0, 0.0, semantic, semantic + np.int32(1), ()), semantic)
    evaluator.end_video()
    scores = evaluator.result()
    assert (scores.categories, scores.miou_categories) == (None, None)
    assert "miou_categories" not in scores.averaged


def test_void_classes_of_the_space_have_no_row():
    classes = (LabelClass("a", False, (0, 0, 0)), LabelClass("mist", False, (0, 0, 1), is_void=True))
    scores = VideoEvaluator(LabelSpace("toy", classes)).result()
    assert [row["class"] for row in scores.rows()] == ["a"]


def test_further_means():
    evaluator = VideoEvaluator(CITYSCAPES, scored_classes=SIXTEEN, means={"miou_flat": ["road", "sidewalk"], "m": [11]})
    for seed in SEEDS:
        feed(evaluator, seed)
    scores = evaluator.result()
    assert scores.means == {"miou_flat": scores.iou["road"], "m": scores.iou["person"]}
    assert scores.averaged["miou_flat"] == ("road",), "no frame has a sidewalk"
    assert scores.headline()["m"] == scores.to_dict()["m"] == scores.iou["person"]


@pytest.mark.parametrize("name", ["miou", "classes", "rows", "vc8", "vpq_2", "pq_things", "extra"])
def test_further_means_take_no_name_that_is_in_use(name):
    with pytest.raises(UserError, match=f"cannot be called '{name}', another score's name; try miou13"):
        VideoEvaluator(CITYSCAPES, means={name: ["road"]})


def test_refuses_what_the_protocol_cannot_average():
    with pytest.raises(UserError, match="train is not scored by this protocol"):
        VideoEvaluator(CITYSCAPES, scored_classes=SIXTEEN, means={"miou13": ["road", "train"]})
    with pytest.raises(UserError, match="unknown metric 'ap'; those that can be added are ap_coco, ap_cityscapes"):
        VideoEvaluator(CITYSCAPES, metrics=["ap"])
    with pytest.raises(UserError, match="average precision is for things"):
        VideoEvaluator(CITYSCAPES, scored_classes=["road"], metrics=["ap_coco"])
    with pytest.raises(UserError, match="average size in pixels"):
        VideoEvaluator(CAMVID, metrics=["instance_weighted"])
    VideoEvaluator(CITYSCAPES, scored_classes=["road"], metrics=["boundary", "constancy"])


def test_the_quality_of_a_frame_is_its_score_alone(frames):
    evaluator = VideoEvaluator(CITYSCAPES, scored_classes=SIXTEEN)
    for item in frames:
        quality = evaluator.update(item.frame, item.semantic, item.instance)
        alone = VideoEvaluator(CITYSCAPES, scored_classes=SIXTEEN)
        alone.update(item.frame, item.semantic, item.instance)
        alone.end_video()
        assert (quality.miou, quality.pq) == (alone.result().miou, alone.result().pq)


def test_frames_without_labels_have_no_quality_and_frames_of_void_an_undefined_one(frames):
    item, evaluator = frames[0], VideoEvaluator(CITYSCAPES)
    assert evaluator.update(item.frame, item.semantic, item.instance, labelled=False) is None
    quality = evaluator.update(item.frame, np.full_like(item.semantic, IGNORE), np.zeros_like(item.instance))
    assert isinstance(quality, FrameQuality)
    assert np.isnan(quality.miou)
    assert np.isnan(quality.pq)


def test_a_frame_without_labels_parts_the_windows_of_constancy(frames):
    """A stretch of n labelled frames has n - 8 windows of 8, as a video of n frames has."""
    for gap, windows in ((None, 2), (5, 0), (1, 0), (0, 1), (LONG - 1, 1)):
        evaluator = everything()
        for index, item in enumerate(frames[:LONG]):
            evaluator.update(item.frame, item.semantic, item.instance, labelled=index != gap)
        evaluator.end_video()
        assert evaluator._extra._constancy.count[8] == windows, gap


def test_constancy_ends_with_the_video(frames):
    evaluator = everything()
    for index, item in enumerate(frames[:LONG]):
        if index == 5:
            evaluator.end_video()
        evaluator.update(item.frame, item.semantic, item.instance)
    evaluator.end_video()
    assert np.isnan(evaluator.result().extra.constancy[8])


def test_frames_are_named_after_video_and_index_if_they_have_no_name(frames):
    evaluator = VideoEvaluator(CITYSCAPES, metrics=["ap_coco"])
    for _ in range(2):
        for item in frames[:2]:
            evaluator.update(item.frame, item.semantic, item.instance)
        evaluator.end_video()
    numbers = ((0, 0), (0, 1), (1, 0), (1, 1))
    assert list(evaluator._extra._coco._images) == [f"video {v:06d} frame {f:06d}" for v, f in numbers]


def test_a_frame_that_is_refused_counts_nowhere(frames):
    item, evaluator = frames[0], everything()
    evaluator.update(item.frame, item.semantic, item.instance, name="a")
    before = pickle.dumps(evaluator)
    unlisted = replace(item.frame, segments=())
    for frame, name, message in ((item.frame, "a", "'a' has been added before"), (unlisted, "b", "neither void")):
        with pytest.raises(UserError, match=message):
            evaluator.update(frame, item.semantic, item.instance, name=name)
    with pytest.raises(UserError, match=r"0\.\.18 and 255"):
        evaluator.update(item.frame, np.full_like(item.semantic, 40), item.instance, name="c")
    for value in (300, -1):
        with pytest.raises(UserError, match=rf"the target has label {value}; train ids are 0\.\.254 and 255"):
            evaluator.update(item.frame, np.full(item.semantic.shape, value), item.instance, name="c")
        wrong = replace(item.frame, semantic=np.full(item.semantic.shape, value))
        with pytest.raises(UserError, match=rf"the prediction has label {value}; train ids are"):
            evaluator.update(wrong, item.semantic, item.instance, name="c")
    assert pickle.dumps(evaluator) == before


def smaller(item):
    """The frame without its last row."""
    frame = replace(item.frame, semantic=item.frame.semantic[:-1], ids=item.frame.ids[:-1])
    return replace(item, frame=frame, semantic=item.semantic[:-1], instance=item.instance[:-1])


@pytest.mark.parametrize("metrics", [METRICS, ("ap_coco", "boundary")])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_frame_of_another_size_counts_nowhere(frames, metrics, labelled):
    item, small = frames[0], smaller(frames[1])
    size = item.semantic.shape
    flow, image = (np.zeros((*size, 2), np.float32), np.ones(size, bool)), np.zeros((*size, 3), np.uint8)
    evaluator = VideoEvaluator(CITYSCAPES, metrics=metrics)
    evaluator.update(item.frame, item.semantic, item.instance, image=image, name="a")
    before = pickle.dumps(evaluator)
    for moved in ({"flow": flow}, {"image": image[:-1]}, {"image": image}):
        with pytest.raises(UserError, match=r"must be of one size, got 64x47, 64x48"):
            evaluator.update(small.frame, small.semantic, small.instance, labelled=labelled, name="b", **moved)
    if labelled and "constancy" in metrics:
        with pytest.raises(UserError, match="VC compares label maps of one size"):
            evaluator.update(small.frame, small.semantic, small.instance, name="b")
    with pytest.raises(UserError, match="one size"):
        evaluator.update(frames[1].frame, frames[1].semantic, frames[1].instance, image=image[1:], name="b")
    assert pickle.dumps(evaluator) == before


def test_a_refused_first_frame_does_not_decide_on_instances(frames):
    item, evaluator = frames[0], everything()
    with pytest.raises(UserError, match="neither void"):
        evaluator.update(replace(item.frame, segments=()), item.semantic, item.instance)
    evaluator.update(item.frame, item.semantic, None)


def rated(item, score):
    segments = tuple(replace(segment, score=score) for segment in item.frame.segments)
    return replace(item.frame, segments=segments)


def test_average_precision_is_not_measured_without_scores(frames):
    """Everything else is as with scores."""
    found = {}
    for score_ in (0.5, float("nan")):
        evaluator = everything()
        for item in frames[:3]:
            evaluator.update(rated(item, score_), item.semantic, item.instance, name=item.name)
        evaluator.end_video()
        found[score_ == 0.5] = evaluator.result()
    with_scores, without = found[True], found[False]
    assert without.extra.unrated
    assert not with_scores.extra.unrated
    assert "ap_coco" not in without.averaged
    names = ("ap_coco", "ap50_coco", "ap_cityscapes", "ap50_cityscapes")
    assert [without.headline()[name] for name in names] == [None] * 4
    assert all(with_scores.headline()[name] is not None for name in names)
    for name, value in without.headline().items():
        assert name in names or value == with_scores.headline()[name]


def test_some_things_with_scores_are_refused_and_count_nowhere(frames):
    (first, second, third, *_), nan = frames, float("nan")
    evaluator = everything()
    evaluator.update(rated(first, 0.5), first.semantic, first.instance, name="first")
    before = pickle.dumps(evaluator)
    with pytest.raises(UserError, match=r"frame 'b': .* no score, but those of frame 'first' have; average precision"):
        evaluator.update(rated(second, nan), second.semantic, second.instance, name="b")
    things = [segment for segment in third.frame.segments if segment.is_thing]
    mixed = replace(third.frame, segments=(*third.frame.segments[:-1], replace(third.frame.segments[-1], score=nan)))
    assert len(things) > 1
    assert mixed.segments[-1].is_thing
    with pytest.raises(UserError, match=r"frame 'c': some predicted things have a score and some have none"):
        evaluator.update(mixed, third.semantic, third.instance, name="c")
    assert pickle.dumps(evaluator) == before
    VideoEvaluator(CITYSCAPES).update(mixed, third.semantic, third.instance)
    other = everything()
    other.update(rated(second, nan), second.semantic, second.instance, name="d")
    for one in (evaluator, other):
        one.end_video()
    before = pickle.dumps(evaluator)
    with pytest.raises(UserError, match=r"frame 'd': .* no score, but those of frame 'first' have"):
        evaluator.merge(other)
    assert pickle.dumps(evaluator) == before


def test_merge_compares_the_mapping():
    other = np.arange(256).astype(np.uint8)
    other[3] = 255
    tables = (None, np.arange(256).astype(np.uint8), other)
    evaluators = [VideoEvaluator(CITYSCAPES, mapping=table) for table in tables]
    for first in evaluators:
        for second in evaluators:
            if first is second:
                first.merge(pickle.loads(pickle.dumps(first)))
            else:
                with pytest.raises(UserError, match="evaluators with different mapping cannot be merged"):
                    first.merge(second)


def test_rows_of_ignored_classes_are_empty(frames):
    for unscored in ("ignored", "counted"):
        rows = {row["class"]: row for row in score(frames, unscored=unscored).rows()}
        values = {value for key, value in rows["train"].items() if key not in ("class", "kind", "scored")}
        assert (values == {None}) == (unscored == "ignored")
        assert rows["road"]["iou"] is not None


def test_void_predictions_in_the_sq_of_stq_are_told(frames):
    item = frames[0]
    for void in (True, False):
        ids = item.frame.ids.copy()
        ids[ids == 0] = 0 if void else item.frame.segments[0].id
        evaluator = VideoEvaluator(CITYSCAPES)
        evaluator.update(replace(item.frame, ids=ids), item.semantic, item.instance)
        evaluator.end_video()
        assert evaluator.result().tracking.void is void


def ignoring(item):
    """The frame with the left-out classes as void, as label files would have them."""
    gone = np.isin(item.semantic, [CITYSCAPES.index(name) for name in LEFT_OUT])
    instance = np.where(gone, 0, item.instance).astype(np.int32)
    return replace(item, semantic=np.where(gone, IGNORE, item.semantic).astype(np.uint8), instance=instance)


def score(items, **options):
    evaluator = everything(scored_classes=SIXTEEN, **options)
    for first, second in pairwise([*items, None]):
        evaluator.update(first.frame, first.semantic, first.instance, name=first.name)
        if second is None or second.frame.index == 0:
            evaluator.end_video()
    return evaluator.result()


PANOPTIC_FAMILY = ("pq", "sq", "rq", "vpq", "pq_dagger", "boundary_pq")


def test_ignored_classes_are_void_to_all_but_the_panoptic_qualities(frames):
    ignored, void = score(frames, unscored="ignored"), score([ignoring(item) for item in frames])
    counted = score(frames)
    assert ignored.id_switches == counted.id_switches, "objects of every class count"
    kept = [name for name in ignored.headline() if not name.startswith((*PANOPTIC_FAMILY, "id_switches"))]
    assert {"miou", "miou_categories", "iiou", "iiou_categories", "ap_coco", "ap_cityscapes", "vc8", "stq"} <= {*kept}
    for name in kept:
        assert ignored.headline()[name] == void.headline()[name], name
    for name in ("miou", "miou_categories", "iiou", "iiou_categories", "ap_cityscapes", "vc8", "stq"):
        assert ignored.headline()[name] != counted.headline()[name], name
    assert ignored.ap_coco == counted.ap_coco, "COCO's definition knows no void"
    for name in PANOPTIC_FAMILY:
        assert ignored.headline()[name] != void.headline()[name], name
        assert ignored.headline()[name] == pytest.approx(counted.headline()[name], abs=1e-12), name
    assert (ignored.unscored, counted.unscored) == ("ignored", "counted")


def test_ignored_classes_have_no_quality_of_their_own(frames):
    ignored, counted = score(frames, unscored="ignored"), score(frames)
    for scores, missed in ((ignored, 0), (counted, 1)):
        for quality in (scores.panoptic, scores.extra.boundary):
            assert (quality.per_class["train"].fn > 0) == missed
        # The number of target segments stands in the place of tp here.
        assert (scores.dagger.per_class["terrain"].tp > 0) == missed
        assert np.isnan(scores.extra.cityscapes.per_class["train"].ap) != missed
        assert np.isnan(scores.extra.coco.per_class["train"].ap) != missed
    assert "train" not in counted.averaged["ap_coco"]
    assert "terrain" not in counted.averaged["pq_dagger"]


def bus_on_a_train(unscored, **options):
    """A frame of road whose train the prediction calls a bus, beside a bus that is found."""
    semantic = np.full((40, 60), ROAD, np.uint8)
    semantic[5:25, 5:25], semantic[5:25, 30:50] = TRAIN, BUS
    instance = np.where(semantic == ROAD, 0, np.where(semantic == BUS, 1, 2)).astype(np.int32)
    guess = np.where(semantic == TRAIN, BUS, semantic).astype(np.uint8)
    ids = np.where(semantic == TRAIN, 301, np.where(semantic == BUS, 300, ROAD + 1)).astype(np.int32)
    segments = (
        Segment(1, ROAD, False, 1.0, 1600, (0, 0, 60, 40)),
        *(Segment(300 + k, BUS, True, 0.5 + k / 10, 400, (0, 0, 1, 1)) for k in range(2)),
    )
    evaluator = VideoEvaluator(CITYSCAPES, scored_classes=SIXTEEN, unscored=unscored, metrics=METRICS, **options)
    evaluator.update(PanopticFrame(0, 0.0, guess, ids, segments), semantic, instance)
    evaluator.end_video()
    return evaluator.result()


def test_a_bus_on_a_train_by_each_convention():
    """The bus that is wrong scores higher than the right one: precision 1/2 where it counts."""
    counted, ignored = bus_on_a_train("counted"), bus_on_a_train("ignored")
    assert (counted.iou["bus"], ignored.iou["bus"]) == (0.5, 1)
    # One bus of average size weighs as much as 35732 pixels, the false positive 400.
    size = 35732.1511111111
    assert counted.extra.instance_weighted.iou["bus"] == pytest.approx(size / (size + 400))
    assert ignored.extra.instance_weighted.iou["bus"] == 1
    assert counted.extra.cityscapes.per_class["bus"].ap < 0.7
    assert ignored.extra.cityscapes.per_class["bus"].ap == pytest.approx(1)
    assert counted.extra.coco.per_class["bus"].ap == ignored.extra.coco.per_class["bus"].ap < 0.7
    for scores in (counted, ignored):
        for quality in (scores.panoptic, scores.dagger, scores.extra.boundary):
            assert (quality.per_class["bus"].tp, quality.per_class["bus"].fp) == (1, 1)


def assert_equal_scores(first, second):
    """All counts and names are the same and all numbers up to the order of sums; average precision to the last bit."""
    one, other = first.to_dict(), second.to_dict()
    assert flat(one).keys() == flat(other).keys()
    for key, value in flat(one).items():
        assert flat(other)[key] == (pytest.approx(value, abs=1e-12) if isinstance(value, float) else value), key
    for name in ("coco", "cityscapes"):
        assert one["extra"][name] == other["extra"][name]
    assert (first.miou, first.means) == (second.miou, second.means)
    assert one["categories"] == other["categories"]


def flat(data, prefix=""):
    """Leaves of nested data by path."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    leaves = {}
    for key, value in items:
        name = f"{prefix}/{key}"
        leaves |= flat(value, name) if isinstance(value, dict | list) else {name: value}
    return leaves


@settings(max_examples=8)
@given(st.data())
def test_however_the_videos_are_shared_the_scores_are_those_of_one_process(data):
    lengths = data.draw(st.lists(st.sampled_from([1, 3, 9]), min_size=1, max_size=4))
    processes = data.draw(st.integers(1, 3))
    owner = [data.draw(st.integers(0, processes - 1)) for _ in lengths]
    options = {
        "scored_classes": data.draw(st.sampled_from([None, SIXTEEN])),
        "unscored": data.draw(st.sampled_from(["counted", "ignored"])),
        "means": {"miou2": ["road", "car"]},
    }
    single, parts = everything(**options), [everything(**options) for _ in range(processes)]
    for seed, (length, process) in enumerate(zip(lengths, owner, strict=True)):
        assert feed(single, seed, length) == feed(parts[process], seed, length)
    merged = everything(**options)
    for part in data.draw(st.permutations(parts)):
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert_equal_scores(single.result(), merged.result())


def test_merge_refuses_other_settings():
    for name, options in (
        ("metrics", {"metrics": ["ap_coco"]}),
        ("boundary_ratio", {"boundary_ratio": 0.02}),
        ("means", {"means": {"miou13": ["road"]}}),
        ("unscored", {"unscored": "ignored"}),
    ):
        with pytest.raises(UserError, match=f"different {name} cannot be merged"):
            VideoEvaluator(CITYSCAPES).merge(VideoEvaluator(CITYSCAPES, **options))
    VideoEvaluator(CITYSCAPES, metrics=METRICS).merge(VideoEvaluator(CITYSCAPES, metrics=METRICS[::-1]))


def test_a_merge_that_is_refused_adds_nothing():
    first, second = everything(), everything()
    for evaluator in (first, second):
        feed(evaluator, 0)
    before = pickle.dumps(first)
    with pytest.raises(UserError, match="'video 0 frame 0' has been added before"):
        first.merge(second)
    assert pickle.dumps(first) == before
