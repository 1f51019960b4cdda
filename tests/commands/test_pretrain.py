"""`wm-pretrain` from the outside: what it writes, what it refuses, and how it stops."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.dot_world import write_dots
from wm_plan.collecting import CollectConfig, collect
from wm_plan.commands.pretrain import main
from wm_plan.world_model import load_encoder

SCRIPT = "import sys; from wm_plan.commands.pretrain import main; sys.exit(main())"
FILES = ["config.json", "config.yaml", "metrics.jsonl", "model.safetensors", "training.safetensors"]
TINY = [
    "encoder.image_size=16",
    "encoder.patch_size=4",
    "encoder.width=24",
    "encoder.depth=2",
    "encoder.whole_after=2",
    "encoder.num_heads=2",
    "jepa.predictor_width=12",
    "jepa.predictor_depth=1",
    "jepa.target_layers=[1,2]",
    "feature_layers=[1,2]",
    "log_every=4",
    "save_every=3",
    "batch_size=4",
]


def start(*argv: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, *map(str, argv)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    metrics = out / "metrics.jsonl"
    while not metrics.is_file() or f'"step": {step},' not in metrics.read_text():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_trains_resumes_and_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, out = write_dots(tmp_path / "data", 3), tmp_path / "runs" / "encoder"
    argv = ["--data", str(data), *TINY, "--out", str(out), "--json", "--quiet", "--seed", "3"]
    assert main([*argv, "--steps", "7", "tensorboard=true"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["seed"], result["frames"]) == (7, 3, 39)
    assert result["loss"] > 0
    assert result["effective_rank"] >= 1
    assert result["fingerprint"] == load_encoder(out).fingerprint
    assert result["warnings"] == []
    assert result["probe/dot/state/linear"] <= 1
    assert sorted(path.name for path in out.iterdir()) == [*FILES[:4], "tensorboard", FILES[4]]
    first_line, _, rest = (out / "config.yaml").read_text().partition("\n")
    assert first_line.startswith("# wm-pretrain ")
    assert f"- {data}" in rest
    assert "num_steps: 7" in rest

    weights = (out / "model.safetensors").read_bytes()
    assert main([*argv, "--steps", "7"]) == 2
    assert "is not empty. Name another, or add --overwrite" in capsys.readouterr().err
    assert main([*argv, "--steps", "8", "--resume"]) == 2
    assert "was trained with num_steps 7, not 8" in capsys.readouterr().err
    assert main([*argv, "--steps", "7", "--resume"]) == 0
    capsys.readouterr()
    assert (out / "model.safetensors").read_bytes() == weights

    assert main([*argv, "--steps", "5", "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 5
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 4, 5]
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_tasks_in_varied_looks_and_with_factors_of_variation_train_and_are_probed_in_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    reacher, point_mass = tmp_path / "reacher", tmp_path / "point_mass"
    collect(CollectConfig("reacher", 5, num_steps=6, image_size=32, msaa=0, factors="light,mass"), reacher)
    collect(
        CollectConfig("point_mass", 4, num_steps=8, image_size=48, msaa=0, varied="all", factors="camera"),
        point_mass,
    )
    out = tmp_path / "encoder"
    argv = ["--data", str(reacher), str(point_mass), *TINY, "--steps", "3"]
    assert main([*argv, "--out", str(out)]) == 0
    printed, _ = capsys.readouterr()
    assert "probe" not in printed.splitlines()[0]
    assert "  reacher/angle/mlp: R^2 " in printed
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    probed = {name.removeprefix("probe/") for name in last if name.startswith("probe/")}
    kinds = ("reacher/angle", "reacher/velocity", "point_mass/position", "point_mass/velocity")
    assert probed == {f"{kind}/{probe}" for kind in kinds for probe in ("linear", "mlp")}
    assert last["plain"] > 0
    record = load_encoder(out).training_record
    assert [recipe["env"] for recipe in record["data"]] == ["reacher", "point_mass"]


def test_torchrun_trains_as_one_process_with_the_whole_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, two, one = write_dots(tmp_path / "data", 3), tmp_path / "two", tmp_path / "one"
    argv = ["--data", str(data), *TINY, "precision=float32", "probe_labels=0", "--steps", "4"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "--no-python", sys.executable, "-c", SCRIPT, *argv, "--out", str(two), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["out"] == str(two)  # of one process alone
    assert main([*argv, "--out", str(one), "--quiet"]) == 0
    capsys.readouterr()
    lines = [
        [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] for out in (one, two)
    ]
    assert len(lines[0]) == 2
    for alone, together in zip(*lines, strict=True):
        assert together == pytest.approx(alone, rel=5e-3, abs=1e-3)
    assert load_encoder(two).training_record["processes"] == 2


def test_without_json_it_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, out = write_dots(tmp_path / "data", 2), tmp_path / "encoder"
    assert (
        main(["--data", str(data), str(data), "--out", str(out), "--steps", "4", *TINY, "probe_labels=0"])
        == 0
    )
    printed, errors = capsys.readouterr()
    assert f"{out}: 4 steps in " in printed
    assert f"wm-train --encoder {out}" in printed
    assert "4/4" in errors
    assert "clips/s" in errors
    assert "rank" in errors


def test_ctrl_c_keeps_the_checkpoint_and_a_resumed_run_is_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    data, out, whole = write_dots(tmp_path / "data", 3), tmp_path / "out", tmp_path / "whole"
    argv = ["--data", data, *TINY, "probe_labels=0", "--quiet", "--steps", 80]
    process = start(*argv, "--out", out)
    wait_for_step(process, out, 8)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"a checkpoint is kept in {out}. Go on with: the same command and --resume" in errors
    assert len(errors.splitlines()) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "training.safetensors",
    ]
    for more in ([*argv, "--out", out, "--resume"], [*argv, "--out", whole]):
        assert main([str(argument) for argument in more]) == 0
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_stop_before_the_first_checkpoint_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from wm_plan.world_model import pretraining

    data = write_dots(tmp_path / "data", 2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining._Pretraining, "advance", stop)
    argv = ["--data", str(data), *TINY, "--quiet", "--out", str(tmp_path / "runs" / "deep" / "out")]
    assert main(argv) == 130
    assert "stopped before the first checkpoint; nothing was kept" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_dry_run_prints_the_config_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = write_dots(tmp_path / "data", 2)
    argv = ["--data", str(data), "encoder.width=48", "jepa.masks=[{num_blocks: 3}]", "--dry-run", "--json"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["encoder"]["width"] == 48
    assert config["jepa"]["masks"] == [
        {"num_blocks": 3, "block_scale": 0.15, "min_aspect": 0.75, "min_visible": 0.1}
    ]
    assert config["data"] == [str(data)]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "no data was given. Add --data DIR"),
        (["--data", "nowhere"], "nowhere: there is no such file or folder"),
        (["--data", "data", "--steps", "0"], "at least 1"),
        (["--data", "data", "encoder.widht=3"], "Did you mean 'encoder.width'"),
        (["--data", "data", "encoder.patch_size=7"], "no multiple of patch_size 7"),
        (["--data", "data", "jepa.target_layers=[9]"], "jepa.target_layers must be numbers from 1 to 4"),
        (["--data", "data", "probe_labels=-1"], "probe_labels"),
        (["--data", "data", "clip_frames=3"], "clip_frames must be a multiple of 2"),
        (["--data", "data", "learning_rate=fast"], "bad override 'learning_rate=fast'"),
        (["--data", "short"], "no episode has the 4 rows"),
        (["--data", "data", "--resume"], "--resume goes on with the run in --out DIR"),
        (["--data", "data", "--resume", "--out", "out"], "holds no training to resume"),
        (["--data", "data", "--resume", "--overwrite", "--out", "out"], "does not go with --overwrite"),
        (["--data", "data", "--overwrite", "--out", "data"], "is also what is read"),
        (["--data", "data", "--device", "mps"], "not available"),
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
    write_dots(tmp_path / "data", 1)
    write_dots(tmp_path / "short", 1, num_steps=2)
    assert main([*argv, "--quiet"]) == 2
    out, errors = capsys.readouterr()
    assert (out, len(errors.splitlines())) == ("", 1)
    assert message in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "short"]
