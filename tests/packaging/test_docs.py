"""The documents say what the code does: data sets, benchmarks, metrics, commands, files and examples."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main

from vidapt.cli import app
from vidapt.config import Data, StoredData
from vidapt.config_data import DataSection
from vidapt.datasets.camvid import SPLIT_FPS
from vidapt.datasets.catalogue import CLASSES, find_dataset
from vidapt.evaluation.extra_metrics import METRICS
from vidapt.evaluation.scores import HEADLINE
from vidapt.jobs.data import sections_of
from vidapt.jobs.data_list import splits_text
from vidapt.jobs.data_open import section_for
from vidapt.labels import CITYSCAPES, LabelSpace, find_space, space_names
from vidapt.mapping import find_mapping, mapping_names
from vidapt.recipe import build_recipe, load_recipe, parse_yaml, recipe_names

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DATASETS, EVALUATION, DATA = (ROOT / "docs" / name for name in ("datasets.md", "evaluation.md", "data.md"))
BENCHMARKS = [name for name in recipe_names() if name.startswith("benchmarks/")]


def table_rows(document: Path, heading: str) -> dict[str, list[str]]:
    """Cells of the table that follows the head line ``| heading |``, by the code at the start of the first cell."""
    lines = document.read_text("utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        found = re.match(r"`([^`]+)`", cells[0])
        assert found is not None, line
        assert found[1] not in rows
        rows[found[1]] = cells
    assert {len(cells) for cells in rows.values()} == {lines[start].count("|") - 1}
    return rows


def blocks(document: Path, language: str) -> list[str]:
    """Contents of the code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text("utf-8"), re.M | re.S)


def kinds() -> list[str]:
    """The kinds of data that a recipe may name."""
    sections: tuple[type[DataSection], ...] = get_args(get_args(Data)[0])
    return [section.model_fields["kind"].default for section in sections]


def test_every_kind_of_data_is_in_the_table() -> None:
    rows = table_rows(DATASETS, "set")
    assert sorted(rows) == sorted(kinds())
    assert set(CLASSES) < set(rows)


@pytest.mark.parametrize("name", CLASSES)
def test_a_row_says_what_the_card_says(name: str) -> None:
    card = find_dataset(name).card
    head, splits, layout, _, _, checked, terms = table_rows(DATASETS, "set")[name]
    assert head == f"`{card.name}`<br>{card.title}; {card.labels}"
    assert splits == splits_text(card)
    assert layout == "<br>".join(f"`{line}`" for line in card.layout.splitlines())
    assert checked == card.checked
    assert terms == f"{card.licence}<br>{card.home}"


def space_text(name: str) -> str:
    """How the table describes a label space."""
    space = find_space(name)
    classes = [label for label in space.classes if not label.is_void]
    lost = len(find_mapping(space, CITYSCAPES).ignored)
    text = f"`{name}`: {len(classes)} classes, {sum(label.is_thing for label in classes)} things"
    return f"{text}, {lost} not in Cityscapes" if lost else text


@pytest.mark.parametrize("name", kinds())
def test_a_row_counts_classes_and_names_void_ones(name: str) -> None:
    cells = table_rows(DATASETS, "set")[name]
    named = re.findall(r"`([^`]+)`: \d+ classes", cells[3])
    own = getattr(find_dataset(name), "space", None) if name in CLASSES else None
    assert named or name in ("coco_panoptic", "labelled_folder", "videos")
    assert own in (None, *named) or own not in space_names()
    assert cells[3].split("<br>")[: len(named)] == [space_text(space) for space in named]
    void = {label.name for space in named for label in find_space(space).classes if label.is_void}
    ignored = cells[4] if "As cityscapes." not in cells[4] else table_rows(DATASETS, "set")["cityscapes"][4]
    assert {label for label in void if label not in ignored} == set()


def test_the_row_of_camvid() -> None:
    cells = table_rows(DATASETS, "set")["camvid"]
    assert cells[1] == ", ".join(SPLIT_FPS)
    assert cells[5] == "checked on real files"


def test_the_page_says_which_mappings_are_our_own() -> None:
    folder = ROOT / "configs" / "mappings"
    own = {name for name in mapping_names() if re.search("our own", (folder / f"{name}.yaml").read_text(), re.I)}
    text = DATASETS.read_text("utf-8").partition("### What is our own")[2].partition("\n### ")[0]
    assert {name for name in mapping_names() if f"`{name}`" in text} == own != set()


def test_every_benchmark_is_in_the_table() -> None:
    assert [f"benchmarks/{name}" for name in table_rows(DATASETS, "recipe")] == BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_row_says_what_the_benchmark_does(name: str) -> None:
    recipe = load_recipe(name)
    _, route, classes, training, scored, margins, notes = table_rows(DATASETS, "recipe")[name.partition("/")[2]]
    assert recipe.target is not None
    assert recipe.evaluation is not None
    target, judged = recipe.target.kind, recipe.evaluation.kind
    source = " + ".join(data.kind for data in sections_of(recipe.source))
    assert route == f"{source} to {target}" + (f", scored on {judged}" if judged != target else "")
    space = find_space(recipe.scoring.labels or recipe.labels)
    assert classes == f"{len(find_space(recipe.labels))} / {len(recipe.scoring.classes or space)}"
    sizes = dict.fromkeys(map(size_text, sections_of(recipe.source)))
    crop = "{}x{}".format(*recipe.training.crop)
    assert training == f"source {' + '.join(sizes)}, target {size_text(recipe.target)}; {crop}"
    height = f"{recipe.inference.height} rows" if recipe.inference.height else "as scored"
    assert scored == f"{height}; {size_text(recipe.evaluation).replace('stored', 'labelled')}"
    assert margins == (", ".join(map(str, recipe.target.ignored_rows)) if any(recipe.target.ignored_rows) else "none")
    assert ("own" in recipe.scoring.protocol or "street_world" in name) == bool(re.match(r"(\*\*)?Our own", notes))


def size_text(data: Any) -> str:
    """How the table says to which size a data section scales."""
    if getattr(data, "fit", None):
        return "in {}x{}".format(*data.fit)
    height = getattr(data, "height", None)
    return f"{height} rows" if height else "as stored"


def test_every_metric_is_described() -> None:
    text = EVALUATION.read_text("utf-8")
    assert [name for name in (*HEADLINE, *METRICS) if f"`{name}`" not in text] == []


def test_the_parity_tests_are_listed() -> None:
    listed = set(re.findall(r"`tests/parity/(\w+\.py)`", EVALUATION.read_text("utf-8")))
    assert listed == {path.name for path in (ROOT / "tests" / "parity").glob("test_*.py")}


def commands() -> Iterator[tuple[str, str]]:
    """Every command line in the code blocks, with the document that it stands in."""
    for document in DOCUMENTS:
        for block in (*blocks(document, "bash"), *blocks(document, "")):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"(\w+=\S+ )*vidapt ", line):
                    yield document.name, line


def parse(line: str) -> tuple[list[str], dict[str, Any]]:
    """Sub-command and parameters of a command line; raises what the command line would refuse it with."""
    words = shlex.split(line, comments=True)
    words = words[words.index("vidapt") + 1 :]
    command, path = typer.main.get_command(app), ["vidapt"]
    while hasattr(command, "commands"):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    return path[1:], command.make_context(" ".join(path), words).params


@pytest.mark.parametrize(("document", "line"), list(commands()))
def test_a_command_is_understood(document: str, line: str) -> None:
    path, given = parse(line)
    if path[0] == "data" and "name" in given:
        section = section_for(given["name"], given["root"], given["split"], given["options"] or ())
        assert isinstance(section, StoredData)
        assert section.split in find_dataset(section.kind).card.splits
        assert given.get("labels") in (None, *space_names())
    elif given.get("config") is not None:
        recipe = load_recipe(given["config"], given["overrides"] or ())
        assert path[0] != "adapt" or recipe.method is not None


def test_commands_are_found_in_every_document_that_has_some() -> None:
    assert {document for document, _ in commands()} >= {"README.md", "data.md", "datasets.md", "evaluation.md"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("vidapt data check cityscapes --rot x", "No such option"),
        ("vidapt evaluate demo --jobs many", "valid integer"),
        ("vidapt data check", "[Mm]issing"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        parse(line)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    named = re.findall(r"`((?:tests|configs|vidapt|datasets|docs|kernels)/[\w./-]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_imports_of_the_evaluation_page() -> None:
    (example,) = blocks(EVALUATION, "python")
    found: dict[str, Any] = {}
    exec(example, found)
    assert {"VideoEvaluator", "count_matches", "CocoAveragePrecision"} <= set(found)


def test_yaml_of_the_data_page() -> None:
    classes, recipe, mapping = (parse_yaml(text, "docs/data.md") for text in blocks(DATA, "yaml"))
    assert [label.is_thing for label in LabelSpace.from_dict(classes).classes] == [False, True]
    built = build_recipe(recipe, "docs/data.md")
    assert [data.kind for data in sections_of(built.source)] == ["synthia", "gta5"]
    assert {mapping["source"], mapping["target"]} <= set(space_names())
    shipped = find_mapping(find_space(mapping["source"]), find_space(mapping["target"])).names
    assert all(shipped[word] == name for name, words in mapping["classes"].items() for word in words)
    assert not set(mapping["ignored"]) & set(shipped)
