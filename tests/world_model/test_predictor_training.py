"""Training a world model on the dot: what it learns, what stays as it was, what a stop changes (nothing)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wm_plan
from tests.dot_world import RECIPE, draw_dots, make_encoder, make_episode, write_dots
from tests.processes import in_two_processes
from wm_plan.world_model.compact import load_model
from wm_plan.world_model.compact_config import CompactConfig, PredictorKind
from wm_plan.world_model.compact_predictors import make_predictor, scale_of
from wm_plan.world_model.head_training import InverseDynamics, all_latents, window_losses
from wm_plan.world_model.predictor_training import train_world_model
from wm_plan.world_model.rollout_training import rollout_stage
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter
from wm_plan.world_model.temporal_distance import DistanceConfig
from wm_plan.world_model.train_config import TrainConfig
from wm_plan.world_model.training_logs import TrainingLogs, block_actions, check_logs
from wm_plan.world_model.training_state import load_state, no_progress

SIZES = {"latent_dim": 8, "token_dim": 8, "head_width": 48, "history": 2, "predictor_width": 48}
FILES = {"config.json", "encoder", "metrics.jsonl", "model.safetensors", "training.safetensors"}


def make_config(**overrides) -> TrainConfig:
    settings = {
        "model": CompactConfig(**SIZES, predictor_depth=1, distance_width=16),
        "distance": DistanceConfig(num_steps=6, batch_size=16, log_every=3),
        "num_steps": 11,
        "num_predictor_steps": 6,
        "batch_size": 8,
        "predictor_batch_size": 8,
        "rollout_steps": 3,
        "predictor_rollout_steps": 4,
        "token_frames": 8,
        "look_frames": 8,
        "num_look_steps": 7,
        "look_batch_size": 8,
        "held_out": 0.2,
        "log_every": 4,
        "save_every": 3,
    }
    return TrainConfig(**{**settings, **overrides})


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def judge(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
    return np.linalg.norm(states - goals, axis=-1) <= 0.08


class Stop:
    """Interrupts a training in the middle of a stage."""

    def __init__(self, stage: str, done: int) -> None:
        self.wanted, self.done, self.stage = stage, done, ""

    def on_stage(self, name: str) -> None:
        self.stage = name

    def progress(self, done: int, total: int, metrics: dict[str, float]) -> None:
        if self.stage == self.wanted and done >= self.done:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("trained")
    store = TrajectoryStore(write_dots(root / "data", 60, varied=True))
    encoder = make_encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    config = make_config(
        num_steps=250,
        num_predictor_steps=400,
        batch_size=32,
        predictor_batch_size=64,
        num_look_steps=800,
        look_batch_size=192,
        learning_rate=3e-3,
        save_every=1000,
        log_every=50,
        distance=DistanceConfig(num_steps=100, batch_size=64),
    )
    stages: list[str] = []
    model = train_world_model(
        store,
        encoder,
        root / "run",
        config,
        reached=judge,
        record={"command": "here"},
        on_stage=stages.append,
    )
    return root, store, encoder, before, model, stages


def test_training_never_changes_the_encoder(trained) -> None:
    root, _, encoder, before, model, _ = trained
    assert model.encoder is encoder
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert load_model(root / "run").encoder.fingerprint == encoder.fingerprint


def test_the_latent_tells_the_position_in_any_look(trained) -> None:
    model = trained[4]
    rng = np.random.default_rng(5)
    positions = rng.random((400, 2))
    frames = draw_dots(positions)[:, None]
    latents = model.encode(frames)[:, 0].numpy()
    inputs = np.hstack([latents, latents**2, np.ones((400, 1))])
    weights = np.linalg.lstsq(inputs[:200], positions[:200], rcond=None)[0]
    missed = ((inputs[200:] @ weights - positions[200:]) ** 2).mean()
    assert missed < 0.05 * positions.var()
    tinted = model.encode(draw_dots(positions, tint=(120, 200, 90))[:, None])[:, 0].numpy()
    assert ((tinted - latents) ** 2).sum(1).mean() < 0.2 * 2 * latents.var(0).sum()


def test_imagined_latents_are_those_that_follow(trained) -> None:
    model = trained[4]
    errors = model.metadata.open_loop_error
    assert len(errors) == 10
    assert errors[0] < 0.02
    assert errors[4] < 0.1
    episode = make_episode(999)
    latents = model.encode(episode["pixels"][None])
    actions = torch.from_numpy(episode["action"][None, 1:5])
    imagined = model.rollout(latents[:, :2], torch.stack([actions, -actions], dim=1))
    missed = (imagined - latents[:, None, 2:6]).square().sum(-1)[0, :, -1]
    assert missed[0] < 0.25 * missed[1]


def test_it_judges_what_is_reached_and_knows_how_often_it_errs(trained) -> None:
    model = trained[4]
    assert 0 < model.reach_error_rate < 0.35
    here = model.encode(draw_dots(np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]))[:, None])[:, 0]
    there = model.encode(draw_dots(np.array([[0.5, 0.5], [0.52, 0.49], [0.9, 0.2]]))[:, None])[:, 0]
    assert model.reached(here, there).tolist() == [True, True, False]


def test_strange_frames_are_told_from_familiar_ones(trained) -> None:
    model = trained[4]
    familiar = model.unfamiliarity(draw_dots(np.random.default_rng(7).random((100, 2)))[:, None])
    assert (familiar < 1).float().mean() > 0.9
    strange = np.random.default_rng(1).integers(0, 256, (5, 1, 16, 16, 3), dtype=np.uint8)
    assert (model.unfamiliarity(strange) > 1).all()


def test_a_checkpoint_says_what_it_was_made_from(trained) -> None:
    root, store, _, _, model, stages = trained
    assert {path.name for path in (root / "run").iterdir()} == FILES
    loaded = load_model(root / "run")
    record = loaded.metadata.training
    assert record["config"]["num_steps"] == 250
    assert record["episodes"] == {"train": 48, "held_out": 12}
    assert (record["data_fingerprint"], record["command"]) == (store.fingerprint, "here")
    assert (loaded.env_name, loaded.frame_skip, loaded.metadata.camera) == ("dot", 1, "above")
    assert loaded.metadata == model.metadata
    assert stages == [
        "encoding frames",
        "state head and predictor",
        "other looks",
        "longer rollouts",
        "temporal distance",
        "calibration",
    ]
    assert (loaded.action_low.tolist(), loaded.action_high.tolist()) == ([-1, -1], [1, 1])


def test_a_training_stopped_in_every_stage_resumes_to_the_same_bits(tmp_path: Path) -> None:
    store, encoder = TrajectoryStore(write_dots(tmp_path / "data", varied=True)), make_encoder()
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    config = make_config(ema=0.9, patience=2, judge_every=2, save_every=2)
    train_world_model(store, encoder, whole, config)
    at: list[int] = []
    stages = ("state head and predictor", "other looks", "longer rollouts", "temporal distance")
    for stage, done in zip(stages, (8, 4, 4, 3), strict=True):
        stop = Stop(stage, done)
        with pytest.raises(KeyboardInterrupt):
            train_world_model(
                store,
                encoder,
                stopped,
                config,
                resume=(stopped / "training.safetensors").exists(),
                on_stage=stop.on_stage,
                progress=stop.progress,
            )
        assert not (stopped / "model.safetensors").exists()
        at.append(load_state(stopped)["step"])
    assert at == [6, 2, 2, 2]  # the middle of each stage, where the next run went on
    train_world_model(store, encoder, stopped, config, resume=True)
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    assert metrics_of(whole) == metrics_of(stopped)
    logged = [line["step"] for line in metrics_of(whole) if "held_out_error" not in line]
    assert logged == [4, 8, 11, 15, 18, 22, 24, 27, 30, 30]
    assert {path.name for path in stopped.iterdir()} == FILES


def _train(data: Path, out: Path, config: TrainConfig) -> None:
    train_world_model(TrajectoryStore(data), make_encoder(), out, config)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    data = write_dots(tmp_path / "data", varied=True)
    config = make_config(
        log_every=1, sigreg_weight=0.1, distance=DistanceConfig(num_steps=4, batch_size=16, log_every=1)
    )
    _train(data, tmp_path / "one", config)
    in_two_processes(_train, data, tmp_path / "two", config)
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert [line["step"] for line in two] == [line["step"] for line in one] == [*range(1, 29), 28]
    for alone, together in zip(one, two, strict=True):
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, rel=2e-3, abs=1e-4), (alone["step"], name)
    assert load_model(tmp_path / "two").metadata.training["processes"] == 2


@pytest.mark.parametrize("kind", [PredictorKind.gru, PredictorKind.transformer])
def test_other_predictors_and_losses_train_and_load(kind: PredictorKind, tmp_path: Path) -> None:
    store = TrajectoryStore(write_dots(tmp_path / "data"))
    sizes = CompactConfig(**{**SIZES, "predictor": kind, "predictor_width": 16, "predictor_heads": 2})
    weights = ("rollout", "sigreg", "variance", "covariance", "similarity", "straightening")
    config = make_config(
        model=sizes,
        contrast_weight=0.0,
        stop_gradient=True,
        precision="bfloat16",
        accumulate=2,
        **{f"{name}_weight": 0.5 for name in weights},
    )
    model = train_world_model(store, make_encoder(), tmp_path / "run", config)
    assert set(metrics_of(tmp_path / "run")[0]) == {"step", "inverse", "tokens", *weights}
    loaded = load_model(tmp_path / "run")
    assert loaded.config == sizes
    context, actions = torch.randn(1, 2, 8), torch.rand(1, 5, 4, 2)
    torch.testing.assert_close(
        loaded.rollout(context, actions), model.rollout(context, actions), atol=0.02, rtol=0.02
    )


def test_keypoints_and_a_gated_predictor_train_resume_and_load(tmp_path: Path) -> None:
    store = TrajectoryStore(write_dots(tmp_path / "data"))
    sizes = CompactConfig(**{**SIZES, "keypoints": 5, "predictor": PredictorKind.gated})
    config = make_config(model=sizes)
    model = train_world_model(store, make_encoder(), tmp_path / "run", config)
    stop = Stop("state head and predictor", 5)
    with pytest.raises(KeyboardInterrupt):
        train_world_model(
            store, make_encoder(), tmp_path / "two", config, on_stage=stop.on_stage, progress=stop.progress
        )
    resumed = train_world_model(store, make_encoder(), tmp_path / "two", config, resume=True)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, resumed.state_dict()[name], msg=name)
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "two")
    loaded = load_model(tmp_path / "run")
    assert loaded.config == sizes
    assert not torch.equal(scale_of(loaded.predictor), torch.ones(len(scale_of(loaded.predictor))))


def test_a_stopped_gradient_lets_what_follows_be(tmp_path: Path) -> None:
    latents = torch.randn(3, 5, 4, requires_grad=True)
    sizes = CompactConfig(latent_dim=4, history=2)
    settings = {"model": sizes, "contrast_weight": 0.0, "rollout_weight": 1.0, "inverse_weight": 0.0}
    for stopped in (True, False):
        config = make_config(**settings, stop_gradient=stopped)
        predictor, inverse = make_predictor(sizes, 2), InverseDynamics(sizes, 2)
        losses = window_losses(
            predictor, inverse, latents, torch.zeros(3, 5, 2), config, torch.Generator().manual_seed(0)
        )
        (gradient,) = torch.autograd.grad(losses["rollout"], latents)
        future = (latents[:, 2:] - latents[:, 1:2]).square().mean()  # nothing moves, untrained
        assert losses["rollout"].item() == pytest.approx(future.item(), rel=1e-5)
        assert (gradient[:, 2:] == 0).all() == stopped
        assert (gradient[:, 1] != 0).all()


def test_action_blocks_are_trained_from_logs_of_single_actions(tmp_path: Path) -> None:
    store = TrajectoryStore(write_dots(tmp_path / "data", 40, num_steps=24))
    config = make_config(
        action_block=3,
        num_steps=150,
        num_predictor_steps=300,
        batch_size=32,
        predictor_batch_size=64,
        learning_rate=3e-3,
        save_every=1000,
    )
    train_world_model(store, make_encoder(), tmp_path / "run", config)
    controller = wm_plan.load(tmp_path / "run", overrides=["planner.num_samples=64"])
    model: Any = controller.model
    assert (model.frame_skip, model.action_block, model.action_low.tolist()) == (3, 3, [-1, -1])
    assert model.metadata.open_loop_error[0] < 0.1
    # what each action of a block does is known: three that cancel leave the dot where it is
    frames = draw_dots(np.full((1, 1, 2), 0.5))
    context = model.encode(frames)
    right, left = [0.8, 0.0], [-0.8, 0.0]
    plans = torch.tensor([[*right, *left, 0, 0], [*right, *right, *right], [*left, *right, 0, 0]])
    reached = model.rollout(context, plans[None, :, None])[0, :, 0]
    away = (reached - context[0]).square().sum(-1)
    assert away[[0, 2]].max() < 0.2 * away[1]
    controller.set_goal(draw_dots(np.array([0.8, 0.5])))
    actions = [controller.act({"pixels": frames[0, 0]}) for _ in range(3)]
    assert controller.last_plan is not None
    planned = controller.last_plan.actions[0, 0].view(3, 2).numpy()
    np.testing.assert_allclose(actions, planned, atol=1e-6)


def test_block_actions_lie_side_by_side_in_their_order(tmp_path: Path) -> None:
    store = TrajectoryStore(write_dots(tmp_path / "data", 2, num_steps=4))
    action = np.nan_to_num(store.read("action"))
    blocks = block_actions(store, 2).numpy()
    assert blocks.shape == (10, 4)
    np.testing.assert_array_equal(blocks[0], np.concatenate([action[0], action[1]]))
    np.testing.assert_array_equal(blocks[3], [*action[3], 0, 0])  # after the last action nobody acts
    np.testing.assert_array_equal(blocks[4], np.zeros(4))
    np.testing.assert_array_equal(blocks[5], np.concatenate([action[5], action[6]]))


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    store, encoder = TrajectoryStore(write_dots(tmp_path / "data")), make_encoder()
    with pytest.raises(ValueError, match="holds no training to resume"):
        train_world_model(store, encoder, tmp_path / "run", make_config(), resume=True)
    train_world_model(store, encoder, tmp_path / "run", make_config())
    wider = make_config(model=CompactConfig(**{**SIZES, "latent_dim": 9}))
    for message, arguments in (
        ("was trained with model.latent_dim 8, not 9", (store, encoder, tmp_path / "run", wider)),
        ("was trained with encoder '", (store, make_encoder(seed=1), tmp_path / "run", make_config())),
        (
            "was trained with data '",
            (TrajectoryStore(write_dots(tmp_path / "more", 11)), encoder, tmp_path / "run", make_config()),
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train_world_model(*arguments, resume=True)


def test_errors_of_rollouts_count_squared_or_beyond_a_bound_by_their_size(trained) -> None:
    _, store, encoder, _, model, _ = trained
    config = make_config()
    logs = TrainingLogs(store, encoder, config)
    latents = all_latents(model.head, logs.moments(no_progress))

    def loss(beta: float) -> float:
        logs = TrainingLogs(store, encoder, make_config(huber_beta=beta))
        with torch.no_grad():
            return rollout_stage(logs, model, latents).losses(0, 0)["long_rollout"].item()

    rng = np.random.default_rng([config.seed, 3, 0])
    rows = logs.windows(config.predictor_rollout_steps).sample(config.predictor_batch_size, rng)
    actions = model.normalise_actions(logs.actions[torch.from_numpy(rows)])[:, 1:-1]
    error = (model.predictor(latents[rows[:, :2]], actions) - latents[rows[:, 2:]]).detach()
    squared, size = (each.sum(-1).mean().item() for each in (error.square(), error.abs()))
    assert loss(0.0) == pytest.approx(squared, rel=1e-4)
    assert 2e3 * loss(1e3) == pytest.approx(squared, rel=1e-4)
    assert loss(1e-7) == pytest.approx(size, rel=1e-4)


def test_logs_that_do_not_serve_are_named(tmp_path: Path) -> None:
    dots = write_dots(tmp_path / "dots", 3, num_steps=5)
    with StoreWriter(tmp_path / "blind", RECIPE, 1) as writer:
        writer.write(0, {"action": np.zeros((9, 2), np.float32)})
    with StoreWriter(tmp_path / "nameless", {"env": "dot"}, 3) as writer:
        for index in range(3):
            writer.write(index, make_episode(index))
    with StoreWriter(tmp_path / "skips", {**RECIPE, "frame_skip": 4}, 3) as writer:
        for index in range(3):
            writer.write(index, make_episode(index))
    for paths, overrides, message in (
        ([tmp_path / "blind"], {}, "no column 'pixels'"),
        ([dots, tmp_path / "blind"], {}, "some of the logs have no column 'pixels'"),
        ([tmp_path / "nameless"], {}, "does not say its frame_skip"),
        ([dots, tmp_path / "skips"], {}, "frame_skip is 1 in .* and 4 in"),
        ([dots], {"predictor_rollout_steps": 5}, "no episode has the 7 rows"),
        ([dots], {"held_out": 0.9}, "3 episodes are too few to hold 3 out"),
    ):
        with pytest.raises(ValueError, match=message):
            check_logs(TrajectoryStore(paths), make_config(**overrides))
    check_logs(TrajectoryStore(dots), make_config())


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"held_out": 0.0}, "held_out must be between 0 and 1, got 0.0"),
        ({"huber_beta": -0.1}, "huber_beta must be at least 0, got -0.1"),
    ],
)
def test_settings_out_of_range_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**overrides)
