import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidapt.errors import UserError
from vidapt.flow import checked_dis_flow, dis_flow, forward_backward_valid, inside_frame, warp_nearest


def texture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float32)
    return np.clip((blurred - blurred.mean()) / blurred.std() * 40 + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_finds_a_shift(preset):
    image = texture(96, 128)
    flow = dis_flow(image, np.roll(image, (2, 5), (0, 1)), preset)
    assert flow.shape == (96, 128, 2)
    assert flow.dtype == np.float32
    assert np.median(np.abs(flow[16:-16, 16:-16] - (5, 2))) < 0.25


def test_dis_of_a_moving_square():
    first = texture(120, 180)
    second = first.copy()
    first[30:70, 40:80] = second[30:70, 44:84] = texture(40, 40, seed=1)
    flow, valid = checked_dis_flow(first, second, "medium")
    inside = flow[36:64, 46:74]
    assert np.median(inside[..., 0]) == pytest.approx(4, abs=0.2)
    assert np.median(inside[..., 1]) == pytest.approx(0, abs=0.2)
    assert np.abs(flow[:16]).max() < 0.2
    assert valid[36:64, 46:74].mean() > 0.95
    assert valid[:16].all()
    assert valid[34:66, 80:84].mean() < 0.5, "what the square covers is occluded"


def test_dis_is_repeatable():
    first, second = texture(64, 64), texture(64, 64, seed=1)
    np.testing.assert_array_equal(dis_flow(first, second), dis_flow(first, second))


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (8, 8), (12, 2000), (2000, 3), (33, 65)])
def test_dis_takes_small_and_narrow_frames(size):
    image = np.zeros(size, np.uint8)
    flow = dis_flow(image, image)
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((8, 8), np.uint8), np.zeros((8, 9), np.uint8), "one size"),
        (np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32), "uint8"),
        (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 4), np.uint8), "uint8"),
        (np.zeros((0, 8), np.uint8), np.zeros((0, 8), np.uint8), "uint8"),
    ],
)
def test_dis_refuses(first, second, message):
    with pytest.raises(UserError, match=message):
        dis_flow(first, second)


def test_dis_refuses_unknown_preset():
    with pytest.raises(UserError, match="ultrafast, fast, medium"):
        dis_flow(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), "slow")


@settings(max_examples=30)
@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([np.uint8, np.int32, bool]))
def test_warp_by_whole_pixels_is_a_shift(right, down, dtype):
    labels = np.random.default_rng(0).integers(0, 2, (6, 8)).astype(dtype)
    flow = np.full((6, 8, 2), (right, down), np.float32)
    expected = np.zeros_like(labels)
    for row, column in np.ndindex(6, 8):
        if 0 <= row + down < 6 and 0 <= column + right < 8:
            expected[row, column] = labels[row + down, column + right]
    warped = warp_nearest(labels, flow)
    np.testing.assert_array_equal(warped, expected)
    assert warped.dtype == labels.dtype


def test_warp_rounds_to_the_nearest_pixel():
    labels = np.array([[1, 2, 3, 4]], np.uint8)
    flow = np.zeros((1, 4, 2), np.float32)
    flow[0, :, 0] = 0.4, 0.6, -0.6, 0.4
    assert warp_nearest(labels, flow).tolist() == [[1, 3, 2, 4]]


def test_warp_fills_outside_and_where_the_flow_is_not_finite():
    labels = np.array([[1, 2, 3]], np.uint8)
    flow = np.zeros((1, 3, 2), np.float32)
    flow[0, 0, 0], flow[0, 1, 1], flow[0, 2, 0] = -1, np.nan, np.inf
    assert warp_nearest(labels, flow, fill=255).tolist() == [[255, 255, 255]]
    assert not inside_frame(flow).any()


def test_large_ids_survive():
    labels = np.array([[2**24 - 1, 2**31 - 1]], np.int32)
    assert warp_nearest(labels, np.zeros((1, 2, 2), np.float32)).tolist() == labels.tolist()


def test_forward_backward_check():
    flow = np.zeros((10, 10, 2), np.float32)
    flow[..., 0] = 2
    valid = forward_backward_valid(flow, -flow)
    assert valid[:, :8].all()
    assert not valid[:, 8:].any(), "leaves the frame"
    back = -flow
    back[:, 5] = 3
    lost = forward_backward_valid(flow, back)
    assert not lost[:, 3].any()
    assert lost[:, 5].all()
