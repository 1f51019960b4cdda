"""`wm-baseline` and the training behind it: what it makes, how it resumes, what it refuses."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_plan.baseline import (
    BaselineConfig,
    actor_tensors,
    angle_pairs,
    far_success,
    make_learner,
    proprio_scale,
    train_baseline,
)
from wm_plan.commands.baseline import main
from wm_plan.envs import make
from wm_plan.planners.rl import SHIPPED_POLICIES, RLPolicy, RLPolicyConfig, load_policy

EPISODE = 200
"""Env steps of an episode of reacher."""


def make_config(**overrides) -> BaselineConfig:
    settings = {
        "env": "reacher",
        "num_steps": 4 * EPISODE,
        "hidden_sizes": [16, 16],
        "batch_size": 16,
        "buffer_size": 120,
        "learning_starts": EPISODE,
        "save_every": 2 * EPISODE,
        "num_eval_episodes": 2,
    }
    return BaselineConfig(**{**settings, **overrides})


def metrics_of(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "wall_seconds"} for line in lines]


def test_the_kept_policy_is_the_learners_mean_action() -> None:
    config = make_config(env="two_room")
    model, env, policy_config = make_learner(config)
    policy = RLPolicy(policy_config, actor_tensors(model))
    seen = [env.reset(seed=seed)[0] for seed in range(6)]
    batch = {key: np.stack([one[key] for one in seen]) for key in seen[0]}
    expected, _ = model.predict(batch, deterministic=True)
    num_proprio = batch["observation"].shape[1]
    actions = policy.act(batch["observation"], batch["desired_goal"][:, :num_proprio])
    np.testing.assert_allclose(actions, expected, atol=1e-6)
    assert np.ptp(actions, axis=0).min() > 1e-4


def test_a_stopped_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """The buffer holds two and a half episodes, so that it has wrapped round before the stop."""

    def stop_late(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 5 * EPISODE:
            raise KeyboardInterrupt

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    config = make_config(action_repeat=10, buffer_size=50, save_every=4 * EPISODE, num_steps=7 * EPISODE)
    train_baseline(config, whole)
    with pytest.raises(KeyboardInterrupt):
        train_baseline(config, stopped, on_progress=stop_late)
    first = load_policy(stopped)
    assert first.metadata["env_steps"] == 4 * EPISODE
    train_baseline(config, stopped, resume=True)
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    assert metrics_of(whole) == metrics_of(stopped)
    assert [line["step"] for line in metrics_of(whole)] == [4 * EPISODE, 7 * EPISODE]
    last = load_policy(whole)
    assert not torch.equal(first.network[0].weight, last.network[0].weight)
    assert last.metadata["env_steps"] == 7 * EPISODE
    assert last.metadata["wall_seconds"] > 0
    assert last.metadata["versions"]["stable-baselines3"]


def test_a_training_may_be_extended(tmp_path: Path) -> None:
    short, longer = (make_config(action_repeat=10, num_steps=steps) for steps in (150, 2 * EPISODE))
    train_baseline(short, tmp_path)
    assert train_baseline(longer, tmp_path, resume=True).metadata["env_steps"] == 2 * EPISODE
    assert [line["step"] for line in metrics_of(tmp_path)] == [EPISODE, 2 * EPISODE]


def test_a_finished_training_is_not_trained_further(tmp_path: Path) -> None:
    config = make_config(num_steps=EPISODE)
    train_baseline(config, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    policy = train_baseline(config, tmp_path, resume=True)
    assert policy.metadata["env_steps"] == EPISODE
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    config = make_config(num_steps=EPISODE)
    train_baseline(config, tmp_path)
    for damaged in (pickle.dumps({"state": 1}), (tmp_path / "training.safetensors").read_bytes()[:-100]):
        (tmp_path / "training.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            train_baseline(config, tmp_path, resume=True)


def test_success_is_judged_by_the_task() -> None:
    """A damped servo reaches and holds, one damped too much comes too late, no torque at all does neither."""

    def servo(stiffness: float, damping: float) -> RLPolicy:
        config = RLPolicyConfig("reacher", 2, [-1, -1], [1, 1], [1.0] * 6, [[0, 1], [2, 3]], hidden_sizes=[])
        weight = torch.zeros(2, 12)
        weight[0, 7] = weight[1, 9] = stiffness
        weight[0, 4] = weight[1, 5] = -damping
        return RLPolicy(config, {"0.weight": weight, "0.bias": torch.zeros(2)})

    assert min(far_success(servo(2.0, 0.2), 8, seed=0)) > 0.8
    reached, held = far_success(servo(2.0, 0.4), 8, seed=0)
    assert reached > 0.8 > held > 0
    assert far_success(servo(0.0, 0.0), 8, seed=0) == (0.0, 0.0)


def test_angles_are_found_by_their_names() -> None:
    assert angle_pairs(make("reacher", render=False).proprio_names) == [[0, 1], [2, 3]]
    assert angle_pairs(make("point_mass", render=False).proprio_names) == []
    assert angle_pairs(["sin(a)", "x [m]", "cos(a)"]) == [[2, 0]]


def test_the_scale_is_that_of_random_motion() -> None:
    task = make("point_mass", render=False)
    scale = proprio_scale(task, np.random.default_rng(0))
    assert ((scale[:2] > 0.1) & (scale[:2] < 0.28)).all()
    assert ((scale[2:] > 0.005) & (scale[2:] < 0.1)).all()


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"discount": 1.0}, "discount must be between 0 and 1, got 1.0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"action_repeat": 3}, "multiple of action_repeat=3"),
        ({"env": "reecher"}, "Did you mean 'reacher'"),
    ],
)
def test_settings_out_of_range_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_learner(make_config(**overrides))


@pytest.mark.slow
def test_the_command_trains_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["--env", "reacher", "--out", str(tmp_path / "rl"), "--json", "--quiet", "--seed", "3"]
    assert main([*argv, "--steps", "150"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["env"], first["env_steps"], first["seed"]) == ("reacher", EPISODE, 3)
    assert main([*argv, "--steps", "150"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*argv, "--steps", "400", "--resume", "--seed", "4"]) == 2
    assert "was trained with seed 3, not 4" in capsys.readouterr().err
    assert main([*argv, "--steps", "400", "--resume"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["env_steps"] == 2 * EPISODE
    assert second["wall_seconds"] > first["wall_seconds"]
    assert 0 <= second["reached_rate"] <= 1
    names = sorted(path.name for path in (tmp_path / "rl").iterdir())
    assert names == ["config.json", "metrics.jsonl", "model.safetensors", "training.safetensors"]
    assert (
        load_policy(tmp_path / "rl").metadata["command"] == "wm-baseline --env reacher --steps 400 --seed 3"
    )


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--env", "reecher"], "Did you mean 'reacher'"),
        ([], "Add --env NAME"),
        (["--env", "reacher", "--steps", "0"], "at least 1"),
        (["--env", "reacher", "--resume"], "--out DIR"),
        (["--env", "reacher", "--resume", "--out", "nowhere"], "holds no training to resume"),
        (["--env", "reacher", "--resume", "--overwrite", "--out", "x"], "does not go with --overwrite"),
        (["--env", "reacher", "--device", "mps"], "not available"),
    ],
)
def test_wrong_input_is_one_line(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*argv, "--quiet"]) == 2
    out, errors = capsys.readouterr()
    assert (out, len(errors.splitlines())) == ("", 1)
    assert message in errors
    assert not list(tmp_path.iterdir())


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--env", "point_mass", "--out", str(tmp_path / "rl"), "--dry-run", "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)
    assert (settings["env"], settings["num_steps"]) == ("point_mass", 100_000)
    assert not list(tmp_path.iterdir())


def test_the_list_names_tasks_and_shipped_policies(capsys: pytest.CaptureFixture) -> None:
    assert main(["--list", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)
    assert "two_room" in names["envs"]
    assert "reacher" in names["shipped"]


def test_the_shipped_policy_reaches_far_goals_and_stays() -> None:
    policy = load_policy("reacher")
    assert min(far_success(policy, 20, seed=1)) >= 0.9
    assert policy.metadata["command"].startswith("wm-baseline --env reacher --steps ")
    assert policy.metadata["env_steps"] == 100_000
    weights = SHIPPED_POLICIES / "rl_reacher" / "model.safetensors"
    assert weights.stat().st_size < 2**20


@pytest.mark.slow
def test_ctrl_c_keeps_the_last_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "rl"
    script = "import sys; from wm_plan.commands.baseline import main; sys.exit(main())"
    argv = ["--env", "reacher", "--out", str(out), "--quiet"]
    command = [sys.executable, "-c", script, *argv]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not (out / "training.safetensors").is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == [
        f"warning: stopped; a checkpoint is kept in {out}. Go on with: the same command and --resume"
    ]
    assert main([*argv, "--resume", "--dry-run"]) == 0
    assert load_policy(out).metadata["env_steps"] == 4000
    assert sorted(path.suffix for path in out.iterdir()) == [
        ".json",
        ".jsonl",
        ".safetensors",
        ".safetensors",
    ]
