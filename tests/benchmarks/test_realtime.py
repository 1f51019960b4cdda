"""The real-time benchmark, on simulated time, where it gives the same numbers on every machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "realtime.py"


def run(tmp_path: Path, *words: str) -> list[dict]:
    command = [sys.executable, str(SCRIPT), "--json", str(tmp_path / "rows.json"), "--seed", "1000", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "rows.json").read_text())["rows"]


@pytest.mark.slow
def test_compensation_keeps_what_latency_would_lose(tmp_path: Path) -> None:
    words = ("--simulated", "40", "--episodes", "2", "--protocols", "far", "planner.num_samples=64")
    waits, real_time, late, uncompensated = run(tmp_path, *words)
    assert waits["jitter_ms"] is None
    assert waits["stale_actions"] == 0
    assert waits["held"] == real_time["held"] == late["held"] == 1
    assert uncompensated["held"] == 0
    assert real_time["counters"]["late"] == 0
    assert real_time["counters"]["missed"] == 0
    assert late["counters"]["skipped"] > real_time["counters"]["skipped"] == 0
    assert real_time["seconds"] == 2 * 200 / 80


def test_on_a_real_clock_it_reports_plans_and_jitter(tmp_path: Path) -> None:
    words = ("--episodes", "1", "--protocols", "near", "--latency", "20", "planner.num_samples=64")
    _, real_time, late, _ = run(tmp_path, *words)
    for row in (real_time, late):
        assert row["counters"]["plans"] >= 1
        assert 0 <= row["jitter_ms"]["p50"] <= row["jitter_ms"]["p99"] <= row["jitter_ms"]["max"]
        assert row["plan_ms_p50"] > 0
