"""What every built-in task is: a gymnasium environment on a MuJoCo model, with goals and tolerances."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from jaxtyping import Float, Float64

from .looks import PLAIN, Look
from .physics import Physics, is_nominal, own_copy, scale_physics
from .rendering import (
    DEFAULT_IMAGE_SIZE,
    SHARED_RENDERERS,
    TARGET_GROUP,
    Pixels,
    RendererKey,
    SceneParts,
    SceneRenderer,
    add_floor_textures,
    check_image_size,
)

Observation = dict[str, np.ndarray]
State = Float64[np.ndarray, " state"]
States = Float[np.ndarray, "... state"]
Positions = Float[np.ndarray, "... nq"]
Batch = Float[np.ndarray, "..."] | np.floating
"""One number for each state of a batch; a lone state gives a scalar."""

_MODELS: dict[str, mujoco.MjModel] = {}


class TaskEnv(gymnasium.Env):
    """A task on one MuJoCo model: pixels and proprio out, true actuator commands in.

    One `step` is one control step of `control_timestep` seconds; actions are never repeated. A state is qpos
    then qvel, float64. Reward is 0 and no episode ends by itself: whoever plans decides when a goal is
    reached. Environments of one task share their model and, in one thread, their renderer; the next state
    depends on state and action alone (MuJoCo's warm start, hidden state otherwise, is off).

    A new task is a subclass in one file: the constants below, `make_spec`, `sample_state`, `check_position`,
    `position_error` and, where the state is not what a robot would feel, `proprio`.
    """

    name: ClassVar[str]
    """What `make` and `--env` know it by."""
    frame_skip: ClassVar[int]
    """Recommended env steps per model step."""
    control_timestep: ClassVar[float] = 0.02
    """[s]"""
    tolerance: ClassVar[float]
    """A goal is reached when every component of `position_error` is at most this."""
    tolerance_text: ClassVar[str]
    """The tolerance in words, with its unit."""
    far_budget: ClassVar[int] = 200
    """Env steps in which any goal can be reached from anywhere, with time to spare."""
    logging_policy: ClassVar[str] = "random"
    """Name of the policy that makes this task's logs; see `make_policy`."""
    servo_gains: ClassVar[tuple[float, float]]
    """Of the scripted policy: full action per unit of distance to its waypoint, and the time by which it
    looks ahead along the velocity [s]."""
    parts: ClassVar[SceneParts]
    proprio_names: ClassVar[tuple[str, ...]]
    """What each entry of `proprio` is, with its unit."""
    goal_names: ClassVar[tuple[str, ...]]
    """What each number of a goal given as text is, with its unit and range."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(
        self,
        image_size: int | None = None,
        look: Look | None = None,
        render: bool = True,
        render_mode: str | None = "rgb_array",
    ) -> None:
        """Make an environment at the task's rest position.

        Args:
            image_size: height and width of an observation [px]; 96 when not given.
            look: how observations are drawn; `PLAIN` when not given.
            render: False leaves pixels out of observations and needs no GL; `render` still works where
                there is one.
            render_mode: for gymnasium; "rgb_array" or None.
        """
        self.image_size = check_image_size(DEFAULT_IMAGE_SIZE if image_size is None else image_size)
        self.look = PLAIN if look is None else look
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.render_mode = render_mode
        self.mj_model = _shared_model(self.name, self.make_spec)
        self._nominal_model = self.mj_model
        self._substeps = round(self.control_timestep / self.mj_model.opt.timestep)
        self._data = mujoco.MjData(self.mj_model)
        self._scratch = mujoco.MjData(self.mj_model)
        self._renderers: dict[RendererKey, SceneRenderer] = {}
        low, high = self.mj_model.actuator_ctrlrange.T.astype(np.float32)
        self.action_space: gymnasium.spaces.Box = gymnasium.spaces.Box(low, high, dtype=np.float32)
        spaces: dict[str, gymnasium.Space] = {}
        if render:
            spaces["pixels"] = gymnasium.spaces.Box(0, 255, (self.image_size, self.image_size, 3), np.uint8)
        spaces["proprio"] = gymnasium.spaces.Box(-np.inf, np.inf, (len(self.proprio_names),), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self._observes_pixels = render
        mujoco.mj_forward(self.mj_model, self._data)

    # What a task defines.

    @classmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The task's model, before it is compiled."""
        raise NotImplementedError

    def sample_state(self, rng: np.random.Generator) -> State:
        """A state at rest, drawn from the whole space of valid states."""
        raise NotImplementedError

    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse a position that `sample_state` could not give.

        Raises:
            ValueError: saying which number is out of which range.
        """
        raise NotImplementedError

    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """Distances that the tolerance is about, in its unit, none negative."""
        raise NotImplementedError

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
        self.set_state(self.sample_state(self.np_random) if given is None else given)
        return self.observe(), self._info()

    def step(self, action: Float[np.ndarray, " action"]) -> tuple[Observation, float, bool, bool, dict]:
        """Apply `action` for one control step, clipped to its bounds as the actuators do."""
        self.advance(action)
        return self.observe(), 0.0, False, False, self._info()

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
        command = np.asarray(action, np.float64)
        if command.shape != self.action_space.shape or not np.isfinite(command).all():
            raise ValueError(
                f"an action of {self.name} is {self.mj_model.nu} finite numbers, got {np.asarray(action)!r}"
            )
        self._data.ctrl[:] = np.clip(command, self.action_space.low, self.action_space.high)
        mujoco.mj_step(self.mj_model, self._data, self._substeps * num_steps)

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

    def _info(self) -> dict[str, Any]:
        return {"state": self.get_state()}

    def _checked_state(self, state: State) -> State:
        size = self.mj_model.nq + self.mj_model.nv
        state = np.asarray(state, np.float64)
        if state.shape != (size,) or not np.isfinite(state).all():
            raise ValueError(
                f"a state of {self.name} is {size} finite numbers, qpos then qvel, got {state!r}"
            )
        return state

    def _draw(self, state: State, look: Look | None, image_size: int | None) -> Pixels:
        key = SHARED_RENDERERS.key(self.name)
        if key not in self._renderers:
            self._renderers[key] = SHARED_RENDERERS.borrow(key, self.mj_model, self.parts)
        _load(self.mj_model, self._scratch, state, kinematics_only=True)
        size = self.image_size if image_size is None else check_image_size(image_size)
        return self._renderers[key].render(self._scratch, self.look if look is None else look, size)


def wrapped_angle(angle: Batch) -> Batch:
    """The same angle in [-pi, pi) [rad]."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def suite_spec(domain: str) -> mujoco.MjSpec:
    """The model of a dm_control suite domain, read from the installed package.

    The files are read where they lie: importing the suite would import all its domains and a GL backend.

    Raises:
        ValueError: when dm_control is not installed.
    """
    found = importlib.util.find_spec("dm_control")
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            f"The task {domain!r} needs dm_control, which is not installed (no wheels for Python >= 3.13). "
            "Run: pip install 'dm-control>=1.0.50,<2' on Python 3.11 or 3.12, or use the task two_room"
        )
    suite = Path(found.submodule_search_locations[0]) / "suite"
    include = {f"common/{path.name}": path.read_bytes() for path in (suite / "common").glob("*.xml")}
    return mujoco.MjSpec.from_string((suite / f"{domain}.xml").read_text(), include=include)


def _shared_model(name: str, make_spec: Callable[[], mujoco.MjSpec]) -> mujoco.MjModel:
    if name not in _MODELS:
        spec = make_spec()
        add_floor_textures(spec)
        for geom in spec.geoms:
            if geom.name == "target":
                geom.group = TARGET_GROUP
        spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
        _MODELS[name] = spec.compile()
    return _MODELS[name]


def _load(model: mujoco.MjModel, data: mujoco.MjData, state: State, kinematics_only: bool = False) -> None:
    data.qpos[:], data.qvel[:] = state[: model.nq], state[model.nq :]
    data.time = 0.0
    if kinematics_only:
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
    else:
        data.ctrl[:] = 0.0
        mujoco.mj_forward(model, data)
