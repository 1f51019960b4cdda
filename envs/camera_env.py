"""What every environment offers here: frames of one named camera in, bounded actions out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NoReturn

import gymnasium
import numpy as np
from jaxtyping import Float, Float64

from .looks import PLAIN, Look
from .rendering import DEFAULT_IMAGE_SIZE, Pixels, check_image_size

Observation = dict[str, np.ndarray]
State = Float64[np.ndarray, " state"]

MODEL_STEP_SECONDS = 0.1
"""What a model step lasts where nobody says how many env steps it has: as near to this as they come [s]."""


class CameraEnv(gymnasium.Env, ABC):
    """Pixels of one camera and proprio out, actions in; states only where MuJoCo lies beneath (`has_state`).

    One `step` is one control step of `control_timestep` seconds; actions are never repeated. An observation
    is `{"pixels": (H, W, 3) uint8, "proprio": (P,) float32}`. Reward is 0 and no episode ends by itself, save
    in environments whose world stops (`ended`).
    """

    name: str
    """What `make` and `--env` know it by."""
    camera: str
    """The camera of `pixels`; "free" is the simulator's own view of the whole scene."""
    frame_skip: int
    """Recommended env steps per model step."""
    control_timestep: float
    """[s]"""
    far_budget: int = 200
    """Env steps in which any goal can be reached from anywhere, with time to spare."""
    logging_policy: str = "random"
    """Name of the policy that makes this task's logs; see `make_policy`."""
    proprio_names: tuple[str, ...]
    """What each entry of `proprio` is, with its unit."""
    has_state: bool = False
    """Whether states can be read and set."""
    num_positions: int = 0
    """How many numbers of a state are positions; the others are velocities."""
    tolerance_text: str = ""
    """When a goal is reached, in words; empty where only a model can tell."""
    ended: bool = False
    """The world has stopped, and only `reset` goes on; always False where MuJoCo lies beneath."""
    action_space: gymnasium.spaces.Box

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(
        self,
        image_size: int | None = None,
        look: Look | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        """Check what concerns pictures.

        Args:
            image_size: height and width of an observation [px]; 96 when not given.
            look: how observations are drawn; `PLAIN` when not given.
            render_mode: for gymnasium; "rgb_array" or None.
        """
        self.image_size = check_image_size(DEFAULT_IMAGE_SIZE if image_size is None else image_size)
        self.look = PLAIN if look is None else look
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.render_mode = render_mode

    # What every environment defines.

    @abstractmethod
    def observe(self) -> Observation:
        """The observation of the current moment."""

    @abstractmethod
    def advance(self, action: Float[np.ndarray, " action"], num_steps: int = 1) -> None:
        """Apply `action` for `num_steps` control steps, without looking at what comes of it."""

    @abstractmethod
    def render(self, look: Look | None = None, image_size: int | None = None) -> Pixels:
        """Draw the current moment, in the environment's own look and size unless told otherwise."""

    # gymnasium's interface.

    def step(self, action: Float[np.ndarray, " action"]) -> tuple[Observation, float, bool, bool, dict]:
        """Apply `action` for one control step, clipped to its bounds as actuators do."""
        self.advance(action)
        return self.observe(), 0.0, self.ended, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {"state": self.get_state()}

    def _checked_action(self, action: Float[np.ndarray, " action"]) -> Float64[np.ndarray, " action"]:
        """The action inside its bounds.

        Raises:
            ValueError: another number of numbers, or one that is not finite.
        """
        command = np.asarray(action, np.float64)
        if command.shape != self.action_space.shape or not np.isfinite(command).all():
            size = self.action_space.shape[0]
            raise ValueError(f"an action of {self.name} is {size} finite numbers, got {np.asarray(action)!r}")
        return np.clip(command, self.action_space.low, self.action_space.high)

    # States, for those who have them.

    def get_state(self) -> State:
        """A copy of qpos, then qvel; no numbers at all where there is no state to be read."""
        return np.zeros(0)

    def set_state(self, state: State) -> None:
        """Put the simulation into `state`.

        Raises:
            ValueError: there are no states, or this is none.
        """
        self._refuse_states()

    def render_goal(self, state: State, look: Look | None = None, image_size: int | None = None) -> Pixels:
        """Draw any state; the current one is left as it is.

        Raises:
            ValueError: there are no states, or this is none.
        """
        self._refuse_states()

    def parse_goal(self, values: str | Sequence[float]) -> State:
        """The state at rest at the given position, as text ("0.3,-1.2") or as numbers.

        Raises:
            ValueError: there are no states, or this is none.
        """
        self._refuse_states()

    def sample_state(self, rng: np.random.Generator) -> State:
        """A state at rest, drawn from the whole space of valid states.

        Raises:
            ValueError: there are no states.
        """
        self._refuse_states()

    def _refuse_states(self) -> NoReturn:
        raise ValueError(
            f"{self.name} does not run on MuJoCo, so its state can be neither read nor set. "
            "Give goals as pictures (--goal IMAGE); it starts where its own reset puts it"
        )


def model_step(control_timestep: float) -> int:
    """How many env steps a model step has where nobody says: as near to 0.1 s as they come, 1 at least."""
    return max(1, round(MODEL_STEP_SECONDS / control_timestep))
