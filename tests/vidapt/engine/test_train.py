import json
import logging
import os
import signal
import threading
from itertools import islice

import numpy as np
import pytest
import torch
from toy_training import ToyClips, ToyStep, config, everything, loader, run_toy

from vidapt.config import TrainingConfig
from vidapt.engine.checkpoint import checkpoint_path, latest_checkpoint, list_checkpoints, load_checkpoint
from vidapt.engine.distributed import make_accelerator
from vidapt.engine.state import split_state
from vidapt.engine.train import train
from vidapt.errors import CheckpointError, ConfigError, Interrupted, StorageError, TrainingError


def differing(first, second):
    return {name for name in first if not torch.equal(first[name], second[name])}


def assert_same_state(first, second):
    (tree, tensors), (other_tree, other_tensors) = split_state(first), split_state(second)
    assert tree == other_tree
    assert not differing(tensors, other_tensors)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def poisoned_samples(step, settings, name, count=1):
    """Poison the first sample of ``count`` steps from ``step`` (counted from 1) on."""
    return {(step - 1 + i) * settings.batch: name for i in range(count)}


def test_a_run_learns_and_leaves_its_folder(tmp_path):
    step = ToyStep()
    result = run_toy(step, tmp_path, config(steps=40, lr=1e-2))
    assert (result.steps, result.skipped, step.updates) == (40, 0, 40)
    metrics = lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(4, 41, 4))
    assert metrics[-1]["losses"]["semantic"] < 0.8 * metrics[0]["losses"]["semantic"]
    assert result.losses["semantic"] == metrics[-1]["losses"]["semantic"]
    assert result.checkpoint == latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 40)
    saved = load_checkpoint(result.checkpoint).weights
    assert not differing(saved["student"], step.student.state_dict())
    assert not differing(saved["teacher"], step.teacher.state_dict())
    assert differing(saved["student"], saved["teacher"])


def test_every_sample_is_seen_once_per_epoch(tmp_path):
    step = ToyStep()
    run_toy(step, tmp_path, config(steps=6))
    assert step.seen == list(range(24))


def test_losses_without_gradient_are_only_logged(tmp_path):
    run_toy(ToyStep(), tmp_path, config(steps=4))
    (line,) = lines(tmp_path / "metrics.jsonl")
    assert line["losses"]["pixels"] == 4 * 2 * 3 * 8 * 8
    parts = line["losses"]
    assert line["loss"] == pytest.approx(parts["semantic"] + parts["rare"] + parts["consistency"], rel=1e-5)


def test_training_without_a_target(tmp_path):
    settings, step = config(steps=2), ToyStep()
    options = {"run": tmp_path, "accelerator": make_accelerator("fp32", "cpu"), "header": {}, "tensorboard": False}
    result = train(step, loader("source", settings), None, settings, **options)
    assert "consistency" not in result.losses
    assert result.steps == 2


def test_same_seed_same_weights_other_seed_other_weights(tmp_path):
    steps = [ToyStep(dropout=0.3) for _ in range(3)]
    for i, (step, seed) in enumerate(zip(steps, (1, 1, 2), strict=True)):
        run_toy(step, tmp_path / str(i), config(steps=3, seed=seed))
    assert not differing(everything(steps[0]), everything(steps[1]))
    assert differing(everything(steps[0]), everything(steps[2]))


@pytest.mark.parametrize("options", [{}, {"norm": "batch", "dropout": 0.3}])
def test_resuming_gives_the_same_state_to_the_bit(tmp_path, options):
    straight, first, second = (ToyStep(**options) for _ in range(3))
    run_toy(straight, tmp_path / "a", config())
    run_toy(first, tmp_path / "b", config(), stop_after=5)
    assert differing(everything(straight), everything(first))
    torch.rand(7)
    np.random.rand(7)
    result = run_toy(second, tmp_path / "b", config(), resume=True)
    assert result.steps == 12
    assert not differing(everything(straight), everything(second))
    states = [load_checkpoint(latest_checkpoint(tmp_path / run)).state for run in "ab"]
    for state in states:
        del state["progress"]["seconds"]
    assert_same_state(*states)


def test_resuming_in_the_middle_of_an_epoch_continues_the_order(tmp_path):
    first, second = ToyStep(), ToyStep()
    run_toy(first, tmp_path, config(), stop_after=5)
    run_toy(second, tmp_path, config(), resume=True)
    assert first.seen + second.seen == list(range(48))


def test_the_teacher_survives_resuming(tmp_path):
    first, second = ToyStep(), ToyStep()
    run_toy(first, tmp_path, config(), stop_after=5)
    assert differing(first.teacher.state_dict(), first.student.state_dict())
    run_toy(second, tmp_path, config(steps=12), resume=True, stop_after=5)
    assert not differing(first.teacher.state_dict(), second.teacher.state_dict())


def test_resuming_a_finished_run_does_nothing(tmp_path):
    done = run_toy(ToyStep(), tmp_path, config(steps=3))
    again = run_toy(second := ToyStep(), tmp_path, config(steps=3), resume=True)
    assert (again.steps, again.checkpoint, again.losses) == (3, done.checkpoint, {})
    assert second.seen == []


def test_resuming_before_the_first_checkpoint_starts_anew(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert run_toy(ToyStep(), tmp_path, config(steps=2), resume=True).steps == 2
    assert "training starts from the beginning" in caplog.text


def test_torchrun_restarts_continue(tmp_path, monkeypatch):
    run_toy(ToyStep(), tmp_path, config(), stop_after=5)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run_toy(step := ToyStep(), tmp_path, config(), stop_after=6)
    assert step.seen == list(range(20, 24))


def test_a_run_folder_is_not_overwritten(tmp_path):
    run_toy(ToyStep(), tmp_path, config(steps=2))
    with pytest.raises(ConfigError, match=rf"already holds checkpoints; continue with --resume {tmp_path}"):
        run_toy(ToyStep(), tmp_path, config(steps=2))


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    run_toy(ToyStep(), tmp_path, config(log_every=1), stop_after=5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6}\n{"st')
    run_toy(ToyStep(), tmp_path, config(log_every=1), resume=True)
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == list(range(1, 13))


def test_checkpoints_are_made_on_time_and_kept(tmp_path):
    run_toy(ToyStep(), tmp_path, config(steps=10, checkpoint_every=3, keep=2))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_000009", "step_000010"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    straight, first, second = ToyStep(), ToyStep(), ToyStep()
    run_toy(straight, tmp_path / "a", config())
    run_toy(first, tmp_path / "b", config(checkpoint_every=5), stop_after=10)
    damaged = checkpoint_path(tmp_path / "b", 10) / "state" / "tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with caplog.at_level(logging.WARNING):
        run_toy(second, tmp_path / "b", config(checkpoint_every=5, keep=1), resume=True, stop_after=7)
    assert "tensors.safetensors is damaged" in caplog.text
    assert second.seen[0] == 20
    assert list_checkpoints(tmp_path / "b") == [checkpoint_path(tmp_path / "b", 7)]
    run_toy(third := ToyStep(), tmp_path / "b", config(), resume=True)
    assert not differing(everything(straight), everything(third))


@pytest.mark.parametrize("change", [{"batch": 6}, {"seed": 6}])
def test_other_settings_are_refused_on_resume(tmp_path, change):
    run_toy(ToyStep(), tmp_path, config(), stop_after=2)
    ((name, value),) = change.items()
    with pytest.raises(CheckpointError, match=rf"training\.{name} \d, not {value}"):
        run_toy(ToyStep(), tmp_path, config(**change), resume=True)


def test_another_network_is_refused_on_resume(tmp_path):
    run_toy(ToyStep(), tmp_path, config(), stop_after=2)
    with pytest.raises(CheckpointError, match=r"student\.safetensors belongs to another network: .*running_mean"):
        run_toy(ToyStep(norm="batch"), tmp_path, config(), resume=True)


def test_another_number_of_threads_is_named(tmp_path, caplog):
    threads = torch.get_num_threads()
    run_toy(ToyStep(), tmp_path, config(), stop_after=2)
    try:
        torch.set_num_threads(threads + 1)
        with caplog.at_level(logging.WARNING):
            run_toy(ToyStep(), tmp_path, config(), resume=True, stop_after=3)
    finally:
        torch.set_num_threads(threads)
    assert f"saved with {threads} torch threads and now there are {threads + 1}" in caplog.text


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulating_equals_one_batch(tmp_path, accumulate):
    whole, parts = ToyStep(), ToyStep()
    expected = run_toy(whole, tmp_path / "a", config(max_grad_norm=0.5))
    found = run_toy(parts, tmp_path / "b", config(max_grad_norm=0.5, accumulate=accumulate))
    assert parts.seen == whole.seen
    assert found.losses["semantic"] == pytest.approx(expected.losses["semantic"], abs=1e-5)
    for name, value in whole.student.state_dict().items():
        torch.testing.assert_close(parts.student.state_dict()[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["semantic", "gradient", "input"])
def test_a_step_that_is_not_finite_leaves_no_trace(tmp_path, name):
    settings = config()
    healthy, poisoned = ToyStep(norm="batch"), ToyStep(norm="batch", poison=poisoned_samples(7, settings, name))
    run_toy(healthy, tmp_path / "a", settings, stop_after=6)
    result = run_toy(poisoned, tmp_path / "b", settings, stop_after=7)
    assert (result.steps, result.skipped, poisoned.updates) == (7, 1, 6)
    assert not differing(everything(healthy), everything(poisoned))
    states = [load_checkpoint(latest_checkpoint(tmp_path / run)).state["optimizer"] for run in "ab"]
    assert_same_state(*states)
    (skipped,) = lines(tmp_path / "b" / "skipped.jsonl")
    assert skipped["step"] == 7
    assert len(skipped["clips"]) == 8
    assert any(clip.startswith("source video") and clip.endswith("frames 0-1 (sample 24)") for clip in skipped["clips"])
    assert ("gradient" if name == "gradient" else "semantic") in skipped["reason"]


def test_training_goes_on_after_a_skipped_step(tmp_path):
    settings = config()
    result = run_toy(ToyStep(poison=poisoned_samples(2, settings, "semantic")), tmp_path, settings)
    assert (result.steps, result.skipped) == (12, 1)
    assert all(line["loss"] > 0 for line in lines(tmp_path / "metrics.jsonl"))
    assert [line["skipped"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 1, 1]


def test_too_many_skipped_steps_in_a_row_save_and_stop(tmp_path):
    settings = config(patience=3)
    step, healthy = ToyStep(poison=poisoned_samples(4, settings, "semantic", 99)), ToyStep()
    with pytest.raises(TrainingError, match=r"3 steps in a row .* the last was step 6 .*semantic.*\(sample 20\)"):
        run_toy(step, tmp_path / "a", settings)
    run_toy(healthy, tmp_path / "b", settings, stop_after=3)
    assert not differing(everything(healthy), everything(step))
    assert latest_checkpoint(tmp_path / "a") == checkpoint_path(tmp_path / "a", 6)
    assert run_toy(ToyStep(), tmp_path / "a", settings, resume=True).steps == 12


def test_scattered_skipped_steps_do_not_stop(tmp_path):
    settings = config(patience=2)
    poison = {sample: "semantic" for at in (2, 4, 6) for sample in poisoned_samples(at, settings, "semantic")}
    assert run_toy(ToyStep(poison=poison), tmp_path, settings).skipped == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_signal_finishes_the_step_saves_and_resumes(tmp_path, number, code):
    straight, first, second = ToyStep(dropout=0.3), ToyStep(dropout=0.3), ToyStep(dropout=0.3)
    run_toy(straight, tmp_path / "a", config())
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]

    def stop(done, losses):
        if done == 4:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=f"continue with: vidapt train --resume {tmp_path / 'b'}") as caught:
        run_toy(first, tmp_path / "b", config(), on_step=stop, resume_command=f"vidapt train --resume {tmp_path / 'b'}")
    assert caught.value.exit_code == code
    assert latest_checkpoint(tmp_path / "b") == checkpoint_path(tmp_path / "b", 5)
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    run_toy(second, tmp_path / "b", config(), resume=True)
    assert not differing(everything(straight), everything(second))


def test_user_signal_saves_and_continues(tmp_path):
    def save(done, losses):
        if done == 4:
            os.kill(os.getpid(), signal.SIGUSR1)

    result = run_toy(ToyStep(), tmp_path, config(keep=9), on_step=save)
    assert result.steps == 12
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_000005", "step_000012"]


def test_training_outside_the_main_thread_works_without_signals(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run_toy(ToyStep(), tmp_path, config(steps=2))))
    thread.start()
    thread.join()
    assert results[0].steps == 2


def test_a_loader_that_a_stop_signal_ended_counts_as_the_stop(tmp_path):
    settings = config()

    def dying(start):
        yield from islice(loader("source", settings)(start), 3)
        os.kill(os.getpid(), signal.SIGTERM)
        raise TrainingError("a loader process ended")

    accelerator = make_accelerator("fp32", "cpu")
    step = ToyStep()
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 3 of 12"):
        train(step, dying, None, settings, run=tmp_path, accelerator=accelerator, header={}, tensorboard=False)
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 3)
    assert step.seen == list(range(12))


def test_data_that_end_are_named(tmp_path):
    settings = config()
    accelerator = make_accelerator("fp32", "cpu")
    with pytest.raises(TrainingError, match="data ended before the run"):
        train(
            ToyStep(), lambda start: islice(loader("source", settings)(start), 3), None, settings, run=tmp_path,
            accelerator=accelerator, header={}, tensorboard=False,
        )  # fmt: skip


def test_errors_of_the_method_and_the_data_pass_through(tmp_path):
    with pytest.raises(ValueError, match="cannot digest sample 9"):
        run_toy(ToyStep(fail_on=9), tmp_path / "a", config())
    with pytest.raises(Exception, match="clip 3 is unreadable"):
        run_toy(ToyStep(), tmp_path / "b", config(), ToyClips(broken=3))


def test_workers_do_not_change_the_result(tmp_path):
    alone, helped = ToyStep(dropout=0.3), ToyStep(dropout=0.3)
    run_toy(alone, tmp_path / "a", config(steps=5))
    run_toy(helped, tmp_path / "b", config(steps=5, workers=1))
    assert not differing(everything(alone), everything(helped))


def test_a_run_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        run_toy(ToyStep(), tmp_path / "file" / "run", config())


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32(tmp_path):
    settings = config(steps=2)
    seen = []

    class Watching(ToyStep):
        def losses(self, source, target):
            for name, loss in super().losses(source, target):
                seen.append(self.student(source.frames)[0].dtype)
                yield name, loss

    step = Watching()
    accelerator = make_accelerator("bf16", "cpu")
    streams = loader("source", settings), loader("target", settings)
    train(step, *streams, settings, run=tmp_path, accelerator=accelerator, header={}, tensorboard=False)
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in step.student.state_dict().values()} == {torch.float32}


def test_the_default_configuration_can_drive_a_run(tmp_path):
    step = ToyStep()
    accelerator = make_accelerator(device="cpu")
    settings = TrainingConfig()
    result = train(
        step, loader("source", settings), loader("target", settings), settings, run=tmp_path, accelerator=accelerator,
        header={}, stop_after=2,
    )  # fmt: skip
    assert result.steps == 2
    assert list(tmp_path.glob("events.out.tfevents*"))
