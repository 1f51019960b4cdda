"""What a world model is, to whoever plans with it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from .encoder import Frames

Latent = Float[Tensor, "batch step *latent"]
"""Latents of consecutive model steps; compact models have one vector a step."""


@runtime_checkable
class WorldModel(Protocol):
    """Encodes observations and goals, and imagines what follows a sequence of actions.

    Plain attributes serve as well as properties.
    """

    @property
    def frame_skip(self) -> int:
        """Env steps in a model step."""
        ...

    @property
    def history(self) -> int:
        """Model steps of context that `rollout` wants; fewer are allowed."""
        ...

    def encode(self, frames: Frames, proprio: Float[Tensor, "batch step proprio"] | None = None) -> Latent:
        """Latents of frames (B, T, H, W, 3) uint8: once an observation and once a goal, never a candidate."""
        ...

    def rollout(
        self, context: Latent, actions: Float[Tensor, "batch candidate step action"]
    ) -> Float[Tensor, "batch candidate step *latent"]:
        """The latents that follow `context` under `actions` in env units; the context is not returned."""
        ...
