"""Pretraining by what actions do: imagined latents against those that follow, and which action it was.

On top of the encoder a small head makes one latent a frame. For each task a predictor of its own imagines
the latents that follow, which must be nearer to the teacher's latents of those frames than to any other in
the batch, and another network tells the action from the latents around it. Head and networks are thrown away
afterwards: what is kept is an encoder whose tokens hold what moves, and what moves it, in whatever look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from .distributed import gathered
from .vit import VideoViT


@dataclass
class DynamicsConfig:
    """Sizes and weights.

    Attributes:
        weight: of the contrast; 0 leaves all of this out.
        inverse_weight: of inverse dynamics.
        batch_size: windows a task and step.
        window: frames of a window; two are seen, the rest imagined.
        latent_dim: numbers a latent.
        token_dim: channels that the head keeps of a token.
        width: hidden width of head, predictors and inverse dynamics.
    """

    weight: float = 1.0
    inverse_weight: float = 5.0
    batch_size: int = 12
    window: int = 4
    latent_dim: int = 64
    token_dim: int = 24
    width: int = 256

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name, least in (
            ("batch_size", 2),
            ("window", 3),
            ("latent_dim", 1),
            ("token_dim", 1),
            ("width", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"dynamics.{name} must be at least {least}, got {getattr(self, name)}")
        if not (self.weight >= 0 and self.inverse_weight >= 0):
            raise ValueError(
                "dynamics.weight and dynamics.inverse_weight must be at least 0, "
                f"got {self.weight} and {self.inverse_weight}"
            )


class FrameHead(nn.Module):
    """One latent a frame from its tokens; statistics of tokens, place by place, are taken out first."""

    usual: Tensor
    seen: Tensor
    spread: Tensor

    def __init__(self, grid_size: int, token_width: int, config: DynamicsConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.grid_size = grid_size
        self.register_buffer("usual", torch.zeros(grid_size**2, token_width))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.reduce = nn.Linear(token_width, config.token_dim)
        self.mix = nn.Conv2d(config.token_dim, config.token_dim, 3, padding=1)
        self.body = nn.Sequential(
            nn.Linear(grid_size**2 * config.token_dim, config.width),
            nn.GELU(),
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.latent_dim),
        )
        self.log_scale = nn.Parameter(torch.tensor(-0.5 * math.log(config.latent_dim)))

    @torch.no_grad()
    def notice(self, tokens: Float[Tensor, "frame token dim"]) -> None:
        """Move the statistics towards those of these tokens."""
        tokens = gathered(tokens.float())
        share = max(0.02, 1 / (int(self.seen) + 1))
        self.usual.lerp_(tokens.mean(dim=0), share)
        self.spread.lerp_((tokens - self.usual).square().mean().sqrt().clamp(min=1e-4), share)
        self.seen += 1

    def forward(self, tokens: Float[Tensor, "frame token dim"]) -> Float[Tensor, "frame latent"]:
        """Latents, standardised over all frames of the batch, times a learned scale."""
        standard = (tokens.float() - self.usual.clone()) / self.spread.clone()
        reduced = F.gelu(self.reduce(standard))
        grid = rearrange(reduced, "n (h w) c -> n c h w", h=self.grid_size)
        latents = self.body((F.gelu(self.mix(grid)) + grid).flatten(1)).float()
        everyone = gathered(latents)
        standardised = (everyone - everyone.mean(dim=0)) / (everyone.var(dim=0, correction=0) + 1e-5).sqrt()
        return standardised * self.log_scale.exp()


class DynamicsObjective(nn.Module):
    """Contrast of imagined with following latents, and inverse dynamics, task by task.

    Sources: the contrast is CPC's, arXiv:1807.03748, with squared distances for similarity; inverse dynamics
    in latent planning: arXiv:2502.14819.
    """

    def __init__(
        self, grid_size: int, token_width: int, action_dims: Sequence[int], config: DynamicsConfig
    ) -> None:
        """Build with random weights for tasks of these numbers of actions."""
        super().__init__()
        self.config = config
        dim, width = config.latent_dim, config.width
        self.head = FrameHead(grid_size, token_width, config)
        self.predictors = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * dim + num, width), nn.GELU(), nn.Linear(width, width), nn.GELU(),
                nn.Linear(width, dim),
            )
            for num in action_dims
        )  # fmt: skip
        self.inverses = nn.ModuleList(
            nn.Sequential(nn.Linear(3 * dim, width), nn.GELU(), nn.Linear(width, num)) for num in action_dims
        )

    def forward(
        self,
        task: int,
        tokens: Float[Tensor, "clip frame token dim"],
        teacher_tokens: Float[Tensor, "clip frame token dim"],
        actions: Float[Tensor, "clip frame action"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses of windows of one task.

        Args:
            task: its number.
            tokens: of each frame, as the encoder sees it.
            teacher_tokens: as the teacher sees it; no gradient flows there.
            actions: of unit variance; each leads from its frame to the next.
        """
        steps = tokens.shape[1]
        self.head.notice(tokens.detach().flatten(0, 1))
        latents = self.head(tokens.flatten(0, 1)).unflatten(0, (-1, steps))
        with torch.no_grad():
            there = self.head(teacher_tokens.flatten(0, 1)).unflatten(0, (-1, steps))
        actions = gathered(actions)
        before, now = latents[:, 0], latents[:, 1]
        imagined = []
        for step in range(1, steps - 1):
            inputs = torch.cat([now, now - before, actions[:, step]], dim=-1)
            before, now = now, now + self.predictors[task](inputs).float()
            imagined.append(now)
        queries = torch.cat([latents, torch.stack(imagined, dim=1)], dim=1)
        frame = torch.arange(there.shape[0] * steps, device=there.device).view(-1, steps)
        answers: Int[Tensor, "clip query"] = torch.cat([frame, frame[:, 2:]], dim=1)
        squared = torch.cdist(queries.flatten(0, 1), there.flatten(0, 1)).square()
        changes = latents[:, 1:] - latents[:, :-1]
        around = torch.cat([latents[:, 2:], changes[:, 1:], changes[:, :-1]], dim=-1)
        told = self.inverses[task](around).float()
        return {
            "contrast": self.config.weight * F.cross_entropy(-squared, answers.flatten()),
            "inverse": self.config.inverse_weight * F.mse_loss(told, actions[:, 1:-1]),
        }


def frame_tokens(
    encoder: VideoViT, clips: Float[Tensor, "clip frame 3 height width"]
) -> Float[Tensor, "clip frame token dim"]:
    """Tokens of each frame on its own, as a still clip of one tubelet."""
    still = clips.flatten(0, 1).unsqueeze(1).expand(-1, encoder.config.tubelet_size, -1, -1, -1)
    return encoder(still).unflatten(0, tuple(clips.shape[:2]))
