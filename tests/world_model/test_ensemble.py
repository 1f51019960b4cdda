"""Ensembles of predictors: their mean, what each imagines, and where they disagree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import RECIPE, make_encoder, make_episode, write_dots
from tests.world_model.test_compact import make_model, random
from tests.world_model.test_predictor_training import make_config
from wm_plan.world_model import StoreWriter, TrajectoryStore, train_world_model
from wm_plan.world_model.compact import CompactWorldModel, load_model
from wm_plan.world_model.compact_config import CompactConfig, DistanceKind
from wm_plan.world_model.compact_predictors import CompactPredictor, make_predictor
from wm_plan.world_model.ensemble import EnsemblePredictor
from wm_plan.world_model.training_logs import check_logs


def stirred(**overrides) -> CompactWorldModel:
    """A model whose predictors all imagine something."""
    model = make_model(**overrides)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.predictor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_a_rollout_is_the_mean_of_what_the_members_imagine_each_on_its_way(tmp_path: Path) -> None:
    model = stirred(ensemble=3)
    context, actions = random(2, 4, 3), random(2, 5, 6, 2)
    members = model.rollout_members(context, actions)
    assert members.shape == (2, 5, 3, 6, 3)
    torch.testing.assert_close(model.rollout(context, actions), members.mean(dim=2))
    model.predictor = model.predictor.members[1]
    torch.testing.assert_close(model.rollout(context, actions), members[:, :, 1])
    whole = stirred(ensemble=3)
    whole.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.num_members == 3
    torch.testing.assert_close(loaded.rollout_members(context, actions), members, atol=0.05, rtol=0.05)


def test_a_model_alone_has_no_members_and_the_weights_that_it_always_had() -> None:
    model = make_model()
    assert isinstance(model.predictor, CompactPredictor)
    assert model.num_members == 1
    with pytest.raises(ValueError, match=r"no ensemble; train one with model.ensemble=3"):
        model.rollout_members(random(1, 4, 3), random(1, 2, 3, 2))


def test_members_that_learned_apart_disagree_where_nothing_was_learned() -> None:
    config = CompactConfig(latent_dim=1, history=1, predictor_width=32, predictor_depth=1, ensemble=4)
    torch.manual_seed(0)
    ensemble = make_predictor(config, 1)
    assert isinstance(ensemble, EnsemblePredictor)
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=1e-2)
    for _ in range(300):
        latents, actions = torch.rand(128, 1, 1), 2 * torch.rand(128, 1, 1) - 1
        wanted = latents + torch.sin(3 * latents) * actions
        loss = (ensemble.shared_out(latents, actions) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.04 < wanted.var()

    def variance(low: float, high: float) -> float:
        latents = torch.linspace(low, high, 50).view(-1, 1, 1)
        with torch.no_grad():
            return float(ensemble.apart(latents, torch.ones(50, 1, 1)).var(dim=0).mean())

    assert variance(2, 4) > 10 * variance(0, 1)


def test_each_member_learns_from_its_own_share() -> None:
    ensemble = stirred(ensemble=2).predictor
    context, actions = random(7, 2, 3), random(7, 4, 2)
    told = ensemble.shared_out(context, actions)
    assert told.shape == (7, 4, 3)
    torch.testing.assert_close(told[:4], ensemble.members[0](context[:4], actions[:4]))
    torch.testing.assert_close(told[4:], ensemble.members[1](context[4:], actions[4:]))


def test_members_distances_and_rewards_are_learned_in_one_run_and_kept(tmp_path: Path) -> None:
    root = tmp_path / "dots"
    with StoreWriter(root, RECIPE, 8) as writer:
        for index in writer.missing():
            columns = make_episode(index)
            reward = -np.linalg.norm(columns["state"] - 0.5, axis=1).astype(np.float32)
            writer.write(index, {**columns, "reward": reward})
    sizes = {
        "ensemble": 2,
        "distance_members": 2,
        "distance_kind": DistanceKind.quasimetric,
        "reward_width": 8,
    }
    config = make_config()
    config = replace(config, model=replace(config.model, **sizes))
    model = train_world_model(TrajectoryStore(root), make_encoder(), tmp_path / "run", config)
    assert model.metadata.surprise is not None
    loaded = load_model(tmp_path / "run")
    assert loaded.config == config.model
    one, other = (torch.nn.utils.parameters_to_vector(m.parameters()) for m in loaded.predictor.members)
    assert not torch.equal(one, other)
    imagined = loaded.rollout(random(1, 2, 8), random(1, 4, 5, 2))
    assert loaded.predicted_reward(imagined).shape == (1, 4)
    assert (loaded.temporal_distance(imagined, random(1, 1, 8)) >= 0).all()
    without = TrajectoryStore(write_dots(tmp_path / "plain"))
    with pytest.raises(ValueError, match="no column 'reward'"):
        check_logs(without, config)
