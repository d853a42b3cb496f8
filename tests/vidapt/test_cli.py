"""The command line: what it passes on, what it refuses, and the exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vidapt import __version__, cli
from vidapt.config import LabelledFolderData, MethodConfig, Recipe, VideosData
from vidapt.errors import InputError, Interrupted, StorageError
from vidapt.jobs import doctor
from vidapt.jobs.doctor import Finding

ROOT = Path(__file__).parents[2]


class Jobs:
    """Stands in for the jobs and keeps what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.outcome: BaseException | None = None

    def job(self, name: str, result: Any = None) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            if self.outcome is not None:
                raise self.outcome
            return result

        return call

    def evaluate(self, scores: Any) -> Any:
        def call(*arguments: Any, show: Any, **options: Any) -> Any:
            self.job("evaluate")(*arguments, **options)
            show(scores)

        return call


def own_recipe(source: Path, target: Path, classes: Path | None) -> Recipe:
    data = {"source": LabelledFolderData(root=source), "target": VideosData(root=target)}
    return Recipe(name="own", labels=str(classes), method=MethodConfig(), **data)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Jobs:
    made = Jobs()
    numbers = {"miou": 0.5, "pq": 0.25, "vpq": None, "stq": 0.125, "flicker": 0.01}
    scores = SimpleNamespace(to_dict=lambda: numbers | {"windows": [1, 2], "videos": 3, "labelled_frames": 9})
    modules = {
        "demo": {"run_demo": made.job("demo")},
        "train": {"train": made.job("train"), "resume": made.job("resume train")},
        "adapt": {
            "adapt": made.job("adapt"),
            "resume_adapt": made.job("resume adapt"),
            "recipe_for": own_recipe,
        },
        "segment": {"segment": made.job("segment")},
        "evaluate": {"evaluate": made.evaluate(scores)},
        "scored_videos": {"is_generated": lambda data: True},
    }
    for name, content in modules.items():
        module = ModuleType(f"vidapt.jobs.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv(cli.DEBUG, raising=False)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A supervised recipe ``plain.yaml`` and an adapting one, ``video.yaml``."""
    (tmp_path / "plain.yaml").write_text("name: plain\nmethod: null\n")
    (tmp_path / "video.yaml").write_text("name: video\nmethod: {}\ntarget: {kind: street_world, seed: 1, style: fog}\n")
    return tmp_path


def run(*arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    sys.argv = ["vidapt", *arguments]
    with pytest.raises(SystemExit) as left:
        cli.main()
    code = left.value.code
    assert code is None or isinstance(code, int)
    return code or 0


@pytest.fixture(autouse=True)
def _argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vidapt"])


# --- what is passed on


def test_demo(jobs: Jobs) -> None:
    assert run("demo", "--out", "here", "--seed", "3", "--device", "cpu") == 0
    assert jobs.calls == [("demo", (), {"out": Path("here"), "seed": 3, "device": "cpu"})]


def test_demo_defaults(jobs: Jobs) -> None:
    assert run("demo") == 0
    assert jobs.calls == [("demo", (), {"out": Path("runs/demo"), "seed": 0, "device": None})]


@pytest.mark.usefixtures("recipes")
def test_train_passes_the_recipe_with_overrides_and_seed(jobs: Jobs) -> None:
    assert run("train", "plain.yaml", "--set", "training.steps=5", "--set", "training.seed=1", "--seed", "0") == 0
    ((name, (recipe,), options),) = jobs.calls
    assert name == "train"
    assert (recipe.training.steps, recipe.training.seed) == (5, 0)
    assert options == {"out": Path("runs/plain"), "device": None, "dry_run": False}


@pytest.mark.usefixtures("recipes")
def test_seed_leaves_generated_data_alone(jobs: Jobs) -> None:
    assert run("adapt", "video.yaml", "--seed", "9", "--set", "source.kind=street_world") == 0
    recipe = jobs.calls[0][1][0]
    assert recipe.training.seed == 9
    assert (recipe.source.seed, recipe.target.seed) == (0, 1)


@pytest.mark.usefixtures("recipes")
def test_train_runs_adapting_recipes_too(jobs: Jobs) -> None:
    assert run("train", "video.yaml", "--out", "x", "--dry-run") == 0
    assert jobs.calls[0][0] == "train"
    assert jobs.calls[0][2] == {"out": Path("x"), "device": None, "dry_run": True}


@pytest.mark.usefixtures("recipes")
def test_adapt_with_a_recipe(jobs: Jobs) -> None:
    assert run("adapt", "video.yaml", "--out", "x", "--device", "cuda") == 0
    assert jobs.calls[0][0] == "adapt"
    assert jobs.calls[0][2] == {"out": Path("x"), "device": "cuda", "dry_run": False}


@pytest.mark.usefixtures("recipes")
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("fog demo, source only", "fog_demo_source_only"),
        ("../../etc", "etc"),
        ("a/b", "a_b"),
        ("..", "run"),
        ("Zürich-2.1", "Zürich-2.1"),
    ],
)
def test_default_folder_lies_below_runs(jobs: Jobs, name: str, folder: str) -> None:
    assert run("train", "plain.yaml", "--set", f"name={name}") == 0
    assert jobs.calls[0][2]["out"] == Path("runs") / folder


def test_adapt_to_own_data(jobs: Jobs) -> None:
    own = ("--source", "labelled", "--target", "drive.mp4", "--classes", "classes.yaml")
    assert run("adapt", *own, "--set", "training.steps=9", "--seed", "4") == 0
    ((_, (recipe,), options),) = jobs.calls
    assert recipe.source.root == Path("labelled")
    assert recipe.target.root == Path("drive.mp4")
    assert (recipe.labels, recipe.training.steps, recipe.training.seed) == ("classes.yaml", 9, 4)
    assert options["out"] == Path("runs/own")


@pytest.mark.parametrize("verb", ["train", "adapt"])
def test_resume_needs_no_config(jobs: Jobs, verb: str) -> None:
    assert run(verb, "--resume", "runs/x", "--device", "cpu") == 0
    assert jobs.calls == [(f"resume {verb}", (Path("runs/x"),), {"device": "cpu"})]


def test_segment(jobs: Jobs) -> None:
    frames = ("--start", "5", "--stop", "50", "--stride", "2")
    how = ("--weights", "teacher", "--no-overlay", "--backend", "decord")
    assert run("segment", "a.mp4", "--checkpoint", "runs/x", "--out", "seg", *frames, *how) == 0
    ((_, arguments, passed),) = jobs.calls
    assert arguments == ("a.mp4",)
    assert passed == {
        "checkpoint": Path("runs/x"),
        "out": Path("seg"),
        "weights": "teacher",
        "start": 5,
        "stop": 50,
        "stride": 2,
        "device": None,
        "overlay": False,
        "backend": "decord",
    }


@pytest.mark.usefixtures("recipes")
def test_evaluate_prints_the_table(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "plain.yaml", "--checkpoint", "runs/x", "--weights", "student", "--out", "s.json") == 0
    ((_, (recipe,), options),) = jobs.calls
    assert recipe.name == "plain"
    assert options == {
        "checkpoint": Path("runs/x"),
        "predictions": None,
        "weights": "student",
        "out": Path("s.json"),
        "csv": None,
        "worst": None,
        "jobs": None,
        "device": None,
    }
    printed = capsys.readouterr().out
    assert "mIoU" in printed
    assert "50.0" in printed
    assert "test bed" in printed
    assert "3 videos or pictures, 9 labelled frames" in printed


@pytest.mark.parametrize("extra", [("--checkpoint", "r", "--jobs", "2"), ("--predictions", "p", "--device", "cpu")])
def test_evaluate_refuses_options_without_effect(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], extra: tuple[str, ...]
) -> None:
    assert f"{extra[2]}" in refused(capsys, "evaluate", "plain.yaml", *extra)
    assert not jobs.calls


def test_doctor_prints_a_row_per_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Finding("torch", "ok", "2.99"), Finding("encoder", "missing", "libx264", "no overlay.mp4")]
    monkeypatch.setattr(doctor, "examine", lambda: rows)
    assert run("doctor") == 0
    torch_row, encoder_row = (
        line for line in capsys.readouterr().out.splitlines() if "torch" in line or "encoder" in line
    )
    assert "2.99" in torch_row
    assert "missing" in encoder_row
    assert "no overlay.mp4" in encoder_row


# --- what is refused: exit code 2 and one line


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("video.yaml", "--source", "a", "--target", "b"),
        ("--source", "a"),
        ("--target", "b"),
        ("--classes", "c"),
    ],
    ids=" ".join,
)
def test_adapt_needs_one_thing_to_run(
    jobs: Jobs, recipes: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert "adapt needs one of: a recipe" in refused(capsys, "adapt", *arguments)
    assert jobs.calls == []


@pytest.mark.usefixtures("recipes")
def test_adapt_names_train_for_a_supervised_recipe(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    assert "vidapt train plain.yaml" in refused(capsys, "adapt", "plain.yaml")
    assert jobs.calls == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--set", "training.steps=1"), "--set"),
        (("--seed", "0"), "--seed"),
        (("--out", "x"), "--out"),
        (("--dry-run",), "--dry-run"),
        (("plain.yaml",), "CONFIG"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "adapt"])
def test_resume_refuses_what_would_change_the_run(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], verb: str, options: tuple[str, ...], named: str
) -> None:
    assert refused(capsys, verb, "--resume", "runs/x", *options).rstrip().endswith(f"drop {named}")
    assert jobs.calls == []


@pytest.mark.usefixtures("jobs")
def test_train_needs_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert "train needs a recipe" in refused(capsys, "train")


@pytest.mark.usefixtures("jobs")
def test_unknown_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no recipe 'nowhere'" in refused(capsys, "train", "nowhere")


@pytest.mark.usefixtures("jobs", "recipes")
def test_unknown_key_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'steps'?" in refused(capsys, "train", "plain.yaml", "--set", "training.stepz=3")


@pytest.mark.usefixtures("recipes")
@pytest.mark.parametrize("both", [(), ("--checkpoint", "a", "--predictions", "b")], ids=["neither", "both"])
def test_evaluate_scores_one_thing(jobs: Jobs, capsys: pytest.CaptureFixture[str], both: tuple[str, ...]) -> None:
    assert "give --checkpoint RUN or --predictions PATH" in refused(capsys, "evaluate", "plain.yaml", *both)
    assert jobs.calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("segment", "a.mp4"),
        ("segment", "a.mp4", "--checkpoint", "x", "--out", "y", "--backend", "vlc"),
        ("segment", "a.mp4", "--checkpoint", "x", "--out", "y", "--stride", "0"),
        ("demo", "--seed", "many"),
        ("demo", "--nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(jobs: Jobs, arguments: tuple[str, ...]) -> None:
    assert run(*arguments) == 2
    assert jobs.calls == []


# --- outcomes of a job


@pytest.mark.parametrize(
    ("outcome", "code", "line"),
    [
        (
            InputError("clip.mp4 has no video stream;\n give a video"),
            2,
            "error: clip.mp4 has no video stream; give a video\n",
        ),
        (StorageError("disk full"), 1, "error: disk full\n"),
        (Interrupted("saved; vidapt adapt --resume runs/x", 2), 130, "saved; vidapt adapt --resume runs/x\n"),
        (Interrupted("saved; vidapt adapt --resume runs/x", 15), 143, "saved; vidapt adapt --resume runs/x\n"),
        (
            ZeroDivisionError("oh\nno"),
            1,
            "error: unexpected ZeroDivisionError: oh no (run with VIDAPT_DEBUG=1 for the traceback)\n",
        ),
    ],
)
def test_outcome_becomes_exit_code_and_one_line(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], outcome: BaseException, code: int, line: str
) -> None:
    jobs.outcome = outcome
    assert run("demo") == code
    assert capsys.readouterr().err == line


def test_keyboard_interrupt_is_130(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.outcome = KeyboardInterrupt()
    assert run("demo") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_debug_shows_the_traceback(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.outcome = ZeroDivisionError("oh no")
    monkeypatch.setenv(cli.DEBUG, "1")
    assert run("demo") == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("error: unexpected ZeroDivisionError: oh no\n")


def test_debug_option_is_the_variable(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cli.DEBUG, "0")
    jobs.outcome = ZeroDivisionError("oh no")
    assert run("--debug", "demo") == 1
    assert os.environ[cli.DEBUG] == "1"


# --- help


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in ("demo", "train", "adapt", "segment", "evaluate", "doctor"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"vidapt {__version__}\n"


@pytest.mark.parametrize("verb", ["demo", "train", "adapt", "segment", "evaluate", "doctor"])
def test_every_option_is_described(verb: str) -> None:
    import typer

    command = typer.main.get_command(cli.app).commands[verb]  # type: ignore[attr-defined]
    assert command.help
    undescribed = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert not undescribed


def test_runs_as_a_module() -> None:
    """torchrun starts ``-m vidapt.cli``."""
    done = subprocess.run(
        [sys.executable, "-m", "vidapt.cli", "train"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: train needs a recipe")


def test_signal_ends_a_real_process_with_130(tmp_path: Path) -> None:
    code = (
        # Whoever starts the tests in the background has them ignore the signal.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, time, types; job = types.ModuleType('vidapt.jobs.demo')\n"
        "def run_demo(**options):\n    print('started', flush=True); time.sleep(30)\n"
        "job.run_demo = run_demo; sys.modules['vidapt.jobs.demo'] = job\n"
        "from vidapt.cli import main; sys.argv = ['vidapt', 'demo']; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"started\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert b"Traceback" not in process.stderr.read()
