"""From nothing to a plan by the real commands, on sizes so small that all of it runs in seconds."""

import json
from pathlib import Path

import pytest

from wm_plan.commands import collect, eval, plan, pretrain, train  # noqa: A004

ENCODER = [
    "encoder.image_size=32",
    "encoder.patch_size=8",
    "encoder.width=24",
    "encoder.depth=2",
    "encoder.whole_after=2",
    "encoder.num_heads=2",
    "jepa.predictor_width=12",
    "jepa.predictor_depth=1",
    "jepa.target_layers=[1,2]",
    "feature_layers=[1,2]",
]
MODEL = [
    "model.latent_dim=8",
    "model.token_dim=8",
    "model.head_width=32",
    "model.predictor_width=32",
    "model.distance_width=16",
    "num_predictor_steps=20",
    "predictor_batch_size=32",
    "predictor_rollout_steps=5",
    "rollout_steps=3",
    "look_frames=8",
    "token_frames=8",
    "distance.num_steps=20",
    "distance.batch_size=32",
    "held_out=0.25",
]
PLANNER = ["planner.num_samples=16", "planner.num_elites=4", "planner.num_iterations=2", "planner.horizon=3"]


def run(main, *argv: object, expected: tuple[int, ...] = (0,)) -> None:
    assert main([*map(str, argv), "--json", "--quiet"]) in expected


def test_collect_pretrain_train_plan_and_eval(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, encoder, model, out = (tmp_path / name for name in ("data", "encoder", "model", "plan"))
    run(
        collect.main,
        *("--env", "two_room", "--episodes", 4, "--steps", 12, "--image-size", 32, "--varied"),
        *("--workers", 1, "--out", data),
    )
    collected = json.loads(capsys.readouterr().out)
    assert (collected["episodes"], collected["frames"]) == (4, 4 * 13)

    run(pretrain.main, "--data", data, "--out", encoder, "--steps", 6, "--batch-size", 4, *ENCODER)
    pretrained = json.loads(capsys.readouterr().out)
    assert (pretrained["steps"], pretrained["frames"]) == (6, 4 * 13)
    assert pretrained["loss"] > 0

    run(
        train.main,
        *("--data", data, "--encoder", encoder, "--out", model, "--steps", 10, "--batch-size", 4),
        *MODEL,
    )
    trained = json.loads(capsys.readouterr().out)
    assert (trained["env"], trained["episodes"]) == ("two_room", {"train": 3, "held_out": 1})
    assert trained["encoder_fingerprint"] == pretrained["fingerprint"]
    assert len(trained["open_loop_error"]) == 10
    assert trained["use"] == f"wm-plan --model {model} --goal IMAGE"

    encoder.rename(tmp_path / "the encoder is inside the model")
    run(
        plan.main,
        *("--model", model, "--goal-state", "0.1,0.1", "--max-steps", 8, "--out", out),
        *PLANNER,
        expected=(0, 3),
    )
    planned = json.loads(capsys.readouterr().out)
    assert (planned["env"], planned["model"], planned["steps"]) == ("two_room", str(model), 8)
    assert len(planned["actions"]) == 8
    assert all((out / name).stat().st_size > 0 for name in ("plan.mp4", "plan.png", "result.json"))

    run(
        eval.main,
        *("--env", "two_room", "--model", model, "--protocol", "near", "--policy", "planner,hold"),
        *("--episodes", 2, "--out", tmp_path / "eval", "plans_timed=1"),
        *PLANNER,
    )
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["policy"], row["episodes"]) for row in rows] == [("planner", 2), ("hold", 2)]
