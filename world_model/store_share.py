"""Several processes or machines that fill one trajectory store.

They share its folder, or fill folders of their own that are then copied into one: staged episodes have names
of their own, and the manifests are the same.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .manifest import MANIFEST_NAME, Manifest
from .store_writer import STAGING, StoreBusyError, StoreWriter, lock_folder, staged_episodes


class StoreShare:
    """One of several processes or machines that stage episodes of one store, each its own ones.

        with StoreShare(root, recipe, num_episodes) as share:
            for index in share.missing(range(2, num_episodes, 8)):
                stage_episode(root, index, {"pixels": ..., "action": ...})

    The store is made by whoever comes first. Whoever leaves last, when no episode is missing, packs the
    shards: the files are those that one `StoreWriter` makes. If nobody could (a machine was killed), any
    later `StoreWriter` that resumes does.

    Args:
        root: the store's folder, shared by all.
        recipe: as for `StoreWriter`; the same for all.
        num_episodes: of the whole store.

    Raises:
        ValueError: `root` holds another store or other files, or is being written by one process alone.
    """

    def __init__(
        self,
        root: str | Path,
        recipe: Mapping[str, Any],
        num_episodes: int,
        *,
        episodes_per_shard: int = 250,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self.root, self._recipe = Path(root), json.loads(json.dumps(recipe))
        self.num_episodes = num_episodes
        self.check(root, self._recipe, num_episodes)
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.root, alone=False)
        new = Manifest(self._recipe, num_episodes, episodes_per_shard, versions=dict(versions or {}))
        _create_once(self.root, new)
        self.check(root, self._recipe, num_episodes)
        if not Manifest.load(self.root).complete:
            (self.root / STAGING).mkdir(exist_ok=True)

    @staticmethod
    def check(root: str | Path, recipe: Mapping[str, Any], num_episodes: int) -> None:
        """Raise the ValueError that making a StoreShare would, without touching anything."""
        StoreWriter.check(root, recipe, num_episodes, resume=True)
        if (Path(root) / MANIFEST_NAME).exists():
            wanted = Manifest.load(Path(root)).num_episodes
            if wanted != num_episodes:
                raise ValueError(
                    f"{root} is to have {wanted} episodes, not {num_episodes}; give all shards one number"
                )

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Those of `indices` that are neither staged nor packed."""
        there = self._finished()
        return [index for index in indices if index not in there]

    def finish(self) -> bool:
        """Leave; pack the store if nobody else is at work and nothing is missing. Whether it is complete."""
        self._release()
        if not self.missing(range(self.num_episodes)) and not Manifest.load(self.root).complete:
            with (
                suppress(StoreBusyError),
                StoreWriter(self.root, self._recipe, self.num_episodes, resume=True),
            ):
                pass
        return Manifest.load(self.root).complete

    def __enter__(self) -> "StoreShare":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self.finish()
        else:
            self._release()

    def _finished(self) -> set[int]:
        staged = set(staged_episodes(self.root))  # before the manifest: what is packed meanwhile is in either
        shards = Manifest.load(self.root).shards
        ranges = (range(shard.first_episode, shard.first_episode + shard.num_episodes) for shard in shards)
        return staged.union(*ranges)

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _create_once(root: Path, manifest: Manifest) -> None:
    """Write the manifest unless there is one, whoever else does so at the same moment."""
    if (root / MANIFEST_NAME).exists():
        return
    aside = root / f".{MANIFEST_NAME}.{secrets.token_hex(4)}"
    aside.mkdir()
    try:
        manifest.save(aside)
        with suppress(FileExistsError):
            os.link(aside / MANIFEST_NAME, root / MANIFEST_NAME)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
