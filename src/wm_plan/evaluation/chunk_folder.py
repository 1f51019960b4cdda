"""Finished chunks on disk: one file each, written at once, so that a stop loses only what was at hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from wm_plan.world_model.manifest import write_atomically

FOLDER_NAME = "chunks"
MANIFEST_NAME = "evaluation.json"
FORMAT, VERSION = "wm-plan-evaluation", 1
Data = dict[str, Any]


class ChunkFolder:
    """The chunks of one evaluation, or of a shard of it, in `out/chunks`.

    Args:
        out: where the results will be.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.path = out, out / FOLDER_NAME

    @property
    def exists(self) -> bool:
        """Whether an evaluation was begun here, and has not been put together yet."""
        return (self.path / MANIFEST_NAME).is_file()

    def begin(self, settings: Data, shard: str | None) -> None:
        """Start an empty folder for an evaluation."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        manifest = {"format": FORMAT, "version": VERSION, "shard": shard, "settings": settings}
        write_atomically(self.path / MANIFEST_NAME, json.dumps(manifest))

    def manifest(self) -> Data:
        """What was begun here.

        Raises:
            ValueError: nothing, or something that this release does not read.
        """
        path = self.path / MANIFEST_NAME
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"no evaluation was begun in {str(self.out)!r}: it has no {FOLDER_NAME}"
            ) from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{str(path)!r} is damaged: {error}") from error
        known = isinstance(found, dict) and (found.get("format"), found.get("version")) == (FORMAT, VERSION)
        if not known or not isinstance(found.get("settings"), dict):
            raise ValueError(f"{str(path)!r} is no evaluation of this release's format; update wm-plan")
        return found

    def check_resumable(self, settings: Data, shard: str | None) -> None:
        """Refuse to go on with another evaluation.

        Raises:
            ValueError: naming what differs.
        """
        found = self.manifest()
        problem = difference(found["settings"], settings)
        if found["shard"] != shard:
            problem = f"shard is {found['shard']}, not {shard}"
        if problem is not None:
            raise ValueError(
                f"the evaluation in {str(self.out)!r} was begun otherwise: {problem}."
                " Use the same command, or another --out."
            )

    def finished(self) -> set[int]:
        """Numbers of the chunks that are there."""
        return {int(path.stem) for path in self.path.glob("[0-9]*.json")}

    def write(self, number: int, data: Data) -> None:
        """Keep what came of a chunk."""
        write_atomically(self.path / f"{number:06d}.json", json.dumps(data))

    def read(self, number: int) -> Data:
        """Give what came of a chunk."""
        return json.loads((self.path / f"{number:06d}.json").read_text(encoding="utf-8"))

    def write_times(self, cell: int, contestant: int, times: Data) -> None:
        """Keep the times that a contestant took in a cell."""
        write_atomically(self.path / f"times_{cell:03d}_{contestant:03d}.json", json.dumps(times))

    def read_times(self, cell: int, contestant: int) -> Data | None:
        """Give them; None where they were not taken."""
        path = self.path / f"times_{cell:03d}_{contestant:03d}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def remove(self) -> None:
        """Delete the chunks, and the folder of results where nothing else is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self.out.rmdir()


def joined(folders: Sequence[ChunkFolder], num_chunks: int) -> tuple[dict[int, ChunkFolder], list[int]]:
    """Say which folder has each chunk, and which chunks nobody has."""
    found: dict[int, ChunkFolder] = {}
    for folder in folders:
        found |= {number: folder for number in folder.finished() if number not in found}
    return found, [number for number in range(num_chunks) if number not in found]


def difference(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> str | None:
    """Name the first entry in which two settings differ; None if there is none."""
    for key in sorted({*one, *other}):
        before, now = one.get(key), other.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found = difference(before, now, f"{prefix}{key}.")
            if found is not None:
                return found
        elif before != now:
            return f"{prefix}{key} is {_cut(before)}, not {_cut(now)}"
    return None


def _cut(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
