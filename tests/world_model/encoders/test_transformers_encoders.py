"""Encoders of the transformers library give its own numbers, offline, from folders it wrote."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from wm_plan.world_model import load_encoder
from wm_plan.world_model.encoders.published import PublishedEncoder

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIDEO = {
    **SIZES,
    "patch_size": 16,
    "crop_size": 64,
    "frames_per_clip": 4,
    "tubelet_size": 2,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
    "pred_num_mask_tokens": 1,
}
IMAGE = {**SIZES, "image_size": 56, "patch_size": 14}
MODELS = {
    "vjepa2": lambda: transformers.VJEPA2Model(transformers.VJEPA2Config(**VIDEO)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**IMAGE)),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**IMAGE)
    ),
    "dinov3_vit": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            **{**IMAGE, "patch_size": 16, "image_size": 64}, intermediate_size=64, num_register_tokens=4
        )
    ),
    "ijepa": lambda: transformers.IJepaModel(transformers.IJepaConfig(**IMAGE, intermediate_size=64)),
}
IMAGE_SIZE = {"vjepa2": 64, "dinov3_vit": 64, "dinov2": 56, "dinov2_with_registers": 56, "ijepa": 56}


def write_model(kind: str, folder: Path) -> torch.nn.Module:
    """A tiny model with random weights that tell apart, saved as a user would."""
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def load(kind: str, folder: Path, **options) -> PublishedEncoder:
    return load_encoder(folder, **{"image_size": IMAGE_SIZE[kind], **options})


def of_the_library(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Patch tokens of clips (batch, frame, 3, height, width), as its documentation says to get them."""
    with torch.no_grad():
        if isinstance(model, transformers.VJEPA2Model):
            return model(pixels, skip_predictor=True).last_hidden_state
        tokens = model(pixels.flatten(0, 1)).last_hidden_state
    patches = (pixels.shape[-1] // model.config.patch_size) ** 2
    return tokens[:, -patches:].reshape(len(pixels), -1, tokens.shape[-1])


@pytest.mark.parametrize("kind", MODELS)
def test_tokens_are_those_of_the_library(kind: str, tmp_path: Path) -> None:
    model = write_model(kind, tmp_path / kind)
    encoder = load(kind, tmp_path / kind)
    pixels = encoder.preprocess(torch.randint(0, 255, (2, 4, 80, 100, 3), dtype=torch.uint8))
    tokens = encoder(pixels)
    torch.testing.assert_close(tokens, of_the_library(model, pixels), atol=1e-5, rtol=0)
    assert tokens.shape == (2, 4 // encoder.tubelet_size * encoder.grid_size**2, encoder.width)
    assert (encoder.name, encoder.image_size, encoder.grid_size) == (kind, IMAGE_SIZE[kind], 4)


@pytest.mark.parametrize("kind", MODELS)
def test_layers_are_the_outputs_of_the_blocks(kind: str, tmp_path: Path) -> None:
    model = write_model(kind, tmp_path / kind)
    encoder = load(kind, tmp_path / kind, layers=[1, 2])
    seen = []
    blocks = next(
        m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and "Layer" in type(m[0]).__name__
    )
    for block in blocks:
        block.register_forward_hook(
            lambda *call: seen.append(call[2][0] if isinstance(call[2], tuple) else call[2])
        )
    pixels = torch.randn(1, 2, 3, encoder.image_size, encoder.image_size)
    of_the_library(model, pixels)
    prefix = seen[0].shape[1] - encoder.grid_size**2
    expected = [torch.nn.functional.layer_norm(each[:, prefix:], (32,)) for each in seen]
    tokens = torch.cat(expected, dim=-1).reshape(1, -1, 64)
    torch.testing.assert_close(encoder(pixels), tokens, atol=1e-5, rtol=0)


def test_v_jepa_2_takes_another_image_size_as_if_it_were_configured_so(tmp_path: Path) -> None:
    model = write_model("vjepa2", tmp_path / "model")
    larger = transformers.VJEPA2Model(transformers.VJEPA2Config(**{**VIDEO, "crop_size": 96})).eval()
    larger.load_state_dict(model.state_dict())
    encoder = load_encoder(tmp_path / "model", image_size=96)
    pixels = torch.randn(1, 2, 3, 96, 96)
    torch.testing.assert_close(encoder(pixels), of_the_library(larger, pixels), atol=1e-5, rtol=0)
    assert (of_the_library(model, pixels) - of_the_library(larger, pixels)).abs().max() > 1e-3


def test_a_lone_frame_is_a_still_clip(tmp_path: Path) -> None:
    write_model("vjepa2", tmp_path / "model")
    encoder = load_encoder(tmp_path / "model")
    frame = torch.randn(1, 1, 3, 64, 64)
    assert torch.equal(encoder(frame), encoder(frame.expand(-1, 2, -1, -1, -1)))
    with pytest.raises(
        ValueError, match="clips of 3 frames do not fit .*: give lone frames, or a multiple of 2"
    ):
        encoder(frame.expand(-1, 3, -1, -1, -1))


def test_preprocessing_is_read_from_the_folder_and_agrees_with_pillow(tmp_path: Path) -> None:
    write_model("dinov2", tmp_path / "model")
    settings = {
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 56, "width": 56},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
    }
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(settings))
    frame = np.asarray(Image.effect_noise((150, 100), 30).convert("RGB")).copy()
    frame[..., 1] -= 20  # colours differ, and nothing saturates: Pillow would clip between its two passes
    resized = np.asarray(Image.fromarray(frame).resize((96, 64), Image.Resampling.BICUBIC))
    expected = (resized[4:60, 20:76] / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    pixels = load_encoder(tmp_path / "model").preprocess(frame[None, None])
    assert pixels.shape == (1, 1, 3, 56, 56)
    difference = pixels[0, 0].permute(1, 2, 0).numpy() - expected
    assert np.abs(difference).max() < 1.01 / 255 / 0.2


def test_without_a_processor_file_the_published_preprocessing_is_taken(tmp_path: Path) -> None:
    write_model("vjepa2", tmp_path / "video")
    write_model("dinov3_vit", tmp_path / "dinov3")
    video, dino = (
        load_encoder(tmp_path / "video").preprocessing,
        load_encoder(tmp_path / "dinov3").preprocessing,
    )
    assert (video.image_size, video.resize, video.interpolation) == (64, 73, "bilinear")
    assert (dino.image_size, dino.squash) == (224, True)


def drop_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("fc1.weight"))]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def rename_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))


DAMAGES = {
    "a tensor missing": (drop_tensor, "fc1.weight' is missing"),
    "weights that are pickled": (pickle_weights, r"has no \*.safetensors; .* not safe"),
    "another kind of model": (rename_type, "type 'bert'; encoders are of type: vjepa2, dinov2"),
    "weights cut short": (lambda f: (f / "model.safetensors").write_bytes(b"abc"), "cannot be loaded"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_does_not_fit_is_said_in_one_line(damage: str, tmp_path: Path) -> None:
    write_model("dinov2", tmp_path / "model")
    spoil, message = DAMAGES[damage]
    spoil(tmp_path / "model")
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_an_id_of_the_hub_is_found_in_its_cache_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model("vjepa2", tmp_path / "model")
    repository = tmp_path / "hub" / "models--facebook--vjepa2-tiny"
    shutil.copytree(tmp_path / "model", repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    encoder = load_encoder("facebook/vjepa2-tiny")
    pixels = torch.randn(1, 2, 3, 64, 64)
    torch.testing.assert_close(encoder(pixels), of_the_library(model, pixels), atol=1e-5, rtol=0)
    assert encoder.name == "facebook/vjepa2-tiny"
    with pytest.raises(
        ValueError, match="neither a folder here nor in the hub's cache.*hf download"
    ) as error:
        load_encoder("facebook/vjepa2-vitl-fpc64-256")
    assert "\n" not in str(error.value)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model("dinov2", tmp_path / "model")
    for name in ("transformers", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
    for given in (tmp_path / "model", "facebook/dinov2-small"):
        with pytest.raises(ValueError, match=r"pip install 'wm-plan\[hf\]'"):
            load_encoder(given)
