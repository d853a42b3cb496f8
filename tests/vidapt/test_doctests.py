"""The examples in docstrings run."""

import doctest
import importlib
import importlib.util
import pkgutil
from pathlib import Path

import pytest

import vidapt

ROOMS = ("vidapt.datasets", "vidapt.evaluation", "vidapt.io", "vidapt.jobs", "vidapt.models", "vidapt.tracking")


def modules_with_examples() -> list[str]:
    found = []
    for room in ROOMS:
        package = importlib.import_module(room)
        for info in pkgutil.walk_packages(package.__path__, f"{room}."):
            source = importlib.util.find_spec(info.name)
            if source is not None and source.origin and ">>> " in Path(source.origin).read_text("utf-8"):
                found.append(info.name)
    return found


def test_there_are_examples():
    assert vidapt.__version__
    assert len(modules_with_examples()) >= 3


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
