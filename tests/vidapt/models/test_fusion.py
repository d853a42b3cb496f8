"""Fusion against a per-pixel oracle, its thresholds, and the step from detections to tracks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidapt.clip import Instances
from vidapt.errors import VidaptError
from vidapt.models import fusion
from vidapt.models.fusion import assign_tracks, fuse, most_probable

IS_THING = np.array([False, False, True, True])
EVERYTHING = {"stuff_area": 0.0, "min_area": 0.0, "min_score": 0.0}


def _instances(masks, scores, embeddings=None):
    masks = torch.as_tensor(np.asarray(masks, bool))
    return Instances(masks, torch.zeros(len(masks), dtype=torch.int64), torch.tensor(scores).float(), embeddings)


def _nothing(height, width):
    return Instances(torch.zeros(0, height, width, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), torch.zeros(0))


def _maps(labels, sure=0.85):
    """Probabilities (4,h,w) whose argmax is ``labels``."""
    onehot = np.eye(4)[np.asarray(labels)]
    return torch.from_numpy(np.moveaxis(onehot * sure + (1 - onehot) * (1 - sure) / 3, -1, 0)).float()


def _random(seed, count=6, size=(17, 23)):
    generator = torch.Generator().manual_seed(seed)
    probabilities = (torch.randn(4, *size, generator=generator) * 2).softmax(0)
    masks = torch.zeros(count, *size, dtype=torch.bool)
    for mask in masks:
        y, x = (int(torch.randint(0, n - 4, (), generator=generator)) for n in size)
        mask[y : y + 8, x : x + 9] = True
    scores = torch.rand(count, generator=generator).sort(descending=True).values
    embeddings = torch.randn(count, 5, generator=generator)
    return probabilities, Instances(masks, torch.zeros(count, dtype=torch.int64), scores, embeddings)


def _oracle(probabilities, instances, *, stuff_area, overlap, min_area, min_score):
    """The same rules, pixel by pixel: (ids, categories, sources)."""
    values = probabilities.double().numpy()
    height, width = values.shape[1:]
    semantic = values.argmax(0)
    ids, categories, sources = np.zeros((height, width), int), [], []
    for k in range(len(instances)):
        pixels = [p for p in zip(*np.nonzero(instances.masks[k].numpy()), strict=True) if IS_THING[semantic[p]]]
        mine = [p for p in pixels if ids[p] == 0]
        enough = len(mine) >= max(1, min_area * height * width)
        if instances.scores[k] < min_score or not enough or len(pixels) - len(mine) > overlap * len(pixels):
            continue
        mean = np.mean([values[:, y, x] for y, x in mine], axis=0)
        categories.append(max((2, 3), key=lambda c: mean[c]))
        sources.append(k)
        for p in mine:
            ids[p] = 256 + len(sources) - 1
    for category in (0, 1):
        if (semantic == category).sum() >= max(1, stuff_area * height * width):
            ids[semantic == category] = category + 1
    return ids, categories, sources


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    stuff_area=st.sampled_from([0.0, 0.25]),
    overlap=st.sampled_from([0.2, 0.5, 1.0]),
    min_area=st.sampled_from([0.0, 0.05]),
    min_score=st.sampled_from([0.0, 0.4]),
)
def test_equals_the_rules_pixel_by_pixel(seed, **options):
    probabilities, instances = _random(seed)
    fused = fuse(probabilities, instances, IS_THING, **options)
    ids, categories, sources = _oracle(probabilities, instances, **options)
    assert np.array_equal(fused.ids, ids)
    assert fused.categories.tolist() == categories
    assert fused.sources.tolist() == sources


def test_fields_are_consistent():
    probabilities, instances = _random(3)
    fused = fuse(probabilities, instances, IS_THING, **EVERYTHING)
    count = len(fused.scores)
    assert count >= 3
    assert (fused.semantic.dtype, fused.ids.dtype, fused.labels.dtype) == (np.uint8, np.int32, np.int32)
    assert np.array_equal(fused.semantic, probabilities.argmax(0).numpy())
    assert np.array_equal(fused.labels > 0, fused.ids >= 256)
    assert fused.classes.shape == (count, 4)
    assert np.allclose(fused.classes.sum(1), 1)
    assert not fused.classes[:, :2].any()
    assert np.array_equal(fused.embeddings, instances.embeddings.numpy()[fused.sources])
    assert np.array_equal(fused.scores, instances.scores.numpy()[fused.sources])
    assert {segment.id for segment in fused.segments} == set(np.unique(fused.ids).tolist()) - {0}
    for segment in fused.segments:
        rows, columns = np.nonzero(fused.ids == segment.id)
        assert segment.area == len(rows)
        assert segment.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert segment.is_thing == bool(IS_THING[segment.category])
        assert 0 <= segment.score <= 1


def test_stuff_score_is_the_mean_probability_of_its_pixels():
    labels = np.zeros((4, 4), int)
    labels[2:] = 1
    fused = fuse(_maps(labels, 0.7), _nothing(4, 4), IS_THING, **EVERYTHING)
    assert [(s.id, s.area) for s in fused.segments] == [(1, 8), (2, 8)]
    assert [s.score for s in fused.segments] == pytest.approx([0.7, 0.7])


def test_class_is_the_soft_majority_over_things():
    # Two pixels lean to class 2 slightly, one is sure of class 3.
    values = torch.tensor([[0.1, 0.1, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.05], [0.4, 0.4, 0.95]]).reshape(4, 1, 3)
    fused = fuse(values, _instances(np.ones((1, 1, 3)), [0.9]), IS_THING, **EVERYTHING)
    assert fused.categories.tolist() == [3]


def test_instances_take_thing_pixels_only_and_the_rest_is_void():
    labels = np.zeros((6, 8), int)
    labels[:, 4:] = 2
    mask = np.zeros((1, 6, 8), bool)
    mask[0, :3, 2:6] = True
    fused = fuse(_maps(labels), _instances(mask, [0.9]), IS_THING, **EVERYTHING)
    assert np.array_equal(fused.ids == 256, (labels == 2) & mask[0])
    assert np.array_equal(fused.ids == 1, labels == 0)
    assert (fused.ids[3:, 4:] == 0).all()
    assert np.array_equal(fused.semantic, labels)


@pytest.mark.parametrize(("width", "kept"), [(5, 2), (4, 1)])
def test_overlap_limit(width, kept):
    masks = np.zeros((2, 1, 20), bool)
    masks[0, 0, :10] = True
    masks[1, 0, 10 - 5 : 10 + width] = True
    fused = fuse(_maps(np.full((1, 20), 2)), _instances(masks, [0.9, 0.8]), IS_THING, **EVERYTHING)
    assert len(fused.scores) == kept


def test_area_limits_scale_with_the_frame():
    for scale in (1, 2):
        labels = np.zeros((128 * scale, 256 * scale), int)
        labels[:scale, : 31 * scale] = 1
        labels[-scale:, -scale:] = 2
        mask = (labels == 2)[None]
        fused = fuse(_maps(labels), _instances(mask, [0.9]), IS_THING)
        assert {s.id for s in fused.segments} == {1, 256}
        assert (fused.ids[labels == 1] == 0).all()
        labels[:scale, : 32 * scale] = 1
        assert {s.id for s in fuse(_maps(labels), _instances(mask, [0.9]), IS_THING).segments} == {1, 2, 256}
        assert len(fuse(_maps(labels), _instances(mask, [0.9]), IS_THING, min_area=2 / (128 * 256)).scores) == 0


def test_low_scores_stay_and_lower_ones_go():
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :, :2], masks[1, :, 2:4], masks[2, :, 4:] = True, True, True
    fused = fuse(_maps(np.full((4, 6), 3)), _instances(masks, [0.9, 0.1, 0.09]), IS_THING)
    assert fused.scores.tolist() == pytest.approx([0.9, 0.1])


def test_unsorted_scores_and_ties():
    masks = np.ones((3, 2, 2), bool)
    fused = fuse(_maps(np.full((2, 2), 2)), _instances(masks, [0.3, 0.7, 0.7]), IS_THING, **EVERYTHING)
    assert fused.sources.tolist() == [1]


def test_edge_cases():
    empty = fuse(_maps(np.full((3, 5), 2)), _nothing(3, 5), IS_THING)
    assert not empty.ids.any()
    assert empty.segments == ()
    assert empty.classes.shape == (0, 4)
    assert empty.embeddings is None
    only_stuff = fuse(_maps(np.zeros((3, 5), int)), _instances(np.ones((1, 3, 5)), [0.9]), IS_THING)
    assert (only_stuff.ids == 1).all()
    pixel = fuse(_maps([[3]]), _instances(np.ones((1, 1, 1)), [0.9]), IS_THING)
    assert (pixel.ids.tolist(), pixel.categories.tolist()) == ([[256]], [3])
    no_things = fuse(_maps(np.zeros((3, 5), int)), _instances(np.ones((1, 3, 5)), [0.9]), np.zeros(4, bool))
    assert len(no_things.scores) == 0


def test_most_probable_takes_the_lower_class_of_a_tie():
    values = torch.tensor([[0.2, 0.5], [0.4, 0.5], [0.4, 0.0]]).reshape(3, 1, 2)
    semantic, confidence = most_probable(values)
    assert semantic.tolist() == [[1, 0]]
    assert np.allclose(confidence, [[0.4, 0.5]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype):
    labels = np.arange(24).reshape(4, 6) % 4
    fused = fuse(_maps(labels).to(dtype), _instances(np.ones((1, 4, 6)), [0.9]), IS_THING, **EVERYTHING)
    assert np.array_equal(fused.semantic, labels)
    assert (fused.ids[labels > 1] == 256).all()


def test_the_path_for_other_devices_gives_the_same(monkeypatch):
    probabilities, instances = _random(5)
    expected = fuse(probabilities, instances, IS_THING, **EVERYTHING)
    monkeypatch.setattr(fusion, "_pick", fusion._pick_on_device)
    fused = fuse(probabilities, instances, IS_THING, **EVERYTHING)
    assert np.array_equal(fused.ids, expected.ids)
    assert np.array_equal(fused.classes, expected.classes)


@pytest.mark.gpu
def test_gpu_equals_cpu():
    probabilities, instances = _random(6)
    expected = fuse(probabilities, instances, IS_THING, **EVERYTHING)
    moved = Instances(*(t.cuda() for t in (instances.masks, instances.categories, instances.scores)))
    fused = fuse(probabilities.cuda(), moved, IS_THING, **EVERYTHING)
    assert np.array_equal(fused.ids, expected.ids)
    assert fused.segments == expected.segments


def test_exceptions():
    good = _maps(np.zeros((3, 5), int))
    with pytest.raises(ValueError, match="probabilities must be floating"):
        fuse(good.long(), _nothing(3, 5), IS_THING)
    with pytest.raises(ValueError, match=r"masks must be bool \(0,3,5\)"):
        fuse(good, _nothing(3, 4), IS_THING)
    with pytest.raises(ValueError, match="is_thing has 2 entries for 4 classes"):
        fuse(good, _nothing(3, 5), IS_THING[:2])
    good[:, 1, 1] = torch.nan
    with pytest.raises(VidaptError, match="contain NaN"):
        fuse(good, _nothing(3, 5), IS_THING)


def test_tracks_replace_frame_ids_and_classes():
    labels = np.zeros((4, 6), int)
    labels[:, 2:] = 2
    masks = np.zeros((2, 4, 6), bool)
    masks[0, :, 2:4], masks[1, :, 4:] = True, True
    fused = fuse(_maps(labels), _instances(masks, [0.9, 0.4]), IS_THING, **EVERYTHING)
    ids, segments = assign_tracks(fused, np.array([900, 0], np.int32), np.array([3, 2]))
    assert ids.dtype == np.int32
    assert ids[0].tolist() == [1, 1, 900, 900, 0, 0]
    assert [(s.id, s.category, s.is_thing, s.area, s.box) for s in segments] == [
        (1, 0, False, 8, (0, 0, 2, 4)),
        (900, 3, True, 8, (2, 0, 4, 4)),
    ]
    assert np.array_equal(fused.ids[0], [1, 1, 256, 256, 257, 257])


def test_assign_tracks_exceptions():
    fused = fuse(_maps(np.full((2, 2), 2)), _instances(np.ones((1, 2, 2)), [0.9]), IS_THING)
    with pytest.raises(ValueError, match="1 detections, but 2 ids"):
        assign_tracks(fused, np.array([256, 257], np.int32), np.array([2, 2]))
    with pytest.raises(ValueError, match="track ids start at 256, got 12"):
        assign_tracks(fused, np.array([12], np.int32), np.array([2]))
