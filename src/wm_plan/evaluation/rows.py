"""What a table of results says: one row a protocol and policy, as plain values and as text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from .runner import Outcome
from .statistics import wilson_interval


def make_row(
    env: str,
    protocol: str,
    policy: str,
    outcomes: Sequence[Outcome],
    *,
    name: str | None = None,
    plan_ms: Sequence[float],
    encode_ms: Sequence[float],
    seconds: float,
    threads: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Give one row; rates are fractions, `ci95` Wilson intervals, times milliseconds.

    Args:
        name: what tells the row from others of its policy; the policy if None.
        plan_ms: of single replans for one environment at a time, with nothing else in the batch.
        encode_ms: of single frames, likewise.
        seconds: of all episodes together, planned in batches.
        settings: how the policy was set up.
    """
    reached_at = [outcome.reached_at for outcome in outcomes if outcome.reached_at is not None]
    groups = sorted({outcome.trial.group for outcome in outcomes if outcome.trial.group is not None})
    return {
        "env": env,
        "protocol": protocol,
        "policy": policy,
        "name": name or policy,
        **count(outcomes),
        "groups": {name: count([one for one in outcomes if one.trial.group == name]) for name in groups},
        "budget": outcomes[0].trial.budget,
        "reached_at_p50": _percentile(reached_at, 50),
        "final_error_p50": _percentile([outcome.final_error for outcome in outcomes], 50),
        "least_error_p50": _percentile([outcome.least_error for outcome in outcomes], 50),
        "plan_ms_p50": _percentile(plan_ms, 50),
        "plan_ms_p99": _percentile(plan_ms, 99),
        "encode_ms_p50": _percentile(encode_ms, 50),
        "plans_timed": len(plan_ms),
        "seconds": round(seconds, 3),
        "threads": threads,
        "settings": settings,
    }


def count(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Count reached and held; `held` and its rate are None where holding is not measured."""
    episodes = len(outcomes)
    successes = sum(outcome.reached for outcome in outcomes)
    measured = all(outcome.held is not None for outcome in outcomes)
    held = sum(bool(outcome.held) for outcome in outcomes) if measured else None
    return {
        "episodes": episodes,
        "successes": successes,
        "success_rate": successes / episodes,
        "ci95": _interval(successes, episodes),
        "held": held,
        "held_rate": None if held is None else held / episodes,
        "held_ci95": None if held is None else _interval(held, episodes),
    }


def make_table(rows: Sequence[dict[str, Any]], width: int = 110) -> str:
    """Draw rows as a table: per cent with 95 % intervals; one more line for every kind of goal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("env", "protocol", "policy"):
        table.add_column(name)
    for name in ("episodes", "reached %", "held %", "plan ms p50", "p99", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        times = [_number(row[name]) for name in ("plan_ms_p50", "plan_ms_p99", "seconds")]
        table.add_row(row["env"], row["protocol"], row["name"], *_rates(row), *times)
        for name, group in row["groups"].items():
            table.add_row("", "", f"  {name}", *_rates(group), "", "", "", style="dim")
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _rates(counts: dict[str, Any]) -> tuple[str, str, str]:
    return (
        str(counts["episodes"]),
        _percent(counts["success_rate"], counts["ci95"]),
        "" if counts["held_rate"] is None else _percent(counts["held_rate"], counts["held_ci95"]),
    )


def _percent(rate: float, interval: Sequence[float]) -> str:
    return f"{100 * rate:.0f} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _interval(successes: int, trials: int) -> list[float]:
    return [round(bound, 4) for bound in wilson_interval(successes, trials)]


def _percentile(values: Sequence[float], rank: int) -> float | None:
    return round(float(np.percentile(values, rank)), 3) if len(values) else None
