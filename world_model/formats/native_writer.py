"""Converting any source into a native store, episode by episode and in blocks of rows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..shards import ColumnSpec
from ..store_writer import StoreWriter
from .destination import destination
from .fingerprint import source_fingerprint
from .protocol import Progress, Source, no_progress
from .roles import camera_name, stored_names

BLOCK_BYTES = 16 * 2**20


def write_native(
    source: Source,
    dst: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    episodes: Sequence[int] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    episodes_per_shard: int = 250,
    progress: Progress = no_progress,
) -> Path:
    """Write `source` as a trajectory store: every value and every timestamp as it is read.

    Columns that are not named go along under their own (made safe) names; texts are left out, and
    the recipe's `left_out` names them. Memory is that of a few frames.

    Args:
        source: what to write.
        dst: the store's folder; it appears when all is written.
        columns: stored name to the source's name, such as `{"pixels": "observation.images.front"}`;
            `default_columns(source)` when None.
        episodes: which, in this order; all when None.
        resume: go on after the last whole episode of an unfinished conversion.
        overwrite: replace the dataset at `dst`.
        settings: entries of the recipe that the source does not know (env, frame_skip, ...) or that
            shall differ.
        episodes_per_shard: episodes of one HDF5 file.
        progress: told (episodes done, episodes in all).

    Raises:
        ValueError: a column or an episode is not there, `dst` is taken, or a file is damaged.
    """
    dst = Path(dst)
    chosen = chosen_episodes(source, episodes)
    names = {
        name: stored
        for name, stored in stored_names(source, columns).items()
        if source.columns[name].kind != "text"
    }
    begun = {
        "to": "native",
        "source": source_fingerprint(source.path),
        "columns": names,
        "episodes": chosen,
        "settings": dict(settings or {}),
        "episodes_per_shard": episodes_per_shard,
        "convention": source.info.get("convention"),
    }
    specs = {
        stored: ColumnSpec(np.dtype(source.columns[name].dtype), tuple(source.columns[name].shape))
        for name, stored in sorted(names.items(), key=lambda item: item[1])
    }
    with destination(dst, begun, resume=resume, overwrite=overwrite) as partial:
        recipe = {**recipe_of(source, names, chosen), **(settings or {})}
        with StoreWriter(
            partial,
            recipe,
            len(chosen),
            episodes_per_shard=episodes_per_shard,
            resume=(partial / "manifest.json").exists(),
        ) as writer:
            missing = writer.missing()
            for done, index in enumerate(missing, start=len(chosen) - len(missing)):
                progress(done, len(chosen))
                rows = int(source.lengths[chosen[index]])
                writer.write_blocks(index, specs, rows, _blocks(source, chosen[index], names))
            progress(len(chosen), len(chosen))
    return dst


def chosen_episodes(source: Source, episodes: Sequence[int] | None) -> list[int]:
    """The episodes to write, checked.

    Raises:
        ValueError: there is none, or one is not in the source.
    """
    chosen = list(range(len(source.lengths))) if episodes is None else [int(e) for e in episodes]
    wrong = [e for e in chosen if not 0 <= e < len(source.lengths)]
    if wrong:
        raise ValueError(f"no episode {wrong[0]} in {source.path}; it has 0 to {len(source.lengths) - 1}")
    if not chosen:
        raise ValueError(f"no episodes of {source.path} were chosen")
    return chosen


def row_blocks(source: Source, episode: int, columns: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Starts and stops of consecutive rows of an episode that are together about 16 MiB."""
    row_bytes = sum(
        np.dtype(source.columns[name].dtype).itemsize * int(np.prod(source.columns[name].shape))
        for name in columns
        if source.columns[name].kind != "text"
    )
    size = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, int(source.lengths[episode]), size):
        yield start, min(start + size, int(source.lengths[episode]))


def action_range(source: Source, column: str, episodes: Sequence[int]) -> tuple[list[float], list[float]]:
    """The lowest and highest value of each entry of an action that was logged; 0 where there is none."""
    shape = tuple(source.columns[column].shape) or (1,)
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    for episode in episodes:
        for start, stop in row_blocks(source, episode, [column]):
            values = source.read(episode, [column], start, stop)[column].astype(np.float64)
            values = values.reshape(stop - start, *shape)
            values = np.where(np.isfinite(values), values, np.nan)
            low = np.fmin(low, np.fmin.reduce(values, axis=0))
            high = np.fmax(high, np.fmax.reduce(values, axis=0))
    seen = np.isfinite(low) & np.isfinite(high)
    return np.where(seen, low, 0.0).tolist(), np.where(seen, high, 0.0).tolist()


def _blocks(source: Source, episode: int, names: Mapping[str, str]) -> Iterator[dict[str, np.ndarray]]:
    """The rows of one episode under their stored names, block by block."""
    for start, stop in row_blocks(source, episode, list(names)):
        values = source.read(episode, list(names), start, stop)
        yield {stored: values[name] for name, stored in names.items()}


def recipe_of(source: Source, names: Mapping[str, str], episodes: Sequence[int]) -> dict[str, Any]:
    """What training needs to know of the data: the source's own recipe, or what can be told of it."""
    own = source.info.get("recipe")
    recipe: dict[str, Any] = dict(own) if isinstance(own, Mapping) else {}
    stored = {stored: name for name, stored in names.items()}
    recipe.setdefault("env", "logged")
    recipe.setdefault("frame_skip", 1)
    if "pixels" in stored:
        recipe.setdefault("image_size", int(source.columns[stored["pixels"]].shape[0]))
        if not own and stored["pixels"] != "pixels":
            recipe.setdefault("camera", camera_name(stored["pixels"]))
    if source.fps:
        recipe.setdefault("control_timestep", 1 / source.fps / recipe["frame_skip"])
    if "action" in stored and not ("action_low" in recipe and "action_high" in recipe):
        low, high = action_range(source, stored["action"], episodes)
        recipe |= {"action_low": low, "action_high": high}
    if "recipe" not in source.info:
        info = {key: value for key, value in source.info.items() if key != "roles"}
        recipe["source"] = {
            "format": source.format,
            "name": source.path.name,
            "columns": {s: n for n, s in names.items()},
            "info": info,
        }
        if "tasks" in info:
            recipe["tasks"] = info["tasks"]
    left_out = [name for name, column in source.columns.items() if column.kind == "text"]
    return {**recipe, **({"left_out": left_out} if left_out else {})}
