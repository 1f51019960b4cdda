"""Training that goes on from the weights of a model that there is, on logs of a robot much like its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from .compact import CompactWorldModel
from .compact_config import CompactConfig
from .encoder import Encoder
from .metadata import ModelMetadata
from .model_source import model_folder
from .store import TrajectoryStore
from .train_config import TrainConfig
from .weights_io import CONFIG_NAME

BUDGET: dict[str, float] = {
    "num_steps": 300,  # the head moves a little: another robot hardly ever looks quite the same
    "num_look_steps": 0,
    "num_predictor_steps": 1000,
    "learning_rate": 3e-4,  # a third of the first training's: near the weights that there are
    "distance.num_steps": 0,  # few logs show few ways: what is far on one robot is far on the other
    "distance.learning_rate": 3e-4,
    "held_out": 0.1,  # few episodes: a twentieth of them would say nothing
}
"""What fine-tuning takes instead of the defaults of `TrainConfig`."""


def overrides_of(name_or_path: str | Path) -> list[str]:
    """The settings with which training goes on from a model: its sizes, its inputs, and `BUDGET`.

    Raises:
        ValueError: there is no such model, it is damaged, or it is none that can be gone on from.
    """
    path = model_folder(name_or_path) / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("family", "compact") != "compact":
            raise ValueError(f"{str(name_or_path)!r} is a predictor over tokens; --from takes compact ones")
        sizes, metadata = CompactConfig.of_json(config["model"]), ModelMetadata.from_json(config["metadata"])
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} is missing or damaged: {type(error).__name__}") from error
    taken = {
        **{f"model.{name}": value for name, value in asdict(sizes).items()},
        "views": json.dumps(metadata.views),
        "proprio": str(metadata.proprio_dim > 0).lower(),
        "action_block": metadata.action_block,
    }
    return [f"{name}={value}" for name, value in {**taken, **BUDGET}.items()]


def check_start(
    start: CompactWorldModel, store: TrajectoryStore, encoder: Encoder, config: TrainConfig
) -> None:
    """Refuse to go on from a model that does not fit the logs, the encoder or the settings.

    Raises:
        ValueError: naming the first thing that differs.
    """
    metadata = start.metadata
    if start.encoder.fingerprint != encoder.fingerprint:
        raise ValueError(
            f"the model was trained over another encoder than {encoder.name!r}; leave --encoder out"
        )
    for name, value in asdict(start.config).items():
        given = getattr(config.model, name)
        if given != value:
            raise ValueError(
                f"the model has model.{name}={value}, not {given}; leave it as it is, or train anew"
            )
    action_dim = store.columns["action"].shape[-1]
    known = store.recipes[0]
    frame_skip = int(store.setting("frame_skip")) * metadata.action_block
    pairs: Sequence[tuple[str, object, object]] = (
        ("numbers an action", len(metadata.action_low), action_dim),
        ("lowest action", metadata.action_low, known.get("action_low", metadata.action_low)),
        ("highest action", metadata.action_high, known.get("action_high", metadata.action_high)),
        ("env steps a model step", metadata.frame_skip, frame_skip),
        ("actions a model step", metadata.action_block, config.action_block),
        ("cameras", metadata.views, list(config.views)),
        (
            "numbers of proprio",
            metadata.proprio_dim,
            store.columns["proprio"].shape[-1] if config.proprio else 0,
        ),
    )
    for what, of_model, of_logs in pairs:
        if of_model != of_logs:
            raise ValueError(
                f"{what}: the model has {of_model}, the logs or settings {of_logs}; a model can only go on "
                "with logs like its own. Train anew, without --from."
            )


@torch.no_grad()
def begin_with(model: CompactWorldModel, start: CompactWorldModel) -> None:
    """Take over weights, normalisers and the range of actions."""
    own = {name: t for name, t in model.state_dict().items() if name.startswith("encoder.")}
    taken = {name: t for name, t in start.state_dict().items() if not name.startswith("encoder.")}
    model.load_state_dict({**own, **taken})
    model.metadata.action_low = list(start.metadata.action_low)
    model.metadata.action_high = list(start.metadata.action_high)
    model.action_middle.copy_(start.action_middle)
    model.action_half.copy_(start.action_half)


def weights_fingerprint(model: CompactWorldModel) -> str:
    """A digest of the weights, the encoder's left out."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith("encoder."):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
