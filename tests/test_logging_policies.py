"""Logging policies: their language, and that each does what its name says."""

from pathlib import Path

import numpy as np
import pytest

from wm_plan.collecting import CollectConfig, collect, make_recipe
from wm_plan.envs import TaskEnv, make
from wm_plan.logging_policies import LoggingPolicies
from wm_plan.policy_language import parse_policies, policy_names
from wm_plan.rollout_workers import EpisodeMaker
from wm_plan.world_model.store import TrajectoryStore


def make_config(**overrides: object) -> CollectConfig:
    settings = {"env": "reacher", "num_episodes": 3, "num_steps": 6, "image_size": 32}
    return CollectConfig(**{**settings, **overrides})


def actions_of(policy: str, count: int = 200, seed: int = 0, env: TaskEnv | None = None) -> np.ndarray:
    """`count` model steps of a policy that sees the env's first state throughout."""
    env = make("reacher", render=False) if env is None else env
    env.reset(seed=0)
    _, actor = LoggingPolicies(policy, env).make(0, seed)
    return np.stack([actor.act(step * env.frame_skip, env.get_state()) for step in range(count)])


def test_names_options_and_weights_are_read() -> None:
    first, second, third = parse_policies(
        "random:held*.5+planner:noise=.2,samples=64*.3 + replay:a/b-c.zarr*2"
    )
    assert (first.name, first.options, first.weight) == ("random", {"kind": "held"}, 0.5)
    assert (second.options["samples"], second.noise, second.weight) == ("64", 0.2, 0.3)
    assert (third.options, third.noise, third.weight) == ({"source": "a/b-c.zarr"}, 0.0, 2.0)
    (alone,) = parse_policies("sb3:runs/a+b/policy.zip,noise=.1")
    assert alone.options == {"checkpoint": "runs/a+b/policy.zip", "noise": ".1"}
    assert parse_policies("planner")[0].noise == 0.1
    both = parse_policies("scripted:bursts=.08,noise=.1")[0]
    assert (both.bursts, both.noise, first.bursts) == (0.08, 0.1, 0.0)


@pytest.mark.parametrize(
    "text, message",
    [
        ("rnadom", "Unknown policy 'rnadom'. Did you mean 'random'. Known policies: random, random:white"),
        ("random+plannr", "Did you mean 'planner'"),
        ("random*lots", "weight in 'random\\*lots' must be a number"),
        ("random*0", "must be above 0"),
        ("planner:noise=much", "noise of 'planner:noise=much' must be a number"),
        ("scripted:bursts=2", "rate of bursts of 'scripted:bursts=2' must be at most 1"),
        ("random:noise=-1", "noise of 'random:noise=-1' must be a number of at least 0"),
        ("planner:nois=.1", "Unknown option 'nois=.1' of the policy 'planner'. Did you mean 'noise'"),
        ("random:held,fast", "Unknown option 'fast'"),
        ("random:held+random:held*2", "named twice"),
        ("replay", "replay:SRC"),
        ("", "Unknown policy ''"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_policies(text)


def test_every_policy_that_needs_no_files_acts_inside_the_bounds() -> None:
    env = make("two_room", render=False)
    for name in policy_names():
        if name.startswith(("random", "waypoints")):
            actions = actions_of(f"{name}{':' if ':' not in name else ','}noise=.5", 60, env=env)
            assert np.abs(actions).max() <= 1.0
            assert np.abs(actions).max() > 0.3


def test_white_noise_is_uncorrelated_held_noise_stays_and_coloured_noise_is_between() -> None:
    def correlation(name: str) -> float:
        seen = np.concatenate([actions_of(name, 250, seed) for seed in range(4)])
        return float(np.corrcoef(seen[:-1, 0], seen[1:, 0])[0, 1])

    white, coloured, held = (correlation(f"random:{kind}") for kind in ("white", "coloured", "held"))
    assert abs(white) < 0.1
    assert 0.4 < coloured < 0.9
    assert held > 0.6
    runs = np.diff(np.flatnonzero(np.diff(actions_of("random:held", 400)[:, 0], prepend=9.0)))
    assert (runs.min(), runs.max()) == (1, 8)
    spread = actions_of("random:white", 400)
    assert np.abs(spread.mean()) < 0.1
    assert spread.std() == pytest.approx(1 / np.sqrt(3), rel=0.1)


def test_noise_has_the_std_that_was_asked_for() -> None:
    rest = make("reacher", render=False)
    rest.reset(seed=0)
    clean, noisy = actions_of("sb3", 300, env=rest), actions_of("sb3:noise=.05", 300, env=rest)
    inside = np.abs(clean) < 0.8
    assert (noisy - clean)[inside].std() == pytest.approx(0.05, rel=0.15)


def test_bursts_of_random_actions_take_over_for_a_while_and_no_longer() -> None:
    env = make("push_t", render=False)
    for seed in range(3):
        script, bursts = (
            actions_of("scripted", 400, seed, env),
            actions_of("scripted:bursts=.05", 400, seed, env),
        )
        same = (script == bursts).all(axis=1)
        assert 0.45 < same.mean() < 0.85  # 20 steps in wait of a burst of 10.5
        lengths = np.diff(np.flatnonzero(np.diff(np.concatenate([[True], same, [True]]).astype(int))))[::2]
        assert lengths.min() >= 1  # the last may be cut short
        assert np.sort(lengths)[1] >= 6
        assert np.abs(bursts).max() <= env.action_space.high.max()


def test_a_burst_is_white_or_correlated_noise() -> None:
    env = make("push_t", render=False)
    always = np.concatenate([actions_of("random:bursts=1", 300, seed, env) for seed in range(4)])
    assert 0.3 < np.corrcoef(always[:-1, 0], always[1:, 0])[0, 1] < 0.6
    assert 0.3 < always.std() / env.action_space.high[0] < 0.7


def test_a_mix_draws_each_episode_one_policy_by_its_share() -> None:
    env = make("reacher", render=False)
    mix = LoggingPolicies("random:held*3+random:white", env)
    kinds = [mix.make(index, seed)[0] for index, seed in enumerate(range(400))]
    assert np.mean(kinds) == pytest.approx(0.25, abs=0.06)


def test_the_store_says_which_policy_made_each_episode() -> None:
    recipe = make_recipe(make_config(policy="random:held+waypoints*2", num_steps=3))
    assert recipe["policies"] == ["random:held", "waypoints"]
    maker = EpisodeMaker(recipe)
    columns = [maker.columns(index) for index in range(8)]
    maker.close()
    kinds = [set(one["policy_id"].tolist()) for one in columns]
    assert {0} in kinds
    assert {1} in kinds
    assert all(len(kind) == 1 for kind in kinds)


def test_a_replay_gives_the_logged_states_and_another_look(tmp_path: Path) -> None:
    collect(make_config(policy="random:coloured"), tmp_path / "logged", num_workers=1)
    logged = TrajectoryStore(tmp_path / "logged")
    recipe = make_recipe(make_config(policy=f"replay:{tmp_path / 'logged'}", factors="light", seed=9))
    assert list(recipe["policy_fingerprints"]) == [f"replay:{tmp_path / 'logged'}"]
    maker = EpisodeMaker(recipe)
    for episode in (0, 2):
        columns = maker.columns(episode)
        rows = logged.episode_rows(episode)
        np.testing.assert_array_equal(columns["state"], logged.read("state", rows))
        np.testing.assert_array_equal(columns["action"], logged.read("action", rows))
        assert (columns["pixels"] != logged.read("pixels", rows)).any()
    longer = EpisodeMaker({**recipe, "num_steps": 8}, maker.env).columns(1)
    assert (longer["action"][6:8] == 0).all()
    maker.close()


def test_a_replay_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    collect(make_config(num_episodes=1), tmp_path / "logged", num_workers=1)
    for settings, message in (
        ({"frame_skip": 2}, "was logged at 12.5 rows a second; reacher takes 25 with frame skip 2"),
        ({"env": "InvertedPendulum-v5"}, "have shape \\(2,\\); InvertedPendulum-v5 takes \\(1,\\)"),
    ):
        with pytest.raises(ValueError, match=message):
            make_recipe(make_config(policy=f"replay:{tmp_path / 'logged'}", **settings))
    with pytest.raises(ValueError, match="no such file or folder"):
        make_recipe(make_config(policy="replay:nowhere"))


def test_the_shipped_sb3_policy_goes_to_goals() -> None:
    env = make("reacher", render=False)
    env.reset(seed=0)
    kind, actor = LoggingPolicies("sb3", env).make(0, 5)
    speeds = []
    for step in range(60):
        env.advance(actor.act(step * env.frame_skip, env.get_state()), env.frame_skip)
        speeds.append(np.abs(env.get_state()[2:]).max())
    assert kind == 0
    assert max(speeds) > 0.5  # on its way
    assert min(speeds[10:]) < 0.1  # and there


def test_our_own_planner_collects_the_same_episode_again() -> None:
    recipe = make_recipe(make_config(policy="planner:samples=64,noise=.2", num_steps=3, image_size=96))
    maker = EpisodeMaker(recipe)
    first, _, again = maker.columns(4), maker.columns(5), maker.columns(4)
    maker.close()
    np.testing.assert_array_equal(first["action"], again["action"])
    assert np.abs(first["action"][:-1]).max() > 0.05


@pytest.mark.parametrize(
    "policy, env, message",
    [
        ("waypoints", "InvertedPendulum-v5", "InvertedPendulum-v5 has no scripted policy; use one of random"),
        ("planner", "InvertedPendulum-v5", "InvertedPendulum-v5"),
        ("sb3:reacher", "point_mass", "was trained in 'reacher', not in 'point_mass'"),
        ("sb3:nowhere", "reacher", "no RL policy 'nowhere'"),
        ("planner:model=nowhere", "reacher", "nowhere"),
        ("random:heldd", "reacher", "Did you mean 'random:held'"),
    ],
)
def test_a_policy_that_does_not_know_the_env_is_refused(policy: str, env: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_recipe(make_config(policy=policy, env=env))
