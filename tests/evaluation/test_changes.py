"""What the robust protocol changes: as much as it says, in what it says, and nothing else."""

from collections.abc import Iterator

import numpy as np
import pytest

from wm_plan import envs
from wm_plan.envs import TaskEnv
from wm_plan.evaluation import PROTOCOLS, Trial, draw_trials, open_envs
from wm_plan.evaluation.changed_env import begin_trial, changed, view_of, why_not
from wm_plan.evaluation.changes import CHANGES, find_changes

CANNOT = {
    "two_room": {"friction": "it moves as before"},  # nothing rubs on anything
}
OF_PICTURES = ("light", "colour", "background", "camera", "occluder", "distractors", "goal_look")


@pytest.fixture(scope="module")
def reacher() -> Iterator[TaskEnv]:
    with open_envs("reacher", 1) as (env,):
        yield env


def far_trials(env: TaskEnv, count: int = 2) -> list[Trial]:
    return draw_trials(env, PROTOCOLS["far"], count, 5)


def states_under(env: TaskEnv, change: str | None, trial: Trial, steps: int = 40) -> np.ndarray:
    """The states that one fixed sequence of actions leads to."""
    with changed([env], None if change is None else CHANGES[change]) as (other,):
        begin_trial(other, trial)
        states = []
        for step in range(steps):
            other.advance(np.array([0.5, -0.5]) * (1 if step < 20 else -1))
            states.append(other.get_state())
    return np.stack(states)


@pytest.mark.parametrize("name", envs.task_names())
def test_every_task_can_have_every_change_but_those_that_it_has_no_part_for(name: str) -> None:
    with open_envs(name, 1) as (env,):
        trials = far_trials(env, 4)
        found = {one.name: why_not(env, one, trials) for one in CHANGES.values()}
    missing = {change: problem for change, problem in found.items() if problem}
    assert missing == CANNOT.get(name, {})


@pytest.mark.parametrize("name", OF_PICTURES)
def test_looks_change_what_is_seen_and_no_motion(reacher: TaskEnv, name: str) -> None:
    trial, other_trial = far_trials(reacher)
    plain = view_of(reacher, trial.start, 96)
    plain_goal = reacher.render_goal(trial.goal)
    with changed([reacher], CHANGES[name]) as (env,):
        assert isinstance(env, TaskEnv)
        begin_trial(env, trial)
        seen, goal = env.observe()["pixels"], env.render_goal(trial.goal)
        np.testing.assert_array_equal(env.observe()["pixels"], seen)
        begin_trial(env, other_trial)
        drawn_again = view_of(env, trial.start, 96)
    if name == "goal_look":
        np.testing.assert_array_equal(seen, plain)
        assert goal.shape == (480, 480, 3)
    else:
        assert (seen != plain).any()
        assert (goal != plain_goal).any()
        assert (drawn_again != seen).any(), "each trial draws its own"
    np.testing.assert_array_equal(view_of(reacher, trial.start, 96), plain)
    np.testing.assert_array_equal(states_under(reacher, name, trial), states_under(reacher, None, trial))


def test_noise_mass_and_friction_move_it_otherwise_and_are_the_same_every_time(reacher: TaskEnv) -> None:
    trial, _ = far_trials(reacher)
    plain = states_under(reacher, None, trial)
    for name in ("action_noise", "mass", "friction"):
        once = states_under(reacher, name, trial)
        assert np.abs(once - plain).max() > 1e-3
        np.testing.assert_array_equal(once, states_under(reacher, name, trial))
    first_push = {name: np.abs(states_under(reacher, name, trial)[0, 2:]).max() for name in (None, "mass")}
    assert 0.4 < first_push["mass"] / first_push[None] < 0.8, "twice the mass gains about half the velocity"
    np.testing.assert_array_equal(states_under(reacher, None, trial), plain)


def test_what_is_seen_late_is_as_it_was_a_tenth_of_a_second_ago(reacher: TaskEnv) -> None:
    trial, _ = far_trials(reacher)
    with changed([reacher], CHANGES["delayed"]) as (env,):
        begin_trial(env, trial)
        states = [env.get_state()]
        np.testing.assert_array_equal(env.observe()["proprio"], env.proprio(states[0]).astype(np.float32))
        for _ in range(8):
            env.advance(np.ones(2))
            states.append(env.get_state())
        seen = env.observe()
        np.testing.assert_array_equal(seen["proprio"], env.proprio(states[3]).astype(np.float32))
        np.testing.assert_array_equal(seen["pixels"], reacher.render_goal(states[3]))


def test_three_of_ten_frames_do_not_arrive_and_the_one_before_is_seen_again(reacher: TaskEnv) -> None:
    again = 0
    trials = far_trials(reacher, 3)
    with changed([reacher], CHANGES["dropped"]) as (env,):
        for trial in trials:
            begin_trial(env, trial)
            before = env.observe()["proprio"]
            np.testing.assert_array_equal(before, env.proprio(trial.start).astype(np.float32))
            for _ in range(60):
                env.advance(np.ones(2))
                seen = env.observe()["proprio"]
                fresh = env.proprio(env.get_state()).astype(np.float32)
                assert np.array_equal(seen, before) or np.array_equal(seen, fresh)
                again += np.array_equal(seen, before)
                before = seen
    assert again / 180 == pytest.approx(0.3, abs=0.1)


def test_changes_are_found_by_name() -> None:
    assert [change.name for change in find_changes([])] == list(CHANGES)
    assert [change.name for change in find_changes(["mass", "light"])] == ["mass", "light"]
    assert all(change.amount for change in CHANGES.values())
    with pytest.raises(ValueError, match="unknown change 'ligth'. Did you mean 'light'"):
        find_changes(["ligth"])
