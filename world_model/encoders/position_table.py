"""The encoders of V-JEPA 1 and I-JEPA: transformers whose position codes are a table in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import Block, PatchEmbed, layer_outputs


@dataclass
class PositionTableConfig:
    """Sizes of an encoder of V-JEPA 1 or I-JEPA.

    Attributes:
        width: token width.
        depth: transformer blocks.
        num_heads: attention heads a block.
        hidden: width inside a block's MLP.
        patch_size: height and width of a patch [px].
        tubelet_size: frames a patch spans; 0 is I-JEPA, whose patches have no time axis.
        num_tubelets: times that the table has; 1 for I-JEPA.
        grid_size: rows and columns that the table has.
    """

    width: int
    depth: int
    num_heads: int
    hidden: int
    patch_size: int
    tubelet_size: int
    num_tubelets: int
    grid_size: int

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.num_heads < 1 or self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")


class PositionTableEncoder(nn.Module):
    """Clips or images in, tokens out; for other sizes than the table's, it is interpolated as published.

    Source: V-JEPA, arXiv:2404.08471; I-JEPA, arXiv:2301.08243; their published code, whose numbers these are.
    """

    def __init__(self, config: PositionTableConfig) -> None:
        """Build with random weights and a table of zeros."""
        super().__init__()
        self.config = config
        width, places = config.width, config.num_tubelets * config.grid_size**2
        self.pos_embed = nn.Parameter(torch.zeros(1, places, width))
        self.patch_embed = PatchEmbed(width, config.patch_size, config.tubelet_size)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.hidden) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(
        self, pixel_values: Float[Tensor, "batch frame 3 height width"], layers: tuple[int, ...] = ()
    ) -> list[Float[Tensor, "batch token dim"]]:
        """Outputs of the blocks `layers` (0 is the embedding), or of the whole; a lone frame is a tubelet."""
        config = self.config
        if config.tubelet_size and pixel_values.shape[1] == 1:
            pixel_values = pixel_values.expand(-1, config.tubelet_size, -1, -1, -1)
        num_tubelets = pixel_values.shape[1] // (config.tubelet_size or 1)
        rows, columns = (side // config.patch_size for side in pixel_values.shape[-2:])
        tokens = self.patch_embed(pixel_values) + self._positions(num_tubelets, rows, columns)
        return layer_outputs(tokens, self.blocks, self.norm, layers)

    def _positions(self, num_tubelets: int, rows: int, columns: int) -> Float[Tensor, "1 token dim"]:
        """The table for this many times, rows and columns."""
        config = self.config
        times, side = config.num_tubelets, config.grid_size
        if (num_tubelets, rows, columns) == (times, side, side):
            return self.pos_embed
        table: Tensor = rearrange(self.pos_embed, "1 (t h w) d -> 1 d t h w", t=times, h=side)
        scale = (num_tubelets / times, rows / side, columns / side)
        if config.tubelet_size:
            table = F.interpolate(table, scale_factor=scale, mode="trilinear")
        else:
            table = F.interpolate(table.squeeze(2), scale_factor=scale[1:], mode="bicubic").unsqueeze(2)
        return rearrange(table, "1 d t h w -> 1 (t h w) d")


def position_table_config(
    state: Mapping[str, Tensor], num_heads: int, num_frames: int
) -> PositionTableConfig:
    """The sizes of the encoder that `state` holds.

    Args:
        state: tensors by the names of the published files, without `module.` and `backbone.` before them.
        num_heads: attention heads.
        num_frames: frames of the clips it was trained on; V-JEPA 1's published files have 16.

    Raises:
        ValueError: these are no such encoder's tensors, or its table does not fit `num_frames`.
    """
    try:
        patch, hidden = state["patch_embed.proj.weight"], state["blocks.0.mlp.fc1.weight"]
        places = state["pos_embed"].shape[1]
    except KeyError as error:
        raise ValueError(f"these are not the tensors of V-JEPA 1 or I-JEPA: {error} is missing") from None
    tubelet_size = patch.shape[2] if patch.ndim == 5 else 0
    num_tubelets = max(num_frames // tubelet_size, 1) if tubelet_size else 1
    side = isqrt(places // num_tubelets)
    if side == 0 or side**2 * num_tubelets != places:
        raise ValueError(
            f"its table of {places} positions is no {num_tubelets} square frames, which clips of "
            f"{num_frames} frames would have; give num_frames, the frames of the clips it was trained on"
        )
    return PositionTableConfig(
        width=patch.shape[0],
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        num_heads=num_heads,
        hidden=hidden.shape[0],
        patch_size=patch.shape[-1],
        tubelet_size=tubelet_size,
        num_tubelets=num_tubelets,
        grid_size=side,
    )
