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
from torch import Tensor, nn

from .clips import Clips, ClipSampler, LookConfig, PixelValues
from .distributed import average_gradients, gathered, num_ranks, part_of, process_group, rank
from .encoder import JEPAEncoder
from .jepa import JEPA, JEPAConfig
from .monitors import collapse_warning, effective_rank, mean_std, uniformity
from .plain_objective import NUM_FITTED, PlainConfig, PlainObjective, PlainTargets
from .precision import has_fast_bfloat16
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
from .view_objectives import KINDS, ViewConfig, ViewObjective
from .vit import ViTConfig

_MONITORED_CLIPS = 64

OBJECTIVES = ("vjepa", "ijepa", *KINDS)


@dataclass
class PretrainConfig:
    """How an encoder is pretrained.

    Attributes:
        objective: "vjepa" predicts the teacher's latents of masked places of a video, "ijepa" of a frame;
            "vicreg", "barlow_twins" and "sigreg" bring two views together.
        encoder: its sizes.
        jepa: predictor, targets and masks of vjepa and ijepa.
        views: of the other objectives.
        plain: telling what frames show in plain look, beside any objective.
        looks: in which looks clips are seen.
        feature_layers: layers whose outputs are the frozen encoder's tokens; 0 is the patch embedding.
        num_steps: optimiser steps.
        batch_size: clips a step, of all processes together.
        accumulate: parts in which a step's clips are gone through, to save memory; regularisers see one
            part at a time.
        clip_frames: frames a clip; consecutive rows of the log.
        still_rate: fraction of clips that show one frame throughout, as planning will.
        learning_rate: its peak.
        weight_decay: AdamW's.
        momentum: the teacher's at the start; it rises to 1 along a cosine.
        precision: of matrix products: "float32", "bfloat16", or "auto", bfloat16 where that is faster.
        stop_on_collapse: stop when the latents have lost their spread, instead of warning once.
        seed: of weights, clips and masks.
        log_every: steps from one line of metrics to the next.
        probe_every: steps from one probe of the true state to the next, at the line of metrics that follows;
            0 for the last line alone.
        save_every: steps from one checkpoint to the next.
    """

    objective: str = "vjepa"
    encoder: ViTConfig = field(
        default_factory=lambda: ViTConfig(
            stem_width=96, standardise=True, whole_after=3, whole_dim=32, whole_width=384
        )
    )
    jepa: JEPAConfig = field(default_factory=JEPAConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    plain: PlainConfig = field(default_factory=PlainConfig)
    looks: LookConfig = field(default_factory=LookConfig)
    feature_layers: list[int] = field(default_factory=lambda: [4])
    num_steps: int = 6000
    batch_size: int = 8
    accumulate: int = 1
    clip_frames: int = 4
    still_rate: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    momentum: float = 0.99
    precision: str = "auto"
    stop_on_collapse: bool = False
    seed: int = 0
    log_every: int = 50
    probe_every: int = 0
    save_every: int = 200

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if self.precision not in {"auto", "float32", "bfloat16"}:
            raise ValueError(f"precision must be auto, float32 or bfloat16, got {self.precision!r}")
        for name in ("num_steps", "batch_size", "accumulate", "clip_frames", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be gone through in {self.accumulate} equal parts"
            )
        if self.clip_frames > self.encoder.num_frames or self.clip_frames % self.encoder.tubelet_size:
            raise ValueError(
                f"clip_frames must be a multiple of {self.encoder.tubelet_size} "
                f"up to {self.encoder.num_frames}, got {self.clip_frames}"
            )
        if self.probe_every < 0:
            raise ValueError(f"probe_every must be 0 or more steps, got {self.probe_every}")
        for name in ("still_rate", "momentum"):
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


class _Model(nn.Module):
    """Encoder, teacher, and whatever objectives need besides."""

    def __init__(self, config: PretrainConfig, num_tasks: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        size = config.encoder
        self.jepa = JEPA(size, config.jepa)
        masked = config.objective in {"vjepa", "ijepa"}
        num_tubelets = 1 if config.views.between == "times" else config.clip_frames // size.tubelet_size
        num_tokens = num_tubelets * size.grid_size**2
        self.views = None if masked else ViewObjective(config.objective, num_tokens, size.width, config.views)
        self.plain = PlainObjective(size, num_tasks, config.plain) if num_tasks else None

    def clip_losses(
        self, clips: Clips, device: torch.device, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """What the objective says of a batch of clips."""
        seen, plain = clips.seen.to(device), clips.plain.to(device)
        if self.views is None:
            if self.config.objective == "ijepa":
                seen, plain = seen[:, : self._tubelet], plain[:, : self._tubelet]
            return {"masked": self.jepa(seen, generator, plain)}
        if self.config.views.between == "times":
            first, second = seen[:, : self._tubelet], seen[:, -self._tubelet :]
        else:
            first, second = seen, plain
        return self.views(self.jepa.encoder(first), self.jepa.encoder(second), generator)

    def compared(self, pixel_values: PixelValues) -> Tensor:
        """The latents of clips (clip, ..., dim) that predictions or views are compared by."""
        if self.views is None:
            return self.jepa.targets(pixel_values)
        clips = pixel_values[:, : self._tubelet] if self.config.views.between == "times" else pixel_values
        return self.views.latents(self.jepa.encoder(clips))

    def plain_loss(self, task: int, clips: Clips, device: torch.device) -> Tensor:
        """How ill a batch of short clips of one task tells their plain look."""
        assert self.plain is not None
        return self.plain(task, self.jepa.encoder(clips.seen.to(device)), clips.plain.to(device))

    @property
    def _tubelet(self) -> int:
        return self.config.encoder.tubelet_size


class _Data:
    """Where clips come from, of all tasks and of each."""

    def __init__(
        self, store: TrajectoryStore, config: PretrainConfig, preprocess: Callable[..., PixelValues]
    ) -> None:
        """Find the tasks: sources of one env are one."""
        self.config = config
        frames = config.encoder.tubelet_size if config.objective == "ijepa" else config.clip_frames
        still = 1.0 if config.objective == "ijepa" else config.still_rate
        self.clips = ClipSampler(store, frames, config.looks, preprocess, still_rate=still)
        self.tasks: list[ClipSampler] = []
        if config.plain.weight == 0:
            return
        envs = [str(recipe.get("env", index)) for index, recipe in enumerate(store.recipes)]
        for env in dict.fromkeys(envs):
            sources = [index for index, name in enumerate(envs) if name == env]
            self.tasks.append(
                ClipSampler(
                    store, config.encoder.tubelet_size, config.looks, preprocess,
                    sources=sources, still_rate=0.5,
                )
            )  # fmt: skip


def check_logs(store: TrajectoryStore, config: PretrainConfig) -> None:
    """Refuse logs that cannot be pretrained on.

    Raises:
        ValueError: a source lacks a column, or its episodes are too short.
    """
    _Data(store, config, lambda frames: torch.zeros(0))


def pretrain(
    store: TrajectoryStore,
    out: Path,
    config: PretrainConfig,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    record: dict[str, Any] | None = None,
    probe: Callable[[JEPAEncoder], dict[str, float]] | None = None,
    progress: Progress = no_progress,
    on_metrics: Callable[[dict[str, float]], None] = lambda metrics: None,
    warn: Callable[[str], None] = warnings.warn,
) -> JEPAEncoder:
    """Train an encoder and write it, its metrics and its training state into `out`.

    A stopped run resumes to the same weights and metrics as an uninterrupted one, on a device whose
    arithmetic repeats itself, as the CPU's does. Started by torchrun on several processes, each goes through
    its part of every batch, and the first one writes.

    Args:
        store: the logs; of one task or several, in frames of any size.
        out: the run's folder.
        config: objective, sizes, steps.
        resume: go on from `out`'s last checkpoint.
        device: where to train.
        record: what else the checkpoint shall say of its making, as JSON.
        probe: tells what can be read off the frozen encoder, every `probe_every` steps and at the end; what
            it says is logged and changes nothing.
        progress: told after every step; the metrics are those of the last line logged: mean losses since the
            one before, and `std`, `effective_rank` and `uniformity` of the latents that are compared.
        on_metrics: told each line of metrics as it is logged.
        warn: told once if the latents collapse.

    Returns:
        The teacher, frozen; also saved in `out`.

    Raises:
        ValueError: the data has no frames or too short episodes, `out` holds another run, or the latents
            collapse and the run is to stop then.
    """
    device = torch.device(device)
    with process_group(device):
        run = _Pretraining(store, out, config, device, warn)
        run.log, run.probe = on_metrics, probe
        run.begin(resume=resume)
        progress(run.step, config.num_steps, run.metrics)
        while run.step < config.num_steps:
            run.advance()
            progress(run.step, config.num_steps, run.metrics)
        return run.finish(store, record or {})


class _Pretraining:
    """One run; see `pretrain`."""

    def __init__(
        self,
        store: TrajectoryStore,
        out: Path,
        config: PretrainConfig,
        device: torch.device,
        warn: Callable[[str], None],
    ) -> None:
        """Build model, optimiser and samplers."""
        self.began = time.monotonic()
        self.out, self.config, self.device, self.warn = out, config, device, warn
        self.log: Callable[[dict[str, float]], None] = lambda metrics: None
        self.probe: Callable[[JEPAEncoder], dict[str, float]] | None = None
        self.frozen = JEPAEncoder(config.encoder, tuple(config.feature_layers), out.name).to(device)
        self.data = _Data(store, config, self.frozen.preprocess)
        torch.manual_seed(config.seed)
        self.model = _Model(config, len(self.data.tasks)).to(device)
        self.optimizer = torch.optim.AdamW(
            _decay_groups(self.model, config.weight_decay), lr=config.learning_rate
        )
        self.settings = {**asdict(config), "data": store.fingerprint}
        self.monitored = self.data.clips.draw(
            _MONITORED_CLIPS, np.random.default_rng([config.seed, 1]), looks=0.0
        ).plain
        fast = (
            has_fast_bfloat16(device.type) if config.precision == "auto" else config.precision == "bfloat16"
        )
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=fast)
        self.step, self.seconds, self.warned = 0, 0.0, False
        self.sums: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.spread_before: dict[str, float] = {}

    def begin(self, *, resume: bool) -> None:
        """Start anew, or where the last checkpoint was written."""
        if rank() == 0:
            self.out.mkdir(parents=True, exist_ok=True)
        if not resume:
            self._fit_targets()
            self.metrics = self.spread_before = self._spread()
            self._write({"step": 0, **self.metrics})
            return
        state = load_state(self.out)
        check_same_settings(self.out, self.settings, state["settings"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.sums = state["step"], state["seconds"], state["sums"]
        self.metrics, self.spread_before = state["metrics"], state["spread_before"]
        if rank() == 0:
            drop_metrics_after(self.out, self.step)

    def _fit_targets(self) -> None:
        """Take the axes of each task's plain frames."""
        if self.model.plain is None:
            return
        rng = np.random.default_rng([self.config.seed, 2])
        for targets, task in zip(self.model.plain.targets, self.data.tasks, strict=True):
            assert isinstance(targets, PlainTargets)
            targets.fit(task.draw(NUM_FITTED, rng, looks=0.0).plain[:, -1].to(self.device))

    def advance(self) -> None:
        """One optimiser step, and what is due after it."""
        config, done = self.config, self.step + 1
        self.optimizer.zero_grad(set_to_none=True)
        for micro in range(config.accumulate):
            rng = np.random.default_rng([config.seed, 0, self.step, micro])
            losses = self._losses(rng, self.step / config.num_steps)
            (torch.stack(list(losses.values())).sum() / config.accumulate).backward()
            for name, value in losses.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value.detach()) / config.accumulate
        self._update()
        self.step = done
        last = done == config.num_steps
        if done % config.log_every == 0 or last:
            self._log_line()
        if done % config.save_every == 0 or last:
            self._save()

    def _losses(self, rng: np.random.Generator, done: float) -> dict[str, Tensor]:
        """Losses of one part of a step's batch: the objective's, and of telling plain looks."""
        config = self.config
        looks = config.looks.reached_by(done)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        size = config.batch_size // config.accumulate
        clips = self.data.clips.draw(size, rng, looks=looks, part=part_of(size))
        with self.autocast:
            losses = self.model.clip_losses(clips, self.device, generator)
            tasks = rng.permutation(len(self.data.tasks))[: config.plain.tasks_per_step].tolist()
            told = []
            for task in tasks:
                size = config.plain.batch_size
                short = self.data.tasks[task].draw(size, rng, looks=looks, part=part_of(size))
                told.append(self.model.plain_loss(task, short, self.device))
            if told:
                losses["plain"] = torch.stack(told).mean()
        return losses

    def _update(self) -> None:
        """Move the encoder and the rest down the gradient, and the teacher after the encoder."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup_cosine(self.step, config.num_steps)
        average_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        falling = 0.5 * (1 + math.cos(math.pi * self.step / config.num_steps))
        self.model.jepa.update_teacher(1 - (1 - config.momentum) * falling)

    def _log_line(self) -> None:
        """Write a line of metrics; warn of a collapse, or stop."""
        config = self.config
        count = (self.step - 1) % config.log_every + 1
        everyone = gathered(torch.tensor([[value / count for value in self.sums.values()]])).mean(dim=0)
        means = dict(zip(self.sums, everyone.tolist(), strict=True))
        self.metrics = {"loss": sum(means.values()), **means, **self._spread()}
        self.sums = {}
        every = config.probe_every or config.num_steps
        due = self.step == config.num_steps or self.step // every > (self.step - count) // every
        if due and self.probe is not None and rank() == 0:
            self.frozen.vit.load_state_dict(self.model.jepa.teacher.state_dict())
            self.metrics |= self.probe(self.frozen)
        self._write({"step": self.step, **self.metrics})
        line = None if self.warned else collapse_warning(self.spread_before, self.metrics)
        if line is None:
            return
        if config.stop_on_collapse:
            self._save()
            raise ValueError(f"stopped at step {self.step}: {line}")
        self.warned = True
        if rank() == 0:
            self.warn(f"at step {self.step} {line}")

    def _write(self, line: dict[str, float]) -> None:
        if rank() == 0:
            append_metrics(self.out, line)
            self.log(line)

    def _save(self) -> None:
        """Write a checkpoint."""
        if rank() > 0:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds + time.monotonic() - self.began,
            "sums": self.sums,
            "metrics": self.metrics,
            "spread_before": self.spread_before,
            "settings": self.settings,
        }
        save_state(self.out, state)

    @torch.no_grad()
    def _spread(self) -> dict[str, float]:
        """Collapse monitors of the latents that the objective compares, over held clips."""
        latents = self.model.compared(self.monitored.to(self.device))
        deviations = (latents - latents.mean(dim=0)).flatten(0, -2)
        return {
            "std": mean_std(deviations),
            "effective_rank": effective_rank(deviations),
            "uniformity": uniformity(deviations),
        }

    def finish(self, store: TrajectoryStore, record: dict[str, Any]) -> JEPAEncoder:
        """Give the teacher, frozen, and write it."""
        self.frozen.vit.load_state_dict(self.model.jepa.teacher.state_dict())
        self.frozen.training_record = {
            "config": asdict(self.config),
            "data": list(store.recipes),
            "data_fingerprint": store.fingerprint,
            "processes": num_ranks(),
            "seconds": round(self.seconds + time.monotonic() - self.began, 1),
            "metrics": self.metrics,
            **record,
        }
        if rank() == 0:
            self.frozen.save(self.out)
        return self.frozen


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
