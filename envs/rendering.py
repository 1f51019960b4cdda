"""Drawing a task's scene quickly: one renderer per task, camera and thread, shared by its environments."""

import atexit
import importlib
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from .cameras import FreeView, view_through
from .gl import backend_module, broken_backend, choose_backend, forget_backend
from .looks import FLOOR_TEXTURES, MAX_DISTRACTORS, PLAIN, Look

DEFAULT_IMAGE_SIZE = 96
"""Height and width of an observation [px]."""
MAX_IMAGE_SIZE = 2048
TARGET_GROUP = 4
"""Geoms of this group are drawn only when a look shows the target."""

Pixels = UInt8[np.ndarray, "height width 3"]
RendererKey = tuple[str, int, int]


@dataclass(frozen=True)
class SceneParts:
    """Which geoms of a model play which role, by name or number, and the camera that looks at them."""

    camera: str
    agent: tuple[str | int, ...] = ()
    floor: tuple[str | int, ...] = ()
    effector: tuple[str | int, ...] = ()
    walls: tuple[str | int, ...] = ()
    target: str | None = None
    target_position: tuple[float, float] = (0.0, 0.0)
    middle: tuple[float, float] = (0.0, 0.0)
    """From where a look counts the places of target and occluder [m]."""
    free_view: FreeView | None = None
    """What the camera "free" shows; MuJoCo's own view of the whole scene when not given."""


def check_image_size(image_size: int) -> int:
    """`image_size` itself, when a frame of that many pixels a side can be drawn.

    Raises:
        ValueError: when it is not a whole number from 16 to 2048.
    """
    whole = isinstance(image_size, int | np.integer) and not isinstance(image_size, bool)
    if not whole or not 16 <= image_size <= MAX_IMAGE_SIZE:
        raise ValueError(
            f"image_size must be a whole number of pixels from 16 to {MAX_IMAGE_SIZE}, got {image_size!r}"
        )
    return int(image_size)


def add_floor_textures(spec: mujoco.MjSpec) -> None:
    """Give a model the grey floor patterns that looks may ask for; they change nothing else."""
    for name, pattern in zip(FLOOR_TEXTURES, _floor_patterns(), strict=True):
        height, width = pattern.shape
        kind = mujoco.mjtTexture.mjTEXTURE_2D
        texture = spec.add_texture(name=f"look_{name}", type=kind, width=width, height=height)
        texture.nchannel = 3
        texture.data = np.repeat(pattern[..., None], 3, axis=-1).tobytes()


class SceneRenderer:
    """Draws states of one model; contexts are made when first needed and freed by `close`.

    A look is applied to the drawn scene, never to the model, and the scene is rebuilt for every frame:
    nothing of a look outlives its frame. Use one in the thread that made it.
    """

    def __init__(self, model: mujoco.MjModel, parts: SceneParts) -> None:
        self._model, self._parts = model, parts
        self._gl = _make_gl_context()
        self._contexts: dict[tuple[int, int], mujoco.MjrContext] = {}
        drawn = model.ngeom + model.nsite + 64 * model.ntendon + model.nskin + model.nflex
        self._scene = mujoco.MjvScene(model, maxgeom=drawn + MAX_DISTRACTORS + 8)
        self._option = mujoco.MjvOption()
        self._camera = view_through(model, parts.camera, parts.free_view)
        self._roles = _roles(model, parts)
        known = {model.texture(index).name for index in range(model.ntex)}
        textures = {name: f"look_{name}" for name in FLOOR_TEXTURES if f"look_{name}" in known}
        self._textures = {name: model.texture(texture).id for name, texture in textures.items()}
        self._buffers: dict[int, np.ndarray] = {}

    def render(
        self,
        data: mujoco.MjData,
        look: Look = PLAIN,
        image_size: int = DEFAULT_IMAGE_SIZE,
        model: mujoco.MjModel | None = None,
    ) -> Pixels:
        """Draw `data` as it is; its kinematics must be up to date.

        Args:
            model: one that has been changed since the renderer was made (sizes, colours, places), but has the
                same geoms and textures; the renderer's own when not given.
        """
        if self._gl is None:
            raise ValueError("this renderer is closed; make a new environment")
        self._gl.make_current()
        context = self._context(look, image_size)
        scene = self._scene
        self._option.geomgroup[TARGET_GROUP] = look.target_visible and self._parts.target is not None
        flags = mujoco.mjtRndFlag
        scene.flags[flags.mjRND_SHADOW] = look.shadows
        scene.flags[flags.mjRND_REFLECTION] = look.reflections
        scene.flags[flags.mjRND_SKYBOX] = look.skybox
        scene.flags[flags.mjRND_HAZE] = look.haze
        mujoco.mjv_updateScene(
            data.model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, scene
        )
        self._colour_geoms(look)
        _light(scene, look)
        _move_camera(scene, look)
        _add_distractors(scene, look)
        rect = mujoco.MjrRect(0, 0, image_size, image_size)
        buffer = self._buffers.setdefault(image_size, np.empty((image_size, image_size, 3), np.uint8))
        mujoco.mjr_render(rect, scene, context)
        mujoco.mjr_readPixels(buffer, None, rect, context)
        return through_sensor(buffer[::-1].copy(), look)

    def close(self) -> None:
        """Free what OpenGL holds; calling it again does nothing."""
        if self._gl is None:
            return
        self._gl.make_current()
        for context in self._contexts.values():
            context.free()
        self._contexts.clear()
        self._gl.free()
        self._gl = None

    def close_at_exit(self) -> None:
        """Close quietly, also when another user of GL (dm_control is one) has shut all of it down before."""
        try:
            self.close()
        except Exception:  # an EGLError, whose module may be half gone by now
            vars(self._gl)["_context"] = None  # gone already; else its finalizer would complain on stderr
            self._gl = None

    def _context(self, look: Look, image_size: int) -> mujoco.MjrContext:
        """The context with this look's samples and shadow map, its buffer large enough."""
        key = (look.samples, look.shadow_map_size if look.shadows else 0)
        if key not in self._contexts:
            quality, size = self._model.vis.quality, self._model.vis.global_
            before = quality.offsamples, quality.shadowsize, size.offwidth, size.offheight
            quality.offsamples, quality.shadowsize = look.samples, key[1]
            size.offwidth = size.offheight = image_size
            try:
                context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            finally:
                quality.offsamples, quality.shadowsize, size.offwidth, size.offheight = before
            self._contexts[key] = context
        context = self._contexts[key]
        if context.offWidth < image_size:
            mujoco.mjr_resizeOffscreen(image_size, image_size, context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
        return context

    def _colour_geoms(self, look: Look) -> None:
        colours = {
            "agent": look.agent_rgb,
            "effector": look.effector_rgb,
            "floor": look.floor_rgb,
            "walls": look.wall_rgb,
            "target": look.target_rgb,
        }
        recolour = any(colours.values()) or look.floor_texture is not None
        if recolour or look.target_visible:
            for geom in self._scene.geoms[: self._scene.ngeom]:
                role = self._roles.get(geom.objid) if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM else None
                if role is None:
                    continue
                if role == "target":
                    geom.pos[:2] = self._parts.target_position
                    if look.target_position is not None:
                        geom.pos[:2] = np.add(self._parts.middle, look.target_position)
                if role == "floor" and look.floor_texture in self._textures:
                    geom.texid = self._textures[look.floor_texture]
                    geom.texuniform, geom.texrepeat[:] = 0, look.floor_texture_repeat
                colour = colours[role]
                if colour is not None:
                    geom.rgba[:3] = colour
        if look.occluder is not None:
            x, y = np.add(self._parts.middle, look.occluder[:2])
            radius = look.occluder[2]
            height = 0.15 * float(self._scene.camera[0].pos[2])
            size = np.array([radius, 0.001, 0.001])
            kind = mujoco.mjtGeom.mjGEOM_CYLINDER.value
            _add_geom(self._scene, kind, size, np.array([x, y, height]), (0.05, 0.05, 0.05))


class SharedRenderers:
    """Renderers by task, process and thread; each is freed when its last borrower gives it back."""

    def __init__(self) -> None:
        self._held: dict[RendererKey, tuple[SceneRenderer, int]] = {}

    @staticmethod
    def key(name: str) -> RendererKey:
        """What names the renderer of task `name` in this process and thread."""
        return name, os.getpid(), threading.get_ident()

    def borrow(self, key: RendererKey, model: mujoco.MjModel, parts: SceneParts) -> SceneRenderer:
        """The renderer of `key`, made when there is none yet."""
        if key not in self._held:
            self._held[key] = (SceneRenderer(model, parts), 0)
            atexit.unregister(self.close)
            atexit.register(self.close)  # again after each context, so that it runs before GL's own clean-up
        renderer, count = self._held[key]
        self._held[key] = (renderer, count + 1)
        return renderer

    def give_back(self, key: RendererKey) -> None:
        """Say that one borrower is done; another thread's renderer stays until the process ends."""
        if key not in self._held:  # the process is ending, and all are freed
            return
        renderer, count = self._held[key]
        self._held[key] = (renderer, count - 1)
        if count == 1 and key == self.key(key[0]):
            del self._held[key]
            renderer.close()

    def close(self) -> None:
        """Free every renderer of this process."""
        for key in list(self._held):
            renderer, _ = self._held.pop(key)
            if key[1] == os.getpid():
                renderer.close_at_exit()


SHARED_RENDERERS = SharedRenderers()


def _make_gl_context() -> Any:  # noqa: ANN401
    """A GL context of the chosen backend, whatever MuJoCo itself picked when it was imported."""
    backend = choose_backend()
    try:
        context = importlib.import_module(backend_module(backend)).GLContext(16, 16)
        context.make_current()
        trial = mujoco.MjModel.from_xml_string("<mujoco/>")
        mujoco.MjrContext(trial, mujoco.mjtFontScale.mjFONTSCALE_100.value).free()
    except Exception as error:  # each backend fails in its own way: ImportError, AttributeError, FatalError
        forget_backend()
        raise broken_backend(backend, error) from error
    return context


def _roles(model: mujoco.MjModel, parts: SceneParts) -> dict[int, str]:
    named = {"agent": parts.agent, "effector": parts.effector, "floor": parts.floor, "walls": parts.walls}
    named["target"] = (parts.target,) if parts.target else ()
    return {model.geom(name).id: role for role, names in named.items() for name in names}


def _light(scene: mujoco.MjvScene, look: Look) -> None:
    """Turn the scene's own lamp, and set its and the headlight's strength."""
    for light in scene.lights[: scene.nlight]:
        if light.headlight:
            if look.ambient_rgb is not None:
                light.ambient[:] = look.ambient_rgb
            if look.light_rgb is not None:
                light.diffuse[:] = 0.5 * np.asarray(look.light_rgb)
            continue
        if look.light_rgb is not None:
            light.diffuse[:] = look.light_rgb
        if look.light_direction is not None:
            distance = float(np.linalg.norm(light.pos))
            light.dir[:] = look.light_direction
            light.pos[:] = -distance * np.asarray(look.light_direction)


def _move_camera(scene: mujoco.MjvScene, look: Look) -> None:
    shifted = look.camera_shift != PLAIN.camera_shift or look.camera_tilt != PLAIN.camera_tilt
    if not shifted and look.camera_roll == 0.0 and look.camera_zoom == 1.0:
        return
    for camera in scene.camera:
        forward, up = np.array(camera.forward, np.float64), np.array(camera.up, np.float64)
        right = np.cross(forward, up)
        distance = float(camera.pos[2])
        camera.pos[:] += distance * (
            look.camera_shift[0] * right + look.camera_shift[1] * up - look.camera_shift[2] * forward
        )
        forward = forward + math.tan(look.camera_tilt[0]) * up + math.tan(look.camera_tilt[1]) * right
        forward /= np.linalg.norm(forward)
        up = math.cos(look.camera_roll) * up + math.sin(look.camera_roll) * right
        up -= (up @ forward) * forward
        camera.forward[:], camera.up[:] = forward, up / np.linalg.norm(up)
        for edge in ("frustum_top", "frustum_bottom", "frustum_width"):
            setattr(camera, edge, getattr(camera, edge) / look.camera_zoom)


def _add_distractors(scene: mujoco.MjvScene, look: Look) -> None:
    """Lay each ball on the floor, where the sight line through its place in the picture meets it."""
    camera = scene.camera[0]
    forward, up = np.array(camera.forward, np.float64), np.array(camera.up, np.float64)
    right, position = np.cross(forward, up), np.mean([eye.pos for eye in scene.camera], axis=0)
    half_height = camera.frustum_top / camera.frustum_near
    half_width = (camera.frustum_width or camera.frustum_top) / camera.frustum_near
    for across, upward, radius, *rgb in look.distractors:
        sight = forward + across * half_width * right + upward * half_height * up
        width = radius * half_height  # of the ball, at a distance of 1
        if position[2] > 0 and sight[2] < -1e-3:
            depth = 1 / (-sight[2] / position[2] + width / position[2])
        else:
            depth = float(np.linalg.norm(position))
        size, place = width * depth, position + depth * sight
        _add_geom(scene, mujoco.mjtGeom.mjGEOM_SPHERE.value, np.full(3, size), place, rgb)


def _add_geom(
    scene: mujoco.MjvScene, kind: int, size: np.ndarray, place: np.ndarray, rgb: Sequence[float]
) -> None:
    colour = np.array([*rgb, 1.0], np.float32)
    mujoco.mjv_initGeom(scene.geoms[scene.ngeom], kind, size, place, np.eye(3).ravel(), colour)
    scene.ngeom += 1


def through_sensor(pixels: np.ndarray, look: Look) -> Pixels:
    """What a look's sensor makes of a picture: its gain and its noise."""
    if look.gain == PLAIN.gain and look.noise_std == 0.0:
        return pixels
    image = pixels.astype(np.float32) * np.asarray(look.gain, np.float32)
    if look.noise_std:
        noise = np.random.default_rng(look.noise_seed).standard_normal(image.shape, np.float32)
        image += np.float32(look.noise_std) * noise
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _floor_patterns() -> list[UInt8[np.ndarray, "64 64"]]:
    """The grey patterns of `FLOOR_TEXTURES`, in its order; white where the tint shows in full."""
    side, rng = 64, np.random.default_rng(0)
    row, column = np.mgrid[:side, :side]
    levels: list[Float[np.ndarray, "64 64"]] = [
        np.ones((side, side)),
        np.where((row // 8 + column // 8) % 2, 1.0, 0.6),
        0.8 + 0.2 * np.sin(2 * np.pi * 6 * column / side),
        0.8 + 0.2 * _clouds(rng, side),
        0.85 + 0.15 * rng.uniform(-1, 1, (side, side)),
    ]
    return [np.clip(255 * level, 0, 255).astype(np.uint8) for level in levels]


def _clouds(rng: np.random.Generator, side: int) -> Float[np.ndarray, "side side"]:
    """Smooth noise in [-1, 1] that tiles: a sum of a few long waves."""
    row, column = np.mgrid[:side, :side] * (2 * np.pi / side)
    field = np.zeros((side, side))
    for down in range(4):
        for right in range(4):
            if down or right:
                phase = down * row + right * column + rng.uniform(0, 2 * np.pi)
                field += rng.normal() / (down + right) * np.cos(phase)
    return field / np.abs(field).max()
