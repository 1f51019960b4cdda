"""The benchmark of collection draws the same frames as often on both sides, and says so."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "collect.py"
collect = runpy.run_path(str(SCRIPT))


def test_our_frames_cost_less_than_gymnasiums() -> None:
    result = collect["measure"]("reacher", image_size=64, msaa=4, num_steps=8, rounds=3)
    rates = result["frames_per_cpu_second"]
    assert rates["collected"] >= rates["stored"] > rates["gymnasium"] > 1
    assert result["times_gymnasium"]["collected"] > 2  # CPU time, so that a busy machine hardly matters


@pytest.mark.parametrize("env, message", [("reecher", "Did you mean 'reacher'"), ("Pendulum-v1", "MuJoCo")])
def test_what_cannot_be_compared_is_refused(env: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["collect.py", "--env", env])
    with pytest.raises(SystemExit, match=message):
        collect["main"]()


def test_the_table_has_a_line_for_each(capsys: pytest.CaptureFixture) -> None:
    rates = {"collected": 500.0, "stored": 400.0, "gymnasium": 50.0}
    words = {"env": "reacher", "image_size": 64, "msaa": 4, "rounds": 2, "num_steps": 3, "gl": "egl"}
    measured = {"frames_per_cpu_second": rates, "frames_per_second": rates}
    collect["show"]({**words, **measured, "times_gymnasium": {"collected": 10.0, "stored": 8.0}})
    assert "collected              500         500              10.0" in capsys.readouterr().out
