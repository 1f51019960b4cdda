"""Planners against optima known in closed form."""

from statistics import NormalDist

import numpy as np
import pytest
import torch

from tests.worlds import LinearQuadratic, quadratic_cost
from wm_plan.planners import CEM, MPPI, DiscreteCEM, GradientPlanner, Polished, make_planner

TEN = (np.array([-10.0]), np.array([10.0]))


def gaps(planner, problem, optimal_cost, seeds=20):
    """Relative gaps to the optimal cost, evaluated in float64."""
    plans = [planner.optimize(problem.cost, seed=seed) for seed in range(seeds)]
    return [problem.cost(plan.actions[None].double()).item() / optimal_cost - 1 for plan in plans]


def test_the_condensed_problem_has_the_published_optima():
    cost, actions = LinearQuadratic.integrator().optimum()
    assert cost == pytest.approx(6.149333, abs=1e-6)
    assert actions[0] == pytest.approx(-1.666011, abs=1e-6)
    assert LinearQuadratic.double_integrator().optimum()[0] == pytest.approx(6.022229, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("cem", {}), ("icem", {"noise_beta": 0.0, "population_decay": 1.0}), ("mppi", {"temperature": 0.03})],
)
@pytest.mark.parametrize(("num_iterations", "largest_gap"), [(15, 0.01), (30, 0.002)])
def test_the_double_integrator_is_solved_within_a_percent(name, settings, num_iterations, largest_gap):
    problem = LinearQuadratic.double_integrator()
    if name != "mppi":
        settings = settings | {"num_elites": 50}
    planner = make_planner(name, TEN, horizon=20, num_samples=512, num_iterations=num_iterations, **settings)
    found = gaps(planner, problem, problem.optimum()[0])
    assert 0 <= np.median(found) < largest_gap


def test_the_integrator_is_solved_within_a_percent_by_sampling_and_exactly_by_gradients():
    problem = LinearQuadratic.integrator()
    cem = CEM(TEN, horizon=10, num_samples=512, num_elites=50, num_iterations=40, min_std=0.01)
    assert 0 <= np.median(gaps(cem, problem, 6.149333)) < 0.01
    gradient = GradientPlanner(TEN, horizon=10, num_iterations=300, learning_rate=0.02)
    plan = gradient.optimize(problem.cost, seed=0)
    assert plan.cost.item() == pytest.approx(6.149333, rel=1e-4)
    assert plan.actions[0, 0].item() == pytest.approx(-1.666011, abs=0.02)


def box_constrained_optimum(problem, bound):
    """Optimal cost under |u| <= bound, by accelerated projected gradient on the convex quadratic program."""
    quadratic, linear, constant = problem.condensed()
    step = 1 / (2 * np.linalg.eigvalsh(quadratic)[-1])
    actions = ahead = np.zeros(len(linear))
    for k in range(20_000):
        moved = np.clip(ahead - step * 2 * (quadratic @ ahead + linear), -bound, bound)
        ahead = moved + k / (k + 3) * (moved - actions)
        actions = moved
    return float(actions @ quadratic @ actions + 2 * linear @ actions + constant), actions


@pytest.mark.parametrize("name", ["cem", "mppi", "gradient"])
def test_the_box_constrained_double_integrator_is_solved_as_the_quadratic_program_is(name):
    problem = LinearQuadratic.double_integrator()
    cost, actions = box_constrained_optimum(problem, 2.0)
    assert cost > problem.optimum()[0] * 1.05
    assert (np.abs(actions) == 2.0).any()
    settings = {
        "cem": {"num_samples": 512, "num_elites": 50, "num_iterations": 30, "min_std": 0.01},
        "mppi": {"num_samples": 512, "num_iterations": 30, "target_sample_size": 0.1, "min_std": 0.01},
        "gradient": {"num_iterations": 60},
    }[name]
    planner = make_planner(name, (np.array([-2.0]), np.array([2.0])), horizon=20, **settings)
    assert 0 <= np.median(gaps(planner, problem, cost, seeds=5)) < 0.005


def test_gradient_descent_polishes_what_sampling_found():
    problem = LinearQuadratic.double_integrator()
    optimal = problem.optimum()[0]
    cem = CEM(TEN, horizon=20, num_samples=128, num_iterations=8)
    polish = GradientPlanner(TEN, horizon=20, num_samples=1, num_iterations=40, learning_rate=0.01)
    rough = np.median(gaps(cem, problem, optimal, seeds=5))
    fine = np.median(gaps(Polished(cem, polish), problem, optimal, seeds=5))
    assert fine < 0.2 * rough


def mppi_step(importance_correction=False, num_samples=200_000):
    """One step of classical MPPI on a quadratic: (found, start, optimum, S^-1, H / temperature)."""
    hessian = torch.tensor([[2.0, 0.6], [0.6, 1.0]])
    optimum = torch.tensor([1.0, -0.5])
    start = torch.tensor([-0.4, 0.8])
    temperature, bound, std = 0.7, 100.0, 0.9

    def cost(actions):
        off = actions[:, :, :, 0] - optimum
        return 0.5 * ((off @ hessian) * off).sum(-1)

    planner = MPPI(
        (np.array([-bound]), np.array([bound])),
        horizon=2,
        num_samples=num_samples,
        num_iterations=1,
        init_std=std / bound,
        temperature=temperature,
        normalize_costs=False,
        update_std=False,
        importance_correction=importance_correction,
    )
    plan = planner.optimize(cost, warm_start=start.reshape(1, 2, 1), seed=0)
    precision = torch.eye(2) / std**2
    return plan.mean[0, :, 0], start, optimum, precision, hessian / temperature


def test_mppi_moves_to_the_closed_form_on_a_quadratic():
    found, start, optimum, precision, sharpness = mppi_step()
    expected = torch.linalg.solve(precision + sharpness, precision @ start + sharpness @ optimum)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_importance_correction_makes_mppi_weigh_as_if_it_sampled_around_no_action():
    found, _, optimum, precision, sharpness = mppi_step(importance_correction=True)
    expected = torch.linalg.solve(precision + sharpness, sharpness @ optimum)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_cem_moves_as_the_closed_form_says_on_a_linear_cost():
    bound, std, share, num_samples = 100.0, 2.0, 0.1, 200_000
    planner = CEM(
        (np.array([-bound]), np.array([bound])),
        horizon=1,
        num_samples=num_samples,
        num_elites=int(share * num_samples),
        num_iterations=1,
        init_std=std / bound,
        min_std=0.0,
    )
    plan = planner.optimize(lambda actions: 3 * actions[:, :, 0, 0], seed=0)
    normal = NormalDist()
    z = normal.inv_cdf(share)
    ratio = normal.pdf(z) / share
    assert plan.mean.item() == pytest.approx(-std * ratio, abs=0.02)
    # z < 0 here: the elites are the lower tail.
    assert plan.std.item() ** 2 == pytest.approx(std**2 * (1 - z * ratio - ratio**2), rel=0.03)


def test_mppi_meets_the_wanted_effective_sample_size():
    problem = LinearQuadratic.double_integrator()
    planner = MPPI(TEN, horizon=20, num_samples=512, target_sample_size=0.1, num_iterations=4)
    plan = planner.optimize(problem.cost, batch_size=3, seed=0)
    torch.testing.assert_close(plan.effective_sample_size, torch.full((4, 3), 51.2), rtol=0.02, atol=0)


def test_a_larger_temperature_is_softer():
    problem = LinearQuadratic.double_integrator()
    sizes = [
        MPPI(TEN, horizon=20, num_iterations=1, temperature=temperature)
        .optimize(problem.cost, seed=0)
        .effective_sample_size.item()
        for temperature in (0.01, 0.1, 1.0)
    ]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] / 2


def test_discrete_cem_finds_the_right_choices():
    wanted = torch.tensor([[3, 0], [0, 1], [2, 1], [1, 0], [3, 1], [0, 0]])

    def cost(actions):
        assert actions.dtype == torch.int64
        return (actions != wanted).sum(dim=(2, 3)).float()

    planner = DiscreteCEM(np.array([4, 2]), horizon=6, num_samples=128, num_elites=16, num_iterations=10)
    plan = planner.optimize(cost, batch_size=2, seed=0)
    assert torch.equal(plan.actions, wanted.expand(2, -1, -1))
    assert torch.equal(plan.mean, plan.actions)


def test_discrete_cem_tries_only_choices_that_exist_and_commits_to_prefixes():
    asked = []

    def cost(actions):
        asked.append(actions)
        return actions.sum(dim=(2, 3)).float()

    planner = DiscreteCEM(np.array([4, 2]), horizon=3, num_samples=64, num_elites=8)
    warm_start = torch.tensor([[[3, 1], [2, 1], [0, 0]]])
    plan = planner.optimize(cost, seed=0, warm_start=warm_start, prefix=torch.tensor([[[3, 1]]]))
    for actions in asked:
        assert bool((actions >= 0).all()) and bool((actions < torch.tensor([4, 2])).all())
        assert bool((actions[:, :, 0] == torch.tensor([3, 1])).all())
    assert plan.warm_start_cost.item() == 7 and plan.cost.item() == 4


def test_a_temporal_basis_with_few_knots_finds_long_smooth_motions_sooner():
    steps = torch.linspace(0, 3, 48).reshape(48, 1)
    target = 0.8 * torch.sin(steps)

    def cost(**settings):
        planner = CEM((-np.ones(1), np.ones(1)), horizon=48, num_samples=128, num_iterations=6, **settings)
        return np.median(
            [planner.optimize(quadratic_cost(target), seed=seed).cost.item() for seed in range(5)]
        )

    assert cost(smoothness="cubic", num_knots=5) < 0.3 * cost()
