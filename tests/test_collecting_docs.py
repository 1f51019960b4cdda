"""docs/collecting.md says what wm-collect takes."""

import re
import shlex
from pathlib import Path

import pytest

from wm_plan.commands.collect import COMMAND
from wm_plan.envs.factors import FACTOR_NAMES
from wm_plan.policy_language import parse_policies, policy_names

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "collecting.md").read_text(encoding="utf-8")
LINES = [
    line for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines()
]


def test_every_policy_and_every_factor_is_there() -> None:
    named = set(re.findall(r"`([a-z0-9_:]+)(?:[A-Z]+)?`", TEXT))
    assert set(FACTOR_NAMES) <= named
    assert {name.partition("SRC")[0] for name in policy_names()} <= named
    for policy in re.findall(r"^\| `([a-z0-9:=A-Z]+)` \|", TEXT, flags=re.MULTILINE):
        if policy not in FACTOR_NAMES:
            parse_policies(policy)


@pytest.mark.parametrize("line", LINES)
def test_every_command_is_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, *words = shlex.split(line)
    assert name == COMMAND.name
    COMMAND.parse(words)
    if "planner" not in line and "--resume" not in line:
        assert COMMAND.main([*words, "--dry-run", "--quiet"]) == 0
