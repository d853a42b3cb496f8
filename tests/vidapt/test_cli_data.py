"""``vidapt data`` on the command line: what is passed on, exit codes, one line of error, and help without torch."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from tests.datasets.miniature import cityscapes, gta5
from vidapt import cli
from vidapt.cli_data import data
from vidapt.config import StoredData
from vidapt.jobs.data_open import section_for

ROOT = Path(__file__).parents[2]
COMMANDS = ("list", "check", "stats", "convert", "show")


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["vidapt"])
    monkeypatch.delenv(cli.DEBUG, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*arguments: str) -> int:
    """Run ``vidapt data`` in this process and return its exit code."""
    sys.argv = ["vidapt", "data", *arguments]
    with pytest.raises(SystemExit) as left:
        cli.main()
    code = left.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refused command says on stderr."""
    capsys.readouterr()
    assert run(*arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


class Jobs:
    """Stands in for the jobs and keeps what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def job(self, name: str) -> Any:
        return lambda *arguments, **options: self.calls.append((name, arguments, options))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    made = Jobs()
    for name in ("check", "stats", "convert", "show"):
        module = ModuleType(f"vidapt.jobs.data_{name}")
        vars(module)[f"run_{name}"] = made.job(name)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    module = ModuleType("vidapt.jobs.data_list")
    vars(module)["list_datasets"] = made.job("list")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


# --- what is passed on


def test_list(jobs: Jobs) -> None:
    assert run("list") == 0
    assert jobs.calls == [("list", (), {})]


@pytest.mark.parametrize(
    ("command", "arguments", "passed"),
    [
        ("check", [], {"jobs": None, "json": None}),
        ("check", ["--jobs", "3", "--json", "c.json"], {"jobs": 3, "json": Path("c.json")}),
        ("stats", [], {"labels": None, "jobs": None, "json": None}),
        (
            "stats",
            ["--labels", "cityscapes", "--jobs", "1", "--json", "s.json"],
            {"labels": "cityscapes", "jobs": 1, "json": Path("s.json")},
        ),
        ("convert", ["--out", "o"], {"out": Path("o"), "labels": None, "jobs": None}),
        ("convert", ["--out", "o", "--labels", "c", "--jobs", "2"], {"out": Path("o"), "labels": "c", "jobs": 2}),
        ("show", ["--out", "o.png"], {"out": Path("o.png"), "labels": None, "samples": 8}),
        (
            "show",
            ["--out", "o.png", "--labels", "c", "--samples", "3"],
            {"out": Path("o.png"), "labels": "c", "samples": 3},
        ),
    ],
)
def test_options_are_passed_on(jobs: Jobs, command: str, arguments: list[str], passed: dict[str, Any]) -> None:
    assert run(command, "cityscapes", *arguments) == 0
    [(name, (section,), options)] = jobs.calls
    assert (name, options) == (command, passed)
    assert section == section_for("cityscapes", None, None)
    assert (section.root, section.split) == (Path("cityscapes"), "train")


@pytest.mark.parametrize("command", ["check", "stats", "convert", "show"])
def test_the_section_is_described_alike_everywhere(jobs: Jobs, command: str) -> None:
    where = ["--root", "here", "--split", "val", "--set", "beta=0.01", "--set", "height=512"]
    out = ["--out", "o"] if command in ("convert", "show") else []
    assert run(command, "foggy_cityscapes", *where, *out) == 0
    [(_, (section,), _)] = jobs.calls
    assert isinstance(section, StoredData)
    assert (section.root, section.split, section.height) == (Path("here"), "val", 512)
    assert section.own_options()["beta"] == 0.01


# --- exit codes on files


def test_check_of_an_incomplete_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = cityscapes.build(tmp_path / "data").root
    arguments = ("check", "cityscapes", "--root", str(root), "--jobs", "1", "--json", str(tmp_path / "c.json"))
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert "3 frames, 3 key frames (official: 2975)" in captured.out
    assert captured.err == (f"error: cityscapes train in {root} is not as published: 3 key frames instead of 2975\n")
    assert json.loads((tmp_path / "c.json").read_text())["complete"] is False


def test_check_of_a_complete_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from vidapt.datasets.cityscapes import Cityscapes

    monkeypatch.setattr(Cityscapes, "card", replace(Cityscapes.card, splits={"train": 3}))
    cityscapes.build(tmp_path / "data")
    assert run("check", "cityscapes", "--root", str(tmp_path / "data"), "--jobs", "1") == 0
    assert capsys.readouterr().err == ""


def test_stats_convert_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cityscapes.build(tmp_path / "data")
    where = ("cityscapes", "--root", str(tmp_path / "data"))
    assert run("stats", *where, "--jobs", "1", "--labels", "cityscapes") == 0
    assert run("convert", *where, "--jobs", "1", "--out", str(tmp_path / "out")) == 0
    assert run("show", *where, "--out", str(tmp_path / "sheet.png"), "--samples", "2") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "3 labelled frames in cityscapes" in captured.out
    assert "3 frames written" in captured.out
    assert "2 of 3 frames" in captured.out
    assert (tmp_path / "out" / "train.json").is_file()
    assert (tmp_path / "sheet.png").is_file()


def test_conversion_without_instances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = gta5.build(tmp_path / "data").root
    line = refused(capsys, "convert", "gta5", "--root", str(root), "--out", str(tmp_path / "out"))
    assert "gta5 train has no instance labels" in line


@pytest.mark.parametrize("command", ["check", "stats", "convert", "show"])
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    out = ("--out", str(tmp_path / "out")) if command in ("convert", "show") else ()
    (tmp_path / "empty").mkdir()
    empty = ("--root", str(tmp_path / "empty"))
    assert "no data set 'kitty'" in refused(capsys, command, "kitty", *out)
    assert "no data at" in refused(capsys, command, "cityscapes", "--root", str(tmp_path / "gone"), *out)
    assert "holds no frames; expected files:" in refused(capsys, command, "cityscapes", *empty, *out)
    assert "has no split 'training'" in refused(capsys, command, "cityscapes", *empty, "--split", "training", *out)
    assert "did you mean 'height'" in refused(capsys, command, "cityscapes", *empty, "--set", "hight=5", *out)
    assert "'height'" not in refused(capsys, command, "cityscapes", *empty, "--set", "every=0", *out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("check",),
        ("check", "cityscapes", "--jobs", "0"),
        ("check", "cityscapes", "--jobs", "many"),
        ("convert", "cityscapes"),
        ("show", "cityscapes"),
        ("show", "cityscapes", "--out", "o.png", "--samples", "0"),
        ("stats", "cityscapes", "--nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(jobs: Jobs, arguments: tuple[str, ...]) -> None:
    assert run(*arguments) == 2
    assert jobs.calls == []


# --- help


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name: str) -> None:
    command = typer.main.get_command(data).commands[name]  # type: ignore[attr-defined]
    assert command.help
    assert not [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["show", "--help"]], ids=" ".join)
def test_help_needs_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from vidapt.cli import main\n"
        f"sys.argv = ['vidapt', 'data', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert not left.code, left.code\n"
        "print('heavy:', sorted({'torch', 'cv2', 'numpy', 'timm', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
