"""The control loop over gymnasium environments."""

import time

import gymnasium
import numpy as np
import pytest

from tests.worlds import UNIT_BOX, PointEnv, PointWorld, picture
from wm_plan.planners import MPC, GoalDistance, RealTimeMPC, Status, make_planner, run_in_env

GOAL = np.array([0.7, -0.4])


class PointGym(gymnasium.Env):
    """The plane of `PointWorld` as a gymnasium environment; it ends when the point leaves 1.5."""

    def __init__(self, kind="dict", bound=1.0, render_mode="rgb_array"):
        self.kind = kind
        self.render_mode = render_mode
        self.action_space = gymnasium.spaces.Box(-bound, bound, (2,), np.float32)
        self.plane = PointEnv(np.zeros(2), frame_skip=2, speed=0.3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.plane.position = np.array((options or {}).get("start", self.np_random.uniform(-0.1, 0.1, 2)))
        return self.look(), {}

    def step(self, action):
        self.plane.step(action)
        error = float(np.abs(self.plane.position - GOAL).max())
        return self.look(), -error, bool(np.abs(self.plane.position).max() > 1.5), False, {"error": error}

    def look(self):
        views = {"dict": {"pixels": self.render()}, "picture": self.render(), "vector": self.plane.position}
        return views[self.kind]

    def render(self):
        return picture(self.plane.position)


def make_controller(**overrides):
    settings = {"horizon": 6, "num_samples": 128, "num_iterations": 5}
    planner = make_planner("cem", UNIT_BOX, **settings)
    return MPC(PointWorld(frame_skip=2, speed=0.3), planner, GoalDistance(reduce="sum"), **overrides)


@pytest.mark.parametrize("kind", ["dict", "picture", "vector"])
def test_an_mpc_reaches_the_goal_whatever_the_observation_is(kind):
    steps = list(run_in_env(PointGym(kind), make_controller(), picture(GOAL), max_steps=24))
    assert [step.index for step in steps] == list(range(24))
    assert steps[-1].info["error"] < 0.03 and steps[-1].reward == -steps[-1].info["error"]
    assert [step.plan is not None for step in steps] == [True, False] * 12
    assert all(step.status == Status.OK and step.late == 0 for step in steps)


def test_a_view_reads_observations_of_ones_own():
    env = PointGym("vector", render_mode=None)
    with pytest.raises(ValueError, match="has no picture; make the env with render_mode='rgb_array', or say"):
        next(run_in_env(env, make_controller(), picture(GOAL)))
    steps = run_in_env(
        env, make_controller(), picture(GOAL), max_steps=24, view=lambda seen: {"pixels": picture(seen)}
    )
    assert list(steps)[-1].info["error"] < 0.03


def test_the_seed_decides_start_and_search():
    runs = [
        list(run_in_env(PointGym(), make_controller(), picture(GOAL), seed=s, max_steps=6)) for s in (3, 3, 4)
    ]
    actions = [np.array([step.action for step in run]) for run in runs]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])


def test_the_loop_ends_with_the_episode():
    outside = picture([1.9, 0.0])
    steps = list(run_in_env(PointGym(), make_controller(), outside, options={"start": [1.0, 0.0]}))
    assert steps[-1].terminated and not any(step.terminated for step in steps[:-1])
    assert len(steps) < 10


def test_a_simulated_real_time_loop_steps_on_exact_time_and_says_where_no_plan_was_ready():
    loop = RealTimeMPC(make_controller(), 20.0, latency=0.1, simulated=True)
    steps = list(run_in_env(PointGym(), loop, picture(GOAL), max_steps=40))
    assert [step.status for step in steps[:3]] == [Status.STALE, Status.STALE, Status.OK]
    assert (
        loop.counters.plans == sum(step.plan is not None for step in steps) - 1
    )  # the last is not ready yet
    assert steps[-1].info["error"] < 0.03


def test_a_real_time_loop_is_paced_and_never_waits():
    with RealTimeMPC(make_controller(), 50.0) as loop:
        began = time.monotonic()
        steps = list(run_in_env(PointGym(), loop, picture(GOAL), max_steps=50))
        took = time.monotonic() - began
    assert 0.97 <= took < 2.0
    assert np.quantile([step.late for step in steps], 0.25) < 0.005  # a busy machine wakes up late
    assert steps[-1].info["error"] < 0.1


def test_env_steps_that_take_too_long_are_not_caught_up():
    env, walls = PointGym(), []
    step_before = env.step

    def slow_once(action):
        walls.append(time.monotonic())
        time.sleep(0.3 if len(walls) == 5 else 0.0)
        return step_before(action)

    env.step = slow_once
    with RealTimeMPC(make_controller(), 25.0) as loop:
        list(run_in_env(env, loop, picture(GOAL), max_steps=10))
    assert np.diff(walls)[5:].min() > 0.03


def test_an_env_of_other_actions_is_refused():
    with pytest.raises(
        ValueError, match=r"planner's actions lie in \[-1.0, -1.0\].*the env's in \[-0.5, -0.5\]"
    ):
        next(run_in_env(PointGym(bound=0.5), make_controller(), picture(GOAL)))
    env = PointGym()
    env.action_space = gymnasium.spaces.Discrete(3)
    with pytest.raises(ValueError, match=r"actions are Discrete\(3\), the planner's have 2 numbers"):
        next(run_in_env(env, make_controller(), picture(GOAL)))
