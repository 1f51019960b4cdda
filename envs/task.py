"""What every task is: a gymnasium environment on a MuJoCo model, with states, goals and tolerances."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import mujoco
import numpy as np
from jaxtyping import Float, Float64

from .camera_env import CameraEnv, Observation, State
from .cameras import choose_camera
from .looks import Look
from .physics import Physics, is_nominal, own_copy, scale_physics
from .rendering import (
    SHARED_RENDERERS,
    Pixels,
    RendererKey,
    SceneParts,
    SceneRenderer,
    check_image_size,
)

States = Float[np.ndarray, "... state"]
Positions = Float[np.ndarray, "... nq"]
Batch = Float[np.ndarray, "..."] | np.floating
"""One number for each state of a batch; a lone state gives a scalar."""


class TaskEnv(CameraEnv):
    """A task on one MuJoCo model: pixels and proprio out, true actuator commands in.

    A state is qpos then qvel, float64; actuators with activations of their own start at 0 in every state that
    is set. Reward is 0 and no episode ends by itself: whoever plans decides when a goal is reached. The next
    state depends on state and action alone (MuJoCo's warm start, hidden state otherwise, is off).
    """

    tolerance: float
    """A goal is reached when every component of `position_error` is at most this."""
    servo_gains: tuple[float, float] | None = None
    """Of the scripted policy: full action per unit of distance to its waypoint, and the time by which it
    looks ahead along the velocity [s]; None where nobody has found any."""
    parts: SceneParts
    goal_names: tuple[str, ...]
    """What each number of a goal given as text is, with its unit and range."""
    object_names: tuple[str, ...] = ()
    """What each number of `objects` is, with its unit; none where proprio tells all of the state."""
    has_state: bool = True

    def __init__(
        self,
        image_size: int | None = None,
        look: Look | None = None,
        render: bool = True,
        render_mode: str | None = "rgb_array",
        camera: str | None = None,
        frame_skip: int | None = None,
    ) -> None:
        """Make an environment at the task's rest position.

        Args:
            image_size: height and width of an observation [px]; 96 when not given.
            look: how observations are drawn; `PLAIN` when not given.
            render: False leaves pixels out of observations and needs no GL; `render` still works where
                there is one.
            render_mode: for gymnasium; "rgb_array" or None.
            camera: one of the model's, or "free"; the task's own when not given.
            frame_skip: env steps per model step; the task's own when not given.

        Raises:
            ValueError: a picture that cannot be drawn, an unknown camera, or a frame skip below 1.
        """
        super().__init__(image_size, look, render_mode)
        self.mj_model, self._data = self.open_model()
        self._nominal_model = self.mj_model
        self.num_positions = int(self.mj_model.nq)
        self.camera = choose_camera(self.mj_model, camera, self.name, self.parts.camera)
        self.parts = replace(self.parts, camera=self.camera)
        if frame_skip is not None:
            if frame_skip < 1:
                raise ValueError(f"frame_skip must be at least 1 env step, got {frame_skip}")
            self.frame_skip = frame_skip
        self._substeps = round(self.control_timestep / self.mj_model.opt.timestep)
        self._scratch = mujoco.MjData(self.mj_model)
        self._renderers: dict[RendererKey, SceneRenderer] = {}
        low, high = self._action_bounds()
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        spaces: dict[str, gymnasium.Space] = {}
        if render:
            spaces["pixels"] = gymnasium.spaces.Box(0, 255, (self.image_size, self.image_size, 3), np.uint8)
        spaces["proprio"] = gymnasium.spaces.Box(-np.inf, np.inf, (len(self.proprio_names),), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self._observes_pixels = render
        mujoco.mj_forward(self.mj_model, self._data)

    # What a task defines.

    @abstractmethod
    def open_model(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """The model, which may be shared, and data of this environment's own."""

    @abstractmethod
    def sample_state(self, rng: np.random.Generator) -> State:
        """A state at rest, drawn from the whole space of valid states."""

    @abstractmethod
    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse a position that `sample_state` could not give.

        Raises:
            ValueError: saying which number is out of which range.
        """

    @abstractmethod
    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """Distances that the tolerance is about, in its unit, none negative."""

    def offset_to(self, qpos: Positions, goal_qpos: Positions) -> Positions:
        """The way from one position to another, the short way round where positions are angles."""
        return goal_qpos - qpos

    def next_waypoint(
        self, qpos: Float64[np.ndarray, " nq"], goal_qpos: Float64[np.ndarray, " nq"]
    ) -> Float64[np.ndarray, " nq"]:
        """Where the scripted policy heads for to get to the goal: the goal, or a way round an obstacle."""
        return goal_qpos

    def proprio(self, state: States) -> Float[np.ndarray, "... proprio"]:
        """What the robot feels of `state`; `proprio_names` says what each number is."""
        return np.asarray(state, np.float32)

    def objects(self, state: States) -> Float[np.ndarray, "... object"]:
        """What the robot does not feel of `state`: where the things are that it moves, and how they move."""
        return np.zeros((*np.shape(state)[:-1], 0), np.float32)

    def features(self, state: States) -> Float[np.ndarray, "... feature"]:
        """The whole state as one would show it to a network: proprio, then objects."""
        return np.concatenate([self.proprio(state), self.objects(state)], axis=-1).astype(np.float32)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What each number of `features` is, with its unit."""
        return (*self.proprio_names, *self.object_names)

    def scripted_policy(self, rng: np.random.Generator) -> Any:  # noqa: ANN401
        """The `Policy` that the task's own script is, made for good logs.

        Raises:
            ValueError: the task has none.
        """
        raise ValueError(f"{self.name} has no scripted policy; use one of random, random:held")

    # What a task may define otherwise: where it starts, and who moves its physics.

    def _start_state(self, seed: int | None) -> State:
        """Where `reset` starts; `np_random` is seeded already."""
        return self.sample_state(self.np_random)

    def _simulate(self, command: Float64[np.ndarray, " action"], num_steps: int) -> None:
        """Apply an action that is inside its bounds for `num_steps` control steps."""
        self._data.ctrl[:] = command
        mujoco.mj_step(self.mj_model, self._data, self._substeps * num_steps)

    def _action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.mj_model.actuator_ctrlrange.T.astype(np.float32)
        return low, high

    def _renderer_name(self) -> str:
        """Environments of one name draw with one renderer: their geoms and textures are the same."""
        return f"{self.name}@{self.camera}"

    # gymnasium's interface.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict]:
        """Start anew at `options["state"]`, or at rest in a state drawn from the valid ones."""
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - {"state"})
        if unknown:
            raise ValueError(f"Unknown reset option {unknown[0]!r}. Known options: state")
        given = options.get("state")
        self.set_state(self._start_state(seed) if given is None else given)
        return self.observe(), self._info()

    def render(self, look: Look | None = None, image_size: int | None = None) -> Pixels:
        """Draw the current state, in the environment's own look and size unless told otherwise."""
        return self._draw(self.get_state(), look, image_size)

    def close(self) -> None:
        """Give the renderer back; the environment draws no more, unless asked to."""
        while self._renderers:
            SHARED_RENDERERS.give_back(self._renderers.popitem()[0])

    # States.

    def get_state(self) -> State:
        """A copy of qpos, then qvel."""
        return np.concatenate([self._data.qpos, self._data.qvel])

    def set_state(self, state: State) -> None:
        """Put the simulation into `state`, which need not be at rest."""
        _load(self.mj_model, self._data, self._checked_state(state))

    def set_physics(self, physics: Physics | None = None) -> None:
        """Give this environment alone other physics, or its own again; the state stays.

        Raises:
            ValueError: the model has parts to which a factor cannot be applied.
        """
        physics = Physics() if physics is None else physics
        if self.mj_model is self._nominal_model:
            if is_nominal(physics):
                return
            state = self.get_state()
            self.mj_model = own_copy(self._nominal_model)
            self._data, self._scratch = mujoco.MjData(self.mj_model), mujoco.MjData(self.mj_model)
            self.set_state(state)
        scale_physics(self.mj_model, self._nominal_model, physics)
        self.set_state(self.get_state())

    def advance(self, action: Float[np.ndarray, " action"], num_steps: int = 1) -> None:
        """Apply `action` for `num_steps` control steps, without looking at what comes of it."""
        self._simulate(self._checked_action(action), num_steps)

    def observe(self) -> Observation:
        """The observation of the current state."""
        state = self.get_state()
        observation: Observation = {"pixels": self._draw(state, None, None)} if self._observes_pixels else {}
        observation["proprio"] = self.proprio(state).astype(np.float32)
        return observation

    def render_goal(self, state: State, look: Look | None = None, image_size: int | None = None) -> Pixels:
        """Draw any state; the current one is left as it is."""
        return self._draw(self._checked_state(state), look, image_size)

    def parse_goal(self, values: str | Sequence[float]) -> State:
        """The state at rest at the given position, as text ("0.3,-1.2") or as numbers.

        Raises:
            ValueError: when a number is missing, is none, or is out of range.
        """
        wanted = ", ".join(self.goal_names)
        parts = values.split(",") if isinstance(values, str) else list(values)
        try:
            qpos = np.array([float(part) for part in parts], np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f"A state of {self.name} is given as numbers ({wanted}), got {values!r}"
            ) from None
        if qpos.shape != (self.mj_model.nq,) or not np.isfinite(qpos).all():
            raise ValueError(
                f"A state of {self.name} is {self.mj_model.nq} numbers ({wanted}), got {values!r}"
            )
        self.check_position(qpos)
        return np.concatenate([qpos, np.zeros(self.mj_model.nv)])

    # Goals.

    def error(self, state: States, goal_state: States) -> Batch:
        """How far `state` is from the goal in units of the tolerance: reached at 1, velocities aside."""
        return np.max(self._scaled_error(state, goal_state), axis=-1)

    def state_distance(self, state: States, goal_state: States) -> Batch:
        """A smooth distance for planners that know the state: Euclidean, in units of the tolerance."""
        return np.linalg.norm(self._scaled_error(state, goal_state), axis=-1)

    def reached(self, state: State, goal_state: State, scale: float = 1.0) -> bool:
        """Whether `state` is within `scale` tolerances of the goal."""
        return bool(self.error(state, goal_state) <= scale)

    def goal_group(self, start_state: State, goal_state: State) -> str | None:
        """What kind of goal this is from that start, for tasks whose goals are worth telling apart."""
        return None

    def _scaled_error(self, state: np.ndarray, goal_state: np.ndarray) -> np.ndarray:
        nq = self.mj_model.nq
        state, goal_state = np.asarray(state, np.float64), np.asarray(goal_state, np.float64)
        return self.position_error(state[..., :nq], goal_state[..., :nq]) / self.tolerance

    def _checked_state(self, state: State) -> State:
        size = self.mj_model.nq + self.mj_model.nv
        state = np.asarray(state, np.float64)
        if state.shape != (size,) or not np.isfinite(state).all():
            raise ValueError(
                f"a state of {self.name} is {size} finite numbers, qpos then qvel, got {state!r}"
            )
        return state

    def _draw(self, state: State, look: Look | None, image_size: int | None) -> Pixels:
        key = SHARED_RENDERERS.key(self._renderer_name())
        if key not in self._renderers:
            self._renderers[key] = SHARED_RENDERERS.borrow(key, self.mj_model, self.parts)
        _load(self.mj_model, self._scratch, state, kinematics_only=True)
        size = self.image_size if image_size is None else check_image_size(image_size)
        return self._renderers[key].render(
            self._scratch, self.look if look is None else look, size, self.mj_model
        )


def wrapped_angle(angle: Batch) -> Batch:
    """The same angle in [-pi, pi) [rad]."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _load(model: mujoco.MjModel, data: mujoco.MjData, state: State, kinematics_only: bool = False) -> None:
    data.qpos[:], data.qvel[:] = state[: model.nq], state[model.nq :]
    data.time = 0.0
    if kinematics_only:
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
    else:
        data.ctrl[:] = 0.0
        data.act[:] = 0.0
        mujoco.mj_forward(model, data)
