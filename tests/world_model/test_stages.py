"""The loop of all stages, on a parameter whose way can be worked out."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from wm_plan.world_model.stages import OptimiserConfig, Stage, StagedRun, check_compiler, part_in_batch


class Point(nn.Module):
    """One number."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor([[value]]))


def stage_of(point: nn.Module, losses, **overrides) -> Stage:
    settings = {"num_steps": 4, "learning_rate": 0.1, "log_every": 1}
    return Stage("only", {"point": point}, losses, **{**settings, **overrides})


def run_of(model: nn.Module, out: Path | None = None, **overrides) -> StagedRun:
    if out is not None:
        out.mkdir(exist_ok=True)
    return StagedRun(out, model, OptimiserConfig(**{"warmup": 0.0, **overrides}), {})


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_kept_average_is_that_of_the_weights_after_each_step() -> None:
    point, seen = Point(5.0), []
    stage = stage_of(
        point,
        lambda step, part: {"pull": point.place.square().sum()},
        moved=lambda: seen.append(point.place.item()),
    )
    run_of(point, ema=0.5).train(stage)
    average = 5.0
    for step, place in enumerate(seen):
        decay = min(0.5, (1 + step) / (10 + step))  # a short run forgets where it began
        average = decay * average + (1 - decay) * place
    assert point.place.item() == pytest.approx(average, rel=1e-5)
    assert point.place.item() != pytest.approx(seen[-1], rel=1e-3)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_move_the_weights_as_the_whole_does(accumulate: int) -> None:
    targets = torch.randn(8, generator=torch.Generator().manual_seed(0))

    def trained(parts: int) -> torch.Tensor:
        torch.manual_seed(0)
        net = nn.Linear(1, 1)

        def losses(step: int, part: int) -> dict[str, torch.Tensor]:
            rows = part_in_batch(8, parts, part)
            inputs = torch.arange(8.0)[rows, None] / 8
            return {"error": (net(inputs)[:, 0] - targets[rows]).square().mean()}

        run_of(net, accumulate=parts).train(stage_of(net, losses, clip_norm=1.0))
        return net.weight.detach()

    torch.testing.assert_close(trained(accumulate), trained(1), rtol=1e-5, atol=1e-6)


def test_a_stage_ends_early_and_takes_the_best_weights(tmp_path: Path) -> None:
    point = Point(2.0)
    stage = stage_of(
        point,
        lambda step, part: {"pull": point.place.sum()},  # one way, for ever
        num_steps=100,
        learning_rate=0.5,
        judged=lambda: abs(point.place.item() - 1.0),
        judge_every=1,
        patience=3,
    )
    run_of(point, tmp_path / "run").train(stage)
    errors = [line["held_out_error"] for line in lines_of(tmp_path / "run") if "held_out_error" in line]
    assert errors.index(min(errors)) == len(errors) - 4  # three more, none of them better
    assert abs(point.place.item() - 1.0) == pytest.approx(min(errors), abs=1e-6)
    assert len(errors) < 10


def test_gradients_are_clipped_to_a_norm() -> None:
    """AdamW's step has the size of the rate whatever the gradient; its memory of the gradient has not."""
    for clip, expected in ((0.0, 1000.0), (2.0, 2.0)):
        point, seen = Point(1.0), []
        losses = lambda step, part, point=point: {"steep": 1000 * point.place.sum()}  # noqa: E731
        stage = stage_of(point, losses, num_steps=1, clip_norm=clip)
        stage.moved = lambda point=point, seen=seen: seen.append(point.place.grad.item())
        run_of(point).train(stage)
        assert seen == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize("precision, dtype", [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_have_the_precision_that_is_asked_for(precision: str, dtype: torch.dtype) -> None:
    net, seen = nn.Linear(2, 2), set()

    def losses(step: int, part: int) -> dict[str, torch.Tensor]:
        outputs = net(torch.ones(3, 2))
        seen.add(outputs.dtype)
        return {"size": outputs.float().square().mean()}

    run_of(net, precision=precision).train(stage_of(net, losses))
    assert seen == {dtype}
    assert net.weight.dtype is torch.float32


def test_a_missing_compiler_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="compile=true needs a C\\+\\+ compiler") as error:
        check_compiler()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_compiled_training_gives_the_same_weights() -> None:
    def trained(compiled: bool) -> nn.Linear:
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        run_of(net, compile=compiled).train(
            stage_of(net, lambda step, part: {"size": net(torch.ones(4, 3)).square().mean()})
        )
        return net

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = trained(True)
    torch.testing.assert_close(net.weight, trained(False).weight, rtol=1e-4, atol=1e-5)
    assert net._compiled_call_impl is None


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"precision": "half"}, "precision must be auto, float32 or bfloat16, got 'half'"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"ema": 1.0}, "ema must be from 0 to below 1, got 1.0"),
        ({"clip_norm": -1.0}, "clip_norm at least 0"),
    ],
)
def test_settings_out_of_range_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimiserConfig(**overrides)
