"""What README and docs say is what the project does and measured."""

import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wm_plan
from wm_plan.configuration import compose
from wm_plan.evaluation.changes import CHANGES
from wm_plan.planners import planner_names
from wm_plan.world_model import predictor_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
EVALUATION = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
BASELINES = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
WEIGHTS = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
GOALS = {
    "reacher": "1.2,1.0",
    "point_mass": "-0.18,0.15",
    "two_room": "-0.3,-0.2",
    "cube_reach": "0.6,0.3,1.2",
    "cartpole": "0.3,0.4",
}


def run_benchmark(*words: str) -> str:
    command = [sys.executable, ROOT / "benchmarks" / words[0], *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def table_in(text: str) -> str:
    return text.partition("<!-- results -->")[2].partition("<!-- end of results -->")[0].strip()


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def check_command(line: str) -> None:
    """Fail unless this command line parses, and its overrides compose."""
    name, *words = shlex.split(line, comments=True)
    command = importlib.import_module(SCRIPTS[name].split(":")[0]).COMMAND
    _, overrides = command.parse(words)
    assert command.config is not None or not overrides, line
    if command.config is not None:
        compose(command.config, overrides)


def test_the_readme_has_the_table_that_the_measurements_give() -> None:
    assert table_in(README) == run_benchmark("results_table.py").strip()


def test_the_docs_have_every_row_that_was_measured() -> None:
    assert table_in(RESULTS) == run_benchmark("results_table.py", "--full").strip()


def test_the_docs_name_every_change_and_its_amount() -> None:
    listed = EVALUATION.partition("<!-- changes -->")[2].partition("<!-- end of changes -->")[0]
    rows = [line for line in listed.splitlines() if line.startswith("| `") and "--changes" not in line]
    assert rows == [f"| `{change.name}` | {change.amount} |" for change in CHANGES.values()]


def test_the_docs_have_the_table_that_the_shipped_weights_give() -> None:
    assert table_in(WEIGHTS) == run_benchmark("weights_table.py").strip()


def test_the_docs_have_the_learning_curves_that_the_shipped_policies_give() -> None:
    assert table_in(BASELINES) == run_benchmark("baselines_table.py").strip()


def test_measured_are_all_tasks_both_kinds_of_goals_and_every_reference() -> None:
    rows = [
        row
        for path in (ROOT / "docs" / "results").glob("*.json")
        for row in json.loads(path.read_text()).get("rows", [])
    ]
    found = {(row["env"], row["protocol"], row["policy"]) for row in rows}
    for task in predictor_names():
        for protocol in ("near", "far"):
            assert {(task, protocol, policy) for policy in ("planner", "physics", "random", "hold")} <= found
    assert {("reacher", "near", "rl"), ("reacher", "far", "rl")} <= found


def test_the_readme_shows_the_example_as_it_is() -> None:
    example = (ROOT / "examples" / "02_embed_the_controller.py").read_text(encoding="utf-8")
    assert f"```python\n{example.rstrip()}\n```" in README


def test_the_readme_lists_every_planner() -> None:
    listed = re.findall(r"^\| `(\w+)`", README, flags=re.MULTILINE)
    assert listed == planner_names()


@pytest.mark.parametrize("name", GOALS)
def test_goal_pictures_are_what_the_readme_says_made_them(name: str) -> None:
    assert f"'{name}': '{GOALS[name]}'" in README
    env = wm_plan.make_env(name)
    goal = env.parse_goal(GOALS[name])
    shipped = np.asarray(Image.open(ROOT / "examples" / "goals" / f"{name}.png").convert("RGB"))
    drawn = env.render_goal(goal, image_size=len(shipped))
    far_off = np.abs(shipped.astype(int) - drawn).max(axis=-1) > 16
    assert far_off.mean() < 0.002  # rasterisers of other machines may differ along edges
    _, info = env.reset(seed=0)
    assert env.error(info["state"], goal) > 3
    env.close()


@pytest.mark.parametrize(
    "text",
    [README, WEIGHTS, EVALUATION, BASELINES],
    ids=["README", "weights", "evaluation", "baselines"],
)
def test_every_command_in_the_documents_is_understood(text: str) -> None:
    commands = [line for line in shell_lines(text) if line.startswith("wm-")]
    commands += re.findall(r"`(wm-\w+ -[^`]+)`", text.replace("\n", " "))
    assert len(commands) > 5
    for line in commands:
        check_command(line)


def test_links_in_the_documents_lead_somewhere() -> None:
    docs = [ROOT / "docs" / f"{name}.md" for name in ("weights", "results", "evaluation", "baselines")]
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"
