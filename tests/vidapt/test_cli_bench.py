"""`vidapt bench kernels`: what it prints and writes, what it refuses, and the exit codes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from vidapt import cli
from vidapt.errors import UserError
from vidapt.jobs import bench
from vidapt.kernels.bench import suite
from vidapt.kernels.bench.anchor_rows import AnchorRow
from vidapt.kernels.bench.contrast_rows import ContrastRow
from vidapt.kernels.bench.gates import Gate
from vidapt.kernels.bench.paste_rows import PasteRow
from vidapt.kernels.bench.report import RowResult
from vidapt.kernels.bench.rows import Row
from vidapt.kernels.bench.stats_rows import StatsRow

ROOT = Path(__file__).parents[2]
QUICK = ("--device", "cpu", "--quick")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows so small that they cost nothing, in an empty folder."""
    limits: dict[type[Row], tuple[int, int]] = {ContrastRow: (2**12,) * 2, AnchorRow: (2**12,) * 2}
    monkeypatch.setattr(suite, "CPU_LIMITS", limits | {PasteRow: (2**14,) * 2, StatsRow: (2**14,) * 2})
    monkeypatch.delenv(cli.DEBUG, raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    """Run `vidapt bench kernels` in this process and return its exit code."""
    sys.argv = ["vidapt", "bench", "kernels", *arguments]
    with pytest.raises(SystemExit) as left:
        cli.main()
    code = left.value.code
    assert code is None or isinstance(code, int)
    return code or 0


@pytest.fixture(autouse=True)
def _argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vidapt"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


# --- what it does


def test_a_row_of_each_group(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = "P0,A,K1.512t4.fp32.20,K1b.512t1"
    assert run(*QUICK, "--only", rows, "--json", "out/found.json", "--chart", "out/chart.png") == 0
    printed = capsys.readouterr().out
    for text in ("Contrast", "Anchor sampling", "Paste", "Instance statistics", "P0@cpu", "K1b.512t1@cpu", "DACS loop"):
        assert text in printed
    assert f"torch {torch.__version__}" in printed
    assert f"--only {rows}" in " ".join(printed.split())
    report = json.loads((tmp_path / "out/found.json").read_text())
    assert (report["finished"], report["quick"]) == (True, True)
    assert [row["id"] for row in report["rows"]] == ["P0", "A", "K1.512t4.fp32.20", "K1b.512t1"]
    assert report["rows"][0]["shape"]["N"] == 64
    assert report["environment"]["command"].startswith("vidapt bench kernels --device cpu --quick")
    assert (tmp_path / "out/chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_family_of_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(*QUICK, "--only", "K1b, P2c", "--json", "found.json") == 0
    ids = [row["id"] for row in json.loads((tmp_path / "found.json").read_text())["rows"]]
    assert ids[0] == "P2c"
    assert len(ids) == 6


# --- a red gate


@pytest.fixture
def _wrong_eager_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spoil what our loss is judged to be, so that the gate must turn red."""
    judge = ContrastRow.judge

    def spoiled(self: ContrastRow, problem: str, inputs: Any) -> Any:
        judged = judge(self, problem, inputs)

        def wrong(provider: Any) -> Gate:
            return replace(judged(provider), error=0.25) if provider.ours else judged(provider)

        return wrong

    monkeypatch.setattr(ContrastRow, "judge", spoiled)


@pytest.mark.usefixtures("_wrong_eager_form")
def test_a_wrong_result_prints_no_speed_and_exits_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(*QUICK, "--only", "P0,A", "--json", "found.json") == 1
    captured = capsys.readouterr()
    assert captured.err == "error: wrong results, for which no speed is shown: P0@cpu vidapt\n"
    table, _, rest = captured.out.partition("Anchor sampling")
    assert "P0@cpu vidapt: FAILED, " in table
    assert "off by 0.25, allowed" in table
    assert "(0." not in table.replace("off by 0.25", "")
    assert "A@cpu" in rest
    row, anchors = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert (row["status"], anchors["status"]) == ("failed", "ok")
    assert all(provider["modes"] == {} for provider in row["providers"])
    assert row["providers"][0]["gates"][0]["passed"] is False


# --- an interruption


def test_an_interruption_keeps_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(rows: list[Row], settings: Any) -> Iterator[RowResult]:
        yield bench_run(rows[0], settings)
        raise KeyboardInterrupt

    from vidapt.kernels.bench.run import run_row as bench_run

    monkeypatch.setattr(bench, "run", interrupted)
    assert run(*QUICK, "--only", "P0,P2c", "--json", "found.json") == 130
    assert "P0@cpu" in capsys.readouterr().out
    report = json.loads((tmp_path / "found.json").read_text())
    assert report["finished"] is False
    assert [row["id"] for row in report["rows"]] == ["P0"]


# --- what it refuses


@pytest.fixture
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize("arguments", [(), ("--quick",), ("--device", "cuda"), ("--tune", "tiles.json")], ids=" ".join)
def test_without_a_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]) -> None:
    line = refused(capsys, *arguments)
    assert "there is none here" in line
    assert "--device cpu" in line
    assert list(tmp_path.iterdir()) == []


def test_unknown_rows_are_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *QUICK, "--only", "P0,Q7")
    assert "unknown rows Q7; allowed: P0, P1, P2, " in line
    assert "K1.1024x2048t16.uint8.20" in line
    assert ", K1, " in line


def test_a_chart_is_a_png(capsys: pytest.CaptureFixture[str]) -> None:
    assert "end the name with .png" in refused(capsys, *QUICK, "--chart", "chart.pdf")


@pytest.mark.parametrize("option", [("--json", "x"), ("--chart", "x.png"), ("--quick",)], ids=" ".join)
def test_tune_writes_no_results(capsys: pytest.CaptureFixture[str], option: tuple[str, ...]) -> None:
    assert refused(capsys, "--tune", "tiles.json", *option).rstrip().endswith(f"drop {option[0]}")


def test_tune_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert "drop --device cpu" in refused(capsys, "--tune", "tiles.json", "--device", "cpu")


def test_json_that_cannot_be_written_is_said_before_measuring(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert run(*QUICK, "--json", "file/found.json") == 1
    captured = capsys.readouterr()
    assert "cannot be written" in captured.err
    assert "Contrast" not in captured.out


@pytest.mark.parametrize("arguments", [("--device", "tpu"), ("--nonsense",), ("--json",)], ids=" ".join)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments) == 2


def test_unknown_device_from_python() -> None:
    with pytest.raises(UserError, match="use cuda or cpu"):
        bench.bench_kernels(device="tpu")


# --- help


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from vidapt.cli import app\n"
        "try: app(['bench', 'kernels', '--help'])\n"
        "except SystemExit as left: assert not left.code\n"
        "assert not {'torch', 'triton', 'numpy', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--only" in done.stdout


def test_every_option_is_described() -> None:
    command = typer.main.get_command(cli.app).commands["bench"].commands["kernels"]  # type: ignore[attr-defined]
    assert command.help
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", None)] == []


# --- label maps of streets


@pytest.fixture(scope="module")
def street() -> Any:
    return bench.street_labels(1, 6, 128, 192)


def test_streets_have_many_instances_and_few_ids(street: Any) -> None:
    assert street.semantic.shape == street.ids.shape == (6, 128, 192)
    assert (street.semantic.dtype, street.ids.dtype) == (torch.uint8, torch.int32)
    for frame in street.ids:
        assert 20 <= frame.unique().numel() - 1 <= bench.MOST_IDS
    assert int(street.ids.max()) <= bench.MOST_IDS
    assert 0.1 < float((street.ids > 0).float().mean()) < 0.6
    assert set(street.semantic.unique().tolist()) <= set(range(19))
    assert bool((street.semantic[street.ids > 0] >= 11).all())


def test_streets_move_and_repeat(street: Any) -> None:
    assert not torch.equal(street.ids[0], street.ids[1])
    assert torch.equal(street.ids[0], street.ids[bench.WORLD_FRAMES])
    other = bench.street_labels(1 + bench.WORLDS, 1, 128, 192)
    assert torch.equal(other.ids[0], street.ids[0])
    largest = torch.bincount(street.ids.flatten().long())[1:4].tolist()
    assert largest == sorted(largest, reverse=True)


def test_streets_come_in_any_size() -> None:
    assert bench.street_labels(1, 1, 640, 640).ids.shape == (1, 640, 640)
    small, large = (bench.street_labels(1, 1, size, size).semantic[0] for size in (64, 128))
    assert torch.equal(small, large[::2, ::2])
