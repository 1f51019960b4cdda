"""Making datasets of datasets: into another format, several into one, one into several."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_plan.suggestion import did_you_mean

from .joining import JoinedSources

if TYPE_CHECKING:
    from wm_plan.world_model.formats import Source
    from wm_plan.world_model.formats.protocol import Progress

WRITABLE = ("native", "lerobot", "minari")
_SPAN = re.compile(r"(\d*):(\d*)|(\d+)")
_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def no_progress(done: int, total: int) -> None:
    """Tell nobody."""


def convert(
    source: Source,
    dst: Path,
    to: str,
    columns: Mapping[str, str] | None = None,
    *,
    episodes: Sequence[int] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Write a dataset in another format (`WRITABLE`), or some of its episodes; see `write_native` and others.

    Nothing but `dst` and a hidden folder beside it is written; `dst` appears when all is there.

    Args:
        source: what to write.
        dst: the folder to make.
        to: the format.
        columns: role to the source's name; sensible ones when None. Every further column goes along.
        episodes: which; all when None.
        resume: go on with an unfinished conversion; one that is finished is left as it is.
        overwrite: replace a dataset at `dst`.
        options: of the writer.
        progress: told how many episodes are done.

    Raises:
        ValueError: an unknown format, a column that is not there, `dst` is taken, or a file is damaged.
    """
    from wm_plan.world_model import formats

    if to not in WRITABLE:
        raise ValueError(
            f"cannot write {to!r}.{did_you_mean(to, WRITABLE)} What can be written: {', '.join(WRITABLE)}."
        )
    for inside, outside in ((Path(source.path), dst), (dst, Path(source.path))):
        if outside.resolve() in (inside.resolve(), *inside.resolve().parents):
            raise ValueError(
                f"{dst} and what is read, {source.path}, lie in one another; name another folder"
            )
    if resume and _is_done(source, dst, to, episodes):
        return dst
    write: Callable[..., Path] = getattr(formats, f"write_{to}")
    return write(
        source,
        dst,
        columns,
        episodes=episodes,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        **(options or {}),
    )


def _is_done(source: Source, dst: Path, to: str, episodes: Sequence[int] | None) -> bool:
    """Whether a dataset of that format with these very episode lengths is at `dst` already."""
    from wm_plan.world_model.formats import open_source
    from wm_plan.world_model.formats.destination import partial_path

    if not dst.is_dir() or partial_path(dst).exists():
        return False
    try:
        there = open_source(dst)
    except ValueError:
        return False
    wanted = np.asarray(source.lengths)[slice(None) if episodes is None else np.asarray(episodes)]
    there.close()
    return there.format == to and np.array_equal(there.lengths, wanted)


def join(sources: Sequence[Source], columns: Mapping[str, str] | None = None) -> JoinedSources:
    """Several datasets as one, columns matched by what they are taken for.

    Args:
        sources: one after another.
        columns: role to the name that every source has for it; each source's sensible ones when None.

    Raises:
        ValueError: as `JoinedSources`, or a column is not there.
    """
    from wm_plan.world_model.formats.roles import stored_names

    names = [{stored: own for own, stored in stored_names(s, columns).items()} for s in sources]
    return JoinedSources(sources, names)


def parse_columns(text: str | None) -> dict[str, str] | None:
    """Read `pixels=observation.images.front,action=action`; None when nothing is given.

    Raises:
        ValueError: a part is no `role=column`, or a role is given twice.
    """
    if text is None:
        return None
    columns: dict[str, str] = {}
    for part in text.split(","):
        role, equals, name = (piece.strip() for piece in part.partition("="))
        if not (role and equals and name):
            raise ValueError(
                f"--columns {part!r} is no role=column; "
                "write it like pixels=observation.images.front,action=action"
            )
        if role in columns:
            raise ValueError(f"--columns names {role!r} twice")
        columns[role] = name
    return columns


def parse_episodes(text: str, num_episodes: int) -> list[int]:
    """Read `0:100,150,200:` (Python's spans, the end not included).

    Raises:
        ValueError: it is no such list, or names an episode that is not there or no episode at all.
    """
    chosen: list[int] = []
    for part in text.split(","):
        match = _SPAN.fullmatch(part.strip())
        if not match:
            raise ValueError(f"--episodes {part!r} is no number and no span; write it like 0:100,150,200:")
        if match[3]:
            first, end = int(match[3]), int(match[3]) + 1
        else:
            first, end = int(match[1] or 0), int(match[2]) if match[2] else num_episodes
        if first >= num_episodes or end > num_episodes or end <= first:
            raise ValueError(f"--episodes {part!r}: there are episodes 0 to {num_episodes - 1}")
        chosen += range(first, end)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"--episodes {text!r} names an episode twice")
    return chosen


def parse_fractions(text: str) -> dict[str, float]:
    """Read `train=0.9,test=0.1`, or `0.9,0.1`, whose parts are train and test (of three: train, val, test).

    Raises:
        ValueError: it is no such list, a name is no folder's or there twice, or the sum is above 1.
    """
    parts = [part.strip() for part in text.split(",")]
    usual = {2: ("train", "test"), 3: ("train", "val", "test")}.get(len(parts), ())
    fractions: dict[str, float] = {}
    for index, part in enumerate(parts):
        name, equals, number = part.rpartition("=")
        if not equals:
            name = usual[index] if usual else f"part-{index}"
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not _PART_NAME.fullmatch(name) or name in fractions or not 0 < value <= 1:
            raise ValueError(f"--fractions {part!r} is no share; write them like train=0.9,test=0.1")
        fractions[name] = value
    if sum(fractions.values()) > 1 + 1e-9:
        raise ValueError(f"--fractions {text!r} are together {sum(fractions.values()):g}, more than 1")
    return fractions


def draw_parts(num_episodes: int, fractions: Mapping[str, float], seed: int = 0) -> dict[str, list[int]]:
    """Episodes of each part, in order; drawn at random, the same for the same seed.

    Raises:
        ValueError: a part would be empty.
    """
    order = np.random.default_rng([seed, num_episodes]).permutation(num_episodes)
    edges = np.round(np.cumsum([0.0, *fractions.values()]) * num_episodes).astype(int)
    parts = {}
    for name, start, end in zip(fractions, edges[:-1], edges[1:], strict=True):
        if end <= start:
            raise ValueError(f"{num_episodes} episodes are too few: no episode would be in {name!r}")
        parts[name] = sorted(order[start:end].tolist())
    return parts
