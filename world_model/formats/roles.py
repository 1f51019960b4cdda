"""Which column is which: the camera to plan from, the action, the robot's own state."""

import re
from collections.abc import Mapping

from .protocol import Column, Source

_FIRST_CAMERAS = ("pixels", "image", "front", "main", "top", "agentview", "high", "base", "third", "exterior")
_PROPRIO = (
    "proprio",
    "observation.state",
    "proprioception",
    "obs/robot0_joint_pos",
    "obs/robot0_eef_pos",
    "observations/proprio",
    "observations",
    "observation",
    "obs",
    "state",
    "agent_pos",
    "qpos",
)
_ACTION = ("action", "actions", "ctrl", "control")
_CAMERA_AFFIXES = re.compile(r"^(pixels|images?|rgb|cam|camera)[_.-]|[_.-](images?|rgb|pixels|camera)$")
_ROLE = re.compile(r"pixels([_.-].*)?|action|proprio")
_PLAIN = re.compile(r"[^A-Za-z0-9_.\-]+")


def default_columns(source: Source) -> dict[str, str]:
    """Sensible roles of a source's columns: role to the source's own name.

    "pixels" is the first camera, "pixels_<camera>" each further one, "action" and "proprio" what is named so
    (or as in the formats that are known). A role that nothing fits is left out. What the source says itself
    (`info["roles"]`, written by our own writers) goes first.
    """
    said = source.info.get("roles")
    if isinstance(said, Mapping) and said and all(name in source.columns for name in said.values()):
        return dict(said)
    if source.format in ("native", "stable-worldmodel"):  # their names are the roles
        return {name: name for name in source.columns if _ROLE.fullmatch(name)}
    images = [name for name, column in source.columns.items() if column.kind == "image"]
    roles: dict[str, str] = {}
    if images:
        first = min(images, key=_camera_rank)
        roles["pixels"] = first
        for name in images:
            if name != first:
                roles[_free(f"pixels_{camera_name(name)}", roles)] = name
    numbers = {name: c for name, c in source.columns.items() if c.kind in ("vector", "scalar")}
    if action := _named(numbers, _ACTION):
        roles["action"] = action
    if proprio := _named({n: c for n, c in numbers.items() if n != action}, _PROPRIO):
        roles["proprio"] = proprio
    return roles


def stored_names(source: Source, columns: Mapping[str, str] | None) -> dict[str, str]:
    """The name under which each of the source's columns is stored: given roles, the others' own made safe.

    Args:
        source: where the columns are.
        columns: role to the source's name; `default_columns` when None.

    Returns:
        The source's name to the stored one, in the source's order.

    Raises:
        ValueError: `columns` names one that the source lacks, names one twice, or a role is no plain word.
    """
    columns = default_columns(source) if columns is None else columns
    roles: dict[str, str] = {}
    for role, name in columns.items():
        if name not in source.columns:
            raise ValueError(
                f"no column {name!r} in {source.path} for {role!r}; it has {', '.join(source.columns)}"
            )
        if name in roles:
            raise ValueError(f"column {name!r} is given twice, as {roles[name]!r} and as {role!r}")
        if safe_name(role) != role:
            raise ValueError(f"{role!r} is no name for a column; use letters, digits, and _ . -")
        roles[name] = role
    taken = dict.fromkeys(roles.values(), "")
    names = {}
    for name in source.columns:
        names[name] = roles.get(name) or _free(safe_name(name), taken)
        taken[names[name]] = name
    return names


def safe_name(name: str) -> str:
    """`name` in the characters that a stored column's name may have."""
    plain = _PLAIN.sub("_", name)
    if not re.match(r"[A-Za-z_]", plain):
        plain = f"_{plain}"
    return f"{plain}_" if plain in ("ep_len", "ep_offset") else plain


def camera_name(name: str) -> str:
    """What a camera is called, from its column's name: "wrist" of "observation.images.wrist"."""
    last = re.split(r"[/.]", name)[-1]
    return safe_name(_CAMERA_AFFIXES.sub("", last) or last)


def _camera_rank(name: str) -> tuple[int, str]:
    """Low for what is called as a robot's main camera is."""
    if name == "pixels":
        return (-1, name)
    last = re.split(r"[/.]", name)[-1].lower()
    ranks = [rank for rank, word in enumerate(_FIRST_CAMERAS) if word in last]
    held = any(word in last for word in ("wrist", "hand", "gripper"))
    return ((min(ranks) if ranks else len(_FIRST_CAMERAS)) + 100 * held, "")


def _named(columns: Mapping[str, Column], names: tuple[str, ...]) -> str | None:
    for wanted in names:
        for name in columns:
            if name == wanted or re.split(r"[/.]", name)[-1] == wanted:
                return name
    return None


def _free(name: str, taken: Mapping[str, str]) -> str:
    """`name`, numbered if it is taken."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
