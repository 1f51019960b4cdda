"""Collapse, watched: numbers that fall when an encoder's latents lose their spread."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_COLLAPSED = 0.1
"""Fraction of the spread at the start of training below which latents are said to collapse."""


def mean_std(latents: Float[Tensor, "sample dim"]) -> float:
    """Mean over dimensions of the standard deviation over samples; 0 is complete collapse."""
    return float(latents.std(dim=0).mean())


def effective_rank(latents: Float[Tensor, "sample dim"]) -> float:
    """How many directions carry variance: exp of the entropy of the covariance's spectrum, 1 to `dim`.

    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007, on the covariance's eigenvalues.
    """
    centred = (latents - latents.mean(dim=0)).cpu().double()
    spectrum = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0)
    share = spectrum / spectrum.sum().clamp(min=1e-30)
    return float(torch.exp(-(share * share.clamp(min=1e-30).log()).sum()))


def uniformity(latents: Float[Tensor, "sample dim"], max_samples: int = 1024) -> float:
    """How evenly directions of latents cover the sphere: log of the mean of exp(-2 d^2); lower is more even.

    Source: Wang & Isola, arXiv:2005.10242. 0 is complete collapse; -4 is about the least.
    """
    every = max(1, len(latents) // max_samples)
    directions = torch.nn.functional.normalize(latents[::every].float(), dim=1)
    return float(torch.pdist(directions).square().mul(-2).exp().mean().clamp(min=1e-30).log())


def collapse_warning(start: dict[str, float], now: dict[str, float]) -> str | None:
    """One line if latents have lost most of their spread since the start of training, else None.

    Args:
        start: `std` and `effective_rank` before the first step.
        now: the same, later.
    """
    fallen = []
    for name, floor in (("std", 0.0), ("effective_rank", 1.0)):
        if not now[name] - floor >= _COLLAPSED * (start[name] - floor):
            fallen.append(f"{name.replace('_', ' ')} fell from {start[name]:.3g} to {now[name]:.3g}")
    if not fallen:
        return None
    return f"the latents collapse: {' and '.join(fallen)}; try a lower learning_rate or a higher momentum"
