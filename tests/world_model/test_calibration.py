"""What a model says about itself, where the right answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import RECIPE, make_encoder
from wm_plan.world_model.calibration import (
    CHANGE_STEPS,
    calibrate,
    calibrate_changes,
    open_loop_error,
    reach_threshold,
)
from wm_plan.world_model.compact import CompactConfig, CompactWorldModel
from wm_plan.world_model.metadata import ModelMetadata
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter

SPEED = 0.25


class Integrator(torch.nn.Module):
    """The next latent is the last one plus `speed` times the action."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.speed = speed

    def forward(self, context: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return context[:, -1:] + self.speed * actions.cumsum(dim=1)


def write_walks(root: Path, num_episodes: int = 8, num_steps: int = 14) -> TrajectoryStore:
    """Random walks in the plane, without pictures: `state` moves by SPEED times the action."""
    with StoreWriter(root, RECIPE, num_episodes) as writer:
        for index in writer.missing():
            rng = np.random.default_rng(index)
            action = rng.uniform(-1, 1, (num_steps + 1, 2)).astype(np.float32)
            state = rng.uniform(-1, 1, 2) + SPEED * np.cumsum(np.vstack([np.zeros(2), action[:-1]]), axis=0)
            action[-1] = np.nan
            writer.write(index, {"state": state, "action": action})
    return TrajectoryStore(root)


def make_model(speed: float) -> CompactWorldModel:
    recipe = {key: RECIPE[key] for key in ("frame_skip", "control_timestep", "image_size", "camera")}
    metadata = ModelMetadata("dot", **recipe, action_low=[-1.0, -1.0], action_high=[1.0, 1.0])
    model = CompactWorldModel(make_encoder(), CompactConfig(latent_dim=2, history=2), metadata)
    model.predictor = Integrator(speed)
    return model


def rows_of(store: TrajectoryStore) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(store.read("state")).float(), torch.from_numpy(
        np.nan_to_num(store.read("action"))
    )


def test_the_open_loop_error_of_a_perfect_model_is_zero_and_of_a_still_one_grows(tmp_path: Path) -> None:
    store = write_walks(tmp_path / "walks")
    latents, actions = rows_of(store)
    held = np.array([1, 4])
    perfect, still = make_model(SPEED), make_model(0.0)
    perfect.latent_variance.fill_(2.0)
    assert open_loop_error(perfect, latents, actions, store, held) == pytest.approx([0.0] * 10, abs=1e-6)
    errors = open_loop_error(still, latents, actions, store, held)
    states = [store.read("state", np.arange(store.num_rows)[store.episode_rows(e)]) for e in held]
    moves = np.concatenate([state[2:-9] - state[1:-10] for state in states])
    assert len(errors) == 10
    assert errors[0] == pytest.approx((moves**2).sum(axis=1).mean(), abs=1e-5)
    assert errors[9] > 4 * errors[0]
    still.latent_variance.fill_(2.0)
    halved = open_loop_error(still, latents, actions, store, held)
    assert halved == pytest.approx([error / 2 for error in errors], abs=1e-5)


def test_episodes_shorter_than_the_horizon_give_a_shorter_account(tmp_path: Path) -> None:
    store = write_walks(tmp_path / "walks", 2, num_steps=5)
    latents, actions = rows_of(store)
    assert len(open_loop_error(make_model(SPEED), latents, actions, store, np.array([0]))) == 4


def test_the_threshold_of_a_latent_that_is_the_state_is_the_tolerance() -> None:
    rng = np.random.default_rng(0)
    states = rng.random((1500, 2))

    def reached(state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return np.linalg.norm(state - goal, axis=-1) <= 0.03

    threshold, error = reach_threshold(torch.from_numpy(2 * states).float(), states, reached, rng)
    assert threshold == pytest.approx((2 * 0.03) ** 2, rel=0.1)
    assert error < 0.03
    blurred = 2 * states + rng.normal(scale=0.05, size=states.shape)
    assert reach_threshold(torch.from_numpy(blurred).float(), states, reached, rng)[1] > 0.1


def test_without_known_states_next_frames_count_as_reached(tmp_path: Path) -> None:
    store = write_walks(tmp_path / "walks")
    latents, actions = rows_of(store)
    model = make_model(SPEED)
    calibrate(model, latents, actions, store, np.arange(8), None)
    metadata = model.metadata
    assert len(metadata.open_loop_error) == 10
    # a step moves by SPEED times a vector of length .77 on average
    assert 0.2 * SPEED**2 < metadata.reach_threshold < 2 * SPEED**2
    assert 0 < metadata.reach_error_rate < 0.5


def test_a_whitened_distance_counts_what_changes_slowly_more(tmp_path: Path) -> None:
    """With the full power latents change alike in all directions, with none they are what they were."""
    store = write_walks(tmp_path / "walks")
    turned = torch.tensor([[0.8, 0.6], [-0.6, 0.8]]) @ torch.diag(torch.tensor([1.0, 0.1]))
    latents = rows_of(store)[0] @ turned
    model = make_model(SPEED)
    with pytest.raises(ValueError, match="does not know how its latents change"):
        model.change_scale(0.5)
    calibrate_changes(model, store, np.arange(8), latents)
    changes = torch.cat(
        [
            latents[store.episode_rows(e)][CHANGE_STEPS:] - latents[store.episode_rows(e)][:-CHANGE_STEPS]
            for e in range(8)
        ]
    )
    assert torch.allclose(model.change_scale(0.0), torch.eye(2), atol=1e-5)
    assert changes.std(dim=0)[0] > 5 * changes.std(dim=0)[1]
    whitened = changes @ model.change_scale(1.0)
    spread = whitened.T @ whitened / len(whitened)
    assert torch.allclose(spread, spread[0, 0] * torch.eye(2), atol=1e-3 * float(spread[0, 0]))
    halfway = (changes @ model.change_scale(0.5)).square().mean(dim=0).sqrt()
    assert 1.5 < halfway[0] / halfway[1] < 5
    with pytest.raises(ValueError, match="whitening=2 is not allowed; give 0 to 1"):
        model.change_scale(2)


def test_changes_are_measured_of_episodes_too_short_for_five_steps(tmp_path: Path) -> None:
    store = write_walks(tmp_path / "walks", num_steps=2)
    model, latents = make_model(SPEED), rows_of(store)[0]
    calibrate_changes(model, store, np.arange(8), latents)
    first, last = latents[0::3], latents[2::3]
    expected = (last - first).T @ (last - first) / 8
    assert torch.allclose(torch.tensor(model.metadata.latent_changes), expected, rtol=1e-4)
