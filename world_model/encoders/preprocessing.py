"""What an encoder does to frames before it looks at them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

Frames = UInt8[np.ndarray, "batch time height width 3"] | UInt8[Tensor, "batch time height width 3"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_FRACTION = 224 / 256
"""Side of the central crop over the shortest edge: the usual evaluation crop of ImageNet and V-JEPA."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the centre, scale.

    Attributes:
        image_size: height and width of what comes out [px].
        resize: length that the shortest edge gets before the crop [px]; at least `image_size`.
        squash: resize both edges to `image_size` instead, whatever the frame's shape, and crop nothing.
        interpolation: "bilinear" or "bicubic", antialiased.
        mean: of red, green and blue, on a scale from 0 to 1.
        std: likewise.
    """

    image_size: int
    resize: int
    squash: bool = False
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if not 1 <= self.image_size <= self.resize:
            raise ValueError(
                f"a crop of {self.image_size} px cannot be cut from frames of {self.resize} px: "
                "resize must be at least image_size"
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation is {self.interpolation!r}; it must be 'bilinear' or 'bicubic'")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must be three numbers each, std above 0")

    def resized(self, image_size: int | None, crop_fraction: float | None) -> Preprocessing:
        """The same for another size, or with another share of the shortest edge kept (1 keeps all of it)."""
        fraction = self.image_size / self.resize if crop_fraction is None else crop_fraction
        if not 0 < fraction <= 1:
            raise ValueError(f"crop_fraction must be above 0 and at most 1, got {crop_fraction}")
        size = image_size or self.image_size
        return replace(self, image_size=size, resize=max(size, int(size / fraction)))

    def __call__(
        self, frames: Frames, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "batch time 3 size size"]:
        """Pixel values of frames of any size."""
        if isinstance(frames, np.ndarray):
            frames = np.require(frames, requirements="W")  # torch warns of arrays that it may not write
        tensor = torch.as_tensor(frames, device=device)
        if tensor.ndim != 5 or tensor.shape[-1] != 3 or tensor.dtype != torch.uint8:
            raise ValueError(
                "frames must be (batch, time, height, width, 3) uint8, "
                f"got {tuple(tensor.shape)} {tensor.dtype}"
            )
        pixels = tensor.permute(0, 1, 4, 2, 3).flatten(0, 1).float()
        height, width = pixels.shape[-2:]
        if self.squash:
            size = (self.image_size, self.image_size)
        elif height <= width:
            size = (self.resize, int(self.resize * width / height))
        else:
            size = (int(self.resize * height / width), self.resize)
        if size != (height, width):
            pixels = F.interpolate(pixels, size, mode=self.interpolation, antialias=True, align_corners=False)
            pixels = pixels.clamp(0, 255)
        top, left = (round((edge - self.image_size) / 2) for edge in size)
        pixels = pixels[..., top : top + self.image_size, left : left + self.image_size]
        mean, std = (torch.tensor(each, device=device).view(3, 1, 1) * 255 for each in (self.mean, self.std))
        return ((pixels - mean) / std).unflatten(0, tensor.shape[:2])
