"""Small trajectories whose content is known: what tests of stores and caches write and expect."""

from pathlib import Path

import numpy as np

from wm_plan.world_model.store_writer import StoreWriter

RECIPE = {"env": "toy", "frame_skip": 4}


def make_episode(index: int, num_steps: int = 5, size: int = 40) -> dict[str, np.ndarray]:
    """Random frames and actions drawn from `index`; `state` says which episode it is."""
    rng = np.random.default_rng(index)
    action = rng.normal(size=(num_steps + 1, 2)).astype(np.float32)
    action[-1] = np.nan
    return {
        "pixels": rng.integers(0, 255, (num_steps + 1, size, size, 3), dtype=np.uint8),
        "action": action,
        "state": np.full((num_steps + 1, 4), index, np.float64),
    }


def write_store(root: Path, num_episodes: int = 7, *, episodes_per_shard: int = 3, **options: int) -> Path:
    """A complete store of `make_episode(0)`, `make_episode(1)`, ... at `root`."""
    with StoreWriter(root, RECIPE, num_episodes, episodes_per_shard=episodes_per_shard) as writer:
        for index in writer.missing():
            writer.write(index, make_episode(index, **options))
    return root
