"""The control loop, on a plane where a picture tells the position."""

import numpy as np
import pytest
import torch

from tests.worlds import UNIT_BOX, PointEnv, PointWorld, picture
from wm_plan.planners import MPC, Disagreement, GoalDistance, make_planner


def make(model=None, planner="cem", planner_overrides=None, **overrides):
    model = model or PointWorld()
    settings = {"horizon": 4, "num_samples": 128, "num_iterations": 6} | (planner_overrides or {})
    return MPC(model, make_planner(planner, UNIT_BOX, **settings), GoalDistance(reduce="sum"), **overrides)


def drive(controller, env, steps, **kwargs):
    for _ in range(steps):
        env.step(controller.act(env.observe(), **kwargs))
    return env.position


def test_the_point_reaches_the_goal_picture():
    controller = make()
    controller.set_goal(picture([0.7, -0.4]))
    position = drive(controller, PointEnv(np.zeros(2)), 12)
    np.testing.assert_allclose(position, [0.7, -0.4], atol=0.02)


def test_a_batch_of_points_reaches_its_own_goals():
    controller = make()
    goals = np.array([[0.7, -0.4], [-0.5, 0.5], [0.1, 0.9]])
    controller.set_goal(picture(goals))
    np.testing.assert_allclose(drive(controller, PointEnv(np.zeros((3, 2))), 12), goals, atol=0.02)


def test_an_action_is_float32_and_has_the_shape_of_its_observation():
    controller = make()
    controller.set_goal(picture([0.7, -0.4]))
    action = controller.act({"pixels": picture([0.0, 0.0])})
    assert action.shape == (2,) and action.dtype == np.float32
    controller.reset()
    assert controller.act({"pixels": picture(np.zeros((3, 2)))}).shape == (3, 2)


def test_one_action_is_held_for_a_model_step_and_frames_in_between_are_not_encoded():
    model = PointWorld(frame_skip=3)
    controller = make(model)
    controller.set_goal(picture([0.7, -0.4]))
    env = PointEnv(np.zeros(2), frame_skip=3)
    drive(controller, env, 9)
    blocks = np.array(env.actions).reshape(3, 3, 2)
    assert (blocks == blocks[:, :1]).all()
    assert not np.array_equal(blocks[0, 0], blocks[2, 0])
    assert model.frames_encoded == 1 + 3


def test_the_observation_is_encoded_once_and_not_once_for_every_candidate():
    model = PointWorld()
    controller = make(model)
    controller.set_goal(picture([0.7, -0.4]))
    controller.act({"pixels": picture([0.0, 0.0])})
    assert model.frames_encoded == 2
    assert all(context.shape == (1, 2, 2) for context in model.contexts)


def test_the_history_is_padded_with_the_first_frame_and_moves_on():
    model = PointWorld()
    controller = make(model)
    controller.set_goal(picture([0.7, -0.4]))
    for x in (0.1, 0.2, 0.3):
        controller.act({"pixels": picture([x, 0.0])})
    seen = [model.contexts[i][0, :, 0].tolist() for i in (0, len(model.contexts) // 3, -1)]
    np.testing.assert_allclose(seen, [[0.1, 0.1], [0.1, 0.2], [0.2, 0.3]], atol=1e-3)


def test_replan_every_executes_so_many_steps_of_each_plan():
    controller = make(replan_every=3)
    controller.set_goal(picture([0.7, -0.4]))
    env = PointEnv(np.zeros(2))
    replanned, plans = [], []
    for _ in range(6):
        env.step(controller.act(env.observe()))
        replanned.append(controller.replanned)
        plans.append(controller.last_plan)
    assert replanned == [True, False, False] * 2
    np.testing.assert_array_equal(np.array(env.actions[:3]), plans[0].actions[0, :3].numpy())


def test_a_new_goal_counts_from_the_next_model_step_even_between_replans():
    controller = make(PointWorld(frame_skip=2), replan_every=4)
    controller.set_goal(picture([0.9, 0.9]))
    env = PointEnv(np.zeros(2), frame_skip=2)
    drive(controller, env, 3)
    controller.set_goal(picture([-0.9, -0.9]))
    drive(controller, env, 2)
    actions = np.array(env.actions)
    assert (actions[:4] > 0).all() and (actions[4] < 0).all()


def test_one_row_is_given_a_new_goal_and_the_others_keep_theirs():
    controller = make()
    controller.set_goal(picture([0.5, 0.5]))
    env = PointEnv(np.zeros((2, 2)))
    drive(controller, env, 2)
    controller.set_goal(picture([-0.5, -0.5]), mask=[False, True])
    np.testing.assert_allclose(drive(controller, env, 14), [[0.5, 0.5], [-0.5, -0.5]], atol=0.03)


def test_a_row_acts_as_it_does_alone():
    goals = np.array([[0.7, -0.4], [-0.5, 0.5], [0.1, 0.9]])
    together = make()
    together.reset(seed=[10, 11, 12])
    together.set_goal(picture(goals))
    env = PointEnv(np.zeros((3, 2)))
    drive(together, env, 5)
    for row in range(3):
        alone = make()
        alone.reset(seed=[10 + row])
        alone.set_goal(picture(goals[row]))
        single = PointEnv(np.zeros(2))
        drive(alone, single, 5)
        np.testing.assert_allclose(single.actions, np.array(env.actions)[:, row], atol=1e-5)


def test_a_row_reset_alone_begins_again_and_leaves_the_others_alone():
    controller = make(PointWorld(frame_skip=3))
    controller.set_goal(picture([0.7, -0.4]))
    first = controller.act({"pixels": picture(np.zeros((2, 2)))})
    controller.reset(mask=[False, True])
    second = controller.act({"pixels": picture(np.zeros((2, 2)))})
    assert controller.last_rows.tolist() == [1]
    np.testing.assert_array_equal(first, second)
    controller.act({"pixels": picture(np.zeros((2, 2)))})
    controller.act({"pixels": picture(np.zeros((2, 2)))})
    assert controller.last_rows.tolist() == [0]


def test_the_same_seed_gives_the_same_episode_twice():
    controller = make()
    controller.set_goal(picture([0.7, -0.4]))
    episodes = []
    for seed in (5, 5, 6):
        controller.reset(seed=seed)
        env = PointEnv(np.zeros(2))
        drive(controller, env, 3)
        episodes.append(np.array(env.actions))
    np.testing.assert_array_equal(episodes[0], episodes[1])
    assert not np.array_equal(episodes[0], episodes[2])


def test_the_warm_start_is_the_last_plan_moved_on_by_one_step():
    controller = make()
    controller.set_goal(picture([1.5, -1.5]))
    env = PointEnv(np.zeros(2))
    env.step(controller.act(env.observe()))
    expected = torch.cat([controller.last_plan.actions[:, 1:], controller.last_plan.actions[:, -1:]], dim=1)
    seen = []
    rollout = controller.model.rollout
    controller.model.rollout = lambda context, actions: (
        seen.append(actions[:, 0].clone()) or rollout(context, actions)
    )
    controller.act(env.observe())
    assert torch.equal(seen[0], expected)


def test_the_first_action_keeps_the_rate_limit_against_the_last_executed_one():
    controller = make(planner_overrides={"rate_limit": 0.2})
    controller.set_goal(picture([0.9, 0.9]))
    env = PointEnv(np.zeros(2))
    drive(controller, env, 3)
    controller.set_goal(picture([-0.9, -0.9]))
    drive(controller, env, 3)
    assert np.abs(np.diff(np.array(env.actions), axis=0)).max() <= 0.2


def test_action_blocks_give_each_env_step_its_own_action():
    model = PointWorld(frame_skip=2)
    low, high = np.tile(UNIT_BOX[0], 2), np.tile(UNIT_BOX[1], 2)
    planner = make_planner("cem", (low, high), horizon=4, num_samples=128)
    controller = MPC(model, planner, GoalDistance(), action_block=True)
    controller.set_goal(picture([0.5, 0.5]))
    env = PointEnv(np.zeros(2), frame_skip=2)
    drive(controller, env, 2)
    np.testing.assert_array_equal(np.array(env.actions).ravel(), controller.last_plan.actions[0, 0].numpy())


def test_rows_that_are_not_active_get_zeros_and_are_not_planned():
    controller = make()
    controller.set_goal(picture([0.7, -0.4]))
    action = controller.act({"pixels": picture(np.zeros((3, 2)))}, active=[True, False, True])
    assert (action[1] == 0).all() and (action[[0, 2]] != 0).all()
    assert controller.last_rows.tolist() == [0, 2]


def test_the_last_plan_carries_the_latents_imagined_along_it():
    controller = make()
    controller.set_goal(picture([0.7, -0.4]))
    controller.act({"pixels": picture([0.1, 0.2])})
    plan = controller.last_plan
    expected = torch.tensor([0.1, 0.2]) + 0.2 * plan.actions.cumsum(dim=1)
    torch.testing.assert_close(plan.imagined, expected, atol=1e-4, rtol=0)
    assert controller.timings["plan_ms"] > 0 and controller.timings["encode_ms"] > 0


def test_a_prior_is_asked_with_context_and_goal_and_its_proposals_are_tried():
    def prior(context, goal):
        assert context.shape == (2, 2, 2) and goal.shape == (2, 1, 2)
        return torch.full((2, 1, 4, 2), 0.123)

    model = PointWorld()
    asked = []
    rollout = model.rollout
    model.rollout = lambda context, actions: asked.append(actions.clone()) or rollout(context, actions)
    controller = make(model, prior=prior)
    controller.set_goal(picture([0.7, -0.4]))
    controller.act({"pixels": picture(np.zeros((2, 2)))})
    assert bool((asked[0][:, 1] == 0.123).all())


def test_mistakes_are_answered_with_what_to_do():
    controller = make()
    with pytest.raises(ValueError, match=r"call set_goal\(image\) before act"):
        controller.act({"pixels": picture([0.0, 0.0])})
    with pytest.raises(ValueError, match=r"give \(H, W, 3\) or \(B, H, W, 3\) uint8"):
        controller.set_goal(np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        controller.set_goal(np.zeros((4, 4, 3)))
    controller.set_goal(picture(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="2 goal images do not fit a batch of 3"):
        controller.act({"pixels": picture(np.zeros((3, 2)))})
    with pytest.raises(ValueError, match="replan_every=5 is not allowed; give 1 to horizon=4"):
        make(replan_every=5)


def test_the_cost_function_of_a_row_gives_the_cost_its_plan_was_chosen_by():
    controller = make()
    with pytest.raises(ValueError, match=r"call set_goal\(image\) and act\(observation\) first"):
        controller.cost_fn()
    controller.set_goal(picture(np.array([[0.7, -0.4], [-0.5, 0.5]])))
    drive(controller, PointEnv(np.zeros((2, 2))), 1)
    plan = controller.last_plan
    for row in (0, 1):
        cost = controller.cost_fn(row)(plan.actions[row].view(1, 1, 4, 2)).cost
        torch.testing.assert_close(cost[0, 0], plan.cost[row])


class Disagreeing(PointWorld):
    """An ensemble of two whose members are apart to the right of the middle line."""

    num_members = 2

    def rollout_members(self, context, actions):
        mean = self.rollout(context, actions)
        apart = mean[..., :1].clamp(min=0) * torch.tensor([1.0, 0.0])
        return torch.stack([mean - apart, mean + apart], dim=2)


def test_disagreement_keeps_plans_to_where_the_members_know():
    planner = make_planner("cem", UNIT_BOX, horizon=4, num_samples=128, num_iterations=6)
    ends = []
    for objective in (GoalDistance(reduce="sum"), GoalDistance(reduce="sum") + 10 * Disagreement()):
        controller = MPC(Disagreeing(), planner, objective)
        controller.set_goal(picture([0.5, 0.5]))
        ends.append(drive(controller, PointEnv(np.array([-0.4, -0.4])), 12))
    np.testing.assert_allclose(ends[0], [0.5, 0.5], atol=0.03)
    # sum of (x - .5) ** 2 + 10 x ** 2: smallest at .5 / 11
    np.testing.assert_allclose(ends[1], [0.045, 0.5], atol=0.03)


def test_a_model_that_is_no_ensemble_cannot_disagree():
    with pytest.raises(ValueError, match=r"needs an ensemble, .* train one with model.ensemble=3"):
        MPC(PointWorld(), make_planner("cem", UNIT_BOX), GoalDistance() + Disagreement())
