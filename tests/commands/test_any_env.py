"""The commands in environments that come from elsewhere: what they write, and what they refuse."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.robots import ARM, write_robot
from tests.test_whole_path import MODEL, PLANNER
from wm_plan.commands import collect, eval, plan, train  # noqa: A004
from wm_plan.world_model import TrajectoryStore
from wm_plan.world_model.encoder import WEIGHTS_FOLDER

SMALL = ["--episodes", "4", "--steps", "12", "--image-size", "32", "--workers", "1", "--json", "--quiet"]


def write_goal(path: Path) -> str:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(image).save(path)
    return str(path)


def test_cartpole_is_logged_trained_and_planned_in_by_picture(tmp_path: Path, capsys) -> None:
    data, model, out = (str(tmp_path / name) for name in ("data", "model", "plan"))
    assert collect.main(["--env", "CartPole-v1", "--frame-skip", "1", "--out", data, *SMALL]) == 0
    store = TrajectoryStore(data)
    assert store.setting("camera") == "render"
    assert store.setting("frame_skip") == 1
    assert store.columns["proprio"].shape == (4,)
    assert "state" not in store.columns, "there is none to be read"
    assert len(store.lengths) == 4

    tiny = ["--encoder", "random", "--steps", "4", "--batch-size", "4", *MODEL]
    short = ["predictor_rollout_steps=3", "rollout_steps=2"]
    assert train.main(["--data", data, "--out", model, *tiny, *short, "--quiet", "--json"]) == 0
    capsys.readouterr()

    arguments = ["--model", model, "--goal", write_goal(tmp_path / "goal.png"), "--out", out, *PLANNER]
    assert plan.main([*arguments, "--max-steps", "60", "--json", "--quiet"]) in (0, 3)
    result = json.loads(capsys.readouterr().out)
    assert (result["env"], result["camera"], result["reached_by"]) == ("CartPole-v1", "render", "latent")
    assert result["start_state"] is None
    assert result["errors"] is None
    if result["steps"] < 60 and not result["held"]:
        assert any("ended its episode" in line for line in result["warnings"])
    assert (Path(out) / "plan.mp4").stat().st_size > 0

    assert plan.main(["--env", "CartPole-v1", "--model", model, "--goal-state", "0,0,0,0"]) == 2
    assert "its state can be neither read nor set. Give goals as pictures" in capsys.readouterr().err
    assert eval.main(["--env", "CartPole-v1", "--model", model]) == 2
    assert "CartPole-v1 does not run on MuJoCo" in capsys.readouterr().err


def test_the_camera_of_the_logs_is_the_camera_of_the_plan(tmp_path: Path, capsys) -> None:
    data, model, out = (str(tmp_path / name) for name in ("data", "model", "plan"))
    assert collect.main(["--env", ARM, "--camera", "side", "--out", data, *SMALL]) == 0
    assert TrajectoryStore(data).setting("camera") == "side"
    tiny = ["--encoder", "random", "--steps", "4", "--batch-size", "4", *MODEL]
    assert train.main(["--data", data, "--out", model, *tiny, "--quiet", "--json"]) == 0
    capsys.readouterr()
    arguments = [
        "--model",
        model,
        "--goal-state",
        "0.3,0.3",
        "--max-steps",
        "5",
        *PLANNER,
        "--quiet",
        "--json",
    ]
    assert plan.main([*arguments, "--out", out]) in (0, 3)
    assert json.loads(capsys.readouterr().out)["camera"] == "side"
    assert plan.main([*arguments, "--out", out, "--overwrite", "--camera", "top"]) in (0, 3)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["camera"] == "top"
    assert "the model was trained on the camera 'side', not on 'top'" in captured.err
    assert plan.main([*arguments, "--out", out, "--overwrite", "--camera", "sid"]) == 2
    assert "has no camera 'sid'. Did you mean 'side'? Its cameras: top, side, free" in capsys.readouterr().err


def test_no_file_has_a_package_imported(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "evil_robots.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = tmp_path / "model"
    shutil.copytree(WEIGHTS_FOLDER / "predictors" / "two_room", model)
    config = json.loads((model / "config.json").read_text())
    config["metadata"]["env_name"] = "evil_robots:Arm-v0"
    (model / "config.json").write_text(json.dumps(config))
    assert plan.main(["--model", str(model), "--goal-state", "0,0"]) == 2
    said = capsys.readouterr().err
    assert "the model was trained on 'evil_robots:Arm-v0'" in said
    assert "add --env evil_robots:Arm-v0" in said
    assert "evil_robots" not in sys.modules


@pytest.mark.parametrize("command", [plan, collect, eval])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("reachr", "Unknown env 'reachr'. Did you mean 'reacher'?"),
        ("Pushr-v5", "Unknown env 'Pushr-v5'. Did you mean 'Pusher-v5'?"),
        ("reacher-easy", "Did you mean 'dm_control/reacher-easy'?"),
    ],
)
def test_an_unknown_env_is_one_line_and_exit_code_2(command, name: str, said: str, capsys) -> None:
    assert command.main(["--env", name, "--out", "nowhere"]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_a_robot_that_cannot_be_driven_is_one_line_and_exit_code_2(tmp_path: Path, capsys) -> None:
    path = write_robot(tmp_path, actuators="")
    assert collect.main(["--env", path, "--out", str(tmp_path / "data")]) == 2
    said = capsys.readouterr().err
    assert "has no actuators: nothing in it can be driven" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("command", [plan, eval])
def test_without_a_shipped_predictor_the_way_to_one_is_said(command, capsys) -> None:
    goal = ["--goal-state", "0,0"] if command is plan else []
    assert command.main(["--env", ARM, *goal]) == 2
    said = capsys.readouterr().err
    assert f"no predictor is shipped for '{ARM}'; shipped are " in said
    assert "wm-collect, then wm-train --data LOGS --out DIR, and give --model DIR" in said
