"""What holds for every shooting planner."""

import numpy as np
import pytest
import torch

from tests.worlds import UNIT_BOX, quadratic_cost
from wm_plan.planners import Evaluation, Status, make_planner, planner_names

TARGET = torch.linspace(-0.8, 0.8, 10).reshape(5, 2)


def make(name="cem", space=UNIT_BOX, **overrides):
    settings = {"horizon": 5, "num_samples": 64, "num_iterations": 6}
    if name in {"cem", "icem"}:
        settings["num_elites"] = 8
    return make_planner(name, space, **(settings | overrides))


class Recorder:
    """A cost function that remembers the actions it was asked about."""

    def __init__(self, cost):
        self.cost = cost
        self.asked = []

    def __call__(self, actions):
        self.asked.append(actions.clone())
        return self.cost(actions)


every_planner = pytest.mark.parametrize("name", planner_names())


@every_planner
def test_the_optimum_of_a_bowl_is_approached(name):
    start = quadratic_cost(TARGET)(torch.zeros(1, 1, 5, 2)).item()
    plan = make(name, num_samples=256, num_iterations=10).optimize(quadratic_cost(TARGET), seed=0)
    assert plan.cost.item() < 0.3 * start
    assert plan.cost.item() == pytest.approx(quadratic_cost(TARGET)(plan.actions[None]).item(), rel=1e-5)


@every_planner
def test_every_candidate_and_the_plan_are_inside_the_bounds(name):
    low, high = np.array([-0.1, 0.25]), np.array([0.3, 0.7])
    cost = Recorder(quadratic_cost(torch.full((5, 2), 9.0)))
    plan = make(name, (low, high), init_std=3.0).optimize(cost, batch_size=3, seed=1)
    low, high = torch.tensor(low), torch.tensor(high)
    for actions in [*cost.asked, plan.actions, plan.mean]:
        assert bool(((actions.double() >= low) & (actions.double() <= high)).all())


@every_planner
def test_rate_limits_hold_from_the_last_executed_action_on(name):
    cost = Recorder(quadratic_cost(torch.full((5, 2), 9.0)))
    previous = torch.tensor([[-1.0, 0.5]])
    plan = make(name, rate_limit=[0.1, 0.3]).optimize(cost, seed=1, previous_action=previous)
    limit = torch.tensor([0.1, 0.3], dtype=torch.float64)
    for actions in [*cost.asked, plan.actions[:, None]]:
        before = previous[:, None, None].expand(-1, actions.shape[1], -1, -1)
        changes = torch.cat([before, actions], dim=2).double().diff(dim=2).abs()
        assert bool((changes <= limit).all())
    assert plan.actions[0, 0, 0] > -0.95 and plan.actions[0, 0, 1] > 0.65


@every_planner
def test_rows_without_a_previous_action_may_begin_anywhere(name):
    previous = torch.tensor([[-1.0, -1.0], [torch.nan, torch.nan]])
    plan = make(name, rate_limit=0.1, num_iterations=20).optimize(
        quadratic_cost(torch.full((5, 2), 0.9)), batch_size=2, seed=1, previous_action=previous
    )
    assert plan.actions[0, 0].max() <= -0.9
    assert plan.actions[1, 0].min() > 0


@every_planner
def test_the_same_seed_gives_the_same_plan_and_another_seed_another(name):
    plans = [make(name).optimize(quadratic_cost(TARGET), seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(plans[0].actions, plans[1].actions)
    assert not torch.equal(plans[0].actions, plans[2].actions)


@every_planner
def test_no_seed_gives_fresh_noise_each_time(name):
    # The plans may agree: what descends from the warm start draws no noise, and may be the best of all.
    first, second = Recorder(quadratic_cost(TARGET)), Recorder(quadratic_cost(TARGET))
    for cost in (first, second):
        make(name, num_iterations=1).optimize(cost)
    assert not torch.equal(first.asked[0], second.asked[0])


@every_planner
def test_a_plan_does_not_depend_on_its_batch_neighbours(name):
    targets = torch.stack([TARGET, -TARGET, 0.3 * TARGET])

    def cost(rows):
        return lambda actions: (actions - targets[rows].unsqueeze(1)).square().sum(dim=(2, 3))

    settings = {"patience": 2, "stop_std": 0.1}
    together = make(name, **settings).optimize(cost([0, 1, 2]), batch_size=3, seed=[7, 8, 9])
    for row in range(3):
        alone = make(name, **settings).optimize(cost([row]), seed=[7 + row])
        torch.testing.assert_close(alone.actions[0], together.actions[row], rtol=0, atol=1e-6)


@every_planner
def test_rows_of_one_seed_draw_different_noise(name):
    cost = Recorder(quadratic_cost(TARGET))
    make(name).optimize(cost, batch_size=2, seed=0)
    assert not torch.equal(cost.asked[0][0], cost.asked[0][1])


@every_planner
def test_the_result_never_costs_more_than_the_warm_start(name):
    for seed in range(5):
        warm_start = TARGET + 0.01 * torch.randn(5, 2, generator=torch.Generator().manual_seed(seed))
        plan = make(name, num_iterations=1).optimize(
            quadratic_cost(TARGET), warm_start=warm_start[None], seed=seed
        )
        assert plan.cost <= plan.warm_start_cost
        assert plan.warm_start_cost.item() == pytest.approx(
            quadratic_cost(TARGET)(warm_start[None, None]).item()
        )


@every_planner
def test_nan_and_infinite_costs_are_never_chosen(name):
    def cost(actions):
        costs = quadratic_cost(TARGET)(actions)
        bad = actions[:, :, 0, 0] < 0
        costs = torch.where(bad, torch.nan, costs)
        return torch.where(actions[:, :, 0, 1] < 0, -torch.inf, costs)

    plan = make(name).optimize(cost, seed=0)
    assert plan.status == Status.OK
    assert bool(plan.cost.isfinite().all())
    assert plan.actions[0, 0].min() >= 0
    assert bool(plan.std.isfinite().all() and plan.mean.isfinite().all())


@every_planner
def test_a_row_with_no_finite_cost_keeps_its_warm_start_and_says_so(name):
    def cost(actions):
        costs = quadratic_cost(TARGET)(actions)
        return torch.cat([costs[:1], torch.full_like(costs[1:], torch.nan)])

    warm_start = torch.full((2, 5, 2), 0.25)
    plan = make(name).optimize(cost, batch_size=2, warm_start=warm_start, seed=0)
    assert plan.status == Status.INVALID
    assert torch.equal(plan.actions[1], warm_start[1]) and torch.equal(plan.mean[1], warm_start[1])
    assert plan.cost.isfinite().tolist() == [True, False]
    assert not torch.equal(plan.actions[0], warm_start[0])


@every_planner
@pytest.mark.parametrize("sizes", [{"horizon": 1}, {"num_samples": 1}, {"init_std": 0.0}])
def test_smallest_sizes_give_finite_plans(name, sizes):
    overrides = {"num_elites": 1} if name in {"cem", "icem"} else {}
    planner = make(name, **(sizes | overrides))
    plan = planner.optimize(quadratic_cost(TARGET[: planner.horizon]), batch_size=2, seed=0)
    assert plan.actions.shape == (2, planner.horizon, 2)
    for tensor in (plan.actions, plan.mean, plan.std, plan.cost):
        assert bool(tensor.isfinite().all())


@every_planner
def test_a_prior_that_is_optimal_is_found_at_once(name):
    priors = torch.stack([torch.zeros(5, 2), TARGET]).unsqueeze(0)
    plan = make(name, num_iterations=1).optimize(quadratic_cost(TARGET), seed=0, priors=priors)
    assert plan.cost.item() == pytest.approx(0, abs=1e-9)


@every_planner
def test_committed_actions_stand_in_front_of_every_candidate(name):
    prefix = torch.tensor([[[0.9, -0.9], [0.5, 0.5]]])
    cost = Recorder(quadratic_cost(TARGET))
    plan = make(name).optimize(cost, seed=0, prefix=prefix)
    for actions in [*cost.asked, plan.actions[:, None]]:
        assert torch.equal(actions[:, :, :2], prefix.unsqueeze(1).expand(-1, actions.shape[1], -1, -1))


@every_planner
def test_feasible_candidates_come_before_cheaper_ones_that_break_a_constraint(name):
    def cost(actions):
        return Evaluation(quadratic_cost(TARGET)(actions), (actions[:, :, 0, 0] + 0.2).clamp(min=0))

    free = make(name, num_iterations=15).optimize(quadratic_cost(-TARGET), seed=0)
    plan = make(name, num_iterations=15).optimize(
        lambda actions: Evaluation(
            quadratic_cost(-TARGET)(actions), (actions[:, :, 0, 0] - 0.2).clamp(min=0)
        ),
        seed=0,
    )
    assert free.actions[0, 0, 0] > 0.25
    assert plan.actions[0, 0, 0] <= 0.2
    assert plan.violation.tolist() == [0.0]


@every_planner
def test_the_violation_left_over_is_reported(name):
    plan = make(name).optimize(
        lambda actions: Evaluation(quadratic_cost(TARGET)(actions), (2 - actions[:, :, 0, 0]).clamp(min=0)),
        seed=0,
    )
    assert plan.violation.item() == pytest.approx(2 - plan.actions[0, 0, 0].item())
    assert plan.violation.item() < 2


@every_planner
def test_the_plan_is_an_ordinary_tensor_that_the_next_search_does_not_change(name):
    planner = make(name)
    plan = planner.optimize(quadratic_cost(TARGET), seed=0)
    before = plan.actions.clone()
    planner.optimize(quadratic_cost(-TARGET), seed=1)
    assert torch.equal(plan.actions, before)
    plan.actions += 1
    assert not plan.actions.is_inference()


@every_planner
def test_histories_have_one_row_an_iteration(name):
    plan = make(name).optimize(quadratic_cost(TARGET), batch_size=3, seed=0)
    assert plan.iterations == len(plan.cost_per_iteration)
    assert plan.cost_per_iteration.shape == plan.effective_sample_size.shape == plan.std_per_iteration.shape
    assert plan.cost_per_iteration.shape[1] == 3
    assert torch.equal(plan.cost, torch.minimum(plan.cost, plan.cost_per_iteration.amin(dim=0)))
    assert set(plan.timings) == {"total_ms", "cost_ms", "search_ms"}


def test_a_search_stops_when_its_std_is_small_or_nothing_gets_better():
    planner = make("cem", num_iterations=100, min_std=0.0, stop_std=0.01)
    assert planner.optimize(quadratic_cost(TARGET), seed=0).iterations < 60
    planner = make("cem", num_iterations=100, patience=3)
    assert planner.optimize(lambda actions: actions.new_ones(actions.shape[:2]), seed=0).iterations == 4


class Clock:
    """Seconds that pass only when someone says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@every_planner
def test_a_budget_ends_the_search_with_the_best_so_far(name):
    planner = make(name, num_iterations=10, num_samples=256)
    planner.clock = clock = Clock()

    def cost(actions):
        clock.now += 0.010
        return quadratic_cost(TARGET)(actions)

    planner.optimize(cost, seed=0)
    began = clock.now
    plan = planner.optimize(cost, seed=0, budget=0.045)
    assert clock.now - began <= 0.045
    assert plan.status == Status.DEADLINE
    assert plan.iterations == 4
    assert plan.cost < plan.warm_start_cost


@every_planner
def test_a_budget_too_small_for_anything_gives_the_warm_start_back(name):
    planner = make(name)
    planner.clock = clock = Clock()

    def cost(actions):
        clock.now += 0.010
        return quadratic_cost(TARGET)(actions)

    planner.optimize(cost, seed=0)
    warm_start = torch.full((1, 5, 2), 0.1)
    plan = planner.optimize(cost, seed=0, budget=0.001, warm_start=warm_start)
    assert (plan.iterations, plan.status) == (0, Status.DEADLINE)
    assert torch.equal(plan.actions, warm_start)
    assert plan.cost.tolist() == [torch.inf]


def test_one_hiccup_does_not_stop_planning_for_ever():
    planner = make("cem", num_iterations=1)
    planner.clock = clock = Clock()
    pace = [0.5]

    def cost(actions):
        clock.now += pace[0]
        return quadratic_cost(TARGET)(actions)

    planner.optimize(cost, seed=0)
    pace[0] = 0.001
    iterations = [planner.optimize(cost, seed=0, budget=0.05).iterations for _ in range(3)]
    assert iterations[-1] == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"horizon": 0}, "horizon=0 is not allowed; give 1 or more"),
        ({"num_samples": 0}, "num_samples=0 is not allowed"),
        ({"num_elites": 65}, "num_elites=65 is more than num_samples=64"),
        ({"init_std": -1.0}, "init_std=-1.0 is not allowed; give 0 or more"),
        ({"num_knots": 9, "smoothness": "linear"}, "num_knots=9 is not allowed; give 1 to horizon=5"),
        ({"smoothness": "cubik"}, "Did you mean 'cubic'"),
        ({"rate_limit": 0.0}, "rate_limit=0.0 is not allowed"),
        ({"num_sample": 3}, "Unknown CEMConfig setting 'num_sample'. Did you mean 'num_samples'"),
    ],
)
def test_bad_settings_are_named_with_what_is_allowed(overrides, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make("cem", **overrides)


def test_unknown_planner_says_which_one_was_meant():
    with pytest.raises(ValueError, match="Unknown planner 'cme'. Did you mean 'cem'"):
        make_planner("cme", UNIT_BOX)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ((-np.ones(2), np.full(2, np.inf)), "not finite"),
        ((np.ones(2), np.ones(2)), "empty"),
        ((-np.ones(2), np.ones(3)), "shapes"),
        ("box", "Cannot read action bounds"),
    ],
)
def test_bad_action_spaces_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        make("cem", space)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warm_start": torch.zeros(5, 2)}, r"warm_start has shape \(5, 2\); give \(1, 5, 2\)"),
        ({"priors": torch.zeros(1, 64, 5, 2)}, "64 priors do not fit num_samples=64"),
        ({"prefix": torch.zeros(1, 6, 2)}, "prefix has 6 steps; give at most horizon=5"),
        ({"seed": [1, 2]}, "2 seeds do not fit batch_size=1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make("cem").optimize(quadratic_cost(TARGET), **arguments)


def test_a_cost_function_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"returned shape \(1, 64, 5\)"):
        make("cem").optimize(lambda actions: actions.sum(dim=3))


def test_bounds_that_float32_cannot_hold_are_rounded_inwards():
    high = np.array([0.1, 1 / 3])
    planner = make("cem", (-high, high), init_std=5.0)
    plan = planner.optimize(quadratic_cost(torch.full((5, 2), 9.0)), seed=0)
    assert bool((plan.actions.double() <= torch.tensor(high)).all())
    assert plan.actions.amax(dim=(0, 1)).tolist() == pytest.approx(high.tolist())


@pytest.mark.parametrize("overrides", [{}, {"noise_beta": 2.0}, {"smoothness": "linear", "num_knots": 3}])
@pytest.mark.parametrize("num_samples", [63, 64])
def test_candidates_come_in_mirrored_pairs_around_the_mean(num_samples, overrides):
    cost = Recorder(quadratic_cost(TARGET))
    planner = make("ps", init_std=0.05, num_samples=num_samples, num_iterations=1, **overrides)
    planner.optimize(cost, batch_size=2, warm_start=TARGET.expand(2, -1, -1), seed=0)
    deviations = cost.asked[0] - TARGET
    half = (num_samples + 1) // 2
    torch.testing.assert_close(deviations[:, 1 : num_samples - half], -deviations[:, half + 1 :])
    assert not deviations[:, 0].any()
    assert len(deviations[0].flatten(1).unique(dim=0)) == num_samples
