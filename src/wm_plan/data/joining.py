"""Several sources read as one: all their episodes, in the columns that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    from wm_plan.world_model.formats import Column, Source

_SAME = ("env", "frame_skip", "control_timestep")


class JoinedSources:
    """All episodes of several sources of one robot, one source after another; a `Source` itself.

    What it says of itself (`info`) is what all of them say alike; the bounds of actions are the widest.

    Args:
        sources: what to join.
        names: for each source, the joined columns' names and its own ones; its own are kept when None.

    Raises:
        ValueError: the sources share no column, or a column, the frame rate or what they say of their task
            differs.
    """

    def __init__(self, sources: Sequence[Source], names: Sequence[Mapping[str, str]] | None = None) -> None:
        """Compare the sources."""
        if not sources:
            raise ValueError("no source was given")
        self._sources = list(sources)
        self._names = [dict(n) for n in names] if names else [{c: c for c in s.columns} for s in sources]
        first = sources[0]
        for source in sources[1:]:
            _check_same(first, source)
        shared = [name for name in self._names[0] if all(name in n for n in self._names)]
        self.columns: Mapping[str, Column] = {name: self._column(name) for name in shared}
        if not self.columns:
            raise ValueError(
                f"the sources share no column; {first.path} has {', '.join(self._names[0])} and "
                f"{sources[-1].path} has {', '.join(self._names[-1])}"
            )
        self.left_out = sorted({name for n in self._names for name in n} - set(shared))
        self.path, self.format, self.fps = Path(first.path), first.format, first.fps
        self.lengths: Int[np.ndarray, " episode"] = np.concatenate([np.asarray(s.lengths) for s in sources])
        self._ends = np.cumsum([len(source.lengths) for source in sources])
        self.info: Mapping[str, Any] = _common([source.info for source in sources])

    def read(
        self, episode: int, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        """Rows `start` to `stop` of one episode of all."""
        if not 0 <= episode < len(self.lengths):
            raise ValueError(f"no episode {episode}; there are 0 to {len(self.lengths) - 1}")
        index = int(np.searchsorted(self._ends, episode, side="right"))
        source, names = self._sources[index], self._names[index]
        local = int(episode - (self._ends[index] - len(source.lengths)))
        values = source.read(local, [names[name] for name in columns], start, stop)
        return {name: values[names[name]] for name in columns}

    def close(self) -> None:
        """Close every source."""
        for source in self._sources:
            source.close()

    def _column(self, name: str) -> Column:
        """A column that every source has; it must be the same one."""
        columns = [s.columns[n[name]] for s, n in zip(self._sources, self._names, strict=True)]
        first = columns[0]
        for source, other in zip(self._sources, columns, strict=True):
            if (other.dtype, other.shape, other.kind) != (first.dtype, first.shape, first.kind):
                raise ValueError(
                    f"column {name!r} is {first.dtype} {first.shape} in {self._sources[0].path} and "
                    f"{other.dtype} {other.shape} in {source.path}; give sources of one robot and image size"
                )
        return first


def _check_same(first: Source, other: Source) -> None:
    """Refuse what is no data of one robot at one rate."""
    if first.fps is not None and other.fps is not None and abs(first.fps - other.fps) > 1e-6 * first.fps:
        raise ValueError(
            f"{first.path} has {first.fps:g} rows a second and {other.path} {other.fps:g}; "
            "give sources of one rate"
        )
    ours, theirs = _recipe(first.info), _recipe(other.info)
    for key in _SAME:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            raise ValueError(
                f"{key} is {ours[key]!r} in {first.path} and {theirs[key]!r} in {other.path}; "
                "give sources that agree"
            )


def _recipe(info: Mapping[str, Any]) -> Mapping[str, Any]:
    recipe = info.get("recipe")
    return recipe if isinstance(recipe, Mapping) else {}


def _common(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all say alike, recipes entry by entry; of bounds the widest."""
    first = infos[0]
    common = {key: value for key, value in first.items() if all(other.get(key) == value for other in infos)}
    common.pop("roles", None)
    recipes = [_recipe(info) for info in infos]
    if all(recipes):
        shared = {k: v for k, v in recipes[0].items() if all(r.get(k) == v for r in recipes)}
        for key, widest in (("action_low", np.min), ("action_high", np.max)):
            values: list[Any] = [recipe.get(key) for recipe in recipes]
            if None not in values and len({np.shape(value) for value in values}) == 1:
                shared[key] = widest(np.array(values), axis=0).tolist()
        common["recipe"] = shared
    return common
