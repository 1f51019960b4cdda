"""A cloned policy: what it proposes to a search, and how it acts alone."""

import numpy as np
import pytest
import torch

from tests.worlds import PointEnv, PointWorld, picture
from wm_plan.planners import CEM, MPC, GCBCPolicy, GoalDistance, PriorProposals

BOUNDS = (np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
SPEED = 0.2


def straight(context: torch.Tensor, goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Goes to the goal as fast as it may."""
    mean = ((goal - context[:, -1]) / SPEED).clamp(-1, 1)
    return mean, torch.full_like(mean, 0.3)


def make_proposals(**overrides) -> PriorProposals:
    return PriorProposals(straight, PointWorld(), BOUNDS, **{"horizon": 4, "num_sequences": 5, **overrides})


def test_the_first_sequence_follows_the_means_through_the_imagined_world() -> None:
    context = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]])
    goal = torch.tensor([[[0.5, 0.0]], [[1.0, -1.0]]])
    proposed = make_proposals()(context, goal)
    assert proposed.shape == (2, 5, 4, 2)
    torch.testing.assert_close(proposed[0, 0, :, 0], torch.tensor([1.0, 1.0, 0.5, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(proposed[1, 0, :, 1], torch.full((4,), -1.0))


def test_the_others_take_mirrored_noise_inside_the_bounds() -> None:
    context, goal = torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)
    proposed = make_proposals()(context, goal)[0]
    assert proposed[0].abs().max() == 0
    torch.testing.assert_close(proposed[1, 0], -proposed[2, 0])
    assert float(proposed[1:, 0].abs().max()) > 0
    far = make_proposals(num_sequences=50)(context, torch.full((1, 1, 2), 9.0))
    assert float(far.abs().max()) == 1.0


def test_a_row_is_proposed_the_same_whoever_stands_beside_it() -> None:
    context, goal = torch.randn(3, 1, 2), torch.randn(3, 1, 2)
    together = make_proposals()(context, goal)
    for row in range(3):
        torch.testing.assert_close(
            make_proposals()(context[row : row + 1], goal[row : row + 1])[0], together[row]
        )


def test_a_search_too_small_to_find_the_goal_finds_it_with_the_proposals() -> None:
    costs = {}
    for name, prior in (("without", None), ("with", make_proposals())):
        planner = CEM(BOUNDS, horizon=4, num_samples=8, num_elites=2, num_iterations=1)
        controller = MPC(PointWorld(), planner, GoalDistance(), prior=prior)
        controller.set_goal(picture([0.6, -0.4]))
        controller.act({"pixels": picture([0.0, 0.0])})
        assert controller.last_plan is not None
        costs[name] = float(controller.last_plan.cost[0])
    assert costs["with"] < 1e-6 < costs["without"]


def test_alone_it_walks_every_row_of_a_batch_to_its_own_goal() -> None:
    start = np.array([[0.0, 0.0], [1.0, -1.0]])
    goals = np.array([[0.9, 0.3], [-0.5, 0.5]])
    env = PointEnv(start, frame_skip=2)
    policy = GCBCPolicy(PointWorld(frame_skip=2), straight, BOUNDS)
    policy.reset(seed=[3, 4])
    policy.set_goal(picture(goals))
    observation = env.observe()
    for _ in range(24):
        observation = env.step(policy.act(observation))
    np.testing.assert_allclose(env.position, goals, atol=1e-3)


def test_alone_it_imagines_nothing_and_takes_one_look_a_model_step() -> None:
    world = PointWorld(frame_skip=3)
    policy = GCBCPolicy(world, straight, BOUNDS)
    policy.set_goal(picture([1.0, 0.0]))
    actions = [policy.act({"pixels": picture([0.1 * step, 0.0])}) for step in range(4)]
    assert world.rollouts == 0
    np.testing.assert_array_equal(actions[0], actions[2])
    assert policy.timings["encode_ms"] > 0
    assert policy.replanned


def test_bad_numbers_are_named_and_proprio_models_are_refused() -> None:
    with pytest.raises(ValueError, match="horizon=0, num_sequences=5 are not allowed"):
        make_proposals(horizon=0)
    model = PointWorld()
    model.predictor = type("Predictor", (), {"state_dim": 4})()
    with pytest.raises(ValueError, match=r"Give control\.num_prior=0"):
        PriorProposals(straight, model, BOUNDS, horizon=2, num_sequences=1)
    PriorProposals(straight, model, BOUNDS, horizon=1, num_sequences=1)
