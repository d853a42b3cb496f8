import numpy as np
import pytest

from vidapt.errors import UserError
from vidapt.evaluation.consistency import IdSwitches, TemporalConsistency, label_pairs
from vidapt.evaluation.histogram import joint_histogram

CLASSES = 3
HEIGHT, WIDTH, SIDE, STEP = 12, 20, 4, 3


def square(left):
    """Labels with a square of class 1 at column ``left``, rows 4 to 7, on class 0."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[4 : 4 + SIDE, left : left + SIDE] = 1
    return labels


def moving_square(left):
    """Labels now, labels in the next frame, exact forward flow, and where the point stays visible."""
    now, following = square(left), square(left + STEP)
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[now == 1, 0] = STEP
    covered = (following == 1) & (now == 0)
    return now, following, flow, ~covered


def consistency_of(*arguments):
    consistency = TemporalConsistency(CLASSES)
    consistency.update(*arguments)
    return consistency


def test_moving_square_that_keeps_its_label_does_not_flicker():
    consistency = consistency_of(*moving_square(2))
    assert consistency.flicker() == 0
    assert consistency.iou()[:2].tolist() == [1, 1]
    assert np.isnan(consistency.iou()[2])


def test_without_following_the_motion_it_would():
    now, following, flow, valid = moving_square(2)
    still = consistency_of(now, following, np.zeros_like(flow), np.ones_like(valid))
    assert still.flicker() == pytest.approx(2 * STEP * SIDE / (HEIGHT * WIDTH))


def test_each_changed_pixel_counts_once():
    now, following, flow, valid = moving_square(2)
    following[4, 2 + STEP] = 2
    following[0, 0] = 1
    consistency = consistency_of(now, following, flow, valid)
    assert consistency.flicker() == pytest.approx(2 / valid.sum())
    assert consistency.iou().tolist() == pytest.approx([1 - 1 / (valid.sum() - 16), 15 / 17, 0])


def test_occluded_pixels_do_not_count():
    now, following, flow, valid = moving_square(2)
    covered = ~valid
    assert covered.sum() == STEP * SIDE
    following[covered] = 2
    following[4 : 4 + SIDE, 2 + STEP : 2 + STEP + SIDE] = 1
    assert consistency_of(now, following, flow, valid).flicker() == 0


def test_pixels_that_leave_the_frame_do_not_count():
    labels = square(2)
    flow = np.full((HEIGHT, WIDTH, 2), (WIDTH - 1, 0), np.float32)
    consistency = consistency_of(labels, labels, flow, np.ones((HEIGHT, WIDTH), bool))
    assert consistency.pairs.sum() == HEIGHT


def test_both_directions_agree():
    """Forward flow on the first frame's grid and backward flow on the second's pair the same pixels."""
    now, following, flow, valid = moving_square(2)
    now[5, 3] = 2
    back = np.zeros_like(flow)
    back[square(2 + STEP) == 1, 0] = -STEP
    uncovered = (square(2) == 1) & (square(2 + STEP) == 0)
    forward = label_pairs(now, following, flow, valid, CLASSES)
    np.testing.assert_array_equal(label_pairs(following, now, back, ~uncovered, CLASSES).T, forward)


def test_no_class_is_a_label_of_its_own():
    now, following, flow, valid = moving_square(2)
    following[0, 0] = 255
    assert consistency_of(now, following, flow, valid).flicker() == pytest.approx(1 / valid.sum())


def test_no_valid_pixel_is_undefined():
    now, following, flow, valid = moving_square(2)
    assert np.isnan(consistency_of(now, following, flow, np.zeros_like(valid)).flicker())
    assert np.isnan(TemporalConsistency(CLASSES).iou()).all()


def test_merge_adds():
    first, second = consistency_of(*moving_square(2)), consistency_of(*moving_square(6))
    total = first.pairs + second.pairs
    first.merge(second)
    np.testing.assert_array_equal(first.pairs, total)


def test_sizes_must_agree():
    now, following, flow, valid = moving_square(2)
    with pytest.raises(UserError, match="resize"):
        label_pairs(now, following, flow[:, 1:], valid, CLASSES)


def switches(*frames):
    """Count switches; each frame lists (target code, predicted code, pixels)."""
    counter = IdSwitches()
    for frame in frames:
        target, predicted = (np.concatenate([np.full(n, codes[i]) for *codes, n in frame]) for i in range(2))
        counter.update(joint_histogram(target, predicted))
    return counter.count


CAR, OTHER = 1 * 256 + 2, 2 * 256 + 2
ROAD = 1


def track(panoptic_id, category=1):
    return panoptic_id * 256 + category + 1


def test_constant_id_is_no_switch():
    assert switches([(CAR, track(300), 4)], [(CAR, track(300), 4)]) == 0


def test_new_id_is_one_switch_and_back_another():
    assert switches(*([(CAR, track(i), 4)] for i in (300, 301, 301, 300))) == 2


def test_class_change_is_no_switch():
    assert switches([(CAR, track(300), 4)], [(CAR, track(300, 2), 4)]) == 0


def test_gap_remembers_the_last_id():
    assert switches([(CAR, track(300), 4)], [(CAR, ROAD, 4)], [(CAR, track(301), 4)]) == 1
    assert switches([(CAR, track(300), 4)], [(CAR, ROAD, 4)], [(CAR, track(300), 4)]) == 0


def test_weak_overlap_is_no_match():
    assert switches([(CAR, track(300), 4)], [(CAR, track(301), 2), (CAR, ROAD, 2)]) == 0


def test_swapped_ids_are_two_switches():
    frames = [[(CAR, track(a), 4), (OTHER, track(b), 4)] for a, b in ((300, 301), (301, 300))]
    assert switches(*frames) == 2


def test_switches_end_with_the_video():
    counter = IdSwitches()
    for panoptic_id in (300, 301):
        counter.update(joint_histogram(np.array([CAR]), np.array([track(panoptic_id)])))
        counter.end_video()
    assert counter.count == 0
