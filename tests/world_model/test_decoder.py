"""The decoder: it draws what a latent shows, belongs to one model, and changes nothing of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import SIZE, draw_dots, make_encoder, write_dots
from tests.world_model.test_compact import make_model as make_compact
from tests.world_model.test_token_model import make_model as make_tokens
from wm_plan.world_model import TrajectoryStore, load_model
from wm_plan.world_model.beside import spread
from wm_plan.world_model.decoder import DecoderConfig, has_decoder, load_decoder, train_decoder

MODELS = {"compact": lambda: make_compact(latent_dim=8, head_width=64), "tokens": make_tokens}


def make_config(**overrides) -> DecoderConfig:
    return DecoderConfig(
        **{"image_size": SIZE, "width": 32, "num_steps": 9, "batch_size": 8, "held_out": 0.2, **overrides}
    )


def brightest(frames: np.ndarray) -> np.ndarray:
    """Where the dots are, as the centre of brightness, in the units of positions."""
    grey = frames.astype(float).mean(-1) ** 2
    places = (np.arange(SIZE) + 0.5) / SIZE
    total = grey.sum((-1, -2))
    return np.stack([(grey.sum(-2) * places).sum(-1) / total, (grey.sum(-1) * places).sum(-1) / total], -1)


@pytest.mark.parametrize("kind", MODELS)
def test_drawn_frames_show_what_was_seen(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    store = TrajectoryStore(write_dots(tmp_path / "data", 30))
    train_decoder(
        model, store, tmp_path / "run", make_config(num_steps=250, learning_rate=3e-3, batch_size=16)
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    decoder = load_decoder(tmp_path / "run", model)
    positions = np.random.default_rng(3).uniform(0.2, 0.8, (20, 2))
    drawn = decoder.frames(model.encode(draw_dots(positions)[None]))
    assert drawn.shape == (1, 20, SIZE, SIZE, 3)
    assert drawn.dtype == np.uint8
    assert np.linalg.norm(brightest(drawn[0]) - positions, axis=1).mean() < 0.1
    error = json.loads((tmp_path / "run" / "decoder" / "config.json").read_text())["held_out"]
    assert error["drawn"] < 0.5 * error["usual"]


def test_a_decoder_belongs_to_the_model_that_it_was_trained_for(tmp_path: Path) -> None:
    model, store = make_compact(), TrajectoryStore(write_dots(tmp_path / "data"))
    with pytest.raises(ValueError, match="decoder' is not a folder"):
        load_decoder(tmp_path, model)
    train_decoder(model, store, tmp_path, make_config(num_steps=1))
    assert has_decoder(tmp_path)
    with pytest.raises(ValueError, match="was trained on the latents of another model"):
        load_decoder(tmp_path, make_compact(encoder=make_encoder(seed=5)))
    with torch.no_grad():
        model.head.reduce.weight.add_(1)
    with pytest.raises(ValueError, match="was trained on the latents of another model"):
        load_decoder(tmp_path, model)


def test_settings_out_of_range_are_named() -> None:
    for overrides, message in (
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"held_out": 0.0}, "held_out must be between 0 and 1, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make_config(**overrides)


def test_numbers_that_vary_little_are_seen_as_well() -> None:
    torch.manual_seed(0)
    latents = torch.randn(512, 4) * torch.tensor([10.0, 1.0, 0.2, 0.0]) + 3.0
    assert spread(latents).tolist() == pytest.approx([10.0, 1.0, 0.2, 0.05], rel=0.1)


def test_a_decoder_that_scaled_all_numbers_alike_is_still_read() -> None:
    model = load_model("reacher")
    assert model.folder is not None
    scale = load_decoder(model.folder, model).latent_scale
    assert scale.shape == (model.config.latent_dim,)
    assert (scale == scale[0]).all()
