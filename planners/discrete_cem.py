"""The cross-entropy method for discrete actions: refit one categorical distribution a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from .search import Search
from .settings import check_at_least, check_fraction
from .shooting import ShootingConfig, ShootingPlanner


@dataclass
class DiscreteCEMConfig(ShootingConfig):
    """Settings of discrete CEM. Those of stds, smoothness and rates have no meaning here."""

    num_elites: int = 32
    momentum: float = 0.1
    """Share of the old probabilities that a refit keeps."""
    min_probability: float = 0.02
    """Floor under each choice's probability, that keeps the search from freezing."""
    warm_start_probability: float = 0.5
    """How sure the search begins of the warm start's choices; the rest is uniform."""

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        super().__post_init__()
        check_at_least(self, 1, "num_elites")
        check_fraction(self, "momentum", one=False)
        check_fraction(self, "min_probability", "warm_start_probability")
        if self.num_elites > self.num_samples:
            raise ValueError(
                f"num_elites={self.num_elites} is more than num_samples={self.num_samples};"
                " give at most as many elites as samples"
            )
        if self.rate_limit is not None:
            raise ValueError(
                f"rate_limit={self.rate_limit!r} has no meaning for discrete actions; leave it out"
            )


class DiscreteCEM(ShootingPlanner):
    """CEM over whole numbers: cost functions get actions (B, N, H, A) of type int64.

    `Plan.mean` holds the likeliest choices, `Plan.std` how unsure they are: 1 - their probability.

    Args:
        action_space: a gymnasium `Discrete` (A = 1) or `MultiDiscrete`, both counting from 0, or the
            numbers of choices (A,).
        config: as for every planner.
    """

    config_class: ClassVar[type[ShootingConfig]] = DiscreteCEMConfig

    def _set_space(self, action_space: object) -> None:
        choices = _numbers_of_choices(action_space)
        self._choices = torch.as_tensor(choices, device=self.device).repeat(self.config.horizon)
        self._action_dim = len(choices)
        self._half_range = torch.ones(len(self._choices), dtype=self.dtype, device=self.device)
        exists = torch.arange(int(self._choices.max()), device=self.device) < self._choices.unsqueeze(1)
        self._exists = exists.to(self.dtype)
        self._uniform = self._exists / self._choices.unsqueeze(1)
        self._centre = torch.zeros_like(self._half_range)
        self._limits = self._whole_numbers  # type: ignore[assignment]

    @property
    def action_dim(self) -> int:
        """Numbers in one action."""
        return self._action_dim

    def propose(self, search: Search, count: int) -> Float[Tensor, "batch count flat"]:
        """Sample every choice by its probability."""
        ends = search.memory["probabilities"].cumsum(dim=2)[:, :, :-1]
        drawn = self._noise.uniform(search.batch_size, count, len(self._choices))
        return (drawn.unsqueeze(3) >= ends.unsqueeze(1)).sum(dim=3).to(self.dtype)

    def refit(self, search: Search, candidates: Tensor, ranking: Tensor) -> Float[Tensor, " batch"]:
        """Move the probabilities to how often the elites made each choice."""
        old = search.memory["probabilities"]
        ranks, search.elites = ranking.topk(self.config.num_elites, dim=1, largest=False)
        finite = ranks.isfinite()
        chosen = candidates.gather(1, search.elites.unsqueeze(2).expand(-1, -1, candidates.shape[2]))
        made = chosen.unsqueeze(3) == torch.arange(old.shape[2], device=self.device)
        count = finite.sum(dim=1)
        often = (made * finite[:, :, None, None]).sum(dim=1) / count.clamp(min=1)[:, None, None]
        new = torch.lerp(often, old, self.config.momentum)
        # Choices that do not exist stay at 0, whatever the floor.
        new = new.clamp(min=self.config.min_probability) * self._exists
        new = new / new.sum(dim=2, keepdim=True)
        moves = finite[:, 0] if search.running is None else finite[:, 0] & search.running
        search.memory["probabilities"] = torch.where(moves[:, None, None], new, old)
        likeliest = new.max(dim=2)
        search.move(likeliest.indices.to(self.dtype), 1 - likeliest.values, finite[:, :1])
        return count.to(self.dtype)

    def _begin(
        self,
        batch_size: int,
        warm_start: Tensor | None,
        previous_action: Tensor | None,
        prefix: Tensor | None,
        priors: Tensor | None,
    ) -> Search:
        search = super()._begin(batch_size, warm_start, previous_action, prefix, priors)
        uniform = self._uniform.repeat(batch_size, 1, 1)
        search.memory["probabilities"] = uniform
        if warm_start is not None:
            sure = self._checked(
                warm_start, "warm_start", (batch_size, self.horizon, self.action_dim)
            ).isfinite()
            weight = self.config.warm_start_probability * sure.flatten(1).to(self.dtype).unsqueeze(2)
            choices = one_hot(search.mean.long(), uniform.shape[2]).to(self.dtype)
            search.memory["probabilities"] = torch.lerp(uniform, choices, weight)
        return search

    def _whole_numbers(
        self, sequences: Tensor, previous_action: Tensor | None = None, prefix: Tensor | None = None
    ) -> Tensor:
        """The nearest choices that exist, in place."""
        if prefix is not None:
            sequences[:, :, : prefix.shape[1]] = prefix.unsqueeze(1)
        sequences.round_().clamp_(min=0)
        return torch.minimum(sequences, (self._choices - 1).to(self.dtype), out=sequences)

    def _as_actions(self, flat: Tensor) -> Tensor:
        return super()._as_actions(flat).long()


def _numbers_of_choices(action_space: object) -> list[int]:
    given = getattr(action_space, "nvec", getattr(action_space, "n", action_space))
    if np.any(np.asarray(getattr(action_space, "start", 0)) != 0):
        raise ValueError(f"{action_space!r} does not count from 0; give a Discrete space that does")
    choices = np.atleast_1d(np.asarray(given))
    if choices.dtype.kind not in "iu" or choices.ndim != 1 or not (choices >= 1).all():
        raise ValueError(
            f"Cannot read numbers of choices from {action_space!r}; give a Discrete or MultiDiscrete space"
        )
    return [int(number) for number in choices]
