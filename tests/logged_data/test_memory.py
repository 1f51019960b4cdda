"""Memory does not grow with the data: measured in processes of their own, on data larger than allowed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wm_plan.world_model.shards import ColumnSpec
from wm_plan.world_model.store_writer import StoreWriter

SIZE, ROWS = 256, 1600
DATA_MB = SIZE * SIZE * 3 * ROWS // 2**20
ALLOWED_MB = 110

COMMAND = """
import resource, sys
from wm_plan.commands.data import main
small, large, out = sys.argv[1:]
unit = 2**20 if sys.platform == "darwin" else 2**10
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
def run(data, name): return main([COMMAND, data, *([out + name] if COMMAND == "convert" else []), "--quiet"])
assert run(small, "-small") == 0
before = peak()
assert run(large, "-large") == 0
print(peak() - before)
"""

LATENTS = """
import resource, sys
import numpy as np, torch
from wm_plan.world_model.latent_cache import cached_latents
from wm_plan.world_model.store import TrajectoryStore
class Wide:
    fingerprint = "wide"
    def preprocess(self, frames): return torch.from_numpy(frames[:, :, :1, :1].astype(np.float32))
    def __call__(self, pixels): return pixels.mean(dim=(1, 2, 3, 4))[:, None, None].expand(-1, 64, 1024)
unit = 2**20 if sys.platform == "darwin" else 2**10
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
small, large = (TrajectoryStore(path) for path in sys.argv[1:3])
cached_latents(Wide(), small, batch_size=16)
before = peak()
latents = cached_latents(Wide(), large, batch_size=16)
rng = np.random.default_rng(0)
for _ in range(100):
    assert latents[rng.integers(len(latents), size=32)].shape == (32, 64, 1024)
print(peak() - before, 2 * latents.shape[0] * 64 * 1024 // 2**20)
"""


def long_episode(root: Path, num_rows: int) -> Path:
    """One episode of so many frames, of a few different ones, which compress to nearly nothing."""
    few = np.zeros((8, SIZE, SIZE, 3), np.uint8)
    for place, frame in enumerate(few):
        frame[16 * place : 16 * place + 16, 16 * place : 16 * place + 16] = 200
    with StoreWriter(root, {"env": "dot", "frame_skip": 1, "image_size": SIZE}, 1) as writer:
        specs = {
            "action": ColumnSpec(np.dtype("f4"), (2,)),
            "pixels": ColumnSpec(np.dtype("u1"), (SIZE, SIZE, 3)),
        }
        rng = np.random.default_rng(0)
        blocks = (
            {"pixels": few, "action": rng.normal(size=(8, 2)).astype(np.float32)}
            for _ in range(num_rows // 8)
        )
        writer.write_blocks(0, specs, num_rows, blocks)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset of 24 frames and one of hundreds of megabytes."""
    folder = tmp_path_factory.mktemp("long")
    return long_episode(folder / "small", 24), long_episode(folder / "large", ROWS)


def growth(code: str, *argv: object) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.splitlines()[-1].split()]


@pytest.mark.parametrize("command", ["inspect", "validate", "convert"])
def test_an_episode_far_larger_than_the_memory_allowed_goes_through(
    data: tuple[Path, Path], tmp_path: Path, command: str
) -> None:
    assert DATA_MB > 2.5 * ALLOWED_MB
    code = COMMAND.replace("COMMAND", repr(command))
    assert growth(code, *data, tmp_path / "out")[-1] < ALLOWED_MB


def test_latents_far_larger_than_the_memory_allowed_are_cached_and_read(data: tuple[Path, Path]) -> None:
    grown, size = growth(LATENTS, *data)
    assert size > 180
    assert grown < 60
