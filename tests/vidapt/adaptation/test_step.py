"""The composed step on real clips: every part yields a finite loss, pseudo-instances are verified, state restores."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from vidapt.adaptation.pseudo_labels import pseudo_labels
from vidapt.adaptation.sampling import clip_generators, clip_rngs
from vidapt.adaptation.step import Labelled, SelfTrainingStep, SupervisedStep
from vidapt.clip import ClipBatch, Instances, PanopticTarget, collate
from vidapt.config import InstanceMixConfig, MethodConfig, ModelConfig, TrackingConfig
from vidapt.datasets.street_world import StreetWorld
from vidapt.labels import CITYSCAPES
from vidapt.models.network import NetworkOutput, PanopticNetwork, build_network
from vidapt.segmenter import new_tracker
from vidapt.transforms import StrongAugment

MODEL = ModelConfig.model_validate(
    {
        "encoder": {"name": "test_convnext"},
        "semantic": {"channels": 16, "dilations": [1], "norm": "group", "dropout": 0.0},
        "instance": {"channels": 16, "norm": "group"},
        "projection": {"dim": 8, "hidden": 16},
    }
)


def tracker():
    return new_tracker(TrackingConfig(), len(CITYSCAPES), None)


@pytest.fixture(scope="module")
def batches() -> tuple[ClipBatch, ClipBatch]:
    worlds = [
        StreetWorld(seed=900, videos=1, frames=4, size=(64, 128), style=s, clip_length=2) for s in ("source", "fog")
    ]
    source = collate([worlds[0][0], worlds[0][2]], [0, 1])
    target = collate([worlds[1][0].without_target(), worlds[1][2].without_target()], [0, 1])
    return source, target


def network() -> PanopticNetwork:
    torch.manual_seed(0)
    return build_network(MODEL, CITYSCAPES)


def step(**method) -> SelfTrainingStep:
    settings = MethodConfig.model_validate({"instance_mix": {"score": 0.0, "agreement": 0.0}, **method})
    return SelfTrainingStep(network(), settings, labelled=Labelled(seed=3), new_tracker=tracker)


def names_and_losses(one, batches) -> dict[str, torch.Tensor]:
    return dict(one.losses(*batches))


def test_supervised_step_yields_one_graph(batches):
    losses = names_and_losses(SupervisedStep(network()), batches)
    graphs = [name for name, loss in losses.items() if loss.requires_grad]
    assert graphs == ["source"]
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_labelled_clips_are_distorted_alike_by_both_steps(batches):
    strong = Labelled(seed=3, augment=StrongAugment(0.5, 1.0, 0.0))
    frames = strong.frames(batches[0])
    assert not torch.equal(frames, batches[0].frames.flatten(0, 1))
    assert torch.equal(frames, strong.frames(batches[0]))
    assert torch.equal(Labelled(seed=3).frames(batches[0]), batches[0].frames.flatten(0, 1))


def test_self_training_yields_every_part(batches):
    losses = names_and_losses(step(), batches)
    assert {"source/pixel_contrast", "mixed/semantic", "mixed/center", "mixed/temporal_contrast"} <= set(losses)
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name in ("source", "mixed"):
        assert losses[name].requires_grad
        parts = sum(loss for part, loss in losses.items() if part.startswith(f"{name}/"))
        assert losses[name].item() == pytest.approx(parts.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ({"class_mix": {"weight": 0.0, "instance_weight": 0.0}, "temporal_contrast": {"weight": 0.0}}, "mixed"),
        ({"instance_mix": {"weight": 0.0}}, "pasted"),
        ({"pixel_contrast": {"weight": 0.0}}, "source/pixel_contrast"),
        ({"temporal_contrast": {"weight": 0.0}}, "mixed/temporal_contrast"),
        ({"pixel_contrast": {"start_step": 5}}, "source/pixel_contrast"),
        ({"class_mix": {"instance_weight": 0.0}}, "mixed/center"),
    ],
)
def test_each_part_can_be_switched_off(batches, off, gone):
    assert gone not in names_and_losses(step(**off), batches)


def test_the_same_clips_give_the_same_losses_in_any_batch(batches):
    """Random choices belong to the clip, so one process with two clips equals two processes with one."""

    def part(batch: ClipBatch, index: int) -> ClipBatch:
        one = slice(index, index + 1)
        target = batch.target
        if target is not None:
            target = PanopticTarget(target.semantic[one], target.instance[one], target.labelled[one])
        return ClipBatch(
            batch.frames[one], batch.videos[one], batch.indices[one], batch.times[one], batch.samples[one], target
        )

    whole = names_and_losses(step(), batches)
    halves = [names_and_losses(step(), [part(batch, index) for batch in batches]) for index in range(2)]
    for name in ("source", "mixed"):
        mean = sum(half[name].item() for half in halves) / 2
        assert whole[name].item() == pytest.approx(mean, abs=1e-5)


def test_teacher_follows_the_student_only_after_updates(batches):
    one = step(alpha=0.5)
    before = copy.deepcopy(one.weights()["teacher"].state_dict())
    with torch.no_grad():
        for parameter in one.network.parameters():
            parameter.add_(0.1)
    names_and_losses(one, batches)
    after = one.weights()["teacher"].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    one.after_update()
    student = dict(one.network.named_parameters())
    assert all(torch.equal(student[n], p) for n, p in one.weights()["teacher"].named_parameters())


def test_state_restores_the_ramp():
    one, other = step(), step()
    for _ in range(3):
        one.after_update()
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == {"updates": 3}


def test_frames_without_labels_teach_nothing(batches):
    source, _ = batches
    target = source.target
    hidden = PanopticTarget(target.semantic, target.instance, torch.tensor([[True, False], [True, False]]))
    scrambled = PanopticTarget(target.semantic.clone(), target.instance.clone(), hidden.labelled)
    scrambled.semantic[:, 1], scrambled.instance[:, 1] = 3, 7
    first, second = (
        names_and_losses(step(), (replace(source, target=labels), batches[1])) for labels in (hidden, scrambled)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_unlabelled_source_is_refused(batches):
    with pytest.raises(ValueError, match="labelled"):
        next(iter(SupervisedStep(network()).losses(batches[1], None)))


def test_missing_target_is_refused(batches):
    with pytest.raises(ValueError, match="target"):
        next(iter(step().losses(batches[0], None)))


class ScriptedTeacher:
    """A teacher whose instances are given: a square that moves by two pixels, and one that is unsure in frame 1."""

    space = CITYSCAPES

    def __init__(self, scores: list[list[float]]) -> None:
        self.scores = scores

    def __call__(self, frames):
        return NetworkOutput([], torch.empty(0), torch.empty(len(frames), 19, 4, 8), tuple(frames.shape[-2:]))

    def probabilities(self, output):
        return output.logits

    def upsample(self, probabilities, size):
        result = torch.full((len(self.scores), 19, *size), 0.01)
        result[:, 0] = 0.5
        for frame in range(len(self.scores)):
            for mask in self.masks(frame, size):
                result[frame, 0, mask], result[frame, 13, mask] = 0.0, 0.95
        return result

    def masks(self, frame, size):
        found = []
        for left in (2, 20):
            mask = torch.zeros(size, dtype=torch.bool)
            mask[4:12, left + 2 * frame : left + 2 * frame + 8] = True
            found.append(mask)
        return found

    def instances(self, output, probabilities):
        size = tuple(probabilities.shape[-2:])
        out = []
        for frame, scores in enumerate(self.scores):
            order = np.argsort(-np.array(scores))
            masks = torch.stack([self.masks(frame, size)[i] for i in order])
            values = torch.tensor([scores[i] for i in order])
            out.append(Instances(masks, torch.full((2,), 13), values, torch.zeros(2, 4)))
        return out


def scripted(scores: list[list[float]], limits: InstanceMixConfig):
    frames = torch.zeros(1, len(scores), 3, 16, 32, dtype=torch.uint8)
    return pseudo_labels(ScriptedTeacher(scores), frames, threshold=0.9, instances=limits, new_tracker=tracker)


def test_only_instances_confident_in_every_frame_are_verified():
    labels = scripted([[0.9, 0.9], [0.8, 0.3]], InstanceMixConfig(score=0.6))
    assert labels.verified.tolist() == [[False, True]]
    assert labels.instance[0, 0].unique().tolist() == [0, 1]
    assert labels.instance[0, 0, 5, 3] == labels.instance[0, 1, 5, 5] == 1
    assert labels.instance[0, 0, 5, 22] == 0
    assert labels.semantic[0, 0, 5, 22] == 13


def test_both_are_verified_when_both_are_confident():
    labels = scripted([[0.9, 0.8], [0.8, 0.9]], InstanceMixConfig(score=0.6))
    assert labels.verified.tolist() == [[False, True, True]]
    first, second = labels.instance[0, 0, 5, 3], labels.instance[0, 0, 5, 22]
    assert first != second
    assert labels.instance[0, 1, 5, 5] == first
    assert labels.instance[0, 1, 5, 24] == second


def test_nothing_is_verified_below_the_score():
    labels = scripted([[0.5, 0.4]], InstanceMixConfig(score=0.6))
    assert labels.verified.shape == (1, 1)
    assert not labels.instance.any()


def test_confidence_is_the_share_of_confident_pixels():
    labels = scripted([[0.9, 0.9]], InstanceMixConfig())
    assert float(labels.confidence) == pytest.approx(2 * 64 / (16 * 32))


def test_random_choices_depend_on_seed_purpose_and_sample_only():
    first, second = clip_rngs(1, "augment", torch.tensor([5, 6]))
    (again,) = clip_rngs(1, "augment", torch.tensor([6]))
    assert second.random() == again.random()
    assert first.random() != clip_rngs(1, "class_mix", torch.tensor([5]))[0].random()
    draws = {float(torch.rand(1, generator=g)) for g in clip_generators(1, "pixel_contrast", torch.arange(4), "cpu")}
    assert len(draws) == 4
