"""Pretraining a V-JEPA encoder on logged video of one or several tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from .encoder import JEPAEncoder
from .jepa import JEPA, JEPAConfig
from .monitors import effective_rank, mean_std
from .store import TrajectoryStore
from .training_state import (
    Progress,
    append_metrics,
    drop_metrics_after,
    load_state,
    no_progress,
    save_state,
    warmup_cosine,
)
from .vit import ViTConfig

_COLUMNS = ("pixels", "pixels_varied")
_MONITORED_CLIPS = 64


@dataclass
class PretrainConfig:
    """How an encoder is pretrained.

    Attributes:
        encoder: its sizes.
        jepa: predictor, targets and masks.
        feature_layers: layers whose outputs are the frozen encoder's tokens; 0 is the patch embedding.
        num_steps: optimiser steps.
        batch_size: clips a step.
        clip_frames: frames a clip; consecutive rows of the log.
        still_rate: fraction of clips that show one frame throughout, as planning will.
        varied_rate: fraction of clips in varied looks, where the log has them.
        learning_rate: its peak.
        weight_decay: AdamW's.
        momentum: the teacher's at the start; it rises to 1 along a cosine.
        seed: of weights, clips and masks.
        log_every: steps from one line of metrics to the next.
        save_every: steps from one checkpoint to the next.
    """

    encoder: ViTConfig = field(default_factory=ViTConfig)
    jepa: JEPAConfig = field(default_factory=JEPAConfig)
    feature_layers: Sequence[int] = (2, 4)
    num_steps: int = 2000
    batch_size: int = 32
    clip_frames: int = 4
    still_rate: float = 0.3
    varied_rate: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 0.04
    momentum: float = 0.99
    seed: int = 0
    log_every: int = 20
    save_every: int = 100

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("num_steps", "batch_size", "clip_frames", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.clip_frames > self.encoder.num_frames or self.clip_frames % self.encoder.tubelet_size:
            raise ValueError(
                f"clip_frames must be a multiple of {self.encoder.tubelet_size} "
                f"up to {self.encoder.num_frames}, got {self.clip_frames}"
            )


class ClipSampler:
    """Draws clips of consecutive frames, from each source equally often, in plain and in varied looks."""

    def __init__(self, store: TrajectoryStore, config: PretrainConfig) -> None:
        """Look up where clips may start.

        Raises:
            ValueError: no source has the column `pixels`, or no episode is long enough.
        """
        self._store, self._config = store, config
        self._windows = [
            store.windows(config.clip_frames, 0, episodes=np.flatnonzero(store.sources == source))
            for source in range(len(store.paths))
        ]
        store.rows_with("pixels")
        has_varied = store.rows_with("pixels_varied") if "pixels_varied" in store.columns else None
        self._varied = [
            has_varied is not None and bool(has_varied[store.offsets[store.sources == source]].all())
            for source in range(len(store.paths))
        ]
        self._periods = [recipe.get("look_period") or 1 for recipe in store.recipes]

    def draw(self, num_clips: int, rng: np.random.Generator) -> UInt8[np.ndarray, "clip frame height width 3"]:
        """Draw clips independently."""
        clips: list[np.ndarray | None] = [None] * num_clips
        sources = rng.integers(len(self._windows), size=num_clips)
        varied = rng.random(num_clips) < self._config.varied_rate
        for source in np.unique(sources):
            for column in _COLUMNS:
                chosen = np.flatnonzero((sources == source) & (varied == (column == "pixels_varied")))
                if len(chosen) == 0:
                    continue
                in_column = column if column == "pixels" or self._varied[source] else "pixels"
                rows = self._rows(source, len(chosen), in_column, rng)
                for index, clip in zip(chosen, self._store.read_windows(in_column, rows), strict=True):
                    clips[index] = clip
        return np.stack([clip for clip in clips if clip is not None])

    def _rows(
        self, source: int, num_clips: int, column: str, rng: np.random.Generator
    ) -> Int[np.ndarray, "clip frame"]:
        """Rows of clips; in varied looks, of clips that one look spans."""
        rows = self._windows[source].sample(num_clips, rng)
        if column == "pixels_varied":
            store, period = self._store, self._periods[source]
            episodes = np.searchsorted(store.offsets, rows[:, 0], side="right") - 1
            in_period = (rows[:, 0] - store.offsets[episodes]) % period
            slack = max(0, period - self._config.clip_frames)
            rows = rows - np.minimum(np.maximum(in_period - slack, 0), in_period)[:, None]
        still = rng.random(num_clips) < self._config.still_rate
        return np.where(still[:, None], rows[:, :1], rows)


def pretrain(
    store: TrajectoryStore,
    out: Path,
    config: PretrainConfig,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> JEPAEncoder:
    """Train an encoder and write it, its metrics and its training state into `out`.

    A stopped run resumes to the same weights as an uninterrupted one.

    Returns:
        The teacher, frozen; also saved in `out`.
    """
    torch.manual_seed(config.seed)
    model = JEPA(config.encoder, config.jepa).to(device)
    optimizer = torch.optim.AdamW(_decay_groups(model, config.weight_decay), lr=config.learning_rate)
    out.mkdir(parents=True, exist_ok=True)
    start = 0
    if resume:
        state = load_state(out)
        if state["config"] != repr(config):
            raise ValueError(f"{str(out)!r} was trained with another config; resume with the same one")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        drop_metrics_after(out, start)
    clips = ClipSampler(store, config)
    frozen = JEPAEncoder(config.encoder, tuple(config.feature_layers), out.name).to(device)
    monitored = frozen.preprocess(clips.draw(_MONITORED_CLIPS, np.random.default_rng([config.seed, 1])))
    running = 0.0
    for step in range(start, config.num_steps):
        rng = np.random.default_rng([config.seed, 0, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pixel_values = frozen.preprocess(clips.draw(config.batch_size, rng))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup_cosine(step, config.num_steps)
        loss = model(pixel_values, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rise = 0.5 * (1 + math.cos(math.pi * step / config.num_steps))
        model.update_teacher(1 - (1 - config.momentum) * rise)
        running += loss.item()
        if (step + 1) % config.log_every == 0 or step + 1 == config.num_steps:
            metrics = {"loss": running / ((step % config.log_every) + 1), **_spread(model, monitored)}
            running = 0.0
            append_metrics(out, {"step": step + 1, **metrics})
            progress(step + 1, config.num_steps, metrics)
        if (step + 1) % config.save_every == 0 or step + 1 == config.num_steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_state(out, {**state, "config": repr(config)})
    frozen.vit.load_state_dict(model.teacher.state_dict())
    frozen.training_record = {
        "config": asdict(config),
        "data": [recipe for recipe in store.recipes],
        "data_fingerprint": store.fingerprint,
    }
    frozen.save(out)
    return frozen


@torch.no_grad()
def _spread(model: JEPA, pixel_values: Tensor) -> dict[str, float]:
    """Collapse monitors of the teacher's last layer, over the tokens of held clips."""
    tokens = model.teacher(pixel_values)
    deviations = (tokens - tokens.mean(dim=0)).flatten(0, 1)
    return {"std": mean_std(deviations), "effective_rank": effective_rank(deviations)}


def _decay_groups(model: JEPA, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
