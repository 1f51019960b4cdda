"""Converting any source into a Minari dataset that the `minari` package loads, frames lossless.

Source: minari 0.5.4, `dataset/_storages/hdf5_storage.py` and `dataset/minari_storage.py`.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..manifest import write_atomically
from .destination import destination
from .fingerprint import source_fingerprint
from .minari import MAIN_FILE, METADATA_FILE
from .native_writer import action_range, chosen_episodes, row_blocks
from .protocol import Column, Progress, Source, no_progress
from .roles import stored_names

MINARI_VERSION = "0.5.4"
_DATASET_NAME = re.compile(r"[-_\w]+?-v\d+")
_JUDGED = {
    "rewards": ("rewards", "reward", "next.reward"),
    "terminations": ("terminations", "terminated", "termination", "next.done", "dones", "done"),
    "truncations": ("truncations", "truncated", "truncation"),
}


def write_minari(
    source: Source,
    dst: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    episodes: Sequence[int] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    namespace: str = "",
    progress: Progress = no_progress,
) -> Path:
    """Write `source` as a Minari dataset in the folder `dst`.

    Observations are a Dict: cameras ("pixels", "pixels_wrist") and "proprio"; every further column goes along
    in `infos`, one row an observation, texts included. An episode of R rows becomes R - 1 steps: the last row
    gives the final observation, and its action, which leads to a frame that nobody kept, is left out. Where
    rewards were not logged they are 0; without terminations and truncations, the last step truncates. Memory
    is that of a few frames.

    Args:
        source: what to write.
        dst: the dataset's folder. `minari.load_dataset` finds it inside `$MINARI_DATASETS_PATH` if its
            name is one of Minari's, such as `reacher-v0`;
            otherwise `minari.MinariDataset(dst / "data")` opens it.
        columns: "action", "pixels", ... to the source's name; `default_columns(source)` when None.
        episodes: which, in this order; all when None.
        resume: go on after the last whole episode of an unfinished conversion.
        overwrite: replace the dataset at `dst`.
        namespace: the folders between `$MINARI_DATASETS_PATH` and `dst`, such as "mylab".
        progress: told (episodes done, episodes in all).

    Raises:
        ValueError: no column is the action; an episode has one row only; a column is not there,
            `dst` is taken, or a file is damaged.
    """
    dst = Path(dst)
    chosen = chosen_episodes(source, episodes)
    paths = _paths(source, stored_names(source, columns))
    if "actions" not in paths.values():
        raise ValueError(f"no column of {source.path} is the action; say which: action=NAME")
    short = [episode for episode in chosen if source.lengths[episode] < 2]
    if short:
        raise ValueError(f"episode {short[0]} of {source.path} has one row: no step leads to another")
    begun = {
        "to": "minari",
        "source": source_fingerprint(source.path),
        "columns": paths,
        "episodes": chosen,
        "namespace": namespace,
    }
    with destination(dst, begun, resume=resume, overwrite=overwrite) as partial:
        (partial / "data").mkdir(exist_ok=True)
        staged = []
        for number, episode in enumerate(chosen):
            progress(number, len(chosen))
            staged.append(partial / f"episode_{number}.hdf5")
            if not staged[-1].exists():
                _write_episode(source, episode, number, paths, staged[-1])
        _join(staged, partial / "data" / MAIN_FILE)
        metadata = _metadata(source, chosen, paths, f"{namespace}/{_dataset_name(dst)}".lstrip("/"))
        metadata["dataset_size"] = round((partial / "data" / MAIN_FILE).stat().st_size / 1e6, 1)
        write_atomically(partial / "data" / METADATA_FILE, json.dumps(metadata))
        for path in partial.glob("*.hdf5*"):
            path.unlink()
        progress(len(chosen), len(chosen))
    return dst


def _dataset_name(dst: Path) -> str:
    """The folder's name, with what Minari wants of one."""
    name = dst.absolute().name
    return name if _DATASET_NAME.fullmatch(name) else f"{re.sub(r'[^-_a-zA-Z0-9]', '-', name)}-v0"


def _paths(source: Source, names: Mapping[str, str]) -> dict[str, str]:
    """Where in an episode's group each of the source's columns goes."""
    paths: dict[str, str] = {}
    for name, stored in names.items():
        column = source.columns[name]
        path = f"infos/{stored.removeprefix('infos_')}"
        if stored == "action":
            path = "actions"
        elif stored == "proprio" or (stored.split("_")[0] == "pixels" and column.kind == "image"):
            path = f"observations/{stored}"
        elif column.shape == () and column.kind == "scalar":
            path = next((key for key, known in _JUDGED.items() if stored in known), path)
        while path in paths.values():
            path = f"infos/{path.rpartition('/')[2]}_"
        paths[name] = path
    return paths


def _write_episode(source: Source, episode: int, number: int, paths: Mapping[str, str], path: Path) -> None:
    """Write one episode as a file of its own, atomically."""
    rows = int(source.lengths[episode])
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with h5py.File(partial, "w") as file:
        group = file.create_group(f"episode_{number}")
        group.attrs["id"] = number
        group.attrs["total_steps"] = rows - 1
        for name, place in paths.items():
            shape = (rows if "/" in place else rows - 1, *source.columns[name].shape)
            _create(group, place, shape, source.columns[name])
        for start, stop in row_blocks(source, episode, list(paths)):
            values = source.read(episode, list(paths), start, stop)
            for name, place in paths.items():
                end = min(stop, len(group[place]))
                if end > start:
                    group[place][start:end] = _stored(values[name][: end - start], place)
        group.require_dataset("rewards", (rows - 1,), np.float64)
        for key in ("terminations", "truncations"):
            if key not in group:
                group[key] = np.arange(1, rows) == (rows - 1 if key == "truncations" else rows)
    partial.replace(path)


def _create(group: h5py.Group, place: str, shape: tuple[int, ...], column: Column) -> None:
    """Make a dataset to fill; frames are compressed without loss, a chunk a frame."""
    if column.kind == "text":
        group.create_dataset(place, shape, h5py.string_dtype("utf-8"))
    elif column.kind == "image":
        options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        group.create_dataset(place, shape, np.uint8, chunks=(1, *shape[1:]), **options)
    else:
        judged = {"rewards": "float64", "terminations": "bool", "truncations": "bool"}
        group.create_dataset(place, shape, judged.get(place, column.dtype))


def _stored(values: np.ndarray, place: str) -> np.ndarray:
    if values.dtype.kind in "US":
        return values.astype(object)
    return values.astype(bool) if place in ("terminations", "truncations") else values


def _join(parts: Sequence[Path], path: Path) -> None:
    """Copy the episodes of `parts` into one file, as compressed as they are."""
    with h5py.File(path, "w", track_order=True) as file:
        for part in parts:
            with h5py.File(part, "r") as source:
                for name in source:
                    source.copy(name, file)


def _metadata(source: Source, episodes: Sequence[int], paths: Mapping[str, str], name: str) -> dict[str, Any]:
    """What goes into metadata.json; `fps` and `roles` are ours, the rest Minari's."""
    spaces: dict[str, Any] = {}
    roles: dict[str, str] = {}
    for column, place in paths.items():
        if place == "actions":
            action = _box(source.columns[column], *_action_bounds(source, column, episodes))
            roles["action"] = place
        elif place.startswith("observations/"):
            key = place.removeprefix("observations/")
            spaces[key] = _box(source.columns[column])
            roles[key] = place
    metadata: dict[str, Any] = {
        "total_episodes": len(episodes),
        "total_steps": int(sum(source.lengths[episode] - 1 for episode in episodes)),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps({"type": "Dict", "subspaces": spaces}),
        "action_space": json.dumps(action),
        "dataset_id": name,
        "minari_version": MINARI_VERSION,
        "roles": roles,
    }
    env_spec = source.info.get("env_spec")
    if isinstance(env_spec, str):
        metadata["env_spec"] = env_spec
    return {**metadata, **({"fps": source.fps} if source.fps else {})}


def _action_bounds(source: Source, column: str, episodes: Sequence[int]) -> tuple[Any, Any]:
    """The bounds that the source says, else what was seen."""
    recipe = source.info.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    said = (recipe.get("action_low"), recipe.get("action_high"))
    size = int(np.prod(source.columns[column].shape))
    if all(isinstance(bound, list) and len(bound) == size for bound in said):
        return said
    return action_range(source, column, episodes)


def _box(column: Column, low: Any = None, high: Any = None) -> dict[str, Any]:  # noqa: ANN401
    """A Box space as Minari writes it; without bounds, all that the dtype can hold."""
    dtype = np.dtype(column.dtype)
    if dtype.kind == "f":
        bounds = (-np.inf, np.inf)
    else:
        bounds = (False, True) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    full = [np.full(column.shape, bound, dtype).tolist() for bound in bounds]
    return {
        "type": "Box",
        "dtype": dtype.name,
        "shape": list(column.shape),
        "low": full[0] if low is None else np.reshape(low, column.shape).tolist(),
        "high": full[1] if high is None else np.reshape(high, column.shape).tolist(),
    }
