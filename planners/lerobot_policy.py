"""The controller as a LeRobot-style policy: `reset()` and `select_action(batch)`, without LeRobot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .mpc import MPC


class LeRobotPolicy:
    """Answers LeRobot's evaluation loops: batches of channel-first float images in, actions out.

    Args:
        controller: its goal is set with `controller.set_goal(image)`.
        camera: the camera's name in `observation.images.<camera>`; the only one there is when None.
        seed: of the search noise, for every episode.
    """

    def __init__(self, controller: MPC, camera: str | None = None, seed: int = 0) -> None:
        self.controller = controller
        self.camera = camera
        self.seed = seed

    def reset(self) -> None:
        """Begin a new episode."""
        self.controller.reset(seed=self.seed)

    def select_action(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch action"]:
        """The action to apply now, in env units; call once an env step.

        Args:
            batch: `observation.images.<camera>` (B, 3, H, W) float in [0, 1], and `observation.state` (B, P)
                if the model uses it.

        Raises:
            ValueError: the camera is missing, there are several and none was named, or the image's shape is
                another.
        """
        image = batch[self._image_key(batch)]
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise ValueError(
                f"The image has shape {tuple(image.shape)} and type {image.dtype}; give (B, 3, H, W) floats"
            )
        pixels = (image.detach() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        observation: dict[str, np.ndarray] = {"pixels": pixels.cpu().numpy()}
        if "observation.state" in batch:
            observation["proprio"] = batch["observation.state"].detach().cpu().numpy()
        return torch.from_numpy(self.controller.act(observation)).to(image.device)

    def _image_key(self, batch: Mapping[str, Tensor]) -> str:
        prefix = "observation.image"
        if self.camera is not None:
            key = f"{prefix}s.{self.camera}"
            if key not in batch:
                raise ValueError(f"No {key!r} in the batch; it holds {', '.join(sorted(batch))}")
            return key
        cameras = [name for name in batch if name == prefix or name.startswith(f"{prefix}s.")]
        if len(cameras) != 1:
            raise ValueError(
                f"The batch holds {len(cameras)} cameras ({', '.join(sorted(cameras)) or 'none'});"
                " name one with camera=..."
            )
        return cameras[0]
