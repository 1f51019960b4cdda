"""Search what the logs do next, in place of whatever a robot could do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wm_plan.world_model.protocol import WorldModel

from .bounds import ActionBounds

Decode = Callable[[Tensor, Tensor], Tensor]
"""Actions (B, A) in env units, of latents (B, T, ...) and latent actions (B, Z) from -1 to 1."""


class LatentActions:
    """Latent actions for a planner to search, each decoded where the model imagines to be by then.

    A predictor is right where its logs have been, and a search over actions finds where it is wrong, the more
    easily the more numbers an action has. What is decoded goes on as the logs do.

    Args:
        decode: gives actions, such as what `load_action_decoder` gives.
        model: imagines what follows each.
        action_space: of the robot, as planners take it; every action is inside.
        num_latent: numbers of a latent action.

    Attributes:
        space: bounds (low, high) of latent actions, for a planner.

    Raises:
        ValueError: the model must be told at each imagined step what the robot feels; or bad bounds.

    Source: W. Zhou et al., "PLAS: Latent action space for offline reinforcement learning", arXiv:2011.07213.
    """

    def __init__(self, decode: Decode, model: WorldModel, action_space: object, num_latent: int) -> None:
        predictor: Any = getattr(model, "predictor", None)
        if getattr(predictor, "state_dim", False):
            raise ValueError(
                "latent actions cannot be decoded for this model: it takes proprio, which is not known of "
                "imagined steps. Give control.latent_actions=false"
            )
        self._decode, self.model, self.bounds = decode, model, ActionBounds(action_space)
        self.space = (-np.ones(num_latent), np.ones(num_latent))

    @property
    def action_dim(self) -> int:
        """Numbers of a decoded action."""
        return self.bounds.action_dim

    def decode(
        self, context: Float[Tensor, "row step ..."], latent_action: Float[Tensor, "row number"]
    ) -> Float[Tensor, "row action"]:
        """Actions in env units, inside the bounds."""
        return self.bounds.clamp(self._decode(context, latent_action.to(context.device)))

    def imagine(
        self,
        context: Float[Tensor, "row step ..."],
        sequences: Float[Tensor, "row candidate horizon number"],
        prefix: Float[Tensor, "row committed action"] | None = None,
    ) -> tuple[Float[Tensor, "row candidate horizon ..."], Float[Tensor, "row candidate horizon action"]]:
        """What is imagined along sequences of latent actions, and the actions taken.

        Args:
            context: latents that were seen.
            sequences: latent actions.
            prefix: actions in env units that are committed; they take the place of the first ones.
        """
        rows, count, horizon, _ = sequences.shape
        committed = 0 if prefix is None else prefix.shape[1]
        seen = context.repeat_interleave(count, dim=0)
        latents: list[Tensor] = []
        taken: list[Tensor] = []
        for step in range(horizon):
            if prefix is not None and step < committed:
                actions = prefix[:, step].to(seen.device).repeat_interleave(count, dim=0)
            else:
                actions = self.decode(seen, sequences[:, :, step].flatten(0, 1))
            following = self.model.rollout(seen, actions[:, None, None])[:, 0]
            seen = torch.cat([seen[:, 1:], following], dim=1)
            latents.append(following[:, 0])
            taken.append(actions)
        imagined, actions = torch.stack(latents, dim=1), torch.stack(taken, dim=1)
        return imagined.unflatten(0, (rows, count)), actions.unflatten(0, (rows, count))
