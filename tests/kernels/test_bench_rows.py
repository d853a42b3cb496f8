"""The rows of the benchmark suite: what they cost at least, their inputs, their baselines, and which there are."""

from dataclasses import replace
from math import prod

import pytest
import torch

from tests.kernels.tiny_bench import CPU, SETTINGS, TINY, streets
from vidapt.kernels.bench import anchor_rows, contrast_rows
from vidapt.kernels.bench import run as running
from vidapt.kernels.bench.contrast_baselines import chunked_loss, eager_loss
from vidapt.kernels.bench.contrast_inputs import CITYSCAPES_SHARES, differentiated, draw_labels
from vidapt.kernels.bench.contrast_rows import BOTH, FORWARD, ContrastRow, our_loss
from vidapt.kernels.bench.floors import (
    CEILINGS,
    Ceiling,
    Work,
    contrast_backward,
    contrast_forward,
    floor_seconds,
    instance_stats_bytes,
    paste_copy,
    paste_inplace,
)
from vidapt.kernels.bench.gates import relative_error
from vidapt.kernels.bench.measure import timing
from vidapt.kernels.bench.paste_baselines import loop_stats
from vidapt.kernels.bench.paste_rows import INPLACE, PasteRow, choose
from vidapt.kernels.bench.suite import CPU_LIMITS, all_rows, scaled_rows, select

H200 = CEILINGS["NVIDIA H200"]
# Forward floors on it in microseconds.
CONTRASTS = {
    "P0": 0.7, "P1": 87, "P2": 174, "P2b": 87, "P2c": 69, "P3": 750, "P4": 1400, "P5": 1400,
    "C0": 8.4, "C1": 85, "T1": 87, "T2": 610, "T3": 1300, "T4": 152,
}  # fmt: skip


# --- floors


@pytest.mark.parametrize(("name", "microseconds"), CONTRASTS.items())
def test_forward_floors_are_those_of_the_survey(name: str, microseconds: float) -> None:
    (row,) = select(all_rows(), [name])
    floor = floor_seconds(row.work(FORWARD, None), H200)
    assert floor * 1e6 == pytest.approx(microseconds, rel=0.07)


@pytest.mark.parametrize(("name", "microseconds"), [("P1", 174), ("P2", 348), ("P2c", 87), ("C1", 255), ("T1", 261)])
def test_backward_floors_count_the_sides(name: str, microseconds: float) -> None:
    (row,) = select(all_rows(), [name])
    _, backward = row.work(BOTH, None)
    assert floor_seconds([backward], H200) * 1e6 == pytest.approx(microseconds, rel=0.02)


def test_contrast_work() -> None:
    assert contrast_forward(2, 3, 5, 7) == Work(operations=2 * 2 * 3 * 5 * 7, exponentials=30)
    assert contrast_backward(2, 3, 5, 7, both_sides=False) == Work(operations=2 * 420, exponentials=30)
    assert contrast_backward(2, 3, 5, 7, both_sides=True) == Work(operations=3 * 420, exponentials=30)


def test_floor_is_bound_by_the_scarcest_resource_of_each_pass() -> None:
    ceiling = Ceiling(operations=10, exponentials=2, bytes=5)
    assert floor_seconds([Work(operations=30, exponentials=2)], ceiling) == 3
    assert floor_seconds([Work(operations=30, exponentials=8)], ceiling) == 4
    assert floor_seconds([Work(operations=30), Work(bytes=10)], ceiling) == 5


def test_paste_bytes() -> None:
    # 100 pixels of which 10 are taken; fp32 image of 3 channels, fp32 weight.
    assert paste_inplace(100, 10, 12, 4, by_class=False).bytes == 100 * 4 + 10 * (2 * 12 + 2 * 4 + 2 * 1 + 4)
    assert paste_inplace(100, 10, 12, 4, by_class=True).bytes == 100 * 5 + 10 * (2 * 12 + 2 * 4 + 1 + 4)
    copied = paste_copy(100, 10, 12, 4, by_class=False).bytes
    assert copied == paste_inplace(100, 10, 12, 4, by_class=False).bytes + 90 * 2 * (12 + 4 + 1 + 4)
    assert instance_stats_bytes(100, 7).bytes == 400 + 28 * 7


def test_share_of_the_floor_needs_a_known_gpu() -> None:
    assert SETTINGS.ceiling is None
    cost = running._cost(TINY[0], FORWARD, None, timing([1e-3]), SETTINGS)
    assert (cost.floor_ms, cost.floor_share) == (None, None)
    assert cost.tflops == pytest.approx(2 * 96 * 96 * 16 / 1e-3 / 1e12)


# --- problems and baselines


CONTRAST_ROWS = [row.scaled(2**12) for row in all_rows() if isinstance(row, ContrastRow)]


@pytest.mark.parametrize("row", CONTRAST_ROWS, ids=lambda row: row.id)
def test_all_forms_of_the_loss_agree(row: ContrastRow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidapt.kernels.bench.contrast_baselines.CHUNK_ROWS", 7)
    inputs = replace(row, features=8).inputs(CPU, 3, streets).double()
    truth = differentiated(eager_loss, inputs)
    wanted = {"self": ["query"], "query": ["query"], "both": ["query", "key"]}[row.gradients]
    wanted += ["positive"] if row.positives == "features" and row.gradients == "both" else []
    assert list(truth) == ["loss", *(f"gradient of {name}" for name in wanted)]
    for loss in (chunked_loss, our_loss):
        for name, value in differentiated(loss, inputs).items():
            assert relative_error(value, truth[name]) < 1e-12, (loss, name)


def test_rounding_is_what_a_format_with_fewer_bits_does() -> None:
    inputs = TINY[0].inputs(CPU, 0, streets)
    exact = differentiated(eager_loss, inputs.double())
    for dtype, least, most in ((torch.float16, 1e-5, 1e-3), (torch.bfloat16, 1e-4, 1e-2)):
        rounded = differentiated(lambda given, dtype=dtype: eager_loss(given, dtype), inputs)
        assert least < relative_error(rounded["gradient of query"], exact["gradient of query"]) < most


def test_features_are_clustered_and_not_normalised() -> None:
    row = ContrastRow("x", "", 1, 400, 800, 32, "query")
    inputs = row.inputs(CPU, 0, streets)
    lengths = inputs.query.detach().norm(dim=-1)
    assert 0.5 <= float(lengths.min()) < 0.7 < 1.8 < float(lengths.max()) <= 2.0
    unit = torch.nn.functional.normalize(inputs.query[0].detach(), dim=-1)
    same = inputs.query_label[0][:, None] == inputs.query_label[0]
    cosine = unit @ unit.T
    assert float(cosine[same].mean()) > 0.4 > 0.2 > abs(float(cosine[~same].mean()))
    assert torch.equal(inputs.key[0, :400], inputs.query[0])
    assert not inputs.key.requires_grad
    other = row.inputs(CPU, 1, streets)
    assert not torch.equal(other.query, inputs.query)


def test_labels_follow_the_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    balanced = draw_labels(2, 190, contrast_rows.BALANCED, generator)
    assert torch.equal(torch.bincount(balanced[0], minlength=19), torch.full((19,), 10))
    assert not torch.equal(balanced[0], balanced[1])
    skewed = draw_labels(1, 100_000, CITYSCAPES_SHARES, generator)
    counts = torch.bincount(skewed[0], minlength=19) / 100_000
    assert torch.allclose(counts, torch.tensor(CITYSCAPES_SHARES) / sum(CITYSCAPES_SHARES), atol=2e-5)


@pytest.mark.parametrize("percent", [5, 20, 60])
def test_choose_covers_the_share_and_counts_no_pixel_twice(percent: int) -> None:
    street = streets(0, 2, 64, 256)
    selected, classes = choose(street.semantic[None], street.ids[None], percent / 100)
    assert selected.shape == (1, 61)
    assert not selected[0, 0]
    assert (classes is not None) == (percent == 60)
    taken = selected[0][street.ids.long()]
    if classes is not None:
        assert not classes[0, 11:].any()
        taken |= classes[0][street.semantic.long()] & (street.ids == 0)
    share = float(taken.float().mean())
    assert share <= 1.05 * percent / 100
    assert share > 0.7 * percent / 100 or percent == 60


def test_paste_in_place_changes_only_the_clip() -> None:
    row = PasteRow("x", "", 16, 32, 2, "uint8", 20)
    inputs = row.inputs(CPU, 0, streets)
    assert row.shape()["dtype"] == "uint8"
    assert inputs.clip[0].dtype == torch.uint8
    before = [part.clone() for part in inputs.clip]
    for provider in row.providers(CPU, None):
        answer = provider.answer(inputs)
        assert all(torch.equal(*pair) for pair in zip(inputs.clip, before, strict=True)), provider.name
        assert len(answer) == 8
    row.providers(CPU, None)[0].calls[INPLACE](inputs)
    assert not torch.equal(inputs.clip[0], before[0])


def test_loop_stats_of_a_square() -> None:
    ids = torch.zeros(1, 1, 6, 8, dtype=torch.int32)
    ids[0, 0, 2:4, 3:7] = 2
    area, box, centroid = loop_stats(ids, 3)
    assert area.tolist() == [[[0, 0, 8, 0]]]
    assert box[0, 0, 2].tolist() == [3, 2, 7, 4]
    assert centroid[0, 0, 2].tolist() == [2.5, 4.5]
    assert not box[0, 0, [0, 1, 3]].any()


def test_loop_anchors_draw_as_many_as_ours() -> None:
    inputs = TINY[3].inputs(CPU, 0, streets)
    ours = anchor_rows.our_anchors(inputs)[1].sum()
    assert 0 < ours == anchor_rows.loop_anchors(inputs).numel() <= anchor_rows.TOTAL


# --- the suite


def test_ids_are_unique_and_name_their_family() -> None:
    rows = all_rows()
    assert len({row.id for row in rows}) == len(rows) == 46
    assert {row.family for row in rows} == {*CONTRASTS, "P2f", "A", "K1", "K1b"}
    assert all(row.modes and row.baseline in {p.name for p in row.providers(CPU, None)} for row in rows)


@pytest.mark.parametrize("quick", [False, True])
def test_scaled_rows_keep_their_structure(quick: bool) -> None:
    for row, scaled in zip(all_rows(), scaled_rows(all_rows(), quick), strict=True):
        assert scaled.id == row.id
        assert type(scaled) is type(row)
        sizes, small = row.shape(), scaled.shape()
        limit = CPU_LIMITS[type(row)][quick]
        counted = [small[name] for name in ("P", "N", "M", "B", "L", "T", "H", "W") if name in small]
        assert prod(int(count) for count in counted) <= 1.05 * limit
        kept = ("P", "D", "gradients", "B", "T", "dtype", "ids")
        assert [small.get(name) for name in kept] == [sizes.get(name) for name in kept]


def test_small_problems_sort_where_the_row_does() -> None:
    """The contrast kernels sort from 2^23 logits on; a gate that never sorts would not see them."""
    for row in all_rows():
        small = row.small(torch.device("cuda"))
        if isinstance(row, ContrastRow) and row.queries * row.keys >= 2**23 and row.keys > 4096:
            assert isinstance(small, ContrastRow)
            assert small.queries * small.keys >= 2**23
            assert small.positives == row.positives


def test_select_takes_ids_and_families() -> None:
    rows = all_rows()
    assert select(rows, []) == rows
    assert [row.id for row in select(rows, ["T1", "P2"])] == ["P2", "T1"]
    assert {row.family for row in select(rows, ["K1b"])} == {"K1b"}
    assert len(select(rows, ["K1"])) == 25
    with pytest.raises(KeyError) as caught:
        select(rows, ["P2", "Q9", "K2"])
    assert caught.value.args == ("K2", "Q9")
