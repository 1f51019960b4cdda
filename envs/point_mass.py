"""The ball of dm_control's point_mass (easy), its target hidden: bring it to a place on the square floor.

Physics, actuators, control step and the camera `fixed` are the suite's own. The ball is slow: 10 cm/s at most
along each axis, taken up with a time constant of 0.3 s, so crossing the floor takes some 300 env steps.

Source: dm_control.suite.point_mass, https://arxiv.org/abs/2006.12983
"""

import mujoco
import numpy as np
from jaxtyping import Float, Float64

from .built_in import BuiltInTask, suite_spec
from .rendering import SceneParts
from .task import Positions, State

_REACH = 0.28


class PointMassEnv(BuiltInTask):
    """A ball of 1 cm radius to a place on a floor of 60 cm a side, by forces.

    State: x, y [m], and their velocities [m/s]. Action: forces in [-1, 1], 0.1 N at 1, on a mass of 0.3 kg
        with damping of 1 N s/m. Reached: within 2 cm of the goal. Valid states: x and y within 28 cm of the
        middle.
    """

    name: str = "point_mass"
    frame_skip: int = 5
    tolerance: float = 0.02
    tolerance_text: str = "2 cm"
    far_budget: int = 400
    logging_policy: str = "waypoints"
    servo_gains: tuple[float, float] = (30.0, 0.25)
    parts: SceneParts = SceneParts(
        camera="fixed",
        agent=("pointmass",),
        floor=("ground",),
        walls=("wall_x", "wall_y", "wall_neg_x", "wall_neg_y"),
        target="target",
    )
    proprio_names: tuple[str, ...] = ("x [m]", "y [m]", "x velocity [m/s]", "y velocity [m/s]")
    goal_names: tuple[str, ...] = ("x [m, -0.28 to 0.28]", "y [m, -0.28 to 0.28]")

    @classmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The suite's model as it is."""
        return suite_spec("point_mass")

    def sample_state(self, rng: np.random.Generator) -> State:
        """A place uniform over the floor, at rest."""
        return np.concatenate([rng.uniform(-_REACH, _REACH, 2), np.zeros(2)])

    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse a place beyond the floor."""
        for name, value in zip("xy", qpos, strict=True):
            if abs(value) > _REACH:
                raise ValueError(
                    f"The {name} of point_mass must be from {-_REACH} to {_REACH} m, got {value:g}"
                )

    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """The distance to the goal [m]."""
        return np.linalg.norm(goal_qpos - qpos, axis=-1, keepdims=True)
