"""The reward head: learned from the log's column, summed over a plan."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import RECIPE
from tests.world_model.test_compact import make_model, random
from wm_plan.world_model.compact_config import CompactConfig
from wm_plan.world_model.reward import RewardHead, reward_stage, step_rewards
from wm_plan.world_model.stages import OptimiserConfig, StagedRun
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter


def write_walks(root: Path, num_episodes: int = 12, num_steps: int = 20) -> TrajectoryStore:
    """Walks in the plane; a step is rewarded by how near the origin it ends, and by how far it goes."""
    with StoreWriter(root, RECIPE, num_episodes) as writer:
        for index in writer.missing():
            rng = np.random.default_rng(index)
            action = rng.uniform(-1, 1, (num_steps + 1, 2)).astype(np.float32)
            state = np.cumsum(np.vstack([rng.uniform(-1, 1, (1, 2)), 0.3 * action[:-1]]), axis=0)
            action[-1] = np.nan
            moved = np.linalg.norm(np.diff(state, axis=0), axis=1)
            reward = np.append(-np.linalg.norm(state[1:], axis=1) + moved, np.nan).astype(np.float32)
            writer.write(index, {"state": state, "action": action, "reward": reward})
    return TrajectoryStore(root)


def test_rewards_of_steps_that_it_has_not_seen_are_told(tmp_path: Path) -> None:
    store = write_walks(tmp_path / "walks")
    latents = torch.from_numpy(store.read("state")).float()
    torch.manual_seed(0)
    head = RewardHead(CompactConfig(latent_dim=2, reward_width=32))
    stage = reward_stage(head, latents, store, np.arange(10), num_steps=400, learning_rate=5e-3)
    StagedRun(None, head, OptimiserConfig(), {}).train(stage)
    rows = np.arange(store.num_rows)[store.episode_rows(11)][1:]
    with torch.no_grad():
        told = head(latents[rows], latents[rows] - latents[rows - 1])
    there = torch.from_numpy(store.read("reward", rows - 1))
    assert float((told - there).square().mean()) < 0.12 * float(there.var())


def test_a_model_step_of_several_rows_brings_the_sum_of_their_rewards(tmp_path: Path) -> None:
    store = write_walks(tmp_path / "walks", 2, 5)
    reward = torch.from_numpy(np.nan_to_num(store.read("reward")))
    torch.testing.assert_close(step_rewards(store), reward)
    two = step_rewards(store, 2)
    torch.testing.assert_close(two[:4], reward[:4] + reward[1:5])
    assert two[4] == reward[4]  # the last action's alone: the next episode's reward is not its own
    assert two[5] == 0


def test_a_plan_is_worth_the_rewards_of_its_imagined_steps() -> None:
    model = make_model(reward_width=16)
    model.reward.mean.fill_(0.5)
    imagined = random(2, 4, 6, 3)
    expected = sum(
        model.reward(imagined[:, :, step], imagined[:, :, step] - imagined[:, :, step - 1])
        for step in range(1, 6)
    )
    torch.testing.assert_close(model.predicted_reward(imagined), expected)
    with pytest.raises(ValueError, match=r"learned no rewards; train one with model.reward_width=128"):
        make_model().predicted_reward(imagined)
