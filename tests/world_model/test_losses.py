"""Anti-collapse losses, at points where their values can be worked out."""

import numpy as np
import pytest
import torch

from wm_plan.world_model.losses import curvature, sigreg, vicreg


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def integral(of) -> float:
    """Over [0, 3], far finer than the loss does it."""
    knots = np.linspace(0, 3, 20001)
    return float(np.trapezoid(of(knots), knots))


def gaussian(knots: np.ndarray) -> np.ndarray:
    return np.exp(-(knots**2) / 2)


def test_sigreg_of_collapsed_latents_is_the_whole_of_the_normals_characteristic_function() -> None:
    """All at 0: the characteristic function is 1, that of the standard normal exp(-t^2 / 2)."""
    expected = integral(lambda t: (1 - gaussian(t)) ** 2 * gaussian(t))
    assert sigreg(torch.zeros(10, 5), seeded()).item() == pytest.approx(expected, rel=1e-3)


def test_sigreg_of_two_points_is_that_of_a_cosine() -> None:
    """At -a and a on one axis: the characteristic function is cos(a t)."""
    latents = torch.tensor([[-1.5], [1.5]])
    expected = integral(lambda t: (np.cos(1.5 * t) - gaussian(t)) ** 2 * gaussian(t))
    assert sigreg(latents, seeded(), num_projections=3).item() == pytest.approx(expected, rel=5e-3)


def test_sigreg_of_shifted_latents_counts_the_imaginary_part() -> None:
    """All at 1 on one axis: the characteristic function is exp(i t)."""
    expected = integral(lambda t: ((np.cos(t) - gaussian(t)) ** 2 + np.sin(t) ** 2) * gaussian(t))
    assert sigreg(torch.ones(4, 1), seeded()).item() == pytest.approx(expected, rel=1e-3)


def test_sigreg_of_a_standard_normal_is_nothing() -> None:
    normal = torch.randn(20_000, 8, generator=seeded())
    assert sigreg(normal, seeded(1)).item() < 1e-3
    assert sigreg(normal * torch.tensor([1.0] * 7 + [0.01]), seeded(1)).item() > 0.002


def test_sigreg_spreads_what_has_collapsed() -> None:
    latents = (0.05 * torch.randn(256, 3, generator=seeded())).requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        sigreg(latents, seeded(step), num_projections=32).backward()
        optimizer.step()
    assert ((latents.std(dim=0) > 0.8) & (latents.std(dim=0) < 1.2)).all()
    assert latents.mean(dim=0).abs().max() < 0.2


def test_vicreg_by_hand() -> None:
    latents = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    variance, covariance = vicreg(latents)
    # std of the first is 1 (a little above, for the epsilon), of the second sqrt(1e-4) = .01
    assert variance.item() == pytest.approx((0 + 0.99) / 2, abs=1e-5)
    assert covariance.item() == pytest.approx(0.0)
    _, covariance = vicreg(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))
    assert covariance.item() == pytest.approx((4.0**2 + 4.0**2) / 2)  # 1 * 2 + 1 * 2 over n - 1 = 1


def test_vicreg_is_silent_on_wide_uncorrelated_latents() -> None:
    variance, covariance = vicreg(torch.tensor([[2.0, 2], [2, -2], [-2, 2], [-2, -2]]))
    assert (variance.item(), covariance.item()) == (0.0, 0.0)


def test_curvature_is_that_of_the_way_by_hand() -> None:
    straight = torch.tensor([[0.0, 0], [1, 0], [3, 0], [4, 0]])
    corner = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    back = torch.tensor([[0.0, 0], [2, 0], [0, 0], [2, 0]])
    # a change as long as is usual counts 1 / 1.1 of its bend
    for way, expected, bound in ((straight, 0.0, 1.0), (corner, 1.0, 1.1), (back, 2.0, 1.1)):
        assert curvature(way[None]).item() == pytest.approx(expected / bound, abs=1e-6)
        assert curvature(10 * way[None]).item() == pytest.approx(expected / bound, abs=1e-6)


def test_what_stands_still_bends_nothing_and_has_a_gradient_of_usual_size() -> None:
    latents = torch.tensor([[[0.0, 0], [1, 0], [1, 0], [1, 0], [1, 1e-6]]], requires_grad=True)
    loss = curvature(latents)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-4)
    assert latents.grad.abs().max() < 20
