"""SB3 checkpoints act here as they do in Stable-Baselines3, and nothing in them is unpickled."""

import json
import pickle
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO, SAC, TD3

from wm_plan.planners.sb3_checkpoint import SB3Policy

BOX = gymnasium.spaces.Box(np.float32([-2.0, -1.0]), np.float32([3.0, 1.0]))
SEEN = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float32)


class Still(gymnasium.Env):
    """An environment that is there for its spaces."""

    observation_space, action_space = SEEN, BOX

    def reset(self, *, seed=None, options=None):
        return np.zeros(5, np.float32), {}

    def step(self, action):
        return np.zeros(5, np.float32), 0.0, False, False, {}


def saved(tmp_path, algorithm, **settings):
    if algorithm in (SAC, TD3):
        settings["buffer_size"] = 10
    model = algorithm("MlpPolicy", Still(), device="cpu", seed=0, **settings)
    model.save(tmp_path / "policy.zip")
    return model, tmp_path / "policy.zip"


@pytest.mark.parametrize(
    "algorithm, settings",
    [
        (PPO, {}),
        (A2C, {}),
        (SAC, {}),
        (TD3, {}),
        (PPO, {"policy_kwargs": {"net_arch": [8, 8, 8], "activation_fn": torch.nn.ReLU}}),
        (SAC, {"policy_kwargs": {"net_arch": [16], "activation_fn": torch.nn.ELU}}),
    ],
)
def test_the_actions_are_those_that_sb3_predicts(tmp_path, algorithm, settings):
    model, path = saved(tmp_path, algorithm, **settings)
    policy = SB3Policy(path, BOX.low, BOX.high)
    for seed in range(5):
        seen = 3 * np.random.default_rng(seed).standard_normal(5).astype(np.float32)
        np.testing.assert_allclose(policy.act(seen), model.predict(seen, deterministic=True)[0], atol=1e-5)


def test_what_is_pickled_in_the_file_is_never_run(tmp_path):
    _, path = saved(tmp_path, PPO)
    trap = tmp_path / "was_run"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(parts["data"])
    import base64

    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = base64.b64encode(pickle.dumps(Trap())).decode()
    parts["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    SB3Policy(path, BOX.low, BOX.high).act(np.zeros(5, np.float32))
    assert not trap.exists()
    parts["policy.pth"] = pickle.dumps(Trap())
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="damaged or no SB3 checkpoint"):
        SB3Policy(path, BOX.low, BOX.high)
    assert not trap.exists()


def test_what_does_not_fit_is_refused(tmp_path):
    _, path = saved(tmp_path, PPO)
    with pytest.raises(ValueError, match="gives 2 actions; the env takes 3"):
        SB3Policy(path, np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="trained on 5 numbers; the env's proprio has 4"):
        SB3Policy(path, BOX.low, BOX.high).act(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="there is no such file"):
        SB3Policy(tmp_path / "none.zip", BOX.low, BOX.high)
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ValueError, match="damaged or no SB3 checkpoint"):
        SB3Policy(tmp_path / "text.zip", BOX.low, BOX.high)


@pytest.mark.parametrize(
    "algorithm, settings, message",
    [
        (SAC, {"use_sde": True}, "state-dependent exploration"),
        (
            PPO,
            {"policy_kwargs": {"activation_fn": torch.nn.Softplus}},
            "the activation 'Softplus'; known are",
        ),
    ],
)
def test_networks_that_are_not_known_are_refused(tmp_path, algorithm, settings, message):
    _, path = saved(tmp_path, algorithm, **settings)
    with pytest.raises(ValueError, match=message):
        SB3Policy(path, BOX.low, BOX.high)
