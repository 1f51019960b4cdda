"""The policy learned by reinforcement: what it sees, what it gives, how it is kept."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_plan.planners.rl import GoalFeatures, RLPolicy, RLPolicyConfig, load_policy


def make_config(**overrides) -> RLPolicyConfig:
    settings = {
        "env_name": "reacher",
        "action_repeat": 4,
        "action_low": [-1.0, 0.0],
        "action_high": [1.0, 0.5],
        "feature_scale": [1.0, 1.0, 2.0],
        "angles": [[0, 1]],
        "hidden_sizes": [8, 8],
    }
    return RLPolicyConfig(**{**settings, **overrides})


def make_policy(**overrides) -> RLPolicy:
    torch.manual_seed(0)
    return RLPolicy(make_config(**overrides), metadata={"env_steps": 7})


def felt(angle: float, velocity: float) -> list[float]:
    return [np.cos(angle), np.sin(angle), velocity]


def test_the_goal_is_seen_from_the_present() -> None:
    features = GoalFeatures(make_config())
    seen = features(torch.tensor([felt(0.5, 4.0)]), torch.tensor([felt(0.8, 0.0)])).numpy()
    expected = [np.cos(0.5), np.sin(0.5), 2.0, np.cos(0.3), np.sin(0.3), -2.0]
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)


def test_features_leave_their_inputs_alone() -> None:
    present, goal = torch.tensor([felt(0.5, 4.0)]), torch.tensor([felt(0.8, 0.0)])
    before = present.clone(), goal.clone()
    GoalFeatures(make_config())(present, goal)
    assert torch.equal(present, before[0])
    assert torch.equal(goal, before[1])


def test_the_squashed_output_spans_the_bounds() -> None:
    weight = torch.zeros(2, 6)
    weight[:, 2] = 1.0
    tensors = {"0.weight": weight, "0.bias": torch.zeros(2)}
    policy = RLPolicy(make_config(hidden_sizes=[]), tensors)
    present = np.array([felt(0.0, velocity) for velocity in (-1e6, 0.0, 2.0, 1e6)])
    actions = policy.act(present, np.array(felt(0.0, 0.0)))
    half = np.tanh(1.0)
    expected = [[-1, 0], [0, 0.25], [half, 0.25 + 0.25 * half], [1, 0.5]]
    np.testing.assert_allclose(actions, expected, atol=1e-6)
    assert actions.dtype == np.float32
    assert (actions >= [-1, 0]).all()
    assert (actions <= [1, 0.5]).all()


def test_on_latents_it_sees_the_latent_its_change_and_where_the_goal_lies() -> None:
    scale = [1.0, 1.0, 0.5, 0.5]
    policy = make_policy(observation="latent", feature_scale=scale, angles=[])
    context = torch.tensor([[[9.0, 9.0], [0.1, 0.2], [0.4, 0.1]], [[0.0, 0.0], [1.0, 1.0], [1.0, 2.0]]])
    goal = torch.tensor([[0.5, 0.5], [2.0, 2.0]])
    actions, std = policy.from_latents(context, goal)
    latest, change = context[:, 2].numpy(), (context[:, 2] - context[:, 1]).numpy()
    expected = policy.act(np.hstack([latest, change]), goal.numpy())
    np.testing.assert_allclose(actions.numpy(), expected, atol=1e-6)
    assert not std.any()
    features = GoalFeatures(policy.config)(torch.tensor([[0.4, 0.1, 0.3, -0.1]]), goal[:1]).numpy()
    np.testing.assert_allclose(features, [[0.4, 0.1, 0.6, -0.2, 0.1, 0.4]], atol=1e-6)
    still, _ = policy.from_latents(context[:, 2:], goal)
    expected = policy.act(np.hstack([latest, np.zeros((2, 2))]), goal.numpy())
    np.testing.assert_allclose(still.numpy(), expected, atol=1e-6)


def test_a_lone_robot_gets_the_action_that_it_gets_in_a_batch() -> None:
    policy = make_policy()
    rng = np.random.default_rng(1)
    present, goal = rng.normal(size=(2, 5, 3))
    batch = policy.act(present, goal)
    for row in range(5):
        np.testing.assert_allclose(policy.act(present[row], goal[row]), batch[row], atol=1e-6)
        np.testing.assert_allclose(policy.act(present, goal[row])[row], batch[row], atol=1e-6)


@pytest.mark.parametrize(
    "present, goal",
    [((4,), (3,)), ((3,), (2, 3)), ((2, 3), (5, 3)), ((1, 2, 3), (3,))],
)
def test_shapes_that_do_not_fit_are_refused(present: tuple[int, ...], goal: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="features|goal"):
        make_policy().act(np.zeros(present), np.zeros(goal))


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="goal must be finite"):
        make_policy().act(np.zeros(3), np.array([0.0, np.nan, 0.0]))


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"action_repeat": 0}, "action_repeat must be at least 1"),
        ({"action_high": [1.0]}, "of one length"),
        ({"feature_scale": [1.0, 0.0, 1.0]}, "positive"),
        ({"angles": [[0, 3]]}, "pairs of indices below 3"),
        ({"observation": "pixels"}, "one of state, latent, got 'pixels'"),
        ({"observation": "latent", "angles": []}, "even length, got 3"),
    ],
)
def test_a_config_that_is_none_is_refused(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**overrides)


def test_a_kept_policy_acts_as_before(tmp_path: Path) -> None:
    policy = make_policy()
    policy.save(tmp_path / "kept")
    loaded = load_policy(tmp_path / "kept")
    present, goal = np.random.default_rng(2).normal(size=(2, 9, 3))
    np.testing.assert_array_equal(loaded.act(present, goal), policy.act(present, goal))
    assert loaded.config == policy.config
    assert loaded.metadata == {"env_steps": 7}
    assert (loaded.env_name, loaded.action_repeat) == ("reacher", 4)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["config.json", "model.safetensors"]


def test_an_unknown_policy_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no RL policy 'reachr'. Did you mean 'reacher'\? .*wm-baseline"):
        load_policy("reachr")
    with pytest.raises(ValueError, match="it has no config.json"):
        load_policy(tmp_path)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    make_policy().save(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    for change, message in (
        ({"format": "wm-plan-encoder"}, "holds no rl-policy"),
        ({"policy": {"env_name": "reacher"}}, "is damaged"),
        ({"policy": {**saved["policy"], "hidden_sizes": [8, 9]}}, "does not fit its config"),
    ):
        path.write_text(json.dumps({**saved, **change}))
        with pytest.raises(ValueError, match=message):
            load_policy(tmp_path)
    path.write_text(json.dumps(saved))
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"0.weight": 1}))
    with pytest.raises(ValueError, match="cannot be read"):
        load_policy(tmp_path)


def test_loading_a_policy_needs_no_trainer(tmp_path: Path) -> None:
    make_policy().save(tmp_path)
    code = (
        "import sys; from wm_plan.planners.rl import load_policy\n"
        f"load_policy({str(tmp_path)!r}).act([1, 0, 0], [1, 0, 0])\n"
        "assert not {'stable_baselines3', 'mujoco', 'gymnasium'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
