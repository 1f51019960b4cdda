"""Writing a trajectory store: finished episodes are staged one by one, and packed into shards.

`manifest.json` is there from the start. An episode becomes one small file in `staging/`, atomically; when
all episodes of a shard are staged they are packed into a file such as `shard-00000250.h5` (named after its
first episode) and the manifest names it. A process that is killed at any moment loses the episode at hand and
nothing else, and a resumed run ends with the same files as one that was never stopped: which shard holds an
episode depends on its index alone. Several machines may stage into one folder: see `store_share`.
"""

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .manifest import MANIFEST_NAME, Manifest, Shard
from .shards import (
    Columns,
    ColumnSpec,
    ShardReader,
    pack_shards,
    sha256_of,
    write_shard,
    write_shard_blocks,
)

STAGING = "staging"
_STAGED_NAME = re.compile(r"episode-(\d{8})\.h5")
_SHARD_NAME = re.compile(r"shard-\d{8}\.h5")
_UNFINISHED_NAME = re.compile(r"\.(manifest\.json|shard-\d{8}\.h5|episode-\d{8}\.h5)\.[0-9a-f]{8}")


def stage_episode(root: str | Path, index: int, columns: Columns) -> None:
    """Store finished episode `index` of the store at `root`, from any process. Atomic.

    Raises:
        ValueError: the columns do not make an episode (`shards.column_specs`).
    """
    write_shard(Path(root) / STAGING / f"episode-{index:08d}.h5", columns)


def staged_episodes(root: str | Path) -> dict[int, Path]:
    """The episodes that are finished and not yet in a shard, by index."""
    folder = Path(root) / STAGING
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return {int(match[1]): folder / match[0] for name in names if (match := _STAGED_NAME.fullmatch(name))}


class StoreBusyError(ValueError):
    """Another process is writing the store."""


class StoreWriter:
    """Makes the store at `root`, or goes on with it. One writer at a time; workers call `stage_episode`.

        with StoreWriter(root, recipe, num_episodes=600) as writer:
            for index in writer.missing():
                writer.write(index, {"pixels": ..., "action": ...})

    Leaving the block packs what is there if all episodes are, and keeps it staged otherwise.

    Args:
        root: the store's folder; made if it does not exist.
        recipe: everything that decides the values in the data, as JSON.
        num_episodes: how many are wanted; None for as many as come (`finish` then says when that is).
        resume: go on with what is at `root`; its recipe must equal this one. `num_episodes` may be raised.
        overwrite: delete the store that is at `root` first; other files in the folder are left alone.
        versions: of the libraries that made the data.

    Raises:
        ValueError: `root` exists and neither `resume` nor `overwrite` allows it, is no store, has another
            recipe, or is being written by another process.
    """

    def __init__(
        self,
        root: str | Path,
        recipe: Mapping[str, Any],
        num_episodes: int | None = None,
        *,
        episodes_per_shard: int = 250,
        resume: bool = False,
        overwrite: bool = False,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self.root = Path(root)
        plain = json.loads(json.dumps(recipe))
        manifest = Manifest(plain, num_episodes, episodes_per_shard, versions=dict(versions or {}))
        self.check(root, plain, num_episodes, resume=resume, overwrite=overwrite)
        going_on = resume and (self.root / MANIFEST_NAME).exists()
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.root, alone=True)
        if going_on:
            manifest = Manifest.load(self.root)
            if num_episodes != manifest.num_episodes:
                manifest.num_episodes, manifest.complete = num_episodes, False
        else:
            self._delete_store()
        _delete(self.root, _UNFINISHED_NAME)
        _delete(self.root / STAGING, _UNFINISHED_NAME)
        self.manifest = manifest
        if not manifest.complete:
            (self.root / STAGING).mkdir(exist_ok=True)
        self._staged = self._sound_staged_episodes()
        self._packed = {
            index
            for shard in manifest.shards
            for index in range(shard.first_episode, shard.first_episode + shard.num_episodes)
        }
        manifest.save(self.root)

    @staticmethod
    def check(
        root: str | Path,
        recipe: Mapping[str, Any],
        num_episodes: int | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Raise the ValueError that making a StoreWriter would, without touching anything."""
        root = Path(root)
        if root.exists() and not root.is_dir():
            raise ValueError(f"{root} is a file; give a folder for the store")
        names = {path.name for path in root.iterdir()} if root.exists() else set()
        if MANIFEST_NAME not in names:
            if not overwrite and any(
                name != STAGING and not _UNFINISHED_NAME.fullmatch(name) for name in names
            ):
                raise ValueError(
                    f"{root} is not empty and no trajectory store; overwrite it or give another folder"
                )
            return
        manifest = Manifest.load(root)
        if overwrite:
            return
        if not resume:
            raise ValueError(
                f"{root} holds a trajectory store; resume it, overwrite it, or give another folder"
            )
        recipe = json.loads(json.dumps(recipe))
        for key in sorted(recipe.keys() | manifest.recipe.keys()):
            if recipe.get(key) != manifest.recipe.get(key):
                raise ValueError(
                    f"{root} was made with {key} {manifest.recipe.get(key)!r}, not {recipe.get(key)!r}; "
                    "resume with the same settings or give another folder"
                )
        stored = max((shard.first_episode + shard.num_episodes for shard in manifest.shards), default=0)
        if num_episodes is not None and num_episodes < stored:
            raise ValueError(f"{root} holds {stored} episodes already, more than {num_episodes}")

    def missing(self) -> list[int]:
        """Indices of the episodes that are wanted and not finished, in order.

        Raises:
            ValueError: no number of episodes was given.
        """
        if self.manifest.num_episodes is None:
            raise ValueError("num_episodes was not given: any number of episodes may come")
        return [
            i for i in range(self.manifest.num_episodes) if i not in self._packed and i not in self._staged
        ]

    def num_finished(self) -> int:
        """How many episodes are finished."""
        return len(self._packed) + len(self._staged)

    def write(self, index: int, columns: Columns) -> None:
        """Store finished episode `index`, and pack its shard if this was the last one missing there."""
        stage_episode(self.root, index, columns)
        self.commit(index)

    def write_blocks(
        self, index: int, specs: Mapping[str, ColumnSpec], num_rows: int, blocks: Iterable[Columns]
    ) -> None:
        """As `write`, for an episode too long to hold: its rows come in consecutive blocks."""
        write_shard_blocks(self.root / STAGING / f"episode-{index:08d}.h5", specs, num_rows, blocks)
        self.commit(index)

    def append(self, columns: Columns) -> int:
        """Store the next episode; gives its index."""
        index = max(self._packed | self._staged.keys(), default=-1) + 1
        self.write(index, columns)
        return index

    def commit(self, index: int) -> None:
        """Take note that a worker has staged episode `index`; packs its shard if it is full."""
        self._staged[index] = self.root / STAGING / f"episode-{index:08d}.h5"
        size = self.manifest.episodes_per_shard
        first = index - index % size
        if all(i in self._staged or i in self._packed for i in range(first, first + size)):
            self._pack(first)

    def finish(self) -> Manifest:
        """Pack all that is staged and mark the store complete.

        Raises:
            ValueError: episodes are missing.
        """
        if self.manifest.num_episodes is not None and (missing := self.missing()):
            raise ValueError(
                f"{len(missing)} of {self.manifest.num_episodes} episodes are missing; "
                f"the first is {missing[0]}"
            )
        if sorted(self._packed | self._staged.keys()) != list(range(self.num_finished())):
            raise ValueError(f"the episodes of {self.root} are not numbered 0, 1, 2, ...: some are missing")
        size = self.manifest.episodes_per_shard
        for first in sorted({index - index % size for index in self._staged}):
            self._pack(first)
        self.manifest.complete = True
        self.manifest.save(self.root)
        self._remove_staging()
        return self.manifest

    def close(self) -> None:
        """Finish if nothing is missing, keep what is staged otherwise; give the folder free."""
        try:
            if self.manifest.num_episodes is not None and not self.manifest.complete and not self.missing():
                self.finish()
        finally:
            self._release()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self.close()
        else:
            self._release()

    def _release(self) -> None:
        """Give the folder free for other writers."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _pack(self, first: int) -> None:
        """Make a shard of the staged episodes from `first` on, and name it in the manifest."""
        size = self.manifest.episodes_per_shard
        indices = [i for i in range(first, first + size) if i in self._staged and i not in self._packed]
        if not indices:
            return
        path = self.root / f"shard-{indices[0]:08d}.h5"
        specs = pack_shards(path, [self._staged[i] for i in indices])
        columns = {
            name: {"dtype": str(spec.dtype), "shape": list(spec.shape)} for name, spec in specs.items()
        }
        if self.manifest.columns and columns != self.manifest.columns:
            path.unlink()
            raise ValueError(
                f"episodes {indices[0]} to {indices[-1]} have columns {columns}; "
                f"earlier ones {self.manifest.columns}"
            )
        self.manifest.columns = columns
        stat = path.stat()
        shard = Shard(
            file=path.name,
            first_episode=indices[0],
            num_episodes=len(indices),
            num_rows=ShardReader(path).num_rows,
            num_bytes=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            sha256=sha256_of(path),
        )
        self.manifest.shards = sorted([*self.manifest.shards, shard], key=lambda s: s.first_episode)
        self.manifest.save(self.root)
        self._packed.update(indices)
        for index in indices:
            self._staged.pop(index).unlink()

    def _sound_staged_episodes(self) -> dict[int, Path]:
        """Staged episodes that open; those that a crash damaged, or that a shard holds, are deleted."""
        packed = [range(s.first_episode, s.first_episode + s.num_episodes) for s in self.manifest.shards]
        sound = {}
        for index, path in staged_episodes(self.root).items():
            try:
                ShardReader(path)
            except ValueError:
                path.unlink()
                continue
            if any(index in shard for shard in packed):
                path.unlink()
            else:
                sound[index] = path
        return sound

    def _delete_store(self) -> None:
        """Delete the files of a store at `root` and nothing else; the manifest goes last."""
        if (self.root / MANIFEST_NAME).exists():
            shutil.rmtree(self.root / "latents", ignore_errors=True)
        _delete(self.root / STAGING, _STAGED_NAME)
        self._remove_staging()
        _delete(self.root, _SHARD_NAME)
        (self.root / MANIFEST_NAME).unlink(missing_ok=True)

    def _remove_staging(self) -> None:
        """Remove the folder of staged episodes, unless something else lies in it."""
        with suppress(OSError):
            (self.root / STAGING).rmdir()


def lock_folder(root: Path, *, alone: bool) -> int:
    """Lock a folder, alone or with others; gives what to close. A file system without locks is let be.

    Raises:
        StoreBusyError: another process holds it.
    """
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return descriptor
        os.close(descriptor)
        raise StoreBusyError(f"{root} is being written by another process") from None
    return descriptor


def _delete(folder: Path, name: re.Pattern[str]) -> None:
    """Delete the files in `folder` whose names match."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if name.fullmatch(path.name):
            path.unlink()
