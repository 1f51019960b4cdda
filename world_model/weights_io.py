"""Folders that hold a model: `config.json` beside `model.safetensors`, never pickled, written atomically."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from .manifest import write_atomically

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
VERSION = 1


def save_folder(folder: Path, kind: str, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write `tensors` and `config` into `folder`, each file at once: a stop leaves no half of one.

    Args:
        kind: what the folder holds, such as "encoder"; checked on loading.
        config: anything JSON can say.
        tensors: saved as they are, dtype included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    version = metadata.version("wm-plan")
    data = {"format": f"wm-plan-{kind}", "version": VERSION, "library_version": version, **config}
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_atomically(folder / WEIGHTS_NAME, weights)
    write_atomically(folder / CONFIG_NAME, json.dumps(data, indent=1, allow_nan=False) + "\n")


def load_folder(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_folder` wrote.

    Raises:
        ValueError: the folder is missing, damaged, holds another kind of model, or a newer format.
    """
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is not a folder; give the folder that holds {CONFIG_NAME}")
    path = folder / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{str(folder)!r} holds no {kind}: it has no {CONFIG_NAME}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error
    found = config.get("format") if isinstance(config, dict) else None
    if found != f"wm-plan-{kind}":
        raise ValueError(f"{str(folder)!r} holds no {kind}: its format is {found!r}, not 'wm-plan-{kind}'")
    if config.get("version") != VERSION:
        raise ValueError(
            f"{str(path)!r} has version {config.get('version')!r}; this release reads {VERSION}: "
            "update wm-plan"
        )
    weights = folder / WEIGHTS_NAME
    try:
        return config, load_file(weights)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(weights)!r} cannot be read: {error}") from error


def load_weights(module: torch.nn.Module, tensors: dict[str, Tensor], source: Path | str) -> None:
    """Put `tensors` into `module`, every one of them and no other.

    Raises:
        ValueError: naming the first tensor that is missing, unknown or of another shape.
    """
    wanted = module.state_dict()
    # Tensors without a number, as of proprio that a model does not use, need not be in a file.
    tensors = {name: tensor for name, tensor in wanted.items() if not tensor.numel()} | tensors
    for name, tensor in wanted.items():
        if name not in tensors:
            raise ValueError(f"{str(source)!r} does not fit its config: tensor {name!r} is missing")
        if tensors[name].shape != tensor.shape:
            raise ValueError(
                f"{str(source)!r} does not fit its config: {name!r} is {tuple(tensors[name].shape)}, "
                f"it should be {tuple(tensor.shape)}"
            )
    unknown = sorted(set(tensors) - set(wanted))
    if unknown:
        raise ValueError(f"{str(source)!r} does not fit its config: tensor {unknown[0]!r} is unknown")
    module.load_state_dict({name: tensors[name].to(tensor.dtype) for name, tensor in wanted.items()})
