"""docs/planners.md: its code runs, and it names every planner."""

import re
from pathlib import Path

import pytest

from wm_plan.planners import planner_names

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "planners.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/planners.md", "exec"), names)  # noqa: S102
    assert (tmp_path / "landscape.png").stat().st_size > 5000
    assert "LoopCounters(plans=" in capsys.readouterr().out


@pytest.mark.parametrize("name", planner_names())
def test_every_planner_is_in_the_table(name: str) -> None:
    assert f"| `{name}` |" in PAGE


def test_links_of_the_page_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", PAGE)
    assert targets
    for target in targets:
        assert (Path(__file__).resolve().parents[1] / "docs" / target).exists()
