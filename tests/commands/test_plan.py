"""wm-plan with the shipped weights: what it writes, what it says, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from wm_plan import envs
from wm_plan.commands.front import DONE, NOT_REACHED, WRONG_INPUT
from wm_plan.commands.plan import main
from wm_plan.envs.gl import INSTALL_LINE

R = ("--env", "reacher")
G = ("--goal-state", "0.8,-1.2")
NEAR = ("--env", "reacher", "--start-state", "0.5,-1.0", "--goal-state", "0.8,-1.2")
FAR = ("--env", "reacher", "--start-state", "0.5,-1.0", "--goal-state", "-2.5,1.0")
LISTED = {"env", "planner", "seed", "goal", "goal_state", "reached", "reached_by", "held", "steps", "files"}
LISTED |= {
    "final_state",
    "final_cost",
    "costs",
    "actions",
    "plan_ms",
    "encode_ms",
    "threads",
    "versions",
    "warnings",
}


def picture(path: Path, state: str = "0.8,-1.2", **options) -> Path:
    task = envs.make("reacher")
    Image.fromarray(task.render_goal(task.parse_goal(state), **options)).save(path)
    task.close()
    return path


def plan(capfd, *argv: str, code: int | None = None) -> dict:
    """Run the command with --json and give its object; any exit code but 0 and 3 fails with what was said."""
    found = main([*argv, "--json"])
    out, err = capfd.readouterr()
    assert found in ((DONE, NOT_REACHED) if code is None else (code,)), err
    result = json.loads(out)
    assert out.count("\n") == 1
    return {**result, "stderr": err}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_near_goal_is_reached_and_everything_is_written(capfd) -> None:
    result = plan(capfd, *NEAR, "--seed", "3", "--out", "a/b", code=DONE)
    err = result.pop("stderr")
    assert set(result) >= LISTED
    assert result["reached"] is True
    assert result["reached_by"] == "state"
    assert (result["env"], result["planner"], result["seed"], result["goal"]) == (
        "reacher",
        "cem",
        3,
        "0.8,-1.2",
    )
    assert len(result["actions"]) == result["steps"]
    assert len(result["costs"]) == result["steps"] + 1
    assert result["final_cost"] == result["costs"][-1] < result["costs"][0]
    assert np.abs(result["actions"]).max() <= 1.0
    np.testing.assert_allclose(result["start_state"]["qpos"], [0.5, -1.0])
    np.testing.assert_allclose(result["goal_state"]["qpos"], [0.8, -1.2])
    assert result["plan_ms"]["p99"] >= result["plan_ms"]["p50"] > 0
    assert json.loads(Path("a/b/result.json").read_text()) == result
    assert sorted(path.name for path in Path("a/b").iterdir()) == sorted(result["files"])
    assert all(Path(path).stat().st_size > 0 for path in result["files"].values())
    assert "step" in err
    assert "latent cost" in err


def test_the_states_follow_from_the_actions(capfd) -> None:
    result = plan(capfd, *NEAR, "--quiet", "--max-steps", "9")
    task = envs.make("reacher", render=False)
    task.reset(seed=0, options={"state": task.parse_goal("0.5,-1.0")})
    for action in result["actions"]:
        task.step(np.float32(action))
    final = [*result["final_state"]["qpos"], *result["final_state"]["qvel"]]
    np.testing.assert_array_equal(task.get_state(), final)


def test_surprise_is_told_at_every_env_step_and_stops_the_run_if_asked_to(capfd) -> None:
    usual = plan(capfd, *NEAR, "--quiet", "--max-steps", "20")
    assert len(usual["surprise"]) == usual["steps"] + 1
    assert usual["surprise"][0] == 0
    assert usual["surprise"][-1] > 0
    assert usual["stopped"] is False
    nervous = ("control.on_surprise=stop", "control.surprise_threshold=1e-4")
    result = plan(capfd, *FAR, "--quiet", *nervous, code=NOT_REACHED)
    assert result["stopped"] is True
    assert result["steps"] == 12  # three frames are the context of the first judgement, 4 env steps each
    assert "stopped at env step 12: what happened is unlike what the model imagined" in result["warnings"][-1]


def test_the_video_and_the_figure_show_the_run(capfd) -> None:
    import imageio.v3 as iio

    result = plan(capfd, *NEAR, "--quiet", "--max-steps", "12")
    video = iio.imread(result["files"]["plan.mp4"], plugin="pyav")
    assert len(video) == result["steps"] + 1 + 50  # and the last frame for a second
    live, goal = video[0, 60:340, 30:320], video[0, 60:340, 366:656]
    assert np.abs(live.astype(int) - goal).max() > 100  # start and goal differ
    assert np.abs(video[-1, 60:340, 366:656].astype(int) - goal).mean() < 2  # the goal stays as it is
    figure = np.asarray(Image.open(result["files"]["plan.png"]).convert("RGB"))
    assert min(figure.shape[:2]) > 600
    assert figure.std() > 20


@pytest.mark.parametrize("planner", ["cem", "gradient"])
def test_a_landscape_shows_the_cost_around_the_first_plan_and_its_search(planner: str, capfd) -> None:
    result = plan(capfd, *NEAR, "--quiet", "--max-steps", "1", "--landscape", "--planner", planner)
    names = ["landscape.png", "search.png"]
    assert set(names) <= set(result["files"])
    assert sorted(path.name for path in Path("runs/plan-reacher-001").iterdir()) == sorted(result["files"])
    for name in names:
        picture = np.asarray(Image.open(result["files"][name]).convert("RGB"))
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 20
    assert yaml.safe_load(Path(result["files"]["config.yaml"]).read_text())["landscape"] is True


def test_a_landscape_changes_no_action(capfd) -> None:
    plain = plan(capfd, *NEAR, "--quiet", "--max-steps", "6")
    drawn = plan(capfd, *NEAR, "--quiet", "--max-steps", "6", "landscape=true")
    assert drawn["actions"] == plain["actions"]
    assert "landscape.png" not in plain["files"]


def test_a_goal_picture_of_any_size_is_judged_in_latent_space(capfd) -> None:
    picture(Path("goal.png"), image_size=300)
    result = plan(capfd, *R, "--start-state", "0.5,-1.0", "--goal", "goal.png", "--quiet", code=DONE)
    assert result["reached_by"] == "latent"
    assert result["reached"] is True
    assert result["goal_state"] is None
    assert result["goal"] == "goal.png"
    assert 0 <= result["reach_error_rate"] < 0.2
    task = envs.make("reacher", render=False)
    final = np.array([*result["final_state"]["qpos"], *result["final_state"]["qvel"]])
    assert task.error(final, task.parse_goal("0.8,-1.2")) < 4.0


def test_a_goal_that_is_out_of_reach_in_time_gives_exit_code_3(capfd) -> None:
    result = plan(capfd, *FAR, "--max-steps", "2", code=NOT_REACHED)
    assert (result["reached"], result["held"], result["steps"]) == (False, False, 2)


def test_the_same_seed_gives_the_same_actions_also_from_another_folder(tmp_path: Path) -> None:
    results = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        command = [sys.executable, "-c", "from wm_plan.commands.plan import main; raise SystemExit(main())"]
        options = ["--seed", "7", "--max-steps", "10", "--json", "--quiet"]
        done = subprocess.run(
            [*command, *FAR, *options], cwd=tmp_path / folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == NOT_REACHED, done.stderr
        results.append(json.loads(done.stdout))
    assert results[0]["actions"] == results[1]["actions"]
    assert results[0]["costs"] == results[1]["costs"]


def test_another_seed_gives_other_actions(capfd) -> None:
    actions = []
    for seed in ("0", "1"):
        actions.append(plan(capfd, *FAR, "--seed", seed, "--max-steps", "4", "--quiet")["actions"])
    assert actions[0] != actions[1]


def test_runs_are_numbered_and_keep_their_config(capfd) -> None:
    for _ in range(2):
        main([*FAR, "--max-steps", "1", "--quiet", "--planner", "mppi", "planner.num_samples=32"])
    assert sorted(path.name for path in Path("runs").iterdir()) == ["plan-reacher-001", "plan-reacher-002"]
    config = yaml.safe_load(Path("runs/plan-reacher-002/config.yaml").read_text())
    assert config["planner"]["num_samples"] == 32
    assert config["goal_state"] == "-2.5,1.0"
    assert "temperature" in config["planner"]


def test_a_dry_run_checks_all_and_writes_nothing(capfd) -> None:
    assert main([*NEAR, "--dry-run", "planner.horizon=5"]) == DONE
    assert yaml.safe_load(capfd.readouterr().out)["planner"]["horizon"] == 5
    assert main([*NEAR, "--dry-run", "planner.horizon=0"]) == WRONG_INPUT
    assert list(Path().iterdir()) == []


def test_a_list_names_tasks_models_and_planners(capfd) -> None:
    found = plan(capfd, "--list", code=DONE)
    assert found["envs"] == list(envs.task_names())
    assert set(found["models"]) <= set(envs.task_names())
    assert set(found["without_model"]) == set(envs.task_names()) - set(found["models"])
    assert {"cem", "mppi"} <= set(found["planners"])


def test_a_sweep_runs_every_combination_in_its_own_folder(capfd) -> None:
    code = main(
        [*FAR, "--max-steps", "1", "--json", "--quiet", "-m", "--out", "s", "seed=0,1", "planner=cem,mppi"]
    )
    sweep = json.loads(capfd.readouterr().out)
    assert code == NOT_REACHED
    assert [(job["result"]["seed"], job["result"]["planner"]) for job in sweep["jobs"]] == [
        (0, "cem"),
        (0, "mppi"),
        (1, "cem"),
        (1, "mppi"),
    ]
    for number, job in enumerate(sweep["jobs"]):
        assert json.loads(Path(f"s/{number}/result.json").read_text()) == job["result"]


def test_a_goal_unlike_the_training_data_is_warned_of(capfd) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save("noise.png")
    result = plan(capfd, *R, "--goal", "noise.png", "--max-steps", "1", "--quiet")
    assert "the goal looks unlike" in result["warnings"][0]
    assert result["stderr"].count("warning: the goal looks unlike") == 1


def test_a_familiar_goal_is_not_warned_of(capfd) -> None:
    picture(Path("goal.png"))
    result = plan(capfd, *R, "--goal", "goal.png", "--max-steps", "1", "--quiet")
    assert result["warnings"] == []
    assert result["stderr"] == ""


def test_a_wide_goal_is_cropped_and_said_so(capfd) -> None:
    square = np.asarray(Image.open(picture(Path("goal.png"))))
    Image.fromarray(np.pad(square, ((0, 0), (30, 30), (0, 0)), mode="edge")).save("wide.png")
    result = plan(capfd, *R, "--goal", "wide.png", "--max-steps", "1", "--quiet")
    assert "not square; its central 96 x 96 is used" in result["warnings"][0]


def corrupt_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{")
    (folder / "model.safetensors").write_bytes(b"not weights")


def foreign_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")


def make_inputs() -> None:
    """Write every bad input that the cases below name."""
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save("whole.png")
    Path("truncated.png").write_bytes(Path("whole.png").read_bytes()[:5000])
    Path("text.png").write_text("hello")
    Image.new("RGB", (1, 1)).save("tiny.png")
    Image.new("RGB", (20_000, 30)).save("wide.png")
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("precious")
    corrupt_model(Path("corrupt"))
    foreign_model(Path("foreign"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "no task was named. Add --env NAME, or --model DIR"),
        ([*R], "no goal was given"),
        (["--env", "reachr", *G], "Did you mean 'reacher'?"),
        ([*R, "--goal", "missing.png"], "'missing.png' does not exist"),
        ([*R, "--goal", "truncated.png"], "'truncated.png' is damaged or cut short"),
        ([*R, "--goal", "text.png"], "'text.png' is not a PNG or JPEG"),
        ([*R, "--goal", "tiny.png"], "'tiny.png' is 1 x 1 pixels; a side must have at least 16"),
        ([*R, "--goal", "wide.png"], "'wide.png' is 20000 x 30 pixels; a side may have 8192 at most"),
        ([*R, "--goal-state", "0.8"], "2 numbers"),
        ([*R, "--goal-state", "0.8,99"], "99"),
        ([*R, "--goal-state", "0.8,nan"], "nan"),
        ([*R, *G, "--start-state", "a,b"], "a,b"),
        ([*R, *G, "--planner", "cme"], "Did you mean 'cem'?"),
        ([*R, *G, "planner.horizon=0"], "horizon=0 is not allowed"),
        (
            [*R, *G, "planner.num_samples=8", "planner.num_elites=9"],
            "num_elites=9 is more than num_samples=8",
        ),
        ([*R, *G, "control.replan_every=99"], "replan_every=99 is not allowed"),
        ([*R, *G, "planer.horizon=3"], "Did you mean 'planner.horizon'?"),
        ([*R, *G, "max_steps=0"], "max_steps=0 is not allowed"),
        ([*R, *G, "-m", "seed=0,x"], "bad override 'seed=x'"),
        ([*R, *G, "--out", "full"], "is not empty"),
        ([*R, *G, "--out", "full/thesis.tex"], "is not a folder"),
        ([*R, *G, "--out", "/proc/runs"], "cannot be written"),
        ([*R, *G, "--model", "missing"], "No predictor 'missing'"),
        ([*R, *G, "--model", "corrupt"], "corrupt"),
        ([*R, *G, "--model", "foreign"], "foreign"),
        (["--model", "foreign", *G], "foreign"),
        ([*R, "--model", "two_room", *G], "two_room"),
        ([*R, *G, "--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(argv: list[str], said: str, capfd) -> None:
    make_inputs()
    before = sorted(str(path) for path in Path().rglob("*"))
    assert main([*argv, "--json"]) == WRONG_INPUT
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert sorted(str(path) for path in Path().rglob("*")) == before
    assert Path("full/thesis.tex").read_text() == "precious"


def test_a_machine_without_gl_is_told_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from wm_plan.commands.plan import main; raise SystemExit(main())"]
    environ = os.environ | {
        "MUJOCO_GL": "egl",
        "__EGL_VENDOR_LIBRARY_FILENAMES": "/none",
    }  # EGL finds no driver
    done = subprocess.run([*command, *R, *G], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == WRONG_INPUT, done.stderr
    assert INSTALL_LINE in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing_behind(monkeypatch, capfd) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wm_plan.pictures.write_video", stop)
    assert main([*NEAR, "--max-steps", "1"]) == 130
    assert list(Path().iterdir()) == []
