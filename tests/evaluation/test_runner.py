"""Running trials: what counts as reached and held, and that nobody's outcome depends on the others."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation.ball_world import BallWorld
from wm_plan import envs
from wm_plan.configs.schema import EvalConfig
from wm_plan.envs import DEFAULT_MUJOCO, TaskEnv
from wm_plan.evaluation import (
    PROTOCOLS,
    BaselinePolicy,
    HoldPolicy,
    Outcome,
    PlannerPolicy,
    RandomPolicy,
    Trial,
    draw_trials,
    open_envs,
    run_trials,
    time_alone,
)
from wm_plan.evaluation.contestants import make_rl_policy
from wm_plan.evaluation.physics import PhysicsPolicy, StateDistance, TruePhysics
from wm_plan.planners import CEM, MPC, CEMConfig, GoalDistance
from wm_plan.planners.rl import RLPolicy, RLPolicyConfig


class ConstantPolicy(HoldPolicy):
    """The same action for ever."""

    name = "constant"

    def __init__(self, *action: float) -> None:
        super().__init__()
        self._constant = np.array(action, np.float32)

    def begin(self, envs: Sequence[TaskEnv], trials: Sequence[Trial]) -> None:
        self._action = self._constant


class ServoPolicy(HoldPolicy):
    """Straight to the goal by the task's servo; it knows the state."""

    name = "servo"

    def begin(self, envs: Sequence[TaskEnv], trials: Sequence[Trial]) -> None:
        self._goals = np.stack([trial.goal for trial in trials])

    def act(self, step: int, envs: Sequence[TaskEnv], active: np.ndarray) -> np.ndarray:
        gain, look_ahead = envs[0].servo_gains
        states = np.stack([env.get_state() for env in envs])
        half = states.shape[1] // 2
        wanted = self._goals[:, :half] - states[:, :half] - look_ahead * states[:, half:]
        return np.clip(gain * wanted, -1, 1).astype(np.float32)


@pytest.fixture
def point_masses() -> Iterator[list[TaskEnv]]:
    with open_envs("point_mass", 3) as opened:
        yield opened


def make_trial(start: Sequence[float], goal: Sequence[float], budget: int = 60) -> Trial:
    return Trial(0, 2**63, np.array([*start, 0.0, 0.0]), np.array([*goal, 0.0, 0.0]), budget, None)


def make_ball_planner(**options: object) -> PlannerPolicy:
    model = BallWorld()
    planner = CEM(
        (model.action_low, model.action_high), horizon=4, num_samples=48, num_iterations=3, num_elites=8
    )
    return PlannerPolicy(MPC(model, planner, GoalDistance("l2", "sum")), {}, **options)


def make_physics(env: TaskEnv, threads: int = 1) -> PhysicsPolicy:
    planner = CEM(env.action_space, horizon=8, num_samples=32, num_iterations=3, num_elites=6)
    return PhysicsPolicy(env, planner, {}, threads=threads)


def ends(outcomes: Sequence[Outcome]) -> list[tuple]:
    return [(one.reached_at, one.held, one.least_error, one.final_error, one.steps) for one in outcomes]


def test_a_servo_reaches_and_holds_what_doing_nothing_does_not(point_masses: list[TaskEnv]) -> None:
    trials = draw_trials(point_masses[0], PROTOCOLS["far"], 7, 1)
    servo = run_trials(ServoPolicy(), trials, point_masses, measures_hold=True)
    nothing = run_trials(HoldPolicy(), trials, point_masses, measures_hold=True)
    assert [one.trial.index for one in servo] == list(range(7))
    assert all(one.reached and one.held and one.steps == 400 for one in servo)
    assert all(one.final_error < 0.5 for one in servo)
    assert not any(one.reached or one.held for one in nothing)
    for one in nothing:
        start_error = point_masses[0].error(one.trial.start, one.trial.goal)
        assert one.final_error == one.least_error == pytest.approx(start_error)


def test_passing_over_a_goal_is_reaching_and_not_holding(point_masses: list[TaskEnv]) -> None:
    trial = make_trial((-0.1, 0.0), (-0.06, 0.0), budget=150)
    (passed,) = run_trials(ConstantPolicy(1, 0), [trial], point_masses, measures_hold=True)
    env = envs.make("point_mass", render=False)
    env.set_state(trial.start)
    inside = []
    for _ in range(150):
        env.advance(np.array([1.0, 0.0]))
        inside.append(abs(env.get_state()[0] + 0.06) <= 0.02)
    assert passed.reached_at == inside.index(True) + 1 > 1
    assert passed.held is False
    assert passed.final_error == pytest.approx(abs(env.get_state()[0] + 0.06) / 0.02)
    assert passed.final_error > 2


def test_holding_is_inside_twice_the_tolerance_and_not_beyond(point_masses: list[TaskEnv]) -> None:
    trials = [make_trial((0.0, 0.0), (x, 0.0), budget=12) for x in (0.01, 0.039, 0.041)]
    outcomes = run_trials(HoldPolicy(), trials, point_masses, measures_hold=True)
    assert [one.reached_at for one in outcomes] == [0, None, None]
    assert [one.held for one in outcomes] == [True, True, False]


def test_where_holding_does_not_count_an_episode_ends_at_its_goal(point_masses: list[TaskEnv]) -> None:
    trials = [make_trial((-0.1, 0.0), (x, 0.0), budget=100) for x in (-0.09, -0.06, 0.2)]
    seen: list[tuple[float, int]] = []
    policy = ConstantPolicy(1, 0)
    outcomes = run_trials(
        policy, trials, point_masses, measures_hold=False, on_progress=lambda *done: seen.append(done)
    )
    assert [one.reached_at for one in outcomes][::2] == [0, None]
    assert [one.steps for one in outcomes] == [0, outcomes[1].reached_at, 100]
    assert [one.held for one in outcomes] == [None] * 3
    assert seen[0] == (pytest.approx(1.02), 1)
    assert seen[-1] == (3.0, 2)
    assert len(seen) == 100


def test_random_actions_are_held_and_depend_on_the_trial_alone(point_masses: list[TaskEnv]) -> None:
    trials = draw_trials(point_masses[0], PROTOCOLS["far"], 7, 0)
    policy = RandomPolicy()
    together = run_trials(policy, trials, point_masses, measures_hold=True)
    alone = run_trials(policy, trials, point_masses[:1], measures_hold=True)
    assert ends(together) == ends(alone)
    assert len({one.final_error for one in together}) == 7
    policy.begin(point_masses, trials[:3])
    actions = np.stack([policy.act(step, point_masses, np.ones(3, bool)) for step in range(10)])
    assert (actions[:5] == actions[0]).all()
    assert (actions[5:] == actions[5]).all()
    assert not (actions[5] == actions[0]).any()


def test_a_planner_that_sees_reaches_goals_and_rows_do_not_mix() -> None:
    policy = make_ball_planner()
    with open_envs("two_room", 5) as opened:
        trials = draw_trials(opened[0], PROTOCOLS["near"], 12, 3)
        together = run_trials(policy, trials, opened, measures_hold=False)
        alone = run_trials(policy, trials, opened[:1], measures_hold=False)
    assert ends(together) == ends(alone)
    assert sum(one.reached for one in together) >= 11


def test_goal_pictures_may_be_large_and_drawn_as_the_simulator_does() -> None:
    policy = make_ball_planner(goal_look=DEFAULT_MUJOCO, goal_size=480)
    with open_envs("two_room", 2) as opened:
        trials = draw_trials(opened[0], PROTOCOLS["near"], 2, 3)
        run_trials(policy, trials, opened, measures_hold=False)
    shapes = policy.controller.model.goal_shapes
    assert shapes[0] == (2, 1, 480, 480, 3)
    assert shapes[1] == (2, 1, 96, 96, 3)


def test_times_are_of_one_environment_alone() -> None:
    policy = make_ball_planner()
    with open_envs("two_room", 4) as opened:
        trials = draw_trials(opened[0], PROTOCOLS["near"], 4, 3)
        run_trials(policy, trials, opened, measures_hold=False)
        shapes = policy.controller.model.goal_shapes
        shapes.clear()
        plan_ms, encode_ms = time_alone(policy, trials, opened[0], 9, measures_hold=False)
        assert time_alone(HoldPolicy(), trials, opened[0], 9, measures_hold=False) == ([], [])
    assert len(plan_ms) == len(encode_ms) == 9
    assert min(plan_ms) > 0
    assert {shape[0] for shape in shapes} == {1}


@pytest.mark.parametrize("name", envs.task_names())
def test_true_physics_imagines_what_happens(name: str) -> None:
    env = envs.make(name, render=False)
    rng = np.random.default_rng(0)
    starts = np.stack([env.sample_state(rng) for _ in range(2)])
    low, high = env.action_space.low, env.action_space.high
    actions = rng.uniform(low, high, (2, 3, 4, len(low))).astype(np.float32)
    context = torch.from_numpy(starts[:, None])
    imagined = TruePhysics(env).rollout(context, torch.from_numpy(actions))
    threaded = TruePhysics(env, threads=2).rollout(context, torch.from_numpy(actions))
    assert torch.equal(imagined, threaded)
    for row, candidate in ((0, 0), (1, 2)):
        env.set_state(starts[row])
        for step, action in enumerate(actions[row, candidate]):
            env.advance(action, env.frame_skip)
            np.testing.assert_allclose(imagined[row, candidate, step], env.get_state(), atol=1e-12)
    goal = starts[:, None]
    cost = StateDistance(env)(imagined, torch.from_numpy(actions), torch.from_numpy(goal))
    by_hand = [env.state_distance(state, starts[1]) for state in imagined[1, 2].numpy()]
    assert float(cost[1, 2]) == pytest.approx(sum(by_hand))


def test_true_physics_reaches_far_goals_whatever_the_batch() -> None:
    with open_envs("reacher", 2) as opened:
        trials = draw_trials(opened[0], PROTOCOLS["far"], 2, 11)
        together = run_trials(make_physics(opened[0]), trials, opened, measures_hold=True)
        alone = run_trials(make_physics(opened[0]), trials, opened[:1], measures_hold=True)
    assert ends(together) == ends(alone)
    assert all(one.reached for one in together)


def an_evaluation(env: str) -> EvalConfig:
    return EvalConfig(env=env, planner=CEMConfig())


def test_the_baseline_sees_a_goal_at_rest_and_holds_its_actions(
    tmp_path: Path, point_masses: list[TaskEnv]
) -> None:
    torch.manual_seed(0)
    config = RLPolicyConfig("point_mass", 4, [-1.0, -1.0], [1.0, 1.0], [0.1] * 4, hidden_sizes=[8])
    trained = RLPolicy(config, metadata={"env_steps": 123})
    trained.save(tmp_path / "rl")
    policy = make_rl_policy(an_evaluation("point_mass"), str(tmp_path / "rl"))
    assert isinstance(policy, BaselinePolicy)
    assert policy.settings["training"]["env_steps"] == 123
    trials = draw_trials(point_masses[0], PROTOCOLS["near"], 3, 5)
    for env, trial in zip(point_masses, trials, strict=True):
        env.set_state(trial.start)
    policy.begin(point_masses, trials)
    first = policy.act(0, point_masses, np.ones(3, bool))
    resting = [np.append(trial.goal[:2], [0, 0]) for trial in trials]
    np.testing.assert_allclose(
        first, trained.act(np.stack([trial.start for trial in trials]), np.stack(resting)), atol=1e-6
    )
    for env in point_masses:
        env.set_state(np.array([0.2, 0.2, 0, 0]))
    assert [
        np.array_equal(policy.act(step, point_masses, np.ones(3, bool)), first) for step in (1, 3, 4)
    ] == [
        True,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="was trained on 'point_mass', not on 'reacher'"):
        make_rl_policy(an_evaluation("reacher"), str(tmp_path / "rl"))
