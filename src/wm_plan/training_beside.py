"""What wm-train can train beside a model: what draws latents, proposes actions, or decodes latent actions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from .world_model.training_state import STATE_NAME, Progress
from .world_model.weights_io import CONFIG_NAME

if TYPE_CHECKING:
    from .world_model import CompactWorldModel, TokenWorldModel, TrajectoryStore

BESIDE = ("decoder", "prior", "action_decoder")
"""Their names, which are also those of their folders and of their settings."""


def beside_names(text: str) -> list[str]:
    """Read names parted by commas (an argparse type)."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in found:
        if name not in BESIDE:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(BESIDE)}")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; give some of {', '.join(BESIDE)}")
    return found


def train_beside(
    names: Sequence[str],
    model: CompactWorldModel | TokenWorldModel,
    store: TrajectoryStore,
    out: Path,
    config: DictConfig,
    *,
    resume: bool,
    on_stage: Callable[[str], None],
    progress: Progress,
) -> None:
    """Train what `names` say beside the trained model in `out`, each into a folder of its own.

    Args:
        config: has the settings of each under its name.
        resume: go on with each that was begun.

    Raises:
        ValueError: the logs lack what the model sees, or another training is to be resumed.
    """
    from .world_model import train_action_decoder, train_decoder, train_prior

    trainers: dict[str, Callable[..., Any]] = {
        "decoder": train_decoder,
        "prior": train_prior,
        "action_decoder": train_action_decoder,
    }
    whole: Any = OmegaConf.to_object(config)
    for name in names:
        on_stage(name)
        begun = (out / name / STATE_NAME).is_file()
        trainers[name](model, store, out, getattr(whole, name), resume=resume and begun, progress=progress)


def held_out_of(out: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Give what came of each on held-out episodes."""
    return {name: json.loads((out / name / CONFIG_NAME).read_text())["held_out"] for name in names}
