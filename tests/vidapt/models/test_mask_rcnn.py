import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from vidapt.clip import PanopticTarget
from vidapt.config import CenterOffsetConfig, EncoderConfig, ModelConfig, ProjectionConfig, SemanticConfig
from vidapt.config_model import MaskRCNNConfig
from vidapt.labels import CITYSCAPES, LabelClass, LabelSpace
from vidapt.models.fusion import fuse
from vidapt.models.instance.build import build_instance_head
from vidapt.models.instance.mask_rcnn import LOSSES, MaskRCNNHead
from vidapt.models.instance.mask_rcnn_masks import crop_maps, paste_masks
from vidapt.models.instance.mask_rcnn_sampling import Rule, draw, draw_samples, frame_seeds, match_boxes, scramble
from vidapt.models.instance.mask_rcnn_targets import box_means, detection_targets, integral_image
from vidapt.models.network import build_network
from vidapt.models.network_file import load_network, save_network

ROAD, PERSON, CAR, IGNORE = 0, 11, 13, 255
CHANNELS = (6, 6, 6, 6)
SMALL = MaskRCNNConfig(
    channels=16,
    box_channels=32,
    mask_channels=8,
    anchor_scale=4,
    rpn_samples=64,
    roi_samples=32,
    proposals_before_nms=120,
    proposals=60,
)
LABEL_OF = torch.zeros(256, dtype=torch.int64)
LABEL_OF[list(CITYSCAPES.things)] = torch.arange(1, len(CITYSCAPES.things) + 1)


def target(count=1, height=64, width=96):
    """Road everywhere, all labelled."""
    return PanopticTarget(
        torch.full((count, height, width), ROAD, dtype=torch.uint8),
        torch.zeros(count, height, width, dtype=torch.int32),
        torch.ones(count, dtype=torch.bool),
    )


def put(labels, frame, rows, columns, identity, category=CAR):
    labels.semantic[frame, rows, columns] = category
    labels.instance[frame, rows, columns] = identity


def pick(labels, frames):
    return PanopticTarget(labels.semantic[frames], labels.instance[frames], labels.labelled[frames])


def two_frames():
    labels = target(2)
    put(labels, 0, slice(10, 40), slice(6, 26), 5, CAR)
    put(labels, 0, slice(22, 50), slice(44, 90), 9, PERSON)
    put(labels, 1, slice(5, 25), slice(62, 92), 5, CAR)
    put(labels, 1, slice(30, 60), slice(8, 36), 2, PERSON)
    put(labels, 1, slice(34, 54), slice(50, 72), 3, CAR)
    return labels


def random_target(seed, count=3, height=37, width=58, objects=6):
    """Overlapping boxes of changing class, a crowd, ignored pixels, the same ids in several frames, ids far apart."""
    rng = np.random.default_rng(seed)
    labels = target(count, height, width)
    ids = rng.choice([1, 2, 3, 7, 40, 90_000, 2**24], objects, replace=False)
    for frame in range(count):
        for identity in ids[: rng.integers(0, objects + 1)]:
            row, column = int(rng.integers(0, height)), int(rng.integers(0, width))
            size = [int(value) for value in rng.integers(1, 20, 2)]
            area = slice(row, row + size[0]), slice(column, column + size[1])
            put(labels, frame, *area, int(identity), int(rng.choice([PERSON, CAR])))
        band = labels.semantic[frame, 15:19]
        band[LABEL_OF[band.long()] > 0] = CAR
        put(labels, frame, slice(0, 9), slice(0, 9), 0, PERSON)
        labels.semantic[frame, 20:30, 40:50] = IGNORE
    labels.labelled[count - 1] = seed % 2 == 0
    return labels


def feature_maps(count=2, height=64, width=96, channels=CHANNELS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    return [
        torch.randn(count, some, *size, generator=generator).requires_grad_()
        for some, size in zip(channels, sizes, strict=True)
    ]


def build(config=SMALL, space=CITYSCAPES):
    torch.manual_seed(0)
    return MaskRCNNHead(config, CHANNELS, space)


def values(losses):
    return torch.stack([losses[name].detach() for name in LOSSES])


# --- targets


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_objects_equal_a_loop(seed):
    labels = random_target(seed)
    weight = torch.rand(3, 8, generator=torch.Generator().manual_seed(seed))
    targets = detection_targets(labels, LABEL_OF, instance_weight=weight)
    semantic, ids = labels.semantic.numpy(), labels.instance.numpy()
    for frame, objects in enumerate(targets.objects):
        expected = []
        thing = CITYSCAPES.is_thing[semantic[frame]] & bool(labels.labelled[frame])
        for identity in np.unique(ids[frame][thing & (ids[frame] > 0)]):
            mask = thing & (ids[frame] == identity)
            rows, columns = np.nonzero(mask)
            category = np.bincount(semantic[frame][mask]).argmax()
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            trust = weight[frame, identity].item() if identity < 8 else 1.0
            expected.append((*box, CITYSCAPES.things.index(category) + 1, identity, trust))
        found = torch.cat(
            [objects.boxes, torch.stack([objects.labels, objects.ids, objects.weights]).T.double()], dim=1
        )
        np.testing.assert_allclose(found, np.reshape(expected, (-1, 7)), rtol=1e-6)


def test_owner_says_what_is_unknown():
    labels = target(2, 4, 4)
    put(labels, slice(None), 0, slice(None), 3)
    put(labels, slice(None), 1, slice(None), 0)
    labels.semantic[:, 2] = IGNORE
    labels.instance[:, 3] = 7  # an id on stuff is no instance
    targets = detection_targets(labels, LABEL_OF)
    assert targets.owner[0, :, 0].tolist() == [3, -1, -1, 0]
    assert targets.unknown[0, -1, -1] == 8


def test_class_is_that_of_most_pixels():
    labels = target()
    put(labels, 0, slice(0, 4), slice(0, 10), 3, PERSON)
    put(labels, 0, slice(4, 10), slice(0, 10), 3, CAR)
    put(labels, 0, slice(20, 24), slice(0, 10), 4, CAR)
    put(labels, 0, slice(24, 28), slice(0, 10), 4, PERSON)
    (objects,) = detection_targets(labels, LABEL_OF).objects
    assert objects.labels.tolist() == [CITYSCAPES.things.index(CAR) + 1, CITYSCAPES.things.index(PERSON) + 1]
    assert objects.boxes.tolist() == [[0, 0, 10, 10], [0, 20, 10, 28]]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_box_means_equal_a_loop(seed):
    rng = np.random.default_rng(seed)
    maps = rng.random((2, 9, 13))
    corners = rng.uniform(-6, 18, (30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.01, 9, (30, 2))], 1).astype(np.float32)
    found = box_means(integral_image(torch.from_numpy(maps))[1], torch.from_numpy(boxes))
    for (x0, y0, x1, y1), mean in zip(boxes, found, strict=True):
        rows = [row for row in range(9) if row + 1 > y0 and row < y1]
        columns = [column for column in range(13) if column + 1 > x0 and column < x1]
        rows = rows or [0 if y1 <= 0 else 8]
        columns = columns or [0 if x1 <= 0 else 12]
        assert mean.item() == pytest.approx(maps[1][np.ix_(rows, columns)].mean(), abs=1e-6)


# --- matching and drawing

PROPOSAL = Rule(high=0.7, low=0.3, best_too=True, count=64, share=0.5)
REGION = Rule(high=0.5, low=0.5, best_too=False, count=32, share=0.25)


@pytest.mark.parametrize("rule", [PROPOSAL, REGION])
def test_matching_equals_torchvision(rule):
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(400, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 4 + 30 * torch.rand(400, 2, generator=generator)], 1)
    objects = boxes[:7] + torch.rand(7, 4, generator=generator)
    expected = Matcher(rule.high, rule.low, allow_low_quality_matches=rule.best_too)(box_iou(objects, boxes))
    found = match_boxes(objects, boxes, rule)
    assert torch.equal(found, expected)
    assert {-1} < set(found.tolist())


def test_an_instance_that_no_box_overlaps_matches_none():
    boxes = torch.tensor([[0.0, 0, 4, 4], [10, 10, 14, 14]])
    assert match_boxes(torch.tensor([[20.0, 20, 21, 21]]), boxes, PROPOSAL).tolist() == [-1, -1]
    assert match_boxes(torch.zeros(0, 4), boxes, PROPOSAL).tolist() == [-1, -1]
    assert match_boxes(boxes, torch.zeros(0, 4), PROPOSAL).tolist() == []


@pytest.mark.parametrize(("positives", "background"), [(0, 0), (0, 100), (3, 100), (90, 100), (90, 5), (500, 0)])
def test_draw_numbers(positives, background):
    positive, negative = torch.zeros(600, dtype=torch.bool), torch.zeros(600, dtype=torch.bool)
    positive[:positives] = True
    negative[positives : positives + background] = True
    chosen = draw(positive, negative, torch.tensor(3), PROPOSAL)
    first = min(positives, 32)
    assert (chosen & positive).sum() == first
    assert (chosen & negative).sum() == min(background, 64 - first)
    assert not (chosen & ~positive & ~negative).any()


def test_every_box_is_drawn_equally_often():
    candidates = torch.ones(40, dtype=torch.bool)
    rule = Rule(0.5, 0.5, False, count=10, share=0.0)
    drawn = sum(draw(~candidates, candidates, scramble(torch.tensor(seed)), rule).long() for seed in range(800))
    assert drawn.sum() == 8000
    # 200 of 800 expected, standard deviation 12
    assert (drawn - 200).abs().max() < 60


def test_scramble_is_the_published_hash_and_one_to_one():
    def single(value):
        value = (value ^ (value >> 16)) * 0x7FEB352D % 2**32
        value = (value ^ (value >> 15)) * 0x846CA68B % 2**32
        return value ^ (value >> 16)

    inputs = [0, 1, 2, 77, 2**31, 2**32 - 1]
    assert scramble(torch.tensor(inputs)).tolist() == [single(value) for value in inputs]
    assert scramble(torch.tensor([-1])).item() == single(2**32 - 1)
    assert len(scramble(torch.arange(100_000)).unique()) == 100_000


def test_seeds_follow_labels_and_weights_only():
    labels = two_frames()
    bias = torch.tensor([0.1, -0.2, 0.0])
    seeds = frame_seeds(labels, bias)
    assert seeds[0] != seeds[1]
    assert torch.equal(seeds, frame_seeds(pick(labels, [0, 1]), bias.clone()))
    assert torch.equal(seeds[1:], frame_seeds(pick(labels, [1]), bias))
    assert not (seeds == frame_seeds(labels, bias + torch.tensor([0, 0, 1e-9]))).any()
    moved = PanopticTarget(labels.semantic.roll(8, 2), labels.instance.roll(8, 2), labels.labelled)
    assert not (seeds == frame_seeds(moved, bias)).any()


@pytest.mark.parametrize("kind", ["crowd", "ignored"])
def test_boxes_on_unknown_regions_are_no_negatives(kind):
    labels = target()
    put(labels, 0, slice(40, 60), slice(60, 80), 5)
    if kind == "crowd":
        put(labels, 0, slice(0, 32), slice(0, 32), 0)
    else:
        labels.semantic[0, :32, :32] = IGNORE
    boxes = torch.tensor(
        [[0.0, 0, 20, 20], [24, 4, 36, 24], [28, 4, 40, 24], [70, 4, 90, 24], [60, 40, 80, 60], [-40, -40, 20, 20]]
    )
    targets = detection_targets(labels, LABEL_OF)
    samples = draw_samples(boxes, targets, 0, PROPOSAL, torch.tensor(0))
    assert samples.labels.tolist() == [-1, -1, 0, 0, LABEL_OF[CAR], -1]
    assert samples.drawn.tolist() == [False, False, True, True, True, False]
    assert samples.weights.tolist() == [0, 0, 1, 1, 1, 0]
    assert samples.ids.tolist() == [0, 0, 0, 0, 5, 0]
    assert torch.equal(samples.goals, boxes)
    kept = samples.first(4)
    assert kept.boxes.tolist() == boxes[[4, 2, 3, 0]].tolist()
    assert kept.positive.tolist() == [True, False, False, False]


def test_background_is_weighed_by_the_mean_of_its_pixels():
    labels = target()
    put(labels, 0, slice(40, 60), slice(60, 80), 1)
    trust = torch.ones(1, 64, 96)
    trust[0, :, 10:] = 0.2
    weight = torch.tensor([[0.5, 3.0]])
    targets = detection_targets(labels, LABEL_OF, instance_weight=weight, pixel_weight=trust)
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10], [60, 40, 80, 60]])
    samples = draw_samples(boxes, targets, 0, REGION, torch.tensor(0))
    assert samples.weights.tolist() == pytest.approx([0.5, 0.3, 0.1, 3.0])


# --- masks


def test_crops_take_the_pixel_under_the_middle_of_a_cell():
    maps = torch.arange(2 * 8 * 8).view(2, 8, 8)
    boxes = torch.tensor([[0.0, 0, 8, 8], [4, 2, 8, 4], [7.5, 7.5, 20, 20]])
    crops = crop_maps(maps, boxes, torch.tensor([0, 1, 0]), 4)
    assert crops[0].tolist() == maps[0, 1::2, 1::2].tolist()
    assert crops[1].tolist() == maps[1, [2, 2, 3, 3]][:, 4:8].tolist()
    assert crops[2].unique().tolist() == [63]


def test_paste_equals_grid_sample():
    generator = torch.Generator().manual_seed(0)
    masks = F.avg_pool2d(torch.rand(9, 30, 30, generator=generator), 3, stride=1)
    corners = torch.rand(9, 2, generator=generator) * 50 - 10
    boxes = torch.cat([corners, corners + 0.5 + 60 * torch.rand(9, 2, generator=generator)], 1)
    rows, columns = torch.arange(40) + 0.5, torch.arange(60) + 0.5
    places = [
        (grid - boxes[:, axis, None]) / (boxes[:, axis + 2] - boxes[:, axis])[:, None] * 2 - 1
        for grid, axis in ((columns, 0), (rows, 1))
    ]
    grid = torch.stack([places[0][:, None].expand(9, 40, 60), places[1][:, :, None].expand(9, 40, 60)], -1)
    sampled = F.grid_sample(masks[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
    clear = (sampled - 0.5).abs() > 1e-4
    pasted = paste_masks(masks, boxes, (40, 60))
    assert torch.equal(pasted[clear], (sampled > 0.5)[clear])
    assert 0.02 < pasted.float().mean() < 0.9


def test_full_mask_fills_its_box():
    boxes = torch.tensor([[3.0, 2, 9, 7], [-5, -5, 4, 4], [8, 8, 9, 9], [50, 50, 60, 60]])
    masks = paste_masks(torch.ones(4, 28, 28), boxes, (16, 20))
    assert masks[0].nonzero().aminmax(dim=0).min.tolist() == [2, 3]
    assert masks[0].nonzero().aminmax(dim=0).max.tolist() == [6, 8]
    assert masks[1, :4, :4].all()
    assert masks.sum((1, 2)).tolist() == [30, 16, 1, 0]
    assert paste_masks(torch.ones(0, 28, 28), torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)


# --- losses


def plain_losses(head, features, labels):
    """The five losses of one frame, sample by sample in float64."""
    targets = detection_targets(labels, head.label_of)
    (seed,) = frame_seeds(labels, head.proposals.head.cls_logits.bias)
    pyramid = head._encode(features)
    found = head._propose(pyramid, labels.semantic.shape[1:])
    totals = np.zeros(5)
    anchors = head._draw_anchors(found.anchors, targets, 0, seed)

    def codes(goal, box, scale):
        (x0, y0, x1, y1), (a0, b0, a1, b1) = goal, box
        centres = ((x0 + x1 - a0 - a1) / 2 / (a1 - a0), (y0 + y1 - b0 - b1) / 2 / (b1 - b0))
        sides = (np.log((x1 - x0) / (a1 - a0)), np.log((y1 - y0) / (b1 - b0)))
        return np.array([*centres, *sides]) * scale

    for index in anchors.drawn.nonzero()[:, 0].tolist():
        logit, positive = found.logits[0, index].item(), anchors.labels[index] > 0
        totals[0] += np.log1p(np.exp(-logit if positive else logit)) / 64
        if positive:
            goal = codes(anchors.goals[index].tolist(), anchors.boxes[index].tolist(), 1.0)
            totals[1] += np.abs(found.codes[0, index].detach().numpy() - goal).sum() / 64
    regions = head._draw_regions(found.boxes[0], targets, 0, seed)
    logits, predicted = head._classify(pyramid, [regions.boxes])
    number, chosen = int(regions.drawn.sum()), int(regions.positive.sum())
    for index in range(number):
        label = int(regions.labels[index])
        row = logits[index].detach().double().numpy()
        totals[2] += (np.log(np.exp(row).sum()) - row[label]) / number
        if label == 0:
            continue
        goal = codes(regions.goals[index].tolist(), regions.boxes[index].tolist(), np.array([10, 10, 5, 5]))
        own = predicted[index].detach().numpy().reshape(-1, 4)[label]
        totals[3] += np.abs(own - goal).sum() / number
        mask = head._segment(pyramid, [regions.boxes[index : index + 1]], torch.tensor([label]))[0]
        x0, y0, x1, y1 = regions.boxes[index].tolist()
        error, known = 0.0, 0
        for row in range(28):
            for column in range(28):
                y, x = int(y0 + (row + 0.5) / 28 * (y1 - y0)), int(x0 + (column + 0.5) / 28 * (x1 - x0))
                if targets.owner[0, y, x] >= 0:
                    inside = targets.owner[0, y, x] == regions.ids[index]
                    value = mask[row, column].item()
                    error, known = error + np.log1p(np.exp(-value if inside else value)), known + 1
        totals[4] += error / known / chosen
    return totals


def test_losses_equal_their_definition():
    head = build()
    features = feature_maps(1)
    labels = pick(two_frames(), [1])
    labels.semantic[0, 40:44, 20:24] = IGNORE
    losses = head.loss(features, labels)
    assert tuple(losses) == LOSSES
    np.testing.assert_allclose(values(losses), plain_losses(head, features, labels), rtol=1e-4)
    assert (values(losses) > 0).all()


def test_loss_weight_scales_all():
    labels, features = two_frames(), feature_maps()
    double = build(SMALL.model_copy(update={"loss_weight": 2.0}))
    torch.testing.assert_close(values(double.loss(features, labels)), 2 * values(build().loss(features, labels)))


def test_frames_do_not_depend_on_each_other():
    """Also not on frames without instances or without labels."""
    head, features = build(), feature_maps(4)
    labels = two_frames()
    empty = target(2)
    labels = PanopticTarget(*(torch.cat([getattr(part, n) for part in (labels, empty)]) for n in vars(labels)))
    put(labels, 3, slice(4, 30), slice(4, 30), 6)
    labels.labelled[3] = False
    single = [values(head.loss([m[i : i + 1] for m in features], pick(labels, [i]))) for i in range(4)]
    torch.testing.assert_close(values(head.loss(features, labels)), torch.stack(single).mean(0), rtol=1e-4, atol=1e-5)
    assert (single[0] > 0).all()
    assert (single[2][[0, 2]] > 0).all()
    assert single[2][[1, 3, 4]].tolist() == [0, 0, 0]
    assert single[3].tolist() == [0] * 5


@pytest.mark.parametrize("kind", ["unlabelled", "ignored", "crowd"])
def test_nothing_known_gives_zero_and_no_gradient(kind):
    labels = two_frames()
    if kind == "unlabelled":
        labels.labelled[:] = False
    else:
        labels.semantic[:] = IGNORE if kind == "ignored" else CAR
        labels.instance[:] = 0
    head, features = build(), feature_maps()
    losses = head.loss(features, labels)
    assert values(losses).tolist() == [0] * 5
    sum(losses.values()).backward()
    for tensor in [*features, *head.parameters()]:
        assert tensor.grad is not None
        assert not tensor.grad.any()


@pytest.mark.parametrize("instances", [False, True])
def test_all_parameters_take_part(instances):
    """A parameter without gradient would stop distributed training."""
    head, features = build(), feature_maps()
    sum(head.loss(features, two_frames() if instances else target(2)).values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    moving = {name for name, parameter in head.named_parameters() if parameter.grad.any()}
    assert any("mask_head" in name for name in moving) == instances
    assert any("cls_score" in name for name in moving)
    assert all(level.grad.any() for level in features)


def test_weight_of_an_instance_is_linear_and_zero_removes_it():
    head, features, labels = build(), feature_maps(), two_frames()
    weight = torch.ones(2, 10)

    def at(frame, identity, value):
        table = weight.clone()
        table[frame, identity] = value
        return values(head.loss(features, labels, instance_weight=table))

    base = values(head.loss(features, labels))
    torch.testing.assert_close(at(0, 0, 1.0), base)
    for identity in (0, 5, 9):
        zero, one, three = (at(0, identity, value) for value in (0.0, 1.0, 3.0))
        torch.testing.assert_close(three - one, 2 * (one - zero), rtol=1e-3, atol=1e-4)
        involved = [0, 2] if identity == 0 else range(5)
        assert [index for index in range(5) if (one - zero)[index].abs() > 1e-6] == list(involved)
    none = values(head.loss(features, labels, instance_weight=torch.tensor([1.0]).expand(2, 1)))
    torch.testing.assert_close(none, base)
    only_background = torch.zeros(2, 10)
    only_background[:, 0] = 1
    without = values(head.loss(features, labels, instance_weight=only_background))
    assert without[[1, 3, 4]].tolist() == [0, 0, 0]
    assert (without[[0, 2]] > 0).all()


def test_weight_zero_takes_the_gradient_of_an_instance():
    head, features = build(), feature_maps(1)
    labels = pick(two_frames(), [0])
    table = torch.ones(1, 10)
    table[0, [5, 9]] = 0
    head.loss(features, labels, instance_weight=table)["mask"].backward()
    assert not any(level.grad.any() for level in features)


def test_pixel_weight():
    head, features, labels = build(), feature_maps(), two_frames()
    base = values(head.loss(features, labels))
    ones = torch.ones(2, 64, 96)
    torch.testing.assert_close(values(head.loss(features, labels, pixel_weight=ones)), base)
    half = values(head.loss(features, labels, pixel_weight=ones / 2))
    torch.testing.assert_close(half[4], base[4] / 2)
    torch.testing.assert_close(half[[1, 3]], base[[1, 3]])
    none = values(head.loss(features, labels, pixel_weight=ones * 0))
    assert none[4] == 0
    positives = values(head.loss(features, labels, instance_weight=torch.tensor([[0.0]]).expand(2, 1)))
    torch.testing.assert_close(none[:4], positives[:4])
    torch.testing.assert_close(half[[0, 2]], (none + base)[[0, 2]] / 2)


def test_draw_is_repeatable_and_leaves_global_generators_alone():
    head, features, labels = build(), feature_maps(), two_frames()
    before = torch.get_rng_state()
    first = values(head.loss(features, labels))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, values(head.loss(features, labels)))
    assert torch.equal(first, values(copy.deepcopy(head).loss(features, labels)))


@pytest.mark.parametrize(("height", "width"), [(64, 128), (61, 90), (33, 5), (4, 4), (1, 1), (1, 70)])
def test_frames_of_any_size(height, width):
    head, features = build(SMALL.model_copy(update={"score": 0.0})), feature_maps(2, height, width)
    labels = target(2, height, width)
    put(labels, 0, slice(0, 1), slice(0, 1), 3)
    put(labels, 1, slice(0, height), slice(0, width), 4)
    losses = head.loss(features, labels)
    assert values(losses).isfinite().all()
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    for found in head.predict(features, torch.zeros(2, 19, height, width)):
        assert found.masks.shape[1:] == (height, width)


def test_anchors_keep_their_stride_where_maps_are_cut():
    head = build()
    with torch.no_grad():
        found = head._propose(head._encode(feature_maps(1, 130, 70)), (130.0, 70.0))
    centres = (found.anchors[:, :2] + found.anchors[:, 2:]) / 2
    places = [(row, column, stride) for stride in (4, 8, 16, 32, 64) for row, column in cell_places(130, 70, stride)]
    expected = [(column * stride, row * stride) for row, column, stride in places for _ in range(3)]
    np.testing.assert_array_equal(centres, expected)
    sides = (found.anchors[:, 2:] - found.anchors[:, :2]).prod(1).sqrt()
    strides = np.array([stride for *_, stride in places for _ in range(3)])
    np.testing.assert_allclose(sides, 4 * strides, rtol=0.06)
    assert (found.boxes[0] >= 0).all()
    assert (found.boxes[0] <= torch.tensor([70, 130, 70, 130])).all()


def test_proposals_pass_no_gradient():
    head = build()
    found = head._propose(head._encode(feature_maps()), (64.0, 96.0))
    assert found.codes.requires_grad
    assert not any(boxes.requires_grad for boxes in found.boxes)


def cell_places(height, width, stride):
    return [(row, column) for row in range(-(-height // stride)) for column in range(-(-width // stride))]


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_norm_of_the_pyramid(norm):
    head = build(SMALL.model_copy(update={"norm": norm}))
    kinds = {"none": (), "batch": nn.BatchNorm2d, "group": nn.GroupNorm}
    found = [module for module in head.pyramid.modules() if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm))]
    assert len(found) == (0 if norm == "none" else 8)
    assert all(isinstance(module, kinds[norm]) for module in found)
    assert values(head.loss(feature_maps(), two_frames())).isfinite().all()


def test_bfloat16_autocast_gives_float32_losses_and_scores():
    head, features, labels = build(SMALL.model_copy(update={"score": 0.0})), feature_maps(), two_frames()
    plain = values(head.loss(features, labels))
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.loss(features, labels)
        found = head.predict(features, torch.zeros(2, 19, 64, 96))
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    torch.testing.assert_close(values(losses), plain, rtol=0.3, atol=0.1)
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert found[0].scores.dtype == torch.float32


# --- learning and predicting


class TinyEncoder(nn.Module):
    """Four convolutions with strides 4 to 32."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 7, 4, 2), nn.ReLU())
        self.rest = nn.ModuleList(nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()) for _ in range(3))

    def forward(self, images):
        maps = [self.first(images)]
        for layer in self.rest:
            maps.append(layer(maps[-1]))
        return maps


@pytest.fixture(scope="module")
def trained():
    """A head that has seen two frames a hundred times, its features of them, and their labels."""
    torch.manual_seed(0)
    labels = two_frames()
    images = 0.1 * torch.randn(2, 3, 64, 96)
    images[:, 0] += labels.semantic == CAR
    images[:, 1] += labels.semantic == PERSON
    encoder, head = TinyEncoder(), MaskRCNNHead(SMALL, (16,) * 4, CITYSCAPES)
    optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=100)
    first = last = None
    for _ in range(100):
        losses = head.loss(encoder(images), labels)
        last = values(losses)
        first = last if first is None else first
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        schedule.step()
    assert last.sum() < first.sum() / 3
    with torch.no_grad():
        return head.eval(), encoder(images), labels


def overlap(mask, other):
    return ((mask & other).sum() / (mask | other).sum()).item()


def confident(found):
    return found.select(found.scores > 0.3)


def test_learns_two_frames(trained):
    head, features, labels = trained
    for frame, found in enumerate(head.predict(features, torch.zeros(2, 19, 64, 96))):
        found = confident(found)
        ids = [identity for identity in labels.instance[frame].unique().tolist() if identity]
        for identity in ids:
            mask = labels.instance[frame] == identity
            best = max(range(len(found)), key=lambda index: overlap(found.masks[index], mask))
            assert overlap(found.masks[best], mask) > 0.5
            assert found.categories[best] == labels.semantic[frame][mask][0]


def test_predictions_are_sorted_not_empty_and_without_embeddings(trained):
    head, features, _ = trained
    for found in head.predict(features, torch.zeros(2, 19, 64, 96)):
        assert found.masks.dtype == torch.bool
        assert found.categories.dtype == torch.int64
        assert found.scores.dtype == torch.float32
        assert (found.scores.diff() <= 0).all()
        assert ((found.scores > SMALL.score) & (found.scores <= 1)).all()
        assert found.masks.flatten(1).any(1).all()
        assert found.embeddings is None
        assert not found.masks.requires_grad


@pytest.mark.parametrize(("height", "width"), [(16, 24), (32, 48), (128, 192), (100, 100)])
def test_masks_have_the_size_of_the_probabilities(trained, height, width):
    head, features, labels = trained
    (found, _) = head.predict(features, torch.zeros(2, 19, height, width))
    found = confident(found)
    assert found.masks.shape[1:] == (height, width)
    scaled = F.interpolate(labels.instance[:1, None].float(), (height, width), mode="nearest-exact")[0, 0]
    assert all(max(overlap(mask, scaled == identity) for mask in found.masks) > 0.5 for identity in (5, 9))


def test_limits_of_detections(trained):
    head, features, _ = trained
    before = head.regions.detections_per_img
    head.regions.detections_per_img = 1
    found = head.predict(features, torch.zeros(2, 19, 64, 96))
    head.regions.detections_per_img = before
    assert [len(frame) for frame in found] == [1, 1]
    heads = build(SMALL.model_copy(update={"score": 0.9, "nms": 0.3, "detections": 7})).regions
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.9, 0.3, 7)
    none = build(SMALL.model_copy(update={"score": 1.0})).predict(feature_maps(), torch.zeros(2, 19, 64, 96))
    assert [frame.masks.shape for frame in none] == [(0, 64, 96)] * 2


def test_prediction_of_a_frame_does_not_depend_on_the_batch(trained):
    head, features, _ = trained
    together = head.predict(features, torch.zeros(2, 19, 64, 96))
    for frame in range(2):
        (alone,) = head.predict([level[frame : frame + 1] for level in features], torch.zeros(1, 19, 64, 96))
        torch.testing.assert_close(alone.scores, together[frame].scores)
        assert torch.equal(alone.categories, together[frame].categories)


def test_fusion_takes_the_overlapping_masks(trained):
    head, features, labels = trained
    probabilities = F.one_hot(labels.semantic[0].long(), 19).permute(2, 0, 1).float()
    found = head.predict(features, torch.stack([probabilities] * 2))[0]
    fused = fuse(probabilities, found, CITYSCAPES.is_thing, min_score=0.3)
    assert sorted(segment.category for segment in fused.segments) == [ROAD, PERSON, CAR]


def test_detector_classes_are_the_things_in_order():
    space = LabelSpace("odd", tuple(LabelClass(n, n in "bd", (0, 0, 0)) for n in "abcd"))
    head = build(space=space)
    assert head.label_of[:5].tolist() == [0, 1, 0, 2, 0]
    assert head.category_of.tolist() == [0, 1, 3]
    assert head.regions.box_predictor.cls_score.out_features == 3
    with torch.no_grad():
        head.regions.box_predictor.cls_score.bias.copy_(torch.tensor([-20.0, -20.0, 20.0]))
    for found in head.predict(feature_maps(), torch.zeros(2, 4, 64, 96)):
        assert set(found.categories.tolist()) == {3}


def test_space_without_things():
    head = build(space=LabelSpace("stuff", (LabelClass("a", False, (0, 0, 0)),)))
    assert values(head.loss(feature_maps(), target(2)))[[1, 3, 4]].tolist() == [0, 0, 0]
    assert [len(found) for found in head.predict(feature_maps(), torch.zeros(2, 1, 64, 96))] == [0, 0]


# --- in the network

NETWORK = ModelConfig(
    encoder=EncoderConfig(name="test_convnext"),
    semantic=SemanticConfig(channels=16, dilations=(1, 3), norm="group"),
    instance=SMALL.model_copy(update={"score": 0.0, "detections": 5}),
    projection=ProjectionConfig(dim=6, hidden=8),
)


def test_builder_takes_the_head_by_its_configuration():
    assert isinstance(build_instance_head(SMALL, CHANNELS, CITYSCAPES), MaskRCNNHead)
    assert not isinstance(build_instance_head(CenterOffsetConfig(channels=8), CHANNELS, CITYSCAPES), MaskRCNNHead)


def test_network_trains_predicts_and_is_saved(tmp_path):
    torch.manual_seed(0)
    network = build_network(NETWORK, CITYSCAPES)
    frames = torch.randint(0, 256, (2, 3, 61, 90), dtype=torch.uint8)
    labels = target(2, 61, 90)
    put(labels, 0, slice(10, 40), slice(6, 26), 5)
    losses = network.instance_loss(network(frames), labels)
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.instance.parameters())
    network.eval()
    save_network(network, tmp_path / "network.safetensors")
    loaded, _, _ = load_network(tmp_path / "network.safetensors")
    assert loaded.config == network.config
    for some, other in zip(*(predictions(each, frames) for each in (network, loaded)), strict=True):
        assert 0 < len(some) <= 5
        assert some.embeddings.shape == (len(some), 6)
        assert torch.equal(some.masks, other.masks)
        assert torch.equal(some.scores, other.scores)


@torch.no_grad()
def predictions(network, frames):
    output = network(frames)
    return network.instances(output, network.upsample(network.probabilities(output), output.size))
