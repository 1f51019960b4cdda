"""The page on training: its commands are understood, and its defaults are the code's."""

import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from tests.test_documents import SCRIPTS, shell_lines
from wm_plan.commands.sweep import _check_overrides
from wm_plan.configuration import compose
from wm_plan.world_model import TokenTrainConfig, TrainConfig
from wm_plan.world_model.compact_config import PredictorKind
from wm_plan.world_model.fine_tuning import BUDGET
from wm_plan.world_model.stages import OptimiserConfig

DOCS = Path(__file__).resolve().parents[1] / "docs"
TRAINING = (DOCS / "training.md").read_text(encoding="utf-8")
PREDICTORS = (DOCS / "predictors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [TRAINING, PREDICTORS], ids=["training", "predictors"])
def test_every_command_is_understood(text: str) -> None:
    lines = [line for line in shell_lines(text) if line.startswith("wm-")]
    lines += re.findall(r"`(wm-\w+ -[^`]+)`", text.replace("\n", " "))
    assert len(lines) > 3
    for line in lines:
        name, *words = shlex.split(line, comments=True)
        command = importlib.import_module(SCRIPTS[name].split(":")[0]).COMMAND
        flags, overrides = command.parse(words)
        assert command.config is not None or not overrides, line
        if getattr(flags, "multirun", False):
            _check_overrides(command.config, [], overrides)
        elif command.config is not None:
            compose(command.config, overrides)


def test_defaults_are_those_of_the_code() -> None:
    defaults = OptimiserConfig()
    for name, said in (
        ("warmup", ".05"),
        ("clip_norm", "1"),
        ("accumulate", "1"),
        ("ema", "0"),
        ("precision", "float32"),
        ("compile", "false"),
    ):
        assert f"| `{name}` | {said} |" in TRAINING
        value = getattr(defaults, name)
        assert (str(value).lower() if isinstance(value, bool | str) else float(value)) == (
            said if isinstance(value, bool | str) else float(said)
        )
    for name in (
        "warmup",
        "clip_norm",
        "accumulate",
        "ema",
        "precision",
        "compile",
        "patience",
        "judge_every",
    ):
        for config in (TrainConfig, TokenTrainConfig):
            assert name in {field.name for field in fields(config)}
    assert "300 steps and the predictor for 1,000, at .0003" in TRAINING
    assert (BUDGET["num_steps"], BUDGET["num_predictor_steps"], BUDGET["distance.num_steps"]) == (
        300,
        1000,
        0,
    )
    assert BUDGET["learning_rate"] == BUDGET["distance.learning_rate"] == 0.0003


def test_every_kind_of_predictor_and_every_loss_is_named() -> None:
    for kind in PredictorKind:
        assert f"| `{kind}` |" in PREDICTORS
    for field in fields(TrainConfig):
        if field.name.endswith("_weight") and field.name != "look_weight":
            assert f"`{field.name}`" in PREDICTORS
