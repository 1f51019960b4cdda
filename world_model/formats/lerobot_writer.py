"""Writing LeRobotDataset v3.0, without lerobot: episodes are staged, then joined into its files."""

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from ..manifest import write_atomically
from .destination import destination
from .extras import require
from .fingerprint import source_fingerprint
from .lerobot_features import Written, arrow_schema, features_of
from .lerobot_files import Staged, join_episodes
from .lerobot_layout import BOOKKEEPING
from .lerobot_stats import histogram, image_stats, number_stats
from .native_writer import chosen_episodes, recipe_of, row_blocks
from .protocol import Progress, Source, no_progress
from .roles import stored_names
from .video_encoding import VideoWriter, choose_encoder


def write_lerobot(
    source: Source,
    dst: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    episodes: Sequence[int] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    images: bool = False,
    encoder: str | None = None,
    fps: float | None = None,
    task: str | None = None,
    robot_type: str | None = None,
    splits: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Write `source` as a LeRobotDataset v3.0.

    "action" becomes `action`, "proprio" `observation.state`, "pixels" `observation.images.main` (or as its
    camera is called), "pixels_wrist" `observation.images.wrist`; other columns keep their made safe names.
    `timestamp` is frame_index / fps, as the format demands; timestamps that were logged otherwise go along
    as `logged_timestamp`. The final observation of an episode is a row like the others; what is NaN there
    (its action) repeats the row before, and `meta/wm_plan.json` notes that, with the recipe, so that
    `open_source` gives back what was written.

    Args:
        source: what to write.
        dst: the dataset's folder; it appears when all is written.
        columns: role to the source's name; `default_columns(source)` when None. All others go along.
        episodes: which, in this order; all when None.
        resume: go on after the last whole episode of an unfinished one.
        overwrite: replace the dataset at `dst`.
        images: keep frames losslessly, as PNG images; otherwise as video (AV1 at crf 30 loses some grey
            levels), but for frames of odd size or without three channels.
        encoder: "libsvtav1" or "libx264"; the first that is there when None.
        fps: rows a second [Hz]; the source's when None.
        task: what all episodes are about; the source's own tasks when None.
        robot_type: the source's own when None.
        splits: name to "first:last" episode; the source's own, or all as "train", when None.
        progress: told (episodes done, episodes in all).

    Raises:
        ValueError: a column or an episode is not there, nobody says the fps, `dst` is taken, a package or
            an encoder is missing, or a file is damaged.
    """
    require("pyarrow", "writing LeRobot datasets")
    dst, chosen, rate = Path(dst), chosen_episodes(source, episodes), _rate(source, fps)
    jitter = not _regular(source, columns, chosen, rate)
    features = features_of(source, columns, images=images, logged_timestamps=jitter)
    filmed = any(feature.kept == "video" for feature in features.values())
    encoder = choose_encoder(encoder) if filmed else None
    stored = stored_names(source, columns)
    tasks = _tasks(source, task, stored)
    own_splits = (
        source.info.get("splits") if len(chosen) == len(source.lengths) and episodes is None else None
    )
    settings = {
        "to": "lerobot",
        "source": source_fingerprint(source.path),
        "features": {name: [feature.source, feature.kept] for name, feature in features.items()},
        "episodes": chosen,
        "fps": rate,
        "encoder": encoder,
        "tasks": tasks,
        "convention": source.info.get("convention"),
    }
    with destination(dst, settings, resume=resume, overwrite=overwrite) as partial:
        staging = partial / "staging"
        staging.mkdir(exist_ok=True)
        writer = _EpisodeWriter(
            source, features, rate, encoder, None if task else _task_column(source, stored)
        )
        starts = np.cumsum([0, *source.lengths[chosen]])
        for index, episode in enumerate(chosen):
            progress(index, len(chosen))
            folder = staging / f"episode-{index:08d}"
            if not folder.exists():
                shutil.rmtree(staging / "new", ignore_errors=True)
                writer.write(staging / "new", index, episode, int(starts[index]))
                (staging / "new").rename(folder)
        staged = [Staged.load(staging / f"episode-{i:08d}") for i in range(len(chosen))]
        recipe = recipe_of(source, {f.source: f.stored for f in features.values()}, chosen)
        join_episodes(
            partial,
            staged,
            features,
            fps=rate,
            encoder=encoder,
            tasks=tasks,
            robot_type=robot_type or source.info.get("robot_type") or _env_name(source),
            splits=dict(splits or own_splits or {"train": f"0:{len(chosen)}"}),
            recipe=recipe,
        )
        shutil.rmtree(staging)
        progress(len(chosen), len(chosen))
    return dst


class _EpisodeWriter:
    """Writes one episode into a folder: its rows, its videos, and `episode.json` about them."""

    def __init__(
        self,
        source: Source,
        features: Mapping[str, Written],
        fps: float,
        encoder: str | None,
        task_column: str | None,
    ) -> None:
        self.source, self.features, self.fps, self.encoder = source, features, fps, encoder
        self.task_column = task_column
        self.schema = arrow_schema(features)

    def write(self, folder: Path, index: int, episode: int, first_row: int) -> None:
        """Write episode `episode` of the source as number `index`, its rows from `first_row` on."""
        folder.mkdir()
        rows = int(self.source.lengths[episode])
        table: dict[str, Any] = {}
        held = []
        stats, histograms = {}, {}
        for name, feature in self.features.items():
            if feature.kept in ("number", "text"):
                values = self.source.read(episode, [feature.source])[feature.source]
                if feature.kept == "number":
                    if rows and _hold_last(values):
                        held.append(name)
                    stats[name] = number_stats(values)
                table[name] = _entries(values)
            else:
                table[name], histograms[name] = self._frames(folder, episode, name, feature)
                stats[name] = image_stats(histograms[name], rows)
        task = np.zeros(rows, np.int64)
        if self.task_column is not None:
            task = self.source.read(episode, [self.task_column])[self.task_column].astype(np.int64)
        counted: dict[str, np.ndarray] = {
            "timestamp": (np.arange(rows) / self.fps).astype(np.float32),
            "frame_index": np.arange(rows),
            "episode_index": np.full(rows, index),
            "index": first_row + np.arange(rows),
            "task_index": task,
        }
        for name, dtype in BOOKKEEPING.items():
            table[name] = counted[name].astype(dtype)
            stats[name] = number_stats(table[name])
        pyarrow, parquet = require("pyarrow", "writing"), require("pyarrow.parquet", "writing")
        arrays = [pyarrow.array(table[field.name], field.type) for field in self.schema]
        parquet.write_table(pyarrow.table(arrays, schema=self.schema), folder / "rows.parquet")
        about = {
            "length": rows,
            "tasks": list(dict.fromkeys(task.tolist())),
            "held": held,
            "stats": stats,
            "histograms": {name: counts.tolist() for name, counts in histograms.items()},
        }
        write_atomically(folder / "episode.json", json.dumps(about))

    def _frames(self, folder: Path, episode: int, name: str, feature: Written) -> tuple[Any, np.ndarray]:
        """Write one camera's frames; its entries in the table (None for video) and its levels."""
        height, width, channels = feature.column.shape
        counts = np.zeros((channels, 256), np.int64)
        entries: list[dict[str, Any]] = []
        with ExitStack() as stack:
            video = None
            if feature.kept == "video":
                path = folder / f"{name}.mp4"
                assert self.encoder is not None
                video = stack.enter_context(VideoWriter(path, (height, width), self.fps, self.encoder))
            for start, stop in row_blocks(self.source, episode, [feature.source]):
                frames = self.source.read(episode, [feature.source], start, stop)[feature.source]
                counts += histogram(frames)
                if video is not None:
                    video.add(frames)
                else:
                    entries += [
                        {"bytes": _png(frame), "path": f"frame-{start + row:06d}.png"}
                        for row, frame in enumerate(frames)
                    ]
        return entries, counts


def _png(frame: Shaped[np.ndarray, "height width channels"]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(content, "PNG", compress_level=1)
    return content.getvalue()


def _entries(values: Shaped[np.ndarray, "row ..."]) -> Any:  # noqa: ANN401
    """Rows as arrow takes them: scalars flat, anything else as lists."""
    if values.ndim == 2 and values.shape[1] == 1:
        return values[:, 0]
    return values if values.ndim == 1 and values.dtype.kind != "U" else values.tolist()


def _hold_last(values: Shaped[np.ndarray, "row ..."]) -> bool:
    """Repeat the row before in a last row that is NaN, in place; whether it was."""
    if values.dtype.kind != "f" or not np.isnan(values[-1]).all():
        return False
    values[-1] = values[-2] if len(values) > 1 else 0
    return True


def _rate(source: Source, fps: float | None) -> float:
    """Rows a second; a whole number where it is one but for rounding."""
    rate = source.fps if fps is None else fps
    if rate is None:
        raise ValueError(f"{source.path} does not say how many rows a second it has: give fps")
    if not 0 < rate <= 1e6:
        raise ValueError(f"fps must be above 0, got {rate}")
    return round(rate) if abs(rate - round(rate)) < 1e-6 else float(Fraction(rate).limit_denominator(1001))


def _regular(source: Source, columns: Mapping[str, str] | None, episodes: Sequence[int], fps: float) -> bool:
    """Whether logged timestamps are frame_index / fps to the bit, or there are none."""
    stored = {new: name for name, new in stored_names(source, columns).items()}
    name = stored.get("timestamp")
    if name is None or source.columns[name].kind != "scalar":
        return name is None
    if source.columns[name].dtype != "float32":
        return False
    for episode in episodes:
        values = source.read(episode, [name])[name]
        if not np.array_equal(values, (np.arange(len(values)) / fps).astype(np.float32)):
            return False
    return True


def _task_column(source: Source, stored: Mapping[str, str]) -> str | None:
    """The source's column of task numbers, where it also says what they mean."""
    name = next((name for name, new in stored.items() if new == "task_index"), None)
    if name is None or not source.info.get("tasks"):
        return None
    return name if np.dtype(source.columns[name].dtype).kind in "iu" else None


def _tasks(source: Source, task: str | None, stored: Mapping[str, str]) -> list[str]:
    if task is None and _task_column(source, stored) is not None:
        return [str(text) for text in source.info["tasks"]]
    return [task if task is not None else _env_name(source) or "logged"]


def _env_name(source: Source) -> str | None:
    recipe = source.info.get("recipe")
    name = recipe.get("env") if isinstance(recipe, Mapping) else None
    return str(name) if name else None
