import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidapt.clip import PanopticTarget
from vidapt.config import CenterOffsetConfig
from vidapt.errors import ConfigError
from vidapt.labels import CITYSCAPES, LabelClass, LabelSpace
from vidapt.models.grid import enlarge
from vidapt.models.instance import targets
from vidapt.models.instance.center_offset import CenterOffsetHead
from vidapt.models.instance.grouping import find_peaks, group_pixels, nearest_center
from vidapt.models.instance.targets import center_targets, find_instance_centers, padded_centers

ROAD, PERSON, CAR, IGNORE = 0, 11, 13, 255
IS_THING = torch.from_numpy(CITYSCAPES.is_thing)
CHANNELS = (4, 6, 8, 10)


def target(count=1, height=32, width=64, semantic=ROAD):
    """Frames of one class, all labelled."""
    return PanopticTarget(
        torch.full((count, height, width), semantic, dtype=torch.uint8),
        torch.zeros(count, height, width, dtype=torch.int32),
        torch.ones(count, dtype=torch.bool),
    )


def put(labels, frame, rows, columns, identity, category=CAR):
    labels.semantic[frame, rows, columns] = category
    labels.instance[frame, rows, columns] = identity


def random_target(seed, count=3, height=37, width=58, objects=6):
    """Overlapping boxes, a crowd, ignored pixels, the same ids in several frames, ids far apart."""
    rng = np.random.default_rng(seed)
    labels = target(count, height, width)
    ids = rng.choice([1, 2, 3, 7, 40, 90_000, 2**24], objects, replace=False)
    for frame in range(count):
        for identity in ids[: rng.integers(0, objects + 1)]:
            row, column = int(rng.integers(0, height)), int(rng.integers(0, width))
            size = [int(value) for value in rng.integers(1, 20, 2)]
            category = int(rng.choice([PERSON, CAR]))
            put(labels, frame, slice(row, row + size[0]), slice(column, column + size[1]), int(identity), category)
        put(labels, frame, slice(0, 9), slice(0, 9), 0, PERSON)
        labels.semantic[frame, 20:30, 40:50] = IGNORE
    labels.labelled[count - 1] = seed % 2 == 0
    return labels


def oracle(labels, sigma, instance_weight, pixel_weight):
    """Cell by cell and instance by instance, straight from the definition."""
    semantic, ids = labels.semantic.numpy(), labels.instance.numpy().astype(int)
    count, height, width = semantic.shape
    shape = (count, -(-height // 4), -(-width // 4))
    heat, heat_weight, offset_weight = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    counted, offset = np.zeros(shape), np.zeros((count, 2, *shape[1:]))

    def weight_of(frame, identity):
        return instance_weight[frame, identity].item() if identity < instance_weight.shape[1] else 1.0

    for frame in range(count):
        if not labels.labelled[frame]:
            continue
        thing = CITYSCAPES.is_thing[semantic[frame]]
        owners = sorted({int(i) for i in ids[frame][thing]} - {0})
        means = {i: np.argwhere((ids[frame] == i) & thing).mean(0) for i in owners}
        middles = {
            i: np.clip(np.round((np.float32(mean) - 1.5) / 4), 0, np.array(shape[1:]) - 1) for i, mean in means.items()
        }
        for row in range(shape[1]):
            for column in range(shape[2]):
                y, x = min(4 * row + 2, height - 1), min(4 * column + 2, width - 1)
                identity = ids[frame, y, x] if thing[y, x] else 0
                best, place = 0.0, (frame, row, column)
                own = around = weight_of(frame, identity)
                for other, middle in middles.items():
                    away = np.abs(middle - (row, column))
                    value = np.exp(-((4 * away) ** 2).sum() / (2 * sigma**2)) * (away.max() <= int(3 * sigma / 4) + 1)
                    if value > best + 1e-7 or (
                        value > 0 and abs(value - best) <= 1e-7 and weight_of(frame, other) > around
                    ):
                        best, around = max(value, best), weight_of(frame, other)
                heat[place] = best
                crowd = thing[y, x] and identity == 0
                if semantic[frame, y, x] == IGNORE or crowd:
                    continue
                counted[place] = 1
                trust = pixel_weight[frame, y, x].item()
                heat_weight[place] = trust * (own + best * (around - own))
                if identity:
                    offset[frame, :, row, column] = means[identity] - (4 * row + 1.5, 4 * column + 1.5)
                    offset_weight[place] = trust * own
    return heat, heat_weight, counted.sum((1, 2)), offset, offset_weight, (offset_weight != 0)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), sigma=st.sampled_from([2.0, 3.7, 8.0]))
def test_targets_equal_the_definition(seed, sigma):
    labels = random_target(seed)
    generator = torch.Generator().manual_seed(seed)
    instance_weight = torch.rand(3, 8, generator=generator) + 0.1
    pixel_weight = torch.rand(3, 37, 58, generator=generator) + 0.1
    goal = center_targets(labels, IS_THING, sigma, instance_weight=instance_weight, pixel_weight=pixel_weight)
    heat, heat_weight, counted, offset, offset_weight, on_instance = oracle(
        labels, sigma, instance_weight, pixel_weight
    )
    np.testing.assert_allclose(goal.heat, heat, atol=1e-6)
    np.testing.assert_allclose(goal.heat_weight, heat_weight, atol=1e-5)
    np.testing.assert_allclose(goal.offset, offset, atol=1e-4)
    np.testing.assert_allclose(goal.offset_weight, offset_weight, atol=1e-6)
    np.testing.assert_array_equal(goal.heat_count, counted)
    np.testing.assert_array_equal(goal.offset_count, on_instance.sum((1, 2)))


def padded(labels, is_thing, most):
    """Centres as a GPU gets them."""
    counted = (labels.instance > 0) & labels.labelled[:, None, None] & is_thing[labels.semantic.long()]
    return padded_centers(labels.instance, counted, labels.instance.max().long() + 1, most)


@pytest.mark.parametrize("most", [7, 8, 40])
@pytest.mark.parametrize("seed", range(6))
def test_centres_of_fixed_number_are_the_same(seed, most):
    labels = random_target(seed)
    wanted, found = find_instance_centers(labels, IS_THING), padded(labels, IS_THING, most)
    assert len(found.keys) == 3 * most
    assert (found.keys[1:] >= found.keys[:-1]).all()
    for name in ("keys", "frames", "ids", "points"):
        assert torch.equal(getattr(found, name)[found.listed], getattr(wanted, name)), name
    assert found.points.isfinite().all()


@pytest.mark.parametrize("seed", range(4))
def test_targets_do_not_depend_on_the_way_to_centres(monkeypatch, seed):
    labels, generator = random_target(seed), torch.Generator().manual_seed(seed)
    weights = {
        "instance_weight": torch.rand(3, 8, generator=generator),
        "pixel_weight": torch.rand(labels.semantic.shape, generator=generator),
    }
    wanted = center_targets(labels, IS_THING, 8.0, **weights)
    monkeypatch.setattr(targets, "find_instance_centers", lambda labels, things: padded(labels, things, 9))
    found = center_targets(labels, IS_THING, 8.0, **weights)
    for name, value in vars(wanted).items():
        assert torch.equal(getattr(found, name), value), name


def test_ids_beyond_the_fixed_number_get_no_target(monkeypatch):
    labels = target(1, 32, 64)
    for identity in (3, 5, 9):
        put(labels, 0, slice(8, 24), slice(8 * identity - 16, 8 * identity - 8), identity)
    monkeypatch.setattr(targets, "find_instance_centers", lambda labels, things: padded(labels, things, 2))
    found = center_targets(labels, IS_THING, 8.0)
    assert found.offset_count.item() == 2 * 4 * 2
    assert (found.heat == 1).sum() == 2


def test_heat_is_one_at_the_centre_and_offsets_lead_there():
    labels = target()
    put(labels, 0, slice(8, 20), slice(30, 46), 5)
    goal = center_targets(labels, IS_THING, 4.0)
    assert (goal.heat[0] == 1).nonzero().tolist() == [[3, 9]]
    assert goal.heat[0, 3, 10].item() == pytest.approx(np.exp(-0.5))
    assert goal.offset[0, :, 2, 8].tolist() == [13.5 - 9.5, 37.5 - 33.5]
    assert goal.offset_count.tolist() == [12.0]


def test_an_id_has_a_centre_in_each_frame():
    labels = target(2)
    put(labels, 0, slice(0, 8), slice(0, 8), 3)
    put(labels, 1, slice(16, 24), slice(40, 48), 3)
    goal = center_targets(labels, IS_THING, 2.0)
    peaks = [frame.flatten().argmax().item() for frame in goal.heat]
    assert peaks == [16 * 0 + 0, 16 * 4 + 10]


def test_target_of_a_clip_is_built_in_ten_milliseconds():
    labels = target(8, 128, 256)
    for frame in range(8):
        for index in range(15):
            row, column = 8 * index, (37 * index + 11 * frame) % 220
            put(labels, frame, slice(row, row + 20), slice(column, column + 28), index + 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(12):
        start = time.process_time()
        center_targets(labels, IS_THING, 2.0)
        times.append(time.process_time() - start)
    torch.set_num_threads(threads)
    assert min(times) < 0.010


@pytest.fixture
def head():
    torch.manual_seed(0)
    return CenterOffsetHead(CenterOffsetConfig(channels=8, norm="group"), CHANNELS, CITYSCAPES)


def pyramid(count=1, height=8, width=16):
    generator = torch.Generator().manual_seed(count)
    return [
        torch.randn(count, c, -(-height // 2**i), -(-width // 2**i), generator=generator)
        for i, c in enumerate(CHANNELS)
    ]


def fixed(head, heat, offset):
    """Let the head give these fields instead of what its weights say."""
    head.forward = lambda features: (heat, offset)
    return head


def test_loss_is_zero_for_the_target_itself_and_known_beside_it(head):
    labels = target()
    put(labels, 0, slice(8, 20), slice(30, 46), 5)
    goal = center_targets(labels, IS_THING, 2.0)
    heat = goal.heat[:, None].clone()
    assert {k: v.item() for k, v in fixed(head, heat, goal.offset).loss([], labels).items()} == {
        "center": 0,
        "offset": 0,
    }
    losses = fixed(head, heat + 0.5, goal.offset + torch.tensor([2.0, -3.0])[:, None, None]).loss([], labels)
    assert losses["center"].item() == pytest.approx(200 * 0.25)
    assert losses["offset"].item() == pytest.approx(0.01 * 5.0)


def test_sigma_follows_the_height(head):
    seen = {}
    for height in (128, 1024):
        labels = target(1, height, 64)
        put(labels, 0, slice(28, 36), slice(28, 36), 1)
        zeros = torch.zeros(1, 1, height // 4, 16)
        losses = fixed(head, zeros, torch.zeros(1, 2, height // 4, 16)).loss([], labels)
        heat = center_targets(labels, IS_THING, 2.0 if height == 128 else 8.0).heat
        seen[height] = losses["center"].item() == pytest.approx(200 * (heat**2).mean().item())
    assert seen == {128: True, 1024: True}


def losses_of(head, labels, features=None, **weights):
    features = features if features is not None else pyramid(len(labels.labelled))
    return {name: value.item() for name, value in head.loss(features, labels, **weights).items()}


def mixed_target(count=4):
    labels = target(count)
    for frame in range(count):
        put(labels, frame, slice(4 * frame, 4 * frame + 9), slice(10, 30), frame + 1)
    put(labels, 0, slice(20, 30), slice(40, 60), 9, PERSON)
    labels.labelled[2] = False
    labels.semantic[3] = IGNORE
    return labels


def test_the_loss_does_not_depend_on_which_frames_share_a_process(head):
    labels, features = mixed_target(), pyramid(4)

    def part(frames):
        some = PanopticTarget(labels.semantic[frames], labels.instance[frames], labels.labelled[frames])
        return losses_of(head, some, [level[frames] for level in features])

    whole, pairs = part([0, 1, 2, 3]), [part([3, 1]), part([0, 2])]
    singles = [part([frame]) for frame in range(4)]
    for name in whole:
        assert whole[name] == pytest.approx(sum(pair[name] for pair in pairs) / 2, rel=1e-5)
        assert whole[name] == pytest.approx(sum(single[name] for single in singles) / 4, rel=1e-5)
    assert singles[2] == singles[3] == {"center": 0.0, "offset": 0.0}
    assert singles[0]["offset"] > 0


def test_crowds_and_ignored_pixels_do_not_count(head):
    plain, crowd, ignored = target(), target(), target()
    put(crowd, 0, slice(0, 16), slice(0, 64), 0, PERSON)
    ignored.semantic[0, :16] = IGNORE
    lower = PanopticTarget(plain.semantic[:, 16:], plain.instance[:, 16:], plain.labelled)
    heat = torch.rand(1, 1, 8, 16)
    expected = fixed(head, heat[:, :, 4:], torch.zeros(1, 2, 4, 16)).loss([], lower)["center"].item()
    for labels in (crowd, ignored):
        assert fixed(head, heat, torch.zeros(1, 2, 8, 16)).loss([], labels)["center"].item() == pytest.approx(expected)


def test_pixel_weight_scales_and_masks(head):
    labels = mixed_target()
    plain, half = losses_of(head, labels), losses_of(head, labels, pixel_weight=torch.full((4, 32, 64), 0.5))
    assert half == {name: pytest.approx(value / 2, rel=1e-5) for name, value in plain.items()}
    zero = losses_of(head, labels, pixel_weight=torch.zeros(4, 32, 64))
    assert zero == {"center": 0.0, "offset": 0.0}


def test_instance_weight_scales_by_id_and_ids_beyond_the_table_weigh_one(head):
    labels = target()
    put(labels, 0, slice(4, 12), slice(4, 20), 1)
    put(labels, 0, slice(16, 28), slice(40, 60), 7)
    off, goal = torch.zeros(1, 2, 8, 16), center_targets(labels, IS_THING, 2.0)
    off[0, 0] = 1.0
    fields = goal.heat[:, None] + 1.0, goal.offset + off

    def losses(table):
        result = fixed(head, *fields).loss([], labels, instance_weight=None if table is None else torch.tensor([table]))
        return result["center"].item() / 200, result["offset"].item() / 0.01

    cells = {1: 2 * 4, 7: 3 * 5}
    assert losses(None) == pytest.approx((1.0, 1.0))
    assert losses([1.0, 1.0]) == pytest.approx((1.0, 1.0))
    assert losses([1.0, 0.0])[1] == pytest.approx(cells[7] / 23)
    assert losses([0.0, 1.0])[1] == pytest.approx(1.0)
    assert losses([0.0, 1.0])[0] < 0.3
    halo = goal.heat[0, :, :6].sum() - goal.heat[0, 1:3, 1:5].sum()
    assert losses([1.0, 0.0])[0] == pytest.approx(1 - (cells[1] + halo.item()) / 128, abs=1e-3)


@pytest.mark.parametrize("kind", ["no instance", "all ignored", "unlabelled", "all crowd"])
def test_frames_without_instances_give_finite_losses_and_gradients(head, kind):
    labels = target(2, semantic={"all ignored": IGNORE, "all crowd": CAR}.get(kind, ROAD))
    if kind == "unlabelled":
        labels.labelled[:] = False
    losses = head.loss(pyramid(2), labels, instance_weight=torch.ones(2, 1))
    assert losses["offset"].item() == 0
    assert (losses["center"].item() > 0) == (kind == "no instance")
    sum(losses.values()).backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in head.parameters())


def test_a_space_without_things_has_no_instances():
    space = LabelSpace("stuff", (LabelClass("road", False, (0, 0, 0)), LabelClass("sky", False, (1, 1, 1))))
    head = CenterOffsetHead(CenterOffsetConfig(channels=8, threshold=0.0), CHANNELS, space).eval()
    assert losses_of(head, target())["offset"] == 0
    (found,) = head.predict(pyramid(), torch.rand(1, 2, 32, 64))
    assert (len(found), found.masks.shape) == (0, (0, 32, 64))


def test_even_windows_are_refused():
    with pytest.raises(ConfigError, match="kernel must be odd, got 6"):
        CenterOffsetHead(CenterOffsetConfig(kernel=6), CHANNELS, CITYSCAPES)


def scene(height=32, width=64):
    """Three objects, one of them close to another, with probabilities and perfect fields."""
    labels = target(1, height, width)
    put(labels, 0, slice(2, 14), slice(3, 20), 1, CAR)
    put(labels, 0, slice(2, 14), slice(20, 40), 2, CAR)
    put(labels, 0, slice(18, 30), slice(44, 52), 3, PERSON)
    goal = center_targets(labels, IS_THING, 2.0)
    probabilities = torch.full((1, 19, height, width), 0.01)
    probabilities.scatter_(1, labels.semantic[:, None].long(), 0.8)
    heat = goal.heat[:, None] * torch.linspace(0.5, 0.9, goal.heat.shape[-1])
    return labels, probabilities, heat, goal.offset


def overlap(found, labels):
    truth = torch.stack([labels.instance[0] == identity for identity in (1, 2, 3)])
    inter = (found.masks[:, None] & truth).sum((2, 3))
    union = (found.masks[:, None] | truth).sum((2, 3))
    return (inter / union).max(0).values


def test_perfect_fields_give_the_instances_back(head):
    labels, probabilities, heat, offset = scene()
    (found,) = fixed(head, heat, offset).predict([], probabilities)
    assert overlap(found, labels).min() > 0.9
    assert found.categories.tolist() == [PERSON, CAR, CAR]
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert (found.scores > 0.4).all()
    assert found.masks.dtype == torch.bool
    assert int(found.masks.sum(0).max()) == 1
    assert found.embeddings is None


@pytest.mark.parametrize("size", [(32, 64), (64, 128), (8, 16), (50, 90), (31, 61)])
def test_masks_have_the_size_of_the_probabilities(head, size):
    labels, probabilities, heat, offset = scene()
    resized = enlarge(probabilities, size) if size[0] > 32 else torch.nn.functional.interpolate(probabilities, size)
    if size == (31, 61):
        resized = probabilities[..., :31, :61]
    (found,) = fixed(head, heat, offset).predict([], resized)
    assert found.masks.shape == (3, *size)
    full = torch.nn.functional.interpolate(found.masks[None].float(), (32, 64))[0] > 0.5
    if size == (31, 61):
        full = torch.nn.functional.pad(found.masks, (0, 3, 0, 1))
    found = type(found)(full, found.categories, found.scores)
    assert overlap(found, labels).min() > 0.6


def test_the_category_is_that_of_the_largest_mean_probability(head):
    _, probabilities, heat, offset = scene()
    probabilities[0, CAR, 18:30, 44:52] = 0.7
    probabilities[0, CAR, 18:22, 44:52] = 0.95
    probabilities[0, PERSON, 18:22, 44:52] = 0.0
    (found,) = fixed(head, heat, offset).predict([], probabilities)
    mean = probabilities[0, :, 18:30, 44:52].mean((1, 2))
    assert found.categories[0].item() == mean[[PERSON, CAR]].argmax().item() * 2 + PERSON


def test_peaks_are_the_largest_in_their_window():
    heat = torch.zeros(10, 12)
    heat[2, 2], heat[2, 4], heat[2, 9], heat[7, 3] = 0.9, 0.8, 0.05, 1.3
    places, scores = find_peaks(heat, threshold=0.1, kernel=5, top_k=10)
    assert places.tolist() == [[7, 3], [2, 2]]
    assert scores.tolist() == pytest.approx([1.0, 0.9])
    assert find_peaks(heat, threshold=0.1, kernel=3, top_k=10)[0].tolist() == [[7, 3], [2, 2], [2, 4]]
    assert find_peaks(heat, threshold=0.1, kernel=3, top_k=2)[0].tolist() == [[7, 3], [2, 2]]
    assert len(find_peaks(heat, threshold=2.0, kernel=3, top_k=2)[0]) == 0


def test_a_plateau_is_one_peak():
    heat = torch.zeros(6, 8)
    heat[2:4, 3:5] = 0.5
    assert find_peaks(heat, threshold=0.1, kernel=3, top_k=9)[0].tolist() == [[2, 3]]


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 1000))
def test_nearest_center_is_the_smallest_distance(points, centers, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(points, 2, generator=generator) * 50, torch.rand(centers, 2, generator=generator) * 50
    assert torch.equal(nearest_center(a, b), torch.cdist(a.double(), b.double()).argmin(1))


def test_centers_without_pixels_are_dropped():
    probabilities = torch.zeros(19, 8, 8)
    probabilities[ROAD] = 0.5
    probabilities[CAR, :2] = 0.9
    centers = torch.tensor([[100.0, 100.0], [1.0, 1.0]])
    found = group_pixels(centers, torch.tensor([0.9, 0.8]), torch.zeros(2, 8, 8), probabilities, IS_THING[:19])
    assert found.scores.tolist() == pytest.approx([0.8])
    assert found.masks.sum().item() == 16
    nothing = group_pixels(centers[:0], torch.zeros(0), torch.zeros(2, 8, 8), probabilities, IS_THING[:19])
    assert (len(nothing), nothing.categories.dtype, nothing.masks.shape) == (0, torch.int64, (0, 8, 8))


def test_a_head_learns_one_scene():
    """Fifty steps on one frame are enough to find its three objects."""
    torch.manual_seed(0)
    head = CenterOffsetHead(CenterOffsetConfig(channels=16, norm="group"), CHANNELS, CITYSCAPES)
    labels, probabilities, _, _ = scene()
    features, optimiser = pyramid(), torch.optim.AdamW(head.parameters(), 5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        sum(head.loss(features, labels).values()).backward()
        optimiser.step()
    (found,) = head.eval().predict(features, probabilities)
    assert len(found) == 3
    assert overlap(found, labels).min() > 0.7
