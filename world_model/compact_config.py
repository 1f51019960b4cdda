"""Sizes of a compact world model, and which predictor it has."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class PredictorKind(StrEnum):
    """What imagines the next latent; see `compact_predictors`."""

    mlp = "mlp"
    """A residual MLP of the last few latents: the quickest."""
    gru = "gru"
    """Gated recurrent units, begun from the last few latents."""
    transformer = "transformer"
    """Causal attention over a short window of latents, scaled and shifted by the action."""


@dataclass
class CompactConfig:
    """Sizes of a compact world model.

    Attributes:
        latent_dim: numbers a latent.
        token_dim: channels that the state head keeps of a token.
        head_width: hidden width of the state head.
        history: latents that the predictor sees; 2 give velocity, 3 average its noise.
        predictor: its kind.
        predictor_width: hidden width of the predictor.
        predictor_depth: its residual blocks, recurrent layers or attention blocks.
        predictor_heads: heads of the transformer; they share the width.
        distance_width: hidden width of the temporal-distance head.
    """

    latent_dim: int = 16
    token_dim: int = 32
    head_width: int = 512
    history: int = 3
    predictor: PredictorKind = PredictorKind.mlp
    predictor_width: int = 256
    predictor_depth: int = 2
    predictor_heads: int = 4
    distance_width: int = 256

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> CompactConfig:
        """Read what `asdict` gave to JSON; settings that a file does not know have their defaults.

        Raises:
            TypeError: a setting is unknown.
            ValueError: a setting is out of its range.
        """
        kind = values.get("predictor", PredictorKind.mlp)
        if kind not in list(PredictorKind):
            raise ValueError(f"model.predictor must be one of {', '.join(PredictorKind)}, got {kind!r}")
        return cls(**{**values, "predictor": PredictorKind(kind)})

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        for name, value in asdict(self).items():
            if name != "predictor" and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.predictor is PredictorKind.transformer and self.predictor_width % self.predictor_heads:
            raise ValueError(
                f"predictor_width {self.predictor_width} cannot be shared by predictor_heads "
                f"{self.predictor_heads}; give a multiple"
            )
