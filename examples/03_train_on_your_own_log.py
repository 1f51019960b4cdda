"""Write a log of your own robot, train a predictor on it over the frozen encoder, and plan with it.

The log here is made with point_mass; what is asked of yours is one dictionary of arrays an episode.
The sizes are small, so that this runs in a minute and learns little: for use, take hundreds of episodes
and the default numbers of steps.

python examples/03_train_on_your_own_log.py OUT
"""

import sys
from pathlib import Path

import numpy as np
import torch

import wm_plan
from wm_plan.envs import make_policy
from wm_plan.world_model import StoreWriter, TrainConfig, TrajectoryStore, load_encoder, train_world_model

NUM_EPISODES, NUM_STEPS = 12, 16


def record_episode(env, seed: int) -> dict[str, np.ndarray]:
    """Row t holds what was seen, and the action that was then held for `frame_skip` env steps."""
    policy = make_policy("random", env, np.random.default_rng(seed))
    observation, info = env.reset(seed=seed)
    frames, actions = [observation["pixels"]], []
    for step in range(NUM_STEPS):
        actions.append(policy.act(step, info["state"]))
        for _ in range(env.frame_skip):
            observation, _, _, _, info = env.step(actions[-1])
        frames.append(observation["pixels"])
    actions.append(np.full_like(actions[-1], np.nan))  # no action follows the last frame
    return {"pixels": np.stack(frames), "action": np.stack(actions).astype(np.float32)}


def main(out: Path) -> Path:
    torch.set_num_threads(1)
    env = wm_plan.make_env("point_mass")
    recipe = {
        "env": env.name,
        "frame_skip": env.frame_skip,
        "control_timestep": env.control_timestep,
        "image_size": env.image_size,
        "action_low": env.action_space.low.tolist(),
        "action_high": env.action_space.high.tolist(),
    }
    with StoreWriter(out / "log", recipe, NUM_EPISODES) as writer:
        for episode in range(NUM_EPISODES):
            writer.write(episode, record_episode(env, seed=episode))

    config = TrainConfig(num_steps=20, num_predictor_steps=20, batch_size=16, held_out=0.2)
    config.distance.num_steps = 20
    train_world_model(TrajectoryStore(out / "log"), load_encoder("small"), out / "model", config)

    result = wm_plan.plan("point_mass", goal_state="0.1,0.05", model=out / "model", max_steps=20)
    first, last = result.errors[0], result.errors[-1]
    print(f"trained on {NUM_EPISODES} episodes; error {first:.1f} -> {last:.1f} x tolerance")
    return out / "model"


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own_log"))
