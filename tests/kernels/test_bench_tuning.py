"""Tuning tiles: what is tried, what is kept, and that nothing of it outlasts a trial."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.tiny_bench import SETTINGS
from vidapt.kernels import tiles
from vidapt.kernels.bench import tuning
from vidapt.kernels.bench.rows import CALL, OURS, Provider
from vidapt.kernels.bench.stats_rows import StatsRow


def test_every_shipped_tile_has_a_row_to_be_timed_in() -> None:
    found = tuning.tunables()
    listed = {("paste", kernel) for table in tiles.tile_table("paste").values() for kernel in table}
    listed |= {("contrast", kernel) for table in tiles.tile_table("contrast").values() for kernel in table}
    assert {tunable.place[:2] for tunable in found} == listed
    for tunable in found:
        assert tunable.mode in tunable.row.modes
        names = {provider.name for provider in tunable.row.providers(torch.device("cuda"), None)}
        assert tunable.provider in names


def test_tunables_can_be_narrowed() -> None:
    assert {tunable.place[0] for tunable in tuning.tunables(["paste"])} == {"paste"}
    assert {tunable.place[1] for tunable in tuning.tunables(["sum_rows"])} == {"sum_rows"}
    with pytest.raises(KeyError):
        tuning.tunables(["nothing"])


def test_candidates_begin_with_what_ships() -> None:
    shipped = {"BLOCK_M": 64, "num_warps": 1, "num_stages": 1}
    found = tuning.candidates("some_kernel", "16bit_d64", shipped)
    assert found[0] == shipped
    assert found[1:] == [
        shipped | {"BLOCK_M": 32}, shipped | {"BLOCK_M": 128}, shipped | {"num_warps": 2}, shipped | {"num_stages": 2}
    ]  # fmt: skip
    own = tuning.candidates("paste", "8bit", {"BLOCK_H": 8, "BLOCK_W": 64, "num_warps": 1, "num_stages": 1})
    assert len(own) == 36
    assert all(own.count(tile) == 1 for tile in own)


@pytest.fixture
def some_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "targets", lambda: ("Some GPU", "sm_90", "cuda"))


@pytest.mark.usefixtures("some_gpu")
def test_overridden_tiles_win_and_are_undone() -> None:
    shipped = tiles.tile("paste", "paste", "8bit")
    other = shipped | {"BLOCK_H": 128}
    with tuning.overridden({("paste", "paste", "8bit"): other}):
        assert tiles.tile("paste", "paste", "8bit") == other
        assert (
            tiles.tile("paste", "paste", "32bit").items()
            >= tiles.tile_table("paste")["sm_90"]["paste"]["32bit"].items()
        )
        assert "Some GPU" not in tiles.tile_table("contrast") or not tiles.tile_table("contrast")["Some GPU"]
    assert tiles.tile("paste", "paste", "8bit") == shipped


@pytest.mark.usefixtures("some_gpu")
def test_tune_keeps_the_fastest_right_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    place = ("paste", "instance_stats", "any")
    row = StatsRow("tune", "", 16, 32, 1)
    used: list[int] = []

    def watched(provider: Provider) -> Provider:
        def answer(inputs: Any) -> dict[str, Tensor]:
            used.append(tiles.tile(*place)["BLOCK"])
            if used[-1] == 64:
                raise ValueError("does not fit")
            return {name: value + (used[-1] == 256) for name, value in provider.answer(inputs).items()}

        return replace(provider, answer=answer)

    made = StatsRow.providers
    monkeypatch.setattr(StatsRow, "providers", lambda *given: [watched(provider) for provider in made(*given)])
    trials = tuning.tune(tuning.Tunable(place, row, OURS, CALL), SETTINGS, {})
    assert used[:3] == [128, 64, 256]
    assert trials[0].timing is not None
    assert set(trials[0].tile) == {"BLOCK", "num_warps", "num_stages"}
    failed = {trial.tile["BLOCK"]: trial.note for trial in trials if trial.timing is None}
    assert failed[64] == "ValueError: does not fit"
    assert "off by" in failed[256]
    data = tuning.tiles_data({place: trials[0].tile}, "Some GPU")
    assert data == {"paste": {"Some GPU": {"instance_stats": {"any": trials[0].tile}}}}
    assert tuning.trial_data(trials[-1])["median_ms"] is None
