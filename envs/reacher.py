"""The two-link planar arm of dm_control's reacher (easy), its target hidden: bring both joints to a pose.

Physics, actuators and control step are the suite's own. The camera `top` is ours: straight above the shoulder
like the suite's `fixed`, but framing what the arm can reach (26 cm to each side of the shoulder) instead of
the whole arena, so that a pixel is smaller: 5.5 mm at 96 px.

Source: dm_control.suite.reacher, https://arxiv.org/abs/2006.12983
"""

import mujoco
import numpy as np
from jaxtyping import Float, Float64

from .built_in import BuiltInTask, suite_spec
from .rendering import SceneParts
from .task import Positions, State, States, wrapped_angle

WRIST_LIMIT = np.deg2rad(160.0)
_TARGET_SIZE = 0.05
_CAMERA_HEIGHT, _CAMERA_FOVY = 0.75, 38.8


class ReacherEnv(BuiltInTask):
    """Both joints of a two-link arm to a pose, by torques.

    State: shoulder, wrist [rad], and their velocities [rad/s]. Action: torques in [-1, 1], 0.05 N m at 1.
    Reached: each joint within 0.05 rad of the goal's, angles wrapped. Valid states: the shoulder anywhere,
        the wrist inside its limits of +-160 degrees (sampled states keep 0.02 rad away from them, out of
        the limits' springs).
    """

    name: str = "reacher"
    frame_skip: int = 4
    tolerance: float = 0.05
    tolerance_text: str = "0.05 rad on every joint"
    servo_gains: tuple[float, float] = (1.0, 0.1)
    parts: SceneParts = SceneParts(
        camera="top",
        agent=("arm", "hand"),
        effector=("finger",),
        floor=("ground",),
        walls=("root", "wall_x", "wall_y", "wall_neg_x", "wall_neg_y"),
        target="target",
        target_position=(0.12, -0.12),
    )
    proprio_names: tuple[str, ...] = (
        "cos(shoulder)",
        "sin(shoulder)",
        "cos(wrist)",
        "sin(wrist)",
        "shoulder velocity [rad/s]",
        "wrist velocity [rad/s]",
    )
    goal_names: tuple[str, ...] = ("shoulder [rad, -pi to pi]", "wrist [rad, -2.79 to 2.79]")

    @classmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The suite's model with the camera that frames the arm."""
        spec = suite_spec("reacher")
        spec.worldbody.add_camera(name="top", pos=[0.0, 0.0, _CAMERA_HEIGHT], fovy=_CAMERA_FOVY)
        spec.geom("target").size[0] = _TARGET_SIZE
        return spec

    def sample_state(self, rng: np.random.Generator) -> State:
        """A pose with both joints uniform in their ranges, at rest."""
        limit = WRIST_LIMIT - 0.02
        return np.array([-rng.uniform(-np.pi, np.pi), rng.uniform(-limit, limit), 0.0, 0.0])

    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse a wrist beyond its limits, and a shoulder beyond a half turn."""
        for name, angle, limit in zip(("shoulder", "wrist"), qpos, (np.pi, WRIST_LIMIT), strict=True):
            if abs(angle) > limit + 1e-3:
                raise ValueError(
                    f"The {name} of reacher must be from {-limit:.4f} to {limit:.4f} rad, got {angle:g}"
                )

    def offset_to(self, qpos: Positions, goal_qpos: Positions) -> Positions:
        """The way from pose to pose: the shoulder turns the short way round, the wrist cannot."""
        offset = goal_qpos - qpos
        return np.stack([wrapped_angle(offset[..., 0]), offset[..., 1]], axis=-1)

    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """Angle of each joint from the goal's, the short way round [rad]."""
        return np.abs(wrapped_angle(qpos - goal_qpos))

    def proprio(self, state: States) -> Float[np.ndarray, "... proprio"]:
        """Cosine and sine of both joints, and their velocities."""
        shoulder, wrist = state[..., 0], state[..., 1]
        parts = [
            np.cos(shoulder),
            np.sin(shoulder),
            np.cos(wrist),
            np.sin(wrist),
            state[..., 2],
            state[..., 3],
        ]
        return np.stack(parts, axis=-1).astype(np.float32)
