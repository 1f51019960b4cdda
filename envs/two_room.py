"""A ball in two rooms joined by a door: where the straight way to the goal image is often the wrong one.

Our own model on bare MuJoCo (`two_room.xml`), in the spirit of the two-room task of PLDM
(https://arxiv.org/abs/2502.14819), with mass, friction-free walls and a camera instead of a drawn dot.
"""

from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float, Float64

from .built_in import BuiltInTask
from .rendering import SceneParts
from .task import Batch, Positions, State, States

_WALLS = ("wall_left", "wall_right", "wall_down", "wall_up", "door_down", "door_up")
_CLEARANCE = 0.002


class TwoRoomEnv(BuiltInTask):
    """A ball of 4 cm radius to a place on the floor of two rooms, 1 m wide together, through a door of 20 cm.

    State: x, y [m] from the middle, and their velocities [m/s]. Action: wanted velocities, -0.7 to 0.7 m/s;
        the ball takes them up with a time constant of 0.1 s, and crosses the room in about 1.5 s. Reached:
        within 4 cm of the goal, 4 % of the room's width. Valid states: wherever the ball touches no wall,
        the doorway included.
    """

    name: str = "two_room"
    frame_skip: int = 5
    tolerance: float = 0.04
    tolerance_text: str = "4 cm, 4 % of the room's width"
    logging_policy: str = "waypoints"
    servo_gains: tuple[float, float] = (8.0, 0.1)
    parts: SceneParts = SceneParts(
        camera="top",
        agent=("agent",),
        floor=("ground",),
        walls=_WALLS,
        target="target",
        target_position=(-0.25, -0.25),
    )
    proprio_names: tuple[str, ...] = ("x [m]", "y [m]", "x velocity [m/s]", "y velocity [m/s]")
    goal_names: tuple[str, ...] = ("x [m, -0.46 to 0.46]", "y [m, -0.46 to 0.46]")

    @classmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The model beside this file."""
        return mujoco.MjSpec.from_string(Path(__file__).with_suffix(".xml").read_text(encoding="utf-8"))

    def sample_state(self, rng: np.random.Generator) -> State:
        """A place uniform over the free floor, at rest."""
        while True:
            place = rng.uniform(-0.46, 0.46, 2)
            if self.clearance(place) >= _CLEARANCE:
                return np.concatenate([place, np.zeros(2)])

    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse a place in a wall or outside the rooms."""
        if np.abs(qpos).max() > 0.46 or self.clearance(qpos) < 0:
            x, y = qpos
            raise ValueError(
                f"The ball of two_room cannot be at ({x:g}, {y:g}), in a wall. Give x and y from -0.46 to "
                "0.46 m, with x at least 0.06 from 0 except in the door (y from 0.09 to 0.21)"
            )

    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """The straight distance to the goal, walls or not [m]."""
        return np.linalg.norm(goal_qpos - qpos, axis=-1, keepdims=True)

    def state_distance(self, state: States, goal_state: States) -> Batch:
        """Length of the way to the goal, through the door where it must, in units of the tolerance."""
        place, goal = np.asarray(state)[..., :2], np.asarray(goal_state)[..., :2]
        door = self._door(place, goal)
        around = np.linalg.norm(door - place, axis=-1) + np.linalg.norm(goal - door, axis=-1)
        straight = np.linalg.norm(goal - place, axis=-1)
        return np.where(place[..., 0] * goal[..., 0] < 0, around, straight) / self.tolerance

    def goal_group(self, start_state: State, goal_state: State) -> str:
        """Whether the goal is in the room of the start."""
        return "same room" if start_state[0] * goal_state[0] >= 0 else "other room"

    def next_waypoint(
        self, qpos: Float64[np.ndarray, " nq"], goal_qpos: Float64[np.ndarray, " nq"]
    ) -> np.ndarray:
        """The goal itself, or on the way to the other room the door's near side and then its far side."""
        if qpos[0] * goal_qpos[0] >= 0:
            return goal_qpos
        door = self._door(qpos, goal_qpos)
        beside = np.array([np.sign(qpos[0]) * 0.1, 0.0])
        return door - beside if abs(qpos[1] - door[1]) < 0.03 else door + beside

    def clearance(self, place: Float[np.ndarray, "... 2"]) -> Batch:
        """Distance from the ball's surface to the nearest wall [m]; negative inside one."""
        boxes = [self.mj_model.geom(name) for name in _WALLS]
        centre = np.stack([box.pos[:2] for box in boxes])
        half = np.stack([box.size[:2] for box in boxes])
        outside = np.maximum(np.abs(np.asarray(place)[..., None, :] - centre) - half, 0.0)
        return np.linalg.norm(outside, axis=-1).min(axis=-1) - self.mj_model.geom("agent").size[0]

    def _door(
        self, place: Float[np.ndarray, "... 2"], goal: Float[np.ndarray, "... 2"]
    ) -> Float[np.ndarray, "... 2"]:
        """Where the shortest way from one room to the other passes the middle of the door."""
        down, up, radius = (self.mj_model.geom(name) for name in ("door_down", "door_up", "agent"))
        low = down.pos[1] + down.size[1] + radius.size[0]
        high = up.pos[1] - up.size[1] - radius.size[0]
        run = goal[..., 0] - place[..., 0]
        part = np.clip(-place[..., 0] / np.where(run == 0, 1.0, run), 0.0, 1.0)
        height = np.clip(place[..., 1] + part * (goal[..., 1] - place[..., 1]), low, high)
        return np.stack([np.zeros_like(height), height], axis=-1)
