"""The measured tables of README and docs/results.md, from the JSON that wm-eval and plan_latency.py printed.

python benchmarks/results_table.py prints the README's, with --full that of docs/results.md; --write FILE puts
it between the markers of a file. Every number in them comes from docs/results/*.json, which `make results`
makes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
TASKS = ("reacher", "point_mass", "two_room", "push_t", "pusher", "cartpole", "cube_reach", "cube_push")
PROTOCOLS = ("near", "far")
POLICIES = {
    "planner": "**world model + {planner}**",
    "physics": "true physics + {planner}",
    "rl": "RL from state (SAC + HER)",
    "rl_latent": "RL from latents (SAC + HER)",
    "gcbc": "behaviour cloning (GCBC)",
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
SHOWN_PLANNER = "cem"
"""Whose row stands for the world model in the README's table: the default."""
SHORT = {
    "planner": "**world model, planned**",
    "rl": "RL, true state",
    "rl_latent": "RL, latents",
    "gcbc": "behaviour cloning",
    "physics": "true physics, planned",
    "random": "random",
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


def short_table(results: list[Result]) -> str:
    """The README's markdown: one line a task and kind of goals, of tasks that the planner was measured on.

    Of a policy that was measured twice, the row of more episodes counts.

    Raises:
        ValueError: there is no row.
    """
    rows = [row for row in plain_rows(results) if stands_for(row)]
    planned = {row["env"] for row in rows if row["policy"] == "planner"}
    rows = [row for row in rows if row["env"] in planned]
    if not rows:
        raise ValueError("no results were found; make some with: make results")
    cells = {(row["env"], row["protocol"], row["policy"]): row for row in rows}
    policies = [policy for policy in SHORT if any(row["policy"] == policy for row in rows)]
    lines = [
        f"| task | goals, env steps | {' | '.join(SHORT[policy] for policy in policies)} |",
        f"|---|---|{'---:|' * len(policies)}",
    ]
    for env in sorted(planned, key=task_place):
        for protocol in PROTOCOLS:
            found = [cells.get((env, protocol, policy)) for policy in policies]
            budgets = {row["budget"] for row in found if row is not None}
            if budgets:
                told = " | ".join("" if row is None else short_rates(row) for row in found)
                lines.append(f"| {env} | {protocol}, {max(budgets)} | {told} |")
    episodes = sorted({row["episodes"] for row in cells.values()})
    lines += ["", f"{' or '.join(map(str, episodes))} episodes a cell. {circumstances(results)}"]
    return "\n".join(lines)


def full_table(results: list[Result]) -> str:
    """The markdown of docs/results.md: all rows, robustness, what was learned from, how long a replan takes.

    Raises:
        ValueError: there is no row.
    """
    rows = plain_rows(results)
    if not rows:
        raise ValueError("no results were found; make some with: make results")
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---|---:|---:|---:|---:|"]
    for row in rows:
        lines += table_lines(row)
    lines += ["", circumstances(results), f"- {time_line(results)}"]
    lines += [f"- {line}" for line in learned_from(rows)]
    lines += [f"- {latency_line(result)}" for result in results if "times_ms" in result]
    return "\n".join([*lines, *robust_table(results)])


def robust_table(results: list[Result]) -> list[str]:
    """Lines of what each change costs each task's world model; none where nothing was measured."""
    rows = [row for row in all_rows(results) if row["protocol"] == "robust" and stands_for(row)]
    rows = [row for row in rows if row["policy"] == "planner"]
    if not rows:
        return []
    tasks = sorted({row["env"] for row in rows}, key=task_place)
    cells = {(row["env"], row["change"]): row for row in rows}
    plain = [cells[env, None] for env in tasks if (env, None) in cells]
    heads = [
        f"{row['env']}, {row['goals']}: reached, % (interval) | lost, points (interval)" for row in plain
    ]
    lines = ["", "### One thing changed", ""]
    lines += [f"| change | {' | '.join(heads)} | amount |", f"|---|{'---:|---:|' * len(plain)}---|"]
    changes = dict.fromkeys(row["change"] for row in sorted(rows, key=lambda row: row["change"] is not None))
    for change in changes:
        found = [cells.get((row["env"], change)) for row in plain]
        amount = next((row["amount"] for row in found if row is not None), "")
        told = " | ".join(" | " if row is None else robust_rates(row) for row in found)
        lines.append(f"| {change or 'plain'} | {told} | {amount or ''} |")
    counts = sorted({row["episodes"] for row in rows})
    return [
        *lines,
        "",
        f"{' or '.join(map(str, counts))} episodes a cell, the same trials in all of a column.",
    ]


def robust_rates(row: Result) -> str:
    """Reached and lost of a changed row."""
    lost = "" if row["loss"] is None else percent(row["loss"], row["loss_ci95"])
    return f"{percent(row['success_rate'], row['ci95'])} | {lost}"


def all_rows(results: Iterable[Result]) -> list[Result]:
    """Every row of every evaluation."""
    return [row for result in results for row in result.get("rows", [])]


def plain_rows(results: Iterable[Result]) -> list[Result]:
    """The rows in which nothing is changed, in the order in which they are shown."""
    return sorted((row for row in all_rows(results) if row["protocol"] in PROTOCOLS), key=order)


def stands_for(row: Result) -> bool:
    """Whether a row is the one of its policy that short tables show."""
    planner = row["settings"].get("planner", SHOWN_PLANNER)
    return row["policy"] in SHORT and planner == SHOWN_PLANNER and not goal_note(row)


def order(row: Result) -> tuple[Any, ...]:
    """Where a row stands in the table."""
    policy = list(POLICIES).index(row["policy"]) if row["policy"] in POLICIES else len(POLICIES)
    return (
        *task_place(row["env"]),
        PROTOCOLS.index(row["protocol"]),
        policy,
        int(bool(goal_note(row))),
        row["episodes"],
    )


def task_place(env: str) -> tuple[int, str]:
    """Where a task stands among all; others than ours come last."""
    return (TASKS.index(env) if env in TASKS else len(TASKS), env)


def table_lines(row: Result) -> list[str]:
    """One line of a row, and one more for each kind of goal."""
    given = POLICIES.get(row["policy"], row["policy"])
    name = given.format(planner=PLANNERS.get(row["settings"].get("planner", ""), ""))
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


def short_rates(row: Result) -> str:
    """Reached, and held where it is measured, over their intervals in small print."""
    parts = [(row["success_rate"], row["ci95"])]
    if row["held_rate"] is not None:
        parts.append((row["held_rate"], row["held_ci95"]))
    told = " / ".join(f"{100 * rate:.0f}" for rate, _ in parts)
    ends = " / ".join(f"{100 * low:.0f}–{100 * high:.0f}" for _, (low, high) in parts)
    return f"{f'**{told}**' if row['policy'] == 'planner' else told}<br><sub>{ends}</sub>"


def percent(rate: float, interval: list[float]) -> str:
    """A rate with its interval, in per cent."""
    return f"{100 * rate:.0f} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"


def number(value: float) -> str:
    """Milliseconds with two digits that count."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def circumstances(results: list[Result]) -> str:
    """Seeds, threads and versions."""
    evaluations = [result for result in results if "rows" in result]
    seeds = ", ".join(sorted({str(result["seed"]) for result in evaluations}))
    threads = ", ".join(sorted({str(result["threads"]) for result in evaluations}))
    versions = evaluations[0]["versions"]
    return f"Seed {seeds}; CPU threads: {threads}; torch {versions['torch']}, mujoco {versions['mujoco']}."


def time_line(results: list[Result]) -> str:
    """How long all evaluations took, and how much of it was MuJoCo's."""
    hours = sum(result["wall_s"] for result in results if "rows" in result) / 3600
    physics = sum(row["seconds"] for row in all_rows(results) if row["policy"] == "physics") / 3600
    return f"All of it took {hours:.1f} hours of one core, {physics:.1f} of them for true physics."


def trainings(training: dict[str, Any]) -> list[dict[str, Any]]:
    """What a checkpoint says of its training, and of those that it went on from, the last first."""
    return [training, *(trainings(training["from"]) if "from" in training else [])]


def logged_episodes(training: dict[str, Any]) -> int:
    """Episodes of all trainings; logs that two of them share count in each."""
    return sum(sum(each["episodes"].values()) for each in trainings(training))


def trained_minutes(training: dict[str, Any]) -> str:
    """Minutes of all trainings."""
    return f"{sum(each['seconds'] for each in trainings(training)) / 60:.0f}"


def learned_from(rows: list[Result]) -> list[str]:
    """What each world model and each RL policy was trained on, and for how long."""
    lines: dict[str, None] = {}
    for row in rows:
        training = row["settings"].get("training") or {}
        if row["policy"] == "planner" and "episodes" in training:
            episodes = logged_episodes(training)
            steps = {recipe["num_steps"] * recipe["frame_skip"] for recipe in training["data"]}
            logged = f" ({episodes * steps.pop():,} env steps)" if len(steps) == 1 else ""
            lines[
                f"{row['env']}'s world model: {episodes:,} logged episodes{logged}, "
                f"trained in {trained_minutes(training)} min{_trained_on(training)}."
            ] = None
        if "env_steps" in training and "wall_seconds" in training:
            kind = POLICIES.get(row["policy"], row["policy"])
            lines[
                f"{row['env']}, {kind}: {training['env_steps']:,} env steps, "
                f"trained in {training['wall_seconds'] / 60:.0f} min."
            ] = None
    return list(lines)


def _trained_on(training: dict[str, Any]) -> str:
    """On what, where it was no CPU."""
    device = training.get("device", "cpu")
    return "" if device == "cpu" else f" on an {device}"


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


def table_flags(description: str | None) -> argparse.ArgumentParser:
    """The flags that all scripts have which make a table."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file")
    return parser


def print_or_write(make: Callable[[], str], write: Path | None) -> None:
    """Make a table, and print it or put it between the markers of a file; ends in one line on bad input."""
    try:
        table = make()
        if write is None:
            print(table)
            return
        before, _, after = parts(write.read_text(encoding="utf-8"))
        write.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def main() -> None:
    """Print a table, or put it in its place."""
    parser = table_flags(__doc__)
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        default=sorted((ROOT / "docs" / "results").glob("*.json")),
        help="JSON files (docs/results/*.json)",
    )
    parser.add_argument("--full", action="store_true", help="every row, as in docs/results.md")
    flags = parser.parse_args()
    make: Callable[[list[Result]], str] = full_table if flags.full else short_table
    print_or_write(
        lambda: make([json.loads(path.read_text(encoding="utf-8")) for path in flags.results]), flags.write
    )


if __name__ == "__main__":
    main()
