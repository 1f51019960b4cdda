"""Sizes of a compact world model, and which predictor it has."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class PredictorKind(StrEnum):
    """What imagines the next latent; see `compact_predictors`."""

    mlp = "mlp"
    """A residual MLP of the last few latents: the quickest."""
    gated = "gated"
    """The same, of gated layers, which multiply: for pushes, whose outcome is a product of place and turn."""
    gru = "gru"
    """Gated recurrent units, begun from the last few latents."""
    transformer = "transformer"
    """Causal attention over a short window of latents, scaled and shifted by the action."""


class DistanceKind(StrEnum):
    """What tells the temporal distance; see `distance_heads`."""

    mlp = "mlp"
    """Any function of the two latents and the motion."""
    quasimetric = "quasimetric"
    """One for which the triangle inequality holds, and from a state to itself is no way."""


@dataclass
class CompactConfig:
    """Sizes of a compact world model.

    Attributes:
        latent_dim: numbers a latent.
        keypoints: if any, the head finds so many places in the frame, and the latent keeps the leading
            principal axes of their coordinates; see `compact.Keypoints`.
        token_dim: channels that the state head keeps of a token.
        head_width: hidden width of the state head.
        history: latents that the predictor sees; 2 give velocity, 3 average its noise.
        predictor: its kind.
        predictor_width: hidden width of the predictor.
        predictor_depth: its residual blocks, recurrent layers or attention blocks.
        predictor_heads: heads of the transformer; they share the width.
        ensemble: predictors that learn apart; a rollout is their mean.
        distance_kind: of the temporal-distance head.
        distance_width: its hidden width.
        distance_members: heads that learn apart, against too short a distance; 1 is one alone.
        reward_width: hidden width of the head that tells the logged reward; 0 for none.
    """

    latent_dim: int = 16
    keypoints: int = 0
    token_dim: int = 32
    head_width: int = 512
    history: int = 3
    predictor: PredictorKind = PredictorKind.mlp
    predictor_width: int = 256
    predictor_depth: int = 2
    predictor_heads: int = 4
    ensemble: int = 1
    distance_kind: DistanceKind = DistanceKind.mlp
    distance_width: int = 256
    distance_members: int = 1
    reward_width: int = 0

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> CompactConfig:
        """Read what `asdict` gave to JSON; settings that a file does not know have their defaults.

        Raises:
            TypeError: a setting is unknown.
            ValueError: a setting is out of its range.
        """
        kinds: dict[str, StrEnum] = {}
        for name, choices in (("predictor", PredictorKind), ("distance_kind", DistanceKind)):
            kind = values.get(name, next(iter(choices)))
            if kind not in list(choices):
                raise ValueError(f"model.{name} must be one of {', '.join(choices)}, got {kind!r}")
            kinds[name] = choices(kind)
        return cls(**{**values, **kinds})

    @property
    def coordinates(self) -> int:
        """Numbers of a frame that a latent keeps the principal axes of; `latent_dim` without keypoints."""
        return 2 * self.keypoints or self.latent_dim

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        for name, value in asdict(self).items():
            least = 0 if name in ("keypoints", "reward_width") else 1
            if not isinstance(value, str) and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.coordinates < self.latent_dim:
            raise ValueError(
                f"{self.keypoints} keypoints have {self.coordinates} coordinates, fewer than latent_dim "
                f"{self.latent_dim}; give more keypoints, or a smaller latent_dim"
            )
        if self.predictor is PredictorKind.transformer and self.predictor_width % self.predictor_heads:
            raise ValueError(
                f"predictor_width {self.predictor_width} cannot be shared by predictor_heads "
                f"{self.predictor_heads}; give a multiple"
            )
