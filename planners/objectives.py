"""Objectives over imagined latents, composed with + and *.

    objective = GoalDistance("l2") + 20 * TemporalDistance(model.temporal_distance) + 0.01 * ControlCost()

Shapes: imagined (B, N, H, ...), actions (B, N, H, A) in env units, goal (B, 1, ...), costs (B, N).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .protocol import Evaluation, Objective
from .settings import as_choice

Cost = Float[Tensor, "batch candidate"]

SOONER = 0.05
"""What being close early weighs beside being close at all, for `Reduce.closest`; more makes a plan greedy."""


class Term(ABC):
    """One term of an objective; add terms, and scale them with numbers."""

    @abstractmethod
    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """Cost of each candidate; lower is better."""

    def violation(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost | None:
        """By how much each candidate breaks hard constraints; None for terms without any."""
        return None

    def of_members(self, members: Tensor) -> Cost | None:
        """What the members of an ensemble add, from the latents (B, N, M, H, ...) that each imagines."""
        return None

    def evaluate(
        self, imagined: Tensor, actions: Tensor, goal: Tensor, members: Tensor | None = None
    ) -> Evaluation:
        """Cost and violation together, as planners take them."""
        cost, added = self(imagined, actions, goal), None if members is None else self.of_members(members)
        return Evaluation(cost if added is None else cost + added, self.violation(imagined, actions, goal))

    def terms(self) -> list[Term]:
        """The single terms inside."""
        return [self]

    def __add__(self, other: Term) -> Term:
        return Sum(self, other) if isinstance(other, Term) else NotImplemented

    def __mul__(self, weight: float) -> Term:
        return Scaled(self, weight) if isinstance(weight, (int, float)) else NotImplemented

    __rmul__ = __mul__


class Sum(Term):
    """The sum of terms; violations add up too."""

    def __init__(self, *terms: Term) -> None:
        self.parts = terms

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """Sum of the parts' costs."""
        first, *others = (part(imagined, actions, goal) for part in self.parts)
        return sum(others, start=first)

    def violation(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost | None:
        """Sum of the parts' violations."""
        found = [part.violation(imagined, actions, goal) for part in self.parts]
        return _sum_of_known(found)

    def of_members(self, members: Tensor) -> Cost | None:
        """Sum of what the parts say of members."""
        return _sum_of_known([part.of_members(members) for part in self.parts])

    def terms(self) -> list[Term]:
        """The single terms inside."""
        return [term for part in self.parts for term in part.terms()]


class Scaled(Term):
    """A term times a weight; a hard constraint stays as hard."""

    def __init__(self, term: Term, weight: float) -> None:
        self.term = term
        self.weight = weight

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """Weighted cost."""
        return self.weight * self.term(imagined, actions, goal)

    def violation(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost | None:
        """The term's violation."""
        return self.term.violation(imagined, actions, goal)

    def of_members(self, members: Tensor) -> Cost | None:
        """Weighted cost."""
        cost = self.term.of_members(members)
        return None if cost is None else self.weight * cost

    def terms(self) -> list[Term]:
        """The single terms inside."""
        return self.term.terms()


class Distance(StrEnum):
    """Distances between latents, over all dimensions that are known of the second: those that are not NaN."""

    l1 = "l1"
    """Sum of absolute differences."""
    l2 = "l2"
    """Sum of squared differences (no root is taken)."""
    cosine = "cosine"
    """1 - cosine similarity."""

    def between(self, one: Tensor, other: Tensor) -> Tensor:
        """Distance over the last dimension; what is NaN in `other` (a goal's proprio, say) does not count."""
        unknown = other.isnan()
        if unknown.any():
            one, other = one.masked_fill(unknown, 0), other.masked_fill(unknown, 0)
        if self is Distance.cosine:
            return 1 - cosine_similarity(one, other, dim=-1)
        difference = one - other
        return difference.abs().sum(dim=-1) if self is Distance.l1 else difference.square().sum(dim=-1)


class Reduce(StrEnum):
    """How the steps of a plan count."""

    last = "last"
    """Only the last step."""
    sum = "sum"
    """All steps alike."""
    discounted = "discounted"
    """Step t, from 0, times discount ** t."""
    closest = "closest"
    """The step that comes closest, and a fifth of the last: on the way a plan may lead away from the goal.

    And a little of the closest so far, on average: of plans that come as close, the soonest. Else a plan that
    arrives at its very end is as good, at every replan anew, and nobody ever sets out.
    """

    def over(self, steps: Float[Tensor, "batch candidate step"], discount: float = 0.95) -> Cost:
        """One cost of the steps of each candidate; `discount` matters for `discounted` alone."""
        if self is Reduce.last:
            return steps[:, :, -1]
        if self is Reduce.closest:
            so_far = steps.cummin(dim=2).values
            return so_far[:, :, -1] + 0.2 * steps[:, :, -1] + SOONER * so_far.mean(dim=2)
        if self is Reduce.discounted:
            steps = steps * discount ** torch.arange(steps.shape[2], device=steps.device)
        return steps.sum(dim=2)


class GoalDistance(Term):
    """Distance between the imagined latents and the goal's.

    Args:
        distance: "l1", "l2" (the sum of squared differences) or "cosine", over what is known of the goal.
        reduce: "last" step, "sum" over the steps, "discounted" sum, or "closest".
        discount: weight of a step relative to the one before, for "discounted".
        scale: (S, S), what the first S numbers of both latents are multiplied with, and no others count; a
            world model's `change_scale`, say. None takes latents as they are.

    Raises:
        ValueError: an unknown distance or reduction.
    """

    def __init__(
        self,
        distance: Distance | str = "l2",
        reduce: Reduce | str = "last",
        discount: float = 0.95,
        scale: Tensor | None = None,
    ) -> None:
        self.distance = as_choice(Distance, "distance", distance)
        self.reduce = as_choice(Reduce, "reduce", reduce)
        self.discount = discount
        self.scale = scale

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """Distance of each candidate."""
        if self.reduce is Reduce.last:
            imagined = imagined[:, :, -1:]  # no distance is computed in vain
        imagined, goal = imagined.flatten(3), goal.flatten(2).unsqueeze(2)
        if self.scale is not None:
            imagined, goal = (latent[..., : len(self.scale)] @ self.scale for latent in (imagined, goal))
        return self.reduce.over(self.distance.between(imagined, goal), self.discount)


class ControlCost(Term):
    """Sum of squared actions over steps and action numbers."""

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """Control cost of each candidate, in squared env units."""
        return actions.square().sum(dim=(2, 3))


class RateCost(Term):
    """Sum of squared changes of the action from step to step, from the second step on."""

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """Rate cost of each candidate, in squared env units; 0 for a horizon of 1."""
        return actions.diff(dim=2).square().sum(dim=(2, 3))


class Stillness(Term):
    """Squared change between the last imagined latents, for holding a pose: a latent at rest does not change.

    Args:
        steps: how many of the last changes count.

    Raises:
        ValueError: when called with a horizon that has not so many changes.
    """

    def __init__(self, steps: int = 1) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps} is not allowed; give 1 or more")
        self.steps = steps

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """Sum over latent dimensions and the last `steps` changes."""
        if imagined.shape[2] <= self.steps:
            raise ValueError(
                f"Stillness(steps={self.steps}) needs a horizon above {self.steps}, not {imagined.shape[2]}"
            )
        return imagined[:, :, -self.steps - 1 :].flatten(3).diff(dim=2).square().sum(dim=(2, 3))


class TerminalValue(Term):
    """Any function of the imagined future and the goal as a cost: a learned head, a value's negative.

    Args:
        function: maps (imagined (B, N, H, ...), goal (B, 1, ...)) to costs (B, N).
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """The function's cost."""
        return self.function(imagined, goal)


class TemporalDistance(TerminalValue):
    """Model steps still to go from the end of the imagined future, as a world model predicts them.

    Args:
        function: a world model's `temporal_distance`, say: maps (imagined, goal) to steps (B, N).
    """


class PredictedReward(Term):
    """Minus the sum of the rewards of the imagined steps, as a world model predicts them.

    Args:
        function: a world model's `predicted_reward`, say: maps imagined latents to sums of rewards (B, N).
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """Minus the reward of each candidate."""
        return -self.function(imagined)


class Disagreement(Term):
    """How far the members of an ensemble are apart: where they are, none of them knows what happens.

    The control loop hands over what each member imagines, if the model has `rollout_members`.
    """

    asks_members = True

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """0: the mean of the members says nothing."""
        return actions.new_zeros(actions.shape[:2])

    def of_members(self, members: Tensor) -> Cost:
        """Sum over steps and latent dimensions of the members' variance."""
        return members.flatten(4).var(dim=2, correction=0).sum(dim=(2, 3))


class Constraint(Term):
    """Keeps `function(imagined) <= 0` at every step.

    Hard (the default): CEM ranks candidates that break it after all that keep it, MPPI penalises it, and the
    plan reports the violation left over. Soft: the violation times `weight` is a cost.

    Args:
        function: maps latents (B, N, H, ...) to (B, N, H) or (B, N); positive is a violation.
        weight: None for a hard constraint, a cost factor for a soft one.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], weight: float | None = None) -> None:
        self.function = function
        self.weight = weight

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """Weighted violation if soft; 0 if hard."""
        if self.weight is None:
            return actions.new_zeros(actions.shape[:2])
        return self.weight * self._excess(imagined)

    def violation(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost | None:
        """Violation summed over the steps if hard."""
        return self._excess(imagined) if self.weight is None else None

    def _excess(self, imagined: Tensor) -> Cost:
        excess = self.function(imagined).clamp(min=0)
        return excess.sum(dim=2) if excess.ndim == 3 else excess


class ViaPoints(Term):
    """Several goals in sequence: the cost of visiting them in order as closely as the horizon allows.

    For each candidate, the cheapest choice of steps t1 <= t2 <= ... at which it is at the first goal, then
    the second, and so on, is found exactly, by dynamic programming over the steps. The control loop tells the
    term what it observes (`observe`), and goals already reached no longer count. The loop's own goal image is
    ignored.

    Args:
        goals: (K, ...) latents, in the order of the visit.
        tolerance: a goal counts as reached at an observed latent with a distance of at most this.
        distance: as in `GoalDistance`.
    """

    def __init__(self, goals: Tensor, tolerance: float, distance: Distance | str = "l2") -> None:
        self.goals = torch.as_tensor(goals).flatten(1)
        self.tolerance = tolerance
        self.distance = as_choice(Distance, "distance", distance)
        self.reached: Tensor | None = None
        """(B,) goals reached so far, by batch row of the control loop."""
        self._rows: Tensor | None = None

    def restart(self, rows: Tensor, batch_size: int) -> None:
        """Forget what the given batch rows have reached."""
        if self.reached is None or self.reached.shape[0] != batch_size:
            self.reached = torch.zeros(batch_size, dtype=torch.long, device=self.goals.device)
        self.reached[rows] = 0

    def observe(self, rows: Tensor, latents: Tensor) -> None:
        """Note the latents (R, ...) observed now in the given rows; these rows are planned next."""
        if self.reached is None or int(rows.max()) >= self.reached.shape[0]:
            self.restart(rows, int(rows.max()) + 1)
        assert self.reached is not None
        for _ in range(len(self.goals)):
            index = self.reached[rows].clamp(max=len(self.goals) - 1)
            near = self.distance.between(latents.flatten(1), self.goals[index]) <= self.tolerance
            # The last goal is never dropped: it is where the plan stays.
            self.reached[rows] = torch.where(near, index + 1, index).clamp(max=len(self.goals) - 1)
        self._rows = rows

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Cost:
        """Cost of the best ordered visit of the goals that are left."""
        steps = imagined.flatten(3)
        reached = torch.zeros(steps.shape[0], dtype=torch.long, device=steps.device)
        if self.reached is not None and self._rows is not None and len(self._rows) == steps.shape[0]:
            reached = self.reached[self._rows]
        visit = steps.new_zeros(steps.shape[:3])
        for number, via in enumerate(self.goals):
            distance = self.distance.between(steps, via)
            left = (reached <= number).view(-1, 1, 1)
            visit = torch.where(left, (visit + distance).cummin(dim=2).values, visit)
        # The last goal also counts at the end of the plan, so that the plan stays there.
        return visit[:, :, -1] + self.distance.between(steps[:, :, -1], self.goals[-1])


def _sum_of_known(costs: list[Cost | None]) -> Cost | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known[1:], start=known[0]) if known else None


def evaluator(objective: Objective) -> Callable[..., Tensor | Evaluation]:
    """How a planner evaluates an objective: with its violations, where it can report them."""
    return getattr(objective, "evaluate", objective)


def members_for(objective: object, model: Any) -> Callable[[Tensor, Tensor], Tensor] | None:  # noqa: ANN401
    """The model's `rollout_members`, if a term of the objective asks for it.

    Raises:
        ValueError: the model is no ensemble.
    """
    if not any(getattr(term, "asks_members", False) for term in terms_of(objective)):
        return None
    if getattr(model, "num_members", 1) < 2:
        raise ValueError(
            "objective.disagreement needs an ensemble, and the model is none: train one with model.ensemble=3"
        )
    return model.rollout_members


def terms_of(objective: object) -> list[Any]:
    """The single terms of an objective; itself, where it is not made of `Term`s."""
    terms = getattr(objective, "terms", None)
    return [objective] if terms is None else terms()
