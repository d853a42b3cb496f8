"""What importing costs, and that optional packages are really optional."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "triton", "cv2", "av", "decord", "timm", "open_clip", "pydantic", "numpy")
LAZY = (("av", "decord", "open_clip"), ("triton",))


def _run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr + done.stdout


IMPORT = "import vidapt; dir(vidapt)"
HELP = """
import runpy
sys.argv = ["vidapt", "--help"]
try:
    runpy.run_module("vidapt.cli", run_name="__main__")
except SystemExit as stop:
    assert stop.code in (0, None)
"""


@pytest.mark.parametrize("code", [IMPORT, HELP], ids=["import vidapt", "vidapt --help"])
def test_answers_at_once_and_loads_nothing_heavy(code: str) -> None:
    """The processor time of the whole process counts, which other work on the machine does not change."""
    report = f"import time; print(time.process_time(), *sorted(set(sys.modules) & set({HEAVY!r})))"
    seconds, *loaded = _run(f"import sys\n{code}\n{report}").splitlines()[-1].split()
    assert loaded == []
    assert float(seconds) < 1


def test_public_names_load_on_demand() -> None:
    said = _run(
        "import sys, vidapt; before = 'numpy' in sys.modules; vidapt.LabelSpace; print(before, 'numpy' in sys.modules)"
    )
    assert said.split() == ["False", "True"]


def test_unknown_public_name_is_an_attribute_error() -> None:
    import vidapt

    with pytest.raises(AttributeError, match="no attribute 'segmentation'"):
        _ = vidapt.segmentation


TRITON_SIDE = (
    *("kernel", "launch", "ops", "tiles"),
    *("fake_driver", "binaries", "budgets", "compile_only", "compile_problems"),
)
"""How modules that need Triton are called; nothing imports them before a kernel runs or is compiled."""

BLOCKED = (
    f"TRITON_SIDE = {TRITON_SIDE!r}"
    + """
import importlib, json, pkgutil, sys

rooms, *blocked = sys.argv[1:]

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def modules(package):
    yield package
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        yield from modules(module.name) if module.ispkg else [module.name]

sys.meta_path.insert(0, Blocker())
for room in json.loads(rooms):
    for name in modules(room):
        if not ("triton" in blocked and name.rpartition(".")[2].startswith(TRITON_SIDE)):
            importlib.import_module(name)
            print(name)
assert not set(blocked) & set(sys.modules)
"""
)


@pytest.mark.parametrize("blocked", LAZY, ids=" ".join)
def test_adaptation_and_kernels_import_without(blocked: tuple[str, ...]) -> None:
    """Without Triton its own side is left alone; the public functions, their references and the benchmark are not."""
    said = _run(BLOCKED, '["vidapt.adaptation", "vidapt.kernels"]', *blocked).split()
    assert {"vidapt.adaptation", "vidapt.kernels.contrast", "vidapt.kernels.paste", "vidapt.kernels.bench.run"} < set(
        said
    )


def test_a_blocked_package_is_noticed() -> None:
    with pytest.raises(AssertionError, match="No module named 'numpy'"):
        _run(BLOCKED, '["vidapt.labels"]', "numpy")
