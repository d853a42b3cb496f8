"""``--dry-run`` of every shipped benchmark at its full size: what is found, what is mapped, what a run would cost."""

import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.benchmark_data import Truths, benchmark_data
from vidapt import cli
from vidapt.recipe import recipe_names

Rows = dict[str, list[str]]


class Plan(NamedTuple):
    """Rows of a plan; those of classes and the protocol may be the beginning only."""

    source: str
    target: str
    evaluation: str
    source_classes: str
    evaluation_classes: str
    protocol: str
    clip: int = 1
    source_files: tuple[str, ...] = ()
    target_files: tuple[str, ...] = ()
    evaluation_files: tuple[str, ...] = ()


IDS = (
    "19 of 35 of cityscapes_ids map to cityscapes (19 classes); without counterpart: parking, rail track, guard rail, "
    "bridge, tunnel, polegroup, caravan, trailer"
)
SYNTHIA = "19 of 23 of synthia map to cityscapes (19 classes); without counterpart: parking slot, road work, lane marking"
VISTAS = "32 of 66 of mapillary_v1.2 map to cityscapes (19 classes); without counterpart: bird, ground animal, guard rail,"
VIPER = (
    "16 of 32 of viper map to viper_cityscapes (15 classes); without counterpart: rail track, infrastructure, "
    "billboard, mobile barrier, fire hydrant, chair, trash, trash can, animal, van, trailer, train, plane, boat"
)
RIDERS = (
    "16 of 35 of cityscapes_ids map to viper_cityscapes (15 classes); without counterpart: parking, rail track, wall, "
    "guard rail, bridge, tunnel, pole, polegroup, caravan, trailer, train"
)
NO_RIDERS = RIDERS.replace("16 of 35", "15 of 35").replace("polegroup, ", "polegroup, rider, ")
ALL, MOST = "mean over 19 of 19 classes of cityscapes", "mean over 16 of 19 classes of cityscapes, without terrain, truck, train"
COUNTED, FIFTEEN = f"{MOST} (their pixels are counted)", "mean over 15 of 15 classes of viper_cityscapes"
