"""A pole on a cart, swung to the pose that the goal image shows, if only in passing.

The physics of dm_control's cartpole (swingup), on a shorter rail (1 m to each side instead of 1.8 m) with
harder ends, and with a thicker drawn pole of the same mass, so that one camera can see all of it. Few poses
are at rest under gravity, so starts fall and most goals can only be passed through.

Source: dm_control.suite.cartpole, https://arxiv.org/abs/2006.12983
"""

import mujoco
import numpy as np
from jaxtyping import Float, Float32, Float64

from .built_in import BuiltInTask, suite_spec
from .camera_env import State
from .rendering import SceneParts
from .task import Positions, States, wrapped_angle

_RAIL = 1.0
_REACH = 0.9
_PLACE_TOLERANCE, _ANGLE_TOLERANCE = 0.1, 0.1


class CartpoleEnv(BuiltInTask):
    """A cart to a place and its pole to an angle, by one force.

    State: cart [m] from the middle, pole [rad] from upright, and their velocities. Action: force in [-1, 1],
        10 N at 1. Reached: cart within 10 cm of the goal (5 % of the rail) and pole within 0.1 rad, angles
        wrapped, whatever the velocities. Valid states: the cart within 0.9 m of the middle, any angle of the
        pole.
    """

    name: str = "cartpole"
    frame_skip: int = 4
    tolerance: float = 1.0
    tolerance_text: str = "the cart within 10 cm (5 % of the rail), the pole within 0.1 rad"
    far_budget: int = 300
    logging_policy: str = "scripted"
    rests_anywhere: bool = False
    parts: SceneParts = SceneParts(
        camera="front", agent=("cart",), effector=("pole_1",), floor=("floor",), walls=("rail1", "rail2")
    )
    proprio_names: tuple[str, ...] = (
        "cart [m]",
        "cos(pole)",
        "sin(pole)",
        "cart velocity [m/s]",
        "pole velocity [rad/s]",
    )
    goal_names: tuple[str, ...] = ("cart [m, -0.9 to 0.9]", "pole [rad from upright, -pi to pi]")

    @classmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The suite's model with a shorter rail and colours that tell cart and pole apart."""
        spec = suite_spec("cartpole")
        spec.joint("slider").range = [-_RAIL, _RAIL]
        spec.joint("slider").solref_limit = [0.03, 1.0]
        spec.worldbody.add_camera(name="front", pos=[0.0, -4.0, 1.0], fovy=58.0, xyaxes=[1, 0, 0, 0, 0, 1])
        spec.geom("floor").pos = [0.0, 0.0, -0.35]
        spec.geom("pole_1").size[0] = 0.07
        spec.geom("pole_1").rgba, spec.geom("cart").rgba = [0.95, 0.6, 0.1, 1], [0.75, 0.8, 0.9, 1]
        spec.geom("pole_1").material = spec.geom("cart").material = ""
        return spec

    def sample_state(self, rng: np.random.Generator) -> State:
        """Cart and pole uniform in their ranges, not moving yet."""
        return np.array([rng.uniform(-_REACH, _REACH), rng.uniform(-np.pi, np.pi), 0.0, 0.0])

    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse a cart beyond the rail, and a pole beyond a half turn."""
        for name, value, limit, unit in zip(
            ("cart", "pole"), qpos, (_REACH, np.pi), ("m", "rad"), strict=True
        ):
            if abs(value) > limit + 1e-3:
                raise ValueError(
                    f"The {name} of cartpole must be from {-limit:.4g} to {limit:.4g} {unit}, got {value:g}"
                )

    def offset_to(self, qpos: Positions, goal_qpos: Positions) -> Positions:
        """The way from pose to pose; the pole turns the short way round."""
        offset = np.asarray(goal_qpos - qpos)
        return np.stack([offset[..., 0], wrapped_angle(offset[..., 1])], axis=-1)

    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """Distance of the cart and angle of the pole, each in units of its tolerance."""
        return np.abs(self.offset_to(qpos, goal_qpos)) / np.array([_PLACE_TOLERANCE, _ANGLE_TOLERANCE])

    def proprio(self, state: States) -> Float[np.ndarray, "... proprio"]:
        """The cart's place, cosine and sine of the pole, and their velocities."""
        parts = [state[..., 0], np.cos(state[..., 1]), np.sin(state[..., 1]), state[..., 2], state[..., 3]]
        return np.stack(parts, axis=-1).astype(np.float32)

    def scripted_policy(self, rng: np.random.Generator) -> "SwingPolicy":
        """Swings of every height, balancing, and walks of the cart."""
        return SwingPolicy(rng, self.frame_skip)


class SwingPolicy:
    """Pumps the pole to a random height of swing, balances it upright, or walks the cart, with noise.

    Each leg keeps its kind, its noise and its place on the rail for 10 to 40 model steps. Energy is pumped
    as in Astrom and Furuta, Swinging up a pendulum by energy control, Automatica 36 (2000); balancing is a
    linear feedback. Actions change every `frame_skip` env steps.
    """

    def __init__(self, rng: np.random.Generator, frame_skip: int) -> None:
        self._rng, self._skip = rng, frame_skip
        self._left, self._noise = 0, 0.0
        self._action = np.zeros(1, np.float32)

    def act(self, step: int, state: State) -> Float32[np.ndarray, " action"]:
        """The action at env step `step`; step 0 starts a new episode."""
        if step == 0:
            self._left, self._noise = 0, 0.0
        if step % self._skip == 0:
            self._action = np.clip([self._next(state)], -1, 1).astype(np.float32)
        return self._action

    def _next(self, state: State) -> float:
        if self._left == 0:
            self._kind = str(self._rng.choice(("pump", "balance", "walk"), p=(0.45, 0.3, 0.25)))
            self._left = int(self._rng.integers(10, 41))
            self._place = self._rng.uniform(-0.7, 0.7)
            self._height = self._rng.uniform(-1.0, 1.2)
            self._level = float(self._rng.choice((0.0, 0.1, 0.3)))
        self._left -= 1
        self._noise = 0.8 * self._noise + 0.6 * self._rng.standard_normal()
        return self._acceleration(state) * 0.11 + self._level * self._noise

    def _acceleration(self, state: State) -> float:
        """Wanted, of the cart [m/s^2]."""
        cart, speed, turn = state[0] - self._place, state[2], state[3]
        pole = float(wrapped_angle(state[1]))
        if self._kind == "walk":
            return -5.0 * cart - 4.0 * speed
        if self._kind == "balance" and abs(pole) < 0.5:
            return 35.0 * pole + 8.0 * turn + 1.5 * cart + 3.0 * speed
        height = 1.0 if self._kind == "balance" else self._height
        missing = height - (np.cos(pole) + turn**2 / 29.4)  # of the energy, in units of the pole's weight
        pump = -float(np.clip(2.0 * missing * turn * np.cos(pole), -4.0, 4.0))
        return pump - 3.0 * cart - 1.5 * speed
