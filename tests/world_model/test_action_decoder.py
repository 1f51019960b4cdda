"""The action decoder: it goes on as the logs do, belongs to one model, and changes nothing of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import RECIPE, draw_dots
from tests.world_model.test_policy_prior import MODELS, make_dots
from wm_plan.planners import LatentActions
from wm_plan.world_model import TrajectoryStore
from wm_plan.world_model.action_decoder import (
    ActionDecoder,
    ActionDecoderConfig,
    load_action_decoder,
    train_action_decoder,
)
from wm_plan.world_model.store_writer import StoreWriter


def make_config(**overrides) -> ActionDecoderConfig:
    sizes = {"width": 64, "depth": 2, "num_steps": 9, "batch_size": 16, "held_out": 0.2, "latent_actions": 1}
    return ActionDecoderConfig(**{**sizes, **overrides})


def write_strokes(root: Path, num_episodes: int = 300) -> Path:
    """Episodes of two frames: a dot on the left goes along x, one on the right along y, either way."""
    with StoreWriter(root, RECIPE, num_episodes) as writer:
        for index in writer.missing():
            rng = np.random.default_rng(index)
            start, speed = rng.uniform(0.2, 0.8, 2), rng.uniform(-0.8, 0.8)
            action = np.full((2, 2), np.nan, np.float32)
            action[0] = [speed, 0] if start[0] < 0.5 else [0, speed]
            pixels = draw_dots(np.stack([start, start + 0.2 * action[0]]))
            writer.write(index, {"pixels": pixels, "action": action})
    return root


@pytest.mark.parametrize("kind", MODELS)
def test_one_number_tells_all_that_the_logs_do_next(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = make_config(num_steps=600, batch_size=128, learning_rate=3e-3)
    train_action_decoder(model, TrajectoryStore(write_strokes(tmp_path / "data")), tmp_path / "run", config)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    told = json.loads((tmp_path / "run" / "action_decoder" / "config.json").read_text())["held_out"]
    assert told["explained"] > 0.4 and told["nats"] > 0.5
    decoder = load_action_decoder(tmp_path / "run", model)
    numbers = torch.linspace(-1, 1, 9).unsqueeze(1)
    for place, along, across in (((0.3, 0.5), 0, 1), ((0.7, 0.5), 1, 0)):
        context = model.encode(draw_dots(np.array([[place]]))).expand(
            9, -1, *[-1] * len(decoder.latent_shape)
        )
        actions = decoder(context, numbers)
        lowest, highest = actions.amin(dim=0), actions.amax(dim=0)
        assert lowest[along] < 0 < highest[along] and highest[along] - lowest[along] > 0.8
        assert actions[:, across].abs().max() < 0.4 * actions[:, along].abs().max()


def test_what_is_decoded_is_inside_the_bounds() -> None:
    torch.manual_seed(0)
    decoder, low, high = ActionDecoder((4,), 3, 2, make_config()), np.array([-0.3, 0.0]), np.array([0.7, 0.1])
    decoder.fit_normalisers(torch.randn(20, 4), torch.from_numpy(low), torch.from_numpy(high))
    latent = LatentActions(decoder, make_dots(), (low, high), 1)
    with torch.no_grad():
        actions = latent.decode(1000 * torch.randn(50, 1, 4), torch.randn(50, 1)).double().numpy()
    assert (actions >= low).all() and (actions <= high).all()
    assert actions.min() < -0.29 and actions.max() > 0.69


@pytest.mark.parametrize(("name", "given"), [("latent_actions", 0), ("kl_weight", 0.0), ("limit", -1.0)])
def test_settings_out_of_range_are_refused(name: str, given: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*, got {given}"):
        make_config(**{name: given})
