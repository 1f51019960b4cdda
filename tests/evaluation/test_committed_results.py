"""The committed results, run again in small: the same trials, and successes inside the committed interval."""

import json
from pathlib import Path

import pytest

from wm_plan.commands.eval import main
from wm_plan.commands.front import DONE
from wm_plan.evaluation import wilson_interval

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
EPISODES = 8


@pytest.mark.slow
def test_a_few_of_the_committed_trials_come_out_as_the_committed_rows_say(tmp_path: Path) -> None:
    committed, rl = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("reacher", "reacher_rl"))
    assert rl["seed"] == committed["seed"]
    rows = {
        (row["protocol"], row["policy"]): row
        for row in [*committed["rows"], *rl["rows"]]
        if row["policy"] in ("planner", "rl", "random")
    }
    argv = [
        "--env",
        "reacher",
        "--protocol",
        "near",
        "--policy",
        "planner,rl,random",
        "--quiet",
        "--no-report",
    ]
    argv += ["--episodes", str(EPISODES), "--seed", str(committed["seed"]), "--out", str(tmp_path / "again")]
    assert main([*argv, "plans_timed=0"]) == DONE
    again = json.loads((tmp_path / "again" / "result.json").read_text())["rows"]
    assert len(again) == 3
    for row in again:
        then = rows[row["protocol"], row["policy"]]
        same = ("budget", "horizon", "num_samples", "num_iterations", "num_elites", "objective", "model")
        for name in same:
            before, now = (of["settings"].get(name, of.get(name)) for of in (then, row))
            if name == "objective" and now is not None:  # a term that was not there yet has no weight now
                now = {term: weight for term, weight in now.items() if term in before or weight != 0}
            assert now == before, name
        low, high = wilson_interval(row["successes"], EPISODES)
        assert low <= then["success_rate"] <= high, f"{row['policy']}: {row['successes']} of {EPISODES}"
    reached = {row["policy"]: row["successes"] for row in again}
    assert reached["planner"] >= round(rows["near", "planner"]["ci95"][0] * EPISODES) - 1
