"""The goal-conditioned view of the tasks: what it shows, and what it rewards."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from wm_plan.envs import make, task_names
from wm_plan.envs.goal_env import HELD_STEPS, GoalEnv

AT = np.array([0.5, -1.0, 0.0, 0.0])


def make_goal_env(name: str = "reacher", **settings) -> GoalEnv:
    return GoalEnv(make(name, render=False), **settings)


@pytest.mark.parametrize("name", task_names())
def test_every_task_is_a_valid_goal_environment(name: str) -> None:
    env = make_goal_env(name)
    check_env(env, skip_render_check=True)
    assert isinstance(env, gymnasium.Env)
    first, _ = env.reset(seed=5)
    again, _ = env.reset(seed=5)
    other, _ = env.reset()
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
    assert not np.array_equal(first["desired_goal"], other["desired_goal"])
    assert not np.array_equal(first["desired_goal"], first["achieved_goal"])


@pytest.mark.parametrize("name", task_names())
def test_hindsight_rewards_are_those_of_the_episode(name: str) -> None:
    env = make_goal_env(name)
    seen, _ = env.reset(seed=0)
    achieved, rewards = [], []
    for _ in range(5):
        seen, reward, *_ = env.step(env.action_space.sample())
        achieved.append(seen["achieved_goal"])
        rewards.append(reward)
    goal = np.broadcast_to(seen["desired_goal"], np.shape(achieved))
    np.testing.assert_array_equal(env.compute_reward(np.stack(achieved), goal, [{}] * 5), rewards)
    np.testing.assert_array_equal(env.compute_reward(np.stack(achieved), np.stack(achieved), None), 0.0)


@pytest.mark.parametrize(
    "offset, reward",
    [
        ([0.0, 0.0], 0),
        ([0.049, -0.049], 0),
        ([0.051, 0.0], -1),
        ([0.0, -0.051], -1),
        ([2 * np.pi, 0.0], 0),
    ],
)
def test_the_reward_is_about_the_tolerance_of_the_task(offset: list[float], reward: float) -> None:
    env = make_goal_env()
    near = AT + np.array([*offset, 3.0, 0.0])
    seen, _ = env.reset(options={"state": near, "goal_state": AT})
    assert env.compute_reward(seen["achieved_goal"], seen["desired_goal"], {}) == reward


def test_a_goal_is_felt_at_rest() -> None:
    env = make_goal_env()
    moving = np.array([0.5, -1.0, 2.0, 3.0])
    seen, info = env.reset(options={"state": moving, "goal_state": AT})
    np.testing.assert_allclose(seen["observation"][4:], [2.0, 3.0])
    np.testing.assert_array_equal(seen["achieved_goal"], seen["desired_goal"])
    np.testing.assert_array_equal(info["state"], moving)


class Compass:
    """Tells the shoulder's angle alone, and which look it was."""

    num_features, num_goal = 2, 1

    def __init__(self, task) -> None:
        self.task, self.looks = task, 0

    def goal(self, state: np.ndarray) -> np.ndarray:
        return state[:1].astype(np.float32)

    def look(self, first: bool) -> tuple[np.ndarray, np.ndarray]:
        self.looks = 0 if first else self.looks + 1
        angle = self.task.get_state()[0]
        return np.array([angle, self.looks], np.float32), np.array([angle], np.float32)


def test_other_senses_see_once_an_action_and_the_reward_stays_the_tasks() -> None:
    task = make("reacher", render=False)
    env = GoalEnv(task, action_repeat=4, senses=Compass(task))
    check_env(env, skip_render_check=True)
    seen, _ = env.reset(options={"state": AT, "goal_state": AT + [0.2, 0, 0, 0]})
    np.testing.assert_allclose(seen["desired_goal"], [0.7, 0.7, -1.0], atol=1e-6)
    np.testing.assert_allclose(seen["observation"], [0.5, 0], atol=1e-6)
    seen, reward, *_ = env.step(np.zeros(2, np.float32))
    assert seen["observation"][1] == 1
    assert reward == -1
    position = np.array([[0.7, -1.0]])
    told_wrong = np.hstack([[[9.0]], position])
    assert env.compute_reward(told_wrong, seen["desired_goal"][None], {}) == 0


@pytest.mark.parametrize("name", task_names())
def test_state_features_tell_the_whole_state(name: str) -> None:
    """Whatever is changed of a position, by less than a turn, changes the features; each has a name."""
    task = make(name, render=False)
    state = task.sample_state(np.random.default_rng(0))
    features = task.features(state)
    assert features.dtype == np.float32
    assert features.shape == (len(task.feature_names),)
    for index in range(len(state)):
        other = state.copy()
        other[index] += 0.1
        assert np.abs(task.features(other) - features).max() > 1e-3
    np.testing.assert_array_equal(task.features(np.stack([state, other]))[0], features)


def test_staying_at_the_goal_is_held_and_leaving_it_is_not() -> None:
    env = make_goal_env(action_repeat=2)
    env.reset(options={"state": AT, "goal_state": AT})
    still = np.zeros(2, np.float32)
    held = [env.step(still)[4]["held"] for _ in range(HELD_STEPS // 2)]
    assert held == [False] * (HELD_STEPS // 2 - 1) + [True]
    for _ in range(20):
        *_, info = env.step(np.ones(2, np.float32))
    assert (info["reached"], info["is_success"], info["held"]) == (True, True, False)
    assert info["error"] > 2


def test_an_action_is_held_for_the_repeat_and_an_episode_is_cut_off_in_env_steps() -> None:
    one, four = make_goal_env(num_steps=8), make_goal_env(action_repeat=4, num_steps=8)
    for env in (one, four):
        env.reset(seed=1)
    action = np.array([0.3, -0.7], np.float32)
    cut = []
    for _ in range(2):
        for _ in range(4):
            cut.append(one.step(action)[3])
        seen, _, ended, truncated, info = four.step(action)
        np.testing.assert_array_equal(one.task.get_state(), info["state"])
        assert not ended
    assert truncated
    assert cut == [False] * 7 + [True]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"action_repeat": 0}, "action_repeat must be at least 1, got 0"),
        ({"action_repeat": 3, "num_steps": 200}, "multiple of action_repeat=3, got 200"),
        ({"num_steps": 0}, "got 0"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_goal_env(**settings)


def test_an_unknown_reset_option_is_named() -> None:
    with pytest.raises(ValueError, match="Unknown reset option 'goal'"):
        make_goal_env().reset(options={"goal": AT})
