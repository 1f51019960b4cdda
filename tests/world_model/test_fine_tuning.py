"""Going on from the weights of a model that there is: what stays, what moves, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import RECIPE, SPEED, draw_dots, make_encoder, make_episode, write_dots
from tests.world_model.test_predictor_training import make_config, metrics_of
from wm_plan.world_model.compact import CompactWorldModel
from wm_plan.world_model.fine_tuning import BUDGET, check_start, overrides_of
from wm_plan.world_model.predictor_training import train_world_model
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter
from wm_plan.world_model.temporal_distance import DistanceConfig

TUNING = {
    "num_steps": 0,
    "num_look_steps": 0,
    "num_predictor_steps": 300,
    "predictor_batch_size": 64,
    "learning_rate": 1e-3,
    "save_every": 1000,
}


def write_contrary_dots(root: Path, num_episodes: int = 20) -> TrajectoryStore:
    """The same world, in which an action moves the dot the other way."""
    with StoreWriter(root, RECIPE, num_episodes) as writer:
        for index in writer.missing():
            episode = make_episode(1000 + index)
            position = episode["state"].copy()
            for step in range(len(position) - 1):
                moved = position[step] - SPEED * episode["action"][step]
                position[step + 1] = np.clip(moved, 0, 1)
            columns = {"pixels": draw_dots(position), "action": episode["action"], "state": position}
            writer.write(index, columns)
    return TrajectoryStore(root)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> CompactWorldModel:
    root = tmp_path_factory.mktemp("start")
    config = make_config(
        num_steps=150,
        num_predictor_steps=300,
        batch_size=32,
        predictor_batch_size=64,
        learning_rate=3e-3,
        save_every=1000,
    )
    train_world_model(TrajectoryStore(write_dots(root / "data", 40)), make_encoder(), root / "run", config)
    return CompactWorldModel.load(root / "run")


def test_a_changed_robot_is_learned_by_the_predictor_and_the_head_stays(
    start: CompactWorldModel, tmp_path: Path
) -> None:
    contrary = write_contrary_dots(tmp_path / "contrary")
    untouched = make_config(**{**TUNING, "num_predictor_steps": 1, "learning_rate": 1e-9})
    before = train_world_model(contrary, start.encoder, tmp_path / "before", untouched, start=start)
    tuned = train_world_model(contrary, start.encoder, tmp_path / "tuned", make_config(**TUNING), start=start)
    assert tuned.metadata.open_loop_error[4] < 0.5 * before.metadata.open_loop_error[4]
    for name, tensor in start.head.state_dict().items():
        assert torch.equal(tuned.head.state_dict()[name], tensor), name
    assert not torch.equal(tuned.predictor.net.leave.weight, start.predictor.net.leave.weight)
    assert not torch.equal(tuned.distance.net[0].weight, start.distance.net[0].weight)
    assert tuned.metadata.training["from"]["config"]["num_steps"] == 150
    assert (tuned.action_low.tolist(), tuned.metadata.env_name) == ([-1, -1], "dot")


def test_the_head_moves_if_it_is_given_steps_and_its_normalisers_stay(
    start: CompactWorldModel, tmp_path: Path
) -> None:
    contrary = write_contrary_dots(tmp_path / "contrary", 10)
    config = make_config(num_predictor_steps=2, distance=DistanceConfig(num_steps=2, batch_size=8))
    tuned = train_world_model(contrary, start.encoder, tmp_path / "run", config, start=start)
    assert not torch.equal(tuned.head.reduce.weight, start.head.reduce.weight)
    for name in ("token_mean", "token_scale", "latent_mean", "latent_scale"):
        assert torch.equal(getattr(tuned.head, name), getattr(start.head, name)), name


def test_a_stopped_fine_tuning_resumes_to_the_same_bits(start: CompactWorldModel, tmp_path: Path) -> None:
    contrary = write_contrary_dots(tmp_path / "contrary", 10)
    config = make_config(num_steps=0, save_every=2)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"

    def stop(done: int, total: int, metrics: dict[str, float]) -> None:
        if "long_rollout" in metrics:
            raise KeyboardInterrupt

    train_world_model(contrary, start.encoder, whole, config, start=start)
    with pytest.raises(KeyboardInterrupt):
        train_world_model(contrary, start.encoder, stopped, config, start=start, progress=stop)
    train_world_model(contrary, start.encoder, stopped, config, start=start, resume=True)
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    assert metrics_of(whole) == metrics_of(stopped)
    other = CompactWorldModel.load(whole)
    with pytest.raises(ValueError, match="was trained with from '"):
        train_world_model(contrary, start.encoder, stopped, config, start=other, resume=True)


def test_what_does_not_go_together_is_refused_in_one_line(start: CompactWorldModel, tmp_path: Path) -> None:
    dots, config = write_dots(tmp_path / "dots", 3), make_config()
    check_start(start, TrajectoryStore(dots), start.encoder, config)
    for name, recipe, action in (
        ("arm", RECIPE, np.zeros((13, 3), np.float32)),
        ("strong", {**RECIPE, "action_high": [2.0, 2.0]}, make_episode(0)["action"]),
        ("fast", {**RECIPE, "frame_skip": 2}, make_episode(0)["action"]),
    ):
        with StoreWriter(tmp_path / name, recipe, 1) as writer:
            writer.write(0, {**make_episode(0), "action": action})
    for logs, encoder, settings, message in (
        (dots, make_encoder(seed=1), config, "was trained over another encoder"),
        (
            dots,
            start.encoder,
            replace(config, model=replace(config.model, latent_dim=9)),
            "latent_dim=8, not 9",
        ),
        (
            tmp_path / "arm",
            start.encoder,
            config,
            "numbers an action: the model has 2, the logs or settings 3",
        ),
        (tmp_path / "strong", start.encoder, config, r"highest action: the model has \[1.0, 1.0\]"),
        (tmp_path / "fast", start.encoder, config, "env steps a model step: the model has 1"),
        (dots, start.encoder, replace(config, views=["pixels", "wrist"]), "cameras: the model has"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            check_start(start, TrajectoryStore(logs), encoder, settings)
        assert "\n" not in str(error.value)


def test_a_models_own_settings_come_with_a_budget_for_fine_tuning(
    start: CompactWorldModel, tmp_path: Path
) -> None:
    start.save(tmp_path / "model")
    found = dict(text.split("=", 1) for text in overrides_of(tmp_path / "model"))
    assert (found["model.latent_dim"], found["model.predictor"], found["views"]) == ("8", "mlp", '["pixels"]')
    assert float(found["num_steps"]) == BUDGET["num_steps"] == 300
    shipped = dict(text.split("=", 1) for text in overrides_of("reacher"))
    assert (shipped["model.latent_dim"], shipped["action_block"], shipped["proprio"]) == ("16", "1", "false")
    with pytest.raises(ValueError, match="No predictor 'reachr'"):
        overrides_of("reachr")
