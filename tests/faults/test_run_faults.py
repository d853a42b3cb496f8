"""Bad input through the command line: one clear line, exit code 2 (1 where it is not the user's), nothing lost.

How readers and checkpoints take damage is tested beside this file; here is what a person sees.
"""

import json
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from tests.tiny_runs import MODEL, moving_frames, tiny_recipe, write_images, write_labelled, write_weights
from tests.video_files import make_video, overwrite
from vidapt import cli
from vidapt.adaptation.supervised import SupervisedStep
from vidapt.engine.checkpoint import latest_checkpoint, list_checkpoints
from vidapt.jobs.train import train
from vidapt.recipe import dump_recipe

FRAMES = 20


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def vidapt(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line: exit code and the last line on stderr; no traceback, one line with the error."""
    monkeypatch.delenv(cli.DEBUG, raising=False)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vidapt", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capfd.readouterr().err
        assert "Traceback" not in said
        lines = said.splitlines()
        assert sum(line.startswith("error: ") for line in lines) <= 1
        return int(left.value.code or 0), lines[-1] if lines else ""

    return run


Run = Callable[..., tuple[int, str]]


def assert_refused(outcome: tuple[int, str], *words: str, code: int = 2) -> None:
    assert outcome[0] == code, outcome[1]
    assert outcome[1].startswith("error: ")
    assert "unexpected" not in outcome[1]
    for word in words:
        assert word in outcome[1]


# --- segment


def empty(folder: Path) -> Path:
    (folder / "a.mp4").touch()
    return folder / "a.mp4"


def text(folder: Path) -> Path:
    (folder / "a.mp4").write_text("this is no video\n" * 100)
    return folder / "a.mp4"


def cut(folder: Path) -> Path:
    data = make_video(folder / "whole.mp4", FRAMES).read_bytes()
    (folder / "a.mp4").write_bytes(data[: len(data) // 2])
    return folder / "a.mp4"


def no_frames(folder: Path) -> Path:
    """A valid MP4 file whose video stream holds no frame."""
    import av

    with av.open(str(folder / "a.mp4"), "w", options={"movflags": "empty_moov+frag_keyframe"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        container.start_encoding()
    return folder / "a.mp4"


def unreadable(folder: Path) -> Path:
    (folder / "a.png").write_bytes(b"no image")
    return folder / "a.png"


def empty_folder(folder: Path) -> Path:
    (folder / "frames").mkdir()
    return folder / "frames"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none.mp4", "does not exist"),
        (empty, "is empty (0 bytes)"),
        (text, "cannot be opened as a video"),
        (cut, "has lost its index"),
        (no_frames, "frame"),
        (unreadable, "cannot be read as an image"),
        (empty_folder, "contains no images"),
    ],
)
def test_input_without_a_frame_writes_nothing(
    vidapt: Run, weights: Path, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    source, out = make(tmp_path), tmp_path / "out"
    outcome = vidapt("segment", source, "--checkpoint", weights, "--out", out, "--device", "cpu")
    assert_refused(outcome, words, source.name)
    assert not out.exists()


def written(folder: Path) -> list[int]:
    """Frames of a segmentation folder, after a look at its parts."""
    data = json.loads((folder / "panoptic.json").read_text())
    pictures = sorted(int(path.stem) for path in (folder / "panoptic").iterdir())
    assert pictures == [record["image_id"] for record in data["annotations"]]
    assert json.loads((folder / "summary.json").read_text())["frames"] == len(pictures)
    return pictures


def test_flipped_bytes_cost_only_the_frames_that_they_hit(vidapt: Run, weights: Path, tmp_path: Path) -> None:
    import av

    whole = make_video(tmp_path / "whole.mp4", FRAMES, b_frames=0, key_every=5)
    with av.open(str(whole)) as container:
        position, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][10]
    flipped = bytes(byte ^ 0xFF for byte in whole.read_bytes()[position : position + size])
    damaged = overwrite(whole, tmp_path / "a.mp4", position, flipped)
    outcome = vidapt("segment", damaged, "--checkpoint", weights, "--out", tmp_path / "out", "--device", "cpu")
    assert_refused(outcome, "could not be decoded (10", str(tmp_path / "out"))
    found = written(tmp_path / "out")
    assert set(range(10)) | set(range(15, FRAMES)) <= set(found)
    assert 10 not in found


def test_a_cut_recording_is_kept_up_to_the_cut(vidapt: Run, weights: Path, tmp_path: Path) -> None:
    data = make_video(tmp_path / "whole.mkv", 40).read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) * 3 // 5])
    outcome = vidapt("segment", tmp_path / "a.mkv", "--checkpoint", weights, "--out", tmp_path / "out")
    assert_refused(outcome, "the video ends early", "of 40 frames")
    found = written(tmp_path / "out")
    assert 10 < len(found) < 40
    assert found == list(range(len(found)))


def test_frames_of_different_sizes_are_kept_up_to_the_odd_one(vidapt: Run, weights: Path, tmp_path: Path) -> None:
    folder = write_images(moving_frames(5), tmp_path / "frames")
    cv2.imwrite(str(folder / "0003.png"), moving_frames(1, (32, 40))[0])
    outcome = vidapt("segment", folder, "--checkpoint", weights, "--out", tmp_path / "out")
    assert_refused(outcome, "0003.png is 40x32 but 0000.png is 80x48", "must have one size")
    assert written(tmp_path / "out") == [0, 1, 2]


# --- recipes and labels


@pytest.mark.parametrize(
    ("verb", "change", "words"),
    [
        ("adapt", {"trainning": {}}, "unknown key 'trainning'; did you mean 'training'?"),
        ("adapt", {"method": {"alhpa": 0.9}}, "unknown key 'method.alhpa'; did you mean 'alpha'?"),
        ("train", {"training": {"step": 5}}, "unknown key 'training.step'; did you mean 'steps'?"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest(
    vidapt: Run, tmp_path: Path, verb: str, change: dict[str, Any], words: str
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(change))
    assert_refused(vidapt(verb, tmp_path / "mine.yaml", "--out", tmp_path / "run"), words)
    assert not (tmp_path / "run").exists()


def test_labels_outside_the_classes_name_the_file(vidapt: Run, tmp_path: Path) -> None:
    labelled = write_labelled(tmp_path / "labelled", ["road", "car"])
    for path in (labelled / "semantic" / "a").iterdir():
        cv2.imwrite(str(path), np.full((64, 96), 7, np.uint8))
    recipe = tiny_recipe(
        method=None, target=None, validation=None, evaluation=None, warm_start=None,
        labels=str(labelled / "classes.yaml"), source={"kind": "labelled_folder", "root": str(labelled)},
    )  # fmt: skip
    (tmp_path / "mine.yaml").write_text(dump_recipe(recipe))
    outcome = vidapt("train", tmp_path / "mine.yaml", "--out", tmp_path / "run", "--device", "cpu")
    assert_refused(outcome, "semantic/a/000", "has labels [7] outside the classes of 'mine'; allowed: 0..1 and 255")


# --- checkpoints


def supervised(**changes: Any) -> Any:
    plain = {"method": None, "target": None, "validation": None, "evaluation": None, "warm_start": None}
    recipe = tiny_recipe(**(plain | changes))
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"keep": 3, "steps": 3})})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps with a checkpoint after each."""
    return train(supervised(), out=tmp_path_factory.mktemp("finished") / "run", device="cpu").run


def checkpoint_of(run: Path) -> Path:
    folder = latest_checkpoint(run)
    assert folder is not None
    return folder


def test_a_start_of_another_architecture(vidapt: Run, finished: Path, tmp_path: Path) -> None:
    other = supervised(model={**MODEL, "semantic": {**MODEL["semantic"], "channels": 12}})
    (tmp_path / "mine.yaml").write_text(dump_recipe(other))
    start = f"training.initial={finished}"
    outcome = vidapt("train", tmp_path / "mine.yaml", "--set", start, "--out", tmp_path / "run", "--device", "cpu")
    assert_refused(outcome, "student.safetensors belong to another architecture", "of another shape")


def test_a_resumed_run_whose_recipe_was_changed(vidapt: Run, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    other = supervised(model={**MODEL, "semantic": {**MODEL["semantic"], "channels": 12}})
    (run / "config.yaml").write_text(dump_recipe(other))
    assert_refused(vidapt("train", "--resume", run, "--device", "cpu"), "belongs to another network")
    assert len(list_checkpoints(run)) == 3


def test_a_truncated_checkpoint_is_not_segmented_with(
    vidapt: Run, finished: Path, weights: Path, tmp_path: Path
) -> None:
    frames = write_images(moving_frames(2), tmp_path / "frames")
    single = tmp_path / "cut.safetensors"
    single.write_bytes(weights.read_bytes()[:-1000])
    outcome = vidapt("segment", frames, "--checkpoint", single, "--out", tmp_path / "out")
    assert_refused(outcome, "cut.safetensors", "truncated")
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for folder in list_checkpoints(run):
        path = folder / "student.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
    outcome = vidapt("segment", frames, "--checkpoint", run, "--out", tmp_path / "out")
    assert_refused(outcome, "holds no complete checkpoint")
    assert not (tmp_path / "out").exists()


def test_resume_passes_over_a_truncated_checkpoint(vidapt: Run, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    path = checkpoint_of(run) / "student.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert vidapt("train", "--resume", run, "--device", "cpu")[0] == 0
    first, second = (load_file(checkpoint_of(place) / "student.safetensors") for place in (finished, run))
    assert all(first[name].equal(second[name]) for name in first)


def test_a_weights_file_of_something_else(vidapt: Run, tmp_path: Path) -> None:
    frames = write_images(moving_frames(1), tmp_path / "frames")
    (tmp_path / "notes.txt").write_text("no weights")
    for place, words in (("notes.txt", "no safetensors file"), ("none", "no checkpoint at"), ("frames", "no complete")):
        outcome = vidapt("segment", frames, "--checkpoint", tmp_path / place, "--out", tmp_path / "out")
        assert_refused(outcome, words)


# --- full disk


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """Let no file of this process grow beyond 200 kB: as on a full disk, writing fails in the middle."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def interrupted(finished: Path, tmp_path: Path) -> Path:
    """A run with one of its three steps done."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for folder in list_checkpoints(run)[1:]:
        shutil.rmtree(folder)
    (run / "scores.json").unlink()
    return run


def test_a_full_disk_while_saving_keeps_the_earlier_checkpoint(
    vidapt: Run, interrupted: Path, small_files_only: None
) -> None:
    before = {path: path.read_bytes() for path in checkpoint_of(interrupted).rglob("*") if path.is_file()}
    outcome = vidapt("train", "--resume", interrupted, "--device", "cpu")
    assert_refused(outcome, "step_000002 failed", "earlier checkpoints are intact", code=1)
    assert {path: path.read_bytes() for path in before} == before
    assert [folder.name for folder in (interrupted / "checkpoints").iterdir()] == ["step_000001"]


def test_the_run_goes_on_when_there_is_room_again(vidapt: Run, interrupted: Path, finished: Path) -> None:
    resource_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource_limits[1]))
    try:
        assert vidapt("train", "--resume", interrupted, "--device", "cpu")[0] == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, resource_limits)
    assert vidapt("train", "--resume", interrupted, "--device", "cpu")[0] == 0
    first, second = (load_file(checkpoint_of(place) / "student.safetensors") for place in (finished, interrupted))
    assert all(first[name].equal(second[name]) for name in first)


def test_a_full_disk_while_segmenting(vidapt: Run, weights: Path, tmp_path: Path, small_files_only: None) -> None:
    frames = write_images(moving_frames(2), tmp_path / "frames")
    outcome = vidapt("segment", frames, "--checkpoint", weights, "--out", tmp_path / "out")
    assert_refused(outcome, "cannot be written (File too large)", code=1)


@pytest.mark.parametrize("name", ["scores.json", "config.yaml", "report.html"])
def test_a_full_disk_in_the_small_files_of_a_run(
    vidapt: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plain = Path.write_text

    def full(self: Path, data: str, *options: Any, **named: Any) -> int:
        if Path(name).stem in self.name:
            raise OSError(28, "No space left on device")
        return plain(self, data, *options, **named)

    plain(tmp_path / "mine.yaml", dump_recipe(supervised()))
    monkeypatch.setattr(Path, "write_text", full)
    outcome = vidapt("train", tmp_path / "mine.yaml", "--out", tmp_path / "run", "--device", "cpu")
    assert_refused(outcome, f"{name} cannot be written (No space left on device)", code=1)
    assert (latest_checkpoint(tmp_path / "run") is None) == (name == "config.yaml")


def test_a_failing_step_says_what_to_do(vidapt: Run, interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not finite five times in a row: exit code 1, the weights before that are kept."""
    plain = SupervisedStep.losses

    def broken(self: SupervisedStep, *batches: Any) -> Iterator[Any]:
        for loss_name, loss in plain(self, *batches):
            yield loss_name, loss * float("nan")

    config = yaml.safe_load((interrupted / "config.yaml").read_text())
    config["training"]["patience"] = 2
    (interrupted / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(SupervisedStep, "losses", broken)
    outcome = vidapt("train", "--resume", interrupted, "--device", "cpu")
    assert_refused(outcome, "2 steps in a row gave no finite loss", "vidapt train --resume", code=1)
