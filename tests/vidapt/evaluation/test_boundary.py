import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vidapt.errors import UserError
from vidapt.evaluation.boundary import (
    CITYSCAPES_RATIO,
    COCO_RATIO,
    boundary_iou,
    boundary_panoptic,
    boundary_width,
    mask_boundary,
    segment_boundaries,
)
from vidapt.evaluation.histogram import joint_histogram
from vidapt.evaluation.panoptic import count_matches

CLASSES = 4
IS_THING = np.arange(256) == 3
VOID, CROWD = 0, 4


def thing(track):
    return track * 256 + 4


def slow_boundary(mask, width):
    """Boundary by the definition: erode a zero-padded mask ``width`` times with 3x3, take the rest."""
    left = np.pad(mask, 1)
    for _ in range(width):
        shifted = np.pad(left, 1)
        left = np.min(
            [
                shifted[1 + dy : shifted.shape[0] - 1 + dy, 1 + dx : shifted.shape[1] - 1 + dx]
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            ],
            axis=0,
        )
    return mask & ~left[1:-1, 1:-1]


def slow_counts(target, predicted, ratio):
    """Σ IoU, TP, FP, FN by class, with sets of pixels per segment."""
    width = max(1, round(ratio * np.sqrt(target.shape[0] ** 2 + target.shape[1] ** 2)))
    counts = np.zeros((4, CLASSES))
    void = target == VOID
    wholes = [{code: side == code for code in np.unique(side).tolist() if code} for side in (target, predicted)]
    outlines = [{code: slow_boundary(mask, width) for code, mask in side.items()} for side in wholes]

    def iou(kind, g, p):
        one, other = kind[0][g], kind[1][p] & ~void
        return (one & other).sum() / max((one | other).sum(), 1)

    hits = set()
    for g in wholes[0]:
        for p in wholes[1]:
            if g % 256 == p % 256 and g != CROWD:
                score = min(iou(wholes, g, p), iou(outlines, g, p))
                if score > 0.5:
                    counts[:2, g % 256 - 1] += score, 1
                    hits |= {("target", g), ("predicted", p)}
    for p, mask in wholes[1].items():
        free = void | (target == CROWD if p % 256 == CROWD else False)
        counts[2, p % 256 - 1] += ("predicted", p) not in hits and (mask & free).sum() <= mask.sum() / 2
    for g in wholes[0]:
        counts[3, g % 256 - 1] += ("target", g) not in hits and g != CROWD
    return counts


@pytest.mark.parametrize(
    ("shape", "ratio", "width"),
    [
        ((1024, 2048), COCO_RATIO, 46),
        ((1024, 2048), CITYSCAPES_RATIO, 11),
        ((480, 640), COCO_RATIO, 16),
        ((30, 40), COCO_RATIO, 1),
        ((3, 4), 0.3, 2),
        ((1, 1), 0.001, 1),
    ],
)
def test_width(shape, ratio, width):
    """round takes halves to even, as the official code does: 0.3 · 5 is 1.5 and gives 2."""
    assert boundary_width(shape, ratio) == width


@pytest.mark.parametrize("ratio", [0, -0.1, float("nan"), float("inf")])
def test_bad_ratio(ratio):
    with pytest.raises(UserError, match="a ratio above 0"):
        boundary_width((4, 4), ratio)


def test_a_mask_must_have_two_axes():
    with pytest.raises(UserError, match=r"needs a \(H, W\) mask"):
        mask_boundary(np.ones((2, 3, 4), bool))


@settings(max_examples=60)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14)), st.floats(0.01, 1.5))
def test_mask_boundary_by_definition(mask, ratio):
    np.testing.assert_array_equal(mask_boundary(mask, ratio), slow_boundary(mask, boundary_width(mask.shape, ratio)))


def test_mask_boundary_equals_repeated_opencv_erosion():
    rng = np.random.default_rng(0)
    mask = cv2.resize(rng.integers(0, 2, (6, 9)).astype(np.uint8), (270, 180), interpolation=cv2.INTER_NEAREST)
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=boundary_width(mask.shape))[1:-1, 1:-1]
    np.testing.assert_array_equal(mask_boundary(mask), mask - eroded)


def test_holes_have_a_boundary_too():
    mask = np.ones((15, 15), bool)
    mask[7, 7] = False
    assert mask_boundary(mask).sum() == 4 * 14 + 8


@pytest.mark.parametrize("mask", [np.zeros((4, 5), bool), np.zeros((0, 5), bool)])
def test_empty_masks_have_none(mask):
    assert mask_boundary(mask).shape == mask.shape
    assert not mask_boundary(mask).any()
    assert np.isnan(boundary_iou(mask, mask))


def test_thin_and_single_pixel_masks_are_all_boundary():
    line = np.zeros((9, 9), bool)
    line[4] = True
    np.testing.assert_array_equal(mask_boundary(line), line)
    assert mask_boundary(np.ones((1, 1), bool)).all()


def test_mask_of_numbers_and_of_a_view():
    numbers = np.zeros((12, 10), np.int32)
    numbers[2:9, 3:8] = 70_000
    np.testing.assert_array_equal(mask_boundary(numbers.T), mask_boundary(numbers != 0).T)


def test_boundary_iou_by_hand():
    """Rings of 36 pixels, shifted by one: 18 common, 54 in either."""
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    assert boundary_iou(mask, np.roll(mask, 1, 0)) == pytest.approx(18 / 54)
    assert boundary_iou(mask, mask) == 1
    assert boundary_iou(mask, np.zeros_like(mask)) == 0


def test_filled_interior_does_not_help():
    """A wrong outline of a large mask shows in the boundary IoU and hardly in the mask IoU."""
    mask = np.zeros((60, 60), bool)
    mask[5:55, 5:55] = True
    larger = np.zeros_like(mask)
    larger[4:56, 4:56] = True
    assert mask.sum() / larger.sum() > 0.9
    assert boundary_iou(mask, larger) < 0.4


def test_boundary_iou_needs_one_size():
    with pytest.raises(UserError, match=r"\(3, 4\) and \(4, 3\)"):
        boundary_iou(np.ones((3, 4)), np.ones((4, 3)))


@settings(max_examples=40)
@given(array_shapes(min_dims=2, max_dims=2, max_side=14), st.data())
def test_all_segments_at_once(shape, data):
    codes = data.draw(arrays(np.int64, shape, elements=st.sampled_from([0, 1, 2, 2**40])))
    ratio = data.draw(st.floats(0.01, 0.4))
    expected = np.any([mask_boundary(codes == code, ratio) for code in np.unique(codes)], axis=0)
    np.testing.assert_array_equal(segment_boundaries(codes, ratio), expected)


@pytest.mark.parametrize("grid", [(2, 127), (15, 17), (16, 16), (255, 257), (256, 256)])
def test_number_of_segments_does_not_matter(grid):
    """Labels go to OpenCV in the smallest type that holds them; here every segment is 3x3 with one inner pixel."""
    codes = np.arange(np.prod(grid)).reshape(grid).repeat(3, 0).repeat(3, 1)
    inner = np.zeros(codes.shape, bool)
    inner[1::3, 1::3] = True
    np.testing.assert_array_equal(segment_boundaries(codes, 1 / np.hypot(*codes.shape)), ~inner)


def random_scene(seed, height=14, width=16):
    rng = np.random.default_rng(seed)
    codes = np.array([VOID, 1, 2, 3, CROWD, thing(300), thing(301), thing(302)])
    target = codes[rng.integers(0, len(codes), (height // 7, width // 8))].repeat(7, 0).repeat(8, 1)
    shift = rng.integers(-1, 2, 2)
    predicted = np.roll(np.where(target == CROWD, thing(305), target), shift, (0, 1))
    noise = rng.random(target.shape)
    predicted = np.where(noise < rng.choice([0, 0.03]), codes[rng.integers(1, 4, target.shape)], predicted)
    target = np.where(noise > 0.97, VOID, target)
    if rng.random() < 0.3:
        target[:, : width // 2] = VOID
    return target, predicted


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.05, 0.1]))
def test_boundary_panoptic_by_definition(seed, ratio):
    target, predicted = random_scene(seed)
    counts = boundary_panoptic(target, predicted, IS_THING, CLASSES, ratio)
    iou, tp, fp, fn = slow_counts(target, predicted, ratio)
    assert (counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()) == (tp.tolist(), fp.tolist(), fn.tolist())
    np.testing.assert_allclose(counts.iou, iou, atol=1e-12)


def test_random_scenes_exercise_the_rule():
    """Both kinds of decision occur: pairs that the outline rejects, and pairs that it lets through with a lower IoU."""
    rejected = lowered = 0
    for seed in range(40):
        target, predicted = random_scene(seed)
        counts = boundary_panoptic(target, predicted, IS_THING, CLASSES)
        plain = count_matches(joint_histogram(target, predicted), IS_THING, CLASSES)
        rejected += int((plain.tp - counts.tp).sum())
        lowered += int(((counts.tp == plain.tp) & (counts.iou < plain.iou)).sum())
    assert rejected > 10
    assert lowered > 10


def test_a_perfect_prediction_is_perfect():
    target = np.full((20, 30), 1)
    target[5:15, 5:15] = thing(300)
    counts = boundary_panoptic(target, target, IS_THING, CLASSES)
    assert counts.iou.tolist() == counts.tp.tolist() == [1, 0, 0, 1]


def test_a_wide_boundary_gives_plain_pq():
    """Where the boundary is the whole segment, its IoU is the mask IoU."""
    target, predicted = random_scene(3)
    counts = boundary_panoptic(target, predicted, IS_THING, CLASSES, 2.0)
    plain = count_matches(joint_histogram(target, predicted), IS_THING, CLASSES)
    np.testing.assert_array_equal(counts.iou, plain.iou)
    np.testing.assert_array_equal(counts.fp, plain.fp)


def test_void_leaves_the_union_of_outlines():
    """A prediction one pixel too large on void: the outlines share no pixel but the target's, which is all that counts.

    The ring of 36 target pixels and the ring of 44 predicted ones do not touch; the latter lies on void.
    """
    target, predicted = np.full((2, 20, 20), VOID)
    target[5:15, 5:15] = thing(300)
    predicted[4:16, 4:16] = thing(7)
    counts = boundary_panoptic(target, predicted, IS_THING, CLASSES)
    assert (counts.tp[3], counts.fn[3]) == (0, 1)
    predicted[4:16, 4:16] = np.where(target[4:16, 4:16] == VOID, 1, thing(7))
    counts = boundary_panoptic(target, predicted, IS_THING, CLASSES)
    assert (counts.tp[3], counts.iou[3]) == (1, 1)
    half = boundary_panoptic(target, np.where(np.arange(20) < 8, VOID, predicted), IS_THING, CLASSES, 0.1)
    assert half.iou[3] == pytest.approx(54 / (84 + 66 - 54)), "rings three pixels wide; the mask IoU is 0.7"


def test_excuse_goes_by_the_whole_area():
    """6 of 10 rows of the prediction are void, of its outline less than half."""
    target = np.full((10, 10), 1)
    target[2:8] = VOID
    predicted = np.full((10, 10), thing(7))
    assert boundary_panoptic(target, predicted, IS_THING, CLASSES, 0.07).fp[3] == 0


@pytest.mark.parametrize("shape", [(0, 5), (1, 1)])
def test_smallest_frames(shape):
    maps = np.full(shape, 1)
    counts = boundary_panoptic(maps, maps, IS_THING, CLASSES)
    assert counts.tp.tolist() == [maps.size, 0, 0, 0]


def test_all_void():
    counts = boundary_panoptic(np.zeros((5, 5), int), np.ones((5, 5), int), IS_THING, CLASSES)
    assert counts.tp.sum() == counts.fp.sum() == counts.fn.sum() == 0


def test_frames_need_one_size():
    with pytest.raises(UserError, match="resize prediction to target"):
        boundary_panoptic(np.ones((2, 3), int), np.ones((3, 2), int), IS_THING, CLASSES)
