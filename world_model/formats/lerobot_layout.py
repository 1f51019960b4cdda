"""What a LeRobotDataset v3.0 says of itself, and where its files may lie: inside its folder."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .protocol import Column, Kind

INFO = "meta/info.json"
OWN = "meta/wm_plan.json"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
BOOKKEEPING = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_MAX_JSON_BYTES = 64 * 2**20
_MAX_ROW_ENTRIES = 2**28
_FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")
_NUMBERS = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
}


@dataclass(frozen=True)
class Feature:
    """One feature: how it is kept ("video", "image", "number" or "text") and what a row of it is."""

    kept: str
    column: Column
    channels_first: bool = False


@dataclass(frozen=True)
class Info:
    """The checked content of `meta/info.json`; `data` is all of it."""

    fps: float
    features: Mapping[str, Feature]
    data_path: str
    video_path: str
    left_out: tuple[str, ...]
    data: Mapping[str, Any]


def read_info(root: Path) -> Info:
    """Read and check `meta/info.json`.

    Raises:
        ValueError: it is missing, damaged, or of another version of the format.
    """
    data = read_json(root, INFO)
    try:
        return _parse(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{root / INFO} cannot be used: {error}") from error


def read_json(root: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the dataset.

    Raises:
        ValueError: it is missing, too large, or no JSON object.
    """
    path = inside(root, name)
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {_MAX_JSON_BYTES >> 20} MiB")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} cannot be used: a JSON object was expected")
    return data


def fill_path(template: str, **values: str | int) -> str:
    """Put names and numbers into a file's path template, and evaluate nothing else in it.

    Raises:
        ValueError: the template asks for anything but those.
    """

    def field(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"path {template!r} asks for {match[1]!r}; known are {', '.join(values)}")
        value = values[match[1]]
        return f"{value:0{int(match[2])}d}" if match[2] and isinstance(value, int) else str(value)

    filled = _FIELD.sub(field, template)
    if "{" in filled or "}" in filled:
        raise ValueError(f"path {template!r} cannot be filled in")
    return filled


def inside(root: Path, name: str) -> Path:
    """The file `name` of the dataset at `root`.

    Raises:
        ValueError: it would lie outside of `root` (the links of a hub's cache are followed).
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise ValueError(f"{root} names the file {name!r}, which is not inside it")
    path = root / name
    try:
        real, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be found: {error}") from error
    blobs = [above.parent / "blobs" for above in (home, *home.parents) if above.name == "snapshots"]
    if not any(real.is_relative_to(allowed) for allowed in (home, *blobs)):
        raise ValueError(f"{path} is a link to {real}, outside of the dataset, which is refused")
    return path


def _parse(data: dict[str, Any]) -> Info:
    version = data.get("codebase_version")
    if not isinstance(version, str) or not version.startswith("v3."):
        raise ValueError(
            f"it is LeRobotDataset {version!r:.20}; v3.0 can be read, LeRobot's converter makes it of v2.1"
        )
    fps = data.get("fps")
    if (
        not isinstance(fps, int | float)
        or isinstance(fps, bool)
        or not 0 < fps <= 1e6
        or not math.isfinite(fps)
    ):
        raise ValueError(f"fps must be a number above 0, got {fps!r:.40}")
    features = data.get("features")
    if not isinstance(features, dict) or not features:
        raise ValueError("it has no features")
    parsed = {name: _feature(name, feature) for name, feature in features.items()}
    paths = {}
    for key, default in (("data_path", DATA_PATH), ("video_path", VIDEO_PATH)):
        paths[key] = data.get(key) or default
        if not isinstance(paths[key], str):
            raise ValueError(f"{key} must be text")
    return Info(
        fps=float(fps),
        features={name: feature for name, feature in parsed.items() if feature is not None},
        left_out=tuple(name for name, feature in parsed.items() if feature is None),
        data=data,
        **paths,
    )


def _feature(name: str, feature: object) -> Feature | None:
    """One entry of `features`; None for a kind that is not known here (audio, language, ...)."""
    if not name or "/" in name or "\\" in name or name in (".", ".."):
        raise ValueError(f"feature name {name!r:.80} is no plain name")
    if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
        raise ValueError(f"feature {name!r} has no dtype")
    dtype, shape = feature["dtype"], feature.get("shape")
    if dtype not in {"video", "image", "string"} | _NUMBERS:
        return None
    if not isinstance(shape, list) or any(type(n) is not int or n < 1 for n in shape):
        raise ValueError(f"feature {name!r} has shape {shape!r:.80}; whole numbers above 0 are needed")
    if math.prod(shape) > _MAX_ROW_ENTRIES:
        raise ValueError(f"feature {name!r} has shape {shape!r:.80}, which is too large")
    if dtype == "string":
        return Feature("text", Column("str", (), "text"))
    if dtype in ("video", "image"):
        if len(shape) != 3:
            raise ValueError(f"feature {name!r} has shape {shape!r}; frames are height, width, channels")
        first = _flat(feature.get("names"))[:1]
        channels_first = bool(first) and first[0] in ("channel", "channels", "c")
        size = (*shape[1:], shape[0]) if channels_first else tuple(shape)
        return Feature(dtype, Column("uint8", size, "image", lossy=dtype == "video"), channels_first)
    row = tuple(shape)
    if row == (1,) and not (name == "action" or name.startswith("observation.")):
        row = ()
    kind: Kind = "array" if len(row) > 1 else "vector" if row else "scalar"
    names = _flat(feature.get("names"))
    return Feature(
        "number", Column(dtype, row, kind, names=tuple(names) if len(names) == math.prod(row) else ())
    )


def _flat(names: object, depth: int = 0) -> list[str]:
    """Names of entries, which are a list, or lists by what they belong to."""
    if isinstance(names, dict) and depth < 4:
        return [flat for value in names.values() for flat in _flat(value, depth + 1)]
    return [str(name) for name in names] if isinstance(names, list) else []
