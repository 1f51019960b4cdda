"""What holds for every registered task."""

import dataclasses
import functools
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from wm_plan.envs import PLAIN, gymnasium_id, make, make_policy, task_names

SIZE = 48
every_task = pytest.mark.parametrize("name", task_names())


@functools.cache
def task(name):
    return make(name, image_size=SIZE)


def random_actions(env, count, seed=0):
    rng = np.random.default_rng(seed)
    low, high = env.action_space.low, env.action_space.high
    return rng.uniform(low, high, (count, low.size)).astype(np.float32)


def moving_state(env, seed=0):
    env.reset(seed=seed)
    for action in random_actions(env, 7, seed):
        env.step(action)
    return env.get_state()


@every_task
def test_gymnasiums_own_checker_passes(name):
    env = gymnasium.make(gymnasium_id(name), image_size=SIZE)
    check_env(env.unwrapped, skip_render_check=False)
    env.close()


@every_task
def test_observations_hold_what_the_space_says(name):
    env = task(name)
    observation, info = env.reset(seed=0)
    assert set(observation) == {"pixels", "proprio"}
    assert observation["pixels"].shape == (SIZE, SIZE, 3)
    assert observation["pixels"].dtype == np.uint8
    assert observation["pixels"].std() > 3
    assert observation["proprio"].shape == (len(env.proprio_names),)
    assert observation["proprio"].dtype == np.float32
    assert info["state"].shape == (env.mj_model.nq + env.mj_model.nv,)
    assert info["state"].dtype == np.float64


@every_task
def test_constants_are_stated(name):
    env = task(name)
    assert env.name == name
    assert 0.02 <= env.control_timestep <= 0.1
    assert env.frame_skip >= 1
    assert env.tolerance > 0
    assert any(character.isdigit() for character in env.tolerance_text)
    assert env.far_budget >= 200
    assert env.action_space.dtype == np.float32
    np.testing.assert_array_equal(
        env.action_space.low, env.mj_model.actuator_ctrlrange[:, 0].astype(np.float32)
    )
    np.testing.assert_array_equal(
        env.action_space.high, env.mj_model.actuator_ctrlrange[:, 1].astype(np.float32)
    )
    assert len(env.goal_names) == env.mj_model.nq
    assert "Reached" in type(env).__doc__


@every_task
def test_the_same_seed_and_actions_give_the_same_bytes(name):
    runs = []
    for env in (task(name), make(name, image_size=SIZE)):
        frames = [env.reset(seed=3)[0]["pixels"]]
        frames += [env.step(action)[0]["pixels"] for action in random_actions(env, 6)]
        runs.append((np.stack(frames).tobytes(), env.get_state().tobytes()))
    assert runs[0] == runs[1]


@every_task
def test_different_seeds_start_differently(name):
    env = task(name)
    starts = [env.reset(seed=seed)[1]["state"] for seed in range(5)]
    assert len({start.tobytes() for start in starts}) == 5


@every_task
def test_the_next_state_depends_on_state_and_action_alone(name):
    env = task(name)
    before = moving_state(env)
    actions = random_actions(env, 12, seed=9)
    for action in actions:
        env.step(action)
    after = env.get_state()
    env.reset(seed=5)
    env.set_state(before)
    for action in actions:
        env.step(action)
    np.testing.assert_array_equal(env.get_state(), after)


@every_task
def test_a_state_comes_back_as_it_was_set(name):
    env = task(name)
    state = moving_state(env)
    env.reset(seed=8)
    env.set_state(state)
    np.testing.assert_array_equal(env.get_state(), state)
    pixels = env.observe()["pixels"]
    observation, info = env.reset(options={"state": state})
    np.testing.assert_array_equal(info["state"], state)
    np.testing.assert_array_equal(observation["pixels"], pixels)
    state[:] = 0
    assert not np.array_equal(env.get_state(), state)


@every_task
def test_drawing_a_goal_leaves_the_run_as_it_would_have_been(name):
    env = task(name)
    start = moving_state(env)
    goal = env.sample_state(np.random.default_rng(1))
    action = random_actions(env, 1)[0]
    undisturbed = env.step(action)[0]
    env.set_state(start)
    drawn = env.render_goal(goal)
    np.testing.assert_array_equal(env.get_state(), start)
    disturbed = env.step(action)[0]
    np.testing.assert_array_equal(disturbed["pixels"], undisturbed["pixels"])
    env.set_state(goal)
    np.testing.assert_array_equal(env.observe()["pixels"], drawn)


@every_task
def test_sampled_states_are_at_rest_valid_and_spread(name):
    env = task(name)
    rng = np.random.default_rng(0)
    states = np.stack([env.sample_state(rng) for _ in range(300)])
    nq = env.mj_model.nq
    assert not states[:, nq:].any()
    for state in states:
        np.testing.assert_array_equal(env.parse_goal(list(state[:nq])), state)
    drift = []
    for state in states[:30]:
        env.set_state(state)
        env.advance(np.zeros(env.mj_model.nu), 10)
        drift.append(env.error(env.get_state(), state))
    if env.rests_anywhere:
        assert max(drift) < 0.05, "a valid state at rest stays where it is"
    else:
        assert max(drift) > 0.5, "under gravity something falls"
    assert np.median(env.error(states[:150], states[150:])) > 4
    assert (np.ptp(states[:, :nq], axis=0) > 0.2).all()


@every_task
def test_the_error_is_symmetric_zero_at_home_and_batched(name):
    env = task(name)
    rng = np.random.default_rng(0)
    states = np.stack([env.sample_state(rng) for _ in range(12)])
    errors = env.error(states[:, None], states[None, :])
    assert errors.shape == (12, 12)
    np.testing.assert_allclose(np.diag(errors), 0.0)
    np.testing.assert_allclose(errors, errors.T)
    assert (errors[~np.eye(12, dtype=bool)] > 0).all()
    assert env.error(states[0], states[1]) == pytest.approx(errors[0, 1])
    distances = env.state_distance(states[:, None], states[None, :])
    assert (distances >= errors - 1e-9).all()
    assert env.reached(states[0], states[0])
    assert not env.reached(states[0], states[1])
    assert env.reached(states[0], states[1], scale=errors[0, 1] + 1e-6)


@every_task
def test_actions_beyond_the_bounds_act_like_the_bounds(name):
    env = task(name)
    state = moving_state(env)
    env.step(env.action_space.high * 5)
    beyond = env.get_state()
    env.set_state(state)
    env.step(env.action_space.high)
    np.testing.assert_array_equal(env.get_state(), beyond)


@every_task
@pytest.mark.parametrize("policy_name", ["random", "its own"])
def test_logging_policies_stay_in_bounds_hold_their_actions_and_repeat_by_seed(name, policy_name):
    env = task(name)
    policy_name = env.logging_policy if policy_name == "its own" else policy_name
    runs = []
    for _ in range(2):
        policy = make_policy(policy_name, env, np.random.default_rng(4))
        env.reset(seed=2)
        actions = []
        for step in range(20 * env.frame_skip):
            actions.append(np.array(policy.act(step, env.get_state())))
            env.advance(actions[-1])
        runs.append(np.stack(actions))
    np.testing.assert_array_equal(*runs)
    assert runs[0].dtype == np.float32
    assert all(env.action_space.contains(action) for action in runs[0])
    blocks = runs[0].reshape(20, env.frame_skip, -1)
    np.testing.assert_array_equal(blocks, np.repeat(blocks[:, :1], env.frame_skip, axis=1))
    assert len(np.unique(blocks[:, 0], axis=0)) > 3


@every_task
def test_the_logging_policy_moves_the_task_and_also_rests(name):
    env = task(name)
    speeds = []
    for seed in range(12):
        policy = make_policy(env.logging_policy, env, np.random.default_rng(seed))
        env.reset(seed=seed)
        for step in range(30 * env.frame_skip):
            env.advance(policy.act(step, env.get_state()))
            speeds.append(np.abs(env.get_state()[env.mj_model.nq :]))
    parts = (np.array(speeds) / np.max(speeds, axis=0)).max(axis=1)
    assert np.mean(parts < 0.1) > (0.03 if env.rests_anywhere else 0.0)
    assert np.mean(parts > 0.4) > 0.1


@every_task
def test_a_goal_in_words_is_a_position_at_rest(name):
    env = task(name)
    state = env.sample_state(np.random.default_rng(3))
    text = ",".join(repr(float(value)) for value in state[: env.mj_model.nq])
    np.testing.assert_array_equal(env.parse_goal(text), state)
    few, many = ",".join(["0.1"] * (env.mj_model.nq - 1)), ",".join(["0.1"] * (env.mj_model.nq + 1))
    for wrong in (few, many, "a" + few, "", f"nan,{few}", text.replace(",", " ")):
        with pytest.raises(ValueError, match=f"A state of {name} is .*numbers"):
            env.parse_goal(wrong)
    with pytest.raises(ValueError, match=rf"{name} .*-?9"):
        env.parse_goal(f"9,{few}")


@every_task
def test_bad_input_is_named(name):
    env = task(name)
    env.reset(seed=0)
    for wrong in (np.zeros(env.mj_model.nu + 1), np.full(env.mj_model.nu, np.nan)):
        with pytest.raises(ValueError, match=f"an action of {name} is {env.mj_model.nu} finite numbers"):
            env.step(wrong)
    with pytest.raises(ValueError, match=f"a state of {name} is {len(env.get_state())} finite numbers"):
        env.reset(options={"state": np.zeros(3)})
    with pytest.raises(ValueError, match="Unknown reset option 'goal'. Known options: state"):
        env.reset(options={"goal": 1})


@every_task
def test_without_rendering_there_are_no_pixels_and_the_same_physics(name):
    env, drawn = make(name, render=False), task(name)
    observation, _ = env.reset(seed=6)
    assert set(observation) == {"proprio"}
    assert env.observation_space.contains(observation)
    drawn.reset(seed=6)
    for action in random_actions(env, 5):
        env.step(action)
        drawn.step(action)
    np.testing.assert_array_equal(env.get_state(), drawn.get_state())


@every_task
def test_a_hundred_environments_share_one_model_and_one_renderer(name):
    first = make(name, image_size=SIZE)
    first.reset(seed=0)
    many = [make(name, image_size=SIZE) for _ in range(100)]
    for seed, env in enumerate(many):
        env.reset(seed=seed)
    assert all(env.mj_model is first.mj_model for env in many)
    np.testing.assert_array_equal(many[0].observe()["pixels"], first.observe()["pixels"])
    for env in many:
        env.close()
    assert first.render().std() > 3, "closing others leaves this one able to draw"
    first.close()
    first.close()


@every_task
def test_another_thread_draws_the_same_picture(name):
    env = task(name)
    env.reset(seed=4)
    here, there = env.render(), []
    thread = threading.Thread(target=lambda: there.append(env.render()))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(here, there[0])
    np.testing.assert_array_equal(here, env.render())


@every_task
def test_every_place_the_task_can_be_in_is_seen_and_looks_its_own(name):
    env = task(name)
    rng = np.random.default_rng(0)
    for _ in range(20):
        state = env.sample_state(rng)
        moved = state.copy()
        moved[: env.mj_model.nq] += 1e-4
        moved[: env.mj_model.nq] += (0.7 / env.error(moved, state) - 1) * 1e-4
        assert env.error(moved, state) < 1
        difference = env.render_goal(state).astype(int) - env.render_goal(moved)
        assert np.abs(difference).max() > 8, "less than a tolerance away is another picture"


@every_task
def test_the_own_look_of_an_environment_is_what_it_observes(name):
    look = dataclasses.replace(PLAIN, floor_rgb=(0.9, 0.1, 0.1), floor_texture="flat")
    env = make(name, image_size=SIZE, look=look)
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation["pixels"], env.render(look=look))
    assert not np.array_equal(observation["pixels"], env.render(look=PLAIN))
    env.close()
