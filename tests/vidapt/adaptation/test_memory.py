"""The class-wise memory: draws, the ring against a plain list, skipped steps, processes and state."""

import json
from collections import deque

import pytest
import torch
from torch.nn import functional as F

from vidapt.adaptation.memory import MemoryBank, draw_cells
from vidapt.config_method import MemoryBankConfig
from vidapt.engine.state import join_state, split_state
from vidapt.errors import CheckpointError


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


def bank(classes: int = 3, dim: int = 4, size: int = 5, per_step: int = 2) -> MemoryBank:
    return MemoryBank(classes, dim, MemoryBankConfig(size=size, per_step=per_step), "cpu")


def random_clips(clips: int, seed: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Embedding (clips,2,4,3,3) and labels (clips,2,12,12) of whole cells, some of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    semantic = torch.randint(0, classes + 1, (clips, 2, 3, 3), generator=generator)
    semantic[semantic == classes] = 255
    pixels = semantic.repeat_interleave(4, 2).repeat_interleave(4, 3).to(torch.uint8)
    return torch.randn(clips, 2, 4, 3, 3, generator=generator), pixels


def test_draws_come_from_the_class_without_replacement():
    labels = torch.tensor([[0, 0, 1, 255, 0, 2, 9, 1, 0, 0]] * 2, dtype=torch.uint8)
    index, valid = draw_cells(labels, 4, 3, generators(2))
    assert index.shape == valid.shape == (2, 4, 3)
    assert valid.sum(2).tolist() == [[3, 2, 1, 0]] * 2
    for clip in range(2):
        for category in range(4):
            drawn = index[clip, category][valid[clip, category]].tolist()
            assert len(set(drawn)) == len(drawn)
            assert all(labels[clip, place] == category for place in drawn)
    assert index.min() >= 0
    assert index.max() < labels.shape[1]


def test_every_cell_of_a_class_is_equally_likely():
    labels = torch.tensor([[1, 0, 0, 1, 0, 0, 1]], dtype=torch.uint8).expand(3000, -1)
    generator = torch.Generator().manual_seed(0)
    index, _ = draw_cells(labels, 2, 2, [generator] * 3000)
    share = torch.bincount(index[:, 0].flatten(), minlength=7) / 3000
    assert share.tolist() == pytest.approx([0, 0.5, 0.5, 0, 0.5, 0.5, 0], abs=0.04)


def test_draws_belong_to_the_clip():
    labels = torch.randint(0, 3, (2, 40), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    both, _ = draw_cells(labels, 3, 4, generators(2))
    alone, _ = draw_cells(labels[1:], 3, 4, generators(1, seed=1))
    assert torch.equal(both[1:], alone)


def test_a_new_bank_has_no_vote():
    rows, labels = bank().rows()
    assert rows.shape == (15, 4)
    assert labels.dtype == torch.int64
    assert (labels == 255).all()


def test_the_ring_is_that_of_plain_lists():
    """Steps of different sizes, longer than the ring too: every class holds its last rows, the oldest goes first."""
    one = bank(per_step=4)
    lists = [deque(maxlen=5) for _ in range(3)]
    for step in range(7):
        embedding, semantic = random_clips(1 + step % 3, step)
        labels = semantic[..., ::4, ::4].flatten(1)
        index, valid = draw_cells(labels, 3, 4, generators(len(labels), step))
        one.stage(embedding, semantic, generators(len(labels), step))
        one.commit()
        cells = F.normalize(embedding.permute(0, 1, 3, 4, 2).reshape(len(labels), -1, 4), dim=-1)
        for clip in range(len(labels)):
            for category in range(3):
                lists[category].extend(cells[clip, i] for i in index[clip, category][valid[clip, category]].tolist())
        rows, stored = one.rows()
        for category in range(3):
            own = slice(category * 5, category * 5 + 5)
            filled = len(lists[category])
            assert stored[own].tolist() == [category] * filled + [255] * (5 - filled)
            start = one.state_dict()["next"][category].item() if filled == 5 else 0
            ring = rows[own].roll(-start, 0)[:filled]
            torch.testing.assert_close(ring, torch.stack(list(lists[category])))


def test_the_pointer_advances_by_the_rows_that_were_pushed():
    one = bank(size=8, per_step=3)
    semantic = torch.full((1, 1, 4, 20), 255, dtype=torch.uint8)
    semantic[..., :8] = 0
    semantic[..., 8:12] = 2
    for step in range(3):
        one.stage(torch.randn(1, 1, 4, 1, 5), semantic, generators(1))
        one.commit()
        state = one.state_dict()
        assert state["next"].tolist() == [2 * (step + 1), 0, step + 1]
        assert state["filled"].tolist() == [2 * (step + 1), 0, step + 1]


def test_rows_have_unit_length_and_no_graph():
    one = bank()
    embedding, semantic = random_clips(2, 0)
    one.stage((100 * embedding).requires_grad_(), semantic, generators(2))
    one.commit()
    rows, labels = one.rows()
    assert not rows.requires_grad
    torch.testing.assert_close(rows[labels != 255].norm(dim=1), torch.ones(int((labels != 255).sum())))


def test_half_precision_features_are_stored_in_float32():
    one = bank()
    embedding, semantic = random_clips(1, 0)
    one.stage(embedding.to(torch.bfloat16), semantic, generators(1))
    one.commit()
    assert one.rows()[0].dtype == torch.float32


def test_a_skipped_step_leaves_no_trace():
    one = bank()
    before = one.state_dict()
    one.stage(*random_clips(2, 0), generators(2))
    assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())
    one.discard()
    one.commit(lambda _: pytest.fail("nothing is staged"))
    assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())


def test_accumulated_parts_are_pushed_in_order():
    parts, whole = bank(), bank()
    embedding, semantic = random_clips(2, 3)
    for clip in range(2):
        parts.stage(embedding[clip : clip + 1], semantic[clip : clip + 1], generators(1, seed=clip))
    whole.stage(embedding, semantic, generators(2))
    parts.commit()
    whole.commit()
    assert all(torch.equal(parts.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_processes_hold_the_bank_of_one_process():
    """Two processes with one clip each, whose tensors ``gather`` concatenates, push what one pushes with both."""
    embedding, semantic = random_clips(2, 3)
    whole = bank()
    whole.stage(embedding, semantic, generators(2))
    whole.commit()
    shares = [bank(), bank()]
    sent: list[list[torch.Tensor]] = [[], []]
    for clip, share in enumerate(shares):
        share.stage(embedding[clip : clip + 1], semantic[clip : clip + 1], generators(1, seed=clip))
        share.commit(lambda tensor, own=sent[clip]: own.append(tensor) or tensor)
    for clip, share in enumerate((bank(), bank())):
        share.stage(embedding[clip : clip + 1], semantic[clip : clip + 1], generators(1, seed=clip))
        answers = iter([torch.cat(pair) for pair in zip(*sent, strict=True)])
        share.commit(lambda _, answers=answers: next(answers))
        assert all(torch.equal(share.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_ignored_clips_store_nothing():
    one = bank()
    embedding, semantic = random_clips(2, 0)
    one.stage(embedding, torch.full_like(semantic, 255), generators(2))
    one.commit()
    assert (one.rows()[1] == 255).all()


def test_state_survives_the_checkpoint_format():
    one, other = bank(), bank()
    for step in range(3):
        one.stage(*random_clips(2, step), generators(2, step))
        one.commit()
    other.stage(*random_clips(2, 9), generators(2))
    tree, tensors = split_state(one.state_dict())
    other.load_state_dict(join_state(json.loads(json.dumps(tree)), tensors))
    for each in (one, other):
        each.commit()
        each.stage(*random_clips(2, 5), generators(2, 5))
        each.commit()
    assert all(torch.equal(a, b) for a, b in zip(one.rows(), other.rows(), strict=True))


def test_state_is_a_copy():
    one = bank()
    state = one.state_dict()
    one.stage(*random_clips(2, 0), generators(2))
    one.commit()
    assert not state["rows"].any()
    assert not state["filled"].any()


def test_a_bank_of_another_size_is_refused():
    with pytest.raises(CheckpointError, match=r"\(3, 5, 4\), this recipe asks for \(3, 6, 4\); set .*bank\.size"):
        bank(size=6).load_state_dict(bank().state_dict())
