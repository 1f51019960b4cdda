"""The two rooms: walls hold, the door lets through, and the way round is what a planner pays."""

import numpy as np
import pytest

from wm_plan.envs import make, make_policy


def make_rooms(state=None):
    env = make("two_room", render=False)
    env.reset(seed=0, options=None if state is None else {"state": np.array(state, float)})
    return env


def drive(env, action, steps):
    places = []
    for _ in range(steps):
        env.advance(np.array(action, float))
        places.append(env.get_state()[:2])
    return np.stack(places)


def test_crossing_a_room_of_a_metre_takes_about_a_second_and_a_half():
    env = make_rooms([0.25, -0.46, 0, 0])
    places = drive(env, [0.0, 0.7], 100)
    steps = int(np.argmax(places[:, 1] > 0.45))
    assert 65 < steps < 85


def test_speed_settles_at_the_wanted_velocity():
    env = make_rooms([-0.25, -0.4, 0, 0])
    drive(env, [0.0, 0.35], 40)
    np.testing.assert_allclose(env.get_state()[2:], [0.0, 0.35], atol=1e-3)
    env = make_rooms([-0.25, -0.4, 0, 0])
    drive(env, [0.0, 0.35], 5)
    assert env.get_state()[3] == pytest.approx(0.35 * (1 - np.exp(-1)), rel=0.05), "after one time constant"


def test_the_wall_stops_the_ball_and_the_door_lets_it_through():
    blocked = drive(make_rooms([-0.3, -0.2, 0, 0]), [0.7, 0.0], 120)
    assert blocked[:, 0].max() < -0.055
    passed = drive(make_rooms([-0.3, 0.15, 0, 0]), [0.7, 0.0], 120)
    assert passed[-1, 0] > 0.44


def test_no_push_takes_the_ball_into_a_wall():
    env = make("two_room", render=False)
    rng = np.random.default_rng(0)
    least = np.inf
    for seed in range(10):
        env.reset(seed=seed)
        for _ in range(20):
            places = drive(env, rng.choice([-0.7, 0.0, 0.7], 2), 15)
            least = min(least, float(env.clearance(places).min()))
    assert -0.004 < least < 0.0, "walls were met, and gave less than 4 mm"


def test_the_ball_slides_along_a_wall():
    places = drive(make_rooms([-0.3, -0.4, 0, 0]), [0.7, 0.2], 100)
    assert places[-1, 1] - places[60, 1] > 0.1


def test_sampled_places_are_free_and_lie_in_both_rooms_and_in_the_doorway():
    env, rng = make_rooms(), np.random.default_rng(0)
    places = np.stack([env.sample_state(rng)[:2] for _ in range(3000)])
    assert env.clearance(places).min() > 0
    assert 0.45 < np.mean(places[:, 0] > 0) < 0.55
    doorway = np.abs(places[:, 0]) < 0.02
    assert doorway.any()
    assert (np.abs(places[doorway, 1] - 0.15) < 0.06).all()


def test_clearance_at_hand_checked_places():
    env = make_rooms()
    assert env.clearance(np.array([0.25, 0.0])) == pytest.approx(0.19)
    assert env.clearance(np.array([0.46, 0.3])) == pytest.approx(0.0, abs=1e-12)
    assert env.clearance(np.array([0.0, 0.15])) == pytest.approx(0.06)
    assert env.clearance(np.array([0.0, -0.2])) == pytest.approx(-0.04)


def test_a_goal_in_a_wall_is_refused():
    env = make_rooms()
    for text in ("0,-0.3", "0.05,0", "0.5,0", "0,0.23"):
        with pytest.raises(ValueError, match="The ball of two_room cannot be at"):
            env.parse_goal(text)
    np.testing.assert_array_equal(env.parse_goal("0,0.15"), [0, 0.15, 0, 0])


def test_reached_within_four_per_cent_of_the_rooms_width():
    env = make_rooms()
    goal = np.array([0.2, 0.2, 0, 0])
    assert env.error(np.array([0.23, 0.24, 1.0, 0]), goal) == pytest.approx(1.25)
    assert env.reached(np.array([0.2, 0.239, 0, 0]), goal)
    assert not env.reached(np.array([0.23, 0.23, 0, 0]), goal)


def test_the_state_distance_goes_through_the_door():
    env = make_rooms()
    down_left, down_right = np.array([-0.3, -0.31, 0, 0]), np.array([0.3, -0.31, 0, 0])
    round_the_wall = 2 * np.hypot(0.3, 0.4) / 0.04  # the door's lowest clear point is (0, 0.09)
    assert env.state_distance(down_left, down_right) == pytest.approx(round_the_wall)
    assert env.error(down_left, down_right) == pytest.approx(0.6 / 0.04)
    through = env.state_distance(np.array([-0.2, 0.15, 0, 0]), np.array([0.2, 0.15, 0, 0]))
    assert through == pytest.approx(10.0)
    assert env.state_distance(down_left, np.array([-0.3, 0.09, 0, 0])) == pytest.approx(10.0)


def test_scripted_logs_cross_the_door_often():
    env = make_rooms()
    crossings = 0
    for seed in range(20):
        policy = make_policy("waypoints", env, np.random.default_rng(seed))
        env.reset(seed=seed)
        sides = []
        for step in range(40 * env.frame_skip):
            env.advance(policy.act(step, env.get_state()))
            sides.append(np.sign(env.get_state()[0]))
        crossings += int((np.diff(sides) != 0).sum())
    assert crossings > 10
