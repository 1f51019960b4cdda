"""What near and far trials are, on every task."""

from collections.abc import Iterator

import numpy as np
import pytest

from wm_plan import envs
from wm_plan.collecting import episode_seed
from wm_plan.envs import TaskEnv, make_policy
from wm_plan.evaluation import PROTOCOLS, Trial, draw_trials, evaluation_seed, find_protocol


@pytest.fixture(params=envs.task_names())
def env(request: pytest.FixtureRequest) -> Iterator[TaskEnv]:
    task = envs.make(request.param, render=False)
    yield task
    task.close()


def draw(env: TaskEnv, protocol: str, count: int, seed: int = 7) -> list[Trial]:
    return draw_trials(env, PROTOCOLS[protocol], count, seed)


def logged_episode(env: TaskEnv, seed: int) -> np.ndarray:
    """Every state of the logging policy's episode of that seed, one an env step."""
    env.reset(seed=seed)
    policy = make_policy(env.logging_policy, env, np.random.default_rng([seed, 2]))
    states = [env.get_state()]
    for step in range(40 * env.frame_skip):
        env.advance(policy.act(step, states[-1]))
        states.append(env.get_state())
    return np.stack(states)


def test_a_near_goal_is_25_env_steps_along_a_logged_episode(env: TaskEnv) -> None:
    for trial in draw(env, "near", 5):
        states = logged_episode(env, trial.seed)
        (at,) = np.flatnonzero((states == trial.start).all(axis=1))
        np.testing.assert_array_equal(states[at + 25], trial.goal)
        assert trial.budget == 50


def test_near_starts_are_more_than_three_tolerances_away_and_in_motion(env: TaskEnv) -> None:
    trials = draw(env, "near", 12)
    assert all(env.error(trial.start, trial.goal) > 3 for trial in trials)
    velocities = np.stack([trial.start[env.mj_model.nq :] for trial in trials])
    assert np.mean(np.abs(velocities).max(axis=1) > 1e-3) > 0.5


def test_far_starts_and_goals_are_at_rest_and_valid_anywhere(env: TaskEnv) -> None:
    trials = draw(env, "far", 200)
    states = np.stack([state for trial in trials for state in (trial.start, trial.goal)])
    nq = env.mj_model.nq
    assert not states[:, nq:].any()
    rng = np.random.default_rng(0)
    anywhere = np.stack([env.sample_state(rng) for _ in range(2000)])[:, :nq]
    for part in (states[::2, :nq], states[1::2, :nq]):
        assert np.abs(part.mean(axis=0) - anywhere.mean(axis=0)).max() < 0.3 * anywhere.std(axis=0).max()
        np.testing.assert_allclose(part.std(axis=0), anywhere.std(axis=0), rtol=0.2)
    together = np.corrcoef(states[::2, 0], states[1::2, 0])[0, 1]
    assert abs(together) < 0.25
    assert {trial.budget for trial in trials} == {env.far_budget}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_trial_depends_on_its_seed_and_index_alone(env: TaskEnv, protocol: str) -> None:
    few = draw(env, protocol, 2)
    env.reset(seed=99)
    for one, other in zip(few, draw(env, protocol, 4), strict=False):
        np.testing.assert_array_equal(one.start, other.start)
        np.testing.assert_array_equal(one.goal, other.goal)
    assert not np.array_equal(few[0].start, few[1].start)
    assert not np.array_equal(few[0].start, draw(env, protocol, 1, seed=8)[0].start)


def test_no_evaluation_seed_is_a_seed_of_a_logged_episode() -> None:
    ours = [
        evaluation_seed(seed, index, attempt)
        for seed in range(5)
        for index in range(50)
        for attempt in (0, 1)
    ]
    logged = [episode_seed(seed, index) for seed in range(5) for index in range(50)]
    assert min(ours) >= 2**63 > max(logged)
    assert len(set(ours)) == len(ours)
    assert max(ours) < 2**64


def test_goals_in_the_other_room_are_told_apart() -> None:
    env = envs.make("two_room", render=False)
    trials = draw(env, "far", 60)
    assert {trial.group for trial in trials} == {"same room", "other room"}
    for trial in trials:
        apart = (trial.start[0] < 0) != (trial.goal[0] < 0)
        assert trial.group == ("other room" if apart else "same room")


def test_a_task_that_hardly_moves_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from wm_plan.evaluation import protocols

    monkeypatch.setattr(protocols, "_MOST_DRAWS", 5)
    env = envs.make("point_mass", render=False)
    monkeypatch.setattr(env, "tolerance", 5.0, raising=False)
    with pytest.raises(ValueError, match="5 draws gave no pair for the protocol 'near' on 'point_mass'"):
        draw(env, "near", 1)


def test_wrong_requests_are_refused() -> None:
    env = envs.make("reacher", render=False)
    with pytest.raises(ValueError, match="0 episodes are not allowed"):
        draw(env, "far", 0)
    with pytest.raises(ValueError, match="Did you mean 'near'"):
        find_protocol("naer")
