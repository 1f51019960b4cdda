"""A script that pushes: round the object to one of its sides, then into it, somewhere else each time."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Float64

from .camera_env import State

Place = Float64[np.ndarray, " 2"]


class PushingPolicy:
    """Walks round an object on a table, pushes it from a random side for a random way, and rests in between.

    A quarter of the legs are walks to anywhere, so that the logs also hold what misses the object; noise of a
    strength drawn for each leg is on every action. Actions change every `frame_skip` env steps.

    Args:
        rng: of all that is random.
        frame_skip: env steps a model step.
        locate: from a state, the places of the pusher and of the object [m].
        steer: from a wanted velocity of the pusher [m/s] and the state, the action.
        speed: the pusher's highest [m/s].
        clearance: distance of the centres at which the pusher certainly touches nothing [m].
        half_width: the pusher may go anywhere in the square of this half width about `middle` [m].
        middle: of that square [m].
        aim_half_width: pushes aim at places in the square of this half width [m]; anywhere if None, which
            suits tables with walls.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        frame_skip: int,
        locate: Callable[[State], tuple[Place, Place]],
        steer: Callable[[Place, State], Float32[np.ndarray, " action"]],
        *,
        speed: float,
        clearance: float,
        half_width: float,
        middle: tuple[float, float] = (0.0, 0.0),
        aim_half_width: float | None = None,
    ) -> None:
        self._rng, self._skip, self._locate, self._steer = rng, frame_skip, locate, steer
        self._speed, self._clearance = speed, clearance
        self._half_width, self._middle = half_width, np.asarray(middle, np.float64)
        self._aim_half_width = aim_half_width
        self._kind, self._left = "rest", 0
        self._goal = np.zeros(2)
        self._action = np.zeros(0, np.float32)
        self._noise = np.zeros(2)

    def act(self, step: int, state: State) -> Float32[np.ndarray, " action"]:
        """The action at env step `step`; step 0 starts a new episode."""
        if step == 0:
            self._kind, self._left = "rest", 0
            self._noise = np.zeros(2)
        if step % self._skip == 0:
            self._action = self._steer(self._next(*self._locate(state)), state)
        return self._action

    def _next(self, pusher: Place, block: Place) -> Place:
        if self._left <= 0:
            self._begin(pusher, block)
        self._left -= 1
        if self._kind == "round":
            wanted = self._way_round(pusher, block)
            if np.linalg.norm(block + self._side - pusher) < 0.1 * self._clearance:
                self._push(block)
        elif self._kind == "rest":
            wanted = np.zeros(2)
        else:
            wanted = self._goal - pusher
            if np.linalg.norm(wanted) < 0.1 * self._clearance:
                self._left = 0
        length = float(np.linalg.norm(wanted))
        velocity = self._pace * wanted / max(length, 0.15 * self._clearance)
        self._noise = 0.8 * self._noise + 0.6 * self._rng.standard_normal(2)
        velocity = velocity + self._noise_level * self._speed * self._noise
        return velocity * min(1.0, self._speed / max(float(np.linalg.norm(velocity)), 1e-9))

    def _begin(self, pusher: Place, block: Place) -> None:
        """Draw the next leg."""
        rng = self._rng
        self._kind = str(rng.choice(("round", "anywhere", "rest"), p=(0.68, 0.22, 0.1)))
        self._pace = self._speed * rng.uniform(0.4, 1.0)
        self._noise_level = float(rng.choice((0.0, 0.1, 0.3)))
        self._left = int(rng.integers(15, 40)) if self._kind != "rest" else int(rng.integers(2, 8))
        if self._kind == "anywhere":
            self._goal = self._middle + rng.uniform(-self._half_width, self._half_width, 2)
        if self._kind == "rest":
            self._noise_level = 0.0
        for _ in range(20):  # a side that is on the table
            angle = rng.uniform(-np.pi, np.pi)
            if self._aim_half_width is not None:
                self._aim = self._middle + rng.uniform(-self._aim_half_width, self._aim_half_width, 2)
                angle = np.arctan2(*(block - self._aim)[::-1])
            self._side = self._clearance * np.array([np.cos(angle), np.sin(angle)])
            if np.abs(block + self._side - self._middle).max() <= self._half_width:
                break

    def _push(self, block: Place) -> None:
        """Go from where it is through a point near the object's middle, and on."""
        rng = self._rng
        through = block + rng.uniform(-0.4, 0.4, 2) * self._clearance
        onward = -self._side * rng.uniform(0.0, 1.2)
        if self._aim_half_width is not None:
            through, onward = self._aim, self._side * rng.uniform(0.4, 1.0)
        limit = self._half_width
        self._kind, self._left = "push", int(rng.integers(8, 25))
        self._pace = self._speed * rng.uniform(0.3, 1.0)
        self._goal = self._middle + np.clip(through + onward - self._middle, -limit, limit)

    def _way_round(self, pusher: Place, block: Place) -> Place:
        """The way to the chosen side that keeps clear of the object: along a circle where it must."""
        here, there = pusher - block, self._side
        turn = np.arctan2(here[0] * there[1] - here[1] * there[0], here @ there)
        if abs(turn) < 0.35:
            return block + there - pusher
        ahead = np.arctan2(here[1], here[0]) + np.sign(turn) * min(abs(turn), 0.6)
        target = block + 1.05 * self._clearance * np.array([np.cos(ahead), np.sin(ahead)])
        edge = self._middle + np.clip(target - self._middle, -self._half_width, self._half_width)
        return edge - pusher
