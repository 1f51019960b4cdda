"""The manifest of a trajectory store: what was logged, how, and which files hold it."""

import json
import os
import re
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin

MANIFEST_NAME = "manifest.json"
FORMAT = "wm-plan-trajectories"
VERSION = 1
_MAX_MANIFEST_BYTES = 64 * 2**20
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.(h5|hdf5)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` in one step: a reader sees the old file or the new one, never a half."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_half_written(folder: Path) -> None:
    """Remove what writers killed inside `write_atomically` have left below `folder`."""
    for path in folder.rglob(".*"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}", path.name):
            path.unlink()


@dataclass
class Shard:
    """One finished HDF5 file of a store: which episodes it holds, and what it looked like when written."""

    file: str
    first_episode: int
    num_episodes: int
    num_rows: int
    num_bytes: int
    mtime_ns: int
    sha256: str

    def __post_init__(self) -> None:
        if not _SHARD_NAME.fullmatch(self.file):
            raise ValueError(f"shard file {self.file!r} is not a plain .h5 file name in the store's folder")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"shard {self.file}: sha256 must be 64 hexadecimal digits")
        for name in ("first_episode", "num_episodes", "num_rows", "num_bytes", "mtime_ns"):
            if getattr(self, name) < 0:
                raise ValueError(f"shard {self.file}: {name} must be 0 or more, got {getattr(self, name)}")


@dataclass
class Manifest:
    """What was logged (`recipe`), with which versions, and the shards that are finished.

    `recipe` holds everything that decides the values in the data (env, camera, image_size, frame_skip,
    control_timestep [s], policy, seed, looks, ...): a resumed run must bring an equal one.
    `num_episodes` is the number wanted, None for as many as come.
    """

    recipe: dict[str, Any]
    num_episodes: int | None = None
    episodes_per_shard: int = 250
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    shards: list[Shard] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    def __post_init__(self) -> None:
        if self.num_episodes is not None and self.num_episodes < 1:
            raise ValueError(f"num_episodes must be at least 1, got {self.num_episodes}")
        if self.episodes_per_shard < 1:
            raise ValueError(f"episodes_per_shard must be at least 1, got {self.episodes_per_shard}")
        end = 0
        for shard in self.shards:
            if shard.first_episode < end:
                raise ValueError(f"shard {shard.file}: episode {shard.first_episode} is in another shard too")
            end = shard.first_episode + shard.num_episodes
        if len({shard.file for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard file is listed twice")

    def save(self, root: Path) -> None:
        """Write `root/manifest.json` atomically."""
        data = {"format": FORMAT, "version": VERSION, **asdict(self)}
        write_atomically(root / MANIFEST_NAME, json.dumps(data, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, root: Path) -> "Manifest":
        """Read and check `root/manifest.json`.

        Raises:
            ValueError: it is missing, damaged, of another format or a newer version, or names files
                outside `root`.
        """
        path = root / MANIFEST_NAME
        try:
            if path.stat().st_size > _MAX_MANIFEST_BYTES:
                raise ValueError(f"it is larger than {_MAX_MANIFEST_BYTES >> 20} MiB")
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls._parse(data)
        except FileNotFoundError:
            raise ValueError(f"{root} is no trajectory store: it has no {MANIFEST_NAME}") from None
        except (ValueError, TypeError, OSError, RecursionError) as error:
            raise ValueError(f"{path} cannot be used: {error}") from error

    @classmethod
    def _parse(cls, data: object) -> "Manifest":
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        if type(data.get("version")) is not int or not 1 <= data["version"] <= VERSION:
            raise ValueError(
                f"version {data.get('version')!r} is not known here (1 to {VERSION}): update wm-plan"
            )
        values = _checked(data, cls)
        return cls(**{**values, "shards": [Shard(**_checked(entry, Shard)) for entry in values["shards"]]})


def _checked(data: object, cls: type) -> dict[str, Any]:
    """The fields of the dataclass `cls` in `data`, each of its own JSON type."""
    if not isinstance(data, dict):
        raise ValueError(f"a JSON object was expected, not {data!r:.80}")
    values: dict[str, Any] = {}
    for entry in fields(cls):
        if entry.name not in data:
            raise ValueError(f"{entry.name} is missing")
        value = data[entry.name]
        origin = get_origin(entry.type)
        wanted: Any = origin if origin in (dict, list) else entry.type
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(f"{entry.name} must be {getattr(wanted, '__name__', wanted)}, got {value!r:.80}")
        values[entry.name] = value
    return values
