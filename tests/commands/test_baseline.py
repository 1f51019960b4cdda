"""`wm-baseline` and the training behind it: what it makes, how it resumes, what it refuses."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_plan.baseline import (
    BaselineConfig,
    angle_pairs,
    feature_scale,
    make_learner,
)
from wm_plan.baseline import (
    train_baseline as train_judged_baseline,
)
from wm_plan.baseline_latents import latent_controller, load_latent_model
from wm_plan.baseline_state import actor_tensors
from wm_plan.commands.baseline import main
from wm_plan.envs import make, make_task
from wm_plan.envs.goal_env import GoalEnv
from wm_plan.evaluation.checkpoints import CheckpointJudge
from wm_plan.evaluation.protocols import PROTOCOLS, draw_trials
from wm_plan.planners.rl import SHIPPED_POLICIES, RLPolicy, RLPolicyConfig, load_policy
from wm_plan.world_model import CompactConfig, CompactWorldModel, JEPAEncoder, ViTConfig
from wm_plan.world_model.metadata import ModelMetadata

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


def train_baseline(config: BaselineConfig, out: Path, **options) -> RLPolicy:
    judge = CheckpointJudge(config.env, config.num_eval_episodes, config.seed)
    return train_judged_baseline(config, out, judge, **options)


def metrics_of(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "wall_seconds"} for line in lines]


def untrained(folder: Path, name: str = "reacher", **changed) -> Path:
    """A world model of a task that knows nothing, saved."""
    task = make(name, render=False)
    torch.manual_seed(5)
    encoder = JEPAEncoder(ViTConfig(image_size=32, patch_size=8, width=12, depth=1, num_heads=1), (1,))
    sizes = CompactConfig(latent_dim=4, token_dim=2, head_width=8, predictor_width=8, distance_width=8)
    bounds = (task.action_space.low.tolist(), task.action_space.high.tolist())
    about = ModelMetadata(name, task.frame_skip, task.control_timestep, 32, task.parts.camera, *bounds)
    model = CompactWorldModel(encoder, sizes, replace(about, **changed))
    torch.nn.init.normal_(model.head.body[-1].weight)
    model.save(folder)
    return folder


@pytest.mark.parametrize("name", ["two_room", "push_t"])
def test_the_kept_policy_is_the_learners_mean_action(name: str) -> None:
    config = make_config(env=name)
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
    curves = [load_policy(folder).metadata["curve"] for folder in (whole, stopped)]
    assert (
        curves[0] == curves[1] == [{name: line[name] for name in curves[0][0]} for line in metrics_of(whole)]
    )
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
    """A damped servo reaches and holds, one damped too much comes too late, no torque at all does neither.

    Servos take the short way round, which the wrist's limit bars now and then.
    """

    def servo(stiffness: float, damping: float) -> RLPolicy:
        config = RLPolicyConfig("reacher", 2, [-1, -1], [1, 1], [1.0] * 6, [[0, 1], [2, 3]], hidden_sizes=[])
        weight = torch.zeros(2, 12)
        weight[0, 7] = weight[1, 9] = stiffness
        weight[0, 4] = weight[1, 5] = -damping
        return RLPolicy(config, {"0.weight": weight, "0.bias": torch.zeros(2)})

    judge = CheckpointJudge("reacher", 8, seed=0)
    brisk, slow = judge(servo(2.0, 0.2)), judge(servo(2.0, 0.4))
    assert brisk["far_reached"] == brisk["far_held"] > 0.5
    assert brisk["near_reached"] > 0.5
    assert slow["far_held"] < slow["far_reached"]
    assert judge(servo(0.0, 0.0)) == {"near_reached": 0.0, "far_reached": 0.0, "far_held": 0.0}


def test_checkpoints_are_tried_on_trials_of_their_own() -> None:
    mine, same, other = (CheckpointJudge("point_mass", 3, seed).trials["far"] for seed in (0, 0, 1))
    evaluated = draw_trials(make_task("point_mass", render=False), PROTOCOLS["far"], 3, 0)
    starts = [[trial.start.tolist() for trial in trials] for trials in (mine, same, other, evaluated)]
    assert starts[0] == starts[1]
    assert starts[0] not in (starts[2], starts[3])


def test_angles_are_found_by_their_names() -> None:
    assert angle_pairs(make("reacher", render=False).proprio_names) == [[0, 1], [2, 3]]
    assert angle_pairs(make("point_mass", render=False).proprio_names) == []
    assert angle_pairs(["sin(a)", "x [m]", "cos(a)"]) == [[2, 0]]


def test_the_scale_is_that_of_random_motion() -> None:
    env = GoalEnv(make_task("point_mass", render=False), 5)
    scale = feature_scale(env, np.random.default_rng(0))
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
        ({"env": "reecher", "observation": "latent"}, "Did you mean 'reacher'"),
        ({"observation": "pixels"}, "one of state, latent, got 'pixels'"),
        ({"model": "reacher"}, "no say where state is observed"),
        (
            {"observation": "latent", "action_repeat": 3},
            "of the world model, 4 env steps, got 3",
        ),
        ({"observation": "latent", "model": "nowhere"}, "nowhere"),
    ],
)
def test_settings_out_of_range_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_learner(make_config(**overrides))


def test_a_learner_on_latents_sees_what_a_planner_sees(tmp_path: Path) -> None:
    folder = untrained(tmp_path / "model")
    _, env, config = make_learner(make_config(observation="latent", model=str(folder)))
    world, source, fingerprint = load_latent_model("reacher", folder)
    assert (config.model, config.latents, config.action_repeat) == (source, fingerprint, world.frame_skip)
    assert (config.num_features, config.num_goal) == (8, 4)
    seen, _ = env.reset(seed=2)
    before = seen["observation"][:4]
    assert not seen["observation"][4:].any()
    goal = world.encode(torch.from_numpy(env.task.render_goal(env.goal_state))[None, None])[0, 0]
    np.testing.assert_allclose(seen["desired_goal"][:4], goal, atol=1e-5)
    seen, *_ = env.step(np.ones(2, np.float32))
    latent = world.encode(torch.from_numpy(env.task.render())[None, None])[0, 0].numpy()
    np.testing.assert_allclose(seen["observation"], [*latent, *(latent - before)], atol=1e-5)
    np.testing.assert_allclose(seen["achieved_goal"][:4], latent, atol=1e-5)
    assert np.abs(latent - before).max() > 1e-3
    np.testing.assert_array_equal(config.feature_scale[:4], config.feature_scale[0])
    assert config.feature_scale[0] != config.feature_scale[4]


@pytest.mark.parametrize("num_felt", [0, 6])
def test_a_policy_on_latents_acts_in_the_planners_loop_as_in_training(num_felt: int, tmp_path: Path) -> None:
    folder = untrained(tmp_path / "model", proprio_dim=num_felt)
    model, env, config = make_learner(make_config(observation="latent", model=str(folder)))
    assert (config.num_felt, config.num_goal, config.num_features) == (num_felt, 4, 2 * (4 + num_felt))
    assert len(set(config.feature_scale)) == 2 + 2 * num_felt
    RLPolicy(config, actor_tensors(model)).save(tmp_path / "rl")
    controller = latent_controller(load_policy(tmp_path / "rl"))
    seen, _ = env.reset(seed=3)
    controller.reset()
    controller.set_goal(env.task.render_goal(env.goal_state))
    watched = make_task("reacher")
    watched.set_state(env.task.get_state())
    for _ in range(4):
        expected, _ = model.predict(seen, deterministic=True)
        taken = [controller.act(watched.observe()) for _ in range(env.action_repeat)]
        np.testing.assert_allclose(taken, np.tile(expected, (env.action_repeat, 1)), atol=1e-5)
        seen, *_ = env.step(expected)
        watched.set_state(env.task.get_state())


def test_a_training_on_latents_resumes_to_the_same_bits(tmp_path: Path) -> None:
    folder = str(untrained(tmp_path / "model"))
    whole, stopped = (
        make_config(observation="latent", model=folder, num_steps=steps, save_every=EPISODE)
        for steps in (2 * EPISODE, EPISODE)
    )
    train_baseline(whole, tmp_path / "whole")
    train_baseline(stopped, tmp_path / "stopped")
    train_baseline(whole, tmp_path / "stopped", resume=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "stopped")
    assert (
        load_policy(tmp_path / "whole")
        .metadata["command"]
        .startswith(f"wm-baseline --env reacher --observation latent --model {folder} --steps")
    )
    torch.manual_seed(6)
    changed = CompactWorldModel.load(folder)
    torch.nn.init.normal_(changed.head.body[-1].weight)
    changed.save(folder)
    with pytest.raises(ValueError, match="was begun on other latents than"):
        train_baseline(make_config(**{**whole.__dict__, "num_steps": 800}), tmp_path / "whole", resume=True)
    with pytest.raises(ValueError, match="is not there or gives others by now"):
        latent_controller(load_policy(tmp_path / "whole"))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"env_name": "two_room"}, "was trained on 'two_room', not on 'reacher'"),
        ({"views": ["pixels", "wrist"]}, "takes one vector from one camera"),
    ],
)
def test_a_world_model_without_such_latents_is_refused(changed: dict, message: str, tmp_path: Path) -> None:
    folder = untrained(tmp_path / "model", **changed)
    with pytest.raises(ValueError, match=message):
        make_learner(make_config(observation="latent", model=str(folder)))


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
    assert 0 <= min(second["near_reached_rate"], second["far_reached_rate"], second["far_held_rate"]) <= 1
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
    rates = CheckpointJudge("reacher", 20, seed=1)(policy)
    assert min(rates["far_reached"], rates["far_held"]) >= 0.9
    assert policy.metadata["command"].startswith("wm-baseline --env reacher --steps ")
    assert policy.metadata["env_steps"] == 100_000
    weights = SHIPPED_POLICIES / "rl_reacher" / "model.safetensors"
    assert weights.stat().st_size < 2**20


@pytest.mark.slow
def test_ctrl_c_keeps_the_last_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "rl"
    script = "import sys; from wm_plan.commands.baseline import main; sys.exit(main())"
    argv = ["--env", "reacher", "--out", str(out), "--save-every", "2000", "--quiet"]
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
    assert load_policy(out).metadata["env_steps"] == 2000
    assert sorted(path.suffix for path in out.iterdir()) == [
        ".json",
        ".jsonl",
        ".safetensors",
        ".safetensors",
    ]
