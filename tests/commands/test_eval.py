"""wm-eval from the outside: its rows, its files, and what it refuses."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from wm_plan import envs
from wm_plan.commands.eval import main
from wm_plan.commands.front import DONE, WRONG_INPUT
from wm_plan.evaluation import wilson_interval
from wm_plan.world_model import CompactConfig, CompactWorldModel, JEPAEncoder, ViTConfig
from wm_plan.world_model.metadata import ModelMetadata

ROW = {"env", "protocol", "policy", "episodes", "successes", "success_rate", "ci95", "held_rate", "held_ci95"}
ROW |= {"plan_ms_p50", "plan_ms_p99", "encode_ms_p50", "seconds", "threads", "groups", "budget", "settings"}
QUICK = (
    "planner.num_samples=8",
    "planner.num_elites=2",
    "planner.num_iterations=1",
    "plans_timed=3",
    "--no-report",
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def untrained(folder: str, name: str = "reacher") -> str:
    """A world model of the right form that knows nothing, saved."""
    env = envs.make(name, render=False)
    encoder = JEPAEncoder(ViTConfig(image_size=32, patch_size=8, width=12, depth=1, num_heads=1), (1,))
    sizes = CompactConfig(latent_dim=4, token_dim=2, head_width=8, predictor_width=8, distance_width=8)
    bounds = (env.action_space.low.tolist(), env.action_space.high.tolist())
    metadata = ModelMetadata(name, env.frame_skip, env.control_timestep, 32, env.parts.camera, *bounds)
    CompactWorldModel(encoder, sizes, metadata).save(folder)
    return folder


def evaluated(capfd: pytest.CaptureFixture, *argv: str) -> dict:
    assert main([*argv, "--json", "--quiet"]) == DONE
    out, _ = capfd.readouterr()
    assert len(out.splitlines()) == 1
    return json.loads(out)


def test_policies_stand_side_by_side_on_the_same_starts_and_goals(capfd: pytest.CaptureFixture) -> None:
    argv = ("--env", "two_room", "--protocol", "near,far", "--policy", "random,hold", "--no-report")
    result = evaluated(capfd, *argv, "--episodes", "6", "--seed", "4", "--out", "here")
    assert [(row["protocol"], row["policy"]) for row in result["rows"]] == [
        ("near", "random"),
        ("near", "hold"),
        ("far", "random"),
        ("far", "hold"),
    ]
    for row in result["rows"]:
        assert set(row) >= ROW
        assert row["success_rate"] == row["successes"] / 6
        assert row["ci95"] == pytest.approx(wilson_interval(row["successes"], 6), abs=1e-4)
        assert (row["held_rate"] is None) == (row["protocol"] == "near")
    assert result["rows"][1]["successes"] == 0
    far = result["rows"][3]
    assert sum(group["episodes"] for group in far["groups"].values()) == 6
    assert result["seed"] == 4
    assert "mujoco" in result["versions"]
    written = json.loads(Path("here/result.json").read_text())
    outcomes = [row.pop("outcomes") for row in written["rows"]]
    assert written == result
    for protocol in (outcomes[:2], outcomes[2:]):
        for key in ("start", "goal", "seed", "group"):
            assert [one[key] for one in protocol[0]] == [one[key] for one in protocol[1]]
    assert [sum(one["reached_at"] is not None for one in row) for row in outcomes] == [
        row["successes"] for row in result["rows"]
    ]
    assert yaml.safe_load(Path("here/config.yaml").read_text())["episodes"] == 6


def test_a_model_of_ones_own_is_judged_and_the_same_seed_gives_the_same(capfd: pytest.CaptureFixture) -> None:
    argv = ("--model", untrained("mine"), "--policy", "planner", "--episodes", "3", *QUICK)
    first = evaluated(capfd, *argv, "--out", "first")
    evaluated(capfd, *argv, "--out", "second", "batch_size=2")
    (row,) = first["rows"]
    assert (row["env"], row["protocol"], row["plans_timed"]) == ("reacher", "near", 3)
    assert row["plan_ms_p99"] >= row["plan_ms_p50"] > 0 < row["encode_ms_p50"]
    settings = row["settings"]
    assert (settings["model"], settings["planner"], settings["num_samples"]) == ("mine", "cem", 8)
    one, other = (
        json.loads(Path(name, "result.json").read_text())["rows"][0] for name in ("first", "second")
    )
    assert [end["steps"] for end in one["outcomes"]] == [end["steps"] for end in other["outcomes"]]
    for end, again in zip(one["outcomes"], other["outcomes"], strict=True):
        assert end["final_error"] == pytest.approx(again["final_error"], rel=1e-3)


def test_every_planner_and_every_model_has_rows_of_its_own(capfd: pytest.CaptureFixture) -> None:
    models = f"{untrained('one')},{untrained('two')}"
    argv = ("--model", models, "--planner", "cem,mppi", "--policy", "planner,physics,hold", "--episodes", "2")
    quick = ("planner.num_samples=8", "planner.num_iterations=1", "planner.num_elites=2")
    with_elites = main([*argv, *quick, "--quiet"])
    assert with_elites == WRONG_INPUT
    assert "with --planner mppi: unknown override 'planner.num_elites=2'" in capfd.readouterr().err
    quick = ("planner.num_samples=32", "planner.num_iterations=1", "physics.num_samples=8", "plans_timed=1")
    quick += ("--no-report",)
    rows = evaluated(capfd, *argv, *quick)["rows"]
    assert [(row["policy"], row["name"]) for row in rows] == [
        ("planner", "planner: one, cem"),
        ("planner", "planner: one, mppi"),
        ("planner", "planner: two, cem"),
        ("planner", "planner: two, mppi"),
        ("physics", "physics: cem"),
        ("physics", "physics: mppi"),
        ("hold", "hold"),
    ]
    assert [row["settings"]["model"] for row in rows[:4]] == ["one", "one", "two", "two"]
    assert [row["settings"]["planner"] for row in rows[:6]] == ["cem", "mppi"] * 3
    assert "temperature" in rows[1]["settings"]


def test_the_true_physics_planner_says_what_it_changed(capfd: pytest.CaptureFixture) -> None:
    argv = ("--env", "reacher", "--policy", "physics", "--planner", "mppi", "--episodes", "2", "--no-report")
    (row,) = evaluated(capfd, *argv, "physics.num_samples=16", "physics.num_iterations=2", "plans_timed=2")[
        "rows"
    ]
    settings = row["settings"]
    assert (settings["planner"], settings["num_samples"], settings["num_iterations"]) == ("mppi", 16, 2)
    assert row["plan_ms_p50"] > 0
    assert row["encode_ms_p50"] is None
    assert (Path("runs") / "eval-reacher-001" / "result.json").is_file()


def test_people_get_a_table_and_a_progress_bar(capfd: pytest.CaptureFixture) -> None:
    assert main(["--env", "point_mass", "--policy", "hold", "--episodes", "4", "--protocol", "far"]) == DONE
    out, err = capfd.readouterr()
    assert out.splitlines()[0].split()[:3] == ["env", "protocol", "policy"]
    assert "0 (0 to 49)" in out
    assert "far hold" in err
    assert "report.html" in out
    assert "4/4" in err


def test_a_dry_run_checks_and_writes_nothing(capfd: pytest.CaptureFixture) -> None:
    config = evaluated(capfd, "--env", "reacher", "--policy", "hold", "--goal-look", "default", "--dry-run")
    assert (config["env"], config["policies"], config["goal_look"]) == ("reacher", ["hold"], "default")
    assert not list(Path().iterdir())


def test_the_list_names_what_exists(capfd: pytest.CaptureFixture) -> None:
    names = evaluated(capfd, "--list")
    assert names["protocols"] == ["near", "far", "robust"]
    assert {"light", "camera", "mass"} <= set(names["changes"])
    assert {"planner", "random", "hold", "physics", "rl", "rl_latent"} <= set(names["policies"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--policy", "hold"], "no task was named"),
        (["--env", "reecher", "--policy", "hold"], "Did you mean 'reacher'"),
        (["--env", "reacher", "--policy", "hodl"], "Did you mean 'hold'"),
        (["--env", "reacher", "--policy", "hold", "--protocol", "fra"], "Did you mean 'far'"),
        (["--env", "reacher", "--policy", "hold", "--protocol", "robsut"], "Did you mean 'robust'"),
        (["--env", "reacher", "--policy", "hold", "--planner", "cme"], "Did you mean 'cem'"),
        (["--env", "reacher", "--policy", ","], "names nothing"),
        (["--env", "reacher", "--policy", "hold", "--episodes", "0"], "at least 1"),
        (["--env", "reacher", "--policy", "hold", "batch_size=0"], "batch_size=0 is not allowed"),
        (["--env", "reacher", "--policy", "hold", "--workers", "0"], "at least 1"),
        (["--env", "reacher", "--policy", "hold", "--protocol", "robust", "--changes", "ligth"], "'light'"),
        (["--env", "reacher", "--policy", "hold", "--shard", "3/2", "--out", "x"], "a shard is I/N"),
        (["--env", "reacher", "--policy", "hold", "--shard", "1/2"], "--shard needs --out"),
        (["--env", "reacher", "--policy", "hold", "--resume"], "--resume goes on with the evaluation in"),
        (["--merge", "nowhere"], "no evaluation was begun in 'nowhere'"),
        (["--env", "reacher", "policies=[]"], "at least one each"),
        (["--env", "reacher", "--policy", "physics", "--planner", "gradient"], "cannot plan with gradients"),
        (["--env", "reacher", "--policy", "rl", "--rl", "nowhere"], "nowhere"),
        (["--env", "reacher", "--policy", "planner", "--model", "nowhere"], "nowhere"),
        (["--env", "reacher", "--policy", "planner", "--goal-size", "7"], "from 16 to 2048"),
    ],
)
def test_wrong_input_is_one_line(argv: list[str], message: str, capfd: pytest.CaptureFixture) -> None:
    assert main(argv) == WRONG_INPUT
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err
    assert not list(Path().iterdir())


def test_a_model_of_another_task_is_refused(capfd: pytest.CaptureFixture) -> None:
    model = untrained("mine", "two_room")
    assert main(["--env", "reacher", "--model", model, "--policy", "planner", *QUICK]) == WRONG_INPUT
    assert "the model was trained on 'two_room'" in capfd.readouterr().err


def test_a_folder_with_something_in_it_is_left_alone(capfd: pytest.CaptureFixture) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    argv = [
        "--env",
        "reacher",
        "--policy",
        "hold",
        "--episodes",
        "1",
        "--quiet",
        "--no-report",
        "--out",
        "full",
    ]
    assert main(argv) == WRONG_INPUT
    assert "is not empty" in capfd.readouterr().err
    assert main([*argv, "--overwrite"]) == DONE
    written = ["config.yaml", "mine.txt", "result.csv", "result.json"]
    assert sorted(path.name for path in Path("full").iterdir()) == written


def test_the_csv_says_what_the_json_says(capfd: pytest.CaptureFixture) -> None:
    argv = ("--env", "point_mass", "--policy", "random,hold", "--protocol", "near,far", "--episodes", "3")
    rows = evaluated(capfd, *argv, "--out", "here", "--no-report")["rows"]
    with open("here/result.csv", encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["protocol"], row["name"]) for row in read] == [
        (row["protocol"], row["name"]) for row in rows
    ]
    for line, row in zip(read, rows, strict=True):
        assert float(line["success_rate"]) == row["success_rate"]
        assert [float(line["ci95_low"]), float(line["ci95_high"])] == row["ci95"]
        assert (line["held_rate"] == "") == (row["held_rate"] is None)


def test_shards_are_merged_by_the_command(capfd: pytest.CaptureFixture) -> None:
    argv = ("--env", "point_mass", "--policy", "random", "--episodes", "4", "--no-report", "batch_size=1")
    whole = evaluated(capfd, *argv, "--out", "whole")
    for part in ("1/2", "2/2"):
        told = evaluated(capfd, *argv, "--shard", part, "--out", part[0])
        assert told == {"out": part[0], "shard": part, "chunks": 2}
    assert main(["--merge", "1", "--out", "short"]) == WRONG_INPUT
    assert "2 of 4 chunks are missing" in capfd.readouterr().err
    merged = evaluated(capfd, "--merge", "1", "2", "--out", "merged")
    results = [json.loads(Path(name, "result.json").read_text()) for name in ("whole", "merged")]
    assert results[0]["rows"][0]["outcomes"] == results[1]["rows"][0]["outcomes"]
    assert merged["rows"][0]["successes"] == whole["rows"][0]["successes"]
    assert {"result.csv", "config.yaml"} <= {path.name for path in Path("merged").iterdir()}


@pytest.mark.slow
def test_killed_and_resumed_it_comes_out_as_if_nothing_had_happened(capfd: pytest.CaptureFixture) -> None:
    argv = ["--env", "point_mass", "--policy", "random", "--protocol", "far", "--episodes", "30"]
    argv += ["--no-report", "batch_size=1"]
    code = f"from wm_plan.commands.eval import main; main({[*argv, '--out', 'killed']!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(list(Path("killed").glob("chunks/0*.json"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    finished = sorted(Path("killed").glob("chunks/0*.json"))
    assert 3 <= len(finished) < 30
    before = finished[0].stat().st_mtime_ns
    kept = finished[0].read_bytes()
    assert main([*argv, "--out", "killed"]) == WRONG_INPUT
    assert "holds an evaluation that was begun. Add --resume" in capfd.readouterr().err
    assert main([*argv, "--seed", "1", "--out", "killed", "--resume"]) == WRONG_INPUT
    assert "seed is 0, not 1" in capfd.readouterr().err
    assert finished[0].read_bytes() == kept
    assert finished[0].stat().st_mtime_ns == before
    resumed = evaluated(capfd, *argv, "--out", "killed", "--resume")
    evaluated(capfd, *argv, "--out", "whole")
    ends = [json.loads(Path(name, "result.json").read_text())["rows"][0] for name in ("killed", "whole")]
    assert ends[0]["outcomes"] == ends[1]["outcomes"]
    assert not Path("killed/chunks").exists()
    again = evaluated(capfd, *argv, "--out", "killed", "--resume")
    assert again["rows"] == resumed["rows"]
    assert main([*argv, "--seed", "1", "--out", "killed", "--resume"]) == WRONG_INPUT
    assert "holds the result of another evaluation" in capfd.readouterr().err
