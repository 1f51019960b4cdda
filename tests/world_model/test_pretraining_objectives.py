"""Objectives of pretraining: each learns; without what prevents it each collapses, and is seen to."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.dot_world import RECIPE, draw_dots, make_encoder, make_episode, write_dots
from tests.world_model.test_pretraining import make_config, metrics_of
from wm_plan.world_model.augment import photometric_view
from wm_plan.world_model.clips import LookConfig
from wm_plan.world_model.jepa import JEPAConfig
from wm_plan.world_model.losses import barlow_twins
from wm_plan.world_model.monitors import uniformity
from wm_plan.world_model.plain_objective import PlainConfig, PlainTargets, soft_histograms
from wm_plan.world_model.pretraining import OBJECTIVES, PretrainConfig, _Pretraining, pretrain
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter
from wm_plan.world_model.training_state import load_state
from wm_plan.world_model.view_objectives import ViewConfig

ALONE = PlainConfig(weight=0.0)
SMALL_VIEWS = ViewConfig(token_dim=4, width=16, latent_dim=8)


def config_of(objective: str, **overrides) -> PretrainConfig:
    settings = {
        "objective": objective,
        "num_steps": 150,
        "log_every": 5,
        "save_every": 500,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "plain": ALONE,
        "views": SMALL_VIEWS,
        "looks": LookConfig(rising=0.0),
    }
    return make_config(**{**settings, **overrides})


def run(data: Path, out: Path, config: PretrainConfig) -> tuple[list[dict[str, float]], list[str]]:
    warnings: list[str] = []
    pretrain(TrajectoryStore(data), out, config, warn=warnings.append)
    return metrics_of(out), warnings


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_lowers_its_loss_and_keeps_latents_spread(objective: str, tmp_path: Path) -> None:
    lines, warnings = run(write_dots(tmp_path / "data", varied=True), tmp_path / "run", config_of(objective))
    assert lines[-1]["loss"] < 0.9 * lines[1]["loss"]
    assert lines[-1]["effective_rank"] > 2  # a dot has two places, and is what all frames show
    assert warnings == []


def without_regulariser(objective: str) -> PretrainConfig:
    if objective in {"vjepa", "ijepa"}:
        jepa = JEPAConfig(
            predictor_width=12, predictor_depth=1, predictor_heads=2, target_layers=[1, 2], target="self"
        )
        return config_of(objective, jepa=jepa, momentum=0.0, num_steps=400)
    views = replace(SMALL_VIEWS, variance=0.0, covariance=0.0, redundancy=0.0, sigreg=0.0)
    return config_of(objective, views=views, momentum=0.0, num_steps=400)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_without_teacher_or_regulariser_the_monitor_fires_and_stops_the_run(
    objective: str, tmp_path: Path
) -> None:
    data = write_dots(tmp_path / "data", varied=True)
    config = replace(without_regulariser(objective), stop_on_collapse=True)
    with pytest.raises(ValueError, match="stopped at step .*the latents collapse: "):
        run(data, tmp_path / "run", config)
    assert metrics_of(tmp_path / "run")[-1]["step"] < config.num_steps
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_collapsed_run_that_goes_on_is_warned_of_once(tmp_path: Path) -> None:
    config = replace(without_regulariser("vicreg"), num_steps=40)
    lines, warnings = run(write_dots(tmp_path / "data", varied=True), tmp_path / "run", config)
    assert len(warnings) == 1
    assert "the latents collapse: " in warnings[0]
    assert lines[-1]["step"] == 40


def test_the_plain_look_is_told_for_every_task_from_any_look(tmp_path: Path) -> None:
    first = write_dots(tmp_path / "a", 30, varied=True)
    with StoreWriter(tmp_path / "b", {**RECIPE, "env": "dash"}, 30) as writer:
        for index in writer.missing():  # another task, without actions: from left to right
            places = make_episode(index)["state"][:, 0]
            writer.write(index, {"pixels": draw_dots(np.stack([places, np.full(len(places), 0.5)], axis=1))})
    config = config_of("vjepa", num_steps=250, plain=PlainConfig(batch_size=16))
    pretrain(TrajectoryStore([first, tmp_path / "b"]), tmp_path / "run", config)
    lines = metrics_of(tmp_path / "run")
    assert lines[-1]["plain"] < 0.6 * lines[1]["plain"]


def test_soft_histograms_tell_place_and_direction() -> None:
    frames = torch.zeros(3, 3, 48, 48)
    frames[0, :, :, 12:], frames[1, :, :, :12], frames[2, :, 12:] = 1.0, 1.0, 1.0  # edges: right, left, down
    told = soft_histograms(frames, 12, 0.1).unflatten(1, (12, 12))[..., :8]
    strongest = [np.unravel_index(int(one.argmax()), (12, 12, 8)) for one in told]
    assert [direction for _, _, direction in strongest] == [0, 4, 2]
    assert strongest[0][1] in {2, 3}
    assert strongest[2][0] in {2, 3}
    moved = [torch.zeros(1, 3, 48, 48) for _ in range(3)]
    for column, frame in zip((20, 22, 30), moved, strict=True):
        frame[..., 20:28, column : column + 8] = 1.0
    start, near, far = (soft_histograms(frame, 12, 0.1) for frame in moved)
    assert float((near - start).norm()) < 0.4 * float((far - start).norm())


def test_a_small_thing_of_another_colour_counts_as_much_as_a_large_one() -> None:
    rng, frames = np.random.default_rng(0), torch.zeros(300, 3, 48, 48)
    for frame in frames:
        row, column = rng.integers(0, 24, 2)
        frame[:2, row : row + 24, column : column + 24] = 1.0
        row, column = rng.integers(0, 45, 2)
        frame[2, row : row + 3, column : column + 3] = 1.0
    targets = PlainTargets(6, PlainConfig())
    targets.fit(frames)
    told = targets(frames)[..., -3:]
    torch.testing.assert_close(told.mean(dim=0), torch.zeros(36, 3), atol=1e-3, rtol=0)
    large, small = (told[..., colour].square().mean() for colour in (0, 2))
    assert 0.3 < float(small / large) < 3


def test_parts_of_a_batch_add_up_to_it(tmp_path: Path) -> None:
    """The gradient of a step in two parts is the mean of the gradients of the parts, and so is the loss."""
    store = TrajectoryStore(write_dots(tmp_path / "data"))
    config = make_config(accumulate=2, precision="float32", plain=ALONE)
    training = _Pretraining(store, tmp_path / "run", config, torch.device("cpu"), lambda line: None)
    moved = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    expected, loss = [torch.zeros_like(parameter) for parameter in moved], 0.0
    for part in range(2):
        losses = training._losses(np.random.default_rng([config.seed, 0, 0, part]), done=0.0)
        total = torch.stack(list(losses.values())).sum() / 2
        loss += float(total.detach())
        gradients = torch.autograd.grad(total, moved, allow_unused=True)
        for mean, gradient in zip(expected, gradients, strict=True):
            mean.add_(0.0 if gradient is None else gradient)
    training._update = lambda: None  # so that the gradients can be looked at
    training.advance()
    assert sum(training.sums.values()) == pytest.approx(loss, rel=1e-5)
    for parameter, mean in zip(moved, expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(mean) if parameter.grad is None else parameter.grad, mean)
    with pytest.raises(ValueError, match="cannot be gone through in 3 equal parts"):
        replace(config, accumulate=3)


@pytest.mark.parametrize("objective", ["vjepa", "vicreg"])
def test_in_bfloat16_losses_are_nearly_the_same_and_weights_stay_float32(
    objective: str, tmp_path: Path
) -> None:
    data = write_dots(tmp_path / "data", varied=True)
    plain = PlainConfig(batch_size=4)
    config = config_of(objective, num_steps=3, log_every=3, plain=plain)
    exact, rounded = (
        run(data, tmp_path / precision, replace(config, precision=precision))[0][-1]
        for precision in ("float32", "bfloat16")
    )
    assert rounded == pytest.approx(exact, rel=0.05)
    assert rounded != exact
    weights = load_state(tmp_path / "bfloat16")["model"]
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(
    "log_every, probe_every, due", [(2, 4, {4, 8, 11}), (4, 3, {4, 8, 11}), (2, 5, {6, 10, 11}), (2, 0, {11})]
)
def test_probes_are_logged_with_the_line_that_follows_when_they_are_due(
    log_every: int, probe_every: int, due: set[int], tmp_path: Path
) -> None:
    store = TrajectoryStore(write_dots(tmp_path / "data"))
    config = make_config(log_every=log_every, probe_every=probe_every)
    pretrain(store, tmp_path / "run", config, probe=lambda encoder: {"width": float(encoder.width)})
    assert {line["step"] for line in metrics_of(tmp_path / "run") if "width" in line} == due


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _train_in_a_process(rank: int, data: Path, out: Path, port: int, configs: list[PretrainConfig]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)
    }  # fmt: skip
    dist.init_process_group("gloo")
    for config in configs:
        pretrain(TrajectoryStore(data), out / config.objective, config)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_every_objective_as_one_with_the_whole_batch(
    tmp_path: Path, free_port: int
) -> None:
    data = write_dots(tmp_path / "data", varied=True)
    plain = PlainConfig(batch_size=4)
    configs = [
        config_of(name, num_steps=6, log_every=1, plain=plain, precision="float32", accumulate=2)
        for name in OBJECTIVES
    ]
    mp.spawn(_train_in_a_process, (data, tmp_path / "two", free_port, configs), nprocs=2)
    for config in configs:
        pretrain(TrajectoryStore(data), tmp_path / "one" / config.objective, config)
        one, two = (metrics_of(tmp_path / which / config.objective) for which in ("one", "two"))
        assert [line["step"] for line in two] == list(range(7))
        for alone, together in zip(one, two, strict=True):
            for name, value in alone.items():
                assert together[name] == pytest.approx(value, rel=2e-3, abs=1e-4), (config.objective, name)
        record = json.loads((tmp_path / "two" / config.objective / "config.json").read_text())
        assert record["training"]["processes"] == 2


def test_a_view_changes_light_and_hides_a_part_but_moves_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(64, 2, 3, 24, 24)
    changed = torch.arange(64) % 4 > 0
    views = photometric_view(clips, changed, generator)
    torch.testing.assert_close(views[~changed], clips[~changed])
    hidden = (views[changed].std(dim=1) == 0).all(dim=1).float().mean(dim=(1, 2))
    assert 0.3 < float((hidden > 0).float().mean()) < 0.7
    assert float(hidden.max()) < 0.15
    again = photometric_view(clips[16:32], changed, torch.Generator().manual_seed(0), slice(16, 32))
    torch.testing.assert_close(again, views[16:32])


def test_barlow_twins_wants_equal_views_and_independent_dimensions() -> None:
    latents = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    assert float(barlow_twins(latents, 3 * latents + 1)) < 0.02
    assert float(barlow_twins(latents, latents.flip(0))) == pytest.approx(6, abs=0.5)
    copies = latents[:, :1].expand(-1, 6)
    assert float(barlow_twins(copies, copies, redundancy=1.0)) == pytest.approx(30, rel=0.01)


def test_uniformity_tells_a_point_from_a_sphere() -> None:
    generator = torch.Generator().manual_seed(0)
    assert uniformity(torch.randn(500, 32, generator=generator)) < -3
    assert uniformity(torch.ones(500, 32)) == pytest.approx(0, abs=1e-4)


def test_the_frozen_encoder_is_not_touched_by_fast_attention() -> None:
    """In bfloat16 attention is computed another way; its numbers are those of float32, rounded."""
    encoder = make_encoder()
    clip = torch.randn(3, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    exact = encoder(clip)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(clip)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)
