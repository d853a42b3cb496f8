"""Pseudo-labels: what the tracker verifies, how far instances are trusted, and mirrored predictions."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from vidapt.adaptation.confidence import trust
from vidapt.adaptation.pixels import mean_over_cells
from vidapt.adaptation.pseudo_labels import (
    PseudoLabels,
    confident_share,
    mirrored_probabilities,
    needed_hits,
    pseudo_labels,
)
from vidapt.clip import ClipBatch, Instances
from vidapt.config import TrackingConfig
from vidapt.config_method import MethodConfig
from vidapt.jobs.build import verifying_tracker
from vidapt.labels import CITYSCAPES
from vidapt.models.grid import cells, enlarge
from vidapt.tracking.tracker import OnlineTracker

ROAD, CAR, TRUCK = 0, 13, 14
CLASSES, SIZE = len(CITYSCAPES), 16


class Thing(NamedTuple):
    """A square thing at (row, column) with its class, the score of the detection and the certainty of its pixels."""

    row: int
    column: int
    score: float = 0.9
    category: int = CAR
    certainty: float = 0.9


class Scripted:
    """A teacher that sees the given things on each frame, at the resolution of the frames."""

    space = CITYSCAPES

    def observe(self, output):
        """Nothing here keeps statistics."""

    def __init__(self, frames: list[list[Thing]], road: float = 0.8) -> None:
        self.frames, self.road = frames, road

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        assert len(frames) == len(self.frames)
        return frames

    def probabilities(self, output: torch.Tensor) -> torch.Tensor:
        top = torch.full((len(output), SIZE, SIZE), self.road)
        best = torch.full((len(output), SIZE, SIZE), ROAD)
        for n, things in enumerate(self.frames):
            for thing in things:
                top[n][self._mask(thing)] = thing.certainty
                best[n][self._mask(thing)] = thing.category
        rest = ((1 - top) / (CLASSES - 1))[:, None].repeat(1, CLASSES, 1, 1)
        return rest.scatter(1, best[:, None], top[:, None])

    def upsample(self, probabilities: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return enlarge(probabilities, size)

    def instances(self, output: torch.Tensor, probabilities: torch.Tensor) -> list[Instances]:
        return [
            Instances(
                torch.stack([self._mask(thing) for thing in things]) if things else torch.zeros(0, SIZE, SIZE).bool(),
                torch.tensor([thing.category for thing in things], dtype=torch.int64),
                torch.tensor([thing.score for thing in things]),
            )
            for things in self.frames
        ]

    @staticmethod
    def _mask(thing: Thing) -> torch.Tensor:
        mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        mask[thing.row : thing.row + 6, thing.column : thing.column + 6] = True
        return mask


def tracker() -> OnlineTracker:
    return OnlineTracker(classes=CLASSES)


def target(clips: int, length: int, ignored: torch.Tensor | None = None) -> ClipBatch:
    return ClipBatch(
        torch.zeros(clips, length, 3, SIZE, SIZE, dtype=torch.uint8),
        ("v",) * clips,
        torch.zeros(clips, length, dtype=torch.int64),
        torch.zeros(clips, length).double(),
        torch.arange(clips),
        ignored=ignored,
    )


def label(clips: list[list[list[Thing]]], *, track=tracker, threshold=0.85, reduce=torch.clone, ignored=None, **method):
    teacher = Scripted([frame for clip in clips for frame in clip])
    return pseudo_labels(
        teacher,
        target(len(clips), len(clips[0]), ignored),
        MethodConfig.model_validate(method),
        thresholds=torch.full((CLASSES,), threshold),
        new_tracker=track,
        reduce=reduce,
    )


def painted(out: PseudoLabels, clip: int = 0) -> list[set[int]]:
    return [set(frame.unique().tolist()) - {0} for frame in out.instance[clip]]


MOVING = [[Thing(0, 0), Thing(8, 8)], [Thing(1, 1), Thing(8, 8)], [Thing(2, 2), Thing(8, 8)]]


def test_two_tracks_keep_their_ids_over_the_clip():
    out = label([MOVING])
    assert painted(out) == [{1, 2}] * 3
    assert out.verified.tolist() == [[False, True, True]]
    for t, frame in enumerate(MOVING):
        first = out.instance[0, t, frame[0].row, frame[0].column]
        assert first == out.instance[0, 0, 0, 0]
        assert first != out.instance[0, t, 10, 10]
        assert (out.instance[0, t] > 0).sum() == 72
    assert (out.semantic[out.instance > 0] == CAR).all()


def test_shapes_and_types():
    out = label([MOVING, MOVING])
    maps = {"semantic": torch.uint8, "confidence": torch.float32, "weight": torch.float32, "instance": torch.int32}
    for name, dtype in maps.items():
        assert getattr(out, name).shape == (2, 3, SIZE, SIZE)
        assert getattr(out, name).dtype == dtype
    assert out.verified.shape == out.instance_weight.shape == (2, 3)
    assert (out.verified.dtype, out.instance_weight.dtype) == (torch.bool, torch.float32)
    assert out.confident.shape == (2,)


def test_clips_are_numbered_apart():
    out = label([[frame[1:] for frame in MOVING], MOVING])
    assert out.verified.tolist() == [[False, True, False], [False, True, True]]
    assert painted(out, 0) == [{1}] * 3
    assert painted(out, 1) == [{1, 2}] * 3


def test_semantics_confidence_and_trust():
    out = label([MOVING], pseudo_labels={"weight": "segment"})
    things = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.bool)
    for t, frame in enumerate(MOVING):
        for thing in frame:
            things[0, t] |= Scripted._mask(thing)
    assert torch.equal(out.semantic == CAR, things)
    assert torch.allclose(out.confidence, torch.where(things, 0.9, 0.8))
    assert torch.equal(out.weight, things.float())
    assert out.confident.item() == pytest.approx(things.float().mean().item())


@pytest.mark.parametrize("kind", ["batch", "clip", "segment", "pixel"])
def test_the_configured_trust_is_used_once(kind):
    ignored = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.3
    asked = []

    def reduce(value: torch.Tensor) -> torch.Tensor:
        asked.append(1)
        return value / 2

    clips = [MOVING, [frame[1:] for frame in MOVING]]
    out = label(clips, reduce=reduce, ignored=ignored, pseudo_labels={"weight": kind})
    thresholds = torch.full((CLASSES,), 0.85)
    assert len(asked) == (kind == "batch")
    assert torch.equal(
        out.weight, trust(out.semantic, out.confidence, thresholds, kind, reduce=lambda x: x / 2, ignored=ignored)
    )


def test_a_score_below_the_limit_on_one_frame_unmakes_a_track():
    weak = [*MOVING[:2], [Thing(2, 2, 0.6), Thing(8, 8)]]
    assert painted(label([weak])) == [{1}] * 3
    assert painted(label([weak], pseudo_instances={"score": 0.6})) == [{1, 2}] * 3


def test_a_track_that_is_missed_on_one_frame_is_not_verified():
    assert painted(label([[*MOVING[:2], MOVING[2][1:]]])) == [{1}] * 3


def test_fewer_hits_verify_a_track_and_paint_it_only_where_it_is_good():
    weak = [*MOVING[:2], [Thing(2, 2, 0.6), Thing(8, 8)]]
    out = label([weak], pseudo_instances={"hits": 0.6})
    assert [len(ids) for ids in painted(out)] == [2, 2, 1]
    assert out.instance[0, 0, 0, 0] == out.instance[0, 1, 2, 2] > 0
    assert out.instance[0, 2, 4, 4] == 0
    assert out.verified.tolist() == [[False, True, True]]


def test_votes_that_disagree_unmake_a_track():
    flips = [[Thing(0, 0)], [Thing(0, 0)], [Thing(0, 0, category=TRUCK)]]
    assert painted(label([flips])) == [{1}] * 3
    assert painted(label([flips], pseudo_instances={"agreement": 0.8})) == [set()] * 3
    assert painted(label([flips], pseudo_instances={"agreement": 0.6})) == [{1}] * 3
    assert painted(label([flips], pseudo_instances={"agreement": 0.8, "hits": 0.6})) == [{1}, {1}, set()]


def test_the_tracker_has_limits_of_its_own():
    low = [[Thing(0, 0, 0.4)], [Thing(0, 0, 0.4)]]
    assert painted(label([low], pseudo_instances={"score": 0.3})) == [set(), set()]
    generous = {"track": lambda: OnlineTracker(classes=CLASSES, birth_score=0.3)}
    assert painted(label([low], **generous, pseudo_instances={"score": 0.3})) == [{1}, {1}]


@pytest.mark.parametrize("recipe", [TrackingConfig(), TrackingConfig(birth_score=0.95, high_score=0.95)])
def test_the_verifying_tracker_follows_the_score(recipe):
    """Every threshold below the tracker's own still decides, down to those below the fusion's usual floor."""
    faint = [[Thing(0, 0, score), Thing(8, 8, 0.06)] for score in (0.3, 0.35)]
    found = {
        score: painted(
            label(
                [faint],
                track=lambda score=score: verifying_tracker(recipe, score, CLASSES),
                pseudo_instances={"score": score},
            )
        )
        for score in (0.4, 0.25, 0.05)
    }
    assert found == {0.4: [set(), set()], 0.25: [{1}, {1}], 0.05: [{1, 2}, {1, 2}]}


def test_the_verifying_tracker_has_the_recipes_limits_below_the_score():
    recipe = TrackingConfig(birth_score=0.6, high_score=0.3, low_score=0.2, memory=7)
    limits = [verifying_tracker(recipe, score, CLASSES) for score in (0.9, 0.5, 0.1)]
    assert [(one.birth_score, one.high_score, one.low_score) for one in limits] == [
        (0.6, 0.3, 0.2),
        (0.5, 0.3, 0.2),
        (0.1, 0.1, 0.1),
    ]
    assert {one.memory for one in limits} == {7}


def test_an_instance_has_the_class_that_its_track_voted_for():
    flips = [
        [Thing(0, 0), Thing(8, 8, category=TRUCK)],
        [Thing(0, 0), Thing(8, 8)],
        [Thing(0, 0, category=TRUCK), Thing(8, 8, category=TRUCK)],
    ]
    out = label([flips])
    car, truck = out.instance[0, 0, 0, 0], out.instance[0, 0, 8, 8]
    assert out.category.dtype == torch.uint8
    assert (out.category[0, 0], out.category[0, car], out.category[0, truck]) == (0, CAR, TRUCK)
    voted = out.voted_semantic()
    assert voted.dtype == torch.uint8
    assert (voted[out.instance == car] == CAR).all()
    assert (voted[out.instance == truck] == TRUCK).all()
    assert torch.equal(voted[out.instance == 0], out.semantic[out.instance == 0])
    # the classes of the pixels, with their confidence, stay what the teacher says
    assert out.semantic[0, 2, 0, 0] == TRUCK
    assert torch.allclose(out.confidence[out.instance > 0], torch.tensor(0.9))


def test_the_vote_of_the_last_good_frame_counts():
    def clip(score: float) -> list[list[Thing]]:
        """A car that is a truck on the last two frames, which have the votes by then."""
        return [[Thing(0, 0)]] * 2 + [[Thing(0, 0, score, TRUCK)]] * 2

    assert label([clip(0.9)], pseudo_instances={"hits": 0.5}).category.tolist() == [[0, TRUCK]]
    assert label([clip(0.6)], pseudo_instances={"hits": 0.5}).category.tolist() == [[0, CAR]]


def test_classes_of_clips_with_different_numbers_of_instances():
    out = label([[frame[1:] for frame in MOVING], MOVING, [[], [], []]])
    assert out.category.tolist() == [[0, CAR, 0], [0, CAR, CAR], [0, 0, 0]]
    assert torch.equal(out.voted_semantic(), out.semantic)


def hide(columns: int) -> torch.Tensor:
    """bool (1,3,16,16): the first columns of all frames."""
    mask = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.bool)
    mask[..., :columns] = True
    return mask


def test_ignored_pixels_belong_to_no_instance():
    still = [[Thing(0, 0), Thing(8, 8)]] * 3
    hidden = hide(3)
    out, plain = label([still], ignored=hidden), label([still])
    assert painted(out) == [{1, 2}] * 3
    assert torch.equal(out.instance, plain.instance.masked_fill(hidden, 0))
    assert torch.equal(out.semantic, plain.semantic)


def test_instances_that_lie_mostly_in_ignored_pixels_are_dropped():
    still = [[Thing(0, 0), Thing(8, 8)]] * 3
    out = label([still], ignored=hide(4))
    assert painted(out) == [{1}] * 3
    assert out.verified.tolist() == [[False, True]]
    assert out.instance[0, 0, 8, 8] == 1


def test_a_frame_on_which_an_instance_is_ignored_is_no_hit():
    still, hidden = [[Thing(0, 0), Thing(8, 8)]] * 3, hide(4)
    hidden[:, :2] = False
    assert painted(label([still], ignored=hidden)) == [{1}] * 3
    assert [len(ids) for ids in painted(label([still], ignored=hidden, pseudo_instances={"hits": 0.6}))] == [2, 2, 1]


def test_nothing_is_found_where_everything_is_ignored():
    out = label([MOVING], ignored=hide(SIZE))
    assert not out.instance.any()
    assert out.verified.tolist() == [[False]]


def test_single_frames_verify_by_score_alone():
    out = label([[[Thing(0, 0, 0.8), Thing(8, 8, 0.7)]]])
    assert painted(out) == [{1}]
    assert out.instance[0, 0, 0, 0] == 1


def test_clips_without_instances():
    out = label([[[], []], [[], []]])
    assert out.verified.tolist() == out.instance.flatten(1).any(1, keepdim=True).tolist() == [[False], [False]]
    assert out.instance_weight.tolist() == [[1.0], [1.0]]


def test_no_tracker_looks_for_no_instances():
    out = label([MOVING], track=None, pseudo_instances={"weight": "confident"})
    assert not out.instance.any()
    assert out.instance.dtype == torch.int32
    assert out.verified.tolist() == [[False]]
    assert out.instance_weight.tolist() == [[1.0]]
    assert out.category.tolist() == [[0]]
    assert torch.equal(out.voted_semantic(), out.semantic)
    plain = label([MOVING])
    assert torch.equal(out.semantic, plain.semantic)
    assert torch.equal(out.weight, plain.weight)


def test_instances_weigh_their_confident_share_on_the_worst_frame():
    unsure = [MOVING[0], [Thing(1, 1, certainty=0.7), Thing(8, 8)], MOVING[2]]
    out = label([unsure, [frame[1:] for frame in MOVING]], pseudo_instances={"weight": "confident"})
    assert out.verified.tolist() == [[False, True, True], [False, True, False]]
    moved, still = out.instance[0, 0, 0, 0], out.instance[0, 0, 8, 8]
    assert (out.instance_weight[0, moved], out.instance_weight[0, still]) == (0.0, 1.0)
    assert out.instance_weight[1].tolist() == [1, 1, 1]
    assert label([unsure]).instance_weight.tolist() == [[1, 1, 1]]


def test_confident_share_agrees_with_loops():
    generator = torch.Generator().manual_seed(0)
    instance = torch.randint(0, 4, (3, 2, 5, 6), generator=generator).int()
    instance[1][instance[1] == 2] = 0
    instance[2, 0] = 0
    confident = torch.rand(instance.shape, generator=generator) < 0.6
    out = confident_share(instance, confident, 5)
    assert out.dtype == torch.float32
    for b in range(3):
        for k in range(5):
            shares = [
                confident[b, t][instance[b, t] == k].float().mean().item()
                for t in range(2)
                if k and (instance[b, t] == k).any()
            ]
            assert out[b, k].item() == pytest.approx(min(shares, default=1.0))


@pytest.mark.parametrize(
    ("share", "length", "needed"), [(1.0, 3, 3), (0.5, 4, 2), (0.5, 3, 2), (0.28, 25, 7), (0.01, 2, 1), (1.0, 1, 1)]
)
def test_needed_hits_round_up(share, length, needed):
    assert needed_hits(share, length) == needed


def test_labels_carry_no_graph():
    out = label([MOVING])
    assert not any(value.requires_grad for value in vars(out).values())


# --- mirrored frames


class Leaning(torch.nn.Module):
    """Classifies cells by the mean colour of their pixels and, if it leans, of the cell to their left."""

    def observe(self, output):
        """Nothing here keeps statistics."""

    def __init__(self, lean: float) -> None:
        super().__init__()
        self.lean = lean

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        size = (cells(frames.shape[-2]), cells(frames.shape[-1]))
        means = mean_over_cells(frames.float() / 25, size)
        return means + self.lean * F.pad(means, (1, 0))[..., :-1]

    def probabilities(self, output: torch.Tensor) -> torch.Tensor:
        return output.softmax(1)


def noise(width: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 8, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_mirrored_probabilities_of_whole_cells():
    frames = noise(12)
    plain = (frames.flip(-1).unflatten(3, (3, 4)).unflatten(2, (2, 4)).float() / 25).mean((3, 5))
    leaning = plain.clone()
    leaning[..., 1:] += 0.5 * plain[..., :-1]
    out = mirrored_probabilities(Leaning(0.5), frames)
    assert torch.allclose(out, leaning.softmax(1).flip(-1), atol=1e-6)
    assert not torch.allclose(out, Leaning(0.5)(frames).softmax(1), atol=1e-2)


@pytest.mark.parametrize("width", [9, 10, 11, 12])
def test_cells_show_the_same_pixels_in_the_mirror(width):
    """A network without context predicts alike; the last cell is of one colour because its missing part repeats it."""
    frames = noise(width)
    frames[..., 8:] = frames[..., -1:]
    network = Leaning(0.0)
    assert torch.allclose(mirrored_probabilities(network, frames), network(frames).softmax(1), atol=1e-6)


def test_mirrored_labels_average_both_views():
    class Teacher(Leaning):
        def upsample(self, probabilities: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
            return enlarge(probabilities, size)

    frames = noise(12)[:, None]
    teacher, batch = Teacher(0.5), target(2, 1)
    batch = ClipBatch(frames, batch.videos, batch.indices, batch.times, batch.samples)
    out = [
        pseudo_labels(
            teacher,
            batch,
            MethodConfig.model_validate({"pseudo_labels": {"mirrored": mirrored}}),
            thresholds=torch.full((3,), 0.5),
            new_tracker=None,
        )
        for mirrored in (False, True)
    ]
    plain = teacher(frames[:, 0]).softmax(1)
    mean = enlarge((plain + mirrored_probabilities(teacher, frames[:, 0])) / 2, (8, 12))
    assert torch.equal(out[0].confidence[:, 0], enlarge(plain, (8, 12)).amax(1))
    assert torch.equal(out[1].confidence[:, 0], mean.amax(1))
    assert torch.equal(out[1].semantic[:, 0], mean.argmax(1).to(torch.uint8))
