"""Smooth search noise as one linear idea: a sequence's deviation is Phi theta, with theta standard normal.

`Phi` (H, K) turns K independent numbers per action dimension into H steps. Each of its rows has norm 1, so
the marginal std of every step is exactly the std the planner asked for, whatever the smoothness. The search
distribution itself stays one mean and std a step: warm starts shift by whole steps, whatever the knots.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Smoothness(StrEnum):
    """How the deviations of one candidate hang together over time."""

    free = "free"
    """Every step on its own."""
    hold = "hold"
    """Zero-order knots: piecewise constant."""
    linear = "linear"
    """Linear interpolation between knots."""
    cubic = "cubic"
    """Natural cubic splines through knots."""
    cumulative = "cumulative"
    """Random walk: cumulative sum of independent steps."""


def smoothing_matrix(
    horizon: int,
    smoothness: Smoothness = Smoothness.free,
    num_knots: int | None = None,
    noise_beta: float = 0.0,
) -> Float[Tensor, "horizon knots"] | None:
    """`Phi` (H, K) with rows of norm 1; None for the identity.

    Args:
        horizon: H.
        smoothness: the kind.
        num_knots: K for the knotted kinds, at most `horizon`; every step is a knot when None.
        noise_beta: exponent of coloured noise, power ~ 1 / frequency ** beta: 0 white, 2 red. Colours the
            steps of `free`, and the knots of the others.

    Raises:
        ValueError: more knots than steps, knots for a kind that has none, or a negative exponent.
    """
    knotted = smoothness in {Smoothness.hold, Smoothness.linear, Smoothness.cubic}
    if num_knots is not None and not knotted:
        raise ValueError(
            f"num_knots={num_knots} needs smoothness hold, linear or cubic, not {smoothness.value}"
        )
    if num_knots is not None and not 1 <= num_knots <= horizon:
        raise ValueError(f"num_knots={num_knots} is not allowed; give 1 to horizon={horizon}")
    if noise_beta < 0:
        raise ValueError(f"noise_beta={noise_beta} is not allowed; give 0 (white) or more")
    knots = num_knots or horizon
    if smoothness == Smoothness.cumulative:
        matrix = np.tril(np.ones((horizon, horizon)))
    elif not knotted or knots == horizon:
        matrix = np.eye(horizon)
    else:
        matrix = _interpolation(horizon, knots, smoothness)
    matrix = matrix @ coloured_noise_factor(matrix.shape[1], noise_beta)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    if np.array_equal(matrix, np.eye(horizon)):
        return None
    return torch.from_numpy(matrix)


def coloured_noise_factor(num_steps: int, beta: float) -> Float[np.ndarray, "step step"]:
    """Lower-triangular L: L @ white noise has power ~ 1 / frequency ** beta and marginal std 1.

    Source: iCEM (arXiv:2008.06389) draws such noise by FFT with the period of the horizon, which ties the
    last action to the first. Here the period is twice that and only one half is used; the lowest frequency
    also stands for the constant, as there.
    """
    if beta == 0 or num_steps == 1:
        return np.eye(num_steps)
    period = 2 * num_steps
    frequency = np.fft.rfftfreq(period)
    frequency[0] = frequency[1]
    autocovariance = np.fft.irfft(frequency**-beta, period)[:num_steps]
    lag = np.abs(np.subtract.outer(np.arange(num_steps), np.arange(num_steps)))
    covariance = autocovariance[lag] / autocovariance[0]
    return np.linalg.cholesky(covariance + 1e-9 * np.eye(num_steps))


def _interpolation(horizon: int, knots: int, smoothness: Smoothness) -> Float[np.ndarray, "horizon knots"]:
    if smoothness == Smoothness.hold or knots == 1:
        matrix = np.zeros((horizon, knots))
        matrix[np.arange(horizon), np.arange(horizon) * knots // horizon] = 1
        return matrix
    places = np.linspace(0, horizon - 1, knots)
    steps = np.arange(horizon)
    if smoothness == Smoothness.linear or knots == 2:
        return np.stack([np.interp(steps, places, unit) for unit in np.eye(knots)], axis=1)
    return _natural_cubic(steps, places)


def _natural_cubic(steps: np.ndarray, places: np.ndarray) -> Float[np.ndarray, "horizon knots"]:
    """Values at `steps` of the natural cubic splines through unit vectors at evenly spaced `places`."""
    knots, gap = len(places), places[1] - places[0]
    # Second derivatives solve a tridiagonal system; they vanish at both ends.
    system, differences = np.eye(knots), np.zeros((knots, knots))
    for i in range(1, knots - 1):
        system[i, i - 1 : i + 2] = 1, 4, 1
        differences[i, i - 1 : i + 2] = 6 / gap**2 * np.array([1, -2, 1])
    curvature = np.linalg.solve(system, differences)
    piece = np.minimum((steps / gap).astype(int), knots - 2)
    right = (steps - places[piece]) / gap
    left = 1 - right
    unit = np.eye(knots)
    return (
        left[:, None] * unit[piece]
        + right[:, None] * unit[piece + 1]
        + gap**2 / 6 * (left**3 - left)[:, None] * curvature[piece]
        + gap**2 / 6 * (right**3 - right)[:, None] * curvature[piece + 1]
    )
