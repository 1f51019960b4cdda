"""Collapse, watched: numbers that fall when an encoder's latents lose their spread."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def mean_std(latents: Float[Tensor, "sample dim"]) -> float:
    """Mean over dimensions of the standard deviation over samples; 0 is complete collapse."""
    return float(latents.std(dim=0).mean())


def effective_rank(latents: Float[Tensor, "sample dim"]) -> float:
    """How many directions carry variance: exp of the entropy of the covariance's spectrum, 1 to `dim`.

    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007, on the covariance's eigenvalues.
    """
    centred = (latents - latents.mean(dim=0)).double()
    spectrum = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0)
    share = spectrum / spectrum.sum().clamp(min=1e-30)
    return float(torch.exp(-(share * share.clamp(min=1e-30).log()).sum()))
