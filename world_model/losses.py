"""Losses that keep latents from collapsing, and make them hold what actions change."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def sigreg(
    latents: Float[Tensor, "sample dim"],
    generator: torch.Generator,
    num_projections: int = 256,
    num_knots: int = 17,
) -> Float[Tensor, ""]:
    """How far random one-dimensional projections of `latents` are from a standard normal.

    The squared distance between characteristic functions, under a Gaussian weight, by quadrature at
    `num_knots` points of [0, 3]; 0 for a standard normal. Its gradient spreads latents in every direction.

    Source: LeJEPA, arXiv:2511.08544 (SIGReg with the Epps-Pulley statistic), there with 1024 projections.
    """
    directions = torch.randn(latents.shape[1], num_projections, generator=generator).to(latents)
    projected = latents @ F.normalize(directions, dim=0)
    knots = torch.linspace(0, 3, num_knots).to(latents)
    angles = projected.unsqueeze(-1) * knots
    normal = torch.exp(-0.5 * knots**2)
    distance = (angles.cos().mean(0) - normal) ** 2 + angles.sin().mean(0) ** 2
    return torch.trapezoid(distance * normal, knots, dim=-1).mean()


def vicreg(
    latents: Float[Tensor, "sample dim"], target_std: float = 1.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Variance hinge and off-diagonal covariance of `latents`.

    Source: VICReg, arXiv:2105.04906, section 4.1.
    """
    centred = latents - latents.mean(dim=0)
    std = (centred.square().mean(dim=0) + 1e-4).sqrt()
    covariance = centred.T @ centred / (len(latents) - 1)
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return F.relu(target_std - std).mean(), off_diagonal / latents.shape[1]


def barlow_twins(
    first: Float[Tensor, "sample dim"], second: Float[Tensor, "sample dim"], redundancy: float = 0.005
) -> Float[Tensor, ""]:
    """How far the cross-correlation of two views' latents is from the identity.

    Source: Barlow Twins, arXiv:2103.03230, equation 1.
    """

    def standardised(latents: Tensor) -> Tensor:
        return (latents - latents.mean(dim=0)) / (latents.var(dim=0, correction=0) + 1e-5).sqrt()

    correlation = standardised(first).T @ standardised(second) / len(first)
    off_diagonal = correlation.square().sum() - correlation.diagonal().square().sum()
    return (1 - correlation.diagonal()).square().sum() + redundancy * off_diagonal


def curvature(latents: Float[Tensor, "batch step dim"]) -> Float[Tensor, ""]:
    """How much the way through latent space bends: 0 straight on, 1 at a right angle, 2 back again.

    About the mean of 1 - cos between consecutive changes; where latents all but stand still, nothing bends.
    In straighter latents the way to a goal is nearer to the straight line, whose length is what a squared
    distance measures.

    Source: the measure is that of perceptual straightening, Henaff et al., Nature Neuroscience 2019.
    """
    changes = latents[:, 1:] - latents[:, :-1]
    lengths = changes.norm(dim=-1)
    product = lengths[:, 1:] * lengths[:, :-1]
    along = (changes[:, 1:] * changes[:, :-1]).sum(-1)
    still = 0.1 * lengths.detach().square().mean() + 1e-12
    return ((product - along) / (product + still)).mean()
