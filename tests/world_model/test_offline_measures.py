"""Measures on logs alone: what they are of a model that is always right, and of one that knows nothing."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import SPEED, write_dots
from tests.world_model.test_policy_prior import make_dots
from tests.world_model.test_token_model import make_model as make_tokens
from wm_plan.world_model import CompactWorldModel, TrajectoryStore
from wm_plan.world_model.calibration import calibrate_surprise
from wm_plan.world_model.offline_measures import (
    OfflineConfig,
    action_ranks,
    calibrated_surprise,
    error_ranks,
    imagine,
    measure_offline,
    open_loop_errors,
    read_windows,
    retrieval_rates,
    uniformity,
)


class DotWorld(CompactWorldModel):
    """Knows the dots' world: a latent is where the dot is, read off the frame."""

    def __init__(self, speed: float = SPEED) -> None:
        made = make_dots(history=2)
        super().__init__(made.encoder, made.config, made.metadata)
        self.speed = speed

    def encode(self, frames, proprio=None):
        seen = frames["pixels"] if isinstance(frames, dict) else frames
        grey = torch.as_tensor(seen).float().mean(-1) ** 2
        places = (torch.arange(grey.shape[-1]) + 0.5) / grey.shape[-1]
        total = grey.sum((-1, -2))
        return torch.stack(
            [(grey.sum(-2) * places).sum(-1) / total, (grey.sum(-1) * places).sum(-1) / total], -1
        )

    def rollout(self, context, actions):
        return context[:, None, -1:] + self.speed * actions.cumsum(2)


def make_config(**overrides) -> OfflineConfig:
    sizes = {"horizon": 3, "num_windows": 60, "num_candidates": 20, "num_distractors": 40}
    return OfflineConfig(**{**sizes, **overrides})


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    return TrajectoryStore(write_dots(tmp_path / "data", 12))


def windows_of(model, store: TrajectoryStore, **overrides):
    found = read_windows(model, store, np.arange(store.num_episodes), make_config(**overrides))
    return found, imagine(model, found, found.actions.unsqueeze(1))[:, 0]


def test_windows_hold_what_was_logged(store: TrajectoryStore) -> None:
    model = DotWorld()
    found, _ = windows_of(model, store)
    assert found.context.shape == (60, 2, 2)
    assert found.future.shape == found.actions.shape == (60, 3, 2)
    rows = found.future_rows
    np.testing.assert_array_equal(found.actions.numpy(), store.read_windows("action", rows - 1))
    seen = model.encode(store.read("pixels", rows[7])[None])[0]
    torch.testing.assert_close(found.future[7], seen)
    assert len(np.unique(rows)) <= len(found.pool_rows) <= store.num_rows


def test_errors_are_relative_to_the_variance_of_the_latents(store: TrajectoryStore) -> None:
    model = DotWorld()
    found, imagined = windows_of(model, store)
    errors = open_loop_errors(model, found, imagined)
    expected = (imagined - found.future).square().sum(-1).mean(0) / found.pool.var(dim=0).sum()
    np.testing.assert_allclose(errors["imagined"], expected, atol=1e-6)
    copied = (found.context[:, -1:] - found.future).square().sum(-1).mean(0) / found.pool.var(dim=0).sum()
    np.testing.assert_allclose(errors["copied"], copied, atol=1e-6)
    assert errors["imagined"][-1] < 0.5 * min(errors["copied"][-1], errors["other_actions"][-1])


def test_who_knows_the_world_prefers_the_logged_actions_and_who_does_not_is_at_chance(
    store: TrajectoryStore,
) -> None:
    beaten = {}
    for name, speed in (("knows", SPEED), ("reversed", -SPEED)):
        model = DotWorld(speed)
        found, imagined = windows_of(model, store)
        further = action_ranks(model, found, imagined, 20, np.random.default_rng(0))
        assert further["uniform"].shape == further["logged"].shape == (60, 20)
        beaten[name] = {kind: values.mean() for kind, values in further.items()}
    assert beaten["knows"]["uniform"] > 0.9
    assert beaten["knows"]["logged"] > 0.9
    assert beaten["reversed"]["uniform"] < 0.5


def test_the_true_frame_is_found_by_who_knows_where_it_is(store: TrajectoryStore) -> None:
    model = DotWorld()
    found, _ = windows_of(model, store)
    rates = retrieval_rates(found, found.future, 40, np.random.default_rng(0))
    assert rates["top_1"] == rates["top_5"] == [1.0, 1.0, 1.0]
    far = retrieval_rates(found, found.future + 50, 40, np.random.default_rng(0))
    assert max(far["top_5"]) < 0.5
    assert rates["copied_top_1"][-1] < rates["copied_top_5"][-1] < 1


def test_ranks_of_errors_are_among_those_of_other_episodes(store: TrajectoryStore) -> None:
    model = DotWorld()
    found, imagined = windows_of(model, store)
    ranks = error_ranks(found, imagined)
    assert 20 < len(ranks) < 40
    assert bool((np.diff(ranks) >= 0).all())
    off = imagined.clone()
    off[found.episodes >= 6] += 10  # errors that no other episode has
    assert error_ranks(found, off).min() > 0.9


def test_uniformity_tells_how_far_ranks_are_from_uniform() -> None:
    even = uniformity((np.arange(1000) + 0.5) / 1000)
    assert even == {"distance": 0.0005, "above_95": 0.05, "above_99": 0.01}
    assert uniformity(np.full(10, 0.97)) == {"distance": 0.97, "above_95": 1.0, "above_99": 0.0}
    assert uniformity(np.zeros(10))["distance"] == 1.0


@pytest.mark.parametrize("kind", ["compact", "tokens"])
def test_models_of_both_families_are_measured(kind: str, tmp_path: Path) -> None:
    model = make_dots() if kind == "compact" else make_tokens("dino_wm", state_dim=0)
    store = TrajectoryStore(write_dots(tmp_path / "data", 4))
    measured = measure_offline(model, store, np.arange(4), make_config(num_windows=6, num_candidates=4))
    assert (measured.num_windows, measured.horizon, measured.num_candidates) == (6, 3, 4)
    assert all(len(values) == 3 for values in (*measured.error.values(), *measured.retrieval.values()))
    assert all(1 <= place <= 5 for places in measured.places.values() for place in places)
    again = measure_offline(model, store, np.arange(4), make_config(num_windows=6, num_candidates=4))
    assert asdict(again) == asdict(measured)


def test_calibrated_surprise_is_rare_on_what_it_was_calibrated_on_and_not_on_another_world(
    store: TrajectoryStore,
) -> None:
    model = DotWorld()
    assert calibrated_surprise(model, store, np.arange(12)) is None
    calibrate_surprise(model, store, np.arange(12))
    ranks = calibrated_surprise(model, store, np.arange(12))
    assert 0.02 < uniformity(ranks)["above_95"] < 0.08
    model.speed = -SPEED
    assert np.median(calibrated_surprise(model, store, np.arange(12))) > 0.99
    measured = measure_offline(model, store, np.arange(12), make_config())
    assert measured.surprise_kind == "calibrated surprise"
    assert measured.surprise["above_95"] > 0.5


def test_what_does_not_fit_is_named(store: TrajectoryStore) -> None:
    model = DotWorld()
    model.metadata.action_low = [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"the logs have actions of shape \(2,\), the model takes \(3,\)"):
        windows_of(model, store)
    model = DotWorld()
    model.metadata.views = ["wrist"]
    with pytest.raises(ValueError, match="the logs have no column 'wrist', which the model sees"):
        windows_of(model, store)
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        make_config(horizon=0)


def test_a_horizon_beyond_the_episodes_is_cut(store: TrajectoryStore) -> None:
    found, imagined = windows_of(DotWorld(), store, horizon=50)
    assert imagined.shape == (12, 11, 2)
    np.testing.assert_array_equal(found.episodes, np.arange(12))
