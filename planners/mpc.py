"""The control loop: observe, encode, plan, act, for one env or a batch of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wm_plan.world_model.protocol import WorldModel

from .caution import DEFAULT_THRESHOLD, Caution, OnSurprise
from .frames import as_frames
from .latent_actions import LatentActions
from .objectives import evaluator, members_for, terms_of
from .protocol import CostFn, Evaluation, Objective, Plan, Planner
from .seeding import mix


class Tail(StrEnum):
    """What a shifted warm start ends with."""

    hold = "hold"
    """The plan's last action."""
    centre = "centre"
    """The middle of the action range."""


class MPC:
    """Model predictive control in latent space: an `act` an env step, a plan every few model steps.

    Frames are looked at when a model step begins, each is encoded once, and so is the goal. Batch rows are
    independent: a row acts as it would alone with the same seed. Rows may be reset at different times.

    Args:
        model: `encode` and `rollout`, and, unless given here, `frame_skip` and `history`. One with a true
            `uses_past` also gets what was executed and sensed: `rollout(..., past_actions=, proprio=)`.
        planner: any planner; its `action_dim` is the env's, times the actions of a block; or that of
            `latent_actions`.
        objective: cost of imagined latents.
        replan_every: model steps executed of each plan, at most the planner's horizon.
        frame_skip: env steps a model step lasts; the model's own if None.
        history: frames of context; the model's own if None.
        action_block: how many actions one of a plan's holds, each for an equal share of a model step's env
            steps. True is one for each env step, False one that is held.
        prior: proposes sequences to try: (context (R, T, ...), goal (R, 1, ...)) -> actions (R, M, H, A).
        latent_actions: what the planner searches in place of actions. Its plans' `actions` are the decoded
            ones, everything else in them that has to do with actions is of latent ones. A planner's rate
            limit would be theirs; a prior cannot be asked.
        budget: seconds a plan may take; None for no limit.
        tail: what a shifted warm start ends with.
        imagine: also imagine the latents along the chosen plan (one more rollout of one candidate).
        on_surprise: "ignore", "slow", "hold" or "stop"; see `OnSurprise`.
        surprise_threshold: above which that is done.
        holding: (A,) env units, the action that moves nothing; zeros if None.
        seed: as in `reset`.

    Attributes:
        last_plan: the newest `Plan`, for the batch rows `last_rows`; None before the first `act`.
        timings: of the last `act`: `encode_ms`, and `plan_ms` (0 where nothing was planned).
        replanned: whether the last `act` made a plan.
        caution: what watches `surprise`.

    Raises:
        ValueError: a setting is out of range, or does not fit the model or the planner.
    """

    def __init__(
        self,
        model: WorldModel,
        planner: Planner,
        objective: Objective,
        *,
        replan_every: int = 1,
        frame_skip: int | None = None,
        history: int | None = None,
        action_block: bool | int = False,
        prior: Callable[[Tensor, Tensor], Tensor] | None = None,
        latent_actions: LatentActions | None = None,
        budget: float | None = None,
        tail: Tail | str = Tail.hold,
        imagine: bool = True,
        on_surprise: OnSurprise | str = OnSurprise.ignore,
        surprise_threshold: float = DEFAULT_THRESHOLD,
        holding: npt.ArrayLike | None = None,
        seed: int | Sequence[int] = 0,
    ) -> None:
        self.model = model
        self.planner = planner
        self.objective = objective
        self.frame_skip = int(model.frame_skip if frame_skip is None else frame_skip)
        self.history = int(model.history if history is None else history)
        if not 1 <= replan_every <= planner.horizon:
            raise ValueError(
                f"replan_every={replan_every} is not allowed; give 1 to horizon={planner.horizon}"
            )
        if self.frame_skip < 1 or self.history < 1:
            raise ValueError(
                f"frame_skip={self.frame_skip}, history={self.history} are not allowed; give 1 or more each"
            )
        block = self.frame_skip if action_block is True else max(1, int(action_block))
        taken = planner.action_dim if latent_actions is None else latent_actions.action_dim
        if self.frame_skip % block or taken % block:
            raise ValueError(
                f"action_block={action_block} needs the env's bounds repeated {block} times, and a frame_skip"
                f" that is a multiple; {taken} bounds and frame_skip={self.frame_skip} are not"
            )
        if latent_actions is not None and prior is not None:
            raise ValueError("a prior proposes actions, and latent_actions are searched; give one of them")
        self.replan_every = replan_every
        self.num_actions = block
        self.prior = prior
        self.budget = budget
        self.tail = Tail(tail)
        self.imagine = imagine
        self.latent_actions = latent_actions
        self.action_dim = taken // block
        rest = None if holding is None else torch.as_tensor(np.asarray(holding, np.float32)).repeat(block)
        self.caution = Caution(model, on_surprise, surprise_threshold, rest)
        self.last_plan: Plan | None = None
        self.last_rows: Tensor | None = None
        self.timings: dict[str, float] = {"encode_ms": 0.0, "plan_ms": 0.0}
        self.replanned = False
        self._seed: int | Sequence[int] = seed
        self._goal: Tensor | None = None
        self.views: tuple[str, ...] = tuple(getattr(model, "views", ("pixels",)))
        self._tells_past = bool(getattr(model, "uses_past", False))
        self._rollout_members = members_for(objective, model)
        self._last_action = torch.empty(0)
        self._batch_size = 0

    def reset(self, seed: int | Sequence[int] | None = 0, mask: npt.ArrayLike | None = None) -> None:
        """Begin new episodes: forget histories, plans and warm starts; goals stay.

        Args:
            seed: of the search noise: one number, or one a batch row (a row then plans as it would alone with
                this number as its seed). None keeps the seeds.
            mask: (B,) bool, rows to reset; all of them when None.

        Raises:
            ValueError: the mask does not have one entry a row.
        """
        if seed is not None and mask is None:
            self._seed = seed
        if mask is None:
            self._batch_size = 0
            self.last_plan = self.last_rows = None
            return
        rows = torch.as_tensor(np.asarray(mask), dtype=torch.bool)
        if rows.shape != (self._batch_size,):
            raise ValueError(f"mask has shape {tuple(rows.shape)}; give ({self._batch_size},)")
        self._restart(rows.nonzero().squeeze(1))

    def set_goal(
        self, image: npt.ArrayLike | Mapping[str, npt.ArrayLike], mask: npt.ArrayLike | None = None
    ) -> None:
        """Set the goal, at any time; it counts from the next model step on, when plans are made anew.

        Args:
            image: (H, W, 3) uint8 for all rows, or (B, H, W, 3), one a row; of the model's first view, or
                of any of its views by name.
            mask: (B,) bool, rows whose goal changes; all of them when None.

        Raises:
            ValueError: not an image of that shape.
        """
        given = image if isinstance(image, Mapping) else {self.views[0]: image}
        frames = {name: as_frames(view, "The goal image").unsqueeze(1) for name, view in given.items()}
        self.set_goal_latent(self._encode(frames), mask)

    def set_goal_latent(self, latent: Tensor, mask: npt.ArrayLike | None = None) -> None:
        """Set the goal by its latent (1 or B, 1, ...); otherwise as `set_goal`."""
        if mask is None or self._goal is None:
            self._goal = latent
            rows = torch.arange(self._batch_size)
        else:
            rows = torch.as_tensor(np.asarray(mask), dtype=torch.bool).nonzero().squeeze(1)
            goal = self._goal.repeat_interleave(max(self._batch_size // len(self._goal), 1), dim=0)
            goal[rows] = latent
            self._goal = goal
        if self._batch_size:
            self._check_goal(self._batch_size)
            self._has_plan[rows] = False

    @property
    def goal_latent(self) -> Tensor | None:
        """Latent (1 or B, 1, ...) of the goal; None before `set_goal`."""
        return self._goal

    @property
    def latent(self) -> Tensor | None:
        """Newest observed latent (B, ...) of each row; None before the first `act`."""
        return self._context[:, -1] if self._batch_size else None

    @property
    def surprise(self) -> Tensor | None:
        """Surprise (B,) in [0, 1] of each row's newest model step; None if the model cannot tell."""
        return self.caution.surprise

    @property
    def stopped(self) -> Tensor:
        """Rows (B,) that surprise has stopped (`on_surprise="stop"`): they hold still until reset."""
        return self.caution.stopped

    def act(self, observation: Mapping[str, Any], active: npt.ArrayLike | None = None) -> np.ndarray:
        """The action to apply now.

        Call once an env step. A row without its own axis, pixels (H, W, 3), gives an action (A,).

        Args:
            observation: `pixels` (H, W, 3) or (B, H, W, 3) uint8 and, if the model uses it, `proprio`.
            active: (B,) bool; rows that are False are left alone and get actions of 0.

        Returns:
            float32 action (A,) or (B, A) in env units.

        Raises:
            ValueError: no goal is set, or shapes do not fit.
        """
        frames, proprio = self._read(observation)
        chosen = torch.ones(self._batch_size, dtype=torch.bool)
        if active is not None:
            chosen = torch.as_tensor(np.asarray(active), dtype=torch.bool).reshape(self._batch_size)
        self.timings = {"encode_ms": 0.0, "plan_ms": 0.0}
        self.replanned = False
        beginning = (chosen & (self._substep == 0)).nonzero().squeeze(1)
        if len(beginning):
            self._observe(beginning, frames, proprio)
            due = ~self._has_plan[beginning] | (self._executed[beginning] >= self.replan_every)
            if bool(due.any()):
                self._plan(beginning[due], self._last_action[beginning[due]], self.budget)
            self._applied[beginning] = self.caution.temper(beginning, self._planned_step(beginning))
        actions = torch.where(chosen.unsqueeze(1), self._next_actions(), torch.zeros(()))
        self._last_action = torch.where(chosen.unsqueeze(1), actions, self._last_action)
        self._advance(chosen)
        result = actions.numpy().astype(np.float32)
        return result[0] if np.ndim(observation[self.views[0]]) == 3 else result

    # For loops that keep the time themselves, such as `RealTimeMPC`; `act` needs neither

    def observe(self, observation: Mapping[str, Any], executed: Tensor | None = None) -> None:
        """Encode the frames at the beginning of a model step and append them to the histories.

        Args:
            observation: as in `act`.
            executed: (B, A) the planner's action of the model step before; None takes what `act` applied.
        """
        frames, proprio = self._read(observation)
        self._observe(torch.arange(self._batch_size), frames, proprio, executed)

    def plan(
        self,
        elapsed: int,
        *,
        prefix: Tensor | None = None,
        previous_action: Tensor | None = None,
        budget: float | None = None,
    ) -> Plan:
        """Plan all rows from the frames observed last.

        Args:
            elapsed: model steps since the frames that the last plan was made from.
            prefix: (B, P, A) actions in env units already committed, from those frames on.
            previous_action: (B, A) action before them, for the rate limit.
            budget: seconds.

        Raises:
            ValueError: nothing was observed since the last reset.
        """
        if self._batch_size == 0 or bool(self._fresh.any()):
            raise ValueError("Nothing was observed yet; call observe(observation) before plan")
        self._executed[:] = elapsed
        return self._plan(torch.arange(self._batch_size), previous_action, budget, prefix)

    def cost_fn(self, row: int = 0) -> CostFn:
        """The cost function that one row's next plan would be searched with, for looking around in it.

        Args:
            row: batch row; the function takes actions (1, N, H, A) of it.

        Raises:
            ValueError: no goal is set, or nothing was observed since the last reset.
        """
        if self._goal is None or self._batch_size == 0 or bool(self._fresh[row]):
            raise ValueError("There is nothing to score yet; call set_goal(image) and act(observation) first")
        rows = torch.tensor([row])
        return self._cost_fn(rows, self._context[rows], self._goal[rows if len(self._goal) > 1 else rows * 0])

    # Parts of the loop

    def _read(self, observation: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Frames (B, H, W, 3) of each view and proprio (B, P) of an observation that fits the episode."""
        if self._goal is None:
            raise ValueError("No goal is set; call set_goal(image) before act")
        missing = [name for name in self.views if name not in observation]
        if missing:
            raise ValueError(f"the model sees {missing[0]!r}, which is not among {', '.join(observation)}")
        frames = {name: as_frames(observation[name], name) for name in self.views}
        proprio = observation.get("proprio")
        num_rows = len(frames[self.views[0]])
        if proprio is not None:
            proprio = torch.as_tensor(np.asarray(proprio)).reshape(num_rows, -1)
        if self._batch_size == 0:
            self._start(num_rows)
        for name, view in frames.items():
            if len(view) != self._batch_size:
                raise ValueError(
                    f"{name} have {len(view)} rows, the episode has {self._batch_size}; call reset() first"
                )
        return frames, proprio

    def _start(self, batch_size: int) -> None:
        self._check_goal(batch_size)
        self._batch_size = batch_size
        self._substep = torch.zeros(batch_size, dtype=torch.long)
        self._executed = torch.zeros(batch_size, dtype=torch.long)
        self._plan_number = torch.zeros(batch_size, dtype=torch.long)
        self._has_plan = torch.zeros(batch_size, dtype=torch.bool)
        self._fresh = torch.ones(batch_size, dtype=torch.bool)
        self._planned = torch.zeros(batch_size, self.planner.horizon, self.planner.action_dim)
        self._applied = torch.full((batch_size, self.num_actions * self.action_dim), torch.nan)
        self._last_action = torch.full((batch_size, self.action_dim), torch.nan)
        self._kept: Tensor | None = None
        self._context = torch.empty(0)
        self._past: dict[str, Tensor] = {}
        self._restart(torch.arange(batch_size))

    def _restart(self, rows: Tensor) -> None:
        self._substep[rows] = 0
        self._executed[rows] = 0
        self._plan_number[rows] = 0
        self._has_plan[rows] = False
        self._fresh[rows] = True
        self._applied[rows] = torch.nan
        self._last_action[rows] = torch.nan
        self.caution.restart(rows, self._batch_size)
        for term in terms_of(self.objective):
            if hasattr(term, "restart"):
                term.restart(rows, self._batch_size)

    def _check_goal(self, batch_size: int) -> None:
        assert self._goal is not None
        if len(self._goal) not in {1, batch_size}:
            raise ValueError(
                f"{len(self._goal)} goal images do not fit a batch of {batch_size}; give one, or one a row"
            )

    def _encode(self, views: Mapping[str, Tensor], proprio: Tensor | None = None) -> Tensor:
        frames: Any = views if len(self.views) > 1 else views[self.views[0]]
        # no_grad, not inference_mode: a gradient planner differentiates through rollouts from these latents.
        with torch.no_grad():
            return self.model.encode(frames) if proprio is None else self.model.encode(frames, proprio)

    def _observe(
        self,
        rows: Tensor,
        frames: Mapping[str, Tensor],
        proprio: Tensor | None,
        executed: Tensor | None = None,
    ) -> None:
        """Encode the newest frames of some rows, once, and append them to their histories."""
        start = time.perf_counter()
        latents = self._encode(
            {name: view[rows].unsqueeze(1) for name, view in frames.items()},
            None if proprio is None else proprio[rows].unsqueeze(1),
        )
        if self._context.numel() == 0:
            self._context = latents.new_zeros(self._batch_size, self.history, *latents.shape[2:])
        past = self._context[rows]
        appended = torch.cat([past[:, 1:], latents], dim=1)
        fresh = self._fresh[rows].view(-1, *[1] * (appended.ndim - 1)).to(latents.device)
        self._context[rows] = torch.where(fresh, latents.expand_as(appended), appended)
        executed = self._applied[rows] if executed is None else executed
        if self._tells_past:
            self._remember(rows, proprio, executed)
        self.caution.observe(rows, latents[:, 0], executed)
        self._fresh[rows] = False
        for term in terms_of(self.objective):
            if hasattr(term, "observe"):
                term.observe(rows, latents[:, 0])
        self.timings["encode_ms"] = (time.perf_counter() - start) * 1e3

    def _remember(self, rows: Tensor, proprio: Tensor | None, action: Tensor) -> None:
        """Append what led to the newest frames, and what was sensed with them.

        An action that is not known, at the beginning of an episode, is NaN.
        """
        news = {"past_actions": action}
        if proprio is not None:
            news["proprio"] = proprio.to(torch.float32)
        for name, entry in news.items():
            if name not in self._past:
                self._past[name] = torch.zeros(self._batch_size, self.history, entry.shape[1])
            appended = torch.cat([self._past[name][rows, 1:], entry.unsqueeze(1)], dim=1)
            fresh = self._fresh[rows].view(-1, 1, 1)
            self._past[name][rows] = torch.where(fresh, entry.unsqueeze(1), appended)

    def _told(self, rows: Tensor) -> dict[str, Tensor]:
        """What a model that `uses_past` is told of some rows besides latents."""
        told = {name: entries[rows].to(self._context.device) for name, entries in self._past.items()}
        if told:
            told["past_actions"] = told["past_actions"][:, 1:]
        return told

    def _plan(
        self, rows: Tensor, previous_action: Tensor | None, budget: float | None, prefix: Tensor | None = None
    ) -> Plan:
        start = time.perf_counter()
        assert self._goal is not None
        context = self._context[rows]
        goal = self._goal[rows if len(self._goal) > 1 else torch.zeros_like(rows)]
        searches_actions = self.latent_actions is None
        plan = self.planner.optimize(
            self._cost_fn(rows, context, goal, prefix),
            batch_size=len(rows),
            warm_start=self._warm_start(rows),
            budget=budget,
            seed=self._row_seeds(rows),
            previous_action=previous_action if self.num_actions == 1 and searches_actions else None,
            prefix=prefix if searches_actions else None,
            priors=self._priors(rows, context, goal),
        )
        self._planned[rows] = plan.actions.cpu()
        self._keep_elites(rows, plan)
        if self.imagine or not searches_actions:
            with torch.no_grad():
                imagined, actions = self._imagine(rows, context, plan.actions.unsqueeze(1), prefix)
            plan.imagined = imagined[:, 0] if self.imagine else None
            if not searches_actions:
                plan.latent_actions, plan.actions = plan.actions, actions[:, 0]
        self._executed[rows] = 0
        self._has_plan[rows] = True
        self._plan_number[rows] += 1
        self.last_plan, self.last_rows, self.replanned = plan, rows, True
        self.timings["plan_ms"] = (time.perf_counter() - start) * 1e3
        return plan

    def _cost_fn(self, rows: Tensor, context: Tensor, goal: Tensor, prefix: Tensor | None = None) -> CostFn:
        evaluate = evaluator(self.objective)

        def cost_fn(searched: Tensor) -> Tensor | Evaluation:
            if self._rollout_members is None:
                return evaluate(*self._imagine(rows, context, searched, prefix), goal)
            actions = searched
            if self.latent_actions is not None:
                _, actions = self.latent_actions.imagine(context, searched, prefix)
            members = self._rollout_members(context, actions)
            return evaluate(members.mean(dim=2), actions, goal, members)

        return cost_fn

    def _imagine(
        self, rows: Tensor, context: Tensor, searched: Tensor, prefix: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Latents along sequences (R, N, H, ...) that the planner searches, and these as actions."""
        if self.latent_actions is not None:
            return self.latent_actions.imagine(context, searched, prefix)
        return self.model.rollout(context, searched, **self._told(rows)), searched

    def _row_seeds(self, rows: Tensor) -> list[int]:
        """Seeds of (seed, row, plan number): nothing else of the batch has a say."""
        numbers = self._plan_number[rows].tolist()
        if isinstance(self._seed, int):
            return [mix(self._seed, row, number) for row, number in zip(rows.tolist(), numbers, strict=True)]
        if len(self._seed) != self._batch_size:
            raise ValueError(
                f"{len(self._seed)} seeds do not fit a batch of {self._batch_size}; give one, or one a row"
            )
        return [mix(self._seed[row], 0, number) for row, number in zip(rows.tolist(), numbers, strict=True)]

    def _warm_start(self, rows: Tensor) -> Tensor:
        """The last plans, moved on by the steps executed of them; rows without one start in the middle."""
        shifted = self._shift(self._planned[rows].unsqueeze(1), rows)[:, 0]
        return torch.where(self._has_plan[rows].view(-1, 1, 1), shifted, torch.nan)

    def _shift(self, sequences: Tensor, rows: Tensor) -> Tensor:
        """Sequences (R, M, H, A) moved on in time, each by its row's executed steps."""
        horizon = self.planner.horizon
        index = torch.arange(horizon) + self._executed[rows].unsqueeze(1)
        inside = index.clamp(max=horizon - 1).view(len(rows), 1, horizon, 1).expand_as(sequences)
        shifted = sequences.gather(2, inside)
        if self.tail is Tail.centre:
            shifted = shifted.masked_fill((index >= horizon).view(len(rows), 1, horizon, 1), torch.nan)
        return shifted

    def _priors(self, rows: Tensor, context: Tensor, goal: Tensor) -> Tensor | None:
        found = []
        if self.prior is not None:
            with torch.no_grad():
                found.append(self.prior(context, goal).cpu())
        if self._kept is not None:
            kept = self._shift(self._kept[rows], rows)
            found.append(torch.where(self._has_plan[rows].view(-1, 1, 1, 1), kept, torch.nan))
        return torch.cat(found, dim=1) if found else None

    def _keep_elites(self, rows: Tensor, plan: Plan) -> None:
        if plan.elites is None:
            return
        if self._kept is None:
            self._kept = torch.zeros(self._batch_size, *plan.elites.shape[1:])
        self._kept[rows] = plan.elites.cpu()

    def _planned_step(self, rows: Tensor) -> Tensor:
        """The action of the model step that the plans of some rows have come to."""
        planned = self._planned[rows, self._executed[rows].clamp(max=self.planner.horizon - 1)]
        if self.latent_actions is None:
            return planned
        with torch.no_grad():
            return self.latent_actions.decode(self._context[rows], planned).cpu()

    def _next_actions(self) -> Tensor:
        rows = torch.arange(self._batch_size)
        held = self.frame_skip // self.num_actions
        return self._applied.view(-1, self.num_actions, self.action_dim)[rows, self._substep // held]

    def _advance(self, chosen: Tensor) -> None:
        self._substep = torch.where(chosen, self._substep + 1, self._substep)
        ended = self._substep == self.frame_skip
        self._executed = torch.where(ended, self._executed + 1, self._executed)
        self._substep = torch.where(ended, 0, self._substep)
