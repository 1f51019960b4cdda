"""Clips to pretrain on: consecutive frames of logs, as the encoder sees them and as its teacher does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from .augment import photometric_view
from .store import TrajectoryStore
from .windows import Windows

Frames = UInt8[np.ndarray, "clip frame height width 3"]
PixelValues = Float[Tensor, "clip frame 3 size size"]


@dataclass
class LookConfig:
    """In which looks clips are seen.

    Attributes:
        varied_rate: fraction of clips in varied looks, where the log has them.
        augment_rate: fraction of clips in another light, with other colours or an occluder; see
            `photometric_view`.
        rising: fraction of the training over which both rates rise from 0.
        teacher_sees_plain: the teacher sees the same clip in its plain look: latents are to be what they
            would be without all this.
    """

    varied_rate: float = 0.5
    augment_rate: float = 0.5
    rising: float = 0.5
    teacher_sees_plain: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no rate."""
        for name in ("varied_rate", "augment_rate", "rising"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")

    def reached_by(self, done: float) -> float:
        """How much of the rates holds when this fraction of the training is done."""
        return 1.0 if self.rising == 0 else min(1.0, done / self.rising)


@dataclass
class Clips:
    """A batch of clips.

    Attributes:
        seen: what the encoder sees, (B, T, 3, H, W).
        plain: what its teacher sees.
    """

    seen: PixelValues
    plain: PixelValues


class ClipSampler:
    """Draws clips of consecutive frames from some sources, equally often, in plain and in other looks.

    What is drawn depends on the generators given and on nothing else: of a batch that several processes
    share, each reads its own part alone.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        num_frames: int,
        looks: LookConfig,
        preprocess: Callable[[Frames], PixelValues],
        *,
        sources: Sequence[int] | None = None,
        still_rate: float = 0.0,
    ) -> None:
        """Look up where clips may start; raises what `clip_windows` raises."""
        self._store, self._looks, self._preprocess = store, looks, preprocess
        self._sources = list(range(len(store.paths)) if sources is None else sources)
        self._still_rate, self._num_frames = still_rate, num_frames
        self._windows = {source: clip_windows(store, source, num_frames) for source in self._sources}
        has_varied = rows_with_varied(store) if looks.varied_rate > 0 else None
        self._varied = {
            source: has_varied is not None and bool(has_varied[store.offsets[store.sources == source]].all())
            for source in self._sources
        }
        self._periods = [recipe.get("look_period") or 1 for recipe in store.recipes]

    def draw(
        self,
        num_clips: int,
        rng: np.random.Generator,
        *,
        looks: float = 1.0,
        part: slice = slice(None),
    ) -> Clips:
        """Draw clips independently; sources may have frames of different sizes.

        Args:
            num_clips: clips of the whole batch.
            rng: decides everything.
            looks: how much of the looks' rates holds.
            part: which of the batch's clips are read and given.
        """
        picked = rng.integers(len(self._sources), size=num_clips)
        sources = np.array(self._sources)[picked]
        wants_varied = rng.random(num_clips) < looks * self._looks.varied_rate
        still = rng.random(num_clips) < self._still_rate
        changed = torch.from_numpy(rng.random(num_clips) < looks * self._looks.augment_rate)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rows = np.empty((num_clips, self._num_frames), np.int64)
        varied = np.zeros(num_clips, bool)
        for source in self._sources:
            chosen = np.flatnonzero(sources == source)
            rows[chosen] = self._windows[source].sample(len(chosen), rng)
            varied[chosen] = wants_varied[chosen] & self._varied[source]
        rows[varied] = self._in_one_look(rows[varied], sources[varied])
        rows = np.where(still[:, None], rows[:, :1], rows)
        mine = np.arange(num_clips)[part]
        plain = self._read(rows[mine], sources[mine], np.zeros(len(mine), bool))
        seen = plain.clone()
        if varied[mine].any():
            there = np.flatnonzero(varied[mine])
            seen[torch.from_numpy(there)] = self._read(
                rows[mine][there], sources[mine][there], np.ones(len(there), bool)
            )
        teacher = plain if self._looks.teacher_sees_plain else seen
        return Clips(photometric_view(seen, changed, generator, part), teacher)

    def _read(
        self,
        rows: Int[np.ndarray, "clip frame"],
        sources: Int[np.ndarray, " clip"],
        varied: np.ndarray,
    ) -> PixelValues:
        """Read and preprocess clips, source by source."""
        clips: list[Tensor] = []
        order: list[np.ndarray] = []
        for source in np.unique(sources).tolist():
            chosen = np.flatnonzero(sources == source)
            column = "pixels_varied" if varied[chosen[0]] else "pixels"
            clips.append(self._preprocess(self._store.read_windows(column, rows[chosen])))
            order.append(chosen)
        return torch.cat(clips)[torch.from_numpy(np.argsort(np.concatenate(order)))]

    def _in_one_look(
        self, rows: Int[np.ndarray, "clip frame"], sources: Int[np.ndarray, " clip"]
    ) -> Int[np.ndarray, "clip frame"]:
        """Move clips back so that one look spans them."""
        store = self._store
        period = np.array([self._periods[source] for source in sources], np.int64)
        episodes = np.searchsorted(store.offsets, rows[:, 0], side="right") - 1
        in_period = (rows[:, 0] - store.offsets[episodes]) % np.maximum(period, 1)
        slack = np.maximum(0, period - self._num_frames)
        return rows - np.minimum(np.maximum(in_period - slack, 0), in_period)[:, None]


def clip_windows(store: TrajectoryStore, source: int, num_frames: int) -> Windows:
    """Where clips may start in a source.

    Raises:
        ValueError: it lacks the column `pixels`, or none of its episodes is long enough.
    """
    episodes = np.flatnonzero(store.sources == source)
    if not store.rows_with("pixels")[store.offsets[episodes]].all():
        raise ValueError(f"{store.paths[source]} has no column 'pixels'; pretraining needs frames")
    return store.windows(num_frames, 0, episodes=episodes)


def rows_with_varied(store: TrajectoryStore) -> np.ndarray | None:
    """Which rows have a frame in a varied look; None if no source has any."""
    try:
        return store.rows_with("pixels_varied")
    except ValueError:
        return None
