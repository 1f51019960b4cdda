"""What keeping keys and values is worth: candidates imagined with a cache, and with everything recomputed.

    python benchmarks/rollout.py [--family vjepa2_ac] [--candidates 300] [--horizon 5] [--width 64]
                                 [--contexts 1 4] [--repeats 3] [--plot FILE.png] [--json]

The same weights, three ways. Cached: each imagined frame goes through the network once, beside the kept keys
and values. Recomputed: every step sends all frames up to it through the network again, for every candidate,
but a step's queries still meet no later keys. Masked: recomputed as the published code does it, one attention
over all pairs of tokens with a mask. Ways take turns, so that whatever else the machine does meets all. The
floor runs the matrix products of the cached way alone, into buffers that exist already. The memory is that of
the candidates' keys and values: in the parts that are imagined at once, and if all were at once.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from plan_latency import floor_of, recorded
from torch import Tensor

from wm_plan.machine import versions
from wm_plan.world_model.dino_wm import DinoWMConfig, DinoWMPredictor
from wm_plan.world_model.encoders.rotary import rotate
from wm_plan.world_model.token_predictor import TokenPredictor
from wm_plan.world_model.vjepa2_ac import NextState, VJEPA2ACConfig, VJEPA2ACPredictor

WAYS = {"masked": "#c44e52", "recomputed": "#dd8452", "cached": "#4c72b0", "floor": "#8c8c8c"}
TOKEN_DIM, ACTION_DIM, MAX_STEPS = 64, 2, 32


def make_predictor(family: str, grid: int, width: int, depth: int, heads: int) -> TokenPredictor:
    """Random weights: time does not depend on them."""
    torch.manual_seed(0)
    predictor: TokenPredictor
    if family == "vjepa2_ac":
        sizes = VJEPA2ACConfig(
            TOKEN_DIM, grid, ACTION_DIM, 0, width, depth, heads, 4.0, MAX_STEPS, NextState.learned, True
        )
        predictor = VJEPA2ACPredictor(sizes)
    else:
        predictor = DinoWMPredictor(
            DinoWMConfig(
                token_dim=width,
                grid_size=grid,
                action_dim=ACTION_DIM,
                depth=depth,
                num_heads=heads,
                head_dim=width // heads,
                mlp_width=4 * width,
                max_steps=MAX_STEPS,
            )
        )
    with torch.no_grad():
        for parameter in predictor.parameters():  # also those that training begins with zeros
            parameter.add_(0.05 * torch.randn_like(parameter))
    return predictor.eval().requires_grad_(False)


def masked(predictor: TokenPredictor, frames: Tensor, actions: Tensor) -> Tensor:
    """The tokens that follow, by one attention over all pairs of tokens."""
    steps = frames.shape[1]
    hidden = predictor.embed(frames, actions, None, 0)
    step_of = torch.arange(steps).repeat_interleave(hidden.shape[2])
    mask = step_of[:, None] >= step_of
    turn = predictor.turn(0, steps)
    hidden = hidden.flatten(1, 2)
    for block in predictor.blocks:
        qkv = block.attn.qkv(block.norm1(hidden))
        query, key, value = rearrange(qkv, "b n (t h d) -> t b h n d", t=3, h=block.attn.num_heads)
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = hidden + block.attn.proj(rearrange(mixed, "b h n d -> b n (h d)"))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return predictor.feed_on(predictor.next_tokens(hidden.unflatten(1, (steps, -1)), frames))


Ways = dict[str, Callable[[], Tensor]]


def ways_of(predictor: TokenPredictor, context: int, candidates: int, horizon: int, part: int) -> Ways:
    """The ways to imagine the same candidates; each in parts of `part`, to be fair to all."""
    generator = torch.Generator().manual_seed(1)
    seen = torch.randn(1, context, predictor.grid_size**2, predictor.token_dim, generator=generator)
    past = torch.randn(1, context - 1, ACTION_DIM, generator=generator)
    actions = torch.randn(1, candidates, horizon, ACTION_DIM, generator=generator)

    @torch.inference_mode()
    def cached() -> Tensor:
        parts = [predictor.imagine(seen, past, None, some)[0] for some in actions.split(part, dim=1)]
        return torch.cat(parts, dim=1)

    @torch.inference_mode()
    def recomputed(follow: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        parts = []
        for some in actions[0].split(part):
            frames, acted = seen.expand(len(some), -1, -1, -1), past.expand(len(some), -1, -1)
            for step in range(horizon):
                acted = torch.cat([acted, some[:, step : step + 1]], dim=1)
                frames = torch.cat([frames, follow(frames, acted)[:, -1:]], dim=1)
            parts.append(frames[:, context:])
        return torch.cat(parts).unsqueeze(0)

    return {
        "cached": cached,
        "recomputed": lambda: recomputed(lambda frames, acted: predictor.advance(frames, acted, None)[0]),
        "masked": lambda: recomputed(lambda frames, acted: masked(predictor, frames, acted)),
    }


def timed(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least processor seconds of each way, in turns: on one thread, what a quiet machine takes."""
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, run in ways.items():
            began = time.process_time()
            run()
            least[name] = min(least[name], time.process_time() - began)
    return least


def measure(flags: argparse.Namespace, context: int, candidates: int, horizon: int) -> dict[str, Any]:
    """One row: seconds, how many times faster, memory, share of the floor."""
    predictor = make_predictor(flags.family, flags.grid, flags.width, flags.depth, flags.heads)
    ways = ways_of(predictor, context, candidates, horizon, flags.part)
    one = ways_of(predictor, context, min(flags.part, candidates), horizon, flags.part)
    with torch.inference_mode():
        right = one["masked"]()
        worst = max(float((one[way]() - right).abs().max()) for way in ("cached", "recomputed"))
    parts = -(-candidates // flags.part)
    floor = floor_of(recorded(one["cached"]))
    seconds = timed({**ways, "floor": floor}, flags.repeats)
    seconds["floor"] *= candidates / min(flags.part, candidates)
    step = predictor.cache_numbers_per_step() * 4
    return {
        "context": context,
        "candidates": candidates,
        "horizon": horizon,
        "seconds": seconds,
        "faster_than_masked": seconds["masked"] / seconds["cached"],
        "faster_than_recomputed": seconds["recomputed"] / seconds["cached"],
        "floor_share": seconds["floor"] / seconds["cached"],
        "largest_difference": worst,
        "parts": parts,
        "cache_mb": (context - 1 + min(flags.part, candidates) * horizon) * step / 2**20,
        "cache_mb_at_once": (context - 1 + candidates * horizon) * step / 2**20,
    }


def plot(path: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Seconds against horizon and against candidates."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, name in zip(axes, ("horizon", "candidates"), strict=True):
        for way, colour in WAYS.items():
            places = [row[name] for row in rows[name]]
            axis.plot(places, [row["seconds"][way] for row in rows[name]], "o-", color=colour, label=way)
        axis.set_xlabel(name)
        axis.set_ylabel("seconds")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    print("{family}: {tokens} tokens, width {width}, depth {depth}, one thread".format(**result))
    print(
        f"{'context':>8}{'cands':>7}{'horizon':>9}{'cached s':>10}{'recomputed s':>19}{'masked s':>18}"
        f"{'floor':>7}{'cache MB':>10}{'all at once':>12}{'difference':>12}"
    )
    for row in result["rows"]:
        took = row["seconds"]
        print(
            f"{row['context']:>8}{row['candidates']:>7}{row['horizon']:>9}{took['cached']:>10.2f}"
            f"{took['recomputed']:>11.2f} ({row['faster_than_recomputed']:.1f}x)"
            f"{took['masked']:>10.2f} ({row['faster_than_masked']:.1f}x)"
            f"{row['floor_share']:>7.0%}{row['cache_mb']:>10.1f}{row['cache_mb_at_once']:>12.1f}"
            f"{row['largest_difference']:>12.1e}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=("vjepa2_ac", "dino_wm"), default="vjepa2_ac")
    parser.add_argument("--candidates", type=int, default=300, help="sequences imagined (300)")
    parser.add_argument("--horizon", type=int, default=5, help="steps imagined (5)")
    parser.add_argument("--grid", type=int, default=16, help="patches along a side (16: 256 tokens)")
    parser.add_argument("--width", type=int, default=64, help="of the predictor (64)")
    parser.add_argument("--depth", type=int, default=2, help="blocks (2)")
    parser.add_argument("--heads", type=int, default=2, help="attention heads (2)")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1, 4], help="frames seen (1 4)")
    parser.add_argument("--part", type=int, default=10, help="candidates at once, for both ways (10)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts (3)")
    parser.add_argument("--plot", type=Path, help="draw growth with horizon and candidates here")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "family": flags.family,
        "tokens": flags.grid**2,
        "width": flags.width,
        "depth": flags.depth,
        "processor": platform.machine(),
        "versions": versions(),
        "rows": [measure(flags, context, flags.candidates, flags.horizon) for context in flags.contexts],
    }
    if flags.plot:
        context, most = flags.contexts[-1], flags.candidates
        horizons = range(1, flags.horizon + 1)
        counts = sorted({max(1, most * share // 4) for share in (1, 2, 3, 4)})
        result["growth"] = {
            "horizon": [measure(flags, context, counts[0], horizon) for horizon in horizons],
            "candidates": [measure(flags, context, count, flags.horizon) for count in counts],
        }
        plot(flags.plot, result["growth"])
    if flags.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
