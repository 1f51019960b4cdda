"""The real-time loop: on simulated time, where every number is exact, and on a real clock and thread."""

import threading
import time

import numpy as np
import pytest

from tests.worlds import UNIT_BOX, PointEnv, PointWorld, picture
from wm_plan.planners import MPC, GoalDistance, RealTimeMPC, Status, make_planner

GOAL = np.array([0.7, -0.4])


def make_controller(frame_skip=2, model=None, **planner_overrides):
    model = model or PointWorld(frame_skip=frame_skip, speed=0.3)
    settings = {"horizon": 6, "num_samples": 128, "num_iterations": 6} | planner_overrides
    controller = MPC(model, make_planner("cem", UNIT_BOX, **settings), GoalDistance(reduce="sum"))
    controller.set_goal(picture(GOAL))
    return controller


def make_loop(controller=None, latency=0.1, rate_hz=20.0, **overrides):
    return RealTimeMPC(controller or make_controller(), rate_hz, latency=latency, simulated=True, **overrides)


def drive(loop, env, steps, first=0, start=100.0):
    """Positions before each env step, at exact simulated times."""
    positions = []
    for step in range(first, first + steps):
        positions.append(env.position)
        timestamp = start + step / loop.rate_hz
        loop.observe(env.observe(), timestamp)
        env.step(loop.action(timestamp))
    return np.array(positions)


def error_at_the_end(loop, steps=40):
    positions = drive(loop, PointEnv(np.zeros(2), frame_skip=2, speed=0.3), steps)
    return np.abs(positions[-10:] - GOAL).max()


@pytest.mark.parametrize("latency", [0.0, 0.05, 0.1, 0.18, 0.25])
def test_the_goal_is_reached_and_held_whatever_the_latency(latency):
    assert error_at_the_end(make_loop(latency=latency)) < 0.03


def test_without_compensation_the_same_latency_makes_it_swing():
    assert error_at_the_end(make_loop(latency=0.18, compensate=False)) > 3 * error_at_the_end(
        make_loop(latency=0.18)
    )


def test_simulated_time_gives_the_same_actions_twice():
    envs = [PointEnv(np.zeros(2), frame_skip=2, speed=0.3) for _ in range(2)]
    for env in envs:
        drive(make_loop(latency=0.13), env, 20)
    np.testing.assert_array_equal(envs[0].actions, envs[1].actions)


def test_every_plan_begins_with_the_actions_that_were_executed_meanwhile():
    loop = make_loop(latency=0.18)
    env = PointEnv(np.zeros(2), frame_skip=2, speed=0.3)
    prefixes = {}
    plan = loop.controller.plan

    def recorded(elapsed, *, prefix, **rest):
        prefixes[len(env.actions) // 2] = prefix[0].numpy()
        return plan(elapsed, prefix=prefix, **rest)

    loop.controller.plan = recorded
    drive(loop, env, 40)
    executed = np.array(env.actions).reshape(-1, 2, 2)
    assert len(prefixes) > 5
    for step, prefix in list(prefixes.items())[2:-2]:
        for offset, action in enumerate(prefix):
            np.testing.assert_array_equal(executed[step + offset], [action, action])


@pytest.mark.parametrize("compensate", [True, False])
def test_a_model_that_asks_for_the_past_is_told_what_was_executed_not_what_was_planned(compensate):
    told = []

    class Remembering(PointWorld):
        uses_past = True

        def rollout(self, context, actions, past_actions):
            told.append(tuple(past_actions[0, -1].tolist()))
            return super().rollout(context, actions)

    env = PointEnv(np.zeros(2), frame_skip=2, speed=0.3)
    model = Remembering(frame_skip=2, speed=0.3)
    drive(make_loop(make_controller(model=model), latency=0.18, compensate=compensate), env, 40)
    executed = [tuple(action.tolist()) for action in env.actions[1::2]]
    known = [executed.index(action) for action in told if not np.isnan(action[0])]
    assert len(set(known)) > 5
    assert known == sorted(known)


def test_steps_missed_while_planning_are_skipped_and_not_caught_up():
    loop = make_loop(latency=0.25)
    drive(loop, PointEnv(np.zeros(2), frame_skip=2, speed=0.3), 40)
    assert loop.counters.skipped > 5
    assert loop.counters.plans <= 40 / 2 / 2.5 + 1
    assert loop.counters.late <= 1


def test_the_history_gets_the_frame_of_every_model_step_even_of_skipped_ones():
    loop = make_loop(latency=0.25)
    drive(loop, PointEnv(np.zeros(2), frame_skip=2, speed=0.3), 40)
    # One frame is the goal's; frames still in the queue at the end are not encoded yet.
    assert loop.controller.model.frames_encoded >= 1 + 20 - 3


def test_latency_that_jumps_makes_plans_late_and_says_so():
    latencies = iter([0.05] * 10 + [0.3] + [0.05] * 100)
    loop = make_loop(latency=lambda: next(latencies))
    assert error_at_the_end(loop, steps=60) < 0.03
    assert loop.counters.late == 1


@pytest.mark.parametrize(
    ("on_expiry", "expected"),
    [("hold", None), ("zero", [0, 0]), (lambda step: [0.5, step / 1000], [0.5, 0.06])],
)
def test_when_the_plan_runs_out_the_loop_does_as_told_and_says_stale(on_expiry, expected):
    loop = make_loop(make_controller(horizon=4), latency=0.05, on_expiry=on_expiry)
    drive(loop, PointEnv(np.zeros(2), frame_skip=2, speed=0.3), 6)
    assert loop.status == Status.OK
    last_planned = loop.last_plan.actions[0, -1].numpy()
    action = loop.action(100.0 + 60 / 20)
    np.testing.assert_allclose(action, last_planned if expected is None else expected, rtol=1e-6)
    assert loop.status == Status.STALE


def test_before_the_first_plan_nothing_moves():
    loop = make_loop(latency=0.1)
    loop.observe({"pixels": picture(np.zeros(2))}, 5.0)
    assert loop.action(5.0).tolist() == [0, 0] and loop.status == Status.STALE
    assert loop.action(5.1).any() and loop.status == Status.OK
    assert loop.counters.expired == 1


def test_a_new_goal_takes_over_in_flight():
    loop = make_loop(latency=0.1)
    env = PointEnv(np.zeros(2), frame_skip=2, speed=0.3)
    drive(loop, env, 20)
    loop.set_goal(picture(-GOAL))
    positions = drive(loop, env, 40, first=20)
    np.testing.assert_allclose(positions[-1], -GOAL, atol=0.03)


def test_a_reset_begins_a_new_grid_and_forgets_the_old_plan():
    loop = make_loop(latency=0.1)
    first = PointEnv(np.zeros(2), frame_skip=2, speed=0.3)
    drive(loop, first, 15)
    loop.reset(seed=0)
    second = PointEnv(np.zeros(2), frame_skip=2, speed=0.3)
    drive(loop, second, 15, start=777.7)
    assert not second.actions[0].any()
    np.testing.assert_allclose(
        np.linalg.norm(second.position - GOAL), np.linalg.norm(first.position - GOAL), atol=0.02
    )


def test_a_batch_of_robots_is_looped_together():
    goals = np.array([[0.7, -0.4], [-0.5, 0.5]])
    controller = make_controller()
    controller.set_goal(picture(goals))
    loop = make_loop(controller)
    positions = drive(loop, PointEnv(np.zeros((2, 2)), frame_skip=2, speed=0.3), 40)
    np.testing.assert_allclose(positions[-1], goals, atol=0.03)


def test_missing_frames_are_counted_and_survived():
    loop = make_loop(latency=0.05)
    env = PointEnv(np.zeros(2), frame_skip=2, speed=0.3)
    drive(loop, env, 10)
    for step in range(10, 16):
        env.step(loop.action(100.0 + step / 20))
    positions = drive(loop, env, 30, first=16)
    assert loop.counters.missed == 3
    np.testing.assert_allclose(positions[-1], GOAL, atol=0.03)


class SlowWorld(PointWorld):
    """Imagining takes a while; as a network would, sleeping leaves the other threads alone."""

    def rollout(self, context, actions):
        time.sleep(0.004)
        return super().rollout(context, actions)


def run_for_real(loop, env, seconds):
    """Drive at the loop's rate on the real clock; returns how long each `action` took."""
    waits = []
    start = time.monotonic()
    for step in range(int(seconds * loop.rate_hz)):
        time.sleep(max(0.0, start + step / loop.rate_hz - time.monotonic()))
        loop.observe(env.observe())
        began = time.monotonic()
        action = loop.action()
        waits.append(time.monotonic() - began)
        env.step(action)
    return waits


class GatedWorld(PointWorld):
    """Imagining waits at a gate: a plan lasts as long as the test wants."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.gate = threading.Event()

    def rollout(self, context, actions):
        assert self.gate.wait(timeout=60)
        return super().rollout(context, actions)


def test_action_and_observe_answer_while_a_plan_is_being_made_however_long_that_takes():
    model = GatedWorld(frame_skip=2, speed=0.3)
    with RealTimeMPC(make_controller(model=model), rate_hz=20.0) as loop:
        for _ in range(20):
            loop.observe({"pixels": picture(np.zeros(2))})
            assert not loop.action().any()
            time.sleep(0.01)
        assert loop.counters.plans == 0 and loop.status == Status.STALE
        model.gate.set()
        deadline = time.monotonic() + 30
        while loop.counters.plans == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert loop.last_plan is not None and loop.last_plan.actions.abs().max() > 0


def test_on_a_real_clock_the_goal_is_reached():
    controller = make_controller(model=SlowWorld(frame_skip=2, speed=0.3))
    env = PointEnv(np.zeros(2), frame_skip=2, speed=0.3)
    with RealTimeMPC(controller, rate_hz=20.0) as loop:
        waits = run_for_real(loop, env, 3.0)
    assert controller.timings["plan_ms"] > 20
    assert np.quantile(waits, 0.25) < 0.001  # the rest says how busy the machine is
    assert loop.counters.plans > 5
    assert np.abs(env.position - GOAL).max() < 0.3


def test_plans_are_cut_by_the_deadline_instead_of_being_late():
    controller = make_controller(model=SlowWorld(frame_skip=2, speed=0.3), num_iterations=1000)
    env = PointEnv(np.zeros(2), frame_skip=2, speed=0.3)
    with RealTimeMPC(controller, rate_hz=20.0) as loop:
        run_for_real(loop, env, 2.0)
    assert loop.counters.cut == loop.counters.plans > 5
    assert loop.counters.late < loop.counters.plans / 2
    assert loop.last_plan.status == Status.DEADLINE and 0 < loop.last_plan.iterations < 30


def test_closing_ends_the_thread_and_errors_of_the_background_reach_the_caller():
    class BrokenWorld(PointWorld):
        def rollout(self, context, actions):
            raise FloatingPointError("the model broke")

    before = threading.active_count()
    with RealTimeMPC(make_controller(model=BrokenWorld(frame_skip=2)), rate_hz=20.0) as loop:
        loop.observe({"pixels": picture(np.zeros(2))})
        with pytest.raises(RuntimeError, match="Planning in the background failed") as caught:
            for _ in range(200):
                time.sleep(0.01)
                loop.observe({"pixels": picture(np.zeros(2))})
    assert isinstance(caught.value.__cause__, FloatingPointError)
    assert threading.active_count() == before


def test_a_rate_of_zero_is_refused():
    with pytest.raises(ValueError, match="rate_hz=0 is not allowed; give env steps a second, greater than 0"):
        RealTimeMPC(make_controller(), rate_hz=0)
