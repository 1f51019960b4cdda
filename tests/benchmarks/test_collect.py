"""The benchmark of collection draws the same frames as often on both sides, and says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "collect.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_our_frames_cost_less_than_gymnasiums() -> None:
    done = run("--rounds", "3", "--steps", "10", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rates = result["frames_per_cpu_second"]
    assert rates["collected"] >= rates["stored"] > rates["gymnasium"] > 1
    assert result["times_gymnasium"]["collected"] > 2  # CPU time, so that a busy machine hardly matters


@pytest.mark.parametrize("env, message", [("reecher", "Did you mean 'reacher'"), ("Pendulum-v1", "MuJoCo")])
def test_what_cannot_be_compared_is_refused(env: str, message: str) -> None:
    done = run("--env", env)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
