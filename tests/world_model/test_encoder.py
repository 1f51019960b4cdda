"""Frozen encoders: what they make of frames, that nothing changes them, and what is no encoder."""

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.dot_world import draw_dots, make_encoder
from wm_plan.world_model.encoder import Encoder, JEPAEncoder, encoder_names, load_encoder, square_frames


def make_frames(height: int = 16, width: int = 16, time: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, time, height, width, 3), dtype=np.uint8)


def weights_of(encoder: JEPAEncoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def test_an_encoder_stays_as_it_is_inside_a_module_that_trains() -> None:
    encoder = make_encoder()
    before = weights_of(encoder)
    model = torch.nn.Sequential(encoder, torch.nn.Linear(48, 2)).train()
    assert model.training
    assert not any(module.training for module in encoder.modules())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.5)
    loss = model(encoder.preprocess(make_frames())).square().sum()
    loss.backward()
    optimizer.step()
    assert all(not parameter.requires_grad for parameter in encoder.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert isinstance(encoder, Encoder)


def test_tokens_are_the_chosen_layers_each_normalised() -> None:
    one, both = make_encoder(layers=(2,)), make_encoder(layers=(0, 2))
    pixel_values = one.preprocess(make_frames(time=4))
    tokens = both(pixel_values)
    assert tokens.shape == (2, 32, both.width)
    assert both.width == 48
    torch.testing.assert_close(tokens[..., 24:], one(pixel_values))
    torch.testing.assert_close(
        tokens.unflatten(-1, (2, 24)).mean(-1), torch.zeros(2, 32, 2), atol=1e-5, rtol=0
    )
    patches = torch.nn.functional.layer_norm(both.vit.embed(pixel_values), (24,))
    torch.testing.assert_close(tokens[..., :24], patches)


def test_a_lone_frame_is_a_still_clip() -> None:
    encoder = make_encoder()
    frame = encoder.preprocess(make_frames())
    still = frame.expand(-1, 2, -1, -1, -1)
    assert encoder(frame).shape == (2, encoder.grid_size**2, encoder.width)
    torch.testing.assert_close(encoder(frame), encoder(still))


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (480, 640), (3, 2), (1, 1)])
def test_frames_of_any_size_are_taken(size: tuple[int, int]) -> None:
    encoder = make_encoder()
    pixel_values = encoder.preprocess(make_frames(*size, time=2))
    assert pixel_values.shape == (2, 2, 3, 16, 16)
    assert torch.isfinite(encoder(pixel_values)).all()


def test_pixels_are_scaled_by_the_mean_and_std_of_imagenet() -> None:
    frame = np.zeros((1, 1, 16, 16, 3), np.uint8)
    frame[..., 0], frame[..., 2] = 255, 51
    values = make_encoder().preprocess(frame)[0, 0, :, 5, 5]
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(values, torch.tensor(expected), atol=1e-5, rtol=0)


def test_the_central_square_is_what_is_seen() -> None:
    frame = np.full((1, 1, 20, 40, 3), 200, np.uint8)
    frame[:, :, :, 10:30] = 50
    torch.testing.assert_close(square_frames(frame, 16), torch.full((1, 1, 3, 16, 16), 50.0))


def test_a_larger_picture_of_the_same_scene_gives_nearly_the_same_pixels() -> None:
    position = np.array([0.37, 0.61])
    small, large = (square_frames(draw_dots(position, size)[None, None], 16) for size in (16, 96))
    assert (small - large).abs().max() < 24  # of 255 grey levels
    assert small.max() > 200


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((1, 1, 16, 16, 3), np.float32),
        np.zeros((1, 1, 16, 16, 4), np.uint8),
    ],
)
def test_what_is_no_frames_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frames must be \(batch, time, height, width, 3\) uint8, got"):
        getattr(square_frames, "__wrapped__", square_frames)(frames, 16)  # past the tests' own type checks


def test_a_saved_encoder_is_the_same_encoder(tmp_path: Path) -> None:
    encoder = make_encoder()
    encoder.training_record = {"steps": 3}
    encoder.save(tmp_path / "one")
    loaded = load_encoder(tmp_path / "one")
    assert loaded.fingerprint == encoder.fingerprint
    assert (loaded.name, loaded.training_record) == ("dots", {"steps": 3})
    assert not loaded.training
    frames = make_frames(time=4)
    torch.testing.assert_close(
        loaded(loaded.preprocess(frames)), encoder(encoder.preprocess(frames)), atol=0.02, rtol=0
    )
    loaded.save(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert stat.S_IMODE((tmp_path / "one" / name).stat().st_mode) & 0o044  # others may read it
    assert all(
        tensor.dtype == torch.float16 for tensor in load_file(tmp_path / "one/model.safetensors").values()
    )


def test_the_fingerprint_is_of_what_tokens_depend_on() -> None:
    encoder, renamed = make_encoder(), make_encoder()
    renamed.name = "other"
    assert renamed.fingerprint == encoder.fingerprint
    with torch.no_grad():
        renamed.vit.blocks[1].mlp[0].weight[0, 0] += 0.1
    prints = {encoder.fingerprint, renamed.fingerprint, make_encoder(layers=(2, 1)).fingerprint}
    assert len(prints) == 3


def rewrite_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


DAMAGES = {
    "no folder": (shutil.rmtree, "Unknown encoder"),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no encoder: it has no config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json' is damaged"),
    "config is no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "is damaged"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "its format is None"),
    "another kind": (lambda f: rewrite_config(f, format="wm-plan-world-model"), "not 'wm-plan-encoder'"),
    "a newer version": (lambda f: rewrite_config(f, version=2), "version 2; this release reads 1: update"),
    "no sizes": (lambda f: rewrite_config(f, vit=None), "has a damaged config: KeyError"),
    "foreign sizes": (lambda f: rewrite_config(f, vit={"layers": 3}), "has a damaged config: TypeError"),
    "impossible sizes": (lambda f: rewrite_config(f, vit={"image_size": 31}), "no multiple of patch_size"),
    "other sizes": (
        lambda f: rewrite_config(f, vit={"depth": 1, "width": 24}, feature_layers=[1]),
        "does not fit its config",
    ),
    "no such layer": (lambda f: rewrite_config(f, feature_layers=[7]), "the encoder's layers are 0 to 2"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors' cannot be read"),
    "truncated weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "cannot be read",
    ),
    "weights are text": (lambda f: (f / "model.safetensors").write_text("weights"), "cannot be read"),
    "a tensor less": (
        lambda f: rewrite_weights(f, lambda t: t.pop("norm.bias")),
        "tensor 'norm.bias' is missing",
    ),
    "a tensor more": (
        lambda f: rewrite_weights(f, lambda t: t.update(extra=torch.ones(1))),
        "tensor 'extra' is unknown",
    ),
    "another shape": (
        lambda f: rewrite_weights(f, lambda t: t.update({"norm.bias": torch.ones(7)})),
        r"'norm.bias' is \(7,\), it should be \(24,\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_no_encoder_is_said_in_one_line(damage: str, tmp_path: Path) -> None:
    make_encoder().save(tmp_path / "encoder")
    spoil, message = DAMAGES[damage]
    spoil(tmp_path / "encoder")
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(tmp_path / "encoder")
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"Did you mean 'small'\? Give a folder, .* or one of: small, random"
    ):
        load_encoder("smal")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not a folder"):
        load_encoder(tmp_path / "file")


def test_the_shipped_encoder_loads_by_name_and_an_untrained_one_has_its_sizes() -> None:
    assert encoder_names() == ("small", "random", "pixels", "efficientnet-lite0")
    small, random, again = (load_encoder(name) for name in ("small", "random", "random"))
    assert (small.name, random.name) == ("small", "random")
    assert small.config == random.config
    assert small.feature_layers == random.feature_layers
    assert random.fingerprint == again.fingerprint != small.fingerprint
