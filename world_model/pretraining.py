"""Pretraining a V-JEPA encoder on logged video of one or several tasks."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from .encoder import JEPAEncoder
from .jepa import JEPA, JEPAConfig
from .monitors import collapse_warning, effective_rank, mean_std
from .store import TrajectoryStore
from .training_state import (
    Progress,
    append_metrics,
    check_same_settings,
    drop_metrics_after,
    load_state,
    no_progress,
    save_state,
    warmup_cosine,
)
from .vit import ViTConfig
from .windows import Windows

_MONITORED_CLIPS = 64

_Clips = UInt8[np.ndarray, "clip frame height width 3"]
_PixelValues = Float[Tensor, "clip frame 3 size size"]


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
    feature_layers: list[int] = field(default_factory=lambda: [2])
    num_steps: int = 1600
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
        for name in ("still_rate", "varied_rate", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ValueError(
                "learning_rate must be above 0 and weight_decay at least 0, "
                f"got {self.learning_rate} and {self.weight_decay}"
            )
        for name, layers, first in (
            ("feature_layers", self.feature_layers, 0),
            ("jepa.target_layers", self.jepa.target_layers, 1),
        ):
            if not layers or min(layers) < first or max(layers) > self.encoder.depth:
                raise ValueError(
                    f"{name} must be numbers from {first} to {self.encoder.depth} (encoder.depth), "
                    f"got {layers}"
                )


class ClipSampler:
    """Draws clips of consecutive frames, from each source equally often, in plain and in varied looks."""

    def __init__(
        self,
        store: TrajectoryStore,
        config: PretrainConfig,
        preprocess: Callable[[_Clips], _PixelValues],
    ) -> None:
        """Look up where clips may start; raises what `check` raises."""
        self._store, self._config, self._preprocess = store, config, preprocess
        self._windows = self.check(store, config)
        has_varied = store.rows_with("pixels_varied") if config.varied_rate > 0 and _varied(store) else None
        self._varied = [
            has_varied is not None and bool(has_varied[store.offsets[store.sources == source]].all())
            for source in range(len(store.paths))
        ]
        self._periods = [recipe.get("look_period") or 1 for recipe in store.recipes]

    @staticmethod
    def check(store: TrajectoryStore, config: PretrainConfig) -> list[Windows]:
        """Where clips may start in each source.

        Raises:
            ValueError: a source lacks the column `pixels`, or none of its episodes is long enough.
        """
        has_pixels, windows = store.rows_with("pixels"), []
        for source, path in enumerate(store.paths):
            episodes = np.flatnonzero(store.sources == source)
            if not has_pixels[store.offsets[episodes]].all():
                raise ValueError(f"{path} has no column 'pixels'; pretraining needs frames")
            windows.append(store.windows(config.clip_frames, 0, episodes=episodes))
        return windows

    def draw(self, num_clips: int, rng: np.random.Generator) -> _PixelValues:
        """Draw clips independently; sources may have frames of different sizes."""
        sources = rng.integers(len(self._windows), size=num_clips)
        varied = rng.random(num_clips) < self._config.varied_rate
        clips: list[Tensor] = []
        order: list[np.ndarray] = []
        for source in np.unique(sources).tolist():
            for wanted in (False, True):
                chosen = np.flatnonzero((sources == source) & (varied == wanted))
                if len(chosen) == 0:
                    continue
                column = "pixels_varied" if wanted and self._varied[source] else "pixels"
                rows = self._rows(source, len(chosen), column, rng)
                clips.append(self._preprocess(self._store.read_windows(column, rows)))
                order.append(chosen)
        return torch.cat(clips)[torch.from_numpy(np.argsort(np.concatenate(order)))]

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


def _varied(store: TrajectoryStore) -> bool:
    """Whether any source has frames in varied looks."""
    try:
        store.rows_with("pixels_varied")
    except ValueError:
        return False
    return True


def pretrain(
    store: TrajectoryStore,
    out: Path,
    config: PretrainConfig,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    record: dict[str, Any] | None = None,
    progress: Progress = no_progress,
    warn: Callable[[str], None] = warnings.warn,
) -> JEPAEncoder:
    """Train an encoder and write it, its metrics and its training state into `out`.

    A stopped run resumes to the same weights and metrics as an uninterrupted one, on a device whose
    arithmetic repeats itself, as the CPU's does.

    Args:
        store: the logs; of one task or several, in frames of any size.
        out: the run's folder.
        config: sizes, masks, steps.
        resume: go on from `out`'s last checkpoint.
        device: where to train.
        record: what else the checkpoint shall say of its making, as JSON.
        progress: told after every step; the metrics are those of the last line logged: mean loss since the
            one before, and the teacher's `std` and `effective_rank`.
        warn: told once if the latents collapse.

    Returns:
        The teacher, frozen; also saved in `out`.

    Raises:
        ValueError: the data has no frames or too short episodes, or `out` holds another run.
    """
    began = time.monotonic()
    torch.manual_seed(config.seed)
    model = JEPA(config.encoder, config.jepa).to(device)
    optimizer = torch.optim.AdamW(_decay_groups(model, config.weight_decay), lr=config.learning_rate)
    frozen = JEPAEncoder(config.encoder, tuple(config.feature_layers), out.name).to(device)
    clips = ClipSampler(store, config, frozen.preprocess)
    monitored = clips.draw(_MONITORED_CLIPS, np.random.default_rng([config.seed, 1]))
    settings = {**asdict(config), "data": store.fingerprint}
    start, seconds, total_loss = 0, 0.0, 0.0
    out.mkdir(parents=True, exist_ok=True)
    if resume:
        state = load_state(out)
        check_same_settings(out, settings, state["settings"])
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]
        total_loss, metrics = state["total_loss"], state["metrics"]
        spread_before = state["spread_before"]
        drop_metrics_after(out, start)
    else:
        metrics = spread_before = _spread(model, monitored)
        append_metrics(out, {"step": 0, **metrics})
    progress(start, config.num_steps, metrics)
    warned = False
    for step in range(start, config.num_steps):
        rng = np.random.default_rng([config.seed, 0, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        loss = model(clips.draw(config.batch_size, rng), generator)
        _update(model, optimizer, loss, step, config)
        total_loss += loss.item()
        done = step + 1
        if done % config.log_every == 0 or done == config.num_steps:
            metrics = {"loss": total_loss / (step % config.log_every + 1), **_spread(model, monitored)}
            total_loss = 0.0
            append_metrics(out, {"step": done, **metrics})
            line = None if warned else collapse_warning(spread_before, metrics)
            if line is not None:
                warn(f"at step {done} {line}")
                warned = True
        if done % config.save_every == 0 or done == config.num_steps:
            save_state(
                out,
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "seconds": seconds + time.monotonic() - began,
                    "total_loss": total_loss,
                    "metrics": metrics,
                    "spread_before": spread_before,
                    "settings": settings,
                },
            )
        progress(done, config.num_steps, metrics)
    frozen.vit.load_state_dict(model.teacher.state_dict())
    frozen.training_record = {
        "config": asdict(config),
        "data": list(store.recipes),
        "data_fingerprint": store.fingerprint,
        "seconds": round(seconds + time.monotonic() - began, 1),
        "metrics": metrics,
        **(record or {}),
    }
    frozen.save(out)
    return frozen


def _update(
    model: JEPA, optimizer: torch.optim.Optimizer, loss: Tensor, step: int, config: PretrainConfig
) -> None:
    """Move the encoder and the predictor down the gradient, and the teacher after the encoder."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * warmup_cosine(step, config.num_steps)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    falling = 0.5 * (1 + math.cos(math.pi * step / config.num_steps))
    model.update_teacher(1 - (1 - config.momentum) * falling)


@torch.no_grad()
def _spread(model: JEPA, pixel_values: _PixelValues) -> dict[str, float]:
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
