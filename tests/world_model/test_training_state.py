"""What training loops keep on disk, and the schedule that they share."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wm_plan.world_model.training_state import (
    METRICS_NAME,
    STATE_NAME,
    append_metrics,
    check_same_settings,
    drop_metrics_after,
    load_state,
    save_state,
    warmup_cosine,
)


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    factors = [warmup_cosine(step, 100, warmup=0.1, floor=0.2) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.6)  # half way down from 1 to .2
    assert factors[99] == pytest.approx(0.2, abs=1e-3)
    assert warmup_cosine(0, 1) == 1.0


def test_an_optimizer_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.7, 0.9))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    numbers = {"loss": 0.1 + 0.2, "none": None, "nan": float("nan"), "list": [1, "a", True]}
    save_state(
        tmp_path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "numbers": numbers}
    )
    assert [path.name for path in tmp_path.iterdir()] == [STATE_NAME]
    state = load_state(tmp_path)
    assert str(state["numbers"]) == str(numbers)
    torch.testing.assert_close(state["model"], dict(model.state_dict()), rtol=0, atol=0)
    twin = torch.nn.Linear(3, 2)
    other = torch.optim.AdamW(twin.parameters(), lr=0.5)
    twin.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    for trained, optimiser in ((model, optimizer), (twin, other)):
        optimiser.zero_grad()
        trained(torch.tensor([[1.0, 2, 3]])).square().sum().backward()
        optimiser.step()
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(model.bias, twin.bias)


def test_what_is_no_training_state_is_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no training to resume: it has no training.safetensors"):
        load_state(tmp_path)
    save_state(tmp_path, {"step": 1, "tensor": torch.ones(4)})
    whole = (tmp_path / STATE_NAME).read_bytes()
    for damaged in (whole[:-4], b"", pickle.dumps({"step": 1})):
        (tmp_path / STATE_NAME).write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            load_state(tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / STATE_NAME)
    with pytest.raises(ValueError, match="is no training state that this release can resume"):
        load_state(tmp_path)


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        append_metrics(tmp_path, {"step": step, "loss": 1 / step})
    with (tmp_path / METRICS_NAME).open("a") as file:
        file.write('{"step": 40, "lo')  # cut off by a kill
    drop_metrics_after(tmp_path, 20)
    lines = (tmp_path / METRICS_NAME).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 10, "loss": 0.1}, {"step": 20, "loss": 0.05}]
    drop_metrics_after(tmp_path / "nowhere", 3)


def test_the_setting_that_differs_is_named(tmp_path: Path) -> None:
    saved = {"vit": {"depth": 2, "layers": [1, 2]}, "steps": 10}
    check_same_settings(tmp_path, {"vit": {"depth": 2, "layers": (1, 2)}, "steps": 10}, saved)
    with pytest.raises(ValueError, match="was trained with vit.depth 2, not 3; resume with the same"):
        check_same_settings(tmp_path, {"vit": {"depth": 3, "layers": [1, 2]}, "steps": 10}, saved)
    with pytest.raises(ValueError, match="vit.width None, not 8"):
        check_same_settings(tmp_path, {"vit": {"depth": 2, "layers": [1, 2], "width": 8}, "steps": 10}, saved)
    with pytest.raises(ValueError, match="steps 10, not None"):
        check_same_settings(tmp_path, {"vit": saved["vit"]}, saved)
