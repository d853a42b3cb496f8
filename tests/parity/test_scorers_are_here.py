"""The tests of parity skip themselves without the official scorers; continuous integration must have them."""

import importlib.util
import os

import pytest

SCORERS = ("cityscapesscripts", "pycocotools", "faster_coco_eval", "pyquaternion")


@pytest.mark.skipif(os.environ.get("VIDAPT_CI", "") == "", reason="the scorers are required in continuous integration")
@pytest.mark.parametrize("name", SCORERS)
def test_the_official_scorers_are_installed(name: str) -> None:
    assert importlib.util.find_spec(name) is not None
