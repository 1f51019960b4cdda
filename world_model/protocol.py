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

    Attributes:
        frame_skip: env steps in a model step.
        history: model steps of context that `rollout` wants; fewer are allowed.
    """

    frame_skip: int
    history: int

    def encode(self, frames: Frames, proprio: Float[Tensor, "batch step proprio"] | None = None) -> Latent:
        """Latents of frames (B, T, H, W, 3) uint8: once an observation and once a goal, never a candidate."""
        ...

    def rollout(
        self, context: Latent, actions: Float[Tensor, "batch candidate step action"]
    ) -> Float[Tensor, "batch candidate step *latent"]:
        """The latents that follow `context` under `actions` in env units; the context is not returned."""
        ...
