"""Identities over time: crossings, occlusion, holes, cuts, bounds, determinism."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidapt.errors import CheckpointError, ConfigError, VidaptError
from vidapt.tracking.calibrate import CosinePairs
from vidapt.tracking.detections import Detections
from vidapt.tracking.tracker import ID_LIMIT, OnlineTracker

CLASSES = 4
RED, BLUE = (1.0, 0.0), (0.0, 1.0)


def _tracker(**options):
    return OnlineTracker(classes=CLASSES, **options)


def _car(x, y=20, width=12, height=10):
    return (x, y, x + width, y + height)


def test_smoke_and_output_fields(draw):
    out = _tracker().update(draw([_car(5), _car(40)], classes=[1, 2], scores=[0.9, 0.6]))
    assert out.ids.tolist() == [256, 257]
    assert out.ids.dtype == np.int32
    assert out.categories.tolist() == [1, 2]
    assert out.scores.tolist() == pytest.approx([0.9, 0.6])
    assert out.hits.tolist() == out.ages.tolist() == [1, 1]
    assert out.agreement.tolist() == [1, 1]


def test_two_objects_that_cross_keep_their_ids(draw):
    tracker, expected = _tracker(), None
    for t in range(30):
        out = tracker.update(draw([_car(2 + 3 * t), _car(80 - 3 * t, y=25)]))
        expected = expected or out.ids.tolist()
        assert out.ids.tolist() == expected


def test_full_occlusion_while_crossing(draw):
    # The second car passes wholly behind the first, which stands still.
    tracker, hidden = _tracker(embedding_threshold=0.5), []
    for t in range(30):
        boxes = [_car(40, width=24, height=20), _car(4 + 3 * t, y=22, width=14)]
        out = draw(boxes, embeddings=[RED, BLUE])
        visible = bool((out.labels == 2).any())
        ids = tracker.update(out).ids.tolist()
        assert ids[0] == 256
        assert ids[1] == (257 if visible else 0)
        hidden.append(not visible)
    assert 1 <= sum(hidden) <= 10
    assert not hidden[-1]


def test_prediction_bridges_misses_of_a_fast_object(draw):
    def second_id(**options):
        tracker = _tracker(**options)
        for t in range(4):
            tracker.update(draw([_car(5 + 6 * t)]))
        for _ in range(4):
            tracker.update(draw([]))
        return tracker.update(draw([_car(5 + 6 * 8)])).ids[0]

    assert second_id() == 256
    assert second_id(motion=False) == 257


def test_exit_and_return_make_a_new_id(draw):
    tracker = _tracker(embedding_threshold=0.5)
    for x in (20, 14, 8, 2, -4, -10):
        out = tracker.update(draw([_car(x)], embeddings=[RED]))
        assert out.ids.tolist() == [256]
    for _ in range(3):
        tracker.update(draw([]))
    assert len(tracker) == 0
    assert tracker.update(draw([_car(0)], embeddings=[RED])).ids.tolist() == [257]


def test_holes_age_and_move_the_tracks(draw):
    tracker = _tracker(memory=10)
    for t in range(4):
        tracker.update(draw([_car(5 + 4 * t)]))
    assert tracker.update(draw([_car(5 + 4 * 11)]), frame_gap=8).ids.tolist() == [256]
    for gap, expected in ((11, 256), (12, 257)):
        tracker = _tracker(memory=10)
        tracker.update(draw([_car(30)]))
        assert tracker.update(draw([_car(30)]), frame_gap=gap).ids.tolist() == [expected]


def test_lost_tracks_die_after_the_memory(draw):
    for missed, expected in ((5, 256), (6, 257)):
        tracker = _tracker(memory=5)
        tracker.update(draw([_car(30)]))
        for _ in range(missed):
            tracker.update(draw([]))
        assert tracker.update(draw([_car(30)])).ids.tolist() == [expected]


def test_class_flips_change_neither_id_nor_class(draw):
    tracker, agreement = _tracker(), []
    for t in range(20):
        out = tracker.update(draw([_car(30)], classes=[2 if t % 4 == 3 else 1]))
        assert out.ids.tolist() == [256]
        assert out.categories.tolist() == [1]
        agreement.append(float(out.agreement[0]))
    assert agreement[2] == 1
    assert 0.5 < agreement[-1] < 0.8
    assert out.hits.tolist() == out.ages.tolist() == [20]


def test_agreement_is_the_decayed_share_of_votes(draw):
    tracker = _tracker(vote_decay=0.5)
    for category in (1, 1, 2):
        out = tracker.update(draw([_car(30)], classes=[category]))
    assert out.categories.tolist() == [2]
    assert out.agreement[0] == pytest.approx(1 / 1.75)


def test_birth_needs_the_birth_score_and_low_scores_continue(draw):
    tracker = _tracker()
    assert tracker.update(draw([_car(30)], scores=[0.45])).ids.tolist() == [0]
    assert len(tracker) == 0
    assert tracker.update(draw([_car(30)], scores=[0.5])).ids.tolist() == [256]
    out = tracker.update(draw([_car(31)], scores=[0.2]))
    assert (out.ids.tolist(), out.hits.tolist()) == ([256], [2])
    assert tracker.update(draw([_car(32)], scores=[0.05])).ids.tolist() == [0]


def test_high_scores_choose_first(draw):
    # A weak detection covers 60% of the track, a strong one 40%: the strong one continues it.
    tracker = _tracker()
    tracker.update(draw([(30, 20, 40, 30)]))
    out = tracker.update(draw([(30, 20, 40, 26), (30, 26, 40, 30)], scores=[0.3, 0.9]))
    assert out.ids.tolist() == [0, 256]


def test_appearance_links_what_overlap_cannot(draw):
    def ids(**options):
        tracker = _tracker(**options)
        tracker.update(draw([_car(10), _car(50)], embeddings=[RED, BLUE]))
        return tracker.update(draw([_car(22), _car(62)], embeddings=[RED, BLUE])).ids.tolist()

    assert ids(embedding_threshold=0.5) == [256, 257]
    assert ids() == [258, 259]


def test_appearance_needs_cosine_and_reach(draw):
    tracker = _tracker(embedding_threshold=0.5)
    tracker.update(draw([_car(10)], embeddings=[RED]))
    assert tracker.update(draw([_car(23)], embeddings=[BLUE])).ids.tolist() == [257]
    tracker = _tracker(embedding_threshold=0.5)
    tracker.update(draw([_car(10)], embeddings=[RED]))
    assert tracker.update(draw([_car(80)], embeddings=[RED])).ids.tolist() == [257]


def test_weak_detections_neither_use_nor_change_appearance(draw):
    tracker = _tracker(embedding_threshold=0.5)
    tracker.update(draw([_car(30)], embeddings=[RED]))
    assert tracker.update(draw([_car(43)], scores=[0.4], embeddings=[RED])).ids.tolist() == [0]
    for _ in range(8):
        assert tracker.update(draw([_car(30)], scores=[0.4], embeddings=[BLUE])).ids.tolist() == [256]
    assert tracker.update(draw([_car(43)], embeddings=[RED])).ids.tolist() == [256]


def test_embeddings_may_come_late_or_be_missing(draw):
    tracker = _tracker(embedding_threshold=0.5)
    for vectors in (None, [RED], None, [RED]):
        assert tracker.update(draw([_car(30)], embeddings=vectors)).ids.tolist() == [256]
    with pytest.raises(ValueError, match="embeddings have 3 values, earlier ones had 2"):
        tracker.update(draw([_car(30)], embeddings=[(1, 0, 0)]))


def test_scene_cut_links_only_through_embeddings(draw):
    tracker = _tracker(embedding_threshold=0.5)
    for t in range(3):
        tracker.update(draw([_car(5 + t), _car(60)], embeddings=[RED, BLUE]))
    tracker.scene_cut()
    out = tracker.update(draw([_car(60), _car(5)], embeddings=[RED, (-1.0, -1.0)]))
    assert out.ids.tolist() == [256, 258]
    assert tracker.update(draw([_car(60), _car(5)], embeddings=None)).ids.tolist() == [256, 258]


def test_scene_cut_without_embeddings_starts_anew(draw):
    tracker = _tracker()
    tracker.update(draw([_car(5)]))
    tracker.scene_cut()
    assert len(tracker) == 0
    assert tracker.update(draw([_car(5)])).ids.tolist() == [257]


def test_a_newer_track_in_place_of_a_lost_one_replaces_it(draw):
    tracker = _tracker()
    for t in range(3):
        tracker.update(draw([_car(10 + 4 * t)]))
    # The lost track is expected to pass the place where a new object stands since then.
    tracker.update(draw([]))
    ids = [tracker.update(draw([_car(58)])).ids[0] for _ in range(9)]
    assert set(ids) == {257}
    assert len(tracker) == 1


def test_empty_frames_one_pixel_and_absent_detections(draw):
    tracker = _tracker()
    assert tracker.update(draw([])).ids.shape == (0,)
    for x in (30, 30, 30):
        assert tracker.update(draw([(x, 20, x + 1, 21)])).ids.tolist() == [256]
    hidden = draw([_car(50), (52, 22, 54, 24)])
    assert tracker.update(hidden).ids.tolist() == [257, 0]


def test_the_number_of_tracks_is_bounded(draw):
    tracker = _tracker(max_tracks=3)
    tracker.update(draw([_car(0), _car(20)]))
    tracker.update(draw([_car(20)]))
    out = tracker.update(draw([_car(20), _car(40), _car(60)]))
    assert out.ids.tolist() == [257, 258, 259]
    assert len(tracker) == 3
    out = tracker.update(draw([_car(x) for x in (0, 20, 40, 60)]))
    assert out.ids.tolist() == [0, 257, 258, 259]
    out = _tracker(max_tracks=2).update(draw([_car(x) for x in (0, 20, 40)], scores=[0.6, 0.9, 0.8]))
    assert out.ids.tolist() == [0, 256, 257]


def test_ids_end_before_24_bits(draw):
    tracker = _tracker(first_id=ID_LIMIT - 1)
    assert tracker.update(draw([_car(0)])).ids.tolist() == [ID_LIMIT - 1]
    with pytest.raises(VidaptError, match="raise birth_score or split the video"):
        tracker.update(draw([_car(0), _car(50)]))


def test_reset_starts_a_new_video(draw):
    tracker = _tracker()
    tracker.update(draw([_car(0), _car(50)]))
    tracker.reset()
    assert len(tracker) == 0
    assert tracker.update(draw([_car(0)])).ids.tolist() == [256]


def test_two_trackers_do_not_share_state(draw):
    one, other = _tracker(), _tracker()
    one.update(draw([_car(0), _car(50)]))
    assert other.update(draw([_car(30)])).ids.tolist() == [256]
    assert one.update(draw([_car(0), _car(50), _car(30)])).ids.tolist() == [256, 257, 258]


def _ids(tracker, frames):
    return [tracker.update(seen.detections, gap).ids.tolist() for seen, gap in frames]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_state_round_trip_at_any_frame_changes_nothing(street, seed, data):
    world = street(seed, size=(48, 80), count=5, speed=2.0, dimensions=4)
    gaps = data.draw(st.lists(st.integers(1, 4), min_size=12, max_size=12))
    frames = [(world.frame(), gap) for gap in gaps]
    cut = data.draw(st.integers(0, len(frames)))
    options = {"embedding_threshold": 0.4, "max_tracks": data.draw(st.integers(3, 20))}
    first, second = _tracker(**options), _tracker(**options)
    before = _ids(first, frames[:cut])
    state = {name: values.copy() for name, values in first.state_dict().items()}
    _ids(first, frames[cut:])
    second.load_state_dict(state)
    assert before + _ids(second, frames[cut:]) == _ids(_tracker(**options), frames)


def test_state_is_plain_arrays_and_checked(draw, tmp_path):
    from safetensors.numpy import load_file, save_file

    tracker = _tracker()
    tracker.update(draw([_car(0), _car(50)], embeddings=[RED, BLUE]))
    save_file(tracker.state_dict(), tmp_path / "state.safetensors")
    state = load_file(tmp_path / "state.safetensors")
    again = _tracker()
    again.load_state_dict(state)
    assert again.update(draw([_car(50), _car(0)], embeddings=[BLUE, RED])).ids.tolist() == [257, 256]
    with pytest.raises(CheckpointError, match="this tracker has 7 classes"):
        OnlineTracker(classes=7).load_state_dict(state)
    with pytest.raises(CheckpointError, match="lacks next_id"):
        _tracker().load_state_dict({name: values for name, values in state.items() if name != "next_id"})


def test_state_stays_bounded_and_ids_are_unique_over_2000_frames(street):
    world = street(3, size=(48, 80), count=6, speed=4.0, dimensions=4)
    tracker, sizes, last_seen = _tracker(embedding_threshold=0.4, max_tracks=24), [], {}
    for t in range(2000):
        ids = tracker.update(world.frame().detections).ids
        emitted = ids[ids > 0].tolist()
        assert len(set(emitted)) == len(emitted)
        highest = max(last_seen, default=255)
        for new in sorted(set(emitted) - set(last_seen)):
            assert new > highest
        for old in set(emitted) & set(last_seen):
            assert t - last_seen[old] <= 31
        last_seen |= dict.fromkeys(emitted, t)
        sizes.append(sum(values.nbytes for values in tracker.state_dict().values()))
    assert len(last_seen) > 100
    assert max(sizes) <= 24 * 5000 + 16
    assert max(sizes[1000:]) <= max(sizes[:1000]) * 1.25


def test_deterministic(street):
    world = street(5)
    frames = [(world.frame(), 1) for _ in range(15)]
    assert _ids(_tracker(embedding_threshold=0.4), frames) == _ids(_tracker(embedding_threshold=0.4), frames)


def test_equal_overlaps_go_to_the_older_track_and_the_first_detection(draw):
    tracker = _tracker(motion=False)
    tracker.update(draw([(10, 10, 20, 20), (20, 10, 30, 20)]))
    for _ in range(3):
        state = {name: values.copy() for name, values in tracker.state_dict().items()}
        fresh = _tracker(motion=False)
        fresh.load_state_dict(state)
        assert fresh.update(draw([(15, 10, 25, 20)])).ids.tolist() == [256]


def _switches(frames, **options):
    tracker, last, count = _tracker(**options), {}, 0
    for seen in frames:
        for truth, track in zip(seen.truth, tracker.update(seen.detections).ids, strict=True):
            if truth and track:
                count += last.get(truth, track) != track
                last[truth] = track
    return count


def test_full_configuration_switches_less_than_plain_overlap(street):
    """Ordering of the design study: overlap alone with memory 10, then motion, then appearance, scores and votes."""
    world, pairs = street(99, speed=4.5), CosinePairs()
    for _ in range(30):
        seen = world.frame()
        pairs.add(seen.detections.embeddings, seen.truth)
    clips = [[world.frame() for _ in range(40)] for world in (street(seed, speed=4.5) for seed in range(4))]
    single_level = {"memory": 10, "high_score": 0.1, "birth_score": 0.1}
    plain = sum(_switches(clip, motion=False, **single_level) for clip in clips)
    moving = sum(_switches(clip, **single_level) for clip in clips)
    full = sum(_switches(clip, embedding_threshold=pairs.threshold()) for clip in clips)
    assert plain > moving > 2 * full


def test_from_fused_gives_one_vote_per_detection(draw):
    class Fused:
        labels = np.array([[0, 1, 2]], np.int32)
        classes = np.array([[0, 0.6, 0.4, 0], [0, 0.3, 0.7, 0]], np.float32)
        categories = np.array([1, 2])
        scores = np.array([0.9, 0.8], np.float32)
        embeddings = None

    detections = Detections.from_fused(Fused())
    assert detections.classes.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    assert _tracker().update(detections).categories.tolist() == [1, 2]


def test_soft_class_rows_vote_with_their_probability(draw):
    tracker = _tracker(vote_decay=1.0)
    for row in ([0.9, 0.1, 0, 0], [0.4, 0.6, 0, 0], [0.4, 0.6, 0, 0]):
        frame = replace(draw([_car(30)]), classes=np.array([row], np.float32))
        out = tracker.update(frame)
    assert out.categories.tolist() == [0]
    assert out.agreement[0] == pytest.approx(1.7 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_threshold": 1.5}, "iou_threshold must lie in 0..1"),
        ({"low_score": 0.6}, "low_score 0.6 is above high_score"),
        ({"memory": -1}, "memory must be at least 0"),
        ({"first_id": 3}, "first_id must be at least 256"),
        ({"embedding_threshold": 2.0}, "embedding_threshold must lie in -1..1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        _tracker(**options)


def test_wrong_shapes_are_refused(draw):
    good = draw([_car(0)])
    with pytest.raises(ValueError, match=r"classes \(1,4\)"):
        _tracker().update(replace(good, classes=np.zeros((1, 3), np.float32)))
    with pytest.raises(ValueError, match="frame_gap must be at least 1"):
        _tracker().update(good, frame_gap=0)
    with pytest.raises(ValueError, match=r"labels must be 0\.\.1"):
        _tracker().update(replace(good, labels=good.labels * 5))
