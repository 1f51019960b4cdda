"""Surprise on a plane with friction, whose camera is a little noisy: what is noticed, and what is not."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import write_dots
from tests.world_model.test_compact import make_model
from wm_plan.world_model import (
    SurpriseMonitor,
    TrajectoryStore,
    calibrate_surprise,
    load_model,
    save_metadata,
)
from wm_plan.world_model.metadata import ModelMetadata
from wm_plan.world_model.surprise import HORIZONS, RANKS, ImaginationErrors, SurpriseCalibration, fit_surprise

SPEED, NOISE, STEPS = 0.2, 0.02, 30


class Plane:
    """An exact model of points that an action moves by `SPEED` times itself."""

    frame_skip, history = 1, 2

    def encode(self, frames, proprio=None):
        raise AssertionError("nothing is encoded here")

    def rollout(self, context, actions):
        return context[:, None, -1:] + SPEED * actions.cumsum(dim=2)


def walk(seed: int, speed: float = SPEED, *, steps: int = STEPS, noise: float = NOISE, change: int = 0):
    """Latents and actions of an episode; from step `change` on an action moves by `speed`."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (steps, 2))
    # errors of a real model grow with motion; here the noise does
    speeds = np.where(np.arange(steps) < change, SPEED, speed)[:, None]
    places = np.cumsum(np.vstack([np.zeros((1, 2)), (speeds * actions)[:-1]]), axis=0)
    seen = places + noise * (0.2 + np.abs(actions)) * rng.normal(size=places.shape)
    return torch.from_numpy(seen).float(), torch.from_numpy(actions).float()


def watch(calibration: SurpriseCalibration, episodes, *, known: bool = True) -> np.ndarray:
    """Surprise (step, episode) of episodes of the same length."""
    monitor, rows = SurpriseMonitor(Plane(), calibration), torch.arange(len(episodes))
    monitor.restart(rows, len(episodes))
    told = []
    for step in range(len(episodes[0][0])):
        executed = torch.full((len(episodes), 2), torch.nan)
        if step and known:
            executed = torch.stack([actions[step - 1] for _, actions in episodes])
        monitor.observe(rows, torch.stack([latents[step] for latents, _ in episodes]), executed)
        told.append(monitor.surprise.clone())
    return torch.stack(told).numpy()


@pytest.fixture(scope="module")
def calibration() -> SurpriseCalibration:
    return fit_surprise(Plane(), [walk(seed) for seed in range(60)])


def test_surprise_of_new_normal_episodes_is_their_rank(calibration: SurpriseCalibration) -> None:
    told = watch(calibration, [walk(1000 + seed) for seed in range(60)])
    known = told[Plane.history + 1 :]
    assert ((known >= 0) & (known <= 1)).all()
    for rank in (0.5, 0.9, 0.98):
        assert (known <= rank).mean() == pytest.approx(rank, abs=0.06)


def test_small_errors_that_add_up_are_noticed(calibration: SurpriseCalibration) -> None:
    slow = [walk(1000 + seed, 0.8 * SPEED, change=12) for seed in range(40)]
    told = watch(calibration, slow)
    assert (told[:12] > 0.98).mean() < 0.05
    assert (told[13:].max(axis=0) > 0.99).mean() > 0.9
    one_step = fit_surprise(Plane(), [walk(seed) for seed in range(60)], horizons=(1,))
    assert (watch(one_step, slow)[13:].max(axis=0) > 0.99).mean() < 0.75


def test_a_robot_that_stands_still_against_its_actions_is_noticed(calibration: SurpriseCalibration) -> None:
    stuck = [walk(1000 + seed, 0.0, change=15) for seed in range(20)]
    assert (watch(calibration, stuck)[20:] > 0.99).mean() > 0.9


def test_a_moment_is_judged_only_after_a_whole_context_was_seen(calibration: SurpriseCalibration) -> None:
    told = watch(calibration, [walk(5)])
    assert (told[: Plane.history] == 0).all()
    assert (told[Plane.history :] > 0).all()
    assert (watch(calibration, [walk(5)], known=False) == 0).all()


def test_rows_do_not_touch_and_begin_anew_alone(calibration: SurpriseCalibration) -> None:
    one, other = walk(1), walk(2)
    together = watch(calibration, [one, other])
    np.testing.assert_allclose(together[:, :1], watch(calibration, [one]), atol=1e-4)
    monitor = SurpriseMonitor(Plane(), calibration)
    monitor.restart(torch.arange(2), 2)
    for step in range(6):
        monitor.observe(torch.arange(2), torch.stack([one[0][step], other[0][step]]), torch.zeros(2, 2))
    before = monitor.surprise.clone()
    monitor.restart(torch.tensor([1]), 2)
    assert monitor.surprise[0] == before[0] > 0
    assert monitor.surprise[1] == 0
    monitor.observe(torch.tensor([1]), other[0][:1], torch.full((1, 2), torch.nan))
    assert monitor.surprise[1] == 0


def test_the_error_of_a_horizon_is_that_of_the_latent_imagined_so_long_before() -> None:
    latents, actions = walk(3, 0.5 * SPEED, noise=0.0)
    watched = ImaginationErrors(Plane(), HORIZONS)
    watched.restart(torch.arange(1), 1)
    for step in range(14):
        executed = actions[step - 1 : step] if step else torch.full((1, 2), torch.nan)
        errors, motion = watched.observe(torch.arange(1), latents[step : step + 1], executed)
    for index, horizon in enumerate(HORIZONS):
        expected = -0.5 * SPEED * actions[13 - horizon : 13].sum(dim=0)
        torch.testing.assert_close(errors[0, index], expected, atol=1e-5, rtol=0)
        moved = latents[13 - horizon - 1 : 14].diff(dim=0).norm(dim=-1).mean()
        torch.testing.assert_close(motion[0, index], moved)


def test_ranks_rise_with_the_score_and_never_reach_one(calibration: SurpriseCalibration) -> None:
    scores = torch.linspace(calibration.scores[0] - 3, calibration.scores[-1] + 3, 200)
    ranks = calibration.rank(scores)
    assert (ranks.diff() >= 0).all()
    assert len(ranks.unique()) > 150
    assert 0 < ranks[0] < RANKS[0] < RANKS[-1] < ranks[-1] < 1
    torch.testing.assert_close(
        calibration.rank(torch.tensor(calibration.scores)), torch.tensor(RANKS), atol=1e-4, rtol=0
    )


def test_horizons_longer_than_the_episodes_are_left_out_and_too_short_ones_named() -> None:
    assert fit_surprise(Plane(), [walk(seed, steps=7) for seed in range(9)]).horizons == [1, 2, 4]
    with pytest.raises(ValueError, match="at least 2 model steps; the longest held-out one has 1"):
        fit_surprise(Plane(), [walk(0, steps=2)])


def test_metadata_take_a_calibration_from_json_and_refuse_a_damaged_one(
    calibration: SurpriseCalibration,
) -> None:
    known = {"env_name": "a", "frame_skip": 1, "control_timestep": 0.1, "image_size": 8, "camera": ""}
    known |= {"action_low": [-1.0], "action_high": [1.0]}
    assert ModelMetadata.from_json({**known, "surprise": asdict(calibration)}).surprise == calibration
    assert ModelMetadata.from_json(known).surprise is None
    with pytest.raises(ValueError, match="not one entry a horizon"):
        ModelMetadata.from_json({**known, "surprise": {**asdict(calibration), "spread": [1.0]}})


def test_a_folder_is_calibrated_and_its_weights_stay(tmp_path: Path) -> None:
    model = make_model()
    model.save(tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    loaded = load_model(tmp_path / "model")
    assert loaded.metadata.surprise is None
    store = TrajectoryStore(write_dots(tmp_path / "dots"))
    calibrate_surprise(loaded, store)
    save_metadata(loaded.metadata, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights
    again = load_model(tmp_path / "model").metadata
    assert again == loaded.metadata
    assert len(again.surprise.scale) == model.config.latent_dim
    # with the latents that training has at hand it is the same
    latents = torch.cat([loaded.encode(torch.from_numpy(store.read("pixels"))[None])[0]])
    calibrate_surprise(loaded, store, store.split(0.05, 0)[1], latents)
    np.testing.assert_allclose(again.surprise.scores, loaded.metadata.surprise.scores, atol=1e-3)
