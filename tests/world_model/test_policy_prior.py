"""The policy prior: it clones what led to goals, belongs to one model, and changes nothing of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import RECIPE, draw_dots, make_encoder, write_dots
from tests.world_model.test_compact import make_model as make_compact
from tests.world_model.test_token_model import make_model as make_tokens
from wm_plan.planners import PriorProposals
from wm_plan.world_model import TrajectoryStore
from wm_plan.world_model.policy_prior import PolicyPrior, PriorConfig, load_prior, train_prior
from wm_plan.world_model.store_writer import StoreWriter


def make_dots(**overrides):
    """A compact model of the dots' world: its actions are from -1 to 1."""
    model = make_compact(**{"latent_dim": 16, "head_width": 64, "history": 1, **overrides})
    model.metadata.action_low, model.metadata.action_high = [-1.0, -1.0], [1.0, 1.0]
    return model


MODELS = {"compact": make_dots, "tokens": lambda: make_tokens(history=1)}


def make_config(**overrides) -> PriorConfig:
    sizes = {"width": 64, "depth": 2, "num_steps": 9, "batch_size": 16, "held_out": 0.2, "max_ahead": 3}
    return PriorConfig(**{**sizes, **overrides})


def write_leaps(root: Path, num_episodes: int = 60) -> Path:
    """Episodes of two frames: a dot leaps from anywhere by half of its action."""
    with StoreWriter(root, RECIPE, num_episodes) as writer:
        for index in writer.missing():
            rng = np.random.default_rng(index)
            action = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
            start = rng.uniform(0.3, 0.7, 2)
            action[-1] = np.nan
            writer.write(
                index, {"pixels": draw_dots(np.stack([start, start + action[0] / 2])), "action": action}
            )
    return root


@pytest.mark.parametrize("kind", MODELS)
def test_it_tells_which_action_leads_to_a_goal(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = make_config(num_steps=400, batch_size=64, learning_rate=5e-3, max_ahead=1)
    train_prior(model, TrajectoryStore(write_leaps(tmp_path / "data", 300)), tmp_path / "run", config)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    prior = load_prior(tmp_path / "run", model)
    action = np.random.default_rng(3).uniform(-0.8, 0.8, (20, 2))
    latents = model.encode(draw_dots(np.stack([np.full((20, 2), 0.5), 0.5 + action / 2], axis=1)))
    mean, std = prior(latents[:, :1], latents[:, 1])
    assert np.abs(mean.numpy() - action).mean() < 0.65 * np.abs(action).mean()
    assert bool((std > 0).all())
    told = json.loads((tmp_path / "run" / "prior" / "config.json").read_text())["held_out"]
    assert 0.4 < told["explained"] < 1


def test_means_are_inside_the_bounds_and_a_short_context_was_at_rest() -> None:
    torch.manual_seed(0)
    prior = PolicyPrior((4,), 3, 2, make_config())
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])
    prior.fit_normalisers(torch.randn(20, 4), low, high)
    context, goal = 100 * torch.randn(7, 1, 4), 100 * torch.randn(7, 4)
    mean, _ = prior(context, goal)
    assert bool(((mean >= low) & (mean <= high)).all())
    torch.testing.assert_close(prior(context.expand(-1, 5, -1), goal)[0], mean)


@pytest.mark.parametrize("kind", MODELS)
def test_its_proposals_go_through_the_imagination_of_both_families(kind: str) -> None:
    model = make_dots(history=2) if kind == "compact" else make_tokens("dino_wm", state_dim=0)
    context = model.encode(draw_dots(np.random.default_rng(0).uniform(0.2, 0.8, (2, model.history, 2))))
    prior = PolicyPrior(tuple(context.shape[2:]), model.history, 2, make_config())
    bounds = model.action_low, model.action_high
    proposed = PriorProposals(prior, model, bounds, horizon=3, num_sequences=4)(context, context[:, -1:])
    assert proposed.shape == (2, 4, 3, 2)
    first = proposed[:, 0, 0]
    torch.testing.assert_close(first, prior(context, context[:, -1])[0])
    following = model.rollout(context, proposed[:, :1, :1])[:, 0]
    later = torch.cat([context[:, 1:], following], dim=1)
    torch.testing.assert_close(proposed[:, 0, 1], prior(later, context[:, -1])[0], atol=1e-4, rtol=0)


def test_it_belongs_to_the_latents_that_it_was_trained_on(tmp_path: Path) -> None:
    model, store = make_dots(), TrajectoryStore(write_dots(tmp_path / "data"))
    with pytest.raises(ValueError, match="prior' is not a folder"):
        load_prior(tmp_path, model)
    train_prior(model, store, tmp_path, make_config(num_steps=1))
    load_prior(tmp_path, model)
    with pytest.raises(ValueError, match="was trained on the latents of another model"):
        load_prior(tmp_path, make_dots(encoder=make_encoder(seed=5)))
    path = tmp_path / "prior" / "config.json"
    path.write_text(path.read_text().replace('"history": 1', '"history": null'))
    with pytest.raises(ValueError, match="has a damaged config"):
        load_prior(tmp_path, model)


def test_logs_of_other_actions_and_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    model, store = make_dots(), TrajectoryStore(write_dots(tmp_path / "data"))
    model.metadata.action_low, model.metadata.action_high = [-1.0], [1.0]
    with pytest.raises(ValueError, match=r"the logs have actions of shape \(2,\), the model takes \(1,\)"):
        train_prior(model, store, tmp_path, make_config())
    with pytest.raises(ValueError, match="max_ahead must be at least 1, got 0"):
        make_config(max_ahead=0)
