"""Properties that hold for every planner and every setting."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_plan.planners import Evaluation, make_planner, planner_names

settings.register_profile("quick", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("quick")

NAMES = planner_names()


@st.composite
def problems(draw):
    """Settings of a planner of any kind and size, its bounds, and a cost that may have holes in it."""
    name = draw(st.sampled_from(NAMES))
    action_dim = draw(st.integers(1, 3))
    number = st.floats(-3, 3, width=32)
    low = np.array(draw(st.lists(number, min_size=action_dim, max_size=action_dim)))
    width = np.array(draw(st.lists(st.floats(0.01, 4), min_size=action_dim, max_size=action_dim)))
    num_samples = draw(st.integers(1, 24))
    overrides = {
        "horizon": draw(st.integers(1, 6)),
        "num_samples": num_samples,
        "num_iterations": draw(st.integers(1, 4)),
        "init_std": draw(st.sampled_from([0.0, 0.3, 5.0])),
        "rate_limit": draw(st.sampled_from([None, 0.05, 1.0])),
        "smoothness": draw(st.sampled_from(["free", "hold", "linear", "cubic", "cumulative"])),
        "noise_beta": draw(st.sampled_from([0.0, 2.0])),
        "patience": draw(st.sampled_from([0, 1])),
    }
    if name in {"cem", "icem"}:
        overrides["num_elites"] = draw(st.integers(1, num_samples))
        overrides["keep_elites"] = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return (
        name,
        overrides,
        low,
        low + width,
        draw(st.sampled_from(["bowl", "holes", "constrained", "nothing"])),
    )


def cost_of(kind, asked):
    def cost_fn(actions):
        asked.append(actions.detach().clone())
        cost = (actions - 1).square().sum(dim=(2, 3))
        first = actions[:, :, 0, 0].detach()
        if kind == "holes":
            cost = torch.where(first > 0, cost * torch.nan, cost)
            cost = torch.where(first < -1, cost - torch.inf, cost)
        if kind == "nothing":
            cost = cost * torch.nan
        return Evaluation(cost, (actions[:, :, -1, 0] - 0.2).clamp(min=0)) if kind == "constrained" else cost

    return cost_fn


@given(problem=problems(), seed=st.integers(0, 2**32), batch_size=st.integers(1, 3))
def test_bounds_rates_and_finiteness_always_hold(problem, seed, batch_size):
    name, overrides, low, high, kind = problem
    planner = make_planner(name, (low, high), **overrides)
    asked = []
    previous = torch.as_tensor((low + high) / 2, dtype=torch.float32).clamp(
        torch.as_tensor(low, dtype=torch.float32), torch.as_tensor(high, dtype=torch.float32)
    )
    plan = planner.optimize(
        cost_of(kind, asked),
        batch_size=batch_size,
        seed=seed,
        previous_action=previous.expand(batch_size, -1),
        warm_start=torch.full((batch_size, planner.horizon, planner.action_dim), 9.0),
    )
    lowest, highest = torch.as_tensor(low), torch.as_tensor(high)
    for actions in [*asked, plan.actions, plan.mean]:
        assert bool(((actions.double() >= lowest) & (actions.double() <= highest)).all())
    rate = planner.config.rate_limit
    if rate is not None:
        for actions in [*asked, plan.actions[:, None]]:
            before = previous.expand(*actions.shape[:2], 1, -1)
            assert bool((torch.cat([before, actions], dim=2).double().diff(dim=2).abs() <= rate).all())
    assert bool((plan.std.isfinite() & (plan.std >= 0)).all())
    assert bool((plan.cost <= plan.warm_start_cost).all()) or kind == "constrained"
    assert not bool(plan.cost.isnan().any())


@given(problem=problems(), seed=st.integers(0, 2**32))
def test_a_plan_depends_on_its_seed_and_not_on_its_neighbours(problem, seed):
    name, overrides, low, high, kind = problem
    planner = make_planner(name, (low, high), **overrides)
    together = planner.optimize(cost_of(kind, []), batch_size=3, seed=[seed, seed + 1, seed + 2])
    again = planner.optimize(cost_of(kind, []), batch_size=3, seed=[seed, seed + 1, seed + 2])
    assert torch.equal(together.actions, again.actions)
    alone = planner.optimize(cost_of(kind, []), seed=[seed + 1])
    torch.testing.assert_close(alone.actions[0], together.actions[1], rtol=1e-4, atol=1e-4)
