"""What a real-time loop executes when: plans laid onto a grid of env steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float

from .protocol import Status


class Expiry(StrEnum):
    """What to do when the plan has run out."""

    hold = "hold"
    """Repeat the last action."""
    zero = "zero"
    """Apply no action."""


@dataclass
class Scheduled:
    """A plan's actions, from one model step of the grid on.

    Attributes:
        first: the env step of the grid that `actions[:, 0]` belongs to.
        actions: (B, H * frame_skip, A), one an env step.
        status: how the plan came about.
    """

    first: int
    actions: Float[np.ndarray, "batch env_step action"]
    status: Status


class Schedule:
    """The action of every env step, from the newest plan, and what happens when there is none.

    Args:
        frame_skip: env steps in a model step.
        action_dim: numbers in an env action.
        num_actions: actions that one of a plan's holds, each for an equal share of a model step's env steps.
        on_expiry: "hold", "zero", or a function of the env step that gives an action (A,) or (B, A).
    """

    def __init__(
        self,
        frame_skip: int,
        action_dim: int,
        num_actions: int = 1,
        on_expiry: Expiry | str | Callable[[int], np.ndarray] = Expiry.hold,
    ) -> None:
        self.frame_skip = frame_skip
        self.action_dim = action_dim
        self.num_actions = num_actions
        self.on_expiry = on_expiry if callable(on_expiry) else Expiry(on_expiry)
        self._plan: Scheduled | None = None

    def clear(self) -> None:
        """Forget the plan."""
        self._plan = None

    def put(self, first: int, actions: np.ndarray, status: Status) -> None:
        """Follow a plan's `actions` (B, H, A), which begin at env step `first` of the grid, from now on."""
        batch_size, horizon, _ = actions.shape
        single = actions.reshape(batch_size, horizon * self.num_actions, self.action_dim)
        env_actions = single.repeat(self.frame_skip // self.num_actions, axis=1)
        # One assignment: readers in other threads see the old plan or the new one, never half of it.
        self._plan = Scheduled(first, env_actions, status)

    def at(self, env_step: int) -> tuple[Float[np.ndarray, "batch action"], Status]:
        """The actions of an env step of the grid, and the status of the plan they are from.

        `Status.STALE` says that no plan covers the step and that `on_expiry` had to help.
        """
        plan = self._plan
        if plan is not None:
            index = env_step - plan.first
            if 0 <= index < plan.actions.shape[1]:
                return plan.actions[:, index], plan.status
        if not isinstance(self.on_expiry, Expiry):
            return np.atleast_2d(np.asarray(self.on_expiry(env_step), dtype=np.float32)), Status.STALE
        if plan is None or self.on_expiry is Expiry.zero:
            return np.zeros((1, self.action_dim), dtype=np.float32), Status.STALE
        return plan.actions[:, -1], Status.STALE

    def committed(
        self, first_step: int, count: int, batch_size: int
    ) -> Float[np.ndarray, "batch step action"]:
        """What `count` model steps of the grid will execute, as the planner's actions (B, count, A)."""
        steps = []
        for step in range(first_step, first_step + count):
            held = self.frame_skip // self.num_actions
            different = [self.at(step * self.frame_skip + i)[0] for i in range(0, self.frame_skip, held)]
            rows = [np.broadcast_to(action, (batch_size, self.action_dim)) for action in different]
            steps.append(np.concatenate(rows, axis=1))
        return np.stack(steps, axis=1)
