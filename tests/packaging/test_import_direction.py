"""Who may import whom: the rooms of the house stay separable."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"vidapt": "vidapt", "vidapt.kernels": "kernels", "vidapt.datasets": "datasets", "vidapt.configs": "configs"}

FOUNDATION = {"errors", "labels", "clip", "flow", "config"}
EVERYTHING = {"*"}
MAY_IMPORT = {
    **dict.fromkeys(FOUNDATION, FOUNDATION),
    "kernels": set(),
    "configs": set(),
    "mapping": {"labels", "config"},
    "io": {"clip", "labels"},
    "datasets": {"io", "clip", "labels", "mapping"},
    "transforms": {"io", "clip", "labels"},
    "models": {"kernels", "clip", "labels", "config"},
    "tracking": {"clip", "kernels", "flow", "config"},
    "adaptation": {"models", "kernels", "tracking", "clip", "labels", "flow", "config", "transforms"},
    "evaluation": {"clip", "labels", "io", "flow", "config"},
    "engine": {"clip", "config"},
    **dict.fromkeys(("segmenter", "jobs", "generation", "cli"), EVERYTHING),
}
ROOM_OF = {
    **dict.fromkeys(("recipe", "suite", "config_data", "config_method", "config_model", "config_suite"), "config"),
    **dict.fromkeys(("cli_bench", "cli_compare", "cli_data", "cli_text", "__main__"), "cli"),
    "hue": "transforms",
}
PUBLIC_SHORTCUTS = {("vidapt.clip", "vidapt.io.overlay"), ("vidapt.labels", "vidapt.mapping"), ("vidapt", "*")}
"""PanopticFrame.overlay, labels.space_map and the package's own names reach up, for the user's convenience."""


def _modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = _modules()


def _imported(node: ast.stmt) -> list[str]:
    """The modules of ours that one import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name if name in MODULES else str(node.module) for name in names]
    else:
        return []
    return [name for name in names if name.partition(".")[0] == "vidapt"]


def _all_imports(path: Path) -> set[str]:
    return {name for node in ast.walk(_parse(path)) if isinstance(node, ast.stmt) for name in _imported(node)}


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def _run_at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported: not in functions, not under TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _run_at_import(node.orelse)
            continue
        yield node
        for name in ("body", "orelse", "finalbody"):
            yield from _run_at_import(getattr(node, name, []))
        for handler in getattr(node, "handlers", []):
            yield from _run_at_import(handler.body)


def _room(module: str) -> str:
    name = module.split(".")[1] if "." in module else "vidapt"
    return ROOM_OF.get(name, name)


def _allowed(importer: str, imported: str) -> bool:
    here, there = _room(importer), _room(imported)
    if here == there or there == "vidapt" or {(importer, imported), (importer, "*")} & PUBLIC_SHORTCUTS:
        return True
    return MAY_IMPORT[here] == EVERYTHING or there in MAY_IMPORT[here] or (there == "errors" and here != "kernels")


def test_the_tree_is_found() -> None:
    assert {"vidapt", "vidapt.clip", "vidapt.cli", "vidapt.configs"} <= MODULES.keys()


def test_every_room_is_in_the_table() -> None:
    unknown = {_room(module) for module in MODULES} - MAY_IMPORT.keys() - {"vidapt"}
    assert not unknown, f"add to MAY_IMPORT what these may import: {sorted(unknown)}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_in_the_allowed_direction(module: str) -> None:
    wrong = sorted(name for name in _all_imports(MODULES[module]) if not _allowed(module, name))
    assert not wrong, f"{module} ({_room(module)}) may not import {', '.join(wrong)}"


def test_folders_are_never_imported_by_their_checkout_name() -> None:
    """``import kernels`` would make second module objects, or meet the package of that name from the registry."""
    for module, path in MODULES.items():
        for node in ast.walk(_parse(path)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            roots = {str(name).partition(".")[0] for name in names}
            assert not roots & {"kernels", "datasets", "configs", "tests"}, f"{module} imports {roots}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        module: {name for node in _run_at_import(_parse(path).body) for name in _imported(node)} & MODULES.keys()
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_the_rules_catch_what_they_should() -> None:
    assert not _allowed("vidapt.kernels.paste", "vidapt.errors")
    assert not _allowed("vidapt.engine.train", "vidapt.adaptation.step")
    assert not _allowed("vidapt.io.reader", "vidapt.jobs.train")
    assert _allowed("vidapt.jobs.train", "vidapt.engine.train")
    body = ast.parse("import a\nif TYPE_CHECKING:\n    import b\nelse:\n    import c\ndef f():\n    import d\n").body
    assert [ast.unparse(node) for node in _run_at_import(body) if isinstance(node, ast.Import)] == [
        "import a",
        "import c",
    ]
