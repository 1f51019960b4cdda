"""What is in logged trajectories: episodes, columns, ranges, histograms and size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .bounds import action_bounds
from .statistics import ColumnStatistics, Histograms
from .streaming import blocks

if TYPE_CHECKING:
    from wm_plan.world_model.formats import Source
    from wm_plan.world_model.formats.protocol import Progress

_BARS = " ▁▂▃▄▅▆▇█"
_SHOWN_ENTRIES = 12


def inspect(source: Source, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """What a dataset holds, fit for JSON; every number is read, frames are not.

    Returns:
        `format`, `path`, `episodes`, `steps` (rows with an action), `rows` (the final observation of an
        episode counts too, where the format keeps it), `fps`, `columns` (shape, dtype, kind, lossy and the
        range of each), `roles` (which column is taken for what), `episode_lengths` (steps of each episode),
        `actions` (ranges and histograms of each entry), `size_bytes` and `info` (what else the format says).

    Raises:
        ValueError: a file is damaged.
    """
    from wm_plan.world_model.formats import default_columns

    roles = default_columns(source)
    action = roles.get("action")
    numbers = [name for name, column in source.columns.items() if column.kind in ("vector", "scalar")]
    statistics = {name: ColumnStatistics() for name in numbers}
    steps = np.asarray(source.lengths).astype(np.int64)
    total = len(steps) * (2 if action else 1)
    for episode in range(len(steps)):
        last: dict[str, np.ndarray] = {}
        for _, values in blocks(source, episode, numbers) if numbers else ():
            for name in numbers:
                statistics[name].add(values[name])
            last = values
        for name in numbers:
            if nothing_after_the_last(last[name]):
                statistics[name].non_finite -= last[name][-1].size
                if name == action:
                    steps[episode] -= 1
        progress(episode + 1, total)
    columns = {
        name: {
            "shape": list(column.shape),
            "dtype": column.dtype,
            "kind": column.kind,
            "lossy": column.lossy,
            **({"names": list(column.names)} if column.names else {}),
            **(statistics[name].as_dict() if name in statistics else {}),
        }
        for name, column in source.columns.items()
    }
    return {
        "format": source.format,
        "path": str(source.path),
        "episodes": len(steps),
        "steps": int(steps.sum()),
        "rows": int(np.sum(source.lengths)),
        "fps": source.fps,
        "columns": columns,
        "roles": roles,
        "episode_lengths": steps.tolist(),
        "actions": _actions(source, action, statistics, progress) if action else None,
        "size_bytes": size_on_disk(Path(source.path)),
        "info": dict(source.info),
    }


def nothing_after_the_last(values: np.ndarray) -> bool:
    """Whether the last row is the one of a final observation: no float of it is a number."""
    return values.dtype.kind == "f" and len(values) > 0 and bool(np.isnan(values[-1]).all())


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links are not followed."""
    if path.is_file():
        return path.stat().st_size
    return sum(
        os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names
    )


def describe(found: dict[str, Any]) -> str:
    """What `inspect` found, for people to read."""
    lengths = found["episode_lengths"]
    rate = f" at {found['fps']:g} Hz" if found["fps"] else ", frame rate unknown"
    lines = [
        f"{found['path']}: {found['format']}, {found['episodes']} episodes, {found['steps']} steps{rate}, "
        f"{found['size_bytes'] / 1e6:.1f} MB",
        f"episode lengths: {min(lengths)} to {max(lengths)} steps, median {np.median(lengths):g}",
        "columns:",
    ]
    roles = {name: role for role, name in found["roles"].items()}
    width = max(map(len, found["columns"]))
    for name, column in found["columns"].items():
        shape = "x".join(map(str, column["shape"])) or "scalar"
        role = f"  used as {roles[name]}" if name in roles else ""
        lossy = " lossy" if column["lossy"] else ""
        bad = f"  {column['non_finite']} non-finite values" if column.get("non_finite") else ""
        lines.append(f"  {name:<{width}}  {column['dtype']} {shape}{lossy}{role}{bad}")
    if found["actions"]:
        lines.append(f"actions ({found['actions']['column']}):")
        for entry, histogram in list(enumerate(found["actions"]["histograms"]))[:_SHOWN_ENTRIES]:
            edges, counts = histogram["edges"], np.array(histogram["counts"])
            heights = np.ceil((len(_BARS) - 1) * counts / max(1, counts.max())).astype(int)
            bars = "".join(_BARS[height] for height in heights)
            lines.append(f"  {entry:>3}  {edges[0]:>10.4g} |{bars}| {edges[-1]:.4g}")
        if len(found["actions"]["histograms"]) > _SHOWN_ENTRIES:
            lines.append(f"  ... {len(found['actions']['histograms'])} entries in all; --json has them")
    return "\n".join(lines)


def _actions(
    source: Source, action: str, statistics: dict[str, ColumnStatistics], progress: Progress
) -> dict[str, Any]:
    """Ranges and histograms of the action's entries."""
    summary = statistics[action]
    histograms = Histograms(summary.low, summary.high)
    for episode in range(len(source.lengths)):
        for _, values in blocks(source, episode, [action]):
            histograms.add(values[action])
        progress(len(source.lengths) + episode + 1, 2 * len(source.lengths))
    bounds = action_bounds(source, action)
    return {
        "column": action,
        "low": [float(v) if np.isfinite(v) else None for v in summary.low],
        "high": [float(v) if np.isfinite(v) else None for v in summary.high],
        "bounds": None if bounds is None else {"low": bounds[0].tolist(), "high": bounds[1].tolist()},
        "histograms": histograms.as_list(),
    }
