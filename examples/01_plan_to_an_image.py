"""Plan to the pose in a picture, and look at what happened.

python examples/01_plan_to_an_image.py
"""

from pathlib import Path

import wm_plan

GOAL = Path(__file__).parent / "goals" / "reacher.png"


def main() -> wm_plan.PlanResult:
    result = wm_plan.plan("reacher", goal=GOAL, seed=0, max_steps=200)
    print(f"reached: {result.reached} (judged by {result.reached_by}), held: {result.held}")
    print(f"{result.steps} env steps, latent cost {result.costs[0]:.3g} -> {result.costs[-1]:.3g}")
    return result


if __name__ == "__main__":
    main()
