"""How a scene is drawn: the fast plain look, the simulator's own, and random ones.

A look changes pixels and nothing else: physics never sees it.
"""

import math
from dataclasses import dataclass

import numpy as np

RGB = tuple[float, float, float]
Distractor = tuple[float, float, float, float, float, float]
"""A ball that has nothing to do with the task: where it is in the picture, to the right and up in [-1, 1]
from the middle; its radius as a fraction of half the picture's height; red, green, blue."""
MAX_DISTRACTORS = 8

FLOOR_TEXTURES = ("flat", "checker", "stripes", "clouds", "grain")
"""Grey patterns that every task carries, tinted by `floor_rgb`."""


TARGET_RGB: RGB = (0.6, 0.3, 0.3)
"""The colour of the target in every task, as in dm_control's suite."""
_MAX_COLOURS = 1000
_SUITE_FLOOR: RGB = (0.15, 0.25, 0.35)
_SUITE_AGENT: RGB = (0.7, 0.5, 0.3)


@dataclass(frozen=True)
class Look:
    """One way to draw a task. `None` everywhere means: as the task's own model has it.

    Colours are in [0, 1]. The camera's fields are relative to its own pose: the shift as a fraction of its
    distance from the floor (right, up, away), turns in radians, zoom as a factor on the picture's size.
    """

    shadows: bool = False
    shadow_map_size: int = 2048
    reflections: bool = False
    skybox: bool = False
    haze: bool = False
    samples: int = 4
    """Multisample antialiasing; 0 is off. Mesa's software renderer knows only 0 and 4."""
    light_direction: tuple[float, float, float] | None = None
    light_rgb: RGB | None = None
    ambient_rgb: RGB | None = None
    agent_rgb: RGB | None = None
    effector_rgb: RGB | None = None
    floor_rgb: RGB | None = None
    wall_rgb: RGB | None = None
    floor_texture: str | None = None
    """One of `FLOOR_TEXTURES`."""
    floor_texture_repeat: float = 2.0
    """Copies of the texture along a side of the floor."""
    target_visible: bool = False
    target_position: tuple[float, float] | None = None
    """[m]; the task's own place when not given."""
    target_rgb: RGB | None = None
    occluder: tuple[float, float, float] | None = None
    """A dark disc between camera and scene: x [m], y [m], radius [m]."""
    distractors: tuple[Distractor, ...] = ()
    """Balls that lie on the floor and touch nothing."""
    camera_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_tilt: tuple[float, float] = (0.0, 0.0)
    """Turn about the picture's horizontal and vertical axis [rad]."""
    camera_roll: float = 0.0
    camera_zoom: float = 1.0
    gain: RGB = (1.0, 1.0, 1.0)
    """The sensor's gain in each colour channel."""
    noise_std: float = 0.0
    """Of the sensor, in grey levels of 255."""
    noise_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.floor_texture is not None and self.floor_texture not in FLOOR_TEXTURES:
            raise ValueError(
                f"Unknown floor texture {self.floor_texture!r}. "
                f"Known floor textures: {', '.join(FLOOR_TEXTURES)}"
            )
        if self.samples not in (0, 2, 4, 8):
            raise ValueError(f"samples must be 0, 2, 4 or 8, got {self.samples}")
        if len(self.distractors) > MAX_DISTRACTORS:
            raise ValueError(f"at most {MAX_DISTRACTORS} distractors, got {len(self.distractors)}")


PLAIN = Look()
"""The fast look that logs, goals and controllers use: no shadows, reflections, sky, haze or target."""

DEFAULT_MUJOCO = Look(shadows=True, reflections=True, skybox=True, haze=True, target_visible=True)
"""What the simulator draws when nobody changes a setting, the task's own target included."""


@dataclass(frozen=True)
class LookRanges:
    """The ranges that `sample_look` draws from, each uniformly unless said."""

    shadow_rate: float = 0.15
    """Fraction of looks with shadows: in software a shadow map costs many times the frame itself."""
    shadow_map_size: int = 512
    light_tilt: tuple[float, float] = (0.0, 0.9)
    """Angle of the light from straight above [rad]; its azimuth is any."""
    light_level: tuple[float, float] = (0.25, 0.65)
    """Of the lamp; the headlight gives half as much, so that few colours saturate."""
    light_tint: float = 0.12
    """Half width of a channel's own factor on the light."""
    ambient_level: tuple[float, float] = (0.15, 0.4)
    own_colour_rate: float = 0.25
    """Fraction of looks in which a part keeps its own colour; each part decides alone."""
    colour: tuple[float, float] = (0.05, 0.95)
    contrast: float = 0.35
    """The least distance in RGB of agent, effector and walls from the floor and from the target."""
    own_floor_rate: float = 0.2
    floor_texture_repeat: tuple[float, float] = (0.5, 3.0)
    target_rate: float = 0.3
    target_radius: float = 0.25
    """The target lies anywhere in the square of this half width about the origin [m]."""
    target_tint: float = 0.05
    """Half width of each channel about `TARGET_RGB`, so that the target is never a second agent."""
    camera_shift: float = 0.03
    camera_tilt: float = 0.03
    camera_roll: float = 0.04
    camera_zoom: tuple[float, float] = (0.95, 1.05)
    gain: tuple[float, float] = (0.8, 1.2)
    white_balance: float = 0.08
    noise_std: tuple[float, float] = (0.0, 5.0)


@dataclass(frozen=True)
class ClutterRanges:
    """The ranges that `sample_clutter` draws from, each uniformly."""

    num_distractors: tuple[int, int] = (1, 4)
    distractor_size: tuple[float, float] = (0.06, 0.15)
    """Radius as a fraction of half the picture's height."""
    occluder_radius: tuple[float, float] = (0.02, 0.06)
    """[m]"""
    occluder_place: float = 0.2
    """The disc's middle is anywhere in the square of this half width about the origin [m]."""

    def __post_init__(self) -> None:
        """Refuse more than can be drawn."""
        low, high = self.num_distractors
        if not 0 <= low <= high <= MAX_DISTRACTORS:
            raise ValueError(f"num_distractors must be from 0 to {MAX_DISTRACTORS}, got {low}:{high}")


def sample_clutter(rng: np.random.Generator, ranges: ClutterRanges | None = None) -> Look:
    """Draw a plain look with distractors, coloured at random, and an occluder."""
    ranges = ranges or ClutterRanges()
    number = int(rng.integers(ranges.num_distractors[0], ranges.num_distractors[1] + 1))
    places = rng.uniform(-0.95, 0.95, (MAX_DISTRACTORS, 2))
    sizes = rng.uniform(*ranges.distractor_size, MAX_DISTRACTORS)
    colours = rng.uniform(0.05, 0.95, (MAX_DISTRACTORS, 3))
    balls = np.column_stack([places, sizes, colours])[:number].tolist()
    x, y = rng.uniform(-ranges.occluder_place, ranges.occluder_place, 2)
    radius = rng.uniform(*ranges.occluder_radius)
    return Look(
        distractors=tuple((a, b, c, d, e, f) for a, b, c, d, e, f in balls),
        occluder=(float(x), float(y), float(radius)),
    )


def sample_look(
    rng: np.random.Generator, ranges: LookRanges | None = None, samples: int = PLAIN.samples
) -> Look:
    """Draw a varied look: light, colours, floor, shadows, target, camera and sensor.

    Args:
        rng: the same state gives the same look.
        ranges: what may be drawn; `LookRanges()` when not given.
        samples: multisample antialiasing of the drawn look.
    """
    ranges = ranges or LookRanges()
    keeps_floor = rng.random() < ranges.own_floor_rate
    floor = _SUITE_FLOOR if keeps_floor else _rgb(rng.uniform(*ranges.colour, 3))
    tilt, azimuth = rng.uniform(*ranges.light_tilt), rng.uniform(-math.pi, math.pi)
    light = rng.uniform(*ranges.light_level) * rng.uniform(1 - ranges.light_tint, 1 + ranges.light_tint, 3)
    ambient = rng.uniform(*ranges.ambient_level)
    gain = rng.uniform(*ranges.gain) * rng.uniform(1 - ranges.white_balance, 1 + ranges.white_balance, 3)
    target = rng.uniform(-ranges.target_radius, ranges.target_radius, 2)
    target_rgb = np.asarray(TARGET_RGB) + rng.uniform(-ranges.target_tint, ranges.target_tint, 3)
    return Look(
        samples=samples,
        shadows=bool(rng.random() < ranges.shadow_rate),
        shadow_map_size=ranges.shadow_map_size,
        light_direction=(
            float(math.sin(tilt) * math.cos(azimuth)),
            float(math.sin(tilt) * math.sin(azimuth)),
            float(-math.cos(tilt)),
        ),
        light_rgb=_rgb(light),
        ambient_rgb=_rgb(np.full(3, ambient)),
        floor_rgb=None if keeps_floor else floor,
        floor_texture=None if keeps_floor else str(rng.choice(FLOOR_TEXTURES)),
        floor_texture_repeat=float(rng.uniform(*ranges.floor_texture_repeat)),
        agent_rgb=_part_colour(rng, ranges, floor),
        effector_rgb=_part_colour(rng, ranges, floor),
        wall_rgb=_part_colour(rng, ranges, floor),
        target_visible=bool(rng.random() < ranges.target_rate),
        target_position=(float(target[0]), float(target[1])),
        target_rgb=_rgb(target_rgb),
        camera_shift=_rgb(rng.uniform(-ranges.camera_shift, ranges.camera_shift, 3)),
        camera_tilt=(_symmetric(rng, ranges.camera_tilt), _symmetric(rng, ranges.camera_tilt)),
        camera_roll=_symmetric(rng, ranges.camera_roll),
        camera_zoom=float(rng.uniform(*ranges.camera_zoom)),
        gain=_rgb(gain),
        noise_std=float(rng.uniform(*ranges.noise_std)),
        noise_seed=int(rng.integers(2**31)),
    )


def sample_renderer_look(rng: np.random.Generator) -> Look:
    """Draw a look that another user's renderer settings could give: nothing of the scene is recoloured.

    Shadows (of several sharpnesses), reflections, sky, haze and antialiasing on or off, the light's level and
    tilt, the task's target visible at its own place or anywhere, slight sensor noise.
    """
    own_light = rng.random() < 0.5
    tilt, azimuth = rng.uniform(0.0, 0.5), rng.uniform(-math.pi, math.pi)
    own_place = rng.random() < 0.3
    target = rng.uniform(-0.25, 0.25, 2)
    return Look(
        samples=int(rng.choice((0, 4))),
        shadows=bool(rng.random() < 0.6),
        shadow_map_size=int(rng.choice((512, 1024, 2048), p=(0.5, 0.3, 0.2))),
        reflections=bool(rng.random() < 0.5),
        skybox=bool(rng.random() < 0.5),
        haze=bool(rng.random() < 0.5),
        light_direction=None
        if own_light
        else (
            float(math.sin(tilt) * math.cos(azimuth)),
            float(math.sin(tilt) * math.sin(azimuth)),
            float(-math.cos(tilt)),
        ),
        light_rgb=None if own_light else _rgb(np.full(3, rng.uniform(0.3, 0.9))),
        target_visible=bool(rng.random() < 0.7),
        target_position=None if own_place else (float(target[0]), float(target[1])),
        noise_std=float(rng.uniform(0.0, 3.0)) if rng.random() < 0.3 else 0.0,
        noise_seed=int(rng.integers(2**31)),
    )


def _rgb(values: np.ndarray) -> RGB:
    return float(values[0]), float(values[1]), float(values[2])


def _symmetric(rng: np.random.Generator, half_width: float) -> float:
    return float(rng.uniform(-half_width, half_width))


def _part_colour(rng: np.random.Generator, ranges: LookRanges, floor: RGB) -> RGB | None:
    """A colour that stands out from floor and target, or None for the part's own."""
    if rng.random() < ranges.own_colour_rate and math.dist(floor, _SUITE_AGENT) >= ranges.contrast:
        return None
    for _ in range(_MAX_COLOURS):
        colour = _rgb(rng.uniform(*ranges.colour, 3))
        if min(math.dist(colour, floor), math.dist(colour, TARGET_RGB)) >= ranges.contrast:
            return colour
    return None  # the range of colours is too narrow for the contrast
