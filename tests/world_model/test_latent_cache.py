"""Every frame goes through the encoder once, and a cache is never mistaken for another."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trajectories import RECIPE, make_episode, write_store
from wm_plan.world_model.latent_cache import cached_latents, default_cache_dir
from wm_plan.world_model.store import TrajectoryStore
from wm_plan.world_model.store_writer import StoreWriter


class PatchMeans:
    """An encoder whose tokens can be worked out by hand: the mean colour of each quarter of the frame."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.fingerprint = f"patch-means-{scale}"
        self.num_frames = 0

    def preprocess(self, frames: np.ndarray) -> Tensor:
        assert frames.shape[1] == 1
        return torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float() / 255

    def __call__(self, pixel_values: Tensor) -> Tensor:
        self.num_frames += len(pixel_values)
        pooled = torch.nn.functional.adaptive_avg_pool2d(pixel_values[:, 0], 2)
        return self.scale * pooled.flatten(2).transpose(1, 2)


def quarter_means(frames: np.ndarray) -> np.ndarray:
    half = frames.shape[1] // 2
    quarters = [frames[:, y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
    return np.stack([quarter.mean(axis=(1, 2)) / 255 for quarter in quarters], axis=1)


def test_each_row_holds_its_own_frames_tokens(tmp_path: Path) -> None:
    store = TrajectoryStore(write_store(tmp_path / "data"))
    latents = cached_latents(PatchMeans(), store, batch_size=5)
    assert (latents.shape, latents.dtype) == ((42, 4, 3), np.float16)
    np.testing.assert_allclose(latents, quarter_means(store.read("pixels")), atol=1e-3)
    latents[3][:] = 9.0
    assert latents[3].max() <= 1


def test_frames_are_encoded_once(tmp_path: Path) -> None:
    store = TrajectoryStore(write_store(tmp_path / "data"))
    encoder = PatchMeans()
    cached_latents(encoder, store)
    cached_latents(encoder, store)
    assert encoder.num_frames == store.num_rows
    assert sorted(p.suffix for p in (tmp_path / "data" / "latents").iterdir()) == [".json", ".npy"]


def test_another_encoder_or_changed_data_is_another_cache(tmp_path: Path) -> None:
    root = write_store(tmp_path / "data")
    before = np.array(cached_latents(PatchMeans(), TrajectoryStore(root)))
    doubled = cached_latents(PatchMeans(2.0), TrajectoryStore(root))
    np.testing.assert_allclose(doubled, 2 * before, atol=2e-3)
    with StoreWriter(root, RECIPE, 7, episodes_per_shard=3, overwrite=True) as writer:
        for index in writer.missing():
            writer.write(index, make_episode(index + 100))
    assert not np.allclose(cached_latents(PatchMeans(), TrajectoryStore(root)), before, atol=1e-3)


def test_a_source_that_is_added_leaves_the_others_encoded(tmp_path: Path) -> None:
    a, b = write_store(tmp_path / "a", 2), write_store(tmp_path / "b", 3)
    encoder = PatchMeans()
    alone = cached_latents(encoder, TrajectoryStore(a))[:]
    assert encoder.num_frames == 12
    both = cached_latents(encoder, TrajectoryStore([b, a]))
    assert encoder.num_frames == 12 + 18
    np.testing.assert_array_equal(both[18:], alone)
    rows = np.array([[29, 0], [17, 18]])
    np.testing.assert_array_equal(both[rows], np.asarray(both)[rows])


def test_latents_can_be_read_by_several_processes(tmp_path: Path) -> None:
    latents = cached_latents(PatchMeans(), TrajectoryStore(write_store(tmp_path / "data")))
    whole = latents[:]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(latents))[5:9], whole[5:9])
    np.testing.assert_array_equal(latents[-2], whole[-2])
    np.testing.assert_array_equal(latents[np.zeros(0, int)], whole[:0])
    with pytest.raises(IndexError, match="0 to 41"):
        latents[42]


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {tests!r} + "/world_model"]
from test_latent_cache import PatchMeans
from wm_plan.world_model import latent_cache
from wm_plan.world_model.store import TrajectoryStore
latent_cache._SAVE_EVERY_ROWS = 8
def progress(done, total):
    if done >= 28:
        os.kill(os.getpid(), signal.SIGKILL)
latent_cache.cached_latents(PatchMeans(), TrajectoryStore({root!r}), batch_size=4, progress=progress)
"""


def test_a_killed_cache_goes_on_where_it_was(tmp_path: Path) -> None:
    root = write_store(tmp_path / "data")
    script = KILLED.format(tests=str(Path(__file__).parents[1]), root=str(root))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    store, encoder = TrajectoryStore(root), PatchMeans()
    latents = cached_latents(encoder, store, batch_size=4)
    assert encoder.num_frames == store.num_rows - 24
    np.testing.assert_allclose(latents, quarter_means(store.read("pixels")), atol=1e-3)


def test_rows_without_the_column_are_nan(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "blind", RECIPE, 1) as writer:
        writer.write(0, {"action": np.zeros((9, 2), np.float32)})
    store = TrajectoryStore([tmp_path / "blind", write_store(tmp_path / "data", 2)])
    latents = cached_latents(PatchMeans(), store, cache_dir=tmp_path / "cache", batch_size=4)
    assert np.isnan(latents[:9]).all()
    assert np.isfinite(latents[9:]).all()
    with pytest.raises(ValueError, match="no column 'depth' in .*it has action, pixels, state"):
        cached_latents(PatchMeans(), store, "depth", cache_dir=tmp_path / "cache")


def test_what_fp16_cannot_hold_is_refused(tmp_path: Path) -> None:
    store = TrajectoryStore(write_store(tmp_path / "data", 1))
    with pytest.raises(ValueError, match="no finite fp16 for row 0"):
        cached_latents(PatchMeans(1e6), store)
    with pytest.raises(ValueError, match="'action' holds float32"):
        cached_latents(PatchMeans(), store, "action")


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    store = TrajectoryStore(write_store(tmp_path / "data", 1))
    cached_latents(PatchMeans(), store)
    os.truncate(next((tmp_path / "data" / "latents").glob("*.npy")), 200)
    with pytest.raises(ValueError, match=r"\.npy is damaged .*: delete it"):
        cached_latents(PatchMeans(), store)


def test_caches_lie_with_the_data_or_where_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = write_store(tmp_path / "a", 1), write_store(tmp_path / "b", 1)
    monkeypatch.delenv("WM_PLAN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir(TrajectoryStore(a)) == a / "latents"
    assert default_cache_dir(TrajectoryStore([a, b]), source=1) == b / "latents"
    shard = next(b.glob("*.h5"))
    assert default_cache_dir(TrajectoryStore(shard)) == tmp_path / "xdg" / "wm-plan" / "latents"
    monkeypatch.setenv("WM_PLAN_CACHE", str(tmp_path / "chosen"))
    assert default_cache_dir(TrajectoryStore(a)) == tmp_path / "chosen" / "latents"
