"""How long a replan takes on one thread, beside the bare matrix products of the same sizes.

    python benchmarks/plan_latency.py [--env reacher] [--model DIR] [--planner cem] [--repeats 200] [--json]

A replan is what `MPC.act` does when a model step begins: encode the new frame, then search. Its matrix
products are recorded once, with their sizes, as torch runs them. The floor runs products of these sizes in
the same order into buffers that exist already, and does nothing else: no norms, no activations, no
attention weights, no noise, no costs, no elites. Replans and floors take turns, in one process, so that
whatever else the machine does meets both. Overrides follow the flags, as in planner.num_samples=512.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

import wm_plan
from wm_plan.machine import versions
from wm_plan.planners import MPC

Product = tuple[int, int, int, int, torch.dtype]
"""Sizes of (batch, row, inner) @ (batch, inner, column), and of what numbers."""

WARM_UP = 10


class ProductRecorder(TorchDispatchMode):
    """Notes the sizes of all matrix products, attention and convolution included, that run inside it."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever func gives
        """Note what `func` multiplies, and run it."""
        with self:  # what a compound operation is made of is seen, too
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self._note(args[0], args[1])
        elif name in ("addmm", "baddbmm"):
            self._note(args[1], args[2])
        elif name.startswith("_scaled_dot_product"):
            query, key, value = (part.flatten(0, -3) for part in args[:3])
            self._note(query, key.transpose(1, 2))
            self.products.append((len(query), query.shape[1], key.shape[1], value.shape[2], query.dtype))
        elif name == "convolution":
            weight = args[1]
            places = result.numel() // weight.shape[0]
            self.products.append((1, places, weight[0].numel(), weight.shape[0], weight.dtype))
        return result

    def _note(self, left: Tensor, right: Tensor) -> None:
        batch = left.shape[0] if left.ndim == 3 else 1
        self.products.append((batch, left.shape[-2], left.shape[-1], right.shape[-1], left.dtype))


def recorded(call: Callable[[], object]) -> list[Product]:
    """The matrix products that `call` makes."""
    with ProductRecorder() as recorder:
        call()
    return recorder.products


def floor_of(products: list[Product]) -> Callable[[], None]:
    """What runs nothing but these products."""
    generator = torch.Generator().manual_seed(0)
    buffers = {
        (batch, rows, inner, columns, kind): (
            torch.randn(batch, rows, inner, generator=generator).to(kind),
            torch.randn(batch, inner, columns, generator=generator).to(kind),
            torch.empty(batch, rows, columns, dtype=kind),
        )
        for batch, rows, inner, columns, kind in set(products)
    }
    calls = [
        (torch.mm, *(part[0] for part in buffers[sizes])) if sizes[0] == 1 else (torch.bmm, *buffers[sizes])
        for sizes in products
    ]

    @torch.inference_mode()
    def run() -> None:
        for multiply, left, right, out in calls:
            multiply(left, right, out=out)

    return run


def measure(controller: MPC, env_name: str, repeats: int) -> dict[str, Any]:
    """Replans and floors in turn; times in milliseconds."""
    env = wm_plan.make_env(env_name)
    goal = env.sample_state(np.random.default_rng(1))
    controller.set_goal(env.render_goal(goal))
    controller.reset(seed=0)
    observation, _ = env.reset(seed=0)
    model: Any = controller.model
    frame = torch.from_numpy(observation["pixels"])[None, None]
    encoding = recorded(lambda: model.encode(frame))
    replan = recorded(lambda: controller.act(observation))
    planning = replan[len(encoding) :]
    assert replan[: len(encoding)] == encoding
    controller.reset(seed=0)
    floors = {"encode_floor": floor_of(encoding), "plan_floor": floor_of(planning)}
    times: dict[str, list[float]] = {
        name: [] for name in ("replan", "encode", "plan", "floor", "encode_floor", "plan_floor")
    }
    while len(times["replan"]) < repeats + WARM_UP:
        began = time.perf_counter()
        action = controller.act(observation)
        seconds = time.perf_counter() - began
        observation, *_ = env.step(action)
        if not controller.replanned:
            continue
        times["replan"].append(seconds * 1e3)
        times["encode"].append(controller.timings["encode_ms"])
        times["plan"].append(controller.timings["plan_ms"])
        for name, run in floors.items():
            began = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - began) * 1e3)
        times["floor"].append(times["encode_floor"][-1] + times["plan_floor"][-1])
    env.close()
    rows = {
        name: {f"p{rank}": float(np.percentile(seen[WARM_UP:], rank)) for rank in (50, 99)}
        for name, seen in times.items()
    }
    return {
        "times_ms": rows,
        "replan_over_floor": rows["replan"]["p50"] / rows["floor"]["p50"],
        "products": {"encode": len(encoding), "plan": len(planning)},
        "megaflops": {
            name: sum(2 * int(np.prod(sizes[:4])) for sizes in made) / 1e6
            for name, made in (("encode", encoding), ("plan", planning))
        },
    }


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    planner, products, flops = result["planner"], result["products"], result["megaflops"]
    sizes = "{num_samples} candidates x {num_iterations} iterations x {horizon} model steps".format(**planner)
    print(f"{result['env']}, {planner['name']}: {sizes}; {result['repeats']} replans, one thread")
    print(f"{'':<10}{'p50 ms':>10}{'p99 ms':>10}{'floor p50':>12}{'p99 ms':>10}{'products':>10}{'MFLOP':>9}")
    for name, floor in (("encode", "encode_floor"), ("plan", "plan_floor"), ("replan", "floor")):
        took, least = result["times_ms"][name], result["times_ms"][floor]
        count = products.get(name, sum(products.values()))
        work = flops.get(name, sum(flops.values()))
        print(
            f"{name:<10}{took['p50']:>10.2f}{took['p99']:>10.2f}"
            f"{least['p50']:>12.2f}{least['p99']:>10.2f}{count:>10}{work:>9.0f}"
        )
    print(f"a replan takes {result['replan_over_floor']:.2f} times its bare matrix products (p50)")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="reacher", help="the task (reacher)")
    parser.add_argument("--model", help="a predictor of your own (default: the task's shipped one)")
    parser.add_argument("--planner", default="cem", help="the planner (cem)")
    parser.add_argument("--repeats", type=int, default=200, help="replans (200)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("overrides", nargs="*", help="settings, as in planner.num_samples=512")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    try:
        controller = wm_plan.load(flags.model or flags.env, planner=flags.planner, overrides=flags.overrides)
    except ValueError as error:
        sys.exit(f"plan_latency.py: {error}")
    settings = controller.planner.config
    sizes = {name: getattr(settings, name) for name in ("num_samples", "num_iterations", "horizon")}
    result = {
        "env": flags.env,
        "planner": {"name": flags.planner, **sizes},
        "repeats": flags.repeats,
        "threads": 1,
        "processor": platform.machine(),
        "versions": versions(),
        **measure(controller, flags.env, flags.repeats),
    }
    if flags.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
