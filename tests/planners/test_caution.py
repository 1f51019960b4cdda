"""What the control loop does when the world is no longer as its model has it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.worlds import UNIT_BOX, PointEnv, PointWorld, picture
from wm_plan.planners import MPC, Caution, GoalDistance, OnSurprise, RealTimeMPC, make_planner
from wm_plan.world_model.surprise import fit_surprise


def calibrated(frame_skip=1) -> PointWorld:
    """A point world that knows which errors are usual: those of a picture's grey levels, made larger."""
    model = PointWorld(frame_skip=frame_skip)
    rng, episodes = np.random.default_rng(0), []
    for _ in range(30):
        actions = rng.uniform(-1, 1, (25, 2))
        places = np.cumsum(np.vstack([rng.uniform(-1, 1, (1, 2)), model.speed * actions[:-1]]), axis=0)
        seen = places + rng.normal(scale=0.004, size=places.shape)
        episodes.append((torch.from_numpy(seen).float(), torch.from_numpy(actions).float()))
    model.metadata = SimpleNamespace(surprise=fit_surprise(model, episodes))
    return model


def make(model=None, **overrides) -> MPC:
    planner = make_planner("cem", UNIT_BOX, horizon=4, num_samples=64, num_iterations=4)
    return MPC(model or calibrated(), planner, GoalDistance(reduce="sum"), **overrides)


def drive(controller, env, steps):
    """Actions and surprise (step, ...)."""
    actions, surprise = [], []
    for _ in range(steps):
        action = controller.act(env.observe())
        env.step(action)
        actions.append(action)
        surprise.append(controller.surprise.numpy())
    return np.array(actions), np.array(surprise)


def test_a_world_as_imagined_is_no_surprise_and_one_that_stops_moving_is():
    controller = make()
    controller.set_goal(picture([1.2, -1.0]))
    env = PointEnv(np.full((2, 2), -1.5))
    _, surprise = drive(controller, env, 6)
    assert surprise.shape == (6, 2)
    assert surprise.max() < 0.98
    env.speed = 0.0
    _, surprise = drive(controller, env, 6)
    assert (surprise[2:] > 0.99).all()
    controller.reset(mask=[False, True])
    assert controller.surprise[0] > 0.99
    assert controller.surprise[1] == 0


def test_a_model_step_is_judged_once_and_by_the_action_that_it_held():
    controller = make(calibrated(frame_skip=3))
    controller.set_goal(picture([1.2, -1.0]))
    env = PointEnv(np.full(2, -1.5), frame_skip=3)
    _, surprise = drive(controller, env, 18)
    blocks = surprise.reshape(6, 3)
    assert (blocks == blocks[:, :1]).all()
    assert surprise.max() < 0.98


def test_slow_draws_the_action_towards_the_holding_one_and_tells_the_model_so():
    goal, start = picture([1.9, 1.9]), np.full(2, -1.9)
    plain, slow = make(), make(on_surprise="slow", surprise_threshold=0.9)
    for controller in (plain, slow):
        controller.set_goal(goal)
    moved, _ = drive(plain, PointEnv(start), 3)
    env = PointEnv(start)
    np.testing.assert_array_equal(drive(slow, env, 3)[0], moved)
    env.speed = 0.5  # two and a half times as fast as imagined
    actions, surprise = drive(slow, env, 4)
    kept = np.minimum((1 - surprise) / (1 - 0.9), 1)
    planned = slow.last_plan.actions[0, 0].numpy()
    np.testing.assert_allclose(actions[-1], kept[-1] * planned, atol=1e-6)
    assert kept[-1] < 0.5
    # what is slowed down does what an action so small does: executed actions are what is judged
    env.speed = 0.2
    _, surprise = drive(slow, env, 14)
    assert surprise[-1] < 0.9


def test_hold_waits_until_surprise_has_fallen():
    controller = make(on_surprise=OnSurprise.hold, holding=[0.0, 0.0])
    controller.set_goal(picture([1.9, 1.9]))
    env = PointEnv(np.full(2, -1.9))
    drive(controller, env, 4)
    env.position = env.position + 0.4  # pushed
    actions, surprise = drive(controller, env, 14)
    assert (actions[surprise[:, 0] > 0.98] == 0).all()
    assert surprise[0, 0] > 0.98
    assert (np.abs(actions[-1]) > 0).all()


def test_stop_holds_the_row_that_was_surprised_until_it_is_reset():
    controller = make(on_surprise="stop", holding=[0.1, 0.0])
    controller.set_goal(picture([1.9, 1.9]))
    env = PointEnv(np.full((2, 2), -1.9))
    drive(controller, env, 4)
    assert controller.stopped.tolist() == [False, False]
    env.position[1] += 0.4
    actions, _ = drive(controller, env, 20)
    assert controller.stopped.tolist() == [False, True]
    np.testing.assert_allclose(actions[:, 1], np.tile([0.1, 0.0], (20, 1)), atol=1e-6)
    assert np.abs(actions[0, 0]).min() > 0
    controller.reset(mask=[False, True])
    assert controller.stopped.tolist() == [False, False]


def test_a_model_without_calibration_tells_no_surprise_and_cannot_be_cautious():
    controller = make(PointWorld())
    controller.set_goal(picture([0.7, -0.4]))
    controller.act({"pixels": picture([0.0, 0.0])})
    assert controller.surprise is None
    with pytest.raises(ValueError, match=r"on_surprise=stop needs a model .*calibrate_surprise"):
        make(PointWorld(), on_surprise="stop")


def test_mistakes_are_answered_with_what_is_allowed():
    with pytest.raises(
        ValueError, match="Unknown on_surprise 'halt'.*Known on_surprises: hold, ignore, slow, stop"
    ):
        Caution(PointWorld(), "halt")
    with pytest.raises(
        ValueError, match=r"surprise_threshold=1.0 is not allowed; give a number between 0 and 1"
    ):
        make(surprise_threshold=1.0)
    with pytest.raises(ValueError, match=r'leaves it to you to act upon it: .* on_surprise="ignore"'):
        RealTimeMPC(make(on_surprise="hold"), 10, simulated=True)
