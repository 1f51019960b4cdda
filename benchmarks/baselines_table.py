"""Success against env steps, of the shipped RL policies beside the planner: the table for docs/baselines.md.

python benchmarks/baselines_table.py prints it; with --write docs/baselines.md it replaces what stands there
between the markers. Learning curves come from the policies' own config.json (50 trials a checkpoint), the
planner's line from docs/results/TASK.json and from what its predictor says of its logs.
"""

import json
from pathlib import Path
from typing import Any

from results_table import logged_episodes, print_or_write, table_flags

ROOT = Path(__file__).resolve().parents[1]
POLICIES, PREDICTORS = ROOT / "planners" / "weights", ROOT / "world_model" / "weights" / "predictors"
RESULTS = ROOT / "docs" / "results"
KINDS = {"": "RL from state", "_latent": "RL from latents"}
RATES = ("near_reached", "far_reached", "far_held")
SHOWN_STEPS = (10_000, 20_000, 50_000)
"""A curve is shown at its first checkpoint from each of these on, and at its last."""


def baselines_table(policies: Path = POLICIES, predictors: Path = PREDICTORS, results: Path = RESULTS) -> str:
    """The planner's line and the curves of every task with a shipped policy.

    Raises:
        ValueError: no policy is shipped, or the logs of a predictor are of several kinds.
    """
    found = {path.parent.name: read(path)["metadata"] for path in policies.glob("rl_*/config.json")}
    if not found:
        raise ValueError(f"there are no RL policies in {policies}")
    lines = [
        "| task | who acts | env steps with reward | env steps logged, no reward | near, reached % "
        "| far, reached / held % |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for task in sorted({name.removeprefix("rl_").removesuffix("_latent") for name in found}):
        lines += planner_line(task, predictors / task / "config.json", results / f"{task}.json")
        for ending, kind in KINDS.items():
            for point in shown(found.get(f"rl_{task}{ending}", {}).get("curve", [])):
                near, far, held = (f"{100 * point[name]:.0f}" for name in RATES)
                lines.append(f"| {task} | {kind} | {point['step']:,} | 0 | {near} | {far} / {held} |")
    return "\n".join(lines)


def planner_line(task: str, predictor: Path, result: Path) -> list[str]:
    """The planner's line, where it has been measured."""
    if not (predictor.is_file() and result.is_file()):
        return []
    rows = {row["protocol"]: row for row in read(result)["rows"] if row["policy"] == "planner"}
    if not {"near", "far"} <= set(rows):
        return []
    rates = (rows["near"]["success_rate"], rows["far"]["success_rate"], rows["far"]["held_rate"])
    near, far, held = (f"{100 * rate:.0f}" for rate in rates)
    logged = logged_steps(read(predictor)["metadata"]["training"])
    return [f"| {task} | **planner** | 0 | {logged:,} | {near} | {far} / {held} |"]


def logged_steps(training: dict[str, Any]) -> int:
    """Env steps in the logs that a predictor was trained on, and of the trainings that it went on from.

    Logs that two of these trainings share count in each.

    Raises:
        ValueError: episodes of several lengths, which are not told apart.
    """
    lengths = {log["num_steps"] * log["frame_skip"] for log in training["data"]}
    if len(lengths) != 1:
        raise ValueError(f"the logs have episodes of {sorted(lengths)} env steps; one length can be counted")
    return logged_episodes(training) * lengths.pop()


def shown(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """A few points of a learning curve, none twice."""
    chosen = [next((point for point in curve if point["step"] >= steps), None) for steps in SHOWN_STEPS]
    picked = {point["step"]: point for point in (*chosen, *curve[-1:]) if point is not None}
    return [picked[step] for step in sorted(picked)]


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    print_or_write(baselines_table, table_flags(__doc__).parse_args().write)
