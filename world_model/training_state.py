"""What training loops share: a learning-rate schedule, JSON lines of metrics, checkpoints to resume from."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STATE_NAME = "training.pt"
METRICS_NAME = "metrics.jsonl"

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with steps done, steps in all and the latest metrics."""


def no_progress(done: int, total: int, metrics: dict[str, float]) -> None:
    """Show nothing."""


def warmup_cosine(step: int, num_steps: int, warmup: float = 0.05, floor: float = 0.01) -> float:
    """Factor on the peak learning rate at `step`: a linear rise, then half a cosine down to `floor`."""
    rise = max(1, round(warmup * num_steps))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, num_steps - rise)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the training state atomically."""
    partial = folder / f".{STATE_NAME}.{secrets.token_hex(4)}"
    try:
        torch.save(state, partial)
        os.replace(partial, folder / STATE_NAME)
    finally:
        partial.unlink(missing_ok=True)


def load_state(folder: Path) -> dict[str, Any]:
    """Read the training state; tensors and plain values only, nothing is unpickled.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} holds no training to resume: it has no {STATE_NAME}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{str(path)!r} is damaged: {type(error).__name__}") from error


def append_metrics(folder: Path, metrics: dict[str, float]) -> None:
    """Add a line of JSON."""
    with (folder / METRICS_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(metrics) + "\n")


def drop_metrics_after(folder: Path, step: int) -> None:
    """Forget the lines that a stopped run wrote after its last checkpoint."""
    path = folder / METRICS_NAME
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
