"""Learned temporal distances: how many model steps from a latent and its motion to a goal's latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .compact_config import CompactConfig, DistanceKind

Latents = Float[Tensor, "*batch latent"]
_GROUPS, _GROUP_SIZE = 16, 8
_CHANGE_SCALE = 4.0
"""Changes of a model step are small against latents."""


class DistanceHead(nn.Module):
    """Model steps that the best policy in the log needs from a latent and its motion to a goal's latent."""

    def __init__(self, config: CompactConfig) -> None:
        """Build for latents of `config`."""
        super().__init__()
        in_dim, width = 3 * config.latent_dim, config.distance_width
        self.net = nn.Sequential(
            nn.Linear(in_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, latest: Latents, change: Latents, goal: Latents) -> Float[Tensor, "*batch"]:
        """Steps to go, at least 0."""
        inputs = torch.cat([latest, _CHANGE_SCALE * change, goal - latest], dim=-1)
        return F.softplus(self.net(inputs)).squeeze(-1)


class QuasimetricHead(nn.Module):
    """A distance that no detour can shorten; the way back may cost more than the way there.

    d(x, x) = 0 and d(x, z) <= d(x, y) + d(y, z), whatever the weights.

    Source: interval quasimetric embeddings, arXiv:2211.15120. A state is a latent and its motion, embedded as
    groups of numbers; the distance in a group is the length of the union of the intervals from each number
    of the one to that of the other, where that is larger; the largest and the mean of the groups are mixed,
    as the paper's maxmean does. A goal is a latent at rest.
    """

    def __init__(self, config: CompactConfig) -> None:
        """Build for latents of `config`."""
        super().__init__()
        width = config.distance_width
        self.net = nn.Sequential(
            nn.Linear(2 * config.latent_dim, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, _GROUPS * _GROUP_SIZE),
        )
        self.largest = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, latest: Latents, change: Latents, goal: Latents) -> Float[Tensor, "*batch"]:
        """Steps to go, at least 0."""
        return self.between(self.embed(latest, change), self.embed(goal, torch.zeros_like(goal)))

    def embed(self, latents: Latents, change: Latents) -> Float[Tensor, "*batch group number"]:
        """States as groups of numbers."""
        found = self.net(torch.cat([latents, _CHANGE_SCALE * change], dim=-1)).float()
        return found.unflatten(-1, (_GROUPS, _GROUP_SIZE))

    def between(
        self, start: Float[Tensor, "*batch group number"], end: Float[Tensor, "*batch group number"]
    ) -> Float[Tensor, "*batch"]:
        """The distance of embedded states."""
        begins, order = start.sort(dim=-1)
        ends = torch.maximum(start, end).gather(-1, order)
        covered = torch.cat([begins[..., :1], ends.cummax(dim=-1).values[..., :-1]], dim=-1)
        lengths = (ends - torch.maximum(begins, covered)).clamp(min=0).sum(dim=-1)
        largest = torch.sigmoid(self.largest)
        mixed = largest * lengths.amax(dim=-1) + (1 - largest) * lengths.mean(dim=-1)
        return self.log_scale.exp() * mixed


class DistanceEnsemble(nn.Module):
    """Several heads that learn apart; what they say together is the mean plus their disagreement.

    A single head that is searched for its lowest values is believed where it errs towards short ways.
    """

    def __init__(self, members: list[nn.Module]) -> None:
        """Join heads of one kind."""
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, latest: Latents, change: Latents, goal: Latents) -> Float[Tensor, "*batch"]:
        """Steps to go: the members' mean plus one standard deviation."""
        found = self.apart(latest, change, goal)
        return found.mean(dim=0) + found.std(dim=0, correction=0)

    def apart(self, latest: Latents, change: Latents, goal: Latents) -> Float[Tensor, " member *batch"]:
        """What each member says."""
        return torch.stack([member(latest, change, goal) for member in self.members])


def make_distance(config: CompactConfig) -> nn.Module:
    """The distance head of `config`."""
    kind = {DistanceKind.mlp: DistanceHead, DistanceKind.quasimetric: QuasimetricHead}[config.distance_kind]
    if config.distance_members == 1:
        return kind(config)
    return DistanceEnsemble([kind(config) for _ in range(config.distance_members)])


def said_apart(
    head: nn.Module, latest: Latents, change: Latents, goal: Latents
) -> Float[Tensor, " member *batch"]:
    """What each member of a head says; a head alone is its only one."""
    if isinstance(head, DistanceEnsemble):
        return head.apart(latest, change, goal)
    return head(latest, change, goal).unsqueeze(0)
