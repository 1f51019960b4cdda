"""Smooth noise: unit marginal std, and the covariance that was asked for."""

import numpy as np
import pytest
import torch

from wm_plan.planners import CEM, Smoothness
from wm_plan.planners.smoothness import coloured_noise_factor, smoothing_matrix

KINDS = [
    {"smoothness": Smoothness.free, "noise_beta": 2.0},
    {"smoothness": Smoothness.hold, "num_knots": 3},
    {"smoothness": Smoothness.linear, "num_knots": 4},
    {"smoothness": Smoothness.cubic, "num_knots": 4},
    {"smoothness": Smoothness.cubic, "num_knots": 4, "noise_beta": 1.0},
    {"smoothness": Smoothness.cumulative},
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_marginal_std_of_every_step_is_exactly_one(kind):
    phi = smoothing_matrix(12, **kind)
    torch.testing.assert_close((phi @ phi.T).diag(), torch.ones(12, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_have_the_mean_std_and_covariance_that_the_matrix_says(kind):
    phi = smoothing_matrix(12, **kind)
    planner = CEM(
        (-np.ones(2), np.ones(2)), horizon=12, num_samples=20_000, num_iterations=1, init_std=0.1, **kind
    )
    planner.record = True
    plan = planner.optimize(lambda actions: actions.new_zeros(actions.shape[:2]), seed=0)
    candidates = plan.trace[0].candidates[0].double()
    deviations = candidates[:, :, 0] / 0.1
    torch.testing.assert_close(deviations.T.cov(), phi @ phi.T, atol=0.05, rtol=0)
    assert abs(np.corrcoef(candidates[:, 3, 0], candidates[:, 3, 1])[0, 1]) < 0.03


def test_free_white_noise_needs_no_matrix():
    assert smoothing_matrix(12) is None
    assert smoothing_matrix(12, Smoothness.linear, num_knots=12) is None


def test_hold_is_piecewise_constant_and_interpolation_goes_through_its_knots():
    hold = smoothing_matrix(6, Smoothness.hold, num_knots=2)
    assert hold.tolist() == [[1, 0]] * 3 + [[0, 1]] * 3
    linear = smoothing_matrix(5, Smoothness.linear, num_knots=3)
    assert linear[[0, 2, 4]].tolist() == np.eye(3).tolist()
    np.testing.assert_allclose(linear[1], [2**-0.5, 2**-0.5, 0])


def test_the_cubic_basis_is_the_natural_cubic_spline():
    interpolate = pytest.importorskip("scipy.interpolate")
    phi = smoothing_matrix(11, Smoothness.cubic, num_knots=4).numpy()
    splines = interpolate.CubicSpline(np.linspace(0, 10, 4), np.eye(4), bc_type="natural")(np.arange(11))
    np.testing.assert_allclose(phi, splines / np.linalg.norm(splines, axis=1, keepdims=True), atol=1e-9)


def test_redder_noise_is_more_alike_from_step_to_step_and_white_noise_is_not():
    neighbours = [
        (factor @ factor.T)[0, 1] for factor in (coloured_noise_factor(16, beta) for beta in (0, 1, 2, 4))
    ]
    assert neighbours[0] == 0
    assert neighbours == sorted(neighbours)
    assert neighbours[2] > 0.7


def test_coloured_noise_has_the_power_spectrum_of_its_exponent():
    factor = coloured_noise_factor(256, 2.0)
    noise = np.random.default_rng(0).standard_normal((4000, 256)) @ factor.T
    power = (np.abs(np.fft.rfft(noise * np.hanning(256), axis=1)) ** 2).mean(axis=0)
    frequency = np.fft.rfftfreq(256)
    slope = np.polyfit(np.log(frequency[8:60]), np.log(power[8:60]), 1)[0]
    assert slope == pytest.approx(-2, abs=0.15)


def test_coloured_noise_does_not_tie_the_last_step_to_the_first():
    factor = coloured_noise_factor(16, 2.0)
    covariance = factor @ factor.T
    assert covariance[0, -1] < 0
    assert covariance[0, -1] == covariance[0].min()
