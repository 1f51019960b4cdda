"""Pretraining without a teacher: two views of a clip must agree, and something else keeps latents spread."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .distributed import gathered
from .losses import barlow_twins, sigreg, vicreg

KINDS = ("vicreg", "barlow_twins", "sigreg")


@dataclass
class ViewConfig:
    """How two views are brought together, and latents kept apart.

    Attributes:
        between: "looks", the clip as the encoder and as its teacher would see it; or "times", its first and
            its last tubelet.
        agreement: weight of the squared difference of the two latents (vicreg, sigreg).
        variance: weight of VICReg's variance hinge.
        covariance: weight of VICReg's covariance term.
        redundancy: weight of Barlow Twins' off-diagonal correlations over that of the diagonal.
        sigreg: weight of SIGReg.
        token_dim: channels that the projector keeps of a token.
        width: hidden width of the projector.
        latent_dim: numbers a latent.
    """

    between: str = "looks"
    agreement: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    redundancy: float = 0.005
    sigreg: float = 25.0
    token_dim: int = 16
    width: int = 256
    latent_dim: int = 128

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.between not in {"looks", "times"}:
            raise ValueError(f"views.between must be looks or times, got {self.between!r}")
        for name in ("token_dim", "width", "latent_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"views.{name} must be at least 1, got {getattr(self, name)}")


class ViewObjective(nn.Module):
    """VICReg, Barlow Twins or SIGReg between two views.

    Sources: VICReg, arXiv:2105.04906; Barlow Twins, arXiv:2103.03230; LeJEPA, arXiv:2511.08544.
    """

    def __init__(self, kind: str, num_tokens: int, token_width: int, config: ViewConfig) -> None:
        """Build the projector with random weights."""
        super().__init__()
        self.kind, self.config = kind, config
        self.reduce = nn.Linear(token_width, config.token_dim)
        self.project = nn.Sequential(
            nn.Linear(num_tokens * config.token_dim, config.width),
            nn.GELU(),
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.latent_dim),
        )

    def latents(self, tokens: Float[Tensor, "clip token dim"]) -> Float[Tensor, "clip latent"]:
        """One latent a clip."""
        return self.project(F.gelu(self.reduce(tokens)).flatten(1)).float()

    def forward(
        self,
        first: Float[Tensor, "clip token dim"],
        second: Float[Tensor, "clip token dim"],
        generator: torch.Generator,
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses of the tokens of the two views of each clip."""
        config = self.config
        one, two = gathered(self.latents(first)), gathered(self.latents(second))
        if self.kind == "barlow_twins":
            return {"barlow_twins": barlow_twins(one, two, config.redundancy)}
        losses = {"agreement": config.agreement * F.mse_loss(one, two)}
        if self.kind == "sigreg":
            losses["sigreg"] = config.sigreg * sigreg(torch.cat([one, two]), generator)
            return losses
        for name, pair in zip(
            ("variance", "covariance"), zip(vicreg(one), vicreg(two), strict=True), strict=True
        ):
            losses[name] = getattr(config, name) * (pair[0] + pair[1])
        return losses
