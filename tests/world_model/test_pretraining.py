"""Pretraining: which clips are drawn, that a stop changes nothing, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dot_world import RECIPE, make_vit, write_dots
from wm_plan.world_model.clips import ClipSampler, LookConfig
from wm_plan.world_model.encoder import load_encoder
from wm_plan.world_model.jepa import JEPAConfig
from wm_plan.world_model.plain_objective import PlainConfig
from wm_plan.world_model.pretraining import PretrainConfig, pretrain
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter
from wm_plan.world_model.view_objectives import ViewConfig

FILES = {"config.json", "metrics.jsonl", "model.safetensors", "training.safetensors"}


def make_config(**overrides) -> PretrainConfig:
    jepa = JEPAConfig(predictor_width=12, predictor_depth=1, predictor_heads=2, target_layers=[1, 2])
    settings = {
        "num_steps": 11,
        "batch_size": 4,
        "log_every": 4,
        "save_every": 3,
        "feature_layers": [1, 2],
        "plain": PlainConfig(batch_size=4),
        "views": ViewConfig(token_dim=4, width=16, latent_dim=8),
    }
    return PretrainConfig(**{"encoder": make_vit(), "jepa": jepa, **settings, **overrides})


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stop_at(step: int):
    def progress(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def write_numbered(root: Path, first: int, num_episodes: int, *, period: int | None = None) -> Path:
    """Frames (1, 1) whose red is their row and whose green their episode; blue is 9 in varied looks."""
    with StoreWriter(root, {**RECIPE, "look_period": period}, num_episodes) as writer:
        for index in writer.missing():
            pixels = np.zeros((12, 1, 1, 3), np.uint8)
            pixels[..., 0] = np.arange(12)[:, None, None]
            pixels[..., 1] = first + index
            columns = {"pixels": pixels}
            if period is not None:
                columns["pixels_varied"] = pixels + np.array([0, 0, 9], np.uint8)
            writer.write(index, columns)
    return root


def draw_numbered(
    roots: list[Path], num_clips: int = 400, *, still_rate: float = 0.3, varied_rate: float = 0.5
) -> np.ndarray:
    sampler = ClipSampler(
        TrajectoryStore(roots),
        4,
        LookConfig(varied_rate=varied_rate, augment_rate=0.0),
        lambda f: torch.from_numpy(f).movedim(-1, 2).float(),
        still_rate=still_rate,
    )
    return sampler.draw(num_clips, np.random.default_rng(0)).seen[..., 0, 0].numpy()


def test_clips_are_consecutive_frames_of_one_episode_from_each_source_equally_often(tmp_path: Path) -> None:
    roots = [write_numbered(tmp_path / "a", 0, 6), write_numbered(tmp_path / "b", 50, 1)]
    clips = draw_numbered(roots, still_rate=0.0)
    rows, episodes = clips[:, :, 0], clips[:, :, 1]
    assert (np.diff(rows, axis=1) == 1).all()
    assert (episodes == episodes[:, :1]).all()
    assert set(np.unique(rows)) == set(range(12))
    assert set(np.unique(episodes)) == {0, 1, 2, 3, 4, 5, 50}
    assert 0.4 < (episodes[:, 0] == 50).mean() < 0.6
    assert (clips[:, :, 2] == 0).all()


def test_still_clips_show_one_frame(tmp_path: Path) -> None:
    root = write_numbered(tmp_path / "a", 0, 2)
    for rate in (0.0, 0.3, 1.0):
        rows = draw_numbered([root], still_rate=rate)[:, :, 0]
        still = (rows == rows[:, :1]).all(axis=1)
        assert still.mean() == pytest.approx(rate, abs=0.08)
        assert (np.diff(rows[~still], axis=1) == 1).all()


def test_a_clip_in_varied_looks_lies_in_one_look(tmp_path: Path) -> None:
    roots = [write_numbered(tmp_path / "a", 0, 3, period=5), write_numbered(tmp_path / "b", 50, 3)]
    clips = draw_numbered(roots, varied_rate=0.5, still_rate=0.0)
    varied = clips[:, 0, 2] == 9
    plain_only = clips[:, 0, 1] >= 50
    assert not (varied & plain_only).any()
    assert varied[~plain_only].mean() == pytest.approx(0.5, abs=0.1)
    looks = clips[varied][:, :, 0] // 5
    assert (looks == looks[:, :1]).all()
    assert set(np.unique(looks)) == {0, 1}
    assert not draw_numbered(roots, varied_rate=0.0)[:, 0, 2].any()


@pytest.mark.parametrize("objective", ["vjepa", "ijepa", "barlow_twins", "sigreg"])
def test_a_stopped_pretraining_resumes_to_the_same_bits(objective: str, tmp_path: Path) -> None:
    config = make_config(objective=objective)
    store = TrajectoryStore(write_dots(tmp_path / "data", varied=True))
    whole, stopped = tmp_path / "whole" / "run", tmp_path / "stopped" / "run"
    seen: list[int] = []
    pretrain(store, whole, config, progress=lambda done, total, metrics: seen.append(done))
    assert seen == list(range(12))
    for step in (5, 10):  # 3 and 9 are the checkpoints before; lines stand at 4, 8 and 11
        with pytest.raises(KeyboardInterrupt):
            pretrain(store, stopped, config, resume=step > 5, progress=stop_at(step))
        assert not (stopped / "model.safetensors").exists()
    pretrain(store, stopped, config, resume=True)
    assert {path.name for path in stopped.iterdir()} == FILES
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    assert metrics_of(whole) == metrics_of(stopped)
    assert [line["step"] for line in metrics_of(whole)] == [0, 4, 8, 11]


def test_an_encoder_learns_and_says_what_it_was_made_from(tmp_path: Path) -> None:
    store = TrajectoryStore(write_dots(tmp_path / "data"))
    config = make_config(num_steps=120, log_every=30, batch_size=8, learning_rate=3e-3, save_every=500)
    warnings: list[str] = []
    encoder = pretrain(store, tmp_path / "run", config, record={"command": "here"}, warn=warnings.append)
    lines = metrics_of(tmp_path / "run")
    assert lines[-1]["masked"] < 0.8 * lines[1]["masked"]
    assert lines[-1]["effective_rank"] > 2
    assert warnings == []
    loaded = load_encoder(tmp_path / "run")
    assert loaded.fingerprint == encoder.fingerprint
    assert loaded.feature_layers == (1, 2)
    record = loaded.training_record
    assert record["config"]["num_steps"] == 120
    assert record["data"][0]["env"] == "dot"
    assert (record["data_fingerprint"], record["command"]) == (store.fingerprint, "here")
    assert record["seconds"] > 0
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_finished_pretraining_is_not_trained_further(tmp_path: Path) -> None:
    store = TrajectoryStore(write_dots(tmp_path / "data", 2))
    pretrain(store, tmp_path / "run", make_config())
    before = {name: (tmp_path / "run" / name).read_bytes() for name in FILES - {"config.json"}}
    pretrain(store, tmp_path / "run", make_config(), resume=True)
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    store = TrajectoryStore(write_dots(tmp_path / "data", 2))
    with pytest.raises(ValueError, match="holds no training to resume"):
        pretrain(store, tmp_path / "run", make_config(), resume=True)
    pretrain(store, tmp_path / "run", make_config(num_steps=3))
    with pytest.raises(ValueError, match="was trained with num_steps 3, not 11"):
        pretrain(store, tmp_path / "run", make_config(), resume=True)
    other = TrajectoryStore(write_dots(tmp_path / "other", 3))
    with pytest.raises(ValueError, match="was trained with data '"):
        pretrain(other, tmp_path / "run", make_config(num_steps=3), resume=True)


def test_frames_of_several_sizes_are_trained_on_together(tmp_path: Path) -> None:
    roots = [write_dots(tmp_path / "a", 2), write_dots(tmp_path / "b", 2, size=20)]
    pretrain(TrajectoryStore(roots), tmp_path / "run", make_config(num_steps=2))
    assert metrics_of(tmp_path / "run")[-1]["loss"] > 0


def test_logs_that_do_not_serve_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "blind", RECIPE, 1) as writer:
        writer.write(0, {"action": np.zeros((9, 2), np.float32)})
    dots = write_dots(tmp_path / "dots", 2, num_steps=2)
    with pytest.raises(ValueError, match="no column 'pixels'"):
        pretrain(TrajectoryStore(tmp_path / "blind"), tmp_path / "run", make_config())
    with pytest.raises(ValueError, match="blind has no column 'pixels'"):
        pretrain(TrajectoryStore([dots, tmp_path / "blind"]), tmp_path / "run", make_config(clip_frames=2))
    with pytest.raises(ValueError, match="no episode has the 4 rows"):
        pretrain(TrajectoryStore(dots), tmp_path / "run", make_config())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"clip_frames": 3}, "clip_frames must be a multiple of 2 up to 4, got 3"),
        ({"clip_frames": 6}, "clip_frames must be a multiple of 2 up to 4, got 6"),
        ({"still_rate": 1.5}, "still_rate must be from 0 to 1, got 1.5"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"feature_layers": [3]}, r"feature_layers must be numbers from 0 to 2 \(encoder.depth\), got \[3\]"),
        ({"jepa": JEPAConfig()}, r"jepa.target_layers must be numbers from 1 to 2 .*got \[2, 4\]"),
    ],
)
def test_settings_out_of_range_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**overrides)
