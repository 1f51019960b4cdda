"""World models: frames to latents, latents and actions to imagined latents; and the logs they learn from."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .action_decoder import (
        ActionDecoder,
        ActionDecoderConfig,
        load_action_decoder,
        train_action_decoder,
    )
    from .compact import CompactWorldModel, load_model
    from .compact_config import CompactConfig
    from .decoder import DecoderConfig, FrameDecoder, load_decoder, train_decoder
    from .dino_wm import DinoWMConfig, DinoWMPredictor
    from .encoder import Encoder, JEPAEncoder, encoder_names, load_encoder
    from .hub import push_to_hub
    from .latent_cache import cached_latents
    from .loading import WindowBatches
    from .model_source import predictor_names
    from .policy_prior import PolicyPrior, PriorConfig, load_prior, train_prior
    from .predictor_training import train_world_model
    from .pretraining import PretrainConfig, pretrain
    from .protocol import Latent, WorldModel
    from .store import TrajectoryStore
    from .store_share import StoreShare
    from .store_writer import StoreWriter
    from .token_model import TokenWorldModel
    from .token_training import TokenTrainConfig, train_token_model
    from .train_config import TrainConfig
    from .vit import ViTConfig
    from .vjepa2_ac import VJEPA2ACConfig, VJEPA2ACPredictor
    from .vjepa2_checkpoint import load_vjepa2_ac

_HOMES = {
    "ActionDecoder": "action_decoder",
    "ActionDecoderConfig": "action_decoder",
    "CompactConfig": "compact_config",
    "CompactWorldModel": "compact",
    "DecoderConfig": "decoder",
    "DinoWMConfig": "dino_wm",
    "DinoWMPredictor": "dino_wm",
    "Encoder": "encoder",
    "FrameDecoder": "decoder",
    "JEPAEncoder": "encoder",
    "Latent": "protocol",
    "PolicyPrior": "policy_prior",
    "PretrainConfig": "pretraining",
    "PriorConfig": "policy_prior",
    "StoreShare": "store_share",
    "StoreWriter": "store_writer",
    "SurpriseMonitor": "surprise",
    "TokenTrainConfig": "token_training",
    "TokenWorldModel": "token_model",
    "TrainConfig": "train_config",
    "TrajectoryStore": "store",
    "VJEPA2ACConfig": "vjepa2_ac",
    "VJEPA2ACPredictor": "vjepa2_ac",
    "ViTConfig": "vit",
    "WindowBatches": "loading",
    "WorldModel": "protocol",
    "cached_latents": "latent_cache",
    "calibrate_changes": "calibration",
    "calibrate_surprise": "calibration",
    "encoder_names": "encoder",
    "load_action_decoder": "action_decoder",
    "load_decoder": "decoder",
    "load_encoder": "encoder",
    "load_model": "compact",
    "load_prior": "policy_prior",
    "load_vjepa2_ac": "vjepa2_checkpoint",
    "predictor_names": "model_source",
    "pretrain": "pretraining",
    "push_to_hub": "hub",
    "save_metadata": "metadata",
    "train_action_decoder": "action_decoder",
    "train_decoder": "decoder",
    "train_prior": "policy_prior",
    "train_token_model": "token_training",
    "train_world_model": "predictor_training",
}

__all__ = [
    "ActionDecoder",
    "ActionDecoderConfig",
    "CompactConfig",
    "CompactWorldModel",
    "DecoderConfig",
    "DinoWMConfig",
    "DinoWMPredictor",
    "Encoder",
    "FrameDecoder",
    "JEPAEncoder",
    "Latent",
    "PolicyPrior",
    "PretrainConfig",
    "PriorConfig",
    "StoreShare",
    "StoreWriter",
    "SurpriseMonitor",
    "TokenTrainConfig",
    "TokenWorldModel",
    "TrainConfig",
    "TrajectoryStore",
    "VJEPA2ACConfig",
    "VJEPA2ACPredictor",
    "ViTConfig",
    "WindowBatches",
    "WorldModel",
    "cached_latents",
    "calibrate_changes",
    "calibrate_surprise",
    "encoder_names",
    "load_action_decoder",
    "load_decoder",
    "load_encoder",
    "load_model",
    "load_prior",
    "load_vjepa2_ac",
    "predictor_names",
    "pretrain",
    "push_to_hub",
    "save_metadata",
    "train_action_decoder",
    "train_decoder",
    "train_prior",
    "train_token_model",
    "train_world_model",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for: reading logs needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
