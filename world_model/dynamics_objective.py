"""Pretraining by what actions do: imagined latents against those that follow, and which action it was.

On top of the encoder a small head makes one latent of a clip's mean token. For each task a predictor of its
own imagines the latents that follow, which must be nearer to those of the frames in plain look than to any
others in the batch, and another network tells the action from the latents around it. It imagines from two
still frames, and from one clip in motion, whose latent must tell the velocity, too. Head and networks are
thrown away afterwards: what is kept is an encoder whose tokens hold what moves, and what moves it, in
whatever look. The mean token has to say it: a head over all places lets tokens stay as they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .distributed import gathered
from .vit import VideoViT

_APART = 8.0
"""Half the squared distance of unlike latents at first: softer, nothing is told apart for long."""


@dataclass
class DynamicsConfig:
    """Sizes and weights.

    Attributes:
        weight: of the contrast; 0 leaves all of this out.
        inverse_weight: of inverse dynamics.
        batch_size: windows a task and step; all of them are told from one another.
        tasks_per_step: tasks a step, drawn anew; all, where there are no more.
        window: frames of a window; two are seen, the rest imagined.
        latent_dim: numbers a latent.
        width: hidden width of head, predictors and inverse dynamics.
    """

    weight: float = 1.0
    inverse_weight: float = 5.0
    batch_size: int = 24
    tasks_per_step: int = 2
    window: int = 4
    latent_dim: int = 64
    width: int = 256

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name, least in (
            ("batch_size", 2),
            ("tasks_per_step", 1),
            ("window", 3),
            ("latent_dim", 1),
            ("width", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"dynamics.{name} must be at least {least}, got {getattr(self, name)}")
        if not (self.weight >= 0 and self.inverse_weight >= 0):
            raise ValueError(
                "dynamics.weight and dynamics.inverse_weight must be at least 0, "
                f"got {self.weight} and {self.inverse_weight}"
            )


class ClipHead(nn.Module):
    """One latent a clip, and how it is about to change, from the mean of the clip's tokens."""

    def __init__(self, token_width: int, config: DynamicsConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(token_width, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.width),
            nn.GELU(),
            nn.Linear(config.width, 2 * config.latent_dim),
        )
        self.log_scale = nn.Parameter(torch.tensor(0.5 * math.log(_APART / config.latent_dim)))

    def forward(
        self, tokens: Float[Tensor, "clip token dim"]
    ) -> tuple[Float[Tensor, "clip latent"], Float[Tensor, "clip latent"]]:
        """Latents, standardised over all clips of the batch times a learned scale, and their change.

        In full precision: what differs between clips is small beside what all of them share.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            means = gathered(tokens.float().mean(dim=1))
            centred = means - means.mean(dim=0)
            latents, change = self.body(centred / (centred.square().mean().sqrt() + 1e-4)).chunk(2, dim=-1)
            deviations = latents - latents.mean(dim=0)
            standardised = deviations / (deviations.square().mean(dim=0) + 1e-5).sqrt()
            return standardised * self.log_scale.exp(), change * self.log_scale.exp()


class DynamicsObjective(nn.Module):
    """Contrast of imagined with following latents, and inverse dynamics, task by task.

    Sources: the contrast is CPC's, arXiv:1807.03748, with squared distances for similarity; inverse dynamics
    in latent planning: arXiv:2502.14819.
    """

    def __init__(self, token_width: int, action_dims: Sequence[int], config: DynamicsConfig) -> None:
        """Build with random weights for tasks of these numbers of actions."""
        super().__init__()
        self.config = config
        dim, width = config.latent_dim, config.width
        self.head = ClipHead(token_width, config)
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
        frames: Float[Tensor, "window frame token dim"],
        motion: Float[Tensor, "window token dim"],
        plain_frames: Float[Tensor, "window frame token dim"],
        actions: Float[Tensor, "window frame action"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses of windows of one task.

        Args:
            task: its number.
            frames: tokens of each frame on its own, as the encoder sees it.
            motion: tokens of the first two frames as one clip.
            plain_frames: as `frames`, in the look that the teacher sees; no gradient flows there.
            actions: of unit variance; each leads from its frame to the next.
        """
        steps = frames.shape[1]
        latents = self.head(frames.flatten(0, 1))[0].unflatten(0, (-1, steps))
        moving, change = self.head(motion)
        with torch.no_grad():
            there = self.head(plain_frames.flatten(0, 1))[0].unflatten(0, (-1, steps))
        actions = gathered(actions)
        seen = self._imagine(task, latents[:, 1], latents[:, 1] - latents[:, 0], actions)
        felt = self._imagine(task, moving, change, actions)
        queries = torch.cat([latents, moving[:, None], seen, felt], dim=1)
        frame = torch.arange(there.shape[0] * steps, device=there.device).view(-1, steps)
        answers: Int[Tensor, "window query"] = torch.cat([frame, frame[:, 1:], frame[:, 2:]], dim=1)
        squared = torch.cdist(queries.flatten(0, 1), there.flatten(0, 1)).square()
        changes = latents[:, 1:] - latents[:, :-1]
        around = torch.cat([latents[:, 2:], changes[:, 1:], changes[:, :-1]], dim=-1)
        told = self.inverses[task](around).float()
        return {
            "contrast": self.config.weight * F.cross_entropy(-squared, answers.flatten()),
            "inverse": self.config.inverse_weight * F.mse_loss(told, actions[:, 1:-1]),
        }

    def _imagine(
        self,
        task: int,
        now: Float[Tensor, "window latent"],
        change: Float[Tensor, "window latent"],
        actions: Float[Tensor, "window frame action"],
    ) -> Float[Tensor, "window imagined latent"]:
        """What follows the second frame's latent, given how it came about."""
        imagined = []
        for step in range(1, actions.shape[1] - 1):
            change = self.predictors[task](torch.cat([now, change, actions[:, step]], dim=-1)).float()
            now = now + change
            imagined.append(now)
        return torch.stack(imagined, dim=1)


def frame_tokens(
    encoder: VideoViT, clips: Float[Tensor, "clip frame 3 height width"]
) -> Float[Tensor, "clip frame token dim"]:
    """Tokens of each frame on its own, as a still clip of one tubelet."""
    still = clips.flatten(0, 1).unsqueeze(1).expand(-1, encoder.config.tubelet_size, -1, -1, -1)
    return encoder(still).unflatten(0, tuple(clips.shape[:2]))
