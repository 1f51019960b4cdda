"""Our planners beside pytorch-mppi and stable-worldmodel: distance to the optimum, and time a solve.

    pip install pytorch-mppi==0.9.1 loguru
    pip install --no-deps stable-worldmodel==0.1.1
    python benchmarks/planners.py --seeds 20 --json planners.json

Same dynamics, same cost, equal rollouts, bounds and first std; one thread, float32; solvers take turns.
The gap is evaluated here, in float64, on the sequence that a solver returns (clipped to the bounds: not
every peer does that). The peers have no floor under the std; rows with and without ours are shown.

stable-worldmodel's solvers are imported without the package's own `__init__`, which loads simulators
that they do not use: an empty package of that name, with the installed folder as its path, stands in for
it. Its solvers print their time; that goes to /dev/null. They solve one env after the other by default
(`batch_size=1`); that and all envs at once are both shown. pytorch-mppi has no batch: its 8 envs are 8
solves.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wm_plan.planners import CEM, ICEM, MPPI

HORIZON, NUM_SAMPLES, NUM_ELITES, BOUND, STD = 20, 512, 50, 10.0, 5.0
DYNAMICS = torch.tensor([[1.0, 0.1], [0.0, 1.0]])
CONTROL = torch.tensor([[0.005], [0.1]])
STATE_WEIGHT, CONTROL_WEIGHT = torch.tensor([1.0, 0.1]), 0.01
START = torch.tensor([1.0, 0.0])


def step_forward(state: Tensor, action: Tensor) -> Tensor:
    """The double integrator, one step of .1 s."""
    return state @ DYNAMICS.T.to(state) + action @ CONTROL.T.to(state)


def step_cost(state: Tensor, action: Tensor) -> Tensor:
    """Cost of the next state and the action that led there; the sum over 20 steps is 5.022229 at best."""
    return (state.square() * STATE_WEIGHT.to(state)).sum(-1) + CONTROL_WEIGHT * action.square().sum(-1)


def sequence_cost(actions: Tensor) -> Tensor:
    """Cost (B, N) of actions (B, N, 20, 1)."""
    state = START.to(actions).expand(*actions.shape[:2], 2)
    total = actions.new_zeros(actions.shape[:2])
    for step in range(actions.shape[2]):
        state = step_forward(state, actions[:, :, step])
        total = total + step_cost(state, actions[:, :, step])
    return total


def optimal_cost() -> float:
    """By the Riccati recursion."""
    dynamics, control, weight = DYNAMICS.double().numpy(), CONTROL.double().numpy(), np.diag([1.0, 0.1])
    value = np.zeros((2, 2))
    for _ in range(HORIZON):
        reach = weight + value
        gain = np.linalg.solve(CONTROL_WEIGHT + control.T @ reach @ control, control.T @ reach @ dynamics)
        value = dynamics.T @ reach @ (dynamics - control @ gain)
    return float(START.double().numpy() @ value @ START.double().numpy())


def gap(actions: Tensor) -> float:
    """How far, relatively, a returned sequence (20, 1) is above the optimum."""
    clipped = torch.as_tensor(actions).double().clamp(-BOUND, BOUND).reshape(1, 1, HORIZON, 1)
    return sequence_cost(clipped).item() / optimal_cost() - 1


Solve = Callable[[int], Tensor]
"""Maps a seed to the sequences (B, 20, 1) of all envs."""


def ours(name: str, num_iterations: int, num_envs: int, **settings: object) -> Solve:
    """A solve by a planner of this package, without its usual extra evaluation of the last mean."""
    planner_class = {"cem": CEM, "icem": ICEM, "mppi": MPPI}[name]
    planner = planner_class(
        (np.array([-BOUND]), np.array([BOUND])),
        horizon=HORIZON,
        num_samples=NUM_SAMPLES,
        num_iterations=num_iterations,
        init_std=STD / BOUND,
        evaluate_mean=False,
        **({"num_elites": NUM_ELITES} if name != "mppi" else {}),
        **settings,
    )
    return lambda seed: planner.optimize(sequence_cost, batch_size=num_envs, seed=seed).actions


def stable_worldmodel(
    name: str, num_iterations: int, num_envs: int, at_once: bool, **settings: object
) -> Solve:
    """A solve by one of stable-worldmodel's solvers."""
    if "stable_worldmodel" not in sys.modules:
        found = importlib.util.find_spec("stable_worldmodel")
        if found is None:
            raise ModuleNotFoundError("pip install --no-deps stable-worldmodel==0.1.1")
        shim = types.ModuleType("stable_worldmodel")
        shim.__path__ = list(found.submodule_search_locations or [])
        sys.modules["stable_worldmodel"] = shim
    from gymnasium.spaces import Box

    solvers = importlib.import_module("stable_worldmodel.solver")

    class Model:
        def get_cost(self, info: dict, candidates: Tensor) -> Tensor:
            return sequence_cost(candidates)

    solver_class = {"cem": solvers.CEMSolver, "icem": solvers.ICEMSolver, "mppi": solvers.MPPISolver}[name]
    box = Box(-BOUND, BOUND, (num_envs, 1), np.float32)
    plan = types.SimpleNamespace(horizon=HORIZON, receding_horizon=1, action_block=1, history_len=1)

    def solve(seed: int) -> Tensor:
        solver = solver_class(
            Model(),
            batch_size=num_envs if at_once else 1,
            num_samples=NUM_SAMPLES,
            var_scale=STD,
            n_steps=num_iterations,
            topk=NUM_ELITES,
            seed=seed,
            **settings,
        )
        solver.configure(action_space=box, n_envs=num_envs, config=plan)
        with contextlib.redirect_stdout(io.StringIO()):
            return solver.solve({"state": torch.zeros(num_envs, 1)})["actions"]

    return solve


def pytorch_mppi(num_iterations: int, num_envs: int, temperature: float) -> Solve:
    """As many commands of pytorch-mppi as there are iterations, without moving on in time."""
    peer = importlib.import_module("pytorch_mppi")

    def solve(seed: int) -> Tensor:
        torch.manual_seed(seed)
        sequences = []
        for _ in range(num_envs):
            solver = peer.MPPI(
                step_forward,
                step_cost,
                2,
                torch.tensor([[STD**2]]),
                num_samples=NUM_SAMPLES,
                horizon=HORIZON,
                lambda_=temperature,
                u_min=torch.tensor([-BOUND]),
                u_max=torch.tensor([BOUND]),
                U_init=torch.zeros(HORIZON, 1),
            )
            for _ in range(num_iterations):
                solver.command(START, shift_nominal_trajectory=False)
            sequences.append(solver.U)
        return torch.stack(sequences)

    return solve


def bare(num_iterations: int, num_envs: int) -> Solve:
    """Nothing but the cost function, on the same number of sequences."""
    actions = torch.zeros(num_envs, NUM_SAMPLES, HORIZON, 1)

    @torch.inference_mode()
    def solve(seed: int) -> Tensor:
        for _ in range(num_iterations):
            sequence_cost(actions)
        return actions[:, 0]

    return solve


def measure(solvers: dict[str, Solve], seeds: int, warm_up: int = 2) -> dict[str, dict[str, float]]:
    """Gaps and times [ms] of solvers that take turns, seed by seed."""
    times: dict[str, list[float]] = {name: [] for name in solvers}
    gaps: dict[str, list[float]] = {name: [] for name in solvers}
    for seed in range(-warm_up, seeds):
        for name, solve in solvers.items():
            start = time.perf_counter()
            actions = solve(abs(seed))
            if seed >= 0:
                times[name].append((time.perf_counter() - start) * 1e3)
                gaps[name].append(gap(actions[0]))
    return {
        name: {
            "gap_median": float(np.median(gaps[name])),
            "ms_p50": float(np.median(times[name])),
            "ms_p99": float(np.quantile(times[name], 0.99)),
        }
        for name in solvers
    }


def lqr_solvers(num_iterations: int, num_envs: int) -> dict[str, Solve]:
    """Everything that is compared on the double integrator."""
    white, no_floor = {"noise_beta": 0.0}, {"min_std": 0.0}
    solvers = {
        "bare cost function": bare(num_iterations, num_envs),
        "wm-plan CEM": ours("cem", num_iterations, num_envs),
        "wm-plan CEM, no std floor": ours("cem", num_iterations, num_envs, **no_floor),
        "stable-worldmodel CEM, env by env": stable_worldmodel("cem", num_iterations, num_envs, False),
        "stable-worldmodel CEM, all at once": stable_worldmodel("cem", num_iterations, num_envs, True),
        "wm-plan iCEM, white noise": ours("icem", num_iterations, num_envs, population_decay=1.0, **white),
        "wm-plan iCEM, white noise, no std floor": ours(
            "icem", num_iterations, num_envs, population_decay=1.0, **white, **no_floor
        ),
        "wm-plan iCEM, its defaults": ours("icem", num_iterations, num_envs),
        "stable-worldmodel iCEM, white noise": stable_worldmodel(
            "icem", num_iterations, num_envs, True, **white
        ),
        "stable-worldmodel iCEM, its defaults": stable_worldmodel("icem", num_iterations, num_envs, True),
    }
    for temperature in (0.01, 0.03, 0.1, 0.3):
        solvers[f"wm-plan MPPI, temperature {temperature} std"] = ours(
            "mppi", num_iterations, num_envs, temperature=temperature
        )
    solvers["wm-plan MPPI, sample size 5 %"] = ours("mppi", num_iterations, num_envs, target_sample_size=0.05)
    for temperature in (0.1, 0.5, 2.0):
        settings = {"temperature": temperature}
        solvers[f"wm-plan MPPI, classical, temperature {temperature}"] = ours(
            "mppi", num_iterations, num_envs, normalize_costs=False, update_std=False, **settings
        )
        solvers[f"pytorch-mppi, temperature {temperature}"] = pytorch_mppi(
            num_iterations, num_envs, temperature
        )
        solvers[f"stable-worldmodel MPPI, temperature {temperature}"] = stable_worldmodel(
            "mppi", num_iterations, num_envs, True, **settings
        )
    return solvers


def toy_times(repeats: int) -> dict[str, dict[str, float]]:
    """Time of one iteration on a plane: 500 candidates x 15 steps, as pytorch-mppi quotes its speed."""
    peer = importlib.import_module("pytorch_mppi")
    control, start, goal = (
        torch.diag(torch.tensor([0.5, -0.5])),
        torch.tensor([-3.0, -2.0]),
        torch.tensor([2.0, 2.0]),
    )

    def forward(state: Tensor, action: Tensor) -> Tensor:
        return state + action @ control

    def cost(state: Tensor, action: Tensor) -> Tensor:
        return (state - goal).square().sum(-1)

    def rolled_out(actions: Tensor) -> Tensor:
        state, total = start.expand(*actions.shape[:2], 2), actions.new_zeros(actions.shape[:2])
        for step in range(15):
            state = forward(state, actions[:, :, step])
            total = total + cost(state, actions[:, :, step])
        return total

    theirs = peer.MPPI(
        forward,
        cost,
        2,
        torch.eye(2) * 0.25,
        num_samples=500,
        horizon=15,
        lambda_=1.0,
        u_min=-torch.ones(2),
        u_max=torch.ones(2),
        U_init=torch.zeros(15, 2),
    )
    classical = {"normalize_costs": False, "update_std": False, "temperature": 1.0, "evaluate_mean": False}
    planner = MPPI((-np.ones(2), np.ones(2)), horizon=15, num_samples=500, num_iterations=1, **classical)
    candidates, nominal = torch.zeros(1, 500, 15, 2), torch.zeros(1, 15, 2)
    solvers: dict[str, Callable[[], object]] = {
        "wm-plan MPPI": lambda: planner.optimize(rolled_out, warm_start=nominal, seed=0),
        "pytorch-mppi": lambda: theirs.command(start, shift_nominal_trajectory=False),
        "bare cost function": torch.inference_mode()(lambda: rolled_out(candidates)),
    }
    times: dict[str, list[float]] = {name: [] for name in solvers}
    for _ in range(repeats + 20):
        for name, solve in solvers.items():
            began = time.perf_counter()
            solve()
            times[name].append((time.perf_counter() - began) * 1e3)
    return {
        name: {"ms_p50": float(np.median(seen[20:])), "ms_p99": float(np.quantile(seen[20:], 0.99))}
        for name, seen in times.items()
    }


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print one table."""
    print(f"\n{title}")
    for name, row in rows.items():
        gap_text = (
            f"{100 * row['gap_median']:9.3f} %" if "gap_median" in row and "bare" not in name else " " * 11
        )
        print(f"  {name:44s}{gap_text}  p50 {row['ms_p50']:8.3f} ms  p99 {row['ms_p99']:8.3f} ms")


def main() -> None:
    """Run everything, print tables, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write all numbers there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for num_envs, num_iterations in ((1, 15), (1, 30), (8, 15)):
        title = f"double integrator, {NUM_SAMPLES} x {num_iterations} x {HORIZON}, envs: {num_envs}"
        results[title] = measure(lqr_solvers(num_iterations, num_envs), arguments.seeds)
        show(title, results[title])
    title = "2-d toy, 500 x 1 x 15"
    results[title] = toy_times(repeats=50 * arguments.seeds)
    show(title, results[title])
    toy, eight = results[title], results[f"double integrator, {NUM_SAMPLES} x 15 x {HORIZON}, envs: 8"]
    ratios = {
        "MPPI time / pytorch-mppi time, 2-d toy": toy["wm-plan MPPI"]["ms_p50"]
        / toy["pytorch-mppi"]["ms_p50"],
        "CEM time / stable-worldmodel CEM time (its default), 8 envs": eight["wm-plan CEM"]["ms_p50"]
        / eight["stable-worldmodel CEM, env by env"]["ms_p50"],
        "CEM time / stable-worldmodel CEM time (all at once), 8 envs": eight["wm-plan CEM"]["ms_p50"]
        / eight["stable-worldmodel CEM, all at once"]["ms_p50"],
        "CEM time / bare cost function, 8 envs": eight["wm-plan CEM"]["ms_p50"]
        / eight["bare cost function"]["ms_p50"],
    }
    print()
    for name, ratio in ratios.items():
        print(f"  {name}: {ratio:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"results": results, "ratios": ratios}, indent=2))


if __name__ == "__main__":
    main()
