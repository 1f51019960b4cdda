"""What looks like the training data: signatures of frames, and how far a frame is from those kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from .encoder import Encoder, Frames
from .metadata import ModelMetadata

NUM_SIGNATURES = 512
"""Training frames whose signatures a model keeps, to tell what looks unlike them."""


def frame_signature(tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch two_dim"]:
    """What a frame looks like as a whole: mean and std of its tokens over the places."""
    tokens = tokens.float()
    return torch.cat([tokens.mean(dim=1), tokens.std(dim=1)], dim=-1)


class FrozenEncoderModel(nn.Module):
    """A world model over a frozen encoder: what its logs were, and how unlike them a frame looks."""

    familiar_signatures: Tensor
    folder: Path | None = None
    """Where it was loaded from: what was trained beside it lies there. None if it was made in memory."""

    def __init__(self, encoder: Encoder, metadata: ModelMetadata) -> None:
        """Make room for the signatures."""
        super().__init__()
        self.encoder = encoder
        self.metadata = metadata
        self.register_buffer("familiar_signatures", torch.zeros(NUM_SIGNATURES, 2 * encoder.width))

    @property
    def frame_skip(self) -> int:
        """Env steps a model step."""
        return self.metadata.frame_skip

    @property
    def env_name(self) -> str:
        """Task that the logs were of."""
        return self.metadata.env_name

    @property
    def image_size(self) -> int:
        """Height and width of the logged frames [px]."""
        return self.metadata.image_size

    @property
    def action_low(self) -> Float[np.ndarray, " action"]:
        """Least action, env units."""
        return np.asarray(self.metadata.action_low, np.float32)

    @property
    def action_high(self) -> Float[np.ndarray, " action"]:
        """Largest action, env units."""
        return np.asarray(self.metadata.action_high, np.float32)

    @property
    def reach_error_rate(self) -> float:
        """How often `reached` is wrong on held-out pairs."""
        return self.metadata.reach_error_rate

    def unfamiliarity(self, frames: Frames) -> Float[Tensor, " batch"]:
        """How unlike the training data each frame of (B, 1, H, W, 3) looks.

        Distance of its signature to the nearest of `NUM_SIGNATURES` training frames', over the distance that
        99.5 % of other training frames keep within: above 1, a frame is unlike anything that was trained on.
        """
        signatures = frame_signature(self.encoder(self.encoder.preprocess(frames)))
        return self.signature_distance(signatures) / max(self.metadata.familiarity_threshold, 1e-9)

    def signature_distance(self, signatures: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """Distance to the nearest kept signature, each number in units of its spread among them."""
        spread = self.familiar_signatures.std(dim=0)
        unit = spread + 0.1 * spread.mean() + 1e-6
        return torch.cdist(signatures / unit, self.familiar_signatures / unit).min(dim=1).values

    @torch.no_grad()
    def keep_familiar(self, signatures: Float[Tensor, "sample dim"]) -> None:
        """Keep the first half of shuffled signatures; how far the others are from it is the threshold."""
        size, half = len(self.familiar_signatures), (len(signatures) + 1) // 2
        bank, others = signatures[:half], signatures[half:]
        self.familiar_signatures.copy_(bank.repeat(-(-size // len(bank)), 1)[:size])
        if len(others):
            distances = self.signature_distance(others.to(self.familiar_signatures.device))
            self.metadata.familiarity_threshold = float(distances.quantile(0.995))
