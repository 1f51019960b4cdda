"""`docs/data.md` from its first command to its last, at sizes so small that all of it runs in seconds."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.test_whole_path import ENCODER, MODEL, PLANNER
from wm_plan.commands import pretrain
from wm_plan.data.validating import KINDS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SMALLER = {
    "wm-collect": ["--episodes", "6", "--steps", "12", "--image-size", "32", "--workers", "1"],
    "wm-train": ["--encoder", "encoder", "--steps", "10", "--batch-size", "4", *MODEL],
    "wm-plan": ["--max-steps", "10", *PLANNER],
    "wm-data": [],
}


def test_every_command_of_the_document_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    results: dict[str, dict] = {}
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)).splitlines()
    for words in map(shlex.split, filter(None, lines)):
        if words[0] == "wm-train":
            arguments = ["--data", "data/mine", "--out", "encoder", "--steps", "6", "--batch-size", "4"]
            assert pretrain.main([*arguments, *ENCODER, "--quiet"]) == 0
            capsys.readouterr()
        command = importlib.import_module(f"wm_plan.commands.{words[0].removeprefix('wm-')}")
        code = command.main([*words[1:], *SMALLER[words[0]], "--json", "--quiet"])
        assert code in ((0, 3) if words[0] == "wm-plan" else (0,)), words
        name = " ".join(words[: 2 if words[0] == "wm-data" else 1])
        results[name if name not in results else f"{name} again"] = json.loads(capsys.readouterr().out)
    assert list(results) == [
        "wm-collect",
        "wm-data convert",
        "wm-data inspect",
        "wm-data preview",
        "wm-data validate",
        "wm-data convert again",
        "wm-data split",
        "wm-train",
        "wm-plan",
    ]
    assert results["wm-data inspect"]["format"] == "lerobot"
    assert results["wm-data inspect"]["roles"]["pixels"] == "observation.images.main"
    assert results["wm-data inspect"]["steps"] == 6 * 12
    assert {"pixels", "action", "proprio", "timestamp"} <= set(results["wm-data convert again"]["columns"])
    assert results["wm-data split"]["parts"]["train"]["episodes"] == 5
    assert results["wm-train"]["env"] == "reacher"
    assert results["wm-plan"]["env"] == "reacher"


def test_every_kind_of_finding_is_explained() -> None:
    assert re.findall(r"^\| `([\w-]+)`", TEXT, flags=re.MULTILINE) == list(KINDS)


def test_every_link_of_the_document_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
