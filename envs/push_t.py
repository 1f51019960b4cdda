"""A round pusher and a T on a table: bring both to where the goal image shows them.

Our own model on bare MuJoCo (`push_t.xml`), with the published task's sizes (a millimetre for a pixel: a
table of 512 mm, a T of 120 mm, a pusher of 30 mm), its 10 env steps a second, and its tolerance. Other than
there the pusher takes wanted velocities instead of places, and the walls stop T and pusher alike.

Source: Chi et al., Diffusion Policy, arXiv:2303.04137, after Florence et al., Implicit Behavioral Cloning,
    arXiv:2109.00137.
"""

from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float, Float64

from .built_in import BuiltInTask
from .pushing import PushingPolicy
from .rendering import SceneParts
from .task import Batch, Positions, State, States, wrapped_angle

_PLACE_TOLERANCE, _ANGLE_TOLERANCE = 0.020, np.pi / 9
_HALF_TABLE, _PUSHER = 0.256, 0.015
_AGENT_LIMIT = 0.235
_BLOCK_LIMIT = 0.15
_CORNERS = np.array([[-0.06, 0.03], [0.06, 0.03], [-0.06, 0.0], [0.06, 0.0], [-0.015, -0.09], [0.015, -0.09]])
_BOXES = np.array([[0.0, 0.015, 0.06, 0.015], [0.0, -0.045, 0.015, 0.045]])
"""Middle and half widths of bar and stem, in the T's own frame [m]."""


class PushTEnv(BuiltInTask):
    """A pusher and a T to a place each, the T to an angle.

    State: pusher x, y, T x, y [m] from the middle, T angle [rad], and their velocities. Action: wanted
        velocities of the pusher, -0.3 to 0.3 m/s. Reached: pusher and T together within 2 cm of the goal (the
        length of all four differences; 20 px of 512 in the published task) and the T's angle within pi/9.
        Valid states: the T inside the walls, the pusher anywhere it touches neither.
    """

    name: str = "push_t"
    control_timestep: float = 0.1
    frame_skip: int = 2
    tolerance: float = 1.0
    tolerance_text: str = "pusher and T together within 2 cm, the T's angle within 20 degrees"
    far_budget: int = 300
    logging_policy: str = "scripted"
    parts: SceneParts = SceneParts(
        camera="top",
        agent=("bar", "stem"),
        effector=("agent",),
        floor=("ground",),
        walls=("wall_left", "wall_right", "wall_down", "wall_up"),
        target="target",
    )
    proprio_names: tuple[str, ...] = ("x [m]", "y [m]", "x velocity [m/s]", "y velocity [m/s]")
    object_names: tuple[str, ...] = (
        "T x [m]",
        "T y [m]",
        "cos(T angle)",
        "sin(T angle)",
        "T x velocity [m/s]",
        "T y velocity [m/s]",
        "T angle velocity [rad/s]",
    )
    goal_names: tuple[str, ...] = (
        "pusher x [m, -0.235 to 0.235]",
        "pusher y [m, -0.235 to 0.235]",
        "T x [m]",
        "T y [m]",
        "T angle [rad, -pi to pi]",
    )

    @classmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The model beside this file."""
        return mujoco.MjSpec.from_string(Path(__file__).with_suffix(".xml").read_text(encoding="utf-8"))

    def sample_state(self, rng: np.random.Generator) -> State:
        """T and pusher anywhere on the table where they touch nothing, at rest."""
        while True:
            block = [*rng.uniform(-_BLOCK_LIMIT, _BLOCK_LIMIT, 2), rng.uniform(-np.pi, np.pi)]
            qpos = np.array([*rng.uniform(-_AGENT_LIMIT, _AGENT_LIMIT, 2), *block])
            if self._inside(qpos) and self.clearance(qpos) > 0.003:
                return np.concatenate([qpos, np.zeros(5)])

    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse a T or a pusher in a wall, or in each other."""
        if np.abs(qpos[:2]).max() > _AGENT_LIMIT or not self._inside(qpos):
            raise ValueError(
                f"The pusher of push_t must be within {_AGENT_LIMIT} m of the middle along both axes and "
                f"the T inside the walls ({_HALF_TABLE} m), got {qpos.tolist()}"
            )
        if self.clearance(qpos) < -1e-3:
            raise ValueError(f"The pusher of push_t cannot be in the T, got {qpos.tolist()}")

    def offset_to(self, qpos: Positions, goal_qpos: Positions) -> Positions:
        """The way from one position to another; the T turns the short way round."""
        offset = np.array(goal_qpos - qpos)
        offset[..., 4] = wrapped_angle(offset[..., 4])
        return offset

    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """Distance of pusher and T together, and angle of the T, each in units of its tolerance."""
        offset = np.asarray(goal_qpos - qpos)
        place = np.linalg.norm(offset[..., :4], axis=-1) / _PLACE_TOLERANCE
        return np.stack([place, np.abs(wrapped_angle(offset[..., 4])) / _ANGLE_TOLERANCE], axis=-1)

    def proprio(self, state: States) -> Float[np.ndarray, "... proprio"]:
        """Place and velocity of the pusher: the T must be seen."""
        return np.concatenate([state[..., :2], state[..., 5:7]], axis=-1).astype(np.float32)

    def objects(self, state: States) -> Float[np.ndarray, "... object"]:
        """Place of the T, cosine and sine of its angle, and its velocities."""
        angle = state[..., 4:5]
        parts = [state[..., 2:4], np.cos(angle), np.sin(angle), state[..., 7:10]]
        return np.concatenate(parts, axis=-1).astype(np.float32)

    def scripted_policy(self, rng: np.random.Generator) -> PushingPolicy:
        """Pushes from random sides."""
        high = self.action_space.high

        def locate(state: State) -> tuple[np.ndarray, np.ndarray]:
            centre = state[2:4] + _turned(np.array([0.0, -0.015]), state[4])  # of the T's mass, nearly
            return state[:2].copy(), centre

        return PushingPolicy(
            rng,
            self.frame_skip,
            locate,
            lambda velocity, state: np.clip(velocity, -high, high).astype(np.float32),
            speed=float(high[0]),
            clearance=0.1,
            half_width=_AGENT_LIMIT,
        )

    def clearance(self, qpos: Positions) -> Batch:
        """Distance from the pusher's edge to the T [m]; negative inside it."""
        seen = _turned(qpos[..., :2] - qpos[..., 2:4], -qpos[..., 4])
        outside = np.maximum(np.abs(seen[..., None, :] - _BOXES[:, :2]) - _BOXES[:, 2:], 0.0)
        return np.linalg.norm(outside, axis=-1).min(axis=-1) - _PUSHER

    def _inside(self, qpos: Float64[np.ndarray, " nq"]) -> bool:
        corners = qpos[2:4] + _turned(_CORNERS, qpos[4])
        return bool(np.abs(corners).max() <= _HALF_TABLE)


def _turned(place: Float[np.ndarray, "... 2"], angle: Batch) -> Float[np.ndarray, "... 2"]:
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y = place[..., 0], place[..., 1]
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)
