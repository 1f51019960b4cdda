"""What a table of results says: one row a protocol and policy, as plain values and as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from .runner import Outcome
from .statistics import loss_interval, wilson_interval


def make_row(
    env: str,
    protocol: str,
    policy: str,
    outcomes: Sequence[Outcome],
    *,
    name: str | None = None,
    goals: str | None = None,
    change: str | None = None,
    amount: str | None = None,
    plan_ms: Sequence[float],
    encode_ms: Sequence[float],
    seconds: float,
    threads: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Give one row; rates are fractions, `ci95` Wilson intervals, times milliseconds.

    Args:
        name: what tells the row from others of its policy; the policy if None.
        goals: the protocol that the trials are drawn by; `protocol` itself if None.
        change: what differs from the plain run, and
        amount: by how much, in words; None in the plain run.
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
        "goals": goals or protocol,
        "change": change,
        "amount": amount,
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


def add_losses(rows: Sequence[dict[str, Any]], outcomes: Sequence[Sequence[Outcome]]) -> None:
    """Tell each changed row by how much fewer of the same trials it reached than the plain row of its policy.

    `loss` is a fraction with its 95 % interval, `loss_held` likewise where holding is measured; None in rows
    without a change.
    """
    plain = {
        (row["protocol"], row["name"]): ends
        for row, ends in zip(rows, outcomes, strict=True)
        if row["change"] is None
    }
    for row, ends in zip(rows, outcomes, strict=True):
        before = plain[row["protocol"], row["name"]]
        losses: dict[str, Any] = {"loss": None, "loss_ci95": None, "loss_held": None, "loss_held_ci95": None}
        if row["change"] is not None:
            told = ("reached", "held") if row["held_rate"] is not None else ("reached",)
            for what in told:
                key = "loss" if what == "reached" else "loss_held"
                loss, low, high = loss_interval(
                    [bool(getattr(one, what)) for one in before], [bool(getattr(one, what)) for one in ends]
                )
                losses |= {key: round(loss, 4), f"{key}_ci95": [round(low, 4), round(high, 4)]}
        row.update(losses)


def make_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as comma-separated values: what is one value in a cell of its own, intervals as two."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pairs = [name for name in rows[0] if name.endswith("ci95")]
    plain = [name for name in rows[0] if name not in (*pairs, "groups", "settings")]
    writer.writerow([*plain, *(f"{name}_{end}" for name in pairs for end in ("low", "high"))])
    for row in rows:
        ends = [end for name in pairs for end in (row[name] or (None, None))]
        writer.writerow(["" if value is None else value for value in (*(row[name] for name in plain), *ends)])
    return text.getvalue()


def make_table(rows: Sequence[dict[str, Any]], width: int = 130) -> str:
    """Draw rows as a table: per cent with 95 % intervals; one more line for every kind of goal."""
    from rich.console import Console
    from rich.table import Table

    robust = any(row["change"] is not None for row in rows)
    table = Table(box=None, pad_edge=False)
    for name in ("env", "protocol", *(("change",) if robust else ()), "policy"):
        table.add_column(name)
    lost = ("loss",) if robust else ()
    for name in ("episodes", "reached %", "held %", *lost, "plan ms p50", "p99", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        times = [_number(row[name]) for name in ("plan_ms_p50", "plan_ms_p99", "seconds")]
        change = (row["change"] or "",) if robust else ()
        loss = (_loss(row),) if robust else ()
        table.add_row(row["env"], row["protocol"], *change, row["name"], *_rates(row), *loss, *times)
        for name, group in row["groups"].items():
            blank = [""] * (2 + len(change))
            table.add_row(*blank, f"  {name}", *_rates(group), style="dim")
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _rates(counts: dict[str, Any]) -> tuple[str, str, str]:
    return (
        str(counts["episodes"]),
        _percent(counts["success_rate"], counts["ci95"]),
        "" if counts["held_rate"] is None else _percent(counts["held_rate"], counts["held_ci95"]),
    )


def _loss(row: dict[str, Any]) -> str:
    return "" if row["loss"] is None else _percent(row["loss"], row["loss_ci95"])


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
