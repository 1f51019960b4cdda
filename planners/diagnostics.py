"""Pictures of a search: what was tried, what was chosen, and how the cost lies around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .bounds import ActionBounds
from .protocol import CostFn, Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Landscape:
    """Costs around a plan when two of its numbers change and all the others stay."""

    cost: Float[np.ndarray, "second first"]
    first_values: Float[np.ndarray, " first"]
    second_values: Float[np.ndarray, " second"]
    first: tuple[int, int]
    """(step, action number) along the columns."""
    second: tuple[int, int]
    """(step, action number) along the rows."""
    chosen: tuple[float, float]
    """The plan's own two numbers."""


def energy_landscape(
    cost_fn: CostFn,
    actions: Float[Tensor, "step action"],
    bounds: ActionBounds,
    first: tuple[int, int] = (0, 0),
    second: tuple[int, int] | None = None,
    resolution: int = 41,
) -> Landscape:
    """Evaluate `cost_fn` on a grid over two numbers of a plan, from bound to bound.

    All other numbers stay as planned; rate limits are not heeded.

    Args:
        cost_fn: as for planners, for a batch of 1.
        actions: the plan (H, A) around which to look, in the numbers that were searched.
        bounds: of one of its actions.
        first: (step, action number) along the columns.
        second: (step, action number) along the rows; by default the next action number of the first step or,
            where actions have only one, that of the next step.
        resolution: values of each number.

    Raises:
        ValueError: the plan has no such number, or both are the same one.
    """
    horizon, action_dim = actions.shape
    if second is None:
        if horizon * action_dim < 2:
            raise ValueError("The plan is a single number; a landscape needs a horizon of 2 or more")
        second = (0, 1) if action_dim > 1 else (1, 0)
    for step, number in (first, second):
        if not (0 <= step < horizon and 0 <= number < action_dim):
            raise ValueError(
                f"(step, action number) = {(step, number)} is not in the plan;"
                f" give steps below {horizon} and action numbers below {action_dim}"
            )
    if first == second:
        raise ValueError(f"first and second are both {first}; give two different numbers of the plan")
    values = [
        torch.linspace(float(bounds.low[number]), float(bounds.high[number]), resolution)
        for _, number in (first, second)
    ]
    rows, columns = torch.meshgrid(values[1], values[0], indexing="ij")
    candidates = actions.detach().clone().repeat(resolution * resolution, 1, 1)
    candidates[:, first[0], first[1]] = columns.reshape(-1).to(candidates)
    candidates[:, second[0], second[1]] = rows.reshape(-1).to(candidates)
    with torch.inference_mode():
        outcome = cost_fn(candidates.unsqueeze(0))
    cost = outcome[0] if isinstance(outcome, tuple) else outcome
    return Landscape(
        cost=cost[0].reshape(resolution, resolution).cpu().numpy(),
        first_values=values[0].numpy(),
        second_values=values[1].numpy(),
        first=first,
        second=second,
        chosen=(float(actions[first]), float(actions[second])),
    )


def landscape_figure(landscape: Landscape) -> Figure:
    """The landscape as filled contours, with the plan's place in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    axes = figure.subplots()
    cost = np.ma.masked_invalid(landscape.cost)
    filled = axes.contourf(landscape.first_values, landscape.second_values, cost, levels=24)
    figure.colorbar(filled, ax=axes, label="cost")
    (star,) = axes.plot(*landscape.chosen, marker="*", markersize=15, color="white", clip_on=False, zorder=5)
    star.set_markeredgecolor("black")
    axes.set_xlabel(f"action {landscape.first[1]} at step {landscape.first[0]}")
    axes.set_ylabel(f"action {landscape.second[1]} at step {landscape.second[0]}")
    axes.set_title("Cost around the chosen plan (star)")
    return figure


def search_figure(plan: Plan, row: int = 0, most: int = 100) -> Figure:
    """Candidates, elites and the chosen sequence of the last iteration, and the search's course.

    Args:
        plan: made with the planner's `record` set.
        row: batch row to show.
        most: candidates drawn at most.

    Raises:
        ValueError: the plan has no trace.
    """
    from matplotlib.figure import Figure

    if not plan.trace:
        raise ValueError("The plan has no trace; set planner.record = True before optimize")
    last = plan.trace[-1]
    chosen = plan.searched[row].cpu()
    action_dim = chosen.shape[-1]
    figure = Figure(figsize=(4 + 3 * action_dim, 4), layout="constrained")
    course, *panels = figure.subplots(1, action_dim + 1)
    iterations = np.arange(1, len(plan.cost_per_iteration) + 1)
    course.plot(iterations, plan.cost_per_iteration[:, row].cpu(), color="tab:blue", marker="o")
    course.set_xlabel("iteration")
    course.set_title("course of the search")
    course.set_ylabel("lowest cost", color="tab:blue")
    width = course.twinx()
    width.plot(iterations, plan.std_per_iteration[:, row].cpu(), color="tab:orange", marker="s")
    width.set_ylabel("std / half-range", color="tab:orange")
    width.set_ylim(bottom=0)
    for number, axes in enumerate(panels):
        tried = axes.plot(last.candidates[row, :most, :, number].T.cpu(), color="0.8", linewidth=0.7)
        named = {"candidates": tried[0]}
        if last.elites is not None:
            elites = last.candidates[row, last.elites[row]]
            best = axes.plot(elites[:most, :, number].T.cpu(), color="tab:orange", linewidth=0.7)
            named["elites"] = best[0]
        named["chosen"] = axes.plot(chosen[:, number], color="black", linewidth=2)[0]
        axes.set_xlabel("model step")
        kind = "action" if plan.latent_actions is None else "latent action"
        axes.set_title(f"{kind} {number}, last iteration")
        if number == 0:
            axes.legend(named.values(), named.keys(), fontsize="small")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.part")
    figure.savefig(unfinished, format="png", dpi=120)
    unfinished.replace(path)
