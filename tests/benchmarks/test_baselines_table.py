"""The table of baselines says what policies, predictors and results say."""

import json
import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(name="script")
def load_script(monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "baselines_table.py"))


def write(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def curve(*steps: int) -> list[dict]:
    return [
        {"step": step, "near_reached": step / 1e5, "far_reached": 0.5, "far_held": 0.25} for step in steps
    ]


def make_folders(root: Path) -> tuple[Path, Path, Path]:
    policies, predictors, results = root / "policies", root / "predictors", root / "results"
    steps = range(10_200, 100_001, 10_200)
    write(policies / "rl_dot" / "config.json", {"metadata": {"curve": curve(*steps)}})
    write(policies / "rl_dot_latent" / "config.json", {"metadata": {"curve": curve(300)}})
    log = {"num_steps": 40, "frame_skip": 5}
    training = {"data": [log, log], "episodes": {"train": 95, "held_out": 5}}
    write(predictors / "dot" / "config.json", {"metadata": {"training": training}})
    rows = [
        {"policy": "planner", "protocol": "near", "success_rate": 0.9, "held_rate": None},
        {"policy": "planner", "protocol": "far", "success_rate": 0.8, "held_rate": 0.7},
        {"policy": "rl", "protocol": "far", "success_rate": 0.1, "held_rate": 0.1},
    ]
    write(results / "dot.json", {"rows": rows})
    return policies, predictors, results


def test_curves_stand_beside_the_planner_by_the_env_steps_of_each(script: dict, tmp_path: Path) -> None:
    assert script["baselines_table"](*make_folders(tmp_path)).splitlines()[2:] == [
        "| dot | **planner** | 0 | 20,000 | 90 | 80 / 70 |",
        "| dot | RL from state | 10,200 | 0 | 10 | 50 / 25 |",
        "| dot | RL from state | 20,400 | 0 | 20 | 50 / 25 |",
        "| dot | RL from state | 51,000 | 0 | 51 | 50 / 25 |",
        "| dot | RL from state | 91,800 | 0 | 92 | 50 / 25 |",
        "| dot | RL from latents | 300 | 0 | 0 | 50 / 25 |",
    ]


def test_a_task_without_results_shows_its_curves_alone(script: dict, tmp_path: Path) -> None:
    policies, predictors, _ = make_folders(tmp_path)
    lines = script["baselines_table"](policies, predictors, tmp_path / "nowhere").splitlines()
    assert len(lines) == 7
    assert "planner" not in "".join(lines)


def test_what_cannot_be_told_is_refused(script: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no RL policies"):
        script["baselines_table"](tmp_path)
    logs = [{"num_steps": steps, "frame_skip": 2} for steps in (40, 60)]
    with pytest.raises(ValueError, match="episodes of .80, 120. env steps"):
        script["logged_steps"]({"data": logs, "episodes": {"train": 1}})
