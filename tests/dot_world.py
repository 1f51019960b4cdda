"""A world whose dynamics a child could write down: a bright dot that an action moves over a dark square."""

from pathlib import Path

import numpy as np
import torch

from wm_plan.world_model.encoder import JEPAEncoder
from wm_plan.world_model.store_writer import StoreWriter
from wm_plan.world_model.vit import ViTConfig

SIZE, SPEED = 16, 0.15
RECIPE = {
    "env": "dot",
    "frame_skip": 1,
    "control_timestep": 0.1,
    "image_size": SIZE,
    "camera": "above",
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
}


def draw_dots(
    positions: np.ndarray, size: int = SIZE, tint: tuple[int, int, int] = (255, 255, 255)
) -> np.ndarray:
    """Frames (..., size, size, 3) uint8 of dots at positions (..., 2) in [0, 1]."""
    pixels = (np.arange(size) + 0.5) / size
    rows = np.exp(-(((pixels - positions[..., 1, None]) / 0.12) ** 2))
    columns = np.exp(-(((pixels - positions[..., 0, None]) / 0.12) ** 2))
    dots = rows[..., :, None] * columns[..., None, :]
    return (dots[..., None] * np.array(tint)).round().astype(np.uint8)


def make_episode(
    index: int, num_steps: int = 12, *, varied: bool = False, size: int = SIZE
) -> dict[str, np.ndarray]:
    """A random walk drawn from `index`; `state` is the position."""
    rng = np.random.default_rng(index)
    action = rng.uniform(-1, 1, (num_steps + 1, 2)).astype(np.float32)
    position = np.empty((num_steps + 1, 2))
    position[0] = rng.random(2)
    for step in range(num_steps):
        position[step + 1] = np.clip(position[step] + SPEED * action[step], 0, 1)
    action[-1] = np.nan
    columns = {"pixels": draw_dots(position, size), "action": action, "state": position}
    if varied:
        columns["pixels_varied"] = draw_dots(position, size, tuple(rng.integers(80, 255, 3)))
    return columns


def write_dots(root: Path, num_episodes: int = 10, num_steps: int = 12, **options) -> Path:
    """A complete store of random walks at `root`."""
    recipe = {**RECIPE, "image_size": options.get("size", SIZE)}
    if options.get("varied"):
        recipe["look_period"] = num_steps + 1
    with StoreWriter(root, recipe, num_episodes) as writer:
        for index in writer.missing():
            writer.write(index, make_episode(index, num_steps, **options))
    return root


def make_vit(**overrides) -> ViTConfig:
    """Sizes of a very small encoder for these frames."""
    sizes = {"image_size": SIZE, "patch_size": 4, "width": 24, "depth": 2, "num_heads": 2}
    return ViTConfig(**{**sizes, **overrides})


def make_encoder(seed: int = 0, layers: tuple[int, ...] = (1, 2), **overrides) -> JEPAEncoder:
    """A very small encoder with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return JEPAEncoder(make_vit(**overrides), layers, "dots")
