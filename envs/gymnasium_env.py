"""Any gymnasium environment by its id: with states where MuJoCo lies beneath, else by its own pictures."""

import warnings
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box, Discrete, utils
from jaxtyping import Float, Float64
from PIL import Image

from .camera_env import CameraEnv, Observation, State, model_step
from .cameras import FreeView
from .looks import Look
from .physics import own_copy
from .rendering import Pixels, through_sensor
from .robot import RobotEnv

_MOST_PROPRIO = 1024
"""An observation of more numbers is taken for a picture, not for what a robot feels."""


def make_gymnasium(name: str, *, render: bool = True, **options: Any) -> CameraEnv:  # noqa: ANN401 - passed on
    """Make the environment with that id, which may name a package to import first (`package:Id`).

    Its time limit is lifted. Where MuJoCo lies beneath, its own renderer is not used.

    Raises:
        ValueError: an unknown id, a package that is missing, an action space of another kind than a bounded
            box or a choice, or an environment that draws no pictures.
    """
    inner = _opened(name, None)
    bare = inner.unwrapped
    if isinstance(getattr(bare, "model", None), mujoco.MjModel) and isinstance(
        getattr(bare, "data", None), mujoco.MjData
    ):
        return GymnasiumRobot(name, inner, render=render, **options)
    inner.close()
    return GymnasiumPictures(
        name, _opened(name, "rgb_array") if render else _opened(name, None), render, **options
    )


def _opened(name: str, render_mode: str | None) -> gymnasium.Env:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions of an id, render modes that it does not list
            return gymnasium.make(
                name, render_mode=render_mode, max_episode_steps=-1, disable_env_checker=True
            )
    except Exception as error:  # whatever the constructor of a foreign environment raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"gymnasium cannot make {name!r}: {reason}") from error


class GymnasiumRobot(RobotEnv):
    """A gymnasium environment on MuJoCo: it is stepped by itself, and drawn by our renderer.

    Episodes start where its own `reset(seed)` puts them. It never ends: terminations are about its reward.
    The camera is the model's first named one, or "free", which shows what gymnasium's own renderer does.

    Args:
        inner: as `gymnasium.make` gives it.
        options: those of `TaskEnv`.
    """

    def __init__(self, name: str, inner: gymnasium.Env, **options: Any) -> None:  # noqa: ANN401 - passed on
        """Take over an environment."""
        self.inner = inner
        bare: Any = inner.unwrapped
        model, data = bare.model, bare.data
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
        inner.reset(seed=0)
        self._actions = ActionBox(inner.action_space, name)
        control_timestep = float(bare.dt)
        super().__init__(
            name,
            model,
            data,
            control_timestep=control_timestep,
            action_bounds=(self._actions.low, self._actions.high),
            default_frame_skip=model_step(control_timestep),
            usual=data.qpos,
            free_view=_own_view(bare, model, data),
            **options,
        )
        self._nominal_model = own_copy(model)  # the environment keeps its model, so that is what changes

    def _start_state(self, seed: int | None) -> State:
        self.inner.reset(seed=seed)
        return self.get_state()

    def _simulate(self, command: Float64[np.ndarray, " action"], num_steps: int) -> None:
        for _ in range(num_steps):
            self.inner.step(self._actions.inner_action(command))

    def close(self) -> None:
        """Close both."""
        super().close()
        self.inner.close()


class GymnasiumPictures(CameraEnv):
    """A gymnasium environment without MuJoCo: seen through its own `render`, its state out of reach.

    Pictures are the central square of what it draws, resized; a look changes only gain and noise. `proprio`
    is its own observation where that is a vector of at most 1024 numbers, else nothing. When it terminates,
    its world stops until the next `reset`.

    Args:
        inner: as `gymnasium.make` gives it, with `render_mode="rgb_array"` if `render`.
    """

    camera: str = "render"
    has_state: bool = False

    def __init__(
        self,
        name: str,
        inner: gymnasium.Env,
        render: bool = True,
        image_size: int | None = None,
        look: Look | None = None,
        render_mode: str | None = "rgb_array",
        camera: str | None = None,
        frame_skip: int | None = None,
    ) -> None:
        """Take over an environment; the other arguments are as `TaskEnv`'s."""
        super().__init__(image_size, look, render_mode)
        self.name, self.inner = name, inner
        if camera not in (None, self.camera):
            raise ValueError(f"{name} has no camera {camera!r}. Its cameras: {self.camera} (its own picture)")
        if render and "rgb_array" not in inner.metadata.get("render_modes", ()):
            raise ValueError(
                f"{name} draws no pictures: it has no render mode 'rgb_array', so nothing can be seen"
            )
        self._actions = ActionBox(inner.action_space, name)
        self.action_space = Box(self._actions.low, self._actions.high, dtype=np.float32)
        self.control_timestep = _seconds_per_step(inner)
        self.frame_skip = model_step(self.control_timestep) if frame_skip is None else frame_skip
        if self.frame_skip < 1:
            raise ValueError(f"frame_skip must be at least 1 env step, got {frame_skip}")
        own = inner.observation_space
        size = utils.flatdim(own) if own.is_np_flattenable else 0
        size = size if size <= _MOST_PROPRIO else 0
        self.proprio_names = tuple(f"observation {index}" for index in range(size))
        self._observes_pixels = render
        spaces: dict[str, gymnasium.Space] = {}
        if render:
            spaces["pixels"] = Box(0, 255, (self.image_size, self.image_size, 3), np.uint8)
        spaces["proprio"] = Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self._own_observation, _ = inner.reset(seed=0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict]:
        """Start anew where its own reset puts it."""
        super().reset(seed=seed)
        if options and options.get("state") is not None:
            self._refuse_states()
        self._own_observation, _ = self.inner.reset(seed=seed)
        self.ended = False
        return self.observe(), self._info()

    def advance(self, action: Float[np.ndarray, " action"], num_steps: int = 1) -> None:
        """Apply `action` for `num_steps` control steps, or until the world stops."""
        command = self._checked_action(action)
        for _ in range(num_steps):
            if self.ended:
                return
            self._own_observation, _, terminated, truncated, _ = self.inner.step(
                self._actions.inner_action(command)
            )
            self.ended = bool(terminated or truncated)

    def observe(self) -> Observation:
        """Its picture, and its own observation as proprio."""
        observation: Observation = {"pixels": self.render()} if self._observes_pixels else {}
        observation["proprio"] = np.zeros(0, np.float32)
        if self.proprio_names:
            flat = utils.flatten(self.inner.observation_space, self._own_observation)
            observation["proprio"] = np.asarray(flat, np.float32)
        return observation

    def render(self, look: Look | None = None, image_size: int | None = None) -> Pixels:
        """The central square of what it draws; only gain and noise of a look show."""
        try:
            frame: Any = self.inner.render()
        except Exception as error:  # as from make: pygame missing, no screen, ...
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.name} cannot draw itself: {reason}") from error
        height, width = frame.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(np.asarray(frame[top : top + side, left : left + side, :3], np.uint8))
        size = self.image_size if image_size is None else image_size
        pixels = np.array(square.resize((size, size), Image.Resampling.BOX))
        return through_sensor(pixels, self.look if look is None else look)

    def close(self) -> None:
        """Close it."""
        self.inner.close()


class ActionBox:
    """An action space of gymnasium's as a bounded box: itself, or a score for each choice, the best counting.

    Raises:
        ValueError: a space of another kind, or one without bounds.
    """

    def __init__(self, space: gymnasium.Space, owner: str) -> None:
        self._space = space
        if isinstance(space, Discrete):
            self.low = np.full(int(space.n), -1.0, np.float32)
            self.high = -self.low
            return
        if not isinstance(space, Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(
                f"the actions of {owner} are {space}; plans need a bounded vector or a discrete choice"
            )
        self.low, self.high = space.low.astype(np.float32), space.high.astype(np.float32)
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise ValueError(f"the actions of {owner} are {space}; plans need bounds on every number")

    def inner_action(self, command: Float64[np.ndarray, " action"]) -> Any:  # noqa: ANN401 - as the env takes it
        """The action as the environment itself wants it."""
        if isinstance(self._space, Discrete):
            return self._space.start + int(np.argmax(command))
        return command.astype(self._space.dtype)


def _own_view(bare: gymnasium.Env, model: mujoco.MjModel, data: mujoco.MjData) -> FreeView:
    """What gymnasium's own renderer shows: the middle of all geoms, as the environment's settings say."""
    camera = mujoco.MjvCamera()
    settings = getattr(getattr(bare, "mujoco_renderer", None), "default_cam_config", None) or {}
    lookat = np.asarray(settings.get("lookat", np.median(data.geom_xpos, axis=0)), np.float64)
    return FreeView(
        lookat=(float(lookat[0]), float(lookat[1]), float(lookat[2])),
        distance=float(settings.get("distance", model.stat.extent)),
        azimuth=float(settings.get("azimuth", camera.azimuth)),
        elevation=float(settings.get("elevation", camera.elevation)),
    )


def _seconds_per_step(inner: gymnasium.Env) -> float:
    """What a step lasts: as the environment says, else as its pictures are to be played."""
    for name in ("tau", "dt"):
        value = getattr(inner.unwrapped, name, None)
        if isinstance(value, float) and value > 0:
            return value
    return 1.0 / float(inner.metadata.get("render_fps") or 30)
