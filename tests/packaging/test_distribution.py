"""What is built holds everything, and what is installed resolves everything, wheel and editable."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"vidapt": "vidapt", "kernels": "vidapt/kernels", "datasets": "vidapt/datasets", "configs": "vidapt/configs"}
SHIPPED = (".py", ".yaml", ".json", ".html", ".typed")
TOP = (
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "Makefile",
    "LICENSE",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)

Build = Callable[[str], Path]


def _tree() -> set[str]:
    """Every file of the checkout that belongs into the wheel, under the name that it has there."""
    return {
        f"{installed}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SHIPPED and not {"__pycache__", "results"} & set(path.parts)
    }


def _run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build in, so that building leaves nothing behind in the tree."""
    copy = tmp_path_factory.mktemp("checkout")
    skip = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis", "*.egg-info")
    for folder in (*FOLDERS, "tests", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=skip)
    for name in TOP:
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def build(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build ``wheel``, ``editable`` or ``sdist`` with setuptools' own hooks; what pip does, without the network."""

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        code = f"import setuptools.build_meta as build; print(build.build_{kind}({str(folder)!r}))"
        return folder / _run(sys.executable, "-c", code, cwd=checkout).splitlines()[-1]

    return make


@pytest.fixture(scope="module")
def wheel(build: Build) -> Path:
    return build("wheel")


def _environment(home: Path, wheel: Path) -> Path:
    """The Python of a fresh environment that holds ``wheel``; dependencies are borrowed from this environment."""
    venv.EnvBuilder(symlinks=True).create(home)
    site = home / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return home / "bin" / "python"


@pytest.fixture(scope="module")
def wheel_install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _environment(tmp_path_factory.mktemp("installed"), wheel)


@pytest.fixture(scope="module")
def editable_install(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _environment(tmp_path_factory.mktemp("installed"), build("editable"))


@pytest.fixture(params=["wheel_install", "editable_install"])
def installed(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue(request.param))


def test_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == _tree()
    assert "vidapt/py.typed" in names


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "vidapt = vidapt.cli:main" in texts["entry_points.txt"]
    assert "Apache License" in texts["LICENSE"]
    assert "License-Expression: Apache-2.0" in texts["METADATA"]
    assert "Requires-Dist: torch>=2.11" in texts["METADATA"]
    assert {"Provides-Extra: test", "Provides-Extra: dev"} <= set(texts["METADATA"].splitlines())


def test_source_distribution_can_be_tested_and_rebuilt(build: Build, checkout: Path) -> None:
    with tarfile.open(build("sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "pyproject.toml", "Makefile", "LICENSE", "tests/conftest.py", "configs/__init__.py"} <= names
    here = {path.relative_to(checkout).as_posix() for path in (checkout / "tests").rglob("*.py")}
    assert here <= names


RESOLVE = """
import json, sys, vidapt
from importlib.resources import files
from importlib.util import find_spec
lost = [name for name in json.loads(sys.argv[1]) if find_spec(name) is None]
recipes = len(list(files("vidapt.configs").rglob("*.yaml")))
print(json.dumps({"file": vidapt.__file__, "lost": lost, "recipes": recipes}))
"""


def test_every_module_and_recipe_resolves_from_anywhere(installed: Path, tmp_path: Path) -> None:
    tree = _tree()
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in tree if ".py" in name]
    modules = [name for name in modules if not name.endswith(".typed")]
    found = json.loads(_run(installed, "-c", RESOLVE, json.dumps(modules), cwd=tmp_path))
    assert str(ROOT) not in found["file"]
    assert found["lost"] == []
    assert found["recipes"] == sum(name.endswith(".yaml") for name in tree)


def test_command_is_installed_and_runs(installed: Path, tmp_path: Path) -> None:
    assert "adapt" in _run(installed, "-m", "vidapt.cli", "--help", cwd=tmp_path)


def test_new_file_is_seen_without_reinstalling(editable_install: Path, checkout: Path, tmp_path: Path) -> None:
    later = {
        f"{package}/{below}written_later": checkout / folder / below
        for folder, package in FOLDERS.items()
        for below in ("", "new_room/")
    }
    for folder in later.values():
        folder.mkdir(exist_ok=True)
        (folder / "written_later.py").touch()
    try:
        imports = ", ".join(name.replace("/", ".") for name in later)
        _run(editable_install, "-c", f"import {imports}", cwd=tmp_path)
    finally:
        for folder in later.values():
            (folder / "written_later.py").unlink()


FAKE = "where = 'the registry'\n"


@pytest.fixture
def rivals(installed: Path) -> Path:
    """Packages named ``datasets`` and ``kernels``, as the registry has them, installed beside vidapt."""
    site = next((installed.parents[1] / "lib").glob("python*/site-packages"))
    for name in ("datasets", "kernels"):
        (site / name).mkdir(exist_ok=True)
        (site / name / "__init__.py").write_text(FAKE)
    return installed


def test_packages_of_the_registry_are_not_shadowed(rivals: Path) -> None:
    """Even with the checkout first on the path, ``import datasets`` is not ours (accelerate imports it)."""
    code = (
        "import datasets, kernels, vidapt.kernels; print(datasets.where, kernels.where, list(vidapt.kernels.__path__))"
    )
    said = _run(rivals, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}", cwd=ROOT)
    assert said.startswith("the registry the registry ['")
    assert "site-packages/datasets" not in said


def test_checkout_on_the_path_still_has_its_rooms(rivals: Path) -> None:
    """``python -m`` and torchrun put the checkout first; it resolves its own folders through the bridge."""
    code = "import vidapt, vidapt.configs, vidapt.kernels, vidapt.datasets; print(vidapt.configs.__file__)"
    assert _run(rivals, "-c", code, cwd=ROOT).strip() == str(ROOT / "configs" / "__init__.py")


def test_nothing_installed_but_the_checkout(tmp_path: Path) -> None:
    """A checkout runs with only its dependencies, in a process whose path starts with it."""
    path = [str(ROOT), sysconfig.get_path("purelib")]
    code = f"import sys; sys.path[:0] = {path!r}; import vidapt.configs, vidapt.kernels, vidapt.datasets"
    environment = {"PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, env=environment, check=True, timeout=60)
