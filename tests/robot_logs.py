"""Real trajectories to convert: reacher, and a 7-joint arm seen by two cameras with a jittering clock."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np

from wm_plan.envs import collect_episode, make, make_policy
from wm_plan.world_model.store_writer import StoreWriter

PUSHER = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "pusher_v5.xml"
SIZE = 48


def reacher_store(root: Path, num_episodes: int = 3, num_steps: int = 5) -> Path:
    """A native store of reacher with random actions."""
    env = make("reacher", image_size=SIZE)
    recipe = {"env": "reacher", "frame_skip": env.frame_skip, "image_size": SIZE, "control_timestep": 0.02}
    with StoreWriter(root, recipe, num_episodes, episodes_per_shard=2) as writer:
        for index in writer.missing():
            policy = make_policy(env.logging_policy, env, np.random.default_rng(index))
            episode = collect_episode(env, policy, num_steps + index, index)
            columns = ("pixels", "action", "proprio", "state")
            writer.write(index, {name: getattr(episode, name) for name in columns})
    env.close()
    return root


def arm_store(root: Path, num_episodes: int = 3) -> Path:
    """A native store of gymnasium's Pusher: 7 torques, 7 joint angles and speeds, two cameras."""
    model = mujoco.MjModel.from_xml_path(str(PUSHER))
    data = mujoco.MjData(model)
    model.vis.quality.offsamples = 0
    renderer = mujoco.Renderer(model, SIZE, SIZE)
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.scene.flags[flag] = 0
    recipe = {"env": "Pusher-v5", "frame_skip": 1, "image_size": SIZE, "control_timestep": 0.05}
    views = {}
    for name, azimuth in (("pixels", 0.0), ("pixels_side", 90.0)):
        views[name] = mujoco.MjvCamera()
        views[name].distance, views[name].azimuth, views[name].elevation = 3.0, azimuth, -30.0
    with StoreWriter(root, recipe, num_episodes, episodes_per_shard=2) as writer:
        for index in writer.missing():
            rng = np.random.default_rng(index)
            mujoco.mj_resetData(model, data)
            rows: dict[str, list] = {}
            actions = rng.uniform(-2, 2, (6 + index, model.nu)).astype(np.float32)
            for action in [*actions, np.full(model.nu, np.nan, np.float32)]:
                mujoco.mj_forward(model, data)
                row = {"action": action, "proprio": np.r_[data.qpos[:7], data.qvel[:7]].astype(np.float32)}
                for name, camera in views.items():
                    renderer.update_scene(data, camera)
                    row[name] = renderer.render()
                row["reward"] = np.float64(rng.normal())
                row["touching"] = np.bool_(data.ncon > 0)
                row["timestamp"] = data.time + rng.normal() * 1e-3
                for name, value in row.items():
                    rows.setdefault(name, []).append(value)
                if np.isfinite(action).all():
                    data.ctrl[:] = action
                    mujoco.mj_step(model, data, 5)
            writer.write(index, {name: np.stack(values) for name, values in rows.items()})
    renderer.close()
    return root
