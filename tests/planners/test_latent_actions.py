"""Latent actions: what they decode to is imagined, executed and kept inside the bounds."""

import numpy as np
import pytest
import torch

from tests.worlds import UNIT_BOX, PointEnv, PointWorld, picture
from wm_plan.planners import MPC, GoalDistance, LatentActions, PriorProposals, RealTimeMPC, make_planner
from wm_plan.planners.diagnostics import energy_landscape

SPEED = 0.2


def turning(context: torch.Tensor, latent_action: torch.Tensor) -> torch.Tensor:
    """One number says how fast to go along a direction that turns with the place."""
    angle = context[:, -1, :1] + context[:, -1, 1:]
    return 3 * latent_action * torch.cat([angle.cos(), angle.sin()], dim=1)


def make_latent(model: PointWorld) -> LatentActions:
    return LatentActions(turning, model, UNIT_BOX, 1)


def make(**overrides) -> MPC:
    model = PointWorld(**overrides)
    latent = make_latent(model)
    planner = make_planner("cem", latent.space, horizon=5, num_samples=64, num_iterations=5)
    return MPC(model, planner, GoalDistance(), latent_actions=latent)


def walked(start: np.ndarray, latent_actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places after each step and actions, worked out one by one."""
    place, places, actions = start.copy(), [], []
    for number in latent_actions:
        angle = place.sum()
        action = np.clip(3 * number * np.array([np.cos(angle), np.sin(angle)]), -1, 1)
        place = place + SPEED * action
        places.append(place)
        actions.append(action)
    return np.stack(places), np.stack(actions)


def test_each_is_decoded_where_the_model_imagines_to_be_by_then() -> None:
    rng = np.random.default_rng(0)
    context = torch.from_numpy(rng.uniform(-1, 1, (2, 2, 2))).float()
    sequences = torch.from_numpy(rng.uniform(-1, 1, (2, 3, 4, 1))).float()
    imagined, actions = make_latent(PointWorld()).imagine(context, sequences)
    assert imagined.shape == (2, 3, 4, 2) and actions.shape == (2, 3, 4, 2)
    for row in range(2):
        for candidate in range(3):
            places, taken = walked(context[row, -1].numpy(), sequences[row, candidate].numpy())
            np.testing.assert_allclose(imagined[row, candidate], places, atol=1e-5)
            np.testing.assert_allclose(actions[row, candidate], taken, atol=1e-5)


def test_committed_actions_take_the_place_of_the_first_ones() -> None:
    context, prefix = torch.zeros(1, 2, 2), torch.tensor([[[0.5, -0.5], [1.0, 0.0]]])
    imagined, actions = make_latent(PointWorld()).imagine(context, torch.ones(1, 3, 4, 1), prefix)
    assert torch.equal(actions[0, :, :2], prefix.expand(3, -1, -1))
    places, taken = walked(np.array([0.3, -0.1]), np.ones((2, 1)))
    np.testing.assert_allclose(imagined[0, 0, 2:], places, atol=1e-5)
    np.testing.assert_allclose(actions[0, 0, 2:], taken, atol=1e-5)


def test_a_plan_holds_what_is_decoded_and_its_first_action_is_done() -> None:
    controller = make()
    controller.set_goal(picture([0.5, 0.2]))
    action = controller.act({"pixels": picture([0.0, 0.0])})
    plan = controller.last_plan
    assert plan is not None and plan.actions.shape == (1, 5, 2) and plan.searched.shape == (1, 5, 1)
    assert action.shape == (2,) and np.abs(action).max() <= 1
    np.testing.assert_allclose(action, plan.actions[0, 0], atol=1e-6)
    assert controller.latent is not None
    places = controller.latent[0] + SPEED * plan.actions[0].cumsum(dim=0)
    np.testing.assert_allclose(plan.imagined[0], places, atol=1e-5)
    landscape = energy_landscape(
        controller.cost_fn(), plan.searched[0], controller.planner.bounds, resolution=3
    )
    assert landscape.chosen == tuple(plan.searched[0, :2, 0].tolist())
    assert landscape.cost.min() < landscape.cost.max()


def test_the_search_reaches_the_goal_through_what_it_decodes() -> None:
    def swapped(context: torch.Tensor, latent_action: torch.Tensor) -> torch.Tensor:
        return 2 * latent_action.flip(1) - context[:, -1]

    model = PointWorld()
    latent = LatentActions(swapped, model, UNIT_BOX, 2)
    planner = make_planner("cem", latent.space, horizon=4, num_samples=128, num_iterations=6)
    controller = MPC(model, planner, GoalDistance(reduce="sum"), latent_actions=latent)
    controller.set_goal(picture([0.7, -0.4]))
    env = PointEnv(np.zeros(2))
    for _ in range(12):
        env.step(controller.act(env.observe()))
    np.testing.assert_allclose(env.position, [0.7, -0.4], atol=0.03)


def test_each_env_row_acts_as_it_would_alone() -> None:
    goals, places = np.array([[0.4, 0.1], [-0.3, 0.2], [0.2, -0.5]]), np.zeros((3, 2))
    together = make()
    together.reset(seed=[1, 2, 3])
    together.set_goal(picture(goals))
    actions = together.act({"pixels": picture(places)})
    for row in range(3):
        alone = make()
        alone.reset(seed=[row + 1])
        alone.set_goal(picture(goals[row]))
        np.testing.assert_allclose(alone.act({"pixels": picture(places[row])}), actions[row], atol=1e-5)


def test_a_real_time_loop_keeps_to_the_actions_that_it_has_committed() -> None:
    controller = make(frame_skip=2)
    controller.set_goal(picture([0.5, 0.3]))
    loop = RealTimeMPC(controller, 20.0, latency=0.1, simulated=True)
    env, done, plans = PointEnv(np.zeros(2), frame_skip=2), [], []
    for step in range(12):
        loop.observe(env.observe(), step / 20)
        done.append(loop.action(step / 20))
        plans.append(loop.last_plan)
        env.step(done[-1])
    assert plans[4] is not plans[2]
    # The plan made at the third model step begins with what was done until it was ready.
    np.testing.assert_allclose(plans[4].actions[0, 0], done[4], atol=1e-6)
    np.testing.assert_allclose(plans[4].actions[0, 1], done[6], atol=1e-6)
    assert np.linalg.norm(env.position - [0.5, 0.3]) < np.linalg.norm([0.5, 0.3])


def test_what_cannot_go_together_is_refused() -> None:
    model = PointWorld()
    latent = make_latent(model)
    planner = make_planner("cem", latent.space, horizon=5, num_samples=64)

    def cloned(context: torch.Tensor, goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return goal, torch.ones_like(goal)

    proposals = PriorProposals(cloned, model, UNIT_BOX, horizon=5, num_sequences=2)
    with pytest.raises(ValueError, match="latent_actions are searched; give one of them"):
        MPC(model, planner, GoalDistance(), latent_actions=latent, prior=proposals)
    with pytest.raises(ValueError, match="2 bounds and frame_skip=1 are not"):
        MPC(model, planner, GoalDistance(), latent_actions=latent, action_block=3)
