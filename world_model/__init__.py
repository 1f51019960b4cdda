"""World models: frames to latents, latents and actions to imagined latents; and the logs they learn from."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compact import CompactConfig, CompactWorldModel, load_model, predictor_names
    from .encoder import Encoder, JEPAEncoder, encoder_names, load_encoder
    from .latent_cache import cached_latents
    from .predictor_training import TrainConfig, train_world_model
    from .pretraining import PretrainConfig, pretrain
    from .protocol import Latent, WorldModel
    from .store import TrajectoryStore
    from .store_writer import StoreWriter
    from .vit import ViTConfig

_HOMES = {
    "CompactConfig": "compact",
    "CompactWorldModel": "compact",
    "Encoder": "encoder",
    "JEPAEncoder": "encoder",
    "Latent": "protocol",
    "PretrainConfig": "pretraining",
    "StoreWriter": "store_writer",
    "TrainConfig": "predictor_training",
    "TrajectoryStore": "store",
    "ViTConfig": "vit",
    "WorldModel": "protocol",
    "cached_latents": "latent_cache",
    "encoder_names": "encoder",
    "load_encoder": "encoder",
    "load_model": "compact",
    "predictor_names": "compact",
    "pretrain": "pretraining",
    "train_world_model": "predictor_training",
}

__all__ = [
    "CompactConfig",
    "CompactWorldModel",
    "Encoder",
    "JEPAEncoder",
    "Latent",
    "PretrainConfig",
    "StoreWriter",
    "TrainConfig",
    "TrajectoryStore",
    "ViTConfig",
    "WorldModel",
    "cached_latents",
    "encoder_names",
    "load_encoder",
    "load_model",
    "predictor_names",
    "pretrain",
    "train_world_model",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for: reading logs needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
