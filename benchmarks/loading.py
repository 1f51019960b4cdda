"""Random 16-frame windows of logged frames: frames per CPU second, the native store beside a raw memmap.

    python benchmarks/loading.py [--data DIR] [--windows 400] [--length 16] [--json]

Without `--data`, 10,000 frames of reacher at 96 px are logged into a temporary folder first. The raw memmap
holds the same frames uncompressed: it is the floor, and what the store's size is compared with.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wm_plan.collecting import CollectConfig, collect
from wm_plan.world_model.store import TrajectoryStore

READ_ROWS = 4096


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a trajectory store (default: one is made)")
    parser.add_argument("--windows", type=int, default=400, help="windows read from each (400)")
    parser.add_argument("--length", type=int, default=16, help="frames a window (16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the windows (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = flags.data or log_frames(Path(folder) / "data")
        rows = measure(data, Path(folder) / "frames.npy", flags.windows, flags.length, flags.seed)
    if flags.json:
        print(
            json.dumps({"windows": flags.windows, "length": flags.length, "seed": flags.seed, "rows": rows})
        )
        return
    print(f"{'format':<14} {'frames/CPU s':>12} {'frames/s':>10} {'MB':>8}")
    for row in rows:
        print(
            f"{row['format']:<14} {row['frames_per_cpu_second']:>12.0f} "
            f"{row['frames_per_second']:>10.0f} {row['megabytes']:>8.1f}"
        )


def log_frames(root: Path) -> Path:
    """100 episodes of 100 frames."""
    collect(CollectConfig("reacher", num_episodes=100, num_steps=99), root)
    return root


def measure(data: Path, raw: Path, num_windows: int, length: int, seed: int) -> list[dict]:
    """One row a format; both give the same frames, which is checked."""
    store = TrajectoryStore(data)
    windows = store.windows(history=1, horizon=length - 1).sample(num_windows, np.random.default_rng(seed))
    shape = (store.num_rows, *store.columns["pixels"].shape)
    memmap = np.lib.format.open_memmap(raw, mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, store.num_rows, READ_ROWS):
        span = slice(start, min(start + READ_ROWS, store.num_rows))
        memmap[span] = store.read("pixels", span)
    frames = np.load(raw, mmap_mode="r")
    assert np.array_equal(store.read_windows("pixels", windows[:2]), frames[windows[:2]])
    shard_bytes = sum(path.stat().st_size for path in data.glob("*.h5"))
    return [
        {
            "format": "native store",
            **timed(lambda rows: store.read_windows("pixels", rows), windows, shard_bytes),
        },
        {"format": "raw memmap", **timed(lambda rows: frames[rows], windows, raw.stat().st_size)},
    ]


def timed(read: Callable[[np.ndarray], np.ndarray], windows: np.ndarray, num_bytes: int) -> dict[str, float]:
    """Read each window on its own, once to warm up and once to measure."""
    for window in windows:
        read(window[None])
    wall, cpu = time.perf_counter(), time.process_time()
    for window in windows:
        read(window[None])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "frames_per_cpu_second": windows.size / cpu,
        "frames_per_second": windows.size / wall,
        "megabytes": num_bytes / 1e6,
    }


if __name__ == "__main__":
    main()
