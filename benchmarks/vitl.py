"""V-JEPA 2's ViT-L with random weights on this machine: load, encode a 256 px clip, train a predictor on it.

    python benchmarks/vitl.py --out runs/vitl --threads 2 [--json]

The model is built from its published configuration, saved as a transformers folder (1.3 GB with its own
predictor) and loaded back by `load_encoder`, so that the time and memory are those of the real checkpoint;
only the numbers it gives are meaningless. The predictor is trained through `train_world_model` on a few
logged episodes. Each part runs in a process of its own; memory is that process's peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PARTS = ("build", "load", "encode", "train")


def main() -> None:
    """Run every part, and print what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the model, logs and predictor")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=16, help="of the clip that is encoded")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--episodes", type=int, default=4, help="logged for the predictor")
    parser.add_argument("--episode-steps", type=int, default=10, help="of each of them")
    parser.add_argument("--steps", type=int, default=5, help="optimiser steps of each stage of the predictor")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.part:
        print(json.dumps(measure(flags)))
        return
    rows = {}
    for part in PARTS:
        line = [sys.executable, __file__, *sys.argv[1:], "--part", part]
        done = subprocess.run(line, stdout=subprocess.PIPE, check=True)
        rows[part] = json.loads(done.stdout.splitlines()[-1])
        if not flags.json:
            print(f"{part:<8} {rows[part]}")
    if flags.json:
        print(json.dumps({"threads": flags.threads, "dtype": flags.dtype, **rows}))


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """One part, in this process."""
    import torch

    from wm_plan.machine import peak_memory_mb

    torch.set_num_threads(flags.threads)
    run = {"build": build, "load": load, "encode": encode, "train": train}[flags.part]
    began = time.perf_counter()
    found = run(flags)
    return {
        "seconds": round(time.perf_counter() - began, 2),
        **found,
        "peak_memory_mb": round(peak_memory_mb()),
    }


def build(flags: argparse.Namespace) -> dict[str, Any]:
    """The published configuration with random weights, in a folder as the hub has it."""
    from transformers import VJEPA2Config, VJEPA2Model

    folder = flags.out / "vjepa2-vitl"
    if not (folder / "model.safetensors").is_file():
        VJEPA2Model(VJEPA2Config()).save_pretrained(folder)
    return {"gigabytes": round((folder / "model.safetensors").stat().st_size / 1e9, 2)}


def load(flags: argparse.Namespace) -> dict[str, Any]:
    """Load, and count."""
    from wm_plan.world_model import load_encoder

    encoder = load_encoder(flags.out / "vjepa2-vitl", image_size=flags.image_size, dtype=flags.dtype)
    return {"parameters": sum(parameter.numel() for parameter in encoder.parameters())}


def encode(flags: argparse.Namespace) -> dict[str, Any]:
    """One clip, and one lone frame."""
    import numpy as np

    from wm_plan.world_model import load_encoder

    encoder = load_encoder(flags.out / "vjepa2-vitl", image_size=flags.image_size, dtype=flags.dtype)
    found: dict[str, Any] = {}
    for name, frames in (("clip", flags.frames), ("frame", 1)):
        pixels = encoder.preprocess(np.zeros((1, frames, 240, 320, 3), np.uint8))
        began = time.perf_counter()
        tokens = encoder(pixels)
        found[f"{name}_seconds"] = round(time.perf_counter() - began, 2)
        found[f"{name}_tokens"] = list(tokens.shape)
    return found


def train(flags: argparse.Namespace) -> dict[str, Any]:
    """Log a few episodes and train a predictor on them, for a few steps of each stage."""
    from wm_plan.collecting import CollectConfig, collect
    from wm_plan.world_model import TrainConfig, TrajectoryStore, load_encoder, train_world_model
    from wm_plan.world_model.temporal_distance import DistanceConfig

    data = flags.out / "data"
    if not data.exists():
        collect(CollectConfig("reacher", flags.episodes, num_steps=flags.episode_steps), data)
    encoder = load_encoder(flags.out / "vjepa2-vitl", image_size=flags.image_size, dtype=flags.dtype)
    config = TrainConfig(
        num_steps=flags.steps,
        num_predictor_steps=flags.steps,
        num_look_steps=flags.steps,
        distance=DistanceConfig(num_steps=flags.steps),
        held_out=0.25,
    )
    stages: dict[str, float] = {}
    began = time.perf_counter()

    def note(stage: str) -> None:
        stages[stage] = round(time.perf_counter() - began, 2)

    store = TrajectoryStore(data)
    train_world_model(store, encoder, flags.out / "model", config, with_encoder=False, on_stage=note)
    return {"frames": store.num_rows, "stage_began_at_seconds": stages}


if __name__ == "__main__":
    main()
