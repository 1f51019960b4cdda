"""The learned temporal distance, in a world where steps can be counted."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import RECIPE
from wm_plan.world_model.compact_config import CompactConfig, DistanceKind
from wm_plan.world_model.distance_heads import make_distance
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter
from wm_plan.world_model.temporal_distance import DistanceConfig, train_distance

LENGTH = 12
"""Cells of the line; a step moves by one."""


def write_line(root: Path, num_episodes: int = 40, num_steps: int = 40) -> TrajectoryStore:
    """Walks on a line that keep their direction for a while: nobody goes straight to anywhere on purpose."""
    with StoreWriter(root, RECIPE, num_episodes) as writer:
        for index in writer.missing():
            rng = np.random.default_rng(index)
            cells = [int(rng.integers(LENGTH))]
            direction = 1
            for _ in range(num_steps):
                direction = direction if rng.random() < 0.8 else -direction
                if not 0 <= cells[-1] + direction < LENGTH:
                    direction = -direction
                cells.append(cells[-1] + direction)
            state = np.array(cells, np.float64)[:, None]
            writer.write(index, {"state": state, "action": np.zeros((num_steps + 1, 1), np.float32)})
    return TrajectoryStore(root)


def latent_of(cells: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Cells (..., 1) as latents of about unit size."""
    return (torch.as_tensor(cells, dtype=torch.float32) - LENGTH / 2) / (LENGTH / 4)


def make_head(kind: DistanceKind = DistanceKind.mlp, members: int = 1) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"distance_width": 64, "distance_kind": kind, "distance_members": members}
    return make_distance(CompactConfig(latent_dim=1, **sizes))


def distances(head: torch.nn.Module) -> np.ndarray:
    """From each cell, coming from the left, to each cell."""
    cells = torch.arange(LENGTH).float()
    here, goal = latent_of(cells[:, None, None]), latent_of(cells[None, :, None])
    change = latent_of(torch.tensor(1.0)) - latent_of(torch.tensor(0.0))
    with torch.no_grad():
        return head(
            here.expand(LENGTH, LENGTH, 1), change.expand(LENGTH, LENGTH, 1), goal.expand(LENGTH, LENGTH, 1)
        ).numpy()


@pytest.mark.parametrize("kind, members", [("mlp", 1), ("mlp", 3), ("quasimetric", 1)])
def test_the_distance_on_a_line_is_the_number_of_steps(kind: str, members: int, tmp_path: Path) -> None:
    store = write_line(tmp_path / "line")
    head, told = make_head(DistanceKind(kind), members), []
    config = DistanceConfig(
        num_steps=900, batch_size=256, learning_rate=3e-3, target_rate=0.05, max_steps=40.0, log_every=300
    )
    latents = latent_of(store.read("state"))
    train_distance(
        head, latents, store, np.arange(40), config, lambda done, total, metrics: told.append((done, total))
    )
    found = distances(head)
    cells = np.arange(LENGTH)
    steps = np.abs(cells[:, None] - cells[None, :])
    ahead = steps * (cells[None, :] > cells[:, None])
    onward = ahead > 0
    assert np.abs(found - steps)[onward].mean() < 1.0
    assert np.corrcoef(found[onward], steps[onward])[0, 1] > 0.95
    # far behind costs as many steps too, though no walk set out to go there
    assert found[9, 1] == pytest.approx(8, abs=3.5)
    assert (found >= 0).all()
    assert told[-1] == (900, 900)


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    store = write_line(tmp_path / "line", 4)
    latents = latent_of(store.read("state"))
    trained = []
    for seed in (0, 0, 1):
        head = make_head()
        train_distance(
            head, latents, store, np.arange(3), DistanceConfig(num_steps=5, batch_size=16, seed=seed)
        )
        trained.append(distances(head))
    np.testing.assert_array_equal(trained[0], trained[1])
    assert not np.array_equal(trained[0], trained[2])


def test_held_out_episodes_are_not_looked_at(tmp_path: Path) -> None:
    store = write_line(tmp_path / "line", 4)
    latents = latent_of(store.read("state"))
    spoiled = latents.clone()
    spoiled[store.episode_rows(3)] = torch.nan
    head = make_head()
    train_distance(head, spoiled, store, np.arange(3), DistanceConfig(num_steps=5, batch_size=64))
    assert np.isfinite(distances(head)).all()


@pytest.mark.parametrize("expectile", [0.0, 1.0, 2.0])
def test_an_expectile_lies_between_0_and_1(expectile: float) -> None:
    with pytest.raises(ValueError, match="expectile must be between 0 and 1"):
        DistanceConfig(expectile=expectile)
