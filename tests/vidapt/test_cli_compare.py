"""``vidapt compare`` on the command line: what it passes on, what it refuses, and its exit codes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vidapt.jobs.tiny_suite import write_suite
from vidapt import cli
from vidapt.errors import Interrupted, UserError
from vidapt.jobs import compare as job
from vidapt.jobs.compare_plan import Choice

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/vidapt", "compare", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code is None or isinstance(left.value.code, int)
    return left.value.code or 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made: Calls = []
    monkeypatch.setattr(job, "compare", lambda *arguments, **options: made.append((arguments, options)))
    return made


def test_defaults(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    assert run(monkeypatch, "street_world") == 0
    assert run(monkeypatch, "here/my.yaml", "--quick") == 0
    (first, options), (_, quick) = calls
    assert first == ("street_world",)
    assert options == {
        "out": Path("runs/compare_street_world"), "choice": Choice(), "quick": False, "jobs": 1, "device": None,
        "dry_run": False, "keep_runs": False, "command": "vidapt compare street_world",
    }  # fmt: skip
    assert (quick["out"], quick["quick"]) == (Path("runs/compare_my_quick"), True)


def test_everything_is_passed_on(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    arguments = [
        "gap", "--out", "here", "--jobs", "2", "--device", "cpu", "--recipes", "edaps, vidapt", "--seeds", "0,2,0",
        "--comparisons", "fog_0.25", "--sweep", "imix_threshold", "--sweep", "training.lr=1e-3,2e-3",
        "--set", "training.steps=5", "--first-world", "100", "--dry-run", "--keep-runs",
    ]  # fmt: skip
    assert run(monkeypatch, *arguments) == 0
    ((_, options),) = calls
    assert options["choice"] == Choice(
        comparisons=("fog_0.25",),
        recipes=("edaps", "vidapt"),
        seeds=(0, 2),
        overrides=("training.steps=5",),
        sweeps=("imix_threshold", "training.lr=1e-3,2e-3"),
        first_world=100,
    )
    assert (options["out"], options["jobs"], options["device"]) == (Path("here"), 2, "cpu")
    assert options["dry_run"]
    assert options["keep_runs"]
    assert options["command"].startswith(
        "vidapt compare gap --out here --jobs 2 --device cpu --recipes 'edaps, vidapt'"
    )


@pytest.mark.parametrize("seeds", ["a", "0,-1", "0.5", "1 2"])
def test_seeds_must_be_numbers(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, capsys: pytest.CaptureFixture[str], seeds: str
) -> None:
    assert run(monkeypatch, "gap", f"--seeds={seeds}") == 2
    assert capsys.readouterr().err == f"error: --seeds {seeds!r}: write whole numbers from 0, such as 0,1,2\n"
    assert calls == []


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(UserError("failed: a"), 2), (Interrupted("stopped", 2), 130), (Interrupted("stopped", 15), 143)],
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, outcome: Exception, code: int) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise outcome

    monkeypatch.setattr(job, "compare", fail)
    assert run(monkeypatch, "gap") == code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "error: no suite 'nothing': it is neither a file nor one of camvid, gap, street_world"),
        (["camvid", "--sweep", "x"], "error: --sweep 'x': write key.path=v1,v2"),
        (["street_world", "--recipes", "x"], "error: the suite has no recipe 'x'; allowed: dacs, "),
        (["street_world", "--set", "training.x=1"], "unknown key 'training.x'"),
    ],
)
def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bad_suite_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, str(write_suite(tmp_path, setings={})), "--out", str(tmp_path / "out")) == 2
    assert "unknown key 'setings'; did you mean 'settings'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_every_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "street_world", "--quick", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("start-")
    assert lines[-1] == "8 cells: 0 finished, 8 to run, 0 copies"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from vidapt.jobs.compare import compare; "
        f"compare({str(write_suite(tmp_path))!r}, out='x', dry_run=True); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
