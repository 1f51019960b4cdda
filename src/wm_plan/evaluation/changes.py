"""What the robust protocol changes: one thing at a time, by a stated amount, in the same trials.

What is drawn at random (where the light comes from, which colours) depends on the trial alone, so every
policy meets the same. The scene and the picture of the goal show the same change, as if both were taken by
the camera that is there, save `goal_look`, which changes the picture of the goal alone. Looks are of
`wm_plan.envs.looks`, drawn as `wm_plan.envs.factors` does; physics of `wm_plan.envs.physics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_plan.envs import DEFAULT_MUJOCO, Look, LookRanges
from wm_plan.envs.factors import FactorRanges
from wm_plan.envs.looks import FLOOR_TEXTURES, ClutterRanges
from wm_plan.envs.physics import Physics
from wm_plan.suggestion import did_you_mean

LookFields = Mapping[str, Any]
CAMERA_SHIFT, CAMERA_TILT, CAMERA_ROLL = 0.05, 0.04, 0.06


@dataclass(frozen=True)
class Change:
    """One thing that differs from the plain run."""

    name: str
    amount: str
    """In words, with units: what a reader of the row must know."""
    look: Callable[[np.random.Generator], LookFields] | None = None
    """Fields of the look that frames and goals are drawn in."""
    occluder: float = 0.0
    """Width of a dark disc on the lens, as a fraction of the picture's; in front of its middle half."""
    goal_look: Look | None = None
    """How the goal alone is drawn."""
    goal_size: int | None = None
    """[px]"""
    physics: Physics | None = None
    action_noise: float = 0.0
    """Std of what is added to every env step's action, relative to the half range of the actions."""
    dropped: float = 0.0
    """How many looks find no new frame, and see the one before again."""
    delay: float = 0.0
    """Age of what is seen [s]."""

    @property
    def changes_pictures(self) -> bool:
        """Whether anything looks different."""
        return self.look is not None or self.goal_look is not None or bool(self.occluder)


def _drawn(
    *names: str, look: LookRanges | None = None, clutter: ClutterRanges | None = None
) -> Callable[[np.random.Generator], LookFields]:
    ranges = FactorRanges(names, look or LookRanges(), clutter or ClutterRanges())
    return lambda rng: ranges.sample(rng).look


def _background(rng: np.random.Generator) -> LookFields:
    return {"floor_texture": str(rng.choice(FLOOR_TEXTURES[1:])), "floor_texture_repeat": 4.0}


def _moved_camera(rng: np.random.Generator) -> LookFields:
    direction = rng.standard_normal(3)
    shift = CAMERA_SHIFT * direction / np.linalg.norm(direction)
    tilt = CAMERA_TILT * rng.choice((-1, 1), 2)
    return {
        "camera_shift": tuple(shift.tolist()),
        "camera_tilt": tuple(tilt.tolist()),
        "camera_roll": float(CAMERA_ROLL * rng.choice((-1, 1))),
    }


_ALL = (
    Change(
        "light",
        "lamp .6 rad off the vertical, from any side, at level .35, headlight's ambient .25",
        look=_drawn(
            "light_tilt",
            "light_level",
            "ambient_level",
            look=LookRanges(
                light_tilt=(0.6, 0.6), light_level=(0.35, 0.35), light_tint=0.0, ambient_level=(0.25, 0.25)
            ),
        ),
    ),
    Change(
        "colour",
        "robot, walls and floor in random colours, .35 or more apart in RGB",
        look=_drawn("colour", look=LookRanges(own_colour_rate=0.0, own_floor_rate=0.0)),
    ),
    Change(
        "background",
        "a pattern on the floor (checker, stripes, clouds or grain), 4 x 4 times",
        look=_background,
    ),
    Change(
        "camera",
        "camera shifted by 5 % of its distance, turned by .04 rad about both axes, rolled by .06 rad",
        look=_moved_camera,
    ),
    Change(
        "occluder",
        "a dark disc on the lens, 20 % of the picture wide, anywhere over its middle half",
        occluder=0.2,
    ),
    Change(
        "distractors",
        "3 coloured balls on the floor, 10 % of the picture wide",
        look=_drawn(
            "num_distractors",
            "distractor_size",
            clutter=ClutterRanges(num_distractors=(3, 3), distractor_size=(0.1, 0.1)),
        ),
    ),
    Change(
        "goal_look",
        "goal picture of 480 px with shadows, reflections, sky, haze and the task's own target",
        goal_look=DEFAULT_MUJOCO,
        goal_size=480,
    ),
    Change("action_noise", "normal, std 20 % of the half range, at every env step", action_noise=0.2),
    Change("dropped", "3 of 10 looks find no new frame", dropped=0.3),
    Change("delayed", "what is seen is .1 s old", delay=0.1),
    Change("mass", "moving bodies' mass and inertia x 2", physics=Physics(mass=2.0)),
    Change(
        "friction",
        "of contacts and joints, dry and viscous, x 2",
        physics=Physics(friction=2.0, damping=2.0),
    ),
)
CHANGES: dict[str, Change] = {change.name: change for change in _ALL}
"""Every change, by name."""


def find_changes(names: Sequence[str]) -> list[Change]:
    """Give the changes of these names; all of them where there is no name.

    Raises:
        ValueError: there is none of that name.
    """
    for name in names:
        if name not in CHANGES:
            known = ", ".join(CHANGES)
            raise ValueError(f"unknown change {name!r}.{did_you_mean(name, CHANGES)} Known changes: {known}.")
    return [CHANGES[name] for name in names] or list(CHANGES.values())
