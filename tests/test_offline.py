"""`wm-eval --data` from the outside: what it writes and says, with no simulator in sight."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.dot_world import write_dots
from tests.world_model.test_policy_prior import make_dots
from wm_plan.commands.eval import main
from wm_plan.offline import episodes_for
from wm_plan.world_model import TrajectoryStore

QUICK = ["offline.num_windows=8", "offline.num_candidates=6", "offline.horizon=4"]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrajectoryStore:
    """Logs and a model in an empty folder, which is entered."""
    monkeypatch.chdir(tmp_path)
    make_dots(history=2).save("model")
    return TrajectoryStore(write_dots(tmp_path / "data", 6))


def measured(capsys: pytest.CaptureFixture, *argv: str) -> dict:
    assert main([*argv, *QUICK, "--json", "--quiet"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    return json.loads(out)


def test_rows_files_and_a_picture_are_written(made: TrajectoryStore, capsys: pytest.CaptureFixture) -> None:
    result = measured(capsys, "--model", "model,model", "--data", "data", "--out", "out", "--seed", "3")
    (row,) = result["rows"]
    assert (row["model"], row["env"], row["episodes"], row["which"]) == ("model", "dot", 6, "all")
    assert (row["num_windows"], row["num_candidates"], row["horizon"]) == (8, 6, 4)
    assert len(row["error"]["imagined"]) == len(row["retrieval"]["top_1"]) == 4
    assert set(row["rank"]) == {"uniform", "logged"}
    assert 0 <= row["rank"]["logged"]["beaten"] <= 1
    written = json.loads(Path("out/result.json").read_text())
    assert len(written["rows"][0]["places"]["logged"]) == 8
    assert written["rows"][0]["error"] == row["error"]
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "config.yaml",
        "offline.png",
        "result.json",
    ]
    picture = np.asarray(Image.open("out/offline.png").convert("RGB"))
    assert min(picture.shape[:2]) > 600
    assert picture.std() > 10


def test_a_table_is_shown_and_models_stand_side_by_side(
    made: TrajectoryStore, capsys: pytest.CaptureFixture
) -> None:
    make_dots(history=3).save("other")
    assert main(["--model", "model,other", "--data", "data", "--out", "out", *QUICK]) == 0
    out, errors = capsys.readouterr()
    for said in ("model (dot): 8 windows of 6 episodes (all)", "other (dot): 8 windows", "nearest of"):
        assert said in out
    assert "the logs have frame_skip 1, the model was trained with 5" in errors


def test_held_out_episodes_are_taken_of_the_logs_that_were_trained_on(made: TrajectoryStore) -> None:
    model = make_dots()
    assert episodes_for(model, made)[1] == "all"
    model.metadata.training = {
        "config": {"held_out": 0.4, "seed": 2},
        "data_fingerprint": made.fingerprint,
    }
    episodes, which = episodes_for(model, made)
    assert which == "held out of the model's training"
    np.testing.assert_array_equal(episodes, made.split(0.4, 2)[1])
    assert 0 < len(episodes) < 6


def test_no_simulator_is_imported(made: TrajectoryStore) -> None:
    argv = ["--model", "model", "--data", "data", "--out", "out", "--quiet", *QUICK]
    code = (
        "import sys\nfrom wm_plan.commands.eval import main\n"
        f"code = main({argv!r})\n"
        "found = [name for name in ('mujoco', 'gymnasium', 'dm_control') if name in sys.modules]\n"
        "sys.exit(f'{code} {found}' if code or found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--data", "data"], "no model was named. Add --model DIR"),
        (["--model", "model", "--data", "nowhere"], "nowhere: there is no such file or folder"),
        (["--model", "none", "--data", "data"], "No predictor 'none'"),
        (["--model", "model", "--data", "data", "offline.horizon=0"], "horizon must be at least 1, got 0"),
        (["--model", "model", "--data", "data", "--out", "data"], "is not empty"),
    ],
)
def test_wrong_input_is_one_line(
    argv: list[str], message: str, made: TrajectoryStore, capsys: pytest.CaptureFixture
) -> None:
    assert main([*argv, "--quiet"]) == 2
    out, errors = capsys.readouterr()
    assert (out, len(errors.splitlines())) == ("", 1)
    assert message in errors
