"""The README's measured table, from the JSON that wm-eval and plan_latency.py printed.

python benchmarks/results_table.py prints it; with --write README.md it replaces what stands there between
the markers. Every number in it comes from docs/results/*.json, which `make results` makes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
TASKS = ("reacher", "point_mass", "two_room")
PROTOCOLS = ("near", "far")
POLICIES = {
    "planner": "**world model + {planner}**",
    "physics": "true physics + {planner}",
    "rl": "RL from state (SAC + HER)",
    "random": "random actions",
    "hold": "doing nothing",
}
PLANNERS = {
    "cem": "CEM",
    "icem": "iCEM",
    "mppi": "MPPI",
    "ps": "predictive sampling",
    "gradient": "gradient",
}
COLUMNS = (
    "task",
    "goals, env steps",
    "who acts",
    "episodes",
    "reached, % (95 % interval)",
    "held, %",
    "plan, ms p50 / p99",
)

Result = dict[str, Any]


def results_table(results: list[Result]) -> str:
    """Markdown of all rows, what they were learned from, and how long a replan takes.

    Raises:
        ValueError: there is no row.
    """
    evaluations = [result for result in results if "rows" in result]
    rows = [row for result in evaluations for row in result["rows"]]
    if not rows:
        raise ValueError("no results were found; make some with: make results")
    rows.sort(key=order)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---|---:|---:|---:|---:|"]
    for row in rows:
        lines += table_lines(row)
    seeds = ", ".join(sorted({str(result["seed"]) for result in evaluations}))
    threads = ", ".join(sorted({str(result["threads"]) for result in evaluations}))
    versions = evaluations[0]["versions"]
    lines += [
        "",
        f"Seed {seeds}; CPU threads: {threads}; torch {versions['torch']}, mujoco {versions['mujoco']}.",
    ]
    lines += [f"- {line}" for line in learned_from(rows)]
    lines += [f"- {latency_line(result)}" for result in results if "times_ms" in result]
    return "\n".join(lines)


def order(row: Result) -> tuple[int, int, int, int]:
    """Where a row stands in the table."""
    return (
        TASKS.index(row["env"]),
        PROTOCOLS.index(row["protocol"]),
        list(POLICIES).index(row["policy"]),
        int(bool(goal_note(row))),
    )


def table_lines(row: Result) -> list[str]:
    """One line of a row, and one more for each kind of goal."""
    name = POLICIES[row["policy"]].format(planner=PLANNERS.get(row["settings"].get("planner", ""), ""))
    times = (
        "" if row["plan_ms_p50"] is None else f"{number(row['plan_ms_p50'])} / {number(row['plan_ms_p99'])}"
    )
    first = [row["env"], f"{row['protocol']}, {row['budget']}", name + goal_note(row)]
    lines = ["| " + " | ".join([*first, *rates(row), times]) + " |"]
    for kind, counts in row["groups"].items():
        lines.append("| " + " | ".join(["", "", f"of these: {kind}", *rates(counts), ""]) + " |")
    return lines


def goal_note(row: Result) -> str:
    """How the goal pictures were drawn, where not as the logs are."""
    settings = row["settings"]
    parts = []
    if settings.get("goal_look", "plain") != "plain":
        parts.append("simulator's own look")
    if settings.get("goal_size"):
        parts.append(f"{settings['goal_size']} px")
    return f"; goal pictures: {', '.join(parts)}" if parts else ""


def rates(counts: Result) -> list[str]:
    """Episodes, reached and held."""
    held = "" if counts["held_rate"] is None else percent(counts["held_rate"], counts["held_ci95"])
    return [str(counts["episodes"]), percent(counts["success_rate"], counts["ci95"]), held]


def percent(rate: float, interval: list[float]) -> str:
    """A rate with its interval, in per cent."""
    return f"{100 * rate:.0f} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"


def number(value: float) -> str:
    """Milliseconds with two digits that count."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def learned_from(rows: list[Result]) -> list[str]:
    """What each world model and each RL policy was trained on, and for how long."""
    lines: dict[str, None] = {}
    for row in rows:
        training = row["settings"].get("training") or {}
        if row["policy"] == "planner" and "episodes" in training:
            episodes = sum(training["episodes"].values())
            steps = {recipe["num_steps"] * recipe["frame_skip"] for recipe in training["data"]}
            logged = f" ({episodes * steps.pop():,} env steps)" if len(steps) == 1 else ""
            lines[
                f"{row['env']}'s world model: {episodes:,} logged episodes{logged}, "
                f"trained in {training['seconds'] / 60:.0f} min."
            ] = None
        if row["policy"] == "rl":
            lines[
                f"{row['env']}'s RL policy: {training['env_steps']:,} env steps, "
                f"trained in {training['wall_seconds'] / 60:.0f} min."
            ] = None
    return list(lines)


def latency_line(result: Result) -> str:
    """How long a replan takes beside its bare matrix products."""
    replan, floor = result["times_ms"]["replan"], result["times_ms"]["floor"]
    sizes = "{num_samples} candidates x {num_iterations} iterations x {horizon} steps".format(
        **result["planner"]
    )
    return (
        f"A replan of {result['env']} ({sizes}, one thread): p50 {number(replan['p50'])} ms, p99"
        f" {number(replan['p99'])} ms, encoding the frame included; the bare matrix products of the same"
        f" sizes take {number(floor['p50'])} ms."
    )


def parts(text: str) -> tuple[str, str, str]:
    """What stands before, between and after the markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the markers {BEGIN} and {END} are not both there")
    return before, between.strip(), after


def main() -> None:
    """Print the table, or put it in its place."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        default=sorted((ROOT / "docs" / "results").glob("*.json")),
        help="JSON files (docs/results/*.json)",
    )
    parser.add_argument("--write", type=Path, metavar="README", help="replace the table in this file")
    flags = parser.parse_args()
    try:
        table = results_table([json.loads(path.read_text(encoding="utf-8")) for path in flags.results])
        if flags.write is None:
            print(table)
            return
        before, _, after = parts(flags.write.read_text(encoding="utf-8"))
        flags.write.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    except ValueError as error:
        sys.exit(f"results_table.py: {error}")


if __name__ == "__main__":
    main()
