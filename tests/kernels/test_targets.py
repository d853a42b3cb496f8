"""The speed targets, on rows as the suite writes them and on rows made by hand."""

import json
from typing import Any

import pytest
import torch

from tests.kernels.tiny_bench import SETTINGS, TINY
from vidapt.kernels.bench import run as running
from vidapt.kernels.bench.rows import OURS
from vidapt.kernels.bench.suite import all_rows
from vidapt.kernels.bench.targets import Target, clip_bytes, contrast_mib, slow, targets, tunables_of

CLIP = {"T": 8, "H": 1024, "W": 1024, "dtype": "fp32"}


def row(name: str, group: str, shape: dict[str, Any], **providers: dict[str, dict[str, float | None]]) -> Any:
    """A row as plain data; providers are given by name, with what was measured of each mode."""
    modes = list(next(iter(providers.values())))
    found = [{"name": key.replace("_", " "), "ours": key == OURS, "modes": value} for key, value in providers.items()]
    head = {"id": name, "label": name, "group": group, "shape": shape, "modes": modes}
    return json.loads(json.dumps(head | {"providers": found}))


def contrast(name: str = "P2", depth: int = 128, forward: float | None = 0.7, both: float | None = 0.6) -> Any:
    shape = {"P": 1, "N": 16384, "M": 16384, "D": depth, "gradients": "Q=K"}
    ours: dict[str, dict[str, float | None]] = {
        "forward": {"median_ms": 1.0, "floor_share": forward, "host_syncs": 0},
        "forward+backward": {"median_ms": 3.0, "floor_share": both, "host_syncs": 0, "extra_mib": 9.0},
    }
    eager: dict[str, dict[str, float | None]] = {"forward+backward": {"median_ms": 30.0}}
    compiled: dict[str, dict[str, float | None]] = {"forward+backward": {"median_ms": 9.1}}
    return row(name, "Contrast", shape, vidapt=ours, eager=eager, compiled=compiled)


def paste(name: str = "K1.1024t8.fp32.20", share: float = 0.9, theirs: float = 4.0, **shape: Any) -> Any:
    cost: dict[str, float | None] = {"median_ms": 1.0, "floor_share": share, "host_syncs": 0}
    ours = {"new tensors": cost, "in place": cost}
    where: dict[str, dict[str, float | None]] = {"new tensors": {"median_ms": 1.0}, "in place": {"median_ms": theirs}}
    return row(name, "Paste", CLIP | shape, vidapt=ours, compiled_where=where)


def stats(share: float = 0.7, loop: float = 40.0) -> Any:
    ours: dict[str, dict[str, float | None]] = {"call": {"median_ms": 1.0, "floor_share": share, "host_syncs": 0}}
    shape = {"T": 8, "H": 1024, "W": 1024, "ids": 60}
    return row("K1b.1024t8", "Instance statistics", shape, vidapt=ours, loop={"call": {"median_ms": loop}})


def failing(data: Any) -> list[str]:
    return [target.text for target in targets(data) if target.met is False]


def test_met_missed_and_unknown() -> None:
    assert Target("x", "", 2.0, 2.0, at_least=True).met is True
    assert Target("x", "", 1.9, 2.0, at_least=True).met is False
    assert Target("x", "", 2.1, 2.0, at_least=False).met is False
    assert Target("x", "", 0.0, 0.0, at_least=False).met is True
    assert Target("x", "", None, 2.0, at_least=False).met is None


def test_contrast_met() -> None:
    found = targets(contrast())
    assert [target.met for target in found] == [True] * 6
    assert {target.row for target in found} == {"P2"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"forward": 0.59}, "forward, share of the floor"),
        ({"both": 0.49}, "forward+backward, share of the floor"),
        ({"depth": 64, "forward": 0.54}, "forward, share of the floor"),
    ],
)
def test_contrast_misses_the_floor(changes: dict[str, Any], text: str) -> None:
    assert failing(contrast(**changes)) == [text]
    assert failing(contrast(depth=64, forward=0.56)) == []


@pytest.mark.parametrize(
    ("provider", "mode", "what", "value", "text"),
    [
        ("eager", "forward+backward", "median_ms", 23.9, "forward+backward, times faster than eager"),
        ("compiled", "forward+backward", "median_ms", 8.9, "forward+backward, times faster than compiled"),
        (OURS, "forward+backward", "extra_mib", 20.0, "memory beyond outputs and gradients, MiB"),
        (OURS, "forward", "host_syncs", 1, "waits of the host"),
    ],
)
def test_contrast_misses_the_rest(provider: str, mode: str, what: str, value: float, text: str) -> None:
    data = contrast()
    next(found for found in data["providers"] if found["name"] == provider)["modes"][mode][what] = value
    assert failing(data) == [text]
    assert slow([contrast(), data]) == (["P2"] if "floor" in text else [])


def test_baselines_count_where_they_were_timed() -> None:
    data = contrast()
    data["providers"] = data["providers"][:1]
    assert [target.text for target in targets(data) if "faster" in target.text] == []


def test_memory_of_a_contrast() -> None:
    """One set of rows against itself: an fp16 copy, a tenth of the gradient and 20 vectors."""
    shape = {"P": 1, "N": 2**14, "M": 2**14, "D": 128, "gradients": "Q=K"}
    assert contrast_mib(shape) == pytest.approx(8 + 4 + 0.8 + 1.1 * 1.25)
    assert contrast_mib(shape | {"gradients": "Q"}) == pytest.approx(8 + 8 + 0.8 + 1.1 * 2.5)
    assert contrast_mib(shape | {"gradients": "Q,K", "P": 2}) == pytest.approx(8 + 16 + 3.2 + 1.1 * 5)


@pytest.mark.parametrize(("milliseconds", "met"), [(0.06, True), (0.061, False), (None, None)])
@pytest.mark.parametrize("name", ["P0", "C0"])
def test_the_smallest_rows_are_judged_in_a_graph(name: str, milliseconds: float | None, met: bool | None) -> None:
    data = contrast(name, forward=0.01, both=0.01)
    data["providers"][0]["modes"]["forward+backward"]["graph_ms"] = milliseconds
    found = targets(data)
    assert [target.met for target in found] == [met, True]
    assert found[0].limit == 60


def test_paste() -> None:
    assert [target.met for target in targets(paste())] == [True] * 4
    assert failing(paste(share=0.79)) == [
        "new tensors, share of the copy bandwidth", "in place, share of the copy bandwidth"
    ]  # fmt: skip
    assert failing(paste(theirs=2.9)) == ["in place, times faster than compiled where"]


def test_pastes_without_a_target() -> None:
    assert failing(paste("K1.1024t8.fp32.60", theirs=0.5)) == []
    assert failing(paste("K1.1024t8.bf16.20", theirs=0.5, dtype="bf16")) == []
    assert failing(paste("K1.512t1.fp32.20", share=0.1, H=512, W=512, T=1)) == []
    assert clip_bytes(CLIP | {"dtype": "uint8"}) == 12 * 2**23


def test_stats() -> None:
    assert [target.met for target in targets(stats())] == [True] * 3
    assert failing(stats(share=0.5, loop=29.0)) == ["share of the copy bandwidth", "call, times faster than loop"]


def test_anchors_must_not_wait() -> None:
    shape = {"B": 2, "L": 32768, "per_class": 100, "total": 1024}
    data = row("A", "Anchor sampling", shape, vidapt={"call": {"median_ms": 0.1, "host_syncs": 2}})
    assert failing(data) == ["waits of the host"]


def test_a_gpu_without_a_floor_is_not_judged_by_it() -> None:
    found = targets(contrast(forward=None, both=None))
    assert [target.met for target in found] == [None, None, True, True, True, True]


def test_rows_of_the_cpu_and_rows_that_failed_are_unknown() -> None:
    rows = [running.run_row(each, SETTINGS).data() for each in TINY[:1] + TINY[2:]]
    assert all(target.met is None for each in rows for target in targets(each))
    data = contrast()
    for found in data["providers"]:
        found["modes"] = {}
    assert {target.met for target in targets(data)} == {None}
    assert slow([*rows, data]) == []


def test_every_row_of_the_suite_has_targets_under_the_names_of_its_providers() -> None:
    cost = {"median_ms": 1.0, "floor_share": 1.0, "host_syncs": 0, "extra_mib": 0.0, "graph_ms": 0.01}
    for each in all_rows():
        modes: dict[str, dict[str, float | None]] = {mode: dict(cost) for mode in each.modes}
        names = [found.name for found in each.providers(torch.device("cuda"), "default")]
        data = row(each.id, each.group, each.shape(), **{name.replace(" ", "_"): modes for name in names})
        found = targets(data)
        assert all(target.met is not None for target in found), each.id
        faster = {"Contrast": 2, "Paste": 1, "Instance statistics": 1}.get(each.group, 0)
        assert sum("faster" in target.text for target in found) <= faster


def test_tunables_of_rows() -> None:
    def places(*names: str) -> set[tuple[str, str, str]]:
        return {tunable.place for tunable in tunables_of(names)}

    assert places() == set()
    assert places("A") == set()
    assert places("P2b") == {
        ("contrast", kernel, "16bit_d128") for kernel in ("sum_rows", "sum_positives", "sum_gradients_symmetric")
    }
    assert places("P1", "T1") == {
        ("contrast", kernel, f"16bit_d{depth}")
        for kernel in ("sum_rows", "sum_positives", "sum_gradients")
        for depth in (128, 256)
    }
    assert places("K1.512t4.bf16.20") == {("paste", "paste", "16bit")}
    assert {place[1] for place in places("K1b.512t4")} == {"instance_sums", "instance_stats"}
    with pytest.raises(KeyError):
        tunables_of(["P99"])
