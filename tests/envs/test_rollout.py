"""Episodes: what a row is, and that they repeat."""

import dataclasses

import numpy as np
import pytest

from wm_plan.envs import PLAIN, collect_episode, make, make_policy, sample_look
from wm_plan.envs.rollout import LOOK_PERIOD


def roll_out(name="reacher", seed=0, num_steps=6, **arguments):
    env = make(name, image_size=32)
    policy = make_policy(env.logging_policy, env, np.random.default_rng(seed))
    episode = collect_episode(env, policy, num_steps, seed, **arguments)
    env.close()
    return episode


def test_an_episode_has_a_row_a_frame_and_no_action_in_the_last():
    episode = roll_out(num_steps=6)
    assert len(episode) == 7
    assert episode.pixels.shape == (7, 32, 32, 3)
    assert episode.pixels.dtype == np.uint8
    assert episode.proprio.shape == (7, 6)
    assert episode.proprio.dtype == np.float32
    assert episode.state.shape == (7, 4)
    assert episode.state.dtype == np.float64
    assert episode.action.dtype == np.float32
    assert np.isfinite(episode.action[:-1]).all()
    assert np.isnan(episode.action[-1]).all()
    assert episode.pixels_varied is None
    assert (episode.seed, episode.frame_skip) == (0, 4)


@pytest.mark.parametrize("name", ["reacher", "point_mass", "two_room"])
def test_replaying_the_logged_actions_gives_the_logged_rows(name):
    episode = roll_out(name, seed=3)
    env = make(name, image_size=32)
    observation, _ = env.reset(seed=3)
    for row in range(len(episode)):
        np.testing.assert_array_equal(env.get_state(), episode.state[row])
        np.testing.assert_array_equal(observation["pixels"], episode.pixels[row])
        np.testing.assert_array_equal(observation["proprio"], episode.proprio[row])
        if row < len(episode) - 1:
            for _ in range(env.frame_skip):
                observation = env.step(episode.action[row])[0]
    env.close()


def test_the_same_seed_gives_the_same_episode_varied_looks_included():
    first, second = (roll_out(seed=5, looks=sample_look) for _ in range(2))
    for column in ("pixels", "pixels_varied", "state", "action"):
        assert getattr(first, column).tobytes() == getattr(second, column).tobytes()


def test_varied_looks_show_the_same_states_and_change_nothing_else():
    plain, varied = roll_out(seed=5), roll_out(seed=5, looks=sample_look)
    assert varied.pixels.tobytes() == plain.pixels.tobytes()
    assert varied.state.tobytes() == plain.state.tobytes()
    assert varied.pixels_varied.shape == plain.pixels.shape
    changes = np.abs(varied.pixels_varied.astype(int) - plain.pixels).mean(axis=(1, 2, 3))
    assert (changes > 1).all()


def test_a_varied_look_lasts_some_frames_with_new_noise_in_each():
    drawn = []

    def noisy(rng):
        drawn.append(dataclasses.replace(PLAIN, noise_std=5.0, noise_seed=int(rng.integers(1000))))
        return drawn[-1]

    episode = roll_out(num_steps=LOOK_PERIOD, looks=noisy)
    assert len(drawn) == 2
    noise = (episode.pixels_varied.astype(int) - episode.pixels)[:, :4, :4].reshape(LOOK_PERIOD + 1, -1)
    assert len(np.unique(noise, axis=0)) == LOOK_PERIOD + 1


def test_an_empty_episode_is_refused():
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        roll_out(num_steps=0)


def test_an_unknown_policy_is_answered_with_the_nearest():
    env = make("reacher", render=False)
    with pytest.raises(
        ValueError,
        match="Unknown policy 'randm'. Did you mean 'random'. Known policies: random, random:white",
    ):
        make_policy("randm", env, np.random.default_rng(0))
