import json
import pickle

import numpy as np
import pytest
import torch

from vidapt.clip import PanopticFrame, Segment
from vidapt.errors import UserError
from vidapt.evaluation.runner import VideoEvaluator
from vidapt.labels import CAMVID, CITYSCAPES, CITYSCAPES_TO_CAMVID

ROAD, SKY, CAR, TRAIN = (CITYSCAPES.index(name) for name in ("road", "sky", "car", "train"))
SIZE = (8, 12)


def panoptic_frame(semantic, ids, index=0):
    segments = []
    for panoptic_id in np.unique(ids):
        mask = ids == panoptic_id
        is_thing = bool(panoptic_id >= 256)
        category = int(np.bincount(semantic[mask]).argmax()) if is_thing else int(panoptic_id) - 1
        segments.append(Segment(int(panoptic_id), category, is_thing, 1.0, int(mask.sum()), (0, 0, 1, 1)))
    return PanopticFrame(index, index / 10, semantic, ids, tuple(s for s in segments if s.id))


def street(cars=2, shift=0):
    """Sky over road with ``cars`` cars of 2x2 pixels: semantic and instance."""
    semantic = np.full(SIZE, SKY, np.uint8)
    semantic[4:] = ROAD
    instance = np.zeros(SIZE, np.int32)
    for number in range(cars):
        column = 1 + 4 * number + shift
        semantic[5:7, column : column + 2] = CAR
        instance[5:7, column : column + 2] = number + 1
    return semantic, instance


def predicted_ids(semantic, instance, first=256):
    return np.where(instance > 0, instance + first - 1, semantic.astype(np.int32) + 1).astype(np.int32)


def random_video(seed, frames=4):
    """Frames, semantic and instance targets; the predictions have errors."""
    rng = np.random.default_rng(seed)
    for index in range(frames):
        semantic, instance = street(shift=index % 2)
        wrong, lost = rng.random((2, *SIZE)) < 0.15
        guess = np.where(wrong, ROAD, semantic).astype(np.uint8)
        ids = predicted_ids(guess, np.where(guess == CAR, instance, 0), first=256 + int(rng.integers(2)))
        yield panoptic_frame(guess, np.where(lost, 0, ids).astype(np.int32), index), semantic, instance


def feed(evaluator, seed):
    still, visible = np.zeros((*SIZE, 2), np.float32), np.ones(SIZE, bool)
    for frame, semantic, instance in random_video(seed):
        evaluator.update(frame, semantic, instance, flow=(still, visible))
    evaluator.end_video()
    return evaluator


def perfect(frames=4, **options):
    evaluator = VideoEvaluator(CITYSCAPES, long_windows=(1, 2), **options)
    for index in range(frames):
        semantic, instance = street()
        evaluator.update(panoptic_frame(semantic, predicted_ids(semantic, instance), index), semantic, instance)
    evaluator.end_video()
    return evaluator.result()


def test_perfect_prediction():
    scores = perfect()
    assert (scores.miou, scores.pq, scores.sq, scores.rq) == (1, 1, 1, 1)
    assert (scores.vpq, scores.vpq_long, scores.stq, scores.aq, scores.stq_sq) == (1, 1, 1, 1, 1)
    assert (scores.id_switches, scores.frames, scores.labelled_frames, scores.videos) == (0, 4, 4, 1)
    assert scores.averaged["miou"] == scores.averaged["vpq_1"] == ("road", "sky", "car")
    assert len(scores.classes) == 19
    assert scores.flicker is None
    assert scores.tc is None


def test_no_frames():
    scores = VideoEvaluator(CITYSCAPES).result()
    assert np.isnan(scores.miou)
    assert (scores.pq, scores.vpq, scores.stq, scores.id_switches) == (None, None, None, None)
    json.dumps(scores.to_dict(), allow_nan=False)


def test_without_instances_panoptic_scores_are_none():
    semantic = np.zeros(SIZE, np.uint8)
    evaluator = VideoEvaluator(CAMVID)
    evaluator.update(PanopticFrame(0, 0.0, semantic, semantic + np.int32(1), ()), semantic, None)
    evaluator.end_video()
    scores = evaluator.result()
    assert scores.miou == 1
    headline = scores.headline()
    for name in ("pq", "sq", "rq", "vpq", "vpq_long", "stq", "aq", "stq_sq", "id_switches", "pq_things", "vpq_stuff"):
        assert headline[name] is None
    assert scores.panoptic is None
    assert "pq" not in scores.rows()[0]


def test_window_longer_than_every_video_is_undefined():
    scores = perfect(frames=3)
    assert np.isnan(scores.vpq)
    assert scores.headline()["vpq"] is None
    assert scores.vpq_long == 1
    assert scores.vpq_windows[3].all.pq == 1


def test_merge_equals_one_process():
    single = VideoEvaluator(CITYSCAPES)
    for seed in range(4):
        feed(single, seed)
    parts = [VideoEvaluator(CITYSCAPES) for _ in range(2)]
    for seed in range(4):
        feed(parts[seed % 2], seed)
    merged = pickle.loads(pickle.dumps(parts[0]))
    merged.merge(pickle.loads(pickle.dumps(parts[1])))
    assert_same(merged.result(), single.result())


def test_order_of_videos_does_not_matter():
    forward, backward = VideoEvaluator(CITYSCAPES), VideoEvaluator(CITYSCAPES)
    for seed in range(4):
        feed(forward, seed)
        feed(backward, 3 - seed)
    assert_same(forward.result(), backward.result())


def assert_same(first, second):
    for name, value in first.headline().items():
        assert second.headline()[name] == pytest.approx(value, abs=1e-12), name
    assert [row["class"] for row in first.rows()] == [row["class"] for row in second.rows()]
    for one, other in zip(first.rows(), second.rows(), strict=True):
        assert one == pytest.approx(other, abs=1e-12)
    assert (first.frames, first.videos, first.averaged) == (second.frames, second.videos, second.averaged)


def test_the_random_videos_are_neither_perfect_nor_hopeless():
    scores = feed(VideoEvaluator(CITYSCAPES), 0).result()
    for name in ("miou", "pq", "vpq", "stq", "aq", "flicker", "tc"):
        assert 0.02 < getattr(scores, name) < 0.98, name


def test_merge_refuses_other_settings_and_open_videos():
    with pytest.raises(UserError, match="different windows"):
        VideoEvaluator(CITYSCAPES).merge(VideoEvaluator(CITYSCAPES, windows=(1,)))
    with pytest.raises(UserError, match="different scored"):
        VideoEvaluator(CITYSCAPES).merge(VideoEvaluator(CITYSCAPES, scored_classes=["road"]))
    evaluator = VideoEvaluator(CITYSCAPES)
    evaluator.update(*next(random_video(0)))
    with pytest.raises(UserError, match="end_video"):
        VideoEvaluator(CITYSCAPES).merge(evaluator)
    with pytest.raises(UserError, match="end_video"):
        evaluator.result()


def test_unlabelled_frames_count_for_flicker_only():
    evaluator = VideoEvaluator(CITYSCAPES)
    still, visible = np.zeros((*SIZE, 2), np.float32), np.ones(SIZE, bool)
    semantic, instance = street()
    changed = semantic.copy()
    changed[0, :6] = ROAD
    for index, labels in enumerate((semantic, changed, semantic)):
        frame = panoptic_frame(labels, predicted_ids(labels, instance), index)
        evaluator.update(frame, semantic, instance, labelled=index != 1, flow=(still, visible))
    evaluator.end_video()
    scores = evaluator.result()
    assert (scores.miou, scores.pq, scores.frames, scores.labelled_frames) == (1, 1, 3, 2)
    assert scores.flicker == pytest.approx(6 / semantic.size)
    assert scores.tc < 1


def test_flow_does_not_reach_over_the_end_of_a_video():
    evaluator = VideoEvaluator(CITYSCAPES)
    still, visible = np.zeros((*SIZE, 2), np.float32), np.ones(SIZE, bool)
    for seed in range(3):
        frame, semantic, instance = next(random_video(seed))
        evaluator.update(frame, semantic, instance, flow=(still, visible))
        evaluator.end_video()
    assert evaluator.result().flicker is None


def test_dis_flow_where_none_is_given():
    """The scene moves by 4 pixels and the labels with it: no flicker along the flow, much without."""
    noise = np.random.default_rng(0).normal(size=(64, 140, 3)).cumsum(0).cumsum(1)
    image = np.uint8(255 * (noise - noise.min()) / np.ptp(noise))
    labels = np.where(np.arange(140) // 10 % 2, ROAD, SKY).astype(np.uint8)[None].repeat(64, 0)

    def flicker(moves):
        evaluator = VideoEvaluator(CITYSCAPES)
        for step in range(3):
            shown = np.ascontiguousarray(image[:, 4 * step : 4 * step + 128])
            given = np.ascontiguousarray(labels[:, 4 * step * moves : 4 * step * moves + 128])
            evaluator.update(panoptic_frame(given, given + np.int32(1)), labelled=False, image=shown)
        evaluator.end_video()
        return evaluator.result().flicker

    assert flicker(moves=1) < 0.05
    assert flicker(moves=0) > 0.3


def test_mapping_scores_classes_of_another_space():
    mapping = CITYSCAPES.map_to(CAMVID, CITYSCAPES_TO_CAMVID)
    predicted = np.full(SIZE, CITYSCAPES.index("wall"), np.uint8)
    predicted[:, :3] = CITYSCAPES.index("terrain")
    target = np.full(SIZE, CAMVID.index("building"), np.uint8)
    evaluator = VideoEvaluator(CAMVID, mapping=mapping)
    evaluator.update(panoptic_frame(predicted, predicted + np.int32(1)), target, None)
    evaluator.end_video()
    scores = evaluator.result()
    assert scores.iou["building"] == pytest.approx(9 / 12)
    assert scores.iou["tree"] == 0
    assert scores.averaged["miou"] == ("building", "tree")
    with pytest.raises(UserError, match="mapping covers mIoU only"):
        VideoEvaluator(CAMVID, mapping=mapping).update(
            panoptic_frame(predicted, predicted + np.int32(1)), target, np.zeros(SIZE, np.int32)
        )


def train_target():
    """The upper two rows are a train in the target, which the prediction calls road and sky."""
    semantic, instance = street()
    semantic[:2] = TRAIN
    instance[:2] = 9
    predicted, cars = street()
    predicted[0] = ROAD
    return panoptic_frame(predicted, predicted_ids(predicted, cars)), semantic, instance


@pytest.mark.parametrize(("unscored", "road", "sky"), [("counted", 40 / 52, 24 / 36), ("ignored", 1, 1)])
def test_both_conventions_for_unscored_classes(unscored, road, sky):
    evaluator = VideoEvaluator(CITYSCAPES, scored_classes=["road", "sky", "car"], unscored=unscored)
    evaluator.update(*train_target())
    evaluator.end_video()
    scores = evaluator.result()
    assert scores.iou["road"] == pytest.approx(road)
    assert scores.iou["sky"] == pytest.approx(sky)
    assert scores.averaged["miou"] == ("road", "sky", "car")
    per_class = scores.panoptic.per_class
    # In both conventions the pixels of the left-out class stay in the unions of PQ.
    assert per_class["road"].pq == pytest.approx(40 / 52)
    assert per_class["train"].fn == (1 if unscored == "counted" else 0)
    assert scores.panoptic.all.classes == ("road", "sky", "car")


def test_targets_may_be_tensors():
    frame, semantic, instance = next(random_video(0))
    arrays, tensors = VideoEvaluator(CITYSCAPES), VideoEvaluator(CITYSCAPES)
    arrays.update(frame, semantic, instance)
    tensors.update(frame, torch.from_numpy(semantic), torch.from_numpy(instance))
    for evaluator in (arrays, tensors):
        evaluator.end_video()
    assert arrays.result().headline() == tensors.result().headline()


def test_rows_and_dictionary():
    scores = feed(VideoEvaluator(CITYSCAPES, scored_classes=["road", "car"]), 0).result()
    rows = {row["class"]: row for row in scores.rows()}
    assert list(rows) == list(CITYSCAPES.names)
    assert rows["car"] == pytest.approx(
        {
            "class": "car",
            "kind": "thing",
            "scored": True,
            "iou": scores.iou["car"],
            "pq": scores.panoptic.per_class["car"].pq,
            "sq": scores.panoptic.per_class["car"].sq,
            "rq": scores.panoptic.per_class["car"].rq,
            "vpq": np.mean([scores.vpq_windows[n].per_class["car"].pq for n in (1, 2, 3, 4)]),
            "pq_dagger": scores.panoptic.per_class["car"].pq,
        }
    )
    assert rows["bus"]["iou"] is None
    assert not rows["sky"]["scored"]
    data = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert data["miou"] == pytest.approx(scores.miou)
    assert data["vpq_windows"]["2"]["things"]["classes"] == ["car"]
    assert data["classes"] == ["road", "car"]


def test_refuses_frames_that_do_not_fit():
    frame, semantic, instance = next(random_video(0))
    evaluator = VideoEvaluator(CITYSCAPES)
    with pytest.raises(UserError, match="labelled=False"):
        evaluator.update(frame)
    with pytest.raises(UserError, match="one size"):
        evaluator.update(frame, semantic[1:], instance[1:])
    with pytest.raises(UserError, match=r"0\.\.18 and 255"):
        evaluator.update(frame, np.full(SIZE, 40, np.uint8), instance)
    unlisted = PanopticFrame(0, 0.0, frame.semantic, frame.ids, ())
    with pytest.raises(UserError, match="neither void"):
        evaluator.update(unlisted, semantic, instance)
    evaluator.update(frame, semantic, instance)
    with pytest.raises(UserError, match="some frames have instance labels"):
        evaluator.update(frame, semantic, None)


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="uint8 table of 256"):
        VideoEvaluator(CITYSCAPES, mapping=np.zeros(19, np.uint8))
    with pytest.raises(UserError, match="window"):
        VideoEvaluator(CITYSCAPES, windows=())
