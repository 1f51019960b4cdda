"""Encoders from published `.pt` files give the numbers of the published code."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from wm_plan.world_model import load_encoder
from wm_plan.world_model.encoders.checkpoint import encoder_tensors, read_checkpoint
from wm_plan.world_model.encoders.published import PublishedEncoder
from wm_plan.world_model.encoders.vjepa2 import build_vjepa2

DATA = Path(__file__).resolve().parents[2] / "data"
AC = DATA / "vjepa2_ac" / "vjepa2_ac_tiny.pt"
V21 = DATA / "vjepa2_1" / "vjepa2_1_vitb_dist_vitG_384.pt"
V1 = DATA / "vjepa1" / "vitl16.pth.tar"
OPTIONS = {AC: {}, V21: {}, V1: {"num_frames": 4}}


def load(path: Path, **options) -> PublishedEncoder:
    return load_encoder(path, num_heads=2, image_size=64, **OPTIONS.get(path, {}), **options)


def numbers(path: Path, name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(path)[name])


def clip(path: Path, name: str) -> torch.Tensor:
    """In our order of axes: (batch, frame, channel, height, width)."""
    return numbers(path, name).transpose(1, 2)


def test_v_jepa_2_ac_gives_the_published_numbers() -> None:
    truth = AC.with_name("vjepa2_ac_tiny_io.npz")
    tokens = load(AC)(clip(truth, "clip"))
    torch.testing.assert_close(tokens, numbers(truth, "encoder_tokens"), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("clip", "tokens"),
        ("clip_8frames", "tokens_8frames"),
        ("clip_nonsquare", "tokens_nonsquare"),
        ("image", "tokens_image"),
    ],
)
def test_v_jepa_2_1_gives_the_published_numbers(given: str, expected: str) -> None:
    truth = V21.with_name("truth.npz")
    tokens = load(V21)(clip(truth, given))
    torch.testing.assert_close(tokens, numbers(truth, expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("given", "expected"), [("clip", "tokens"), ("clip_8frames", "tokens_8frames"), ("clip_96", "tokens_96")]
)
def test_v_jepa_1_gives_the_published_numbers(given: str, expected: str) -> None:
    truth = V1.with_name("truth.npz")
    tokens = load(V1)(clip(truth, given))
    torch.testing.assert_close(tokens, numbers(truth, expected), atol=1e-5, rtol=0)


def test_the_averaged_encoder_is_taken_unless_another_entry_is_asked_for() -> None:
    truth = V1.with_name("truth.npz")
    online = load(V1, entry="encoder")(clip(truth, "clip"))
    torch.testing.assert_close(online, numbers(truth, "tokens_online_encoder"), atol=1e-5, rtol=0)
    assert (online - numbers(truth, "tokens")).abs().max() > 0.1


def test_an_encoder_is_built_from_its_tensors_alone() -> None:
    truth = AC.with_name("vjepa2_ac_tiny_io.npz")
    encoder = build_vjepa2(encoder_tensors(read_checkpoint(AC), AC), num_heads=2)
    (tokens,) = encoder(clip(truth, "clip"))
    torch.testing.assert_close(tokens, numbers(truth, "encoder_tokens"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", [AC, V21, V1], ids=["2-AC", "2.1", "1"])
def test_sizes_are_read_from_the_file(path: Path) -> None:
    encoder = load(path)
    assert (encoder.image_size, encoder.grid_size, encoder.tubelet_size) == (64, 4, 2)
    frames = torch.randint(0, 255, (1, 4, 50, 70, 3), dtype=torch.uint8)
    assert encoder(encoder.preprocess(frames)).shape == (1, 32, encoder.width)
    assert encoder(encoder.preprocess(frames[:, :1])).shape == (1, 16, encoder.width)


def test_the_published_image_sizes_are_the_default_and_2_ac_keeps_the_whole_square() -> None:
    sizes = {path: load_encoder(path, num_heads=2, **OPTIONS[path]).preprocessing for path in (AC, V21, V1)}
    assert {path: (each.resize, each.image_size) for path, each in sizes.items()} == {
        AC: (256, 256),
        V21: (438, 384),
        V1: (73, 64),
    }


def test_chosen_layers_are_layer_normed_side_by_side() -> None:
    encoder = load(AC, layers=[1, 2])
    whole = load(AC)
    pixels = clip(AC.with_name("vjepa2_ac_tiny_io.npz"), "clip")
    tokens = encoder(pixels)
    assert (encoder.width, tokens.shape[-1]) == (128, 128)
    torch.testing.assert_close(tokens[..., :64].mean(-1), torch.zeros(1, 32), atol=1e-5, rtol=0)
    last = encoder.backbone(pixels, (2,))[0]
    torch.testing.assert_close(whole.backbone.norm(last), whole(pixels), atol=1e-5, rtol=0)


def test_i_jepa_agrees_with_the_library_that_has_it_too(tmp_path: Path) -> None:
    config = transformers.IJepaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        layer_norm_eps=1e-6,
    )
    model = transformers.IJepaModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save({"target_encoder": as_published(model), "epoch": 3}, tmp_path / "ijepa.pth.tar")
    encoder = load_encoder(tmp_path / "ijepa.pth.tar", num_heads=2)
    pixels = torch.randn(2, 3, 3, 56, 56)
    with torch.no_grad():
        expected = model(pixels.flatten(0, 1)).last_hidden_state
    torch.testing.assert_close(encoder(pixels), expected.reshape(2, 48, 32), atol=1e-5, rtol=0)
    assert (encoder.image_size, encoder.tubelet_size, encoder.num_frames) == (56, 1, 1)


def as_published(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a transformers I-JEPA, named and laid out as in Meta's files."""
    inside = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.o_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    published = {
        "pos_embed": model.embeddings.position_embeddings,
        "norm.weight": model.layernorm.weight,
        "norm.bias": model.layernorm.bias,
        "patch_embed.proj.weight": model.embeddings.patch_embeddings.projection.weight,
        "patch_embed.proj.bias": model.embeddings.patch_embeddings.projection.bias,
    }
    for index, layer in enumerate(model.layers):
        for kind in ("weight", "bias"):
            for theirs, ours in inside.items():
                published[f"blocks.{index}.{ours}.{kind}"] = getattr(layer.get_submodule(theirs), kind)
            parts = [getattr(layer.attention.get_submodule(f"{x}_proj"), kind) for x in "qkv"]
            published[f"blocks.{index}.attn.qkv.{kind}"] = torch.cat(parts)
    return {f"module.{name}": tensor.detach() for name, tensor in published.items()}


class Harmful:
    """Would write a file if it were ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.write_text, (self.path, "harm"))


def without(name: str) -> dict:
    checkpoint = read_checkpoint(AC)
    return {**checkpoint, "encoder": {k: v for k, v in checkpoint["encoder"].items() if name not in k}}


def misshapen() -> dict:
    checkpoint = read_checkpoint(AC)
    return {**checkpoint, "encoder": {**checkpoint["encoder"], "module.backbone.norm.bias": torch.zeros(3)}}


BAD_FILES = {
    "text": (lambda path: path.write_text("not a checkpoint"), "cannot be read|no plain checkpoint"),
    "truncated": (lambda path: path.write_bytes(AC.read_bytes()[:50_000]), "cannot be read"),
    "a list": (lambda path: torch.save([1, 2], path), "holds a list"),
    "of something else": (lambda path: torch.save({"fc.weight": torch.zeros(2)}, path), "holds fc.weight"),
    "no encoder": (lambda path: torch.save({"predictor": {}}, path), "its entries are: predictor"),
    "a tensor missing": (lambda path: torch.save(without("norm2.bias"), path), "norm2.bias' is missing"),
    "a tensor misshapen": (lambda path: torch.save(misshapen(), path), r"norm.bias' is \(3,\), it should"),
    "harmful": (lambda path: torch.save({"encoder": Harmful(path.with_name("harm"))}, path), "is not run"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_file_that_is_no_checkpoint_of_these_is_said_in_one_line(what: str, tmp_path: Path) -> None:
    write, message = BAD_FILES[what]
    write(tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(tmp_path / "bad.pt", num_heads=2)
    assert "\n" not in str(error.value)
    assert "bad.pt" in str(error.value)
    assert not (tmp_path / "harm").exists()


def test_what_the_file_does_not_tell_is_asked_for() -> None:
    with pytest.raises(ValueError, match="a width of 64 is no published one .*: give num_heads"):
        load_encoder(AC)
    with pytest.raises(ValueError, match=r"32 positions .* clips of 6 frames .* give num_frames"):
        load_encoder(V1, num_heads=2, num_frames=6)
    with pytest.raises(ValueError, match="width 64 is no multiple of num_heads 3"):
        load_encoder(AC, num_heads=3)
    with pytest.raises(ValueError, match="has no 'teacher'; its entries are: encoder, predictor"):
        load_encoder(AC, num_heads=2, entry="teacher")
