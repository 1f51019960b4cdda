"""What training loops share: a learning-rate schedule, JSON lines of metrics, checkpoints to resume from.

A checkpoint is one safetensors file: the tensors of a nested state, and in its header the rest as JSON.
Nothing is pickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .manifest import write_atomically

STATE_NAME = "training.safetensors"
METRICS_NAME = "metrics.jsonl"
_FORMAT = "wm-plan-training"
_VERSION = "1"

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
    """Write a training state atomically.

    Args:
        folder: the run's.
        state: dicts, lists, tensors and what JSON can say, nested as the `state_dict` of an optimizer is;
            tuples come back as lists.
    """
    tensors: dict[str, Tensor] = {}
    header = json.dumps(_without_tensors(state, tensors))
    data = save(tensors, {"format": _FORMAT, "version": _VERSION, "state": header})
    write_atomically(folder / STATE_NAME, data)


def load_state(folder: Path) -> dict[str, Any]:
    """Read the training state; its tensors are on the CPU.

    Raises:
        ValueError: there is none, it is damaged, or it is something else.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} holds no training to resume: it has no {STATE_NAME}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if (header.get("format"), header.get("version")) != (_FORMAT, _VERSION):
                raise ValueError(f"{str(path)!r} is no training state that this release can resume")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _with_tensors(json.loads(header["state"]), tensors)
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {type(error).__name__}") from error


def check_same_settings(folder: Path, given: dict[str, Any], saved: dict[str, Any]) -> None:
    """Refuse to go on with a run under other settings than it was begun with.

    Raises:
        ValueError: naming the first setting that differs, as in `encoder.depth`.
    """
    now, then = (dict(_leaves(json.loads(json.dumps(tree)))) for tree in (given, saved))
    for name in [*now, *then]:
        if now.get(name) != then.get(name):
            raise ValueError(
                f"{str(folder)!r} was trained with {name} {then.get(name)!r}, not {now.get(name)!r}; "
                "resume with the same, or train into another folder"
            )


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
    write_atomically(path, "".join(f"{line}\n" for line in kept))


def _without_tensors(node: object, tensors: dict[str, Tensor]) -> object:
    """The same tree for JSON: a tensor becomes the name under which it is put into `tensors`."""
    if isinstance(node, Tensor):
        name = str(len(tensors))
        tensors[name] = node.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(node, dict):
        return {"items": [[key, _without_tensors(value, tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return [_without_tensors(value, tensors) for value in node]
    return node


def _with_tensors(node: Any, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401
    """What `_without_tensors` was given."""
    if isinstance(node, dict):
        if "tensor" in node:
            return tensors[node["tensor"]]
        return {key: _with_tensors(value, tensors) for key, value in node["items"]}
    if isinstance(node, list):
        return [_with_tensors(value, tensors) for value in node]
    return node


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, object]]:  # noqa: ANN401
    """The dotted names of a tree's values."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node
