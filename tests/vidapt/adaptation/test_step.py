"""The composed step on real clips: every part yields a finite loss, can be switched off alone, and state restores."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vidapt.adaptation.feature_distance import thing_table
from vidapt.adaptation.ingredients import Ingredients
from vidapt.adaptation.memory import MemoryBank
from vidapt.adaptation.pseudo_labels import PseudoLabels, pseudo_labels
from vidapt.adaptation.sampling import clip_generators, clip_rngs
from vidapt.adaptation.step import SelfTrainingStep
from vidapt.adaptation.supervised import Labelled, SupervisedStep
from vidapt.clip import ClipBatch, PanopticTarget, collate
from vidapt.config import MethodConfig, ModelConfig, TrackingConfig
from vidapt.datasets.street_world import StreetWorld
from vidapt.errors import CheckpointError
from vidapt.labels import CITYSCAPES
from vidapt.models.encoder import build_encoder
from vidapt.models.instance.center_offset import CenterOffsetHead
from vidapt.models.network import PanopticNetwork, build_network
from vidapt.models.text import orthonormal_table
from vidapt.segmenter import new_tracker
from vidapt.transforms import StrongAugment

TABLE = orthonormal_table(CITYSCAPES).embeddings
MODEL: dict[str, Any] = {
    "encoder": {"name": "test_convnext"},
    "semantic": {"channels": 16, "dilations": [1], "norm": "group", "dropout": 0.0},
    "instance": {"channels": 16, "norm": "group", "threshold": 0.0, "top_k": 5},
    "projection": {"dim": 8, "hidden": 16},
    "pixel_projection": {"dim": 8, "hidden": 16},
    "text": {"dim": TABLE.shape[1]},
}
METHOD: dict[str, Any] = {
    "pseudo_labels": {"threshold": 0.05, "weight": "clip"},
    "pseudo_instances": {"score": 0.0},
    "class_mix": {"instance_weight": 1.0},
    "instance_mix": {"semantic_weight": 0.5},
    "masked_consistency": {"block": 16},
    "feature_distance": {},
    "text_alignment": {"table": "orthonormal", "temperature": 0.1},
    "pixel_contrast": {"min_pixels": 2},
    "patch_contrast": {"confidence": 0.0},
    "temporal_contrast": {"total": 64},
    "identity_contrast": {},
    "temporal_consistency": {},
}
"""Every part of a method."""

LOSSES = {
    "source/feature_distance": "feature_distance",
    "source/identity_contrast": "identity_contrast",
    "source/pixel_contrast": "pixel_contrast",
    "source/text_alignment": "text_alignment",
    "mixed/semantic": "class_mix",
    "mixed/center": "class_mix",
    "mixed/identity_contrast": "identity_contrast",
    "mixed/temporal_consistency": "temporal_consistency",
    "mixed/temporal_contrast": "temporal_contrast",
    "mixed/text_alignment": "text_alignment",
    "pasted/center": "instance_mix",
    "pasted/semantic": "instance_mix",
    "masked/semantic": "masked_consistency",
    "patches/contrast": "patch_contrast",
}
"""The part that each loss belongs to."""


def batches_of(length: int) -> tuple[ClipBatch, ClipBatch]:
    worlds = [
        StreetWorld(seed=900, videos=1, frames=4, size=(64, 128), style=s, clip_length=length)
        for s in ("source", "fog")
    ]
    source = collate([worlds[0][0], worlds[0][2]], [0, 1])
    return source, collate([worlds[1][0].without_target(), worlds[1][2].without_target()], [0, 1])


@pytest.fixture(scope="module")
def batches() -> tuple[ClipBatch, ClipBatch]:
    return batches_of(2)


def network(**model: Any) -> PanopticNetwork:
    torch.manual_seed(0)
    built = build_network(ModelConfig.model_validate(MODEL | model), CITYSCAPES)
    with torch.no_grad():
        # Random weights this small would call everything one class.
        built.semantic.classify.weight.mul_(40)
        if isinstance(built.instance, CenterOffsetHead):
            built.instance.center[-1].weight.mul_(40)
            built.instance.center[-1].bias.fill_(0.3)
    return built


def tracker():
    config = TrackingConfig(birth_score=0.0, high_score=0.0, low_score=0.0)
    return new_tracker(config, len(CITYSCAPES), None)


def step(method: Mapping[str, Any] | None = None, *, steps: int = 10, **model: Any) -> SelfTrainingStep:
    config = MethodConfig.model_validate(METHOD | dict(method or {}))
    built = network(**model)
    contrast = config.pixel_contrast
    bank = None
    if contrast is not None and contrast.bank is not None:
        bank = MemoryBank(len(CITYSCAPES), 8, contrast.bank, torch.device("cpu"))
    torch.manual_seed(1)
    reference = build_encoder(built.config.encoder).requires_grad_(False).eval()
    ingredients = Ingredients(built, config, Labelled(seed=3), reference, thing_table(CITYSCAPES), TABLE, bank)
    return SelfTrainingStep(ingredients, steps=steps, new_tracker=tracker)


def losses_of(one: SelfTrainingStep | SupervisedStep, batches: tuple[ClipBatch, ClipBatch | None]) -> dict[str, Tensor]:
    one.begin_step()
    return dict(one.losses(*batches))


def test_supervised_step_yields_one_graph(batches):
    losses = losses_of(SupervisedStep(network()), batches)
    graphs = [name for name, loss in losses.items() if loss.requires_grad]
    assert graphs == ["source"]
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_labelled_clips_are_distorted_alike_by_both_steps(batches):
    strong = Labelled(seed=3, augment=StrongAugment(0.5, 1.0, 0.0))
    frames = strong.frames(batches[0])
    assert not torch.equal(frames, batches[0].frames)
    assert torch.equal(frames, strong.frames(batches[0]))
    assert torch.equal(Labelled(seed=3).frames(batches[0]), batches[0].frames)


def test_every_part_has_its_losses(batches):
    losses = losses_of(step(), batches)
    graphs = ["source", "mixed", "pasted", "masked", "patches"]
    assert [name for name, loss in losses.items() if loss.requires_grad] == graphs
    assert set(losses) >= set(LOSSES)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["instances"] > 0
    assert all(losses[name] > 0 for name in LOSSES)
    for name in graphs:
        parts = sum(loss for part, loss in losses.items() if part.startswith(f"{name}/"))
        assert losses[name].item() == pytest.approx(parts.item(), rel=1e-5)


@pytest.fixture(scope="module")
def all_losses(batches: tuple[ClipBatch, ClipBatch]) -> dict[str, Tensor]:
    """The losses of a first step with every part."""
    return losses_of(step(), batches)


@pytest.mark.parametrize("part", dict.fromkeys(LOSSES.values()))
def test_each_part_can_be_switched_off_alone(batches, all_losses, part):
    """Without a part the step has exactly the other losses, so a control without it is one setting away."""
    every, without = all_losses, losses_of(step({part: None}), batches)
    own = {name for name, owner in LOSSES.items() if owner == part} | (
        {"mixed/offset"} if part == "class_mix" else set()
    )
    own |= {"pasted/offset"} if part == "instance_mix" else set()
    assert own.isdisjoint(without)
    # What rides on the mixed clips sees other pixels where nothing is mixed, and IMix alone pastes over the source.
    changed = ("mixed/", "mixed") if part == "class_mix" else ()
    shared = {name for name in without if "/" in name and not name.startswith(changed or "-")}
    assert shared == {name for name in every if "/" in name and not name.startswith(changed or "-")} - own
    assert all(torch.equal(every[name], without[name]) for name in shared)


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ({"class_mix": {"weight": 0.0, "instance_weight": 1.0}}, "mixed/semantic"),
        ({"class_mix": {"instance_weight": 0.0}}, "mixed/center"),
        ({"instance_mix": {"weight": 0.0}}, "pasted/center"),
        ({"identity_contrast": {"source": False}}, "source/identity_contrast"),
        ({"identity_contrast": {"target": False}}, "mixed/identity_contrast"),
        ({"text_alignment": {"table": "orthonormal", "mixed": False}}, "mixed/text_alignment"),
        ({"patch_contrast": {"weight": 0.0}}, "patches/contrast"),
    ],
)
def test_a_weight_of_zero_switches_off(batches, off, gone):
    losses = losses_of(step(off), batches)
    assert gone not in losses
    assert gone in LOSSES


def test_methods_without_pseudo_instances_run_no_tracker(batches):
    semantic = {"class_mix": {}, "instance_mix": None, "identity_contrast": None}
    one = step(semantic)
    one._new_tracker = None
    assert "instances" not in losses_of(one, batches)


def test_instances_are_looked_for_only_while_a_part_trains_on_them(batches):
    """LIDAPS: no detector and no tracker before IMix begins."""
    late = {"class_mix": {}, "identity_contrast": {"target": False}, "instance_mix": {"start": 0.5}}
    one, trackers = step(late, steps=4), []
    one._new_tracker = lambda: trackers.append(tracker()) or trackers[-1]
    seen = []
    for _ in range(4):
        trackers.clear()
        seen.append(("instances" in losses_of(one, batches), len(trackers)))
        one.after_update()
    assert seen == [(False, 0), (False, 0), (True, 2), (True, 2)]


ONLY_SOURCE: dict[str, Any] = dict.fromkeys(LOSSES.values())
"""No part at all."""


@pytest.mark.parametrize(
    ("parts", "passes"),
    [
        ({}, 1),
        ({"class_mix": {"weight": 0.0}}, 1),
        ({"class_mix": {"start": 0.5}}, 1),
        ({"class_mix": {"instance_weight": 1.0, "weight": 0.0}}, 2),
        ({"class_mix": {"weight": 0.0}, "text_alignment": {"table": "orthonormal"}}, 2),
        ({"class_mix": {"weight": 0.0}, "text_alignment": {"table": "orthonormal", "weight": 0.0}}, 1),
        ({"text_alignment": {"table": "orthonormal"}}, 1),
        ({"identity_contrast": {"target": False}}, 1),
        ({"identity_contrast": {}}, 2),
        ({"temporal_consistency": {"weight": 0.0}, "temporal_contrast": {"weight": 0.0}}, 1),
        ({"temporal_consistency": {}}, 2),
        ({"instance_mix": {"weight": 0.0}}, 1),
        ({"instance_mix": {"weight": 0.0, "semantic_weight": 1.0}}, 2),
        ({"masked_consistency": {"weight": 0.0}, "patch_contrast": {"weight": 0.0}}, 1),
        ({"masked_consistency": {}, "patch_contrast": {}}, 3),
    ],
)
def test_the_student_runs_only_where_a_loss_needs_it(batches, parts, passes):
    one, seen = step(ONLY_SOURCE | parts), []
    one.network.register_forward_hook(lambda *_: seen.append(1))
    losses = losses_of(one, batches)
    assert len(seen) == passes
    assert sum(loss.requires_grad for loss in losses.values()) == passes


def test_instance_losses_do_not_scale_with_the_trust_in_classes(batches):
    """With weight one, a teacher whose classes nobody trusts still teaches its instances."""
    off = {name: None for name in LOSSES.values() if name != "instance_mix"}
    sure, unsure = (
        losses_of(step(off | {"pseudo_labels": {"threshold": limit, "weight": "clip"}}), batches)
        for limit in (0.0, 1.0)
    )
    assert unsure["confidence"] < 0.01
    assert sure["confidence"] == 1
    assert unsure["pasted/center"] == sure["pasted/center"] > 0
    assert unsure["pasted/offset"] == sure["pasted/offset"] > 0
    assert unsure["pasted/semantic"] < sure["pasted/semantic"]


@pytest.mark.parametrize("graph", ["mixed", "pasted"])
def test_instance_losses_get_the_voted_classes(batches, graph, monkeypatch):
    """The pixels of a verified instance are of its track's class, whatever they are in the semantic loss."""
    one, seen = step(), []
    plain = one.network.instance_loss
    monkeypatch.setattr(one.network, "instance_loss", lambda *a, **k: seen.append((a[1], k)) or plain(*a, **k))
    labels = []
    monkeypatch.setattr(
        "vidapt.adaptation.step.pseudo_labels",
        lambda *a, **k: labels.append(vote_for(pseudo_labels(*a, **k), 17)) or labels[-1],
    )
    losses_of(one, batches)
    target, trust = seen[{"mixed": 1, "pasted": 2}[graph]]
    mine = (target.instance > 0) & (target.instance < labels[0].verified.shape[1])
    assert mine.any()
    assert (target.semantic[mine] == 17).all()
    assert (trust["pixel_weight"][mine] == 1).all()


def vote_for(pseudo: PseudoLabels, category: int) -> PseudoLabels:
    return replace(pseudo, category=pseudo.verified * torch.tensor(category, dtype=torch.uint8))


def test_a_part_begins_after_its_share_of_the_steps(batches):
    one = step({"instance_mix": {"start": 0.5}, "pixel_contrast": {"min_pixels": 2, "start": 0.75}}, steps=4)
    seen = []
    for _ in range(4):
        losses = losses_of(one, batches)
        seen.append(("pasted/center" in losses, "source/pixel_contrast" in losses))
        one.after_update()
    assert seen == [(False, False), (False, False), (True, False), (True, True)]


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"multi_resolution": {}},
        {
            "instance": {
                "kind": "mask_rcnn",
                "channels": 8,
                "norm": "group",
                "box_channels": 16,
                "mask_channels": 8,
                "proposals": 20,
                "roi_samples": 16,
                "score": 0.0,
                "detections": 3,
            }
        },
    ],
    ids=["plain", "hrda", "mask_rcnn"],
)
def test_every_network_takes_every_part(length, model):
    """Single images are clips of one frame: what compares frames is 0, identity contrast takes a second view."""
    losses = losses_of(step(**model), batches_of(length))
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name in ("mixed/temporal_contrast", "mixed/temporal_consistency"):
        assert (losses[name] == 0) == (length == 1)
    assert losses["source/identity_contrast"] > 0
    total = sum(loss for loss in losses.values() if loss.requires_grad)
    total.backward()


def test_the_student_may_train_on_single_frames(batches):
    one = {"student": "frames", "temporal_contrast": None, "temporal_consistency": None}
    shapes = []
    built = step(one)
    built.network.register_forward_hook(lambda module, args, _: shapes.append(len(args[0])))
    losses = losses_of(built, batches)
    assert set(shapes) == {2, 4}
    assert shapes[-2:] == [2, 4]
    assert all(torch.isfinite(loss) for loss in losses.values())
    again = losses_of(step(one), batches)
    assert all(torch.equal(losses[name], again[name]) for name in losses)


def test_gradients_reach_the_student_and_nothing_else(batches):
    one = step()
    sum(loss for loss in losses_of(one, batches).values() if loss.requires_grad).backward()
    without = {name for name, parameter in one.network.named_parameters() if parameter.grad is None}
    assert without == set()
    assert all(parameter.grad is None for parameter in one.weights()["teacher"].parameters())
    assert one._ingredients.reference is not None
    assert all(parameter.grad is None for parameter in one._ingredients.reference.parameters())


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

    # Averages over the cells of things that a process has.
    method = {"feature_distance": None}
    whole = losses_of(step(method), batches)
    halves = [losses_of(step(method), (part(batches[0], index), part(batches[1], index))) for index in range(2)]
    assert {"mixed/temporal_contrast", "mixed/temporal_consistency", "patches/contrast"} <= set(whole)
    for name in ("source", "mixed", "pasted", "masked", "patches"):
        mean = sum(half[name].item() for half in halves) / 2
        assert whole[name].item() == pytest.approx(mean, abs=2e-5), name


def test_teacher_follows_the_student_only_after_updates(batches):
    one = step({"alpha": 0.5})
    before = copy.deepcopy(one.weights()["teacher"].state_dict())
    with torch.no_grad():
        for parameter in one.network.parameters():
            parameter.add_(0.1)
    losses_of(one, batches)
    after = one.weights()["teacher"].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    one.after_update()
    student = dict(one.network.named_parameters())
    assert all(torch.equal(student[n], p) for n, p in one.weights()["teacher"].named_parameters())


def test_statistics_of_the_whole_teacher_follow_the_target(batches):
    """Also those of the instance head, where no part of the method asks for instances."""
    norm = {**MODEL["instance"], "norm": "batch"}
    for method in ({"class_mix": {}, "instance_mix": None, "identity_contrast": None}, {}):
        one = step(method | {"target_statistics": True}, instance=norm)
        teacher = one.weights()["teacher"]
        before = {name: value.clone() for name, value in teacher.instance.named_buffers() if "running" in name}
        losses_of(one, batches)
        after = dict(teacher.instance.named_buffers())
        assert before
        assert all(not torch.equal(value, after[name]) for name, value in before.items())


STATEFUL = {
    "pixel_contrast": {"min_pixels": 2, "bank": {"size": 8, "per_step": 2}},
    "pseudo_labels": {"threshold": 0.9, "class_thresholds": {"momentum": 0.5}, "weight": "segment"},
}


def flat(state: Any) -> list[Any]:
    if isinstance(state, Mapping):
        return [value for key in sorted(state) for value in flat(state[key])]
    return [state.tolist() if isinstance(state, Tensor) else state]


def test_state_restores_counter_thresholds_and_memory(batches):
    one, other = step(STATEFUL), step(STATEFUL)
    for _ in range(3):
        losses_of(one, batches)
        one.after_update()
    assert flat(one.state_dict()) != flat(other.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert flat(other.state_dict()) == flat(one.state_dict())
    assert one.state_dict()["updates"] == 3
    # Parameters that only an update would move are equal, so the next step is the same to the bit.
    again, expected = losses_of(other, batches), losses_of(one, batches)
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_a_run_goes_on_with_its_own_text_table(batches):
    state = step().state_dict() | {"text_table": "0123456789abcdef"}
    with pytest.raises(CheckpointError, match=r"another text table \(0123456789ab\) than .* is now \(none\)"):
        step().load_state_dict(state)


def test_a_skipped_step_leaves_no_trace(batches):
    one = step(STATEFUL)
    losses_of(one, batches)
    one.after_update()
    before = copy.deepcopy(flat(one.state_dict()))
    losses_of(one, batches)
    one.begin_step()
    assert flat(one.state_dict()) == before
    one.after_update()
    state, expected = one.state_dict(), state_after_one_step(batches)
    assert flat(state["bank"]) == flat(expected["bank"])
    assert flat(state["thresholds"]) == flat(expected["thresholds"])


def state_after_one_step(batches) -> Mapping[str, Any]:
    one = step(STATEFUL)
    losses_of(one, batches)
    one.after_update()
    return one.state_dict()


def test_frames_without_labels_teach_nothing(batches):
    source, _ = batches
    target = source.target
    hidden = PanopticTarget(target.semantic, target.instance, torch.tensor([[True, False], [True, False]]))
    scrambled = PanopticTarget(target.semantic.clone(), target.instance.clone(), hidden.labelled)
    scrambled.semantic[:, 1], scrambled.instance[:, 1] = 3, 7
    first, second = (losses_of(step(), (replace(source, target=labels), batches[1])) for labels in (hidden, scrambled))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pseudo_labels_of_ignored_pixels_teach_nothing(batches):
    """With everything ignored, no loss of the target clips depends on what the teacher says of them."""
    source, target = batches
    everything = replace(target, ignored=torch.ones(target.frames[:, :, 0].shape, dtype=torch.bool))
    losses = losses_of(step(), (source, everything))
    assert losses["masked/semantic"] == losses["patches/contrast"] == losses["mixed/temporal_contrast"] == 0


def test_unlabelled_source_is_refused(batches):
    with pytest.raises(ValueError, match="labelled"):
        next(iter(SupervisedStep(network()).losses(batches[1], None)))


def test_missing_target_is_refused(batches):
    with pytest.raises(ValueError, match="target"):
        next(iter(step().losses(batches[0], None)))


def test_random_choices_depend_on_seed_purpose_and_sample_only():
    first, second = clip_rngs(1, "augment", torch.tensor([5, 6]))
    (again,) = clip_rngs(1, "augment", torch.tensor([6]))
    assert second.random() == again.random()
    assert first.random() != clip_rngs(1, "class_mix", torch.tensor([5]))[0].random()
    draws = {float(torch.rand(1, generator=g)) for g in clip_generators(1, "pixel_contrast", torch.arange(4), "cpu")}
    assert len(draws) == 4
