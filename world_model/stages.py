"""One loop for every stage of a training: schedule, precision, accumulation, averaged weights, checkpoints.

A stage says what is trained and what a step of it costs; the loop does the rest, in one process or in
several that torchrun started. A stopped run goes on in the stage and at the step of its last checkpoint, and
ends with the same weights and metrics as one that was never stopped.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .distributed import average_gradients, gathered, rank
from .precision import has_fast_bfloat16
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

Losses = Callable[[int, int], dict[str, Tensor]]
"""Called with a step and which part of its batch: the losses of this process's share of that part."""


@dataclass
class OptimiserConfig:
    """How weights are moved, in every stage.

    Attributes:
        learning_rate: peak of AdamW's.
        weight_decay: AdamW's.
        warmup: fraction of a stage's steps in which the rate rises; after it the rate falls along a cosine.
        clip_norm: largest norm of the gradient; 0 for no limit.
        accumulate: parts in which a step's batch is gone through, to save memory; a contrast sees one part.
        ema: decay a step of the running average of weights that is kept in the end; 0 keeps the last ones.
        precision: of matrix products: "float32", "bfloat16", or "auto", bfloat16 where that is faster.
        compile: compile what is trained with torch.compile; it needs a C++ compiler.
        seed: of weights and batches.
        log_every: steps from one line of metrics to the next.
        save_every: steps from one checkpoint to the next.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 0.05
    clip_norm: float = 1.0
    accumulate: int = 1
    ema: float = 0.0
    precision: str = "float32"
    compile: bool = False
    seed: int = 0
    log_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.precision not in {"auto", "float32", "bfloat16"}:
            raise ValueError(f"precision must be auto, float32 or bfloat16, got {self.precision!r}")
        for name in ("accumulate", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not self.weight_decay >= 0 or not self.clip_norm >= 0:
            raise ValueError(
                "learning_rate must be above 0, weight_decay and clip_norm at least 0, "
                f"got {self.learning_rate}, {self.weight_decay} and {self.clip_norm}"
            )

    def check_batch(self, name: str, size: int) -> None:
        """Refuse a batch that cannot be gone through in equal parts."""
        if size % self.accumulate:
            raise ValueError(f"{name} {size} cannot be gone through in {self.accumulate} equal parts")


def part_in_batch(batch_size: int, accumulate: int, part: int) -> slice:
    """Where one part of a batch lies in it."""
    size = batch_size // accumulate
    return slice(part * size, (part + 1) * size)


@dataclass
class Stage:
    """What one stage trains, and what a step of it costs.

    Attributes:
        name: in checkpoints.
        trained: modules whose weights it moves.
        losses: see `Losses`.
        num_steps: optimiser steps.
        learning_rate: its peak.
        weight_decay: AdamW's.
        floor: what the learning rate falls to, as a fraction of its peak.
        clip_norm: largest norm of the gradient; 0 for no limit.
        log_every: steps from one line of metrics to the next.
        kept: modules that only the checkpoint of an unfinished stage needs, such as a target network.
        moved: called when the weights have moved.
        ended: called when they move no more, before what came of it is written.
        judged: an error on held-out data, by which training stops early.
        judge_every: steps from one judgement to the next.
        patience: judgements without a better one after which training stops and takes the best weights;
            0 for never.
    """

    name: str
    trained: Mapping[str, nn.Module]
    losses: Losses
    num_steps: int
    learning_rate: float
    weight_decay: float = 0.0
    floor: float = 0.01
    clip_norm: float = 0.0
    log_every: int = 50
    kept: Mapping[str, nn.Module] = field(default_factory=dict)
    moved: Callable[[], None] = lambda: None
    ended: Callable[[], None] = lambda: None
    judged: Callable[[], float] | None = None
    judge_every: int = 200
    patience: int = 0


class StagedRun:
    """Trains one stage after another.

    Args:
        out: the run's folder.
        model: what the checkpoints are of; its encoder is frozen and left out of them.
        config: how weights are moved.
        settings: what a resumed run must have been begun with.
        device: where it computes.
        progress: told how far a stage is.
    """

    def __init__(
        self,
        out: Path | None,
        model: nn.Module,
        config: OptimiserConfig,
        settings: dict[str, Any],
        device: torch.device | str = "cpu",
        progress: Progress = no_progress,
    ) -> None:
        """Begin; nothing is written yet."""
        self.out, self.model, self.config, self.settings = out, model, config, settings
        self.progress = progress if rank() == 0 else no_progress
        device_type = torch.device(device).type
        fast = (
            has_fast_bfloat16(device_type) if config.precision == "auto" else config.precision == "bfloat16"
        )
        self.autocast = torch.autocast(device_type, torch.bfloat16, enabled=fast)
        self.finished: list[str] = []
        self.first_step = 0
        self.resumed: dict[str, Any] = {}
        self._began, self._seconds = time.monotonic(), 0.0
        if config.compile:
            check_compiler(device_type)

    @property
    def seconds(self) -> float:
        """What it took so far, stopped runs included."""
        return self._seconds + time.monotonic() - self._began

    def resume(self) -> None:
        """Go on from the last checkpoint in `out`.

        Raises:
            ValueError: there is none, or it is of a run with other settings.
        """
        assert self.out is not None
        state = load_state(self.out)
        check_same_settings(self.out, self.settings, state["settings"])
        own = {name: t for name, t in self.model.state_dict().items() if name.startswith("encoder.")}
        self.model.load_state_dict({**own, **state["model"]})
        self.finished, self._seconds, self.resumed = state["finished"], state["seconds"], state
        if rank() == 0:
            drop_metrics_after(self.out, state["first_step"] + state["step"])

    def begun(self, name: str) -> bool:
        """Whether the last checkpoint is of this stage, or of one after it."""
        return name in self.finished or self.resumed.get("stage") == name

    def train(self, stage: Stage) -> None:
        """Go through a stage, or what is left of it; one that a resumed run has finished is left alone."""
        if stage.name not in self.finished:
            with self._compiled(stage):
                _Steps(self, stage).run()
            stage.ended()
            self.finished.append(stage.name)
            self._save(stage, stage.num_steps, {})
        self.first_step += stage.num_steps

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write a line of metrics."""
        if self.out is not None and rank() == 0:
            append_metrics(self.out, {"step": self.first_step + step, **metrics})

    def _save(self, stage: Stage, step: int, unfinished: dict[str, Any]) -> None:
        """Write a checkpoint."""
        if self.out is None or rank() > 0:
            return
        weights = {k: v for k, v in self.model.state_dict().items() if not k.startswith("encoder.")}
        state = {
            "stage": stage.name,
            "finished": self.finished,
            "first_step": self.first_step,
            "step": step,
            "model": weights,
            "seconds": self.seconds,
            "settings": self.settings,
        }
        save_state(self.out, {**state, **unfinished})

    @contextmanager
    def _compiled(self, stage: Stage) -> Iterator[None]:
        """Compile what the stage trains, while it does."""
        modules = stage.trained.values() if self.config.compile else ()
        for module in modules:
            module.compile()
        try:
            yield
        finally:
            for module in modules:
                module._compiled_call_impl = None


class _Steps:
    """The steps of one stage."""

    def __init__(self, run: StagedRun, stage: Stage) -> None:
        """Start anew, or where the last checkpoint was written."""
        self.run_of, self.stage = run, stage
        self.parameters = [p for m in stage.trained.values() for p in m.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=stage.learning_rate, weight_decay=stage.weight_decay
        )
        self.averages = [p.detach().clone() for p in self.parameters] if run.config.ema else []
        self.start, self.best, self.waited = 0, float("inf"), 0
        self.sums: dict[str, float] = {}
        self.best_weights: list[Tensor] = []
        parts = set(run.model.modules())
        self.apart = {k: m for k, m in {**stage.trained, **stage.kept}.items() if m not in parts}
        state = run.resumed
        if state.get("stage") == stage.name:
            for name, module in self.apart.items():
                module.load_state_dict(state["apart"][name])
            self.optimizer.load_state_dict(state["optimizer"])
            self.start, self.sums = state["step"], state["sums"]
            self.best, self.waited = state["best"], state["waited"]
            self.averages, self.best_weights = (
                [saved.to(now.device) for saved, now in zip(state[name], self.parameters, strict=False)]
                for name in ("averages", "best_weights")
            )
            if self.best is None:
                self.best = float("inf")

    def run(self) -> None:
        """Go through the steps that are left."""
        config, stage = self.run_of.config, self.stage
        for step in range(self.start, stage.num_steps):
            self._step(step)
            done, last = step + 1, step + 1 == stage.num_steps
            if done % stage.log_every == 0 or last:
                self._log(done)
            if stage.patience and stage.judged is not None and (done % stage.judge_every == 0 or last):
                self._judge(done)
                if self.waited >= stage.patience:
                    break
            if done % config.save_every == 0 and not last:
                self._save(done)
        if self.best_weights:
            self._take(self.best_weights)
        elif self.averages:
            self._take(self.averages)

    def _step(self, step: int) -> None:
        """Move the weights once."""
        config, stage = self.run_of.config, self.stage
        for group in self.optimizer.param_groups:
            group["lr"] = stage.learning_rate * warmup_cosine(
                step, stage.num_steps, config.warmup, stage.floor
            )
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(config.accumulate):
            with self.run_of.autocast:
                losses = stage.losses(step, part)
            (torch.stack(list(losses.values())).sum() / config.accumulate).backward()
            for name, value in losses.items():
                self.sums[name] = self.sums.get(name, 0.0) + value.item() / config.accumulate
        average_gradients(self.parameters)
        if stage.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, stage.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            if self.averages:
                decay = min(config.ema, (1 + step) / (10 + step))
                torch._foreach_lerp_(self.averages, list(self.parameters), 1 - decay)
            stage.moved()

    def _log(self, done: int) -> None:
        """Write and show the mean losses since the last line, over all processes."""
        count = (done - 1) % self.stage.log_every + 1
        means = gathered(torch.tensor([[value / count for value in self.sums.values()]], dtype=torch.float64))
        metrics = dict(zip(self.sums, means.mean(dim=0).tolist(), strict=True))
        self.sums.clear()
        self.run_of.log(done, metrics)
        self.run_of.progress(done, self.stage.num_steps, metrics)

    def _judge(self, done: int) -> None:
        """See whether the weights, averaged where they are, are the best so far."""
        assert self.stage.judged is not None
        now = [parameter.detach().clone() for parameter in self.parameters]
        self._take(self.averages or now)
        error = self.stage.judged()
        if error < self.best:
            self.best, self.waited = error, 0
            self.best_weights = [parameter.detach().clone() for parameter in self.parameters]
        else:
            self.waited += 1
        self._take(now)
        self.run_of.log(done, {"held_out_error": error})

    @torch.no_grad()
    def _take(self, weights: list[Tensor]) -> None:
        """Put weights into what is trained."""
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.copy_(weight)

    def _save(self, done: int) -> None:
        """Write a checkpoint from which the stage can go on."""
        unfinished = {
            "apart": {name: module.state_dict() for name, module in self.apart.items()},
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums,
            "averages": self.averages,
            "best": self.best if self.best < float("inf") else None,
            "waited": self.waited,
            "best_weights": self.best_weights,
        }
        self.run_of._save(self.stage, done, unfinished)


def check_compiler(device_type: str = "cpu") -> None:
    """Refuse to compile where torch.compile would find no compiler.

    Raises:
        ValueError: saying what is missing and how to do without.
    """
    if device_type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise ValueError(
            "compile=true needs a C++ compiler (g++ or clang++), and none was found; "
            "install one, or leave compile=true out"
        )
