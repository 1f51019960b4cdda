"""Steer a gymnasium environment with the clock running: env steps at a fixed rate, plans in the background.

Any environment will do whose observation is, or holds as "pixels", a picture, or that can render one.

python examples/04_steer_a_gymnasium_env.py
"""

import gymnasium
import torch

import wm_plan
from wm_plan.planners import RealTimeMPC, run_in_env

RATE_HZ = 50  # env steps a second: reacher's own 20 ms each
NUM_STEPS = 150


def main() -> float:
    torch.set_num_threads(1)  # the plans' thread; a second core steps and draws the environment
    env = gymnasium.make("wm_plan.envs:wm_plan/Reacher-v0")
    task = env.unwrapped
    goal = task.parse_goal("0.3,-1.2")
    controller = wm_plan.load("reacher", overrides=["planner.num_samples=128"])

    nearest, latest = float("inf"), 0.0
    with RealTimeMPC(controller, RATE_HZ) as loop:
        for step in run_in_env(env, loop, task.render_goal(goal), seed=0, max_steps=NUM_STEPS):
            nearest = min(nearest, float(task.error(step.info["state"], goal)))  # 1 is the task's tolerance
            latest = max(latest, step.late)
            if step.plan is not None and step.index % 20 == 0:
                print(f"step {step.index:3d}  {step.plan.status}, {step.plan.iterations} iterations")
    env.close()
    done = loop.counters
    print(f"{done.plans} plans, {done.late} late, {done.cut} cut short by their deadline")
    print(f"an action was {1e3 * latest:.1f} ms late at most")
    print(f"nearest: {nearest:.2f} x tolerance")
    return nearest


if __name__ == "__main__":
    main()
