"""The control loop over any gymnasium environment, env step by env step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .mpc import MPC
from .protocol import Plan, Status
from .realtime import RealTimeMPC

if TYPE_CHECKING:
    import gymnasium

View = Callable[[Any], Mapping[str, Any]]
"""Maps an env's observation to `pixels` (H, W, 3) uint8 and, if the model uses it, `proprio` (P,)."""


@dataclass
class LoopStep:
    """One env step: what was seen, what was done, and what came of it."""

    index: int
    """Env steps taken before this one."""
    observation: Any
    """The env's own, from before the action."""
    action: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    next_observation: Any
    plan: Plan | None
    """The plan that became known since the last env step, if there is one."""
    status: Status
    """Of the plan that the action is from; `Status.STALE` where no plan covered it."""
    late: float
    """Seconds between the time at which the action was due and the time at which it was known; 0 unless a
    `RealTimeMPC` keeps time."""


def run_in_env(
    env: gymnasium.Env,
    controller: MPC | RealTimeMPC,
    goal: npt.ArrayLike,
    *,
    seed: int = 0,
    max_steps: int | None = None,
    options: dict[str, Any] | None = None,
    view: View | None = None,
) -> Iterator[LoopStep]:
    """Steer an environment towards a goal picture; every item is one env step that was taken.

        for step in run_in_env(env, controller, goal_image, max_steps=200):
            print(step.index, step.reward, step.plan)

    An `MPC` is waited for. A `RealTimeMPC` is not: env steps are taken at its `rate_hz` on its clock (or, if
    it is simulated, on exact simulated time), whatever its plans do. An env step that takes longer than its
    period is not caught up.

    Args:
        env: one environment, not a vector of them, whose actions are those of the planner.
        controller: is reset, and told the goal.
        goal: picture (H, W, 3) uint8.
        seed: of the env's reset and of the search noise.
        max_steps: env steps; until the episode ends if None.
        options: of the env's reset.
        view: how an observation is read. By default it is a mapping that has `pixels`, or a picture itself;
            of any other env, `env.render()` is taken, which must give an RGB array.

    Raises:
        ValueError: the env's actions are not the planner's, or there is no picture to be had.
    """
    mpc = controller.controller if isinstance(controller, RealTimeMPC) else controller
    _check_actions(env, mpc)
    read = _default_view(env) if view is None else view
    observation, _ = env.reset(seed=seed, options=options)
    controller.reset(seed=seed)
    controller.set_goal(goal)
    pace = _Pace(controller) if isinstance(controller, RealTimeMPC) else None
    known = controller.last_plan
    index, ended = 0, False
    while not ended and (max_steps is None or index < max_steps):
        seen, late = read(observation), 0.0
        if isinstance(controller, RealTimeMPC):
            assert pace is not None
            now = pace.wait()
            controller.observe(seen, now)
            action, status = controller.action(now), controller.status
            late = pace.lateness()
        else:
            action = controller.act(seen)
            status = controller.last_plan.status if controller.last_plan else Status.STALE
        plan = controller.last_plan if controller.last_plan is not known else None
        known = controller.last_plan
        following, reward, terminated, truncated, info = env.step(action)
        ended = bool(terminated or truncated)
        yield LoopStep(
            index,
            observation,
            action,
            float(reward),
            bool(terminated),
            bool(truncated),
            info,
            following,
            plan,
            status,
            late,
        )
        observation, index = following, index + 1


class _Pace:
    """When env steps are due, on the clock of a real-time loop."""

    def __init__(self, loop: RealTimeMPC) -> None:
        self._loop = loop
        self._period = 1 / loop.rate_hz
        self._now: Callable[[], float] = time.monotonic
        self._due: float | None = None
        self._next = 0.0

    def wait(self) -> float | None:
        """Sleep until the next step is due; gives the simulated time, or None on a real clock."""
        if self._loop.simulated:
            self._due = 0.0 if self._due is None else self._due + self._period
            return self._due
        now = self._now()
        self._due = now if self._due is None else self._next
        if self._due > now:
            time.sleep(self._due - now)
        # What took longer than a period moves all that follows.
        self._next = (self._due if now - self._due < self._period else now) + self._period
        return None

    def lateness(self) -> float:
        """Seconds since the step was due."""
        assert self._due is not None
        return 0.0 if self._loop.simulated else self._now() - self._due


def _check_actions(env: gymnasium.Env, mpc: MPC) -> None:
    space: Any = env.action_space
    if getattr(space, "shape", None) != (mpc.action_dim,):
        raise ValueError(
            f"The env's actions are {space}, the planner's have {mpc.action_dim} numbers;"
            " take a model of this env, or one env instead of a vector of them"
        )
    bounds = getattr(mpc.planner, "bounds", None)
    if bounds is None:
        return
    low, high = (bound.cpu().numpy()[: mpc.action_dim] for bound in (bounds.low, bounds.high))
    if (low < space.low - 1e-6).any() or (high > space.high + 1e-6).any():
        raise ValueError(
            f"The planner's actions lie in {low.tolist()} to {high.tolist()}, the env's in"
            f" {space.low.tolist()} to {space.high.tolist()}; plan inside the env's bounds"
        )


def _default_view(env: gymnasium.Env) -> View:
    def read(observation: Any) -> Mapping[str, Any]:  # noqa: ANN401
        if isinstance(observation, Mapping) and "pixels" in observation:
            return observation
        picture = observation
        if not _is_picture(picture):
            picture = env.render() if env.render_mode == "rgb_array" else None
        if not _is_picture(picture):
            raise ValueError(
                "The env's observation has no picture; make the env with render_mode='rgb_array', or say with"
                " view=... how pixels (H, W, 3) uint8 are read off an observation"
            )
        return {"pixels": picture}

    return read


def _is_picture(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape[2:] == (3,)
