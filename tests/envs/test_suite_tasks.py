"""reacher and point_mass have dm_control's physics and hand-checked goals."""

import sys

import numpy as np
import pytest

from wm_plan.envs import make
from wm_plan.envs.task import wrapped_angle


@pytest.mark.parametrize("name", ["reacher", "point_mass"])
def test_the_physics_are_the_suites_own(name):
    """The same start and actions, joint limits included, give dm_control's joint angles."""
    from dm_control import suite

    theirs = suite.load(name, "easy", task_kwargs={"random": 0})
    assert theirs.control_timestep() == pytest.approx(0.02)
    ours = make(name, render=False)
    np.testing.assert_array_equal(theirs.action_spec().minimum, ours.action_space.low)
    np.testing.assert_array_equal(theirs.action_spec().maximum, ours.action_space.high)
    rng = np.random.default_rng(0)
    theirs.reset()
    ours.reset(options={"state": np.concatenate([theirs.physics.data.qpos, theirs.physics.data.qvel])})
    pushed = 0
    for step in range(300):
        held = rng.uniform(-1, 1, 2).astype(np.float32) if step % 40 else np.ones(2, np.float32)
        for _ in range(1 if step % 40 else 40):
            theirs.step(held.astype(np.float64))
            ours.step(held)
        expected = np.concatenate([theirs.physics.data.qpos, theirs.physics.data.qvel])
        np.testing.assert_allclose(ours.get_state(), expected, atol=1e-7)
        pushed += theirs.physics.data.nefc > 0
    assert pushed > 0, "a joint limit was met on the way"


def test_reacher_is_reached_within_a_twentieth_radian_on_both_joints():
    env = make("reacher", render=False)
    goal = np.array([0.3, -1.2, 0.0, 0.0])
    assert env.error(np.array([0.34, -1.17, 5.0, 5.0]), goal) == pytest.approx(0.8)
    assert env.reached(np.array([0.349, -1.249, 1.0, 0.0]), goal)
    assert not env.reached(np.array([0.351, -1.2, 0.0, 0.0]), goal)
    assert not env.reached(np.array([0.3, -1.26, 0.0, 0.0]), goal)
    assert env.reached(np.array([0.3, -1.29, 0.0, 0.0]), goal, scale=2.0)
    assert env.state_distance(np.array([0.33, -1.16, 0.0, 0.0]), goal) == pytest.approx(1.0)


def test_reacher_angles_wrap():
    env = make("reacher", render=False)
    left, right = np.array([np.pi - 0.01, 0.0, 0, 0]), np.array([-np.pi + 0.01, 0.0, 0, 0])
    assert env.error(left, right) == pytest.approx(0.02 / 0.05)
    turned = left + [6 * np.pi, 0, 0, 0]
    assert env.error(turned, left) == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(
        wrapped_angle(np.array([0.0, 3.5, -3.5, 7.0])), [0, 3.5 - 2 * np.pi, 2 * np.pi - 3.5, 7 - 2 * np.pi]
    )


def test_reacher_refuses_a_wrist_beyond_its_limit():
    env = make("reacher", render=False)
    with pytest.raises(ValueError, match=r"The wrist of reacher must be from -2.7925 to 2.7925 rad, got 2.9"):
        env.parse_goal("0,2.9")
    with pytest.raises(
        ValueError, match=r"The shoulder of reacher must be from -3.1416 to 3.1416 rad, got -4"
    ):
        env.parse_goal("-4,0")


def test_reacher_shows_the_whole_arm_wherever_it_points():
    """Stretched out in any direction, the finger is in the picture, 24 cm from the shoulder."""
    env = make("reacher", image_size=128)
    for angle in np.linspace(-np.pi, np.pi, 9):
        image = env.render_goal(np.array([angle, 0.0, 0.0, 0.0]))
        rows, columns = np.nonzero(image[..., 0] > 120)
        reach = np.hypot(rows - 63.5, columns - 63.5).max()
        assert 55 < reach < 63
        assert 0 < rows.min() <= rows.max() < 127
        assert 0 < columns.min() <= columns.max() < 127
    env.close()


def test_reacher_pictures_have_x_to_the_right_and_y_up():
    env = make("reacher", image_size=64)
    right = env.render_goal(np.zeros(4))[..., 0] > 120
    up = env.render_goal(np.array([np.pi / 2, 0, 0, 0]))[..., 0] > 120
    assert right[:, 32:].sum() > 5 * right[:, :28].sum()
    assert up[:32].sum() > 5 * up[36:].sum()
    env.close()


def test_reacher_proprio_is_cosines_sines_and_velocities():
    env = make("reacher", render=False)
    observation, _ = env.reset(options={"state": np.array([np.pi / 2, 0.0, 1.5, -2.0])})
    np.testing.assert_allclose(observation["proprio"], [0, 1, 1, 0, 1.5, -2], atol=1e-6)


def test_point_mass_is_reached_within_two_centimetres():
    env = make("point_mass", render=False)
    goal = np.array([0.1, -0.1, 0.0, 0.0])
    assert env.error(np.array([0.13, -0.06, 0.0, 0.0]), goal) == pytest.approx(2.5)
    assert env.reached(np.array([0.119, -0.1, 0.0, 0.0]), goal)
    assert not env.reached(np.array([0.115, -0.115, 0.0, 0.0]), goal)
    with pytest.raises(ValueError, match=r"The y of point_mass must be from -0.28 to 0.28 m, got 0.3"):
        env.parse_goal("0.28,0.3")


def test_point_mass_crosses_its_floor_within_the_far_budget():
    env = make("point_mass", render=False)
    env.reset(options={"state": np.array([-0.28, -0.28, 0, 0])})
    goal = env.parse_goal("0.28,0.28")
    steps = 0
    while not env.reached(env.get_state(), goal):
        env.advance(np.ones(2))
        steps += 1
    assert 250 < steps < env.far_budget - 50


@pytest.mark.parametrize("name", ["reacher", "point_mass"])
def test_without_dm_control_one_line_says_what_to_do(name, monkeypatch):
    from wm_plan.envs import built_in

    monkeypatch.setattr(built_in, "_MODELS", {})
    monkeypatch.setitem(sys.modules, "dm_control", None)
    monkeypatch.setattr(built_in.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        ValueError, match=f"The task '{name}' needs dm_control, which is not installed.*two_room"
    ):
        make(name, render=False)


def test_two_room_needs_no_dm_control(monkeypatch):
    from wm_plan.envs import built_in

    monkeypatch.setattr(built_in, "_MODELS", {})
    monkeypatch.setattr(built_in.importlib.util, "find_spec", lambda _: None)
    env = make("two_room", render=False)
    env.reset(seed=0)
