"""``vidapt text build``: the rows against open_clip itself, what is kept, what is built again, and every refusal."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
import typer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidapt import cli
from vidapt.cli_text import text
from vidapt.errors import ConfigError, InputError, UserError
from vidapt.jobs import text_build
from vidapt.jobs.text_build import TextOptions, run_text_build
from vidapt.jobs.text_encoder import find_clip_weights, load_text_encoder
from vidapt.jobs.text_prompts import read_prompts
from vidapt.labels import LabelSpace, find_space
from vidapt.models.text import TextTable, load_text_table, read_text_table

ROOT = Path(__file__).parents[3]
TINY, CUSTOM = "tiny-clip", "tiny-custom-clip"
"""Models whose text tower is 32 wide and whose image space has 24 dimensions."""
CLASSES = (
    "name: streets\nclasses:\n- {name: road}\n- {name: car, thing: true, synonyms: [auto, vehicle]}\n- {name: sky}\n"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of both models, which open_clip then knows by name."""
    folder = tmp_path_factory.mktemp("clip")
    vision = {"image_size": 64, "layers": 1, "width": 32, "patch_size": 32, "head_width": 16}
    tower = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    found = {}
    for seed, name in enumerate((TINY, CUSTOM)):
        config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": tower, "custom_text": name == CUSTOM}
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.manual_seed(seed)
        found[name] = folder / f"{name}.safetensors"
        save_file(open_clip.create_model(name).state_dict(), found[name])
    return found


@pytest.fixture
def labels(tmp_path: Path) -> str:
    (tmp_path / "classes.yaml").write_text(CLASSES)
    return str(tmp_path / "classes.yaml")


@pytest.fixture
def build(weights: dict[str, Path], labels: str, tmp_path: Path) -> Callable[..., TextTable]:
    """Build with bare names into out.safetensors unless a test says otherwise."""

    def run(model: str = TINY, pretrained: str | None = None, prompts: str = "name", **options: Any) -> TextTable:
        given = pretrained or str(weights[model])
        chosen = TextOptions(**options)
        return run_text_build(labels, model, given, out=tmp_path / "out.safetensors", prompts=prompts, options=chosen)

    return run


def features(model: str, weights: dict[str, Path], texts: list[str]) -> Tensor:
    """Features in the image space, by open_clip alone."""
    network = open_clip.create_model(model, pretrained=str(weights[model])).eval()
    with torch.no_grad():
        return network.encode_text(open_clip.get_tokenizer(model)(texts))


def projection(model: str, weights: dict[str, Path]) -> Tensor:
    network = open_clip.create_model(model, pretrained=str(weights[model]))
    return (network if model == TINY else network.text).text_projection.detach()


# --- the rows


@pytest.mark.parametrize("model", [TINY, CUSTOM])
def test_rows_are_means_over_the_prompts_before_the_projection(
    build: Callable[..., TextTable], weights: dict[str, Path], model: str
) -> None:
    table = build(model, prompts="simple")
    assert table.embeddings.shape == (4, 32)
    assert table.names == ("road", "car", "sky")
    templates = open_clip.SIMPLE_IMAGENET_TEMPLATES
    expected = [features(model, weights, [fill(name) for fill in templates]).mean(0) for name in table.names]
    expected.append(features(model, weights, [""])[0])
    assert torch.allclose(table.embeddings @ projection(model, weights), torch.stack(expected), atol=1e-5)
    assert not torch.allclose(table.embeddings.norm(dim=1), torch.ones(4), atol=0.1)
    assert (
        table.source == f"{model} {model}.safetensors, 7 prompts (simple), before the text projection, not normalised"
    )


def test_projected_rows(build: Callable[..., TextTable], weights: dict[str, Path]) -> None:
    table = build(projected=True)
    assert torch.allclose(table.embeddings, features(TINY, weights, ["road", "car", "sky", ""]), atol=1e-5)
    assert table.source.endswith("1 prompt (name), after the text projection, not normalised")


def test_normalised_rows(build: Callable[..., TextTable], weights: dict[str, Path]) -> None:
    table = build(prompts="simple", projected=True, normalise=True)
    prompts = [fill("car") for fill in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    mean = F.normalize(features(TINY, weights, prompts), dim=1).mean(0)
    assert torch.allclose(table.embeddings[1], mean / mean.norm(), atol=1e-5)
    assert torch.allclose(table.embeddings.norm(dim=1), torch.ones(4), atol=1e-5)


def test_synonyms_are_averaged(build: Callable[..., TextTable], weights: dict[str, Path]) -> None:
    table = build(projected=True, synonyms=True)
    assert torch.allclose(table.embeddings[1], features(TINY, weights, ["car", "auto", "vehicle"]).mean(0), atol=1e-5)
    assert torch.allclose(table.embeddings[0], features(TINY, weights, ["road"])[0], atol=1e-5)
    assert "with synonyms" in table.source


def test_a_shipped_label_space_with_all_templates(weights: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "cityscapes.safetensors"
    run_text_build("cityscapes", TINY, str(weights[TINY]), out=out)
    space = find_space("cityscapes")
    assert load_text_table(out, space).embeddings.shape == (20, 32)
    turned = LabelSpace("turned", space.classes[::-1])
    whole, other = load_text_table(out, space).embeddings, load_text_table(out, turned).embeddings
    assert torch.equal(whole[:-1].flip(0), other[:-1])
    assert torch.equal(whole[-1], other[-1])
    assert "80 prompts (imagenet)" in read_text_table(out).source


def test_only_the_text_tower_is_kept(weights: dict[str, Path]) -> None:
    for model in (TINY, CUSTOM):
        found = find_clip_weights(model, str(weights[model]))
        encode: Any = load_text_encoder(found, projected=False, device=torch.device("cpu"))
        assert not [name for name, _ in encode.args[0].named_parameters() if name.startswith("visual")]
        assert encode(["a", "b"]).shape == (2, 32)
        assert not encode(["a"]).requires_grad


def test_the_header_says_where_the_rows_come_from(build: Callable[..., TextTable], tmp_path: Path) -> None:
    table = build(normalise=True)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        header = file.metadata()
    assert header["model"] == TINY
    assert header["pretrained"].startswith("sha256 ")
    assert json.loads(header["options"]) == {"normalise": True, "projected": False, "synonyms": False}
    assert header["hash"] == table.hash
    assert len(header["templates"]) == 64
    assert str(tmp_path) not in "".join(header.values())


# --- what is kept and what is built again


def no_loading(*_: Any, **__: Any) -> None:
    raise AssertionError("the model was loaded")


def test_the_same_table_is_not_built_twice(
    build: Callable[..., TextTable],
    weights: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = build()
    assert "wrote" in capsys.readouterr().out
    monkeypatch.setattr(text_build, "load_text_encoder", no_loading)
    copied = tmp_path / "renamed.safetensors"
    copied.write_bytes(weights[TINY].read_bytes())
    for pretrained in (weights[TINY], copied):
        before = (tmp_path / "out.safetensors").stat().st_mtime_ns
        assert torch.equal(build(pretrained=str(pretrained)).embeddings, first.embeddings)
        assert (tmp_path / "out.safetensors").stat().st_mtime_ns == before
        assert "out.safetensors is up to date: 3 classes and void, 32 values each" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["prompts", "normalise", "projected", "synonyms", "model", "content", "names"])
def test_another_table_is_built_again(
    build: Callable[..., TextTable],
    weights: dict[str, Path],
    labels: str,
    tmp_path: Path,
    change: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = build()
    other = tmp_path / "weights.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(weights[TINY]).items()}, other)
    if change == "names":
        Path(labels).write_text(CLASSES.replace("sky", "heaven"))
    options: dict[str, dict[str, Any]] = {
        "prompts": {"prompts": "single"},
        "model": {"model": CUSTOM},
        "content": {"pretrained": str(other)},
        "names": {},
    }
    second = build(**options.get(change, {change: True}))
    assert second.hash != first.hash
    assert read_text_table(tmp_path / "out.safetensors").hash == second.hash
    assert "was made from other classes, prompts, weights or options" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"my thesis", None], ids=["text", "checkpoint"])
def test_other_files_are_not_overwritten(
    build: Callable[..., TextTable], tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.safetensors"
    save_file({"weight": torch.ones(3)}, out, {"model": "{}"})
    if content is not None:
        out.write_bytes(content)
    before = out.read_bytes()
    monkeypatch.setattr(text_build, "load_text_encoder", no_loading)
    with pytest.raises(InputError, match="exists and is no text table that can be read: remove it or give another"):
        build()
    assert out.read_bytes() == before


# --- prompts


def test_prompts() -> None:
    assert len(set(read_prompts("imagenet"))) == 80
    assert len(set(read_prompts("simple"))) == 7
    assert read_prompts("single") == ("a photo of a {}.",)
    assert read_prompts("name") == ("{}",)
    assert all(template.count("{}") == 1 for name in ("imagenet", "simple") for template in read_prompts(name))


def test_prompts_of_a_file(build: Callable[..., TextTable], weights: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- a {} at night\n- '{}: {0}'\n")
    table = build(prompts=str(path), projected=True)
    expected = features(TINY, weights, ["a sky at night", "sky: {0}"]).mean(0)
    assert torch.allclose(table.embeddings[2], expected, atol=1e-5)
    assert "2 prompts (mine.yaml)" in table.source


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("templates: []", "must be a list of templates"),
        ("[]", "must be a list of templates"),
        ("- a photo", "a template has one {} for the name of the class, got 'a photo'"),
        ("- '{} and {}'", "got '{} and {}'"),
        ("- 3", "got 3"),
        ("- [", "is not valid YAML"),
    ],
)
def test_bad_prompts(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        read_prompts(str(path))
    assert said in str(raised.value)
    with pytest.raises(ConfigError, match="no prompts 'imagenets'; use imagenet, simple, single, name, or a YAML file"):
        read_prompts("imagenets")


# --- models and weights


def test_unknown_model_and_tags() -> None:
    with pytest.raises(InputError, match=r"no model 'ViT-L-14-quickgel'; nearest: ViT-L-14-quickgelu"):
        find_clip_weights("ViT-L-14-quickgel", "openai")
    with pytest.raises(InputError, match=r"no model 'zzz'; open_clip\.list_models"):
        find_clip_weights("zzz", "openai")
    with pytest.raises(InputError, match="weights 'opnai' of ViT-L-14-quickgelu are neither a file nor a tag; its"):
        find_clip_weights("ViT-L-14-quickgelu", "opnai")
    with pytest.raises(InputError, match="neither a file nor a tag; it has no tags"):
        find_clip_weights("ViT-S-16", "/no/such/file.pt")


def test_tags_need_no_network_to_be_found() -> None:
    found = find_clip_weights("ViT-L/14-quickgelu", "openai")
    assert (found.model, found.pretrained, found.key, found.path) == (
        "ViT-L-14-quickgelu",
        "openai",
        "tag openai",
        None,
    )
    assert find_clip_weights("ViT-B-32", "laion2b-s34b-b79k").key == "tag laion2b_s34b_b79k"


def test_weights_of_another_activation() -> None:
    with pytest.raises(InputError, match="with QuickGELU, not ViT-L-14's GELU; use --model ViT-L-14-quickgelu"):
        find_clip_weights("ViT-L-14", "openai")
    assert find_clip_weights("ViT-L-14", "laion2b_s32b_b82k").key == "tag laion2b_s32b_b82k"


@pytest.fixture
def tagged(monkeypatch: pytest.MonkeyPatch, weights: dict[str, Path]) -> None:
    """A tag of the tiny model, and a download that has arrived."""
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, TINY, {"random": {"file": str(weights[TINY])}})


@pytest.mark.usefixtures("tagged")
def test_a_tag(build: Callable[..., TextTable], weights: dict[str, Path]) -> None:
    by_tag = build(pretrained="random", projected=True)
    assert torch.allclose(by_tag.embeddings[0], features(TINY, weights, ["road"])[0], atol=1e-5)
    assert by_tag.source.startswith(f"{TINY} random, ")


@pytest.mark.usefixtures("tagged")
def test_a_failed_download(
    build: Callable[..., TextTable], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(InputError) as raised:
        build(pretrained="random")
    assert str(raised.value) == (
        f"weights 'random' of {TINY} cannot be downloaded: no route to host; download them where there is a network "
        "and give --pretrained FILE"
    )
    assert not (tmp_path / "out.safetensors").exists()
    assert caplog.text == ""


def test_weights_that_do_not_fit(
    build: Callable[..., TextTable], weights: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_text("nothing")
    with pytest.raises(InputError, match=rf"weights {bad} cannot be loaded into {TINY}: "):
        build(pretrained=str(bad))
    state = load_file(weights[TINY])
    save_file({name: value for name, value in state.items() if name != "ln_final.weight"}, bad)
    with pytest.raises(InputError, match=r"cannot be loaded into .*Missing key.*ln_final\.weight"):
        build(pretrained=str(bad))
    save_file(state | {"ln_final.weight": torch.full((32,), torch.nan)}, bad)
    with pytest.raises(InputError, match=r"weights 'bad\.safetensors' of tiny-clip give values that are not finite"):
        build(pretrained=str(bad))
    assert not (tmp_path / "out.safetensors").exists()
    assert caplog.text == ""


def test_long_reasons_are_cut(build: Callable[..., TextTable], tmp_path: Path) -> None:
    save_file({"nothing": torch.zeros(1)}, tmp_path / "bad.safetensors")
    with pytest.raises(InputError) as raised:
        build(pretrained=str(tmp_path / "bad.safetensors"))
    assert str(raised.value).endswith("...")
    assert len(str(raised.value)) < 400 + len(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_without_open_clip(build: Callable[..., TextTable], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="text tables need open_clip, which is missing: pip install open_clip_torch"):
        build()


# --- the command line


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vidapt"])
    monkeypatch.delenv(cli.DEBUG, raising=False)


def run(*arguments: str) -> int:
    """Run ``vidapt text`` in this process and return its exit code."""
    sys.argv = ["vidapt", "text", *arguments]
    with pytest.raises(SystemExit) as left:
        cli.main()
    code = left.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def test_the_command(weights: dict[str, Path], labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    where = ("build", "--labels", labels, "--model", TINY, "--pretrained", str(weights[TINY]), "--out", str(out))
    assert run(*where, "--prompts", "single", "--normalise", "--projected", "--synonyms", "--device", "cpu") == 0
    said = capsys.readouterr()
    assert f"wrote {out}: 3 classes and void, 24 values each, mean length 1; {TINY}" in said.out
    assert f"use it with --set method.text_alignment.table={out}" in said.out
    assert said.err == ""
    assert run(*where, "--prompts", "single", "--no-normalise") == 0
    assert read_text_table(out).embeddings.shape == (4, 32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--labels", "cityscape"), "error: no label space 'cityscape'; use "),
        (("--model", "tiny-clap"), f"error: open_clip has no model 'tiny-clap'; nearest: {TINY}"),
        (("--pretrained", "nothing.pt"), f"error: weights 'nothing.pt' of {TINY} are neither a file nor a tag"),
        (("--prompts", "many"), "error: no prompts 'many'; use imagenet, simple, single, name, or a YAML file"),
        (("--device", "abacus"), "error: device 'abacus' is not known; use "),
        (("--out", str(ROOT)), f"error: {ROOT} exists and is no text table"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(
    weights: dict[str, Path],
    labels: str,
    tmp_path: Path,
    change: tuple[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"--labels": labels, "--model": TINY, "--pretrained": str(weights[TINY]), "--out": str(tmp_path / "o.st")}
    options = given | dict([change])
    assert run("build", *(part for pair in options.items() for part in pair)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("left_out", ["--labels", "--model", "--pretrained", "--out"])
def test_every_input_must_be_named(left_out: str) -> None:
    given = {"--labels": "cityscapes", "--model": "m", "--pretrained": "p", "--out": "o"}
    del given[left_out]
    assert run("build", *(part for pair in given.items() for part in pair)) == 2


def test_every_option_is_described() -> None:
    command = typer.main.get_command(text).commands["build"]  # type: ignore[attr-defined]
    assert command.help
    assert not [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"]], ids=" ".join)
def test_help_needs_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from vidapt.cli import main\n"
        f"sys.argv = ['vidapt', 'text', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert not left.code, left.code\n"
        "print('heavy:', sorted({'torch', 'open_clip', 'numpy', 'timm', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
