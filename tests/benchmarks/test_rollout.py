"""The benchmark of keys and values kept: its ways imagine the same, and it says what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "rollout.py"


@pytest.mark.parametrize("family", ["vjepa2_ac", "dino_wm"])
def test_all_ways_imagine_the_same(family: str, tmp_path: Path) -> None:
    picture = tmp_path / "growth.png"
    words = "--candidates 5 --horizon 3 --grid 3 --width 32 --part 2 --repeats 1 --json"
    command = [sys.executable, SCRIPT, "--family", family, *words.split(), "--plot", picture]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["context"] for row in result["rows"]] == [1, 4]
    assert [row["horizon"] for row in result["growth"]["horizon"]] == [1, 2, 3]
    for row in result["rows"]:
        assert row["largest_difference"] < 1e-4
        assert set(row["seconds"]) == {"cached", "recomputed", "masked", "floor"}
        assert row["cache_mb_at_once"] > row["cache_mb"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
