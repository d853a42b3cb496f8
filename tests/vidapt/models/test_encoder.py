import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from vidapt.config import EncoderConfig
from vidapt.errors import CheckpointError, ConfigError
from vidapt.models import encoder_weights
from vidapt.models.encoder import Encoder, build_encoder

FRAMES = torch.linspace(-2, 2, 2 * 3 * 45 * 70).view(2, 3, 45, 70).sin()


def seeded(name: str, **options) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name=name, **options)).eval()


def mit_state(encoder: Encoder) -> dict[str, torch.Tensor]:
    """timm's full-model names of the encoder's weights."""
    return {key.replace("stages_", "stages."): value.clone() for key, value in encoder.body.state_dict().items()}


def official_name(key: str) -> str:
    key = re.sub(r"^patch_embed\.", "patch_embed1.", key)
    key = re.sub(r"^stages\.(\d)\.downsample\.", lambda m: f"patch_embed{int(m[1]) + 1}.", key)
    key = re.sub(r"^stages\.(\d)\.blocks\.", lambda m: f"block{int(m[1]) + 1}.", key)
    key = re.sub(r"^stages\.(\d)\.norm\.", lambda m: f"norm{int(m[1]) + 1}.", key)
    return key.replace("mlp.dwconv.", "mlp.dwconv.dwconv.")


def old_hub_name(key: str) -> str:
    key = re.sub(r"^patch_embed\.norm", "patch_embeddings.0.layer_norm", key)
    key = re.sub(r"^patch_embed\.proj", "patch_embeddings.0.proj", key)
    key = re.sub(r"^stages\.(\d)\.downsample\.norm", r"patch_embeddings.\1.layer_norm", key)
    key = re.sub(r"^stages\.(\d)\.downsample\.proj", r"patch_embeddings.\1.proj", key)
    key = re.sub(r"^stages\.(\d)\.norm", r"layer_norm.\1", key)
    key = re.sub(r"^stages\.(\d)\.blocks\.", r"block.\1.", key)
    key = re.sub(r"\.norm([12])\.", r".layer_norm_\1.", key)
    for ours, theirs in {
        "attn.q.": "attention.self.query.",
        "attn.key.": "attention.self.key.",
        "attn.value.": "attention.self.value.",
        "attn.sr.": "attention.self.sr.",
        "attn.norm.": "attention.self.layer_norm.",
        "attn.proj.": "attention.output.dense.",
        "mlp.fc1.": "mlp.dense1.",
        "mlp.fc2.": "mlp.dense2.",
        "mlp.dwconv.": "mlp.dwconv.dwconv.",
    }.items():
        key = key.replace(ours, theirs)
    return f"segformer.encoder.{key}"


def new_hub_name(key: str) -> str:
    key = re.sub(r"^patch_embed\.norm", "stages.0.patch_embeddings.layer_norm", key)
    key = re.sub(r"^patch_embed\.proj", "stages.0.patch_embeddings.proj", key)
    key = re.sub(r"downsample\.norm", "patch_embeddings.layer_norm", key)
    key = re.sub(r"downsample\.proj", "patch_embeddings.proj", key)
    key = re.sub(r"^(stages\.\d)\.norm\.", r"\1.layer_norm.", key)
    for ours, theirs in {
        ".norm1.": ".layernorm_before.",
        ".norm2.": ".layernorm_after.",
        "attn.q.": "attention.q_proj.",
        "attn.key.": "attention.k_proj.",
        "attn.value.": "attention.v_proj.",
        "attn.proj.": "attention.o_proj.",
        "attn.sr.": "attention.sequence_reduction.sequence_reduction.",
        "attn.norm.": "attention.sequence_reduction.layer_norm.",
        "mlp.dwconv.": "mlp.dwconv.dwconv.",
    }.items():
        key = key.replace(ours, theirs)
    return f"segformer.{key}"


def split_key_value(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    parts = {}
    for key, value in state.items():
        if ".attn.kv." in key:
            parts[key.replace(".kv.", ".key.")], parts[key.replace(".kv.", ".value.")] = value.chunk(2)
        else:
            parts[key] = value
    return {key: value.clone() for key, value in parts.items()}


CONVENTIONS = {
    "timm": (lambda key: key, False, "head.weight"),
    "official": (official_name, False, "head.weight"),
    "official with prefix": (lambda key: f"backbone.{official_name(key)}", False, "backbone.head.weight"),
    "older hub": (old_hub_name, True, "classifier.weight"),
    "newer hub": (new_hub_name, True, "classifier.weight"),
}


@pytest.fixture(scope="module")
def source() -> Encoder:
    return seeded("mit_b0")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_mit_weights_load_from_every_published_convention(source, tmp_path, convention, suffix):
    rename, split, head = CONVENTIONS[convention]
    state = split_key_value(mit_state(source)) if split else mit_state(source)
    published = {rename(key): value for key, value in state.items()} | {head: torch.zeros(10, 256)}
    path = tmp_path / f"mit{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": published} if convention == "timm" else published, path)
    else:
        save_file(published, path)
    torch.manual_seed(1)
    loaded = build_encoder(EncoderConfig(name="mit_b0", pretrained=path)).eval()
    with torch.no_grad():
        for ours, theirs in zip(loaded(FRAMES), source(FRAMES), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext", "test_efficientnet"])
def test_a_full_timm_model_loads_into_the_feature_extractor(tmp_path, name):
    torch.manual_seed(3)
    full = timm.create_model(name)
    save_file(full.state_dict(), tmp_path / "full.safetensors")
    encoder = seeded(name, pretrained=tmp_path / "full.safetensors")
    weights = full.state_dict()
    for key, value in encoder.body.state_dict().items():
        given = weights[key] if key in weights else weights[re.sub(r"^([a-z]+)_(\d)", r"\1.\2", key)]
        assert torch.equal(value, given), key


def test_weights_of_another_size_are_refused_with_names(source, tmp_path):
    state = {official_name(key): value for key, value in mit_state(source).items()}
    torch.save(state, tmp_path / "b0.pth")
    with pytest.raises(CheckpointError, match=r"mit_b1.*another architecture.*of another shape: .*patch_embed"):
        build_encoder(EncoderConfig(name="mit_b1", pretrained=tmp_path / "b0.pth"))
    state["block1.7.norm1.weight"] = state.pop("block1.0.norm1.weight")
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(
        CheckpointError,
        match=r"1 missing: stages_0.blocks.0.norm1.weight; 1 unexpected: stages_0.blocks.7.norm1.weight",
    ):
        build_encoder(EncoderConfig(name="mit_b0", pretrained=tmp_path / "odd.pth"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pth", b""),
        ("b.pth", b"no weights"),
        ("c.safetensors", b""),
        ("d.safetensors", b"\x08\0\0\0\0\0\0\0{}"),
        ("e.pth", None),
    ],
)
def test_unreadable_weights_give_one_clear_error(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        build_encoder(EncoderConfig(name="mit_b0", pretrained=tmp_path / name))


def test_a_file_without_a_table_of_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3, "history": [1, 2]}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no table of tensors"):
        build_encoder(EncoderConfig(name="mit_b0", pretrained=tmp_path / "x.pth"))


def test_pretrained_true_downloads_mit_weights_through_timm(source, monkeypatch):
    asked = []

    def fake(repository: str, filename: str) -> dict[str, torch.Tensor]:
        asked.append((repository, filename))
        return {official_name(key): value for key, value in mit_state(source).items()}

    monkeypatch.setattr(encoder_weights, "load_state_dict_from_hf", fake)
    loaded = build_encoder(EncoderConfig(name="mit_b0", pretrained=True)).eval()
    assert asked == [("smp-hub/mit_b0.imagenet", "model.safetensors")]
    assert torch.equal(
        loaded.body.state_dict()["stages_3.norm.weight"], source.body.state_dict()["stages_3.norm.weight"]
    )


def test_a_failed_download_of_a_timm_model_says_what_to_do():
    with pytest.raises(CheckpointError, match=r"'test_resnet' cannot be downloaded.*local \.pth"):
        build_encoder(EncoderConfig(name="test_resnet", pretrained=True))


def test_timm_models_are_downloaded_through_timm(monkeypatch):
    create = timm.create_model
    asked = []

    def fake(name: str, *, pretrained: bool, **options: object) -> torch.nn.Module:
        asked.append(pretrained)
        model = create(name, pretrained=False, **options)
        torch.nn.init.constant_(next(model.parameters()), 7.0 if pretrained else 0.0)
        return model

    monkeypatch.setattr(timm, "create_model", fake)
    encoder = build_encoder(EncoderConfig(name="test_resnet", pretrained=True))
    assert next(encoder.parameters()).unique().item() == 7.0
    build_encoder(EncoderConfig(name="test_resnet"))
    assert asked == [False, True, False]


def test_a_failed_download_says_what_to_do(monkeypatch):
    def fail(repository: str, filename: str) -> dict[str, torch.Tensor]:
        raise ConnectionError("offline")

    monkeypatch.setattr(encoder_weights, "load_state_dict_from_hf", fail)
    with pytest.raises(CheckpointError, match=r"cannot be downloaded.*local \.pth"):
        build_encoder(EncoderConfig(name="mit_b0", pretrained=True))


@pytest.mark.parametrize(
    ("name", "options", "channels"),
    [
        ("mit_b0", {}, (32, 64, 160, 256)),
        ("resnet10t", {}, (64, 128, 256, 512)),
        ("test_convnext", {}, (24, 32, 48, 64)),
        ("test_efficientnet", {}, (24, 32, 48, 64)),
        ("test_mambaout", {}, (16, 32, 48, 64)),
        (
            "swin_tiny_patch4_window7_224",
            {"strict_img_size": False, "embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]},
            (24, 48, 96, 192),
        ),
    ],
)
@pytest.mark.parametrize("size", [(64, 96), (45, 70), (1, 1)])
def test_every_encoder_gives_a_pyramid_of_any_size(name, options, channels, size):
    encoder = seeded(name, options=options)
    maps = encoder(torch.zeros(1, 3, *size))
    assert encoder.channels == channels
    assert encoder.strides == (4, 8, 16, 32)
    expected = [
        (1, count, -(-size[0] // stride), -(-size[1] // stride))
        for count, stride in zip(channels, encoder.strides, strict=True)
    ]
    assert [tuple(level.shape) for level in maps] == expected


def test_padding_does_not_change_frames_that_fit():
    encoder = seeded("test_convnext")
    frames = FRAMES[:, :, :32, :64]
    for ours, theirs in zip(encoder(frames), encoder.body(frames), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("size", "parameters"), [(0, 3_319_392), (1, 13_151_424), (2, 24_196_288), (5, 81_443_008)])
def test_mit_has_the_published_number_of_parameters(size, parameters):
    with torch.device("meta"):
        body = timm.create_model(f"pvt_v2_b{size}", features_only=True, mlp_ratios=(4, 4, 4, 4))
    assert sum(value.numel() for value in body.parameters()) == parameters
    if size == 0:
        assert sum(value.numel() for value in seeded("mit_b0").parameters()) == parameters


def test_drop_path_reaches_the_model():
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="mit_b0", drop_path=0.5)).train()
    assert not torch.equal(encoder(FRAMES)[3], encoder(FRAMES)[3])
    encoder = build_encoder(EncoderConfig(name="mit_b0")).train()
    assert torch.equal(encoder(FRAMES)[3], encoder(FRAMES)[3])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "mit_b9"}, r"'mit_b9' is not known to timm; nearest names: .*mit_b"),
        ({"name": "resnet18x"}, "resnet18"),
        ({"name": "test_vit"}, r"strides \[16, 16, 16\]; needed are four"),
        ({"name": "test_resnet", "options": {"wings": 2}}, "test_resnet.*cannot be built.*wings"),
        ({"name": "swin_tiny_patch4_window7_224"}, "any size.*strict_img_size"),
    ],
)
def test_unusable_encoders_are_refused_clearly(config, message):
    with pytest.raises(ConfigError, match=message):
        build_encoder(EncoderConfig(**config))
