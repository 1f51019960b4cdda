"""A control loop that never waits: plans in the background, on a fixed grid of time."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .caution import OnSurprise
from .deadline import Clock, DurationRecord
from .mpc import MPC
from .protocol import Plan, Status
from .schedule import Expiry, Schedule


@dataclass
class LoopCounters:
    """What a real-time loop has done so far."""

    plans: int = 0
    late: int = 0
    """Plans that arrived after the steps they had taken as committed."""
    skipped: int = 0
    """Model steps that no plan was made from, because an older plan was still being made."""
    missed: int = 0
    """Model steps that no frame arrived for; the next frame stands in."""
    expired: int = 0
    """Actions that no plan covered."""
    cut: int = 0
    """Plans that their deadline cut short."""


@dataclass
class _Frame:
    """An observation that begins a model step of the grid."""

    step: int
    timestamp: float
    observation: Mapping[str, Any]
    executed: torch.Tensor | None
    """(B, A) what the model step before it executed; None at the beginning of an episode."""


@dataclass
class _Result:
    """A plan that is ready, or (simulated) will be."""

    step: int
    committed: int
    actions: np.ndarray
    status: Status
    ready: float


class RealTimeMPC:
    """Runs an `MPC`'s encoder and planner in the background; `action` answers at once, whatever they do.

    Time is a grid of env steps at `rate_hz`, that begins with the first observation. A plan begins at a model
    step of the grid. As it will be ready only some time later, the actions of the next model steps are
    already committed: the model is rolled through them, and the search is over the rest. How many these are
    is measured (95th percentile from observation to plan). A plan that is late is spliced in by the time that
    it is then; model steps missed meanwhile are skipped, never caught up.

        with RealTimeMPC(controller, rate_hz=20) as loop:
            loop.observe(observation, timestamp)
            action = loop.action(timestamp)

    Args:
        controller: an `MPC` with its goal set; do not use it elsewhere while the loop runs.
        rate_hz: env steps a second.
        budget: seconds a plan may take; None for what the committed steps allow, less a fifth. If that is too
            little for any iteration, one step more is committed from then on.
        compensate: False plans as if plans were ready at once, for comparison.
        on_expiry: "hold", "zero", or a function of the env step, for times that no plan covers.
        clock: seconds that never go back, for timestamps that are not given; `time.monotonic` if None.
        latency: seconds added to every plan's own, to try out slow machines: a number or a function.
        simulated: no thread: plans are made inside `observe` and `action`, take no time but `latency`, and
            become ready by the timestamps given. Deterministic.

    Attributes:
        counters: see `LoopCounters`.
        status: of the action given last.
        last_plan: the newest plan.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        controller: MPC,
        rate_hz: float,
        *,
        budget: float | None = None,
        compensate: bool = True,
        on_expiry: Expiry | str | Callable[[int], np.ndarray] = Expiry.hold,
        clock: Clock | None = None,
        latency: float | Callable[[], float] = 0.0,
        simulated: bool = False,
    ) -> None:
        if not rate_hz > 0:
            raise ValueError(f"rate_hz={rate_hz} is not allowed; give env steps a second, greater than 0")
        if controller.caution.on_surprise is not OnSurprise.ignore:
            raise ValueError(
                "RealTimeMPC tells of surprise (controller.surprise) and leaves it to you to act upon it: "
                'make the controller with on_surprise="ignore"'
            )
        self.controller = controller
        self.rate_hz = rate_hz
        self.budget = budget
        self.compensate = compensate
        self.simulated = simulated
        self.counters = LoopCounters()
        self.status = Status.STALE
        self.last_plan: Plan | None = None
        self._clock = time.monotonic if clock is None else clock
        self._latency = latency if callable(latency) else lambda: latency
        self._schedule = Schedule(
            controller.frame_skip, controller.action_dim, controller.num_actions, on_expiry
        )
        self._durations = DurationRecord()
        self._frames: deque[_Frame] = deque()
        self._orders: deque[Callable[[], None]] = deque()
        self._pending: _Result | None = None
        self._origin: float | None = None
        self._next_step = 0
        self._planned_step: int | None = None
        self._extra_steps = 0
        self._free_from = -math.inf
        self._episode = 0
        self._single = True
        self._batch_size = 1
        self._error: BaseException | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        if not simulated:
            self._thread = threading.Thread(target=self._work, name="RealTimeMPC", daemon=True)
            self._thread.start()

    # What the robot's loop calls

    def observe(self, observation: Mapping[str, Any], timestamp: float | None = None) -> None:
        """Hand over an observation taken at `timestamp` [s]; returns at once.

        Only the first observation of each model step is used; its arrays are copied.

        Raises:
            RuntimeError: planning in the background failed; its error is the cause.
        """
        if self._error is not None:
            raise RuntimeError("Planning in the background failed") from self._error
        now = self._clock() if timestamp is None else timestamp
        if self._origin is None:
            self._origin = now
            self._single = np.ndim(observation[self.controller.views[0]]) == 3
            self._batch_size = 1 if self._single else len(observation[self.controller.views[0]])
        step = self._env_step(now) // self.controller.frame_skip
        if step >= self._next_step:
            self.counters.missed += step - self._next_step
            self._next_step = step + 1
            copied = {name: np.array(value) for name, value in observation.items()}
            executed = None
            if step > 0:
                before = self._schedule.committed(step - 1, 1, self._batch_size)
                executed = torch.from_numpy(before[:, 0])
            with self._wake:
                self._frames.append(_Frame(step, now, copied, executed))
                self._wake.notify()
        if self.simulated:
            self._simulate(now)

    def action(self, timestamp: float | None = None) -> np.ndarray:
        """The action to apply at `timestamp` [s]: float32 (A,), or (B, A) where observations are batches.

        Never waits for a plan.
        """
        now = self._clock() if timestamp is None else timestamp
        if self.simulated:
            self._simulate(now)
        action, self.status = self._schedule.at(0 if self._origin is None else self._env_step(now))
        if self.status is Status.STALE:
            self.counters.expired += 1
        if self._single:
            return action[0].copy()
        return np.broadcast_to(action, (self._batch_size, self.controller.action_dim)).copy()

    def set_goal(self, image: npt.ArrayLike) -> None:
        """Change the goal from the next plan on; returns at once."""
        copied = np.array(image)
        self._order(lambda: self.controller.set_goal(copied))

    def reset(self, seed: int | None = 0) -> None:
        """Begin a new episode, whose grid begins with the next observation; returns at once."""
        with self._wake:
            self._episode += 1
            self._frames.clear()
            self._pending = None
            self._schedule.clear()
            self._origin = None
            self._next_step = 0
        self._order(lambda: self._restart(seed))

    def close(self) -> None:
        """Stop planning; waits for the plan that is being made."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> RealTimeMPC:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # The background

    def _order(self, order: Callable[[], None]) -> None:
        with self._wake:
            self._orders.append(order)
            self._wake.notify()

    def _restart(self, seed: int | None) -> None:
        self.controller.reset(seed)
        self._planned_step = None
        self._free_from = -math.inf

    def _env_step(self, now: float) -> int:
        assert self._origin is not None
        return round((now - self._origin) * self.rate_hz)

    @property
    def _model_step_seconds(self) -> float:
        return self.controller.frame_skip / self.rate_hz

    def _committed_steps(self) -> int:
        """Model steps that pass before a plan made now is ready."""
        if not self.compensate:
            return 0
        wanted = math.ceil(self._durations.p95() / self._model_step_seconds - 1e-9)
        return min(max(wanted, 1) + self._extra_steps, self.controller.planner.horizon - 1)

    def _work(self) -> None:
        try:
            while True:
                with self._wake:
                    while not (self._closing or self._frames or self._orders):
                        self._wake.wait()
                    if self._closing:
                        return
                    orders, frames = list(self._orders), list(self._frames)
                    episode = self._episode
                    self._orders.clear()
                    self._frames.clear()
                result = self._make(orders, frames)
                if result is None:
                    continue
                until_ready = result.ready - self._clock()
                if until_ready > 0:
                    time.sleep(until_ready)
                with self._wake:
                    if episode == self._episode:
                        self._publish(result, self._clock())
        except BaseException as error:  # handed to the caller's thread, whatever it is
            self._error = error

    def _simulate(self, now: float) -> None:
        """Do what the background would have done until `now`."""
        while True:
            if self._pending is not None:
                if self._pending.ready > now + 1e-9:
                    return
                self._publish(self._pending, self._pending.ready)
                self._pending = None
            if not (self._frames or self._orders):
                return
            orders, frames = list(self._orders), list(self._frames)
            self._orders.clear()
            self._frames.clear()
            self._pending = self._make(orders, frames)

    def _make(self, orders: list[Callable[[], None]], frames: list[_Frame]) -> _Result | None:
        """Encode all new frames and plan from the newest; the model steps of the others are skipped."""
        for order in orders:
            order()
        if not frames:
            return None
        for frame in frames:
            self.controller.observe(frame.observation, frame.executed)
        newest = frames[-1]
        self.counters.skipped += len(frames) - 1
        committed = self._committed_steps()
        prefix = None
        if committed:
            prefix = torch.from_numpy(self._schedule.committed(newest.step, committed, self._batch_size))
        previous = None if self.controller.num_actions > 1 else newest.executed
        elapsed = 0 if self._planned_step is None else newest.step - self._planned_step
        plan = self.controller.plan(
            elapsed, prefix=prefix, previous_action=previous, budget=self._budget(newest, committed)
        )
        self._planned_step = newest.step
        self.last_plan = plan
        self._extra_steps += plan.iterations == 0
        done = max(newest.timestamp, self._free_from) if self.simulated else self._clock()
        ready = self._free_from = done + self._latency()
        self._durations.add(ready - newest.timestamp)
        return _Result(newest.step, committed, plan.actions.cpu().numpy(), plan.status, ready)

    def _budget(self, frame: _Frame, committed: int) -> float | None:
        if self.budget is not None or self.simulated or not self.compensate:
            return self.budget
        return 0.8 * committed * self._model_step_seconds - (self._clock() - frame.timestamp)

    def _publish(self, result: _Result, now: float) -> None:
        self.counters.plans += 1
        self.counters.cut += result.status is Status.DEADLINE
        if self.compensate:
            first = result.step * self.controller.frame_skip
            assert self._origin is not None
            due = first + result.committed * self.controller.frame_skip
            self.counters.late += now > self._origin + due / self.rate_hz + 1e-9
        else:
            # A plan's first action is applied when it is ready, whenever that is.
            first = self._env_step(now)
        self._schedule.put(first, result.actions, result.status)
