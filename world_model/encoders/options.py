"""What a user may ask of a published encoder besides its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class EncoderOptions:
    """Choices of `load_encoder`; None leaves what was published.

    Attributes:
        device: where it computes.
        dtype: "float32", "bfloat16" or "float16": what weights are held and multiplied in; tokens come out
            in float32 all the same.
        image_size: height and width of the input [px], a multiple of the patch size.
        crop_fraction: share of a frame's shortest edge that the central crop keeps; 1 keeps the whole square.
        layers: blocks whose outputs make the tokens, counted from 1, each layer-normed, side by side; by
            default the output of the whole encoder.
        num_heads: attention heads, where a `.pt` file of unusual width does not tell.
        num_frames: frames of the clips that a `.pt` file of V-JEPA 1 was trained on.
        entry: which entry of a `.pt` file to take, such as "target_encoder".
    """

    device: str = "cpu"
    dtype: str = "float32"
    image_size: int | None = None
    crop_fraction: float | None = None
    layers: Sequence[int] | None = None
    num_heads: int | None = None
    num_frames: int | None = None
    entry: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no encoder takes."""
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; it must be one of: {', '.join(DTYPES)}")
        for name in ("image_size", "num_heads", "num_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.layers is not None and not self.layers:
            raise ValueError("layers must name at least one block")
        try:
            torch.device(self.device)
        except RuntimeError:
            raise ValueError(f"Unknown device {self.device!r}; use cpu, cuda, cuda:1, mps, ...") from None

    def given(self) -> dict[str, Any]:
        """What differs from the defaults."""
        defaults = asdict(EncoderOptions())
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}

    def allow(self, name: str, *allowed: str) -> None:
        """Refuse options that mean nothing to the encoder `name`.

        Raises:
            ValueError: naming the first one.
        """
        for option in self.given():
            if option not in (*allowed, "device"):
                known = ", ".join((*allowed, "device"))
                raise ValueError(f"{option} does not apply to the encoder {name!r}; its options are: {known}")
