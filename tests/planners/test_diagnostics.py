"""Pictures of a search."""

import numpy as np
import pytest
import torch

from tests.worlds import UNIT_BOX, quadratic_cost
from wm_plan.planners import CEM
from wm_plan.planners.diagnostics import energy_landscape, landscape_figure, save_figure, search_figure

TARGET = torch.tensor([[0.5, -0.25], [0.0, 0.75]])


def make_plan(record=True):
    planner = CEM(UNIT_BOX, horizon=2, num_samples=64, num_elites=8, num_iterations=4)
    planner.record = record
    return planner, planner.optimize(quadratic_cost(TARGET), batch_size=2, seed=0)


def test_the_landscape_is_lowest_at_the_optimum_of_the_two_numbers():
    planner, plan = make_plan()
    landscape = energy_landscape(
        quadratic_cost(TARGET), plan.actions[0], planner.bounds, first=(0, 1), second=(1, 1), resolution=41
    )
    row, column = np.unravel_index(landscape.cost.argmin(), landscape.cost.shape)
    assert landscape.first_values[column] == pytest.approx(-0.25, abs=0.03)
    assert landscape.second_values[row] == pytest.approx(0.75, abs=0.03)
    others = (plan.actions[0, :, 0] - TARGET[:, 0]).square().sum().item()
    assert landscape.cost[0, 0] == pytest.approx(0.75**2 + 1.75**2 + others, rel=1e-4)


def test_actions_of_one_number_are_looked_at_over_two_steps():
    bounds = CEM((-np.ones(1), np.ones(1)), horizon=3).bounds
    landscape = energy_landscape(
        quadratic_cost(torch.tensor([[0.5], [-0.5], [0.0]])), torch.zeros(3, 1), bounds
    )
    assert (landscape.first, landscape.second) == ((0, 0), (1, 0))
    row, column = np.unravel_index(landscape.cost.argmin(), landscape.cost.shape)
    assert (landscape.first_values[column], landscape.second_values[row]) == pytest.approx((0.5, -0.5))


def test_a_landscape_with_costs_that_are_not_finite_is_drawn(tmp_path):
    planner, plan = make_plan()

    def walled(actions):
        return torch.where(actions[:, :, 0, 0] > 0.6, torch.inf, quadratic_cost(TARGET)(actions))

    landscape = energy_landscape(walled, plan.actions[0], planner.bounds)
    assert np.isinf(landscape.cost).any()
    save_figure(landscape_figure(landscape), tmp_path / "walled.png")
    assert (tmp_path / "walled.png").stat().st_size > 5000


def test_pictures_are_written_whole(tmp_path):
    planner, plan = make_plan()
    landscape = energy_landscape(quadratic_cost(TARGET), plan.actions[0], planner.bounds)
    save_figure(landscape_figure(landscape), tmp_path / "landscape.png")
    save_figure(search_figure(plan, row=1), tmp_path / "search.png")
    for name in ("landscape.png", "search.png"):
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG") and data.rstrip().endswith(b"\xaeB`\x82") and len(data) > 5000
    assert len(list(tmp_path.iterdir())) == 2


def test_the_trace_holds_candidates_costs_and_elites_of_every_iteration():
    _, plan = make_plan()
    assert len(plan.trace) == 4
    for trace in plan.trace:
        costs = quadratic_cost(TARGET)(trace.candidates)
        torch.testing.assert_close(costs, trace.cost)
        assert trace.cost.gather(1, trace.elites).amax() <= trace.cost.sort(dim=1).values[:, 7].amax()


def test_what_cannot_be_shown_is_refused():
    planner, plan = make_plan(record=False)
    with pytest.raises(ValueError, match="set planner.record = True"):
        search_figure(plan)
    with pytest.raises(ValueError, match=r"\(2, 0\) is not in the plan; give steps below 2"):
        energy_landscape(quadratic_cost(TARGET), plan.actions[0], planner.bounds, first=(2, 0))
    with pytest.raises(ValueError, match="a landscape needs a horizon of 2 or more"):
        energy_landscape(quadratic_cost(TARGET), plan.actions[0, :1, :1], planner.bounds)
    with pytest.raises(ValueError, match="give two different numbers"):
        energy_landscape(quadratic_cost(TARGET), plan.actions[0], planner.bounds, second=(0, 0))
