"""Factors of variation: what may differ from episode to episode, in which ranges, and what one episode drew.

`light,camera,mass=.5:2` names groups, single ranges, and ranges with their ends. A group is the names behind
it in `GROUPS`; a name is a field of `LookRanges`, `ClutterRanges` or `PhysicsRanges`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Shaped

from .looks import (
    FLOOR_TEXTURES,
    MAX_DISTRACTORS,
    PLAIN,
    ClutterRanges,
    Look,
    LookRanges,
    sample_clutter,
    sample_look,
)
from .physics import Physics, PhysicsRanges, sample_physics

_PHYSICS = tuple(entry.name for entry in fields(Physics))
_CLUTTER = tuple(entry.name for entry in fields(ClutterRanges))
_LOOK_FIELDS = {
    "light_tilt": ("light_direction",),
    "light_level": ("light_rgb",),
    "ambient_level": ("ambient_rgb",),
    "shadow_rate": ("shadows", "shadow_map_size"),
    "colour": ("floor_rgb", "agent_rgb", "effector_rgb", "wall_rgb"),
    "floor_texture_repeat": ("floor_texture", "floor_texture_repeat"),
    "target_rate": ("target_visible", "target_position", "target_rgb"),
    "camera_shift": ("camera_shift",),
    "camera_tilt": ("camera_tilt",),
    "camera_roll": ("camera_roll",),
    "camera_zoom": ("camera_zoom",),
    "gain": ("gain",),
    "noise_std": ("noise_std", "noise_seed"),
    "num_distractors": ("distractors",),
    "distractor_size": ("distractors",),
    "occluder_radius": ("occluder",),
    "occluder_place": ("occluder",),
}
"""Which fields of a look a range is drawn into."""

GROUPS = {
    "light": ("light_tilt", "light_level", "ambient_level"),
    "shadow": ("shadow_rate",),
    "colour": ("colour",),
    "texture": ("floor_texture_repeat",),
    "target": ("target_rate",),
    "camera": ("camera_shift", "camera_tilt", "camera_roll", "camera_zoom"),
    "sensor": ("gain", "noise_std"),
    "distractors": ("num_distractors",),
    "occluder": ("occluder_radius",),
    "physics": ("mass", "friction", "damping", "strength"),
}
"""What each group of factors draws."""

FACTOR_NAMES = tuple(dict.fromkeys([*GROUPS, *_LOOK_FIELDS, *_PHYSICS]))
"""Everything that `parse_factors` knows."""


@dataclass(frozen=True)
class Factors:
    """What one episode drew.

    Attributes:
        look: the fields of a look that were drawn, by name.
        physics: factors on the model; those that were not drawn are 1.
        physics_names: those that were.
    """

    look: Mapping[str, Any] = field(default_factory=dict)
    physics: Physics = field(default_factory=Physics)
    physics_names: tuple[str, ...] = ()

    def look_of(self, base: Look) -> Look:
        """The look `base` with what was drawn."""
        return replace(base, **self.look)

    def columns(self, num_rows: int) -> dict[str, Shaped[np.ndarray, "row ..."]]:
        """What was drawn as columns `factor_NAME` of a store, the same in each of `num_rows` rows.

        Numbers are float64; colours that a look leaves to the model and distractors that are not there are
        NaN, a floor texture is its place in `FLOOR_TEXTURES`, -1 for none.
        """
        values: dict[str, Any] = {name: _as_numbers(name, value) for name, value in self.look.items()}
        values |= {name: getattr(self.physics, name) for name in self.physics_names}
        return {
            f"factor_{name}": np.repeat(np.asarray(value, np.float64)[None], num_rows, axis=0)
            for name, value in values.items()
        }

    @classmethod
    def from_columns(cls, row: Mapping[str, Shaped[np.ndarray, "..."]]) -> Factors:
        """What a row's columns `factor_NAME` say: the inverse of `columns`."""
        given = {
            name.removeprefix("factor_"): np.asarray(value)
            for name, value in row.items()
            if name.startswith("factor_")
        }
        names = tuple(name for name in _PHYSICS if name in given)
        look_fields = {entry.name for entry in fields(Look)}
        look = {name: _from_numbers(name, value) for name, value in given.items() if name in look_fields}
        return cls(look, Physics(**{name: float(given[name]) for name in names}), names)


@dataclass(frozen=True)
class FactorRanges:
    """Which factors are drawn for each episode, and from which ranges.

    Attributes:
        names: of the ranges that are drawn from.
    """

    names: tuple[str, ...] = ()
    look: LookRanges = field(default_factory=LookRanges)
    clutter: ClutterRanges = field(default_factory=ClutterRanges)
    physics: PhysicsRanges = field(default_factory=PhysicsRanges)

    @property
    def physics_names(self) -> tuple[str, ...]:
        """The physics factors among `names`."""
        return tuple(name for name in _PHYSICS if name in self.names)

    def sample(self, rng: np.random.Generator) -> Factors:
        """Draw one episode's factors. What a factor is does not depend on which others are drawn."""
        look_rng, clutter_rng, physics_rng = rng.spawn(3)
        look = sample_look(look_rng, self.look)
        clutter = sample_clutter(clutter_rng, self.clutter)
        chosen = dict.fromkeys(entry for name in self.names for entry in _LOOK_FIELDS.get(name, ()))
        drawn = {
            name: getattr(clutter if name in ("distractors", "occluder") else look, name) for name in chosen
        }
        names = self.physics_names
        return Factors(drawn, sample_physics(physics_rng, names, self.physics), names)

    def as_json(self) -> dict[str, Any]:
        """The names, and all ranges that could matter to them."""
        ranges: dict[str, Any] = {"names": list(self.names)}
        if any(name in _LOOK_FIELDS and name not in _CLUTTER for name in self.names):
            ranges["look"] = asdict(self.look)
        if any(name in _CLUTTER for name in self.names):
            ranges["clutter"] = asdict(self.clutter)
        if self.physics_names:
            ranges["physics"] = asdict(self.physics)
        return ranges

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FactorRanges:
        """The inverse of `as_json`."""
        kinds: dict[str, Any] = {"look": LookRanges, "clutter": ClutterRanges, "physics": PhysicsRanges}
        ranges = {kind: make(**_tuples(data[kind])) for kind, make in kinds.items() if kind in data}
        return cls(names=tuple(data["names"]), **ranges)


def parse_factors(text: str) -> FactorRanges:
    """Read `light,camera,mass=.5:2`: groups, names, and names with the ends of their range.

    Raises:
        ValueError: an unknown name, or a range that is none.
    """
    ranges: dict[str, dict[str, Any]] = {"look": {}, "clutter": {}, "physics": {}}
    names: dict[str, None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, given, value = part.partition("=")
        if name not in FACTOR_NAMES:
            near = difflib.get_close_matches(name, FACTOR_NAMES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown factor {name!r}.{hint} Known factors: {', '.join(FACTOR_NAMES)}")
        if not given:
            names |= dict.fromkeys(GROUPS.get(name, (name,)))
            continue
        if name in GROUPS and GROUPS[name] != (name,):
            raise ValueError(
                f"{name} is a group of factors and has no range of its own; "
                f"give ranges to {', '.join(GROUPS[name])}"
            )
        names[name] = None
        kind, default = _range_of(name)
        ranges[kind][name] = _parse_range(name, value, default)
    if not names:
        raise ValueError(f"no factors in {text!r}. Known factors: {', '.join(FACTOR_NAMES)}")
    return FactorRanges(
        tuple(names),
        LookRanges(**ranges["look"]),
        ClutterRanges(**ranges["clutter"]),
        PhysicsRanges(**ranges["physics"]),
    )


def _range_of(name: str) -> tuple[str, Any]:
    """Which ranges a name is a field of, and what it is by default."""
    if name in _PHYSICS:
        return "physics", getattr(PhysicsRanges(), name)
    if name in _CLUTTER:
        return "clutter", getattr(ClutterRanges(), name)
    return "look", getattr(LookRanges(), name)


def _parse_range(name: str, text: str, default: Any) -> Any:  # noqa: ANN401 - factors differ in type
    """Two ends, or one number where the range is a half width, a rate, or always the same."""
    ends = text.split(":")
    pair = isinstance(default, tuple)
    kind = int if pair and isinstance(default[0], int) else float
    try:
        values = tuple(kind(end) for end in ends)
    except ValueError:
        values = ()
    if not values or len(values) > (2 if pair else 1) or not np.isfinite(values).all():
        wanted = (
            f"LOW:HIGH, such as {default[0]:g}:{default[1]:g}" if pair else f"a number, such as {default:g}"
        )
        raise ValueError(f"the range of {name} is {wanted}; got {text!r}")
    if values[-1] < values[0] or (values[0] < 0 and name != "light_tilt"):
        raise ValueError(f"the range of {name} must rise and not be negative; got {text!r}")
    return (values[0], values[-1]) if pair else values[0]


def _as_numbers(name: str, value: Any) -> Any:  # noqa: ANN401 - factors differ in type
    if name == "floor_texture":
        return -1 if value is None else FLOOR_TEXTURES.index(value)
    if name == "distractors":
        rows = np.full((MAX_DISTRACTORS, 6), np.nan)
        rows[: len(value)] = np.reshape(value, (-1, 6))
        return rows
    if value is None:
        return np.full(2 if name == "target_position" else 3, np.nan)
    return value


def _from_numbers(name: str, value: np.ndarray) -> Any:  # noqa: ANN401 - factors differ in type
    if name == "floor_texture":
        return None if value < 0 else FLOOR_TEXTURES[int(value)]
    if name == "distractors":
        return tuple(tuple(row) for row in value[~np.isnan(value[:, 0])].tolist())
    if value.ndim:
        return None if np.isnan(value).all() else tuple(value.tolist())
    default = getattr(PLAIN, name)
    return type(default)(value)


def _tuples(ranges: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in ranges.items()}
