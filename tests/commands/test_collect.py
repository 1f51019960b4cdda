"""`wm-collect` from the outside: what it writes, what it refuses, and how it stops."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from wm_plan.collecting import CollectConfig, collect, episode_seed, make_recipe, roll_out
from wm_plan.commands.collect import main
from wm_plan.envs import make
from wm_plan.envs.physics import Physics
from wm_plan.world_model.store import TrajectoryStore

SCRIPT = "import sys; from wm_plan.commands.collect import main; sys.exit(main())"
SMALL = ["--env", "reacher", "--steps", "3", "--image-size", "32", "--quiet"]


def run(*argv: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def start(*argv: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, *map(str, argv)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_episodes(process: subprocess.Popen[str], root: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list((root / "staging").glob("episode-*"))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def files_of(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.glob("*.h5"))}


def make_config(**overrides: object) -> CollectConfig:
    settings = {
        "env": "reacher",
        "num_episodes": 5,
        "num_steps": 3,
        "image_size": 32,
        "episodes_per_shard": 2,
    }
    return CollectConfig(**{**settings, **overrides})


def test_a_row_is_what_was_seen_and_done_in_one_model_step(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([*SMALL, "--episodes", "2", "--varied", "--out", str(tmp_path / "data"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["episodes"], result["frames"], result["complete"]) == (2, 8, True)
    store = TrajectoryStore(tmp_path / "data")
    assert sorted(store.columns) == ["action", "pixels", "pixels_varied", "proprio", "state"]
    assert store.lengths.tolist() == [4, 4]
    pixels, varied = store.read("pixels"), store.read("pixels_varied")
    state, action = store.read("state"), store.read("action")
    assert np.isnan(action).all(axis=1).tolist() == [False, False, False, True] * 2
    assert (np.abs(pixels.astype(int) - varied).mean(axis=(1, 2, 3)) > 3).all()
    env = make("reacher", image_size=32)
    for row in (0, 1, 2):
        env.reset(options={"state": state[row]})
        np.testing.assert_array_equal(env.render(), pixels[row])
        env.advance(action[row], store.setting("frame_skip"))
        np.testing.assert_allclose(env.get_state(), state[row + 1], atol=1e-12)
    env.close()


def test_the_number_of_workers_and_a_stop_change_nothing(tmp_path: Path) -> None:
    collect(make_config(), tmp_path / "one", num_workers=1)
    collect(make_config(num_episodes=3), tmp_path / "two", num_workers=2)
    collected = collect(make_config(), tmp_path / "two", num_workers=2, resume=True)
    assert (collected.finished, collected.num_frames, collected.stopped) == (5, 8, False)
    one, two = TrajectoryStore(tmp_path / "one"), TrajectoryStore(tmp_path / "two")
    for column in one.columns:
        np.testing.assert_array_equal(one.read(column), two.read(column))


def test_an_episode_depends_on_its_seed_and_index_alone() -> None:
    seeds = {episode_seed(seed, index) for seed in range(20) for index in range(500)}
    assert len(seeds) == 20 * 500
    recipe = make_recipe(make_config())
    env = make("reacher", image_size=32)
    first = roll_out(env, recipe, 3)
    roll_out(env, recipe, 4)
    again = roll_out(env, recipe, 3)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.action, again.action)
    env.close()


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    root = tmp_path / "data"
    argv = [*SMALL, "--out", root, "--episodes", 2000]
    process = start(*argv)
    wait_for_episodes(process, root, 3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"episodes are kept in {root}. Go on with" in errors
    assert len(errors.splitlines()) == 1
    kept = TrajectoryStore(root).num_episodes
    assert 3 <= kept < 2000
    assert not list((root / "staging").glob(".*"))
    assert run(*argv, "--episodes", kept + 1, "--resume").returncode == 0
    whole = run(*SMALL, "--out", tmp_path / "whole", "--episodes", kept + 1)
    assert whole.returncode == 0, whole.stderr
    assert files_of(root) == files_of(tmp_path / "whole")


def test_a_killed_collection_resumes_to_the_same_files(tmp_path: Path) -> None:
    root = tmp_path / "data"
    process = start(*SMALL, "--out", root, "--episodes", 2000)
    wait_for_episodes(process, root, 3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    count = TrajectoryStore(root).num_episodes + 2
    deadline = time.monotonic() + 30
    while (done := run(*SMALL, "--out", root, "--episodes", count, "--resume")).returncode:
        assert time.monotonic() < deadline, done.stderr
    assert run(*SMALL, "--out", tmp_path / "whole", "--episodes", count).returncode == 0
    assert files_of(root) == files_of(tmp_path / "whole")


def test_shards_one_of_them_killed_are_together_the_files_of_one_run(tmp_path: Path) -> None:
    root, count = tmp_path / "parts", 40
    argv = [*SMALL, "--episodes", count, "--out", root, "--policy", "random:held+waypoints"]
    process = start(*argv, "--shard", "1/2", "--workers", 1)
    wait_for_episodes(process, root, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    settings = {"num_episodes": count, "policy": "random:held+waypoints", "episodes_per_shard": 250}
    config = make_config(**settings)
    second = collect(config, root, num_workers=1, shard=(2, 2))
    assert (second.finished, second.stopped, second.complete) == (20, False, False)
    first = collect(config, root, num_workers=1, shard=(1, 2))
    assert (first.finished, first.complete) == (20, True)
    assert first.num_frames < 20 * 4
    collect(config, tmp_path / "whole", num_workers=1)
    assert files_of(root) == files_of(tmp_path / "whole")


def test_what_each_episode_drew_is_stored_with_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "data"
    argv = [*SMALL, "--episodes", "3", "--workers", "1", "--out", str(root)]
    assert main([*argv, "--factors", "light,mass=.5:2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"]
    store = TrajectoryStore(root)
    masses = store.read("factor_mass").reshape(3, 4)
    assert (masses == masses[:, :1]).all()
    assert len(np.unique(masses)) == 3
    assert store.columns["factor_light_rgb"].shape == (3,)
    assert store.setting("factors")["physics"]["mass"] == [0.5, 2.0]
    env = make("reacher", image_size=32)
    for episode in range(3):  # a state and an action give the next state under the stored mass, and no other
        row = store.episode_rows(episode).start
        state, after = store.read("state")[row : row + 2]
        errors = []
        for mass in (masses[episode, 0], 1.0):
            env.set_physics(Physics(mass=float(mass)))
            env.set_state(state)
            env.advance(store.read("action")[row], env.frame_skip)
            errors.append(np.abs(env.get_state() - after).max())
        assert errors[0] < 1e-12
        assert errors[1] > 1e-3
    env.close()


def test_any_env_is_collected_with_its_own_camera_and_frame_skip(tmp_path: Path) -> None:
    config = make_config(
        env="InvertedPendulum-v5", num_episodes=1, frame_skip=3, msaa=0, factors="mass,light"
    )
    collect(config, tmp_path / "data", num_workers=1)
    store = TrajectoryStore(tmp_path / "data")
    assert (store.setting("frame_skip"), store.setting("camera")) == (3, "free")
    assert store.setting("look")["samples"] == 0
    assert store.columns["pixels"].shape == (32, 32, 3)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--env", "reecher"], "Did you mean 'reacher'"),
        ([], "Add --env NAME"),
        (["--env", "reacher", "--policy", "rnadom"], "Did you mean 'random'"),
        (["--env", "reacher", "--image-size", "7"], "image_size must be"),
        (["--env", "reacher", "--episodes", "0"], "at least 1"),
        (["--env", "reacher", "--resume"], "--out DIR"),
        (["--env", "reacher", "--factors", "lihgt"], "Did you mean 'light'"),
        (["--env", "Pendulum-v1", "--factors", "mass"], "mass cannot be varied"),
        (["--env", "reacher", "--shard", "3/2", "--out", "x"], "a shard is I/N"),
        (["--env", "reacher", "--shard", "1/2"], "--shard needs --out DIR"),
        (["--env", "reacher", "--shard", "1/2", "--out", "x", "--overwrite"], "does not overwrite"),
        (["--env", "reacher", "--policy", "random*.5+wayponts"], "Did you mean 'waypoints'"),
    ],
)
def test_wrong_input_is_one_line(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    out, errors = capsys.readouterr()
    assert (out, len(errors.splitlines())) == ("", 1)
    assert message in errors
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_there_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "data"
    collect(make_config(num_episodes=1), root, num_workers=1)
    before = files_of(root)
    assert main([*SMALL, "--episodes", "2", "--out", str(root)]) == 2
    assert "holds a trajectory store" in capsys.readouterr().err
    assert main([*SMALL, "--episodes", "2", "--out", str(root), "--resume", "--seed", "1"]) == 2
    assert "seed 0, not 1" in capsys.readouterr().err
    assert files_of(root) == before


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*SMALL, "--out", str(tmp_path / "data"), "--dry-run", "--json"]) == 0
    recipe = json.loads(capsys.readouterr().out)
    assert (recipe["env"], recipe["frame_skip"], recipe["policy"]) == ("reacher", 4, "random")
    assert not list(tmp_path.iterdir())


def test_the_list_names_tasks_and_policies(capsys: pytest.CaptureFixture) -> None:
    assert main(["--list", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)
    assert "reacher" in names["envs"]
    assert {"random", "random:held", "planner", "replay:SRC"} <= set(names["policies"])
    assert {"light", "mass", "camera_zoom"} <= set(names["factors"])
