"""Collection on a Ray cluster: a local one, started and ended by the test."""

import sys
from pathlib import Path

import pytest
import ray

from wm_plan.collecting import CollectConfig, collect
from wm_plan.commands.collect import main

CONFIG = CollectConfig("reacher", num_episodes=4, num_steps=3, image_size=32, policy="random:held+waypoints")


def files_of(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.glob("*.h5"))}


def test_a_cluster_makes_the_files_that_this_machine_makes_and_passes_errors_on(tmp_path: Path) -> None:
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        seen: list[int] = []
        collected = collect(
            CONFIG, tmp_path / "ray", ray="auto", on_progress=lambda finished, _: seen.append(finished)
        )
        assert (collected.finished, collected.complete, seen) == (4, True, [0, 1, 2, 3, 4])
        assert ray.is_initialized()  # it was ours, and stays
        for index in (1, 2):
            collect(CONFIG, tmp_path / "shards", ray="auto", shard=(index, 2))
        logged = tmp_path / "logged"
        collect(CONFIG, logged, num_workers=1)
    finally:
        ray.shutdown()
    assert files_of(tmp_path / "ray") == files_of(logged)
    assert files_of(tmp_path / "shards") == files_of(logged)


def test_ray_that_is_not_installed_or_not_there_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    argv = [
        "--env",
        "reacher",
        "--episodes",
        "1",
        "--image-size",
        "32",
        "--quiet",
        "--out",
        str(tmp_path / "x"),
    ]
    assert main([*argv, "--ray", "nonsense://nowhere"]) == 2
    errors = capsys.readouterr().err
    assert "no Ray cluster at 'nonsense://nowhere'" in errors
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*argv, "--resume", "--ray", "local"]) == 2
    assert "pip install 'wm-plan[ray]'" in capsys.readouterr().err
