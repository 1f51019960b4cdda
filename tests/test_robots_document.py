"""`docs/robots.md` from its first command to its last, at sizes so small that all of it runs in seconds."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_whole_path import ENCODER, MODEL, PLANNER
from wm_plan.commands import collect, eval, plan, pretrain, train  # noqa: A004

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "robots.md").read_text(encoding="utf-8")
COMMANDS = {"wm-collect": collect, "wm-train": train, "wm-plan": plan, "wm-eval": eval}
SMALLER = {
    "wm-collect": ["--episodes", "5", "--steps", "12", "--image-size", "32", "--workers", "1"],
    "wm-train": ["--encoder", "encoder", "--steps", "10", "--batch-size", "4", *MODEL],
    "wm-plan": ["--max-steps", "10", *PLANNER],
    "wm-eval": ["--episodes", "1", "plans_timed=1", "physics.num_samples=4", *PLANNER],
}


def blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)


def commands_in(block: str) -> list[list[str]]:
    return [words for words in map(shlex.split, block.splitlines()) if words]


@pytest.fixture
def _beside_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_beside_the_examples")
def test_every_command_of_the_document_runs(capsys: pytest.CaptureFixture) -> None:
    results: list[dict] = []
    ran: list[str] = []
    for block in blocks():
        if block.startswith("python -c"):
            code = shlex.split(block)[2]
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert Path("goal.png").stat().st_size > 0
            continue
        for words in commands_in(block):
            if words[0] == "wm-train":
                arguments = ["--data", "data/arm", "--out", "encoder", "--steps", "6", "--batch-size", "4"]
                assert pretrain.main([*arguments, *ENCODER, "--quiet"]) == 0
                capsys.readouterr()
            command = COMMANDS[words[0]]
            given = [*words[1:], *SMALLER[words[0]], "--json", "--quiet"]
            assert command.main(given) in ((0, 3) if words[0] == "wm-plan" else (0,)), words
            results.append(json.loads(capsys.readouterr().out))
            ran.append(words[0])
    assert ran == ["wm-collect", "wm-collect", "wm-train", "wm-plan", "wm-plan", "wm-eval"]

    recipe, collected, trained, to_state, to_picture, evaluated = results
    assert recipe["camera"] == "top"
    assert (recipe["frame_skip"], recipe["control_timestep"]) == (5, 0.02)
    assert (recipe["action_low"], recipe["action_high"]) == ([-1.0, -1.0], [1.0, 1.0])
    assert collected["complete"]
    assert collected["episodes"] == 5
    assert trained["env"] == "examples/robots/arm.xml"
    assert trained["use"] == "wm-plan --model models/arm --goal IMAGE"
    assert (to_state["reached_by"], to_picture["reached_by"]) == ("state", "latent")
    assert to_state["camera"] == to_picture["camera"] == "top"
    assert to_state["goal_state"]["qpos"] == [-1.2, 0.9]
    assert {path.name for path in Path("runs/arm-state").iterdir()} >= {"plan.mp4", "plan.png", "result.json"}
    assert [row["policy"] for row in evaluated["rows"]] == ["planner", "random", "physics"]


def test_every_link_of_the_document_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
