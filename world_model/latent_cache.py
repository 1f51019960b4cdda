"""The frozen encoder's tokens of every logged frame, computed once and kept on disk.

A cache is an fp16 `.npy` file, one for each source of a store, named after what it holds: the encoder's
fingerprint, the source's fingerprint and the column. Another encoder, or a changed file in the data, is
another cache; a source that is added leaves those of the others as they are.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial as bind
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int, UInt8
from torch import Tensor

from .latent_rows import LatentRows, latent_file_header, read_latent_header
from .manifest import write_atomically
from .store import TrajectoryStore

_SAVE_EVERY_ROWS = 2048

_RowNumbers = Int[np.ndarray, " chosen"]
_Latents = Float16[np.ndarray, "chosen token dim"]


@runtime_checkable
class FrameEncoder(Protocol):
    """What the cache needs of an encoder."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever weights or preprocessing do."""
        ...

    def preprocess(self, frames: UInt8[np.ndarray, "batch time height width 3"], /) -> Tensor:
        """Frames as pixel values."""
        ...

    def __call__(self, pixel_values: Tensor, /) -> Float[Tensor, "batch token dim"]:
        """The tokens of clips."""
        ...


def cached_latents(
    encoder: FrameEncoder,
    store: TrajectoryStore,
    column: str = "pixels",
    *,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Float16[LatentRows, "row token dim"]:
    """The encoder's tokens of each row's frame, to be read like an array; a frame is encoded as a still clip.

    Rows of sources that have no such column are NaN (`store.rows_with` tells which). What was encoded before
    a kill is kept. Processes that want the same cache wait for the one that makes it. Memory does not grow
    with the data: rows are read from disk when they are asked for.

    Args:
        encoder: frozen; its mode is not touched.
        store: the data; see `default_cache_dir` for where its caches lie.
        column: an image column.
        cache_dir: folder of the cache files.
        batch_size: frames encoded at once.
        progress: called with the rows done and the rows in all.

    Raises:
        ValueError: no source has the column, it holds no frames, or the encoder gives numbers beyond fp16.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    has_column = store.rows_with(column)
    parts: list[tuple[int, Path | None]] = []
    for source in range(len(store.paths)):
        rows = store.source_rows(source)
        num_rows = rows.stop - rows.start
        if not has_column[rows].any():
            parts.append((num_rows, None))
            progress(rows.stop, store.num_rows)
            continue
        key = {
            "encoder": encoder.fingerprint,
            "data": store.source_fingerprint(source),
            "column": column,
            "rows": num_rows,
        }
        name = f"{column}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}"
        folder = default_cache_dir(store, source) if cache_dir is None else Path(cache_dir)
        final = folder / f"{name}.npy"
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{name}.partial") as partial:
            if final.exists():
                partial.unlink(missing_ok=True)
            else:

                def encode(numbers: _RowNumbers, first: int) -> _Latents:
                    return _encode(encoder, store, column, first + numbers, has_column)

                def told(done: int, first: int) -> None:
                    progress(first + done, store.num_rows)

                first = {"first": rows.start}
                _fill(partial, num_rows, bind(encode, **first), batch_size, bind(told, **first))
                write_atomically(final.with_suffix(".json"), json.dumps(key, indent=1) + "\n")
                partial.replace(final)
                partial.with_suffix(".rows").unlink()
        parts.append((num_rows, final))
    return LatentRows(parts)


def default_cache_dir(store: TrajectoryStore, source: int = 0) -> Path:
    """Where the caches of one source of a store lie.

    `$WM_PLAN_CACHE/latents` if that is set; else `latents/` in the source's folder, if that can be written;
    else `wm-plan/latents` in the user's cache.
    """
    if chosen := os.environ.get("WM_PLAN_CACHE"):
        return Path(chosen) / "latents"
    if store.paths[source].is_dir() and os.access(store.paths[source], os.W_OK):
        return store.paths[source] / "latents"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wm-plan" / "latents"


def _fill(
    partial: Path,
    num_rows: int,
    encode: Callable[[_RowNumbers], _Latents],
    batch_size: int,
    progress: Callable[[int], None],
) -> None:
    """Write the latents that `partial` lacks, in order; `.rows` beside it says how many are on disk."""
    rows_file = partial.with_suffix(".rows")
    done = saved = int(rows_file.read_text()) if rows_file.exists() else 0
    with partial.open("r+b") as file:
        if done:
            _, row_shape, offset = read_latent_header(file)
            file.truncate(offset + done * 2 * int(np.prod(row_shape)))
        else:
            file.truncate(0)
        file.seek(0, os.SEEK_END)
        progress(done)
        while done < num_rows:
            block = encode(np.arange(done, min(done + batch_size, num_rows)))
            if not done:
                file.write(latent_file_header(num_rows, block.shape[1:]))
            file.write(block.tobytes())
            done += len(block)
            progress(done)
            if done - saved >= _SAVE_EVERY_ROWS or done == num_rows:
                file.flush()
                os.fsync(file.fileno())
                write_atomically(rows_file, str(done))
                saved = done


def _encode(
    encoder: FrameEncoder,
    store: TrajectoryStore,
    column: str,
    rows: _RowNumbers,
    has_column: Bool[np.ndarray, " row"],
) -> _Latents:
    """Tokens of these rows' frames; NaN where a row has none (any frame tells how many tokens there are)."""
    there = has_column[rows]
    chosen = rows[there] if there.any() else np.flatnonzero(has_column)[:1]
    frames = store.read(column, chosen)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            f"column {column!r} holds {frames.dtype} {frames.shape[1:]}; frames are (H, W, 3) uint8"
        )
    with torch.inference_mode():
        tokens = encoder(encoder.preprocess(frames[:, None])).to(torch.float16).cpu().numpy()
    if not np.isfinite(tokens).all():
        row = chosen[~np.isfinite(tokens).all(axis=(1, 2))][0]
        raise ValueError(
            f"the encoder gives numbers that are no finite fp16 for row {row} of column {column!r}"
        )
    latents = np.full((len(rows), *tokens.shape[1:]), np.nan, np.float16)
    latents[there] = tokens if there.any() else tokens[:0]
    return latents


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Make the file `path` if it is not there, and hold it, waiting for whoever holds it."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path
