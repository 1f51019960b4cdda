"""Put the controller into a loop of your own: one `act` an env step.

The loop below is all that a robot needs: a camera frame in, a command out. Replace `env` by your robot.

python examples/02_embed_the_controller.py
"""

import torch

import wm_plan

NUM_STEPS = 120


def main() -> float:
    torch.set_num_threads(1)  # often the fastest on small machines: wm-doctor measures
    env = wm_plan.make_env("reacher")
    controller = wm_plan.load("reacher", overrides=["planner.num_samples=128"])

    goal = env.parse_goal("0.3,-1.2")
    controller.set_goal(env.render_goal(goal))  # any (H, W, 3) uint8 picture
    controller.reset(seed=0)

    observation, info = env.reset(seed=0)
    nearest = float("inf")
    for step in range(NUM_STEPS):
        action = controller.act(observation)  # plans when a model step begins, else goes on with the plan
        observation, _, _, _, info = env.step(action)
        error = float(env.error(info["state"], goal))  # 1 is the task's tolerance
        nearest = min(nearest, error)
        if controller.replanned and step % 20 == 0:
            plan_ms, cost = controller.timings["plan_ms"], float(controller.last_plan.cost[0])
            print(f"step {step:3d}  error {error:5.1f} x tolerance  plan cost {cost:7.3g}  {plan_ms:.0f} ms")
    env.close()
    print(f"nearest: {nearest:.2f} x tolerance")
    return nearest


if __name__ == "__main__":
    main()
