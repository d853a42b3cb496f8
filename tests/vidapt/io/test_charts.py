"""Charts are pictures that show what they are given."""

import cv2
import numpy as np

from vidapt.io.charts import dot_chart, spread_curve
from vidapt.io.report import Picture


def pixels(picture: Picture) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_dots_grow_with_the_names_and_change_with_the_values() -> None:
    few = dot_chart("mIoU", {"dacs": [1.0, 2.0], "oracle": [3.0]}, "mIoU in percent", pale=["oracle"])
    many = dot_chart("mIoU", {f"recipe {number}": [1.0] for number in range(9)}, "mIoU in percent")
    assert few.caption == "mIoU"
    assert pixels(many).shape[0] > pixels(few).shape[0]
    other = dot_chart("mIoU", {"dacs": [1.0, 9.0], "oracle": [3.0]}, "mIoU in percent", pale=["oracle"])
    assert few.data != other.data


def test_a_pale_name_has_no_colour() -> None:
    def colourful(**options: list[str]) -> bool:
        image = pixels(dot_chart("x", {"oracle": [1.0, 2.0]}, "x", **options)).astype(int)  # type: ignore[arg-type]
        return bool((image.max(-1) - image.min(-1) > 60).any())

    assert colourful()
    assert not colourful(pale=["oracle"])


def test_names_without_values_are_drawn() -> None:
    assert pixels(dot_chart("x", {"dacs": [], "edaps": [1.0]}, "x")).size
    assert pixels(dot_chart("x", {}, "x")).size


def test_curves() -> None:
    one = spread_curve("gain", {"dacs": {0.5: [1.0, 2.0], 1.0: [-3.0]}}, "strength", "points")
    two = spread_curve("gain", {"dacs": {0.5: [1.0, 2.0], 1.0: [-3.0]}, "edaps": {1.0: [1.0]}}, "strength", "points")
    assert one.data != two.data
    assert pixels(spread_curve("gain", {"dacs": {0.5: []}}, "strength", "points")).size
    assert pixels(spread_curve("gain", {}, "strength", "points")).size
