"""A trained model's latents of logged rows: what is learned beside the model reads these."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .compact import CompactWorldModel
from .head_training import all_latents
from .latent_cache import cached_latents
from .moments import Moments
from .store import TrajectoryStore
from .token_model import TokenWorldModel
from .training_state import Progress, no_progress
from .vjepa2_ac import normed

TrainedModel = CompactWorldModel | TokenWorldModel


class LoggedLatents:
    """Latents of a store's rows: `latents[rows]`, for row numbers of any shape.

    The encoder's tokens are cached as in training. Small latents are held in memory; tokens stay on disk.
    What is read is where the model is.

    Args:
        model: trained.
        store: the logs; they need all that the model sees.
        progress: told how many frames are encoded.

    Raises:
        ValueError: the logs lack a camera or the proprio of the model.
    """

    def __init__(self, model: TrainedModel, store: TrajectoryStore, progress: Progress = no_progress) -> None:
        compact = isinstance(model, CompactWorldModel)
        felt = ["proprio"] if compact and model.metadata.proprio_dim else []
        for column in (*model.metadata.views, *felt):
            if not store.rows_with(column).all():
                raise ValueError(f"some of the logs have no column {column!r}, which the model sees")

        def told(done: int, total: int) -> None:
            progress(done, total, {})

        views = [cached_latents(model.encoder, store, view, progress=told) for view in model.metadata.views]
        self._tokens = views[0]
        self._known: Tensor | None = None
        self.device = next(model.parameters()).device
        self._num_shown = model.config.latent_dim if isinstance(model, CompactWorldModel) else None
        if isinstance(model, CompactWorldModel):
            moments = Moments(views, store.read("proprio").astype(np.float32) if felt else None, self.device)
            self._known = all_latents(model.head, moments)
        self.latent_shape = tuple(self[np.zeros(1, np.int64)].shape[1:])

    def __getitem__(self, rows: Int[np.ndarray, "*chosen"]) -> Float[Tensor, "..."]:
        """Read rows."""
        if self._known is not None:
            return self._known[torch.from_numpy(rows)]
        return normed(torch.from_numpy(self._tokens[rows]).to(self.device).float())

    def as_goals(self, rows: Int[np.ndarray, "*chosen"]) -> Float[Tensor, "..."]:
        """Read rows as goals: what the robot felt is not known (NaN)."""
        latents = self[rows]
        if self._num_shown is not None:
            latents[..., self._num_shown :] = torch.nan
        return latents


def latent_fingerprint(model: TrainedModel) -> str:
    """40 hexadecimal digits that change when the same frame has another latent; a predictor has no say."""
    digest = hashlib.sha256(model.encoder.fingerprint.encode())
    if isinstance(model, CompactWorldModel):
        for name, tensor in sorted(model.head.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()[:40]
