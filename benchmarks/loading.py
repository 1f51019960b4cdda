"""Random 16-frame windows of logged frames: frames per CPU second in each format, beside a raw memmap.

    python benchmarks/loading.py [--data DIR] [--windows 400] [--length 16] [--json]

Without `--data`, 10,000 frames of reacher at 96 px are logged into a temporary folder first. The raw memmap
holds the same frames uncompressed: it is the floor, and what sizes are compared with. LeRobot's video (AV1,
as LeRobotDataset v3.0 has it), its PNG images and Minari are read by this library; "minari package" is the
same dataset read as that package does it, by whole episodes.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wm_plan.collecting import CollectConfig, collect
from wm_plan.world_model.formats import default_columns, open_source, write_lerobot, write_minari
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
        rows = measure(data, Path(folder), flags.windows, flags.length, flags.seed)
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
    collect(CollectConfig("reacher", num_episodes=100, num_steps=99, image_size=96), root)
    return root


def measure(data: Path, folder: Path, num_windows: int, length: int, seed: int) -> list[dict]:
    """One row a format; all give the same frames (video nearly), which is checked."""
    store = TrajectoryStore(data)
    windows = store.windows(history=1, horizon=length - 1).sample(num_windows, np.random.default_rng(seed))
    raw = folder / "frames.npy"
    shape = (store.num_rows, *store.columns["pixels"].shape)
    memmap = np.lib.format.open_memmap(raw, mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, store.num_rows, READ_ROWS):
        span = slice(start, min(start + READ_ROWS, store.num_rows))
        memmap[span] = store.read("pixels", span)
    frames = np.load(raw, mmap_mode="r")
    source = open_source(data)
    video = write_lerobot(source, folder / "lerobot-video")
    images = write_lerobot(source, folder / "lerobot-images", images=True)
    minari = write_minari(source, folder / "minari" / "logged-v0")
    readers = {
        "native store": (lambda rows: store.read_windows("pixels", rows), data),
        "raw memmap": (lambda rows: frames[rows], raw),
        "LeRobot video": (by_episode(store, video), video),
        "LeRobot images": (by_episode(store, images), images),
        "Minari": (by_episode(store, minari), minari),
        "minari package": (whole_episodes(store, minari), minari),
    }
    rows = []
    for name, (read, path) in readers.items():
        for window in windows[:2]:
            difference = read(window[None]).astype(np.int16) - frames[window[None]]
            assert np.abs(difference).mean() < (3 if "video" in name else 1e-9), name
        rows.append({"format": name, **timed(read, windows, size_of(path))})
    return rows


def by_episode(store: TrajectoryStore, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Read windows of the store's rows from the same data in another format."""
    source = open_source(path)
    camera = default_columns(source)["pixels"]

    def read(rows: np.ndarray) -> np.ndarray:
        first = int(rows[0, 0])
        episode = int(np.searchsorted(store.offsets, first, side="right")) - 1
        start = first - int(store.offsets[episode])
        return source.read(episode, [camera], start, start + rows.shape[1])[camera][None]

    return read


def whole_episodes(store: TrajectoryStore, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Read the same windows through the `minari` package."""
    os.environ["MINARI_DATASETS_PATH"] = str(path.parent)
    import minari

    dataset = minari.load_dataset(path.name)

    def read(rows: np.ndarray) -> np.ndarray:
        first = int(rows[0, 0])
        episode = int(np.searchsorted(store.offsets, first, side="right")) - 1
        start = first - int(store.offsets[episode])
        frames = dataset[episode].observations["pixels"]
        return np.asarray(frames[start : start + rows.shape[1]])[None]

    return read


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


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
