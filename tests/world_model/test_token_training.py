"""Training predictors over tokens: what they learn, that they plan, and that a stop changes nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import wm_plan
from tests.dot_world import SPEED, draw_dots, make_encoder, write_dots
from tests.processes import in_two_processes
from wm_plan.planners import CEM, MPC, GoalDistance
from wm_plan.world_model import TokenTrainConfig, TrajectoryStore, load_model, train_token_model
from wm_plan.world_model.dino_wm import DinoWMConfig
from wm_plan.world_model.token_training import Family, check_token_logs
from wm_plan.world_model.vjepa2_ac import NextState, VJEPA2ACConfig

FILES = {"config.json", "encoder", "metrics.jsonl", "model.safetensors", "training.safetensors"}


def make_config(family: str = "dino_wm", **overrides) -> TokenTrainConfig:
    settings = {
        "family": Family(family),
        "vjepa2_ac": VJEPA2ACConfig(
            width=32, depth=1, num_heads=2, max_steps=10, next_state=NextState.learned, residual=True
        ),
        "dino_wm": DinoWMConfig(depth=1, num_heads=2, head_dim=8, mlp_width=32, max_steps=10),
        "history": 2,
        "clip_steps": 4,
        "num_steps": 11,
        "batch_size": 4,
        "held_out": 0.2,
        "log_every": 4,
        "save_every": 3,
    }
    return TokenTrainConfig(**{**settings, **overrides})


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("trained")
    store = TrajectoryStore(write_dots(root / "data", 60))
    sizes = DinoWMConfig(depth=2, num_heads=2, head_dim=32, mlp_width=128)
    config = make_config(
        dino_wm=sizes,
        history=1,
        num_steps=300,
        batch_size=16,
        learning_rate=3e-3,
        save_every=1000,
        log_every=100,
    )
    train_token_model(store, make_encoder(), root / "run", config, record={"command": "here"})
    return root, store, load_model(root / "run")


def test_it_learns_what_copying_the_last_frame_misses(trained) -> None:
    _, _, model = trained
    imagined, copied = model.metadata.open_loop_error, model.metadata.training["copying_error"]
    assert len(imagined) == len(copied) == 10
    assert imagined[0] < 0.4 * copied[0]
    assert imagined[1] < 0.5 * copied[1]


def test_it_plans_to_a_goal_image(trained) -> None:
    _, _, model = trained
    planner = CEM(
        (model.action_low, model.action_high), horizon=4, num_samples=48, num_iterations=3, num_elites=8
    )
    controller = MPC(model, planner, GoalDistance("l1", reduce="sum"))
    for start, goal in (([0.2, 0.3], [0.6, 0.6]), ([0.7, 0.6], [0.4, 0.4])):
        controller.reset(seed=0)
        controller.set_goal(draw_dots(np.array(goal)))
        position = np.array(start)
        for _ in range(8):
            position = position + SPEED * controller.act({"pixels": draw_dots(position)})
        assert np.linalg.norm(position - goal) < 0.1


def test_a_checkpoint_says_what_it_was_made_from(trained) -> None:
    root, store, model = trained
    assert {path.name for path in (root / "run").iterdir()} == FILES
    record = model.metadata.training
    assert (record["command"], record["data_fingerprint"]) == ("here", store.fingerprint)
    assert record["episodes"] == {"train": 48, "held_out": 12}
    assert 0 < model.reach_error_rate < 0.5
    here = model.encode(draw_dots(np.array([[0.5, 0.5], [0.5, 0.5]]))[:, None])[:, 0]
    there = model.encode(draw_dots(np.array([[0.5, 0.5], [0.9, 0.2]]))[:, None])[:, 0]
    assert model.reached(here, there).tolist() == [True, False]
    strange = np.random.default_rng(1).integers(0, 256, (5, 1, 16, 16, 3), dtype=np.uint8)
    assert (model.unfamiliarity(strange) > 1).all()


@pytest.mark.parametrize("family", list(Family))
def test_a_stopped_training_resumes_to_the_same_bits(family: Family, tmp_path: Path) -> None:
    store, encoder = TrajectoryStore(write_dots(tmp_path / "data")), make_encoder()
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    config = make_config(family, ema=0.9, accumulate=2, patience=3, judge_every=3)
    train_token_model(store, encoder, whole, config)

    def stop(done: int, total: int, metrics: dict[str, float]) -> None:
        if metrics and done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_token_model(store, encoder, stopped, config, progress=stop)
    assert not (stopped / "model.safetensors").exists()
    train_token_model(store, encoder, stopped, config, resume=True)
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    assert metrics_of(whole) == metrics_of(stopped)
    with pytest.raises(ValueError, match="was trained with history 2, not 1"):
        train_token_model(store, encoder, stopped, replace(config, history=1), resume=True)


def _train(data: Path, out: Path, config: TokenTrainConfig) -> None:
    train_token_model(TrajectoryStore(data), make_encoder(), out, config)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    data, config = write_dots(tmp_path / "data"), make_config(log_every=1)
    _train(data, tmp_path / "one", config)
    in_two_processes(_train, data, tmp_path / "two", config)
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert len(one) == len(two) == config.num_steps + 1
    for alone, together in zip(one, two, strict=True):
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, rel=2e-3, abs=1e-4), (alone["step"], name)


def test_reacher_is_learned_from_tokens_and_proprio_and_planned_with(tmp_path: Path) -> None:
    from wm_plan.collecting import CollectConfig, collect

    collect(
        CollectConfig(env="reacher", num_episodes=32, num_steps=30, image_size=32),
        tmp_path / "data",
        num_workers=1,
    )
    store = TrajectoryStore(tmp_path / "data")
    config = make_config(
        dino_wm=DinoWMConfig(depth=2, num_heads=2, head_dim=16, mlp_width=96),
        use_proprio=True,
        num_steps=240,
        batch_size=16,
        learning_rate=3e-3,
        save_every=1000,
        log_every=100,
    )
    model = train_token_model(store, make_encoder(), tmp_path / "run", config)
    imagined, copied = model.metadata.open_loop_error, model.metadata.training["copying_error"]
    assert imagined[0] < copied[0]
    assert np.mean(imagined[2:]) < 0.75 * np.mean(copied[2:])
    env = wm_plan.make_env("reacher")
    space = env.action_space
    planner = CEM((space.low, space.high), horizon=3, num_samples=16, num_iterations=2, num_elites=4)
    controller = MPC(model, planner, GoalDistance("l1"))
    controller.set_goal(env.render_goal(env.parse_goal("1.2,1.0"), image_size=32))
    observation, _ = env.reset(seed=0)
    for _ in range(3 * model.frame_skip):
        action = controller.act(observation)
        assert space.contains(action)
        observation, *_ = env.step(action)
    plan = controller.last_plan
    still = model.rollout(controller._context, torch.zeros(1, 1, 3, 2), **controller._told(torch.tensor([0])))
    goal = controller.goal_latent
    assert float(plan.cost[0]) <= float(GoalDistance("l1")(still, torch.zeros(1, 1, 3, 2), goal)[0, 0])
    env.close()


def test_logs_and_settings_that_do_not_serve_are_named(tmp_path: Path) -> None:
    store = TrajectoryStore(write_dots(tmp_path / "dots", 5, num_steps=5))
    check_token_logs(store, make_config())
    with pytest.raises(ValueError, match="'proprio'"):
        check_token_logs(store, make_config(use_proprio=True))
    with pytest.raises(ValueError, match="no episode has the 7 rows"):
        check_token_logs(store, make_config(clip_steps=7))
    for overrides, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"compile": True}, "compile=true is for the compact predictor"),
        ({"held_out": 1.0}, "held_out must be between 0 and 1, got 1.0"),
        ({"clip_steps": 3}, "clip_steps 3 are too few for history 2 and rollout_steps 2; give at least 4"),
        ({"clip_steps": 12}, "clip_steps 12 are too many for max_steps 10; give at most 11"),
    ):
        with pytest.raises(ValueError, match=message):
            make_config(**overrides)
