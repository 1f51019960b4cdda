"""What a checkpoint says of itself, of whichever family its predictor is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .manifest import write_atomically
from .surprise import SurpriseCalibration
from .weights_io import CONFIG_NAME, load_folder


@dataclass
class ModelMetadata:
    """What a checkpoint says of itself besides sizes: enough to act with it and to judge it.

    Attributes:
        env_name: task that the logs are of.
        frame_skip: env steps a model step.
        control_timestep: seconds an env step.
        image_size: height and width of the logged frames [px].
        camera: its name.
        views: image columns that the model sees, as observations name them; the first is the goal's.
        proprio_dim: numbers of proprio that the model takes; 0 for none.
        action_block: actions a model step, each held for an equal share of its env steps.
        action_low: least action, env units.
        action_high: largest action, env units.
        reach_threshold: largest squared latent distance that counts as reached.
        reach_error_rate: how often that judgement is wrong on held-out pairs near the threshold.
        familiarity_threshold: largest unfamiliarity of 99.5 % of held-out frames.
        open_loop_error: squared error of imagined latents over latent variance, on held-out episodes,
            by horizon.
        surprise: what errors of imagination are usual; None where nobody has measured it.
        latent_changes: mean outer product of what latents show changing within five model steps of held-out
            episodes, (latent, latent); empty where nobody has measured it.
        training: command, data, times and versions.
    """

    env_name: str
    frame_skip: int
    control_timestep: float
    image_size: int
    camera: str
    action_low: list[float]
    action_high: list[float]
    reach_threshold: float = 0.0
    reach_error_rate: float = 0.0
    familiarity_threshold: float = 0.0
    open_loop_error: list[float] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    views: list[str] = field(default_factory=lambda: ["pixels"])
    proprio_dim: int = 0
    action_block: int = 1
    surprise: SurpriseCalibration | None = None
    latent_changes: list[list[float]] = field(default_factory=list)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelMetadata:
        """What a checkpoint's config says.

        Raises:
            TypeError, ValueError: it is damaged.
        """
        surprise = data.get("surprise")
        calibration = None if surprise is None else SurpriseCalibration(**surprise)
        return cls(**{**data, "surprise": calibration})


def save_metadata(metadata: ModelMetadata, folder: str | Path) -> None:
    """Write what a model says of itself into the folder that it is from; its weights stay as they are.

    Raises:
        ValueError: the folder holds no world model.
    """
    config, _ = load_folder(Path(folder), "world-model")
    config["metadata"] = asdict(metadata)
    write_atomically(Path(folder) / CONFIG_NAME, json.dumps(config, indent=1, allow_nan=False) + "\n")
