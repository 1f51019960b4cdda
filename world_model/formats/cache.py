"""Training from any format: what is no native store is converted once, and kept in the user's cache."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..store import TrajectoryStore
from .fingerprint import source_fingerprint
from .native_writer import write_native
from .opening import open_source, recognise
from .protocol import Progress, no_progress
from .roles import default_columns

_VERSION = "1"


def as_store(
    paths: str | Path | Iterable[str | Path],
    cache_dir: str | Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    told: Callable[[str], None] = lambda line: None,
    progress: Progress = no_progress,
) -> TrajectoryStore:
    """Open logged trajectories of any format as a `TrajectoryStore`.

    Native stores, and HDF5 files in stable-worldmodel's schema, are read where they are, unless `columns`
    renames some. Anything else is converted into `<cache>/converted/<fingerprint>` the first time, goes on
    there after a kill, and is found there the next time; when a source's files change, it is converted anew.

    Args:
        paths: one or several datasets, of any formats.
        cache_dir: `$WM_PLAN_CACHE`, else `wm-plan` in the user's cache, when None.
        columns: role to the source's own name, such as `{"pixels": "observation.images.wrist"}`; the roles
            that are not named are as `default_columns` has them.
        told: gets a line before each conversion: which columns are taken for what, and where it goes.
        progress: told (episodes done, episodes in all) of the conversion at hand.

    Raises:
        ValueError: nothing is there, its format is not known or needs a missing package, a column is not
            there, or a file is damaged.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    folder = default_conversions() if cache_dir is None else Path(cache_dir) / "converted"
    return TrajectoryStore([_native(path, folder, columns, told, progress) for path in given])


def default_conversions() -> Path:
    """`$WM_PLAN_CACHE/converted`, else `wm-plan/converted` in the user's cache."""
    if chosen := os.environ.get("WM_PLAN_CACHE"):
        return Path(chosen) / "converted"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wm-plan" / "converted"


def _native(
    path: Path,
    folder: Path,
    columns: Mapping[str, str] | None,
    told: Callable[[str], None],
    progress: Progress,
) -> Path:
    """The path of a native store with what is at `path`."""
    renamed = any(role != name for role, name in (columns or {}).items())
    if not renamed and path.exists() and recognise(path) in ("native", "stable-worldmodel"):
        return path
    source = open_source(path)
    try:
        chosen = dict(columns or {})
        roles = {r: n for r, n in default_columns(source).items() if n not in chosen.values()} | chosen
        named = [source_fingerprint(path), _VERSION, *(f"{k}={v}" for k, v in sorted(roles.items()))]
        dst = folder / hashlib.sha256("\n".join(named).encode()).hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{dst.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits, and finds it done
            if not dst.exists():
                taken = ", ".join(f"{role}={name}" for role, name in roles.items())
                told(f"converting {path} ({source.format}: {taken}) once, into {dst}")
                write_native(source, dst, roles, resume=True, progress=progress)
        return dst
    finally:
        source.close()
