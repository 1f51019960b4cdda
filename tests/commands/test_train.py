"""`wm-train` from the outside: what it writes, what it refuses, and how it stops."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.dot_world import make_encoder, write_dots
from wm_plan.commands.train import main
from wm_plan.world_model import load_model

SCRIPT = "import sys; from wm_plan.commands.train import main; sys.exit(main())"
FILES = [
    "config.json",
    "config.yaml",
    "encoder",
    "metrics.jsonl",
    "model.safetensors",
    "training.safetensors",
]
TINY = [
    "model.latent_dim=8",
    "model.token_dim=8",
    "model.head_width=32",
    "model.history=2",
    "model.predictor_width=32",
    "model.distance_width=16",
    "batch_size=8",
    "num_predictor_steps=8",
    "predictor_batch_size=8",
    "predictor_rollout_steps=5",
    "rollout_steps=3",
    "token_frames=8",
    "distance.num_steps=8",
    "distance.batch_size=8",
    "held_out=0.2",
    "log_every=4",
    "save_every=3",
]


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    make_encoder().save(tmp_path / "encoder")
    return [
        "--data",
        str(write_dots(tmp_path / "data")),
        "--encoder",
        str(tmp_path / "encoder"),
        *TINY,
        "--quiet",
    ]


def test_it_trains_resumes_and_overwrites(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "runs" / "model"
    argv = [*inputs, "--out", str(out), "--json", "--seed", "5"]
    assert main([*argv, "--steps", "7"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["env"], result["steps"], result["seed"]) == ("dot", 7, 5)
    assert result["episodes"] == {"train": 8, "held_out": 2}
    assert len(result["open_loop_error"]) == 10
    assert 0 <= result["reach_error_rate"] <= 0.5
    assert result["use"] == f'controller = wm_plan.load("{out}")'
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert "# wm-train " in (out / "config.yaml").read_text()

    model = load_model(out)
    assert model.encoder.fingerprint == make_encoder().fingerprint == result["encoder_fingerprint"]
    record = model.metadata.training
    assert (record["config"]["seed"], record["config"]["distance"]["seed"]) == (5, 5)
    assert record["command"].startswith("wm-train ")
    assert record["versions"]["torch"]

    weights = (out / "model.safetensors").read_bytes()
    assert main([*argv, "--steps", "7"]) == 2
    assert "is not empty. Name another, or add --overwrite" in capsys.readouterr().err
    assert main([*argv, "--steps", "7", "--resume", "held_out=0.3"]) == 2
    assert "was trained with held_out 0.2, not 0.3" in capsys.readouterr().err
    assert main([*argv, "--steps", "7", "--resume"]) == 0
    capsys.readouterr()
    assert (out / "model.safetensors").read_bytes() == weights
    assert main([*argv, "--steps", "5", "--overwrite", "tensorboard=true"]) == 0
    assert len(list((out / "tensorboard").iterdir())) == 1
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 5, 9, 13, 21, 21]


def test_a_lerobot_dataset_trains_from_both_cameras_and_what_the_robot_felt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WM_PLAN_CACHE", str(tmp_path / "cache"))
    data = Path(__file__).parents[1] / "data" / "lerobot_video" / "dataset"
    make_encoder().save(tmp_path / "encoder")
    argv = ["--data", str(data), "--encoder", str(tmp_path / "encoder"), *TINY, "--steps", "4"]
    more = ["predictor_rollout_steps=3", "views=[pixels,pixels_wrist]", "proprio=true"]
    assert main([*argv, *more, "--out", str(tmp_path / "run")]) == 0
    assert "pixels_wrist=observation.images.wrist" in capsys.readouterr().err
    model = load_model(tmp_path / "run")
    assert model.views == ("pixels", "pixels_wrist")
    assert model.metadata.proprio_dim == 4
    columns = ["--columns", "pixels=observation.images.wrist"]
    assert main([*argv, *more[:1], *columns, "--out", str(tmp_path / "wrist")]) == 0
    assert (model.metadata.camera, load_model(tmp_path / "wrist").metadata.camera) == ("front", "wrist")
    assert main([*argv, "--columns", "pixels=top", "--out", str(tmp_path / "top")]) == 2


def test_stages_and_the_held_out_error_are_shown(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture
) -> None:
    argv = [argument for argument in inputs if argument != "--quiet"]
    assert main([*argv, "--out", str(tmp_path / "model"), "--steps", "4"]) == 0
    printed, errors = capsys.readouterr()
    for stage in ("encoding frames", "state head and predictor", "longer rollouts", "temporal distance"):
        assert stage in errors
    assert "trained on 8 episodes" in printed
    assert "2 held-out episodes: error after 1 imagined step " in printed
    assert "use it: " in printed


def test_a_built_in_task_is_planned_by_the_next_command_and_judged_by_its_own_tolerance(
    tmp_path: Path,
) -> None:
    from wm_plan.commands.train import _tolerance_of
    from wm_plan.envs import make
    from wm_plan.world_model import TrajectoryStore
    from wm_plan.world_model.store_writer import StoreWriter

    env = make("reacher", render=False)
    states = env.reset(seed=0)[1]["state"][None].repeat(3, axis=0)
    states[1, 0] += 0.5 * env.tolerance
    states[2, 0] += 1.5 * env.tolerance
    with StoreWriter(tmp_path / "log", {"env": "reacher"}, 1) as writer:
        writer.write(0, {"state": states})
    reached = _tolerance_of(TrajectoryStore(tmp_path / "log"))
    assert reached is not None
    assert reached(states, states[:1].repeat(3, axis=0)).tolist() == [True, True, False]
    assert _tolerance_of(TrajectoryStore(write_dots(tmp_path / "dots", 1))) is None
    with StoreWriter(tmp_path / "other", {"env": "reacher"}, 1) as writer:
        writer.write(0, {"state": states[:, :1]})
    assert _tolerance_of(TrajectoryStore(tmp_path / "other")) is None


def test_ctrl_c_keeps_the_checkpoint_and_a_resumed_run_is_as_if_it_had_not_stopped(
    tmp_path: Path, inputs: list[str]
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    argv = [*inputs, "--steps", "150"]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *argv, "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not all((out / name).is_file() for name in ("training.safetensors", "metrics.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert f"a checkpoint is kept in {out}. Go on with: the same command and --resume" in errors
    assert len(errors.splitlines()) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "training.safetensors",
    ]
    assert main([*argv, "--out", str(out), "--resume"]) == 0
    assert main([*argv, "--out", str(whole)]) == 0
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_the_shipped_encoder_may_be_left_out(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "model"
    assert main([*inputs, "--out", str(out), "--without-encoder"]) == 2
    assert "--without-encoder goes with --encoder small" in capsys.readouterr().err
    shipped = [*inputs, "--encoder", "small", "--without-encoder", "--steps", "2", "--out", str(out)]
    assert main(shipped) == 0
    assert not (out / "encoder").exists()
    assert load_model(out).encoder.name == "small"


def test_a_dry_run_prints_the_config_and_writes_nothing(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main([*inputs, "--out", str(tmp_path / "model"), "--dry-run", "--json", "--seed", "4"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["seed"], config["distance"]["seed"], config["model"]["latent_dim"]) == (4, 4, 8)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_trains_every_combination(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture
) -> None:
    argv = [*inputs, "--out", str(tmp_path / "sweep"), "--json", "--steps", "2", "-m", "seed=1,2"]
    assert main(argv) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert [job["result"]["seed"] for job in jobs] == [1, 2]
    assert load_model(jobs[1]["folder"]).env_name == "dot"


def test_a_search_by_optuna_finds_the_run_with_the_least_error(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture
) -> None:
    argv = [*inputs, "--out", str(tmp_path / "search"), "--json", "--steps", "2", "-m"]
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"]
    search += ["hydra.sweeper.sampler.seed=1", "learning_rate=tag(log,interval(1e-4,1e-2))"]
    assert main([*argv, *search, "model.predictor=choice(mlp,gru)"]) == 0
    result = json.loads(capsys.readouterr().out)
    jobs = result["jobs"]
    rates = [load_model(job["folder"]).metadata.training["config"]["learning_rate"] for job in jobs]
    assert len(set(rates)) == 3 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert [job["objective"] for job in jobs] == [job["result"]["open_loop_error"][-1] for job in jobs]
    assert result["best"] == min(jobs, key=lambda job: job["objective"])["folder"]
    found = (tmp_path / "search" / "optimization_results.yaml").read_text()
    assert f"best_value: {min(job['objective'] for job in jobs)}" in found


def test_a_sweeper_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, inputs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    argv = [*inputs, "--out", str(tmp_path / "search"), "-m"]
    assert main([*argv, "hydra/sweeper=optuna", "learning_rate=interval(1e-4,1e-2)"]) == 2
    assert "needs an extra: pip install 'wm-plan[sweep]'" in capsys.readouterr().err
    assert main([*argv, "hydra/launcher=submitit_slurm", "seed=1,2"]) == 2
    assert "pip install 'wm-plan[slurm]'" in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "no data was given. Add --data DIR"),
        (["--data", "nowhere"], "nowhere: there is no such file or folder"),
        (["--data", "data", "--encoder", "smal"], "Did you mean 'small'"),
        (["--data", "data", "--encoder", "data"], "holds no encoder"),
        (["--data", "data", "--encoder", "encoder", "model.latent_dim=0"], "latent_dim must be at least 1"),
        (["--data", "data", "--encoder", "encoder", "latent_dim=3"], "Did you mean 'model.latent_dim'"),
        (["--data", "data", "--encoder", "encoder", "held_out=1"], "held_out must be between 0 and 1"),
        (["--data", "data", "--encoder", "encoder", "rollout_steps=50"], "no episode has the 53 rows"),
        (
            ["--data", "data", "--encoder", "encoder", "--resume"],
            "--resume goes on with the run in --out DIR",
        ),
        (
            ["--data", "data", "--encoder", "encoder", "--resume", "--out", "out"],
            "holds no training to resume",
        ),
        (
            ["--data", "data", "--encoder", "encoder", "--overwrite", "--out", "encoder"],
            "is also what is read",
        ),
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
    write_dots(tmp_path / "data", 3)
    make_encoder().save(tmp_path / "encoder")
    assert main([*argv, "--quiet"]) == 2
    out, errors = capsys.readouterr()
    assert (out, len(errors.splitlines())) == ("", 1)
    assert message in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "encoder"]


@pytest.mark.parametrize("family", ["vjepa2_ac", "dino_wm"])
def test_it_trains_predictors_over_tokens(
    family: str, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    tiny = ["depth=1", "num_heads=2", *(["width=16"] if family == "vjepa2_ac" else ["mlp_width=16"])]
    given = [*inputs, "--predictor", family, "--out", str(out), "--steps", "3", "--json"]
    overrides = ["tokens.batch_size=2", "tokens.held_out=0.2", *(f"tokens.{family}.{size}" for size in tiny)]
    assert main([*given, *overrides]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["episodes"]) == (3, {"train": 8, "held_out": 2})
    assert sorted(path.name for path in out.iterdir()) == FILES
    model = load_model(out)
    assert model.family == family
    assert model.metadata.open_loop_error == result["open_loop_error"]
    assert main([*given, *overrides, "--overwrite", "tokens.clip_steps=4"]) == 2
    assert "clip_steps 4 are too few for history 3" in capsys.readouterr().err


def test_it_goes_on_from_a_model_that_there_is(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture
) -> None:
    first, tuned = tmp_path / "first", tmp_path / "tuned"
    assert main([*inputs, "--out", str(first), "--steps", "4"]) == 0
    argv = ["--from", str(first), "--data", str(tmp_path / "data"), "--out", str(tuned), "--quiet", "--json"]
    small = ["num_predictor_steps=4", "predictor_batch_size=8", "predictor_rollout_steps=5", "held_out=0.2"]
    assert main([*argv, *small, "num_steps=0"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["steps"] == 0
    before, after = load_model(first), load_model(tuned)
    assert after.encoder.fingerprint == before.encoder.fingerprint
    assert after.metadata.training["config"]["learning_rate"] == 3e-4
    assert after.head.reduce.weight.equal(before.head.reduce.weight)
    assert all(
        a.equal(b) for a, b in zip(after.distance.parameters(), before.distance.parameters(), strict=True)
    )
    for more, message in (
        (["model.latent_dim=9"], "the model has model.latent_dim=8, not 9"),
        (["--encoder", "random"], "was trained over another encoder"),
        (["--predictor", "dino_wm"], "--from goes with --predictor compact, not dino_wm"),
    ):
        assert main([*argv, "--overwrite", *more]) == 2
        errors = capsys.readouterr().err
        assert message in errors and len(errors.splitlines()) == 1
    assert main([*inputs, "--out", str(tmp_path / "none"), "num_steps=0"]) == 2
    assert "num_steps=0 would leave the state head untrained" in capsys.readouterr().err
