"""The comparison of predictors: its choices are settings; what it measures is kept, and shown."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.world_model.test_compact import make_model
from wm_plan.world_model import TrainConfig

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "predictors.py"
comparison = runpy.run_path(str(SCRIPT))


def test_every_choice_is_a_setting_that_differs_from_the_base() -> None:
    base = TrainConfig()
    for name, sizes in comparison["KINDS"].items():
        assert (replace(base.model, **sizes) == base.model) == (name == comparison["BASE"])
    for settings in (*comparison["SECOND_STAGE"].values(), *comparison["HEADS"].values()):
        assert replace(base, **settings) != base
    names = [*comparison["KINDS"], *comparison["SECOND_STAGE"], *comparison["HEADS"]]
    assert len(set(names)) == len(names)
    assert not any("," in name for name in names)  # --only lists them


def test_a_model_is_measured_by_its_errors_its_size_and_its_time(tmp_path: Path) -> None:
    model = make_model()
    model.metadata.open_loop_error = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    model.save(tmp_path / "model")
    found = comparison["measured"](tmp_path / "model")
    assert found["open_loop_error"] == [0.01, 0.05, 0.06]
    assert found["parameters"] == sum(parameter.numel() for parameter in model.predictor.parameters())
    assert found["rollout_ms"] > 0


def test_the_table_shows_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    near = {"success_rate": 0.95, "ci95": [0.835, 0.986], "plan_ms_p50": 31.4}
    rows = {
        "mlp": {"open_loop_error": [0.002, 0.003, 0.0041], "rollout_ms": 3.52, "train_s": 90.0, "near": near},
        "gru": {"open_loop_error": [0.001, 0.002, 0.003], "rollout_ms": 5.0},
    }
    (tmp_path / "results.json").write_text(json.dumps(rows))
    monkeypatch.setattr(sys, "argv", ["predictors.py", "--out", str(tmp_path), "--table"])
    comparison["main"]()
    printed = capsys.readouterr().out
    assert "| mlp | 0.20 / 0.30 / 0.41 | 95% (84% to 99%) |  | 31 | 3.5 | 90.0 |" in printed
    assert "| gru | 0.10 / 0.20 / 0.30 |  |  |  | 5.0 |  |" in printed
    monkeypatch.setattr(sys, "argv", ["predictors.py", "--out", str(tmp_path), "--seed", "0"])
    with pytest.raises(SystemExit):
        comparison["main"]()
    assert "--seed is below 1000" in capsys.readouterr().err
