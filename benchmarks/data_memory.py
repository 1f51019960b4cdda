"""Peak memory of inspecting, checking, converting and training from a dataset of several gigabytes.

    python benchmarks/data_memory.py [--gigabytes 5] [--size 224] [--skip-train] [--json] [--folder DIR]

Frames of a moving dot are repeated until they are that many gigabytes uncompressed (gzip keeps them in a few
megabytes on disk, so that any disk will do). Each command runs in a process of its own; reported is the peak
of its resident memory (ru_maxrss), which must stay under 1 GB. Training takes few steps: all frames are
encoded, which is what grows with the data.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from wm_plan.world_model.store_writer import StoreWriter

LIMIT_GB = 1.0
ROWS_AN_EPISODE = 200
COMMANDS = {"data": "wm_plan.commands.data", "train": "wm_plan.commands.train"}


def main() -> int:
    """Measure and print; 1 if a command needs more than the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=5.0, help="frames, uncompressed (5)")
    parser.add_argument("--size", type=int, default=224, help="pixels a side (224)")
    parser.add_argument("--skip-train", action="store_true", help="leave out training, the longest part")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        rows = measure(Path(folder), flags.gigabytes, flags.size, train=not flags.skip_train)
    if flags.json:
        print(json.dumps({"gigabytes": flags.gigabytes, "size": flags.size, "rows": rows}))
    else:
        for row in rows:
            print(f"{row['command']:<10} {row['peak_gb']:6.3f} GB  {row['seconds']:8.1f} s")
    return int(any(row["peak_gb"] >= LIMIT_GB or row["exit_code"] != 0 for row in rows))


def measure(folder: Path, gigabytes: float, size: int, *, train: bool) -> list[dict]:
    """Peak memory and seconds of each command."""
    data = write_frames(folder / "data", gigabytes, size)
    runs = {
        "inspect": ("data", ["inspect", data]),
        "validate": ("data", ["validate", data]),
        "convert": ("data", ["convert", data, folder / "copy"]),
    }
    if train:
        options = ["--steps", 5, "num_predictor_steps=5", "distance.num_steps=5", "num_look_steps=0"]
        runs["train"] = ("train", ["--data", data, "--out", folder / "run", *options])
    return [{"command": name, **run(folder / f"{name}.log", *call)} for name, call in runs.items()]


def write_frames(root: Path, gigabytes: float, size: int) -> Path:
    """Episodes in which a dot goes where actions tell it; 16 different ones, again and again."""
    frame_bytes = size * size * 3
    count = max(16, round(gigabytes * 1e9 / frame_bytes / ROWS_AN_EPISODE))
    recipe = {
        "env": "dot",
        "frame_skip": 1,
        "control_timestep": 0.1,
        "image_size": size,
        "action_low": [-1.0, -1.0],
        "action_high": [1.0, 1.0],
    }
    made: dict[int, dict[str, np.ndarray]] = {}
    with StoreWriter(root, recipe, count) as writer:
        for index in writer.missing():
            if index % 16 not in made:
                made.clear()  # one at a time in memory
                made[index % 16] = episode(index % 16, size)
            writer.write(index, made[index % 16])
    return root


def episode(seed: int, size: int) -> dict[str, np.ndarray]:
    """One episode."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (ROWS_AN_EPISODE, 2)).astype(np.float32)
    place = np.empty((ROWS_AN_EPISODE, 2))
    place[0] = rng.random(2)
    for step in range(1, ROWS_AN_EPISODE):
        place[step] = np.clip(place[step - 1] + 0.1 * action[step - 1], 0, 1)
    action[-1] = np.nan
    pixels = np.zeros((ROWS_AN_EPISODE, size, size, 3), np.uint8)
    corners = np.round(place * (size - size // 8)).astype(int)
    for frame, (x, y) in zip(pixels, corners, strict=True):
        frame[y : y + size // 8, x : x + size // 8] = (250, 180, 60)
    return {"pixels": pixels, "action": action, "proprio": place.astype(np.float32)}


def run(log: Path, command: str, argv: list) -> dict[str, float]:
    """Run a command in a child and give its peak of resident memory [GB]."""
    code = f"import sys; from {COMMANDS[command]} import main; sys.exit(main(sys.argv[1:]))"
    began = time.monotonic()
    with log.open("wb") as out:
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", code, *map(str, argv), "--quiet"],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)],
        )
        _, status, usage = os.wait4(child, 0)
    exit_code = os.waitstatus_to_exitcode(status)
    if exit_code:
        sys.stderr.write(log.read_text(errors="replace")[-2000:])
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return {
        "peak_gb": usage.ru_maxrss * kilobyte / 1e9,
        "seconds": round(time.monotonic() - began, 1),
        "exit_code": exit_code,
    }


if __name__ == "__main__":
    sys.exit(main())
