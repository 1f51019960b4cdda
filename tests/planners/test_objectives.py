"""Objectives, on numbers checked by hand."""

import pytest
import torch

from wm_plan.planners import (
    CEM,
    MPPI,
    Constraint,
    ControlCost,
    Disagreement,
    GoalDistance,
    PredictedReward,
    RateCost,
    Stillness,
    TemporalDistance,
    TerminalValue,
    ViaPoints,
)
from wm_plan.planners.objectives import SOONER

# One row, two candidates, three steps, latents of two numbers.
IMAGINED = torch.tensor([[[[1.0, 0], [2, 0], [2, 1]], [[0, 1], [0, 2], [0, 4]]]])
ACTIONS = torch.tensor([[[[1.0], [2], [2]], [[0], [1], [-1]]]])
GOAL = torch.tensor([[[2.0, 2.0]]])


def cost(objective):
    return objective(IMAGINED, ACTIONS, GOAL)[0].tolist()


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (GoalDistance("l1"), [1, 4]),
        (GoalDistance("l2"), [1, 8]),
        (GoalDistance("l2", reduce="sum"), [5 + 4 + 1, 5 + 4 + 8]),
        (GoalDistance("l2", reduce="discounted", discount=0.5), [5 + 2 + 0.25, 5 + 2 + 2]),
        (
            GoalDistance("l2", reduce="closest"),
            [1 + 0.2 * 1 + SOONER * 10 / 3, 4 + 0.2 * 8 + SOONER * 13 / 3],
        ),
        (ControlCost(), [9, 2]),
        (RateCost(), [1, 5]),
        (Stillness(), [1, 4]),
        (Stillness(steps=2), [2, 5]),
        (TerminalValue(lambda imagined, goal: imagined[:, :, -1, 1]), [1, 4]),
        (PredictedReward(lambda imagined: imagined[..., 0].sum(dim=2)), [-5, 0]),
        (Disagreement(), [0, 0]),
        (Constraint(lambda imagined: imagined[..., 1] - 1, weight=2.0), [0, 8]),
        (Constraint(lambda imagined: imagined[..., 1] - 1), [0, 0]),
        (GoalDistance("l1") + 2 * ControlCost() + RateCost() * 0.5, [1 + 18 + 0.5, 4 + 4 + 2.5]),
    ],
)
def test_costs_are_those_worked_out_by_hand(objective, expected):
    assert cost(objective) == pytest.approx(expected)


def test_of_plans_that_come_as_close_the_soonest_costs_least_and_a_detour_may_still_win():
    plans = torch.tensor([[[4.0, 1, 1, 1], [4, 4, 4, 1], [5, 6, 4, 1], [3, 2, 2, 2]]])
    soon, late, detour, greedy = GoalDistance("l2", reduce="closest")(
        plans.sqrt().unsqueeze(-1), torch.zeros(1, 4, 4, 1), torch.zeros(1, 1, 1)
    )[0].tolist()
    assert soon < late < detour < greedy


def test_cosine_distance_is_zero_in_the_goals_direction_and_one_across():
    imagined = torch.tensor([[[[3.0, 3.0]], [[-1.0, 1.0]]]])
    assert GoalDistance("cosine")(imagined, ACTIONS, GOAL)[0].tolist() == pytest.approx([0, 1], abs=1e-6)


def test_latents_of_several_axes_count_all_their_numbers():
    imagined = torch.ones(2, 3, 4, 5, 6)
    goal = torch.zeros(2, 1, 5, 6)
    assert GoalDistance("l1")(imagined, torch.zeros(2, 3, 4, 1), goal).tolist() == [[30.0] * 3] * 2
    assert (
        GoalDistance("l2", reduce="sum")(imagined, torch.zeros(2, 3, 4, 1), goal).tolist()
        == [[120.0] * 3] * 2
    )


def test_temporal_distance_is_given_the_whole_future_and_the_goal():
    def steps_to_go(imagined, goal):
        assert imagined.shape == (1, 2, 3, 2) and goal.shape == (1, 1, 2)
        return torch.tensor([[3.0, 7.0]])

    assert cost(20 * TemporalDistance(steps_to_go)) == [60, 140]


def test_hard_constraints_are_reported_apart_from_the_cost_and_survive_weights_and_sums():
    objective = 3 * (GoalDistance("l1") + Constraint(lambda imagined: imagined[..., 1] - 1))
    evaluation = objective.evaluate(IMAGINED, ACTIONS, GOAL)
    assert evaluation.cost[0].tolist() == [3, 12]
    assert evaluation.violation[0].tolist() == [0, 1 + 3]
    assert (GoalDistance() + ControlCost()).evaluate(IMAGINED, ACTIONS, GOAL).violation is None


@pytest.mark.parametrize("planner_class", [CEM, MPPI])
def test_planners_keep_a_constraint_that_the_goal_lies_behind(planner_class):
    """A point of unit speed wants to x = 4 and must not go beyond x = 1."""
    objective = GoalDistance("l2", reduce="sum") + Constraint(lambda imagined: imagined[..., 0] - 1)
    goal = torch.tensor([[[4.0]]])
    planner = planner_class(([-1.0], [1.0]), horizon=5, num_iterations=15)
    plan = planner.optimize(lambda actions: objective.evaluate(actions.cumsum(dim=2), actions, goal), seed=0)
    assert plan.violation.item() == 0
    positions = plan.actions.cumsum(dim=1)[0, :, 0]
    assert positions.max() <= 1 and positions[-1] > 0.85


def test_via_points_are_visited_in_order_at_the_cheapest_steps():
    goals = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    # Candidate 0 starts at the first goal; the second is nearest at its last step: 2 ** 2 + 3 ** 2 = 13.
    # Candidate 1 is nearest to the first goal at step 0 (distance 2), and at the second goal in the end.
    # The last goal counts once more at the end: + 13 and + 0.
    assert cost(ViaPoints(goals, tolerance=0.1)) == [0 + 13 + 13, 2 + 0 + 0]
    # The other way round, candidate 1 does best with both goals at its middle step: 4 + 5.
    assert cost(ViaPoints(goals.flip(0), tolerance=0.1)) == [13 + 2 + 2, 4 + 5 + 17]


def test_goals_observed_to_be_reached_no_longer_count_until_the_row_begins_again():
    goals = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    via = ViaPoints(goals, tolerance=0.1)
    via.restart(torch.tensor([0]), 1)
    via.observe(torch.tensor([0]), torch.tensor([[1.05, 0.0]]))
    assert via.reached.tolist() == [1]
    assert cost(via) == [13 + 13, 0]
    via.restart(torch.tensor([0]), 1)
    via.observe(torch.tensor([0]), torch.tensor([[3.0, 3.0]]))
    assert cost(via) == [26, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GoalDistance("l3"), "Unknown distance 'l3'. Known distances: cosine, l1, l2"),
        (lambda: GoalDistance(reduce="mean"), "Unknown reduce 'mean'"),
        (lambda: Stillness(steps=0), "steps=0 is not allowed"),
        (lambda: cost(Stillness(steps=3)), r"needs a horizon above 3, not 3"),
    ],
)
def test_mistakes_are_answered_with_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_terms_and_numbers_compose():
    with pytest.raises(TypeError):
        GoalDistance() + 3
    with pytest.raises(TypeError):
        GoalDistance() * "two"


def test_disagreement_is_the_variance_of_the_members_whatever_stands_beside_it():
    apart = torch.tensor([0.0, 2.0]).view(
        1, 1, 2, 1, 1
    )  # two members, 2 apart in both numbers: a variance of 1
    members = IMAGINED.unsqueeze(2) + apart * torch.tensor([[[0.0]], [[1.0]]]).view(1, 2, 1, 1, 1)
    objective = GoalDistance("l1") + 3 * Disagreement()
    told = objective.evaluate(IMAGINED, ACTIONS, GOAL, members)
    assert told.cost[0].tolist() == pytest.approx([1, 4 + 3 * 3 * 2])
    assert objective.evaluate(IMAGINED, ACTIONS, GOAL).cost[0].tolist() == pytest.approx([1, 4])
    assert GoalDistance("l1").evaluate(IMAGINED, ACTIONS, GOAL, members).cost[0].tolist() == pytest.approx(
        [1, 4]
    )


def test_a_scale_is_applied_to_the_first_numbers_and_leaves_out_the_others() -> None:
    scale = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    imagined = torch.tensor([1.0, 2.0, 50.0]).reshape(1, 1, 1, 3)
    goal = torch.tensor([0.0, 0.0, torch.nan]).reshape(1, 1, 3)
    cost = GoalDistance("l2", scale=scale)(imagined, torch.zeros(1, 1, 1, 1), goal)
    assert cost.item() == pytest.approx(6.0**2 + 2.0**2)
