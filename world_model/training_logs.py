"""What a training reads of its logs: rows, windows of model steps, the frozen encoder's tokens."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .encoder import Encoder
from .latent_cache import cached_latents
from .latent_rows import LatentRows
from .metadata import ModelMetadata
from .moments import Moments
from .store import TrajectoryStore
from .train_config import TrainConfig
from .training_state import Progress
from .windows import Windows


def check_logs(store: TrajectoryStore, config: TrainConfig) -> None:
    """Refuse logs that cannot be trained on.

    Raises:
        ValueError: a column or a setting is missing, or episodes are too few or too short.
    """
    felt = ["proprio"] if config.proprio else []
    rewarded = ["reward"] if config.model.reward_width else []
    for column in (*config.views, *felt, *rewarded, "action"):
        if not store.rows_with(column).all():
            raise ValueError(f"some of the logs have no column {column!r}; all of them need it")
    for key in ("env", "frame_skip", "image_size"):
        store.setting(key)
    train, held = store.split(config.held_out, config.seed)
    history, stride = config.model.history, config.action_block
    most = max(config.rollout_steps, config.predictor_rollout_steps)
    store.windows(history, most, episodes=train, stride=stride)
    store.windows(history, 1, episodes=held, stride=stride)


class TrainingLogs:
    """Rows of a store, as the stages of a training take them; episodes are split by the seed."""

    def __init__(
        self,
        store: TrajectoryStore,
        encoder: Encoder,
        config: TrainConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        """Read what is small; tokens stay on disk. What is read for training goes to `device`."""
        self.store, self.encoder, self.config, self.device = store, encoder, config, device
        self.train_episodes, self.held_episodes = store.split(config.held_out, config.seed)
        self.actions = block_actions(store, config.action_block).to(device)
        self.proprio = store.read("proprio").astype(np.float32) if config.proprio else None

    def metadata(self) -> ModelMetadata:
        """What the logs say of their task, for a model of these settings."""
        metadata = metadata_of(self.store, self.store.read("action"))
        metadata.views = list(self.config.views)
        metadata.proprio_dim = 0 if self.proprio is None else self.proprio.shape[1]
        metadata.action_block = self.config.action_block
        metadata.frame_skip *= self.config.action_block
        return metadata

    def tokens(self, column: str, progress: Progress) -> LatentRows:
        """The encoder's tokens of a column, cached on disk."""
        return cached_latents(
            self.encoder, self.store, column, progress=lambda done, total: progress(done, total, {})
        )

    def moments(self, progress: Progress) -> Moments:
        """What the head sees of every row."""
        views = [self.tokens(view, progress) for view in self.config.views]
        return Moments(views, self.proprio, self.device)

    def varied(
        self, moments: Moments, progress: Progress
    ) -> tuple[Moments | None, Int[np.ndarray, " chosen"]]:
        """The rows with the first view in varied looks, and which training rows have them."""
        column = f"{self.config.views[0]}_varied"
        try:
            there: Bool[np.ndarray, " row"] = self.store.rows_with(column)
        except ValueError:
            return None, np.zeros(0, np.int64)
        training = np.zeros(self.store.num_rows, bool)
        for episode in self.train_episodes:
            training[self.store.episode_rows(episode)] = True
        return moments.seen_otherwise(self.tokens(column, progress)), np.flatnonzero(there & training)

    def windows(self, steps: int) -> Windows:
        """Windows of `history + steps` model steps in training episodes."""
        return self.store.windows(
            self.config.model.history, steps, episodes=self.train_episodes, stride=self.config.action_block
        )

    def some_rows(self, num_rows: int) -> Int[np.ndarray, " chosen"]:
        """Rows of training episodes to take statistics of: at most so many, the same each time."""
        windows = self.windows(0)
        rng = np.random.default_rng([self.config.seed, 1])
        return np.sort(windows.sample(min(num_rows, len(windows)), rng)[:, 0])

    def plain_rows(self) -> Int[np.ndarray, " chosen"]:
        """Rows of training episodes that a window begins with."""
        windows = self.windows(0)
        return windows.rows(np.arange(len(windows)))[:, 0]


def block_actions(store: TrajectoryStore, block: int = 1) -> Float[Tensor, "row block_action"]:
    """The actions that lead from each row to the one `block` rows on, side by side in their order.

    Actions that nobody took, and those beyond an episode's end, are 0.
    """
    action = np.nan_to_num(store.read("action")).astype(np.float32)
    rows = np.arange(store.num_rows)
    last = np.repeat(store.offsets + store.lengths - 1, store.lengths)
    parts = [
        np.where((rows + i <= last)[:, None], action[np.minimum(rows + i, last)], 0) for i in range(block)
    ]
    return torch.from_numpy(np.concatenate(parts, axis=1))


def metadata_of(store: TrajectoryStore, action: Float[np.ndarray, "row action"]) -> ModelMetadata:
    """What the logs say of their task."""
    known = store.recipes[0]
    for key in ("env", "frame_skip", "image_size"):
        store.setting(key)
    low, high = known.get("action_low"), known.get("action_high")
    if low is None or high is None:
        low, high = np.nanmin(action, axis=0).tolist(), np.nanmax(action, axis=0).tolist()
    return ModelMetadata(
        env_name=str(known["env"]),
        frame_skip=int(known["frame_skip"]),
        control_timestep=float(known.get("control_timestep", 0.0)),
        image_size=int(known["image_size"]),
        camera=str(known.get("camera", "")),
        action_low=[float(v) for v in low],
        action_high=[float(v) for v in high],
    )
