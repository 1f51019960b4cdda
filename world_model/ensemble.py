"""Predictors that learned apart from the same latents: where they disagree, none of them knows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class EnsemblePredictor(nn.Module):
    """Several predictors of one kind; what they imagine together is the mean of their rollouts.

    Each goes its own way: a rollout of one never continues from what another imagined.
    """

    def __init__(self, members: list[nn.Module]) -> None:
        """Join predictors with the call `predictor(context, actions)`."""
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(
        self, context: Float[Tensor, "batch history latent"], actions: Float[Tensor, "batch step action"]
    ) -> Float[Tensor, "batch step latent"]:
        """The mean of what the members imagine."""
        return self.apart(context, actions).mean(dim=0)

    def apart(
        self, context: Float[Tensor, "batch history latent"], actions: Float[Tensor, "batch step action"]
    ) -> Float[Tensor, "member batch step latent"]:
        """What each member imagines."""
        return torch.stack([member(context, actions) for member in self.members])

    def shared_out(
        self, context: Float[Tensor, "batch history latent"], actions: Float[Tensor, "batch step action"]
    ) -> Float[Tensor, "batch step latent"]:
        """What members imagine of their own share of a batch each, in its order: for training them apart."""
        parts = zip(
            self.members,
            context.tensor_split(len(self.members)),
            actions.tensor_split(len(self.members)),
            strict=True,
        )
        return torch.cat([member(*share) for member, *share in parts])
