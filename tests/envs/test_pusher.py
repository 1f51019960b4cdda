"""The task pusher: Pusher-v5's arm and torques, a cylinder that the hand can push, and a script that does."""

import gymnasium
import mujoco
import numpy as np

from wm_plan.envs import make, make_policy
from wm_plan.envs.pusher import cylinder_place


def test_the_arm_moves_as_that_of_pusher_v5():
    ours, theirs = make("pusher", render=False), gymnasium.make("Pusher-v5").unwrapped
    assert ours.control_timestep == theirs.dt
    np.testing.assert_array_equal(ours.action_space.low, theirs.action_space.low)
    theirs.reset(seed=0)
    start = theirs.init_qpos.copy()
    start[1], start[7:9] = -0.3, (3.0, 3.0)  # above the table, the cylinder far away
    theirs.set_state(start, np.zeros(11))
    ours.set_state(np.concatenate([start[:9], np.zeros(9)]))
    rng = np.random.default_rng(0)
    for _ in range(15):
        action = rng.uniform(-0.5, 0.5, 7)
        theirs.step(action)
        ours.advance(action)
    moved = ours.get_state()
    assert np.abs(moved[:7] - start[:7]).max() > 0.3
    np.testing.assert_allclose(moved[:7], theirs.data.qpos[:7], atol=1e-6)
    np.testing.assert_allclose(moved[9:16], theirs.data.qvel[:7], atol=1e-5)


def test_a_moving_cylinder_comes_to_rest_as_that_of_pusher_v5():
    ours, theirs = make("pusher", render=False), gymnasium.make("Pusher-v5").unwrapped
    theirs.reset(seed=0)
    position, velocity = theirs.init_qpos.copy(), np.zeros(11)
    velocity[7:9] = (0.3, -0.5)
    theirs.set_state(position, velocity)
    ours.set_state(np.concatenate([position[:9], velocity[:9]]))
    for _ in range(10):
        theirs.step(np.zeros(7))
        ours.advance(np.zeros(7))
    np.testing.assert_allclose(ours.get_state()[7:9], theirs.data.qpos[7:9], atol=1e-4)
    assert np.abs(ours.get_state()[7:9]).min() > 0.01


def test_the_script_moves_the_cylinder_and_never_goes_through_it():
    env = make("pusher", render=False)
    ways, depths = [], []
    for seed in range(12):
        env.reset(seed=seed)
        policy = make_policy(env.logging_policy, env, np.random.default_rng(seed))
        places = []
        for step in range(120):
            state = env.get_state()
            places.append(cylinder_place(state))
            env.advance(policy.act(step, state))
            hand = {env.mj_model.geom(name).id for name in ("bar", "prong_left", "prong_right")}
            cylinder = env.mj_model.geom("cylinder").id
            depths += [
                -contact.dist
                for contact in env._data.contact
                if cylinder in contact.geom and hand & set(contact.geom)
            ]
        ways.append(np.linalg.norm(np.array(places) - places[0], axis=1).max())
    assert np.mean(np.array(ways) > 0.05) >= 0.5
    assert len(depths) > 50
    assert np.percentile(depths, 95) < 0.01


def test_the_scripts_hand_stays_low_and_level():
    env = make("pusher", render=False)
    heights, tilts = [], []
    for seed in range(4):
        env.reset(seed=seed)
        policy = make_policy(env.logging_policy, env, np.random.default_rng(seed))
        for step in range(80):
            env.advance(policy.act(step, env.get_state()))
            data = mujoco.MjData(env.mj_model)
            data.qpos[:] = env.get_state()[:9]
            mujoco.mj_kinematics(env.mj_model, data)
            heights.append(data.site("hand").xpos[2])
            tilts.append(np.abs(data.site("hand").xmat.reshape(3, 3)[2, :2]).max())
    assert np.percentile(np.abs(np.array(heights) + 0.27), 95) < 0.02
    assert np.percentile(tilts, 95) < 0.2
