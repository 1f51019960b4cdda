"""Environments that nobody wrote for this project: gymnasium ids, dm_control tasks, MJCF files."""

import functools

import gymnasium
import mujoco
import numpy as np
import pytest

from tests.robots import ARM, write_robot
from wm_plan.envs import (
    CameraEnv,
    TaskEnv,
    collect_episode,
    env_kind,
    make,
    make_policy,
    make_task,
    short_name,
)

SIZE = 48
ON_MUJOCO = (
    "Reacher-v5",
    "Pusher-v5",
    "InvertedPendulum-v5",
    "dm_control/reacher-easy",
    "dm_control/cartpole-swingup",
    ARM,
)
PICTURES_ONLY = ("CartPole-v1", "Pendulum-v1")
on_mujoco = pytest.mark.parametrize("name", ON_MUJOCO)
every_env = pytest.mark.parametrize("name", (*ON_MUJOCO, *PICTURES_ONLY))


@functools.cache
def opened(name):
    return make(name, image_size=SIZE)


def actions_of(env, count, seed=0):
    rng = np.random.default_rng(seed)
    low, high = env.action_space.low, env.action_space.high
    return rng.uniform(low, high, (count, low.size)).astype(np.float32)


@every_env
def test_observations_hold_what_the_space_says(name):
    env = opened(name)
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation["pixels"].shape == (SIZE, SIZE, 3)
    assert observation["pixels"].std() > 3
    assert observation["proprio"].shape == (len(env.proprio_names),)
    assert len(info["state"]) == len(env.get_state())
    after, reward, terminated, truncated, _ = env.step(actions_of(env, 1)[0])
    assert env.observation_space.contains(after)
    assert (reward, terminated, truncated) == (0.0, False, False)


@every_env
def test_a_model_step_lasts_about_a_tenth_of_a_second(name):
    env = opened(name)
    assert env.frame_skip * env.control_timestep == pytest.approx(0.1, abs=env.control_timestep / 2 + 1e-9)
    assert make(name, render=False, frame_skip=3).frame_skip == 3


@every_env
def test_the_same_seed_and_actions_give_the_same_bytes(name):
    runs = []
    for env in (opened(name), make(name, image_size=SIZE)):
        frames = [env.reset(seed=2**63 + 11)[0]["pixels"]]
        frames += [env.step(action)[0]["pixels"] for action in actions_of(env, 5)]
        runs.append(np.stack(frames).tobytes() + env.observe()["proprio"].tobytes())
    assert runs[0] == runs[1]
    assert (
        opened(name).reset(seed=4)[0]["proprio"].tobytes()
        != opened(name).reset(seed=5)[0]["proprio"].tobytes()
    )


@every_env
def test_an_episode_is_logged_by_the_random_policy(name):
    env = opened(name)
    episode = collect_episode(env, make_policy("random", env, np.random.default_rng(0)), 12, seed=1)
    assert episode.pixels.shape[1:] == (SIZE, SIZE, 3)
    assert len(episode.pixels) == len(episode.state) == len(episode.action) <= 13
    assert np.isnan(episode.action[-1]).all()
    assert all(env.action_space.contains(action) for action in episode.action[:-1])
    moving = (
        np.abs(np.diff(episode.pixels.astype(int), axis=0)).reshape(len(episode.pixels) - 1, -1).max(axis=1)
    )
    assert (moving > 8).any(), "the camera sees that something moves"


@on_mujoco
def test_states_are_set_and_drawn_and_decide_what_follows(name):
    env = opened(name)
    assert isinstance(env, TaskEnv)
    env.reset(seed=0)
    for action in actions_of(env, 5):
        env.step(action)
    before, actions = env.get_state(), actions_of(env, 6, seed=3)
    drawn = env.render_goal(before)
    for action in actions:
        env.step(action)
    after = env.get_state()
    env.reset(seed=9)
    redrawn = env.render_goal(before)  # a task may have moved its target at the reset
    observation, info = env.reset(options={"state": before})
    np.testing.assert_array_equal(info["state"], before)
    if name != "dm_control/reacher-easy":
        np.testing.assert_array_equal(redrawn, drawn)
        np.testing.assert_array_equal(observation["pixels"], drawn)
    for action in actions:
        env.step(action)
    np.testing.assert_allclose(env.get_state(), after, atol=1e-6)
    assert env.error(before, before) == pytest.approx(0.0, abs=1e-6)
    assert env.error(after, before) > 0


@on_mujoco
def test_sampled_states_are_valid_goals_and_spread(name):
    env = opened(name)
    rng = np.random.default_rng(0)
    states = np.stack([env.sample_state(rng) for _ in range(12)])
    assert not states[:, env.mj_model.nq :].any()
    assert len(np.unique(states, axis=0)) == 12
    for state in states:
        np.testing.assert_allclose(env.parse_goal(list(state[: env.mj_model.nq])), state)
    errors = env.error(states[:, None], states[None])
    np.testing.assert_allclose(errors, errors.T, atol=1e-6)
    assert (errors[~np.eye(12, dtype=bool)] > 1).all()
    assert len(env.goal_names) == env.mj_model.nq


def test_gymnasiums_physics_are_its_own():
    theirs = gymnasium.make("Pusher-v5")
    theirs.reset(seed=3)
    ours = make("Pusher-v5", render=False)
    np.testing.assert_array_equal(ours.reset(seed=3)[1]["state"], theirs.unwrapped.state_vector())
    for action in actions_of(ours, 20):
        theirs.step(action)
        ours.step(action)
    np.testing.assert_allclose(ours.get_state(), theirs.unwrapped.state_vector(), atol=1e-6)


def test_dm_controls_physics_are_its_own_and_its_time_limit_is_lifted():
    from dm_control import suite

    theirs = suite.load("ball_in_cup", "catch", task_kwargs={"random": 0})
    ours = make("dm_control/ball_in_cup-catch", render=False)
    theirs.reset()
    state = np.concatenate([theirs.physics.data.qpos, theirs.physics.data.qvel])
    ours.reset(options={"state": state})
    for action in actions_of(ours, 30):
        theirs.step(action.astype(np.float64))
        ours.step(action)
    expected = np.concatenate([theirs.physics.data.qpos, theirs.physics.data.qvel])
    np.testing.assert_allclose(ours.get_state(), expected, atol=1e-5)
    ours.advance(actions_of(ours, 1)[0], 1200)
    assert ours.inner.physics.time() > 24


def test_the_free_camera_of_gymnasium_shows_what_its_own_renderer_shows():
    theirs = gymnasium.make("Pusher-v5", render_mode="rgb_array", width=64, height=64)
    theirs.reset(seed=1)
    expected = theirs.render().astype(float)
    theirs.close()
    ours = make("Pusher-v5", image_size=64)
    ours.reset(seed=1)
    assert ours.camera == "free"
    bright, dark = (frame.mean(axis=-1) > 60 for frame in (ours.render().astype(float), expected))
    assert (bright == dark).mean() > 0.97, "the same outlines, shadows aside"


def test_a_choice_of_actions_is_a_score_for_each():
    env = opened("CartPole-v1")
    speeds = []
    for scores in ([1.0, -1.0], [0.2, 0.3]):
        env.reset(seed=0)
        env.step(np.array(scores, np.float32))
        speeds.append(env.observe()["proprio"][1])
    assert speeds[0] < 0 < speeds[1]


def test_what_ends_stays_as_it_is_until_reset():
    env = opened("CartPole-v1")
    env.reset(seed=0)
    env.advance(np.array([1.0, -1.0], np.float32), 50)
    assert env.ended
    stopped = env.observe()["proprio"]
    assert env.step(np.array([-1.0, 1.0], np.float32))[2]
    np.testing.assert_array_equal(env.observe()["proprio"], stopped)
    env.reset(seed=0)
    assert not env.ended


@pytest.mark.parametrize("name", PICTURES_ONLY)
def test_without_mujoco_one_line_says_that_there_are_no_states(name):
    env = opened(name)
    assert not env.has_state
    said = f"{name} does not run on MuJoCo, so its state can be neither read nor set. Give goals as pictures"
    for refused in (
        lambda: env.parse_goal("0,0"),
        lambda: env.set_state(np.zeros(4)),
        lambda: env.reset(options={"state": np.zeros(4)}),
        lambda: env.sample_state(np.random.default_rng(0)),
        lambda: env.render_goal(np.zeros(4)),
    ):
        with pytest.raises(ValueError, match=said):
            refused()
    with pytest.raises(ValueError, match=f"{name} does not run on MuJoCo"):
        make_task(name, render=False)
    with pytest.raises(ValueError, match="has no camera 'top'. Its cameras: render"):
        make(name, camera="top", render=False)


def test_a_package_is_imported_for_its_id(tmp_path, monkeypatch):
    (tmp_path / "their_robots.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Their/Arm-v0', 'gymnasium.envs.mujoco.reacher_v5:ReacherEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name = "their_robots:Their/Arm-v0"
    assert env_kind(name) == "gymnasium"
    env = make(name, image_size=SIZE)
    assert (env.name, env.camera, env.has_state) == (name, "free", True)
    assert short_name(name) == "their_robots-Their-Arm-v0"
    env.close()
    gymnasium.registry.pop("Their/Arm-v0")


def test_any_camera_may_look():
    views = {camera: make(ARM, image_size=SIZE, camera=camera) for camera in ("top", "side", "free", "1")}
    assert opened(ARM).camera == "top", "the first that has a name"
    assert [env.camera for env in views.values()] == ["top", "side", "free", "side"]
    state = np.array([0.5, -0.7, 0, 0])
    frames = {camera: env.render_goal(state) for camera, env in views.items()}
    np.testing.assert_array_equal(frames["side"], frames["1"])
    assert not np.array_equal(frames["top"], frames["side"])
    assert not np.array_equal(frames["top"], frames["free"])
    for env in views.values():
        env.close()


def test_cameras_without_names_have_numbers(tmp_path):
    path = write_robot(tmp_path, cameras='<camera pos="0 0 2"/><camera pos="0 0 3"/>')
    assert make(path, render=False).camera == "0"
    with pytest.raises(ValueError, match="has no camera '7'. Its cameras: 0, 1, free"):
        make(path, render=False, camera="7")


def test_robots_of_one_file_share_their_model_and_changed_files_do_not(tmp_path):
    path = write_robot(tmp_path)
    first, second = make(path, render=False), make(path, render=False)
    assert first.mj_model is second.mj_model
    write_robot(tmp_path, motor='ctrlrange="-2 2"')
    assert make(path, render=False).action_space.high.tolist() == [2.0]
    assert first.action_space.high.tolist() == [1.0]


def test_keyframes_say_where_free_bodies_are(tmp_path):
    path = write_robot(
        tmp_path,
        bodies='<body pos="1 0 .1"><freejoint name="cube"/><geom type="box" size=".1 .1 .1"/></body>',
        more='<keyframe><key qpos="0 1 1 .2 1 0 0 0"/></keyframe>',
    )
    env = make(path, render=False)
    state = env.sample_state(np.random.default_rng(0))
    np.testing.assert_array_equal(state[1:8], [1, 1, 0.2, 1, 0, 0, 0])
    assert env.goal_names[1:5] == ("cube x [m]", "cube y [m]", "cube z [m]", "cube quaternion w")
    moved, turned = state.copy(), state.copy()
    moved[1] += 0.03
    turned[4:8] = [np.cos(0.1), 0, 0, np.sin(0.1)]
    assert env.error(moved, state) == pytest.approx(1.5)
    assert env.error(turned, state) == pytest.approx(2.0)
    with pytest.raises(ValueError, match=r"The joint cube .* takes a quaternion of length 1"):
        env.parse_goal("0,1,1,.2,1,1,0,0")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"motor": ""}, 'the actuator drive of .*robot.xml has no ctrlrange.*Add ctrlrange="LOW HIGH"'),
        ({"actuators": ""}, "has no actuators: nothing in it can be driven. Add an <actuator> section"),
        ({"more": "<bogus/>"}, "MuJoCo cannot load .*robot.xml.*bogus"),
        ({"more": '<asset><mesh file="hull.stl"/></asset>'}, "MuJoCo cannot load .*hull.stl"),
        ({"more": '<include file="gone.xml"/>'}, "MuJoCo cannot load .*gone.xml"),
        ({"more": "<worldbody>"}, "MuJoCo cannot load .*robot.xml"),
    ],
)
def test_what_is_wrong_with_a_robot_file_is_said_in_one_line(tmp_path, parts, said):
    path = write_robot(tmp_path, **parts)
    with pytest.raises(ValueError, match=said) as raised:
        make(path, render=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("reachr", "Unknown env 'reachr'. Did you mean 'reacher'. Known envs: reacher, .*any gymnasium id"),
        ("Reachr-v5", "Unknown env 'Reachr-v5'. Did you mean 'Reacher-v5'"),
        ("reacher-easy", "Unknown env 'reacher-easy'. Did you mean 'dm_control/reacher-easy'"),
        ("dm_control/reacher-eesy", "Unknown dm_control task .*Did you mean 'dm_control/reacher-easy'"),
        ("no/such/robot.xml", "the MJCF file 'no/such/robot.xml' does not exist. Give the path"),
        ("no_such_package_here:Arm-v0", "gymnasium cannot make .*No module named 'no_such_package_here'"),
        ("json:Arm-v0", "gymnasium cannot make 'json:Arm-v0': .*Arm"),
    ],
)
def test_an_env_that_cannot_be_had_is_said_in_one_line(name, said):
    with pytest.raises(ValueError, match=said) as raised:
        make(name, render=False)
    assert "\n" not in str(raised.value)


def test_actions_that_no_plan_could_have_are_refused():
    class Unbounded(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"]}
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)

        def __init__(self, render_mode=None):
            pass

        def reset(self, seed=None, options=None):
            return np.zeros(1, np.float32), {}

    class Many(Unbounded):
        action_space = gymnasium.spaces.MultiDiscrete([3, 4])

    for kind, said in (
        (Unbounded, "plans need bounds on every number"),
        (Many, "plans need a bounded vector"),
    ):
        gymnasium.register("Odd-v0", kind)
        with pytest.raises(ValueError, match=f"the actions of Odd-v0 are .*{said}"):
            make("Odd-v0", render=False)
        gymnasium.registry.pop("Odd-v0")


def test_the_camera_env_interface_cannot_be_left_undone():
    class Half(CameraEnv):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_physics_of_a_foreign_robot_vary_and_come_back():
    from wm_plan.envs.physics import Physics

    env = make("Pusher-v5", render=False)
    mass = env.mj_model.body_mass.copy()
    env.set_physics(Physics(mass=2.0))
    assert env.mj_model is env.inner.unwrapped.model
    np.testing.assert_allclose(env.mj_model.body_mass, 2 * mass)
    env.set_physics(None)
    np.testing.assert_allclose(env.mj_model.body_mass, mass)


def test_models_are_read_without_their_solver_memory():
    for name in ON_MUJOCO:
        flags = opened(name).mj_model.opt.disableflags
        assert flags & mujoco.mjtDisableBit.mjDSBL_WARMSTART
