"""Training takes other labs' data as they come."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.dot_world import make_encoder
from wm_plan.world_model.compact import CompactConfig, load_model
from wm_plan.world_model.formats import as_store
from wm_plan.world_model.predictor_training import train_world_model
from wm_plan.world_model.temporal_distance import DistanceConfig
from wm_plan.world_model.train_config import TrainConfig
from wm_plan.world_model.training_logs import check_logs

GENUINE = Path(__file__).parents[2] / "data" / "lerobot_video" / "dataset"


def by_hand(path: Path) -> Path:
    """Two coloured squares pushed about, in stable-worldmodel's schema, by h5py alone."""
    rng = np.random.default_rng(0)
    lengths = np.array([12, 9, 14], np.int32)
    action = rng.uniform(-1, 1, (int(lengths.sum()), 2)).astype(np.float32)
    action[np.cumsum(lengths) - 1] = np.nan
    with h5py.File(path, "w") as file:
        file["pixels"] = rng.integers(0, 255, (len(action), 32, 32, 3), dtype=np.uint8)
        file["action"] = action
        file["ep_len"], file["ep_offset"] = lengths, np.cumsum(lengths, dtype=np.int64) - lengths
    return path


@pytest.mark.parametrize("name", ["lerobot", "by hand"])
def test_a_world_model_is_trained_from(name: str, tmp_path: Path) -> None:
    path = GENUINE if name == "lerobot" else by_hand(tmp_path / "squares.h5")
    store = as_store(path, tmp_path / "cache")
    config = TrainConfig(
        model=CompactConfig(
            latent_dim=8,
            token_dim=8,
            head_width=48,
            history=2,
            predictor_width=48,
            predictor_depth=1,
            distance_width=16,
        ),
        distance=DistanceConfig(num_steps=4, batch_size=16, log_every=2),
        num_steps=4,
        num_predictor_steps=4,
        batch_size=8,
        predictor_batch_size=8,
        rollout_steps=2,
        predictor_rollout_steps=2,
        token_frames=8,
        held_out=0.4,
        log_every=2,
    )
    check_logs(store, config)
    train_world_model(store, make_encoder(), tmp_path / "model", config)
    metadata = load_model(tmp_path / "model").metadata
    assert metadata.env_name == ("logged" if name == "lerobot" else "squares")
    assert (metadata.frame_skip, metadata.image_size) == (1, 64 if name == "lerobot" else 32)
    assert len(metadata.action_low) == 2
    assert max(metadata.action_high) <= 1
