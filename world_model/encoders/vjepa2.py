"""The encoders of V-JEPA 2, 2.1 and 2-AC, in the layout of their published `.pt` files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..weights_io import load_weights
from .blocks import Block, PatchEmbed, layer_outputs
from .rotary import grid_positions, rotary_angles

_PRETRAINED_GRID_PIXELS = {14: 252, 16: 256}


@dataclass
class VJEPA2Config:
    """Sizes of a V-JEPA 2 encoder.

    Attributes:
        width: token width.
        depth: transformer blocks.
        num_heads: attention heads a block.
        hidden: width inside a block's MLP.
        patch_size: height and width of a patch [px].
        tubelet_size: frames a patch spans.
        version: "2" (also 2-AC) or "2.1", which differ in more than weights.
    """

    width: int
    depth: int
    num_heads: int
    hidden: int
    patch_size: int = 16
    tubelet_size: int = 2
    version: str = "2"

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.version not in ("2", "2.1"):
            raise ValueError(f"version is {self.version!r}; V-JEPA 2 encoders are of version '2' or '2.1'")
        if self.num_heads < 1 or self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")
        if self.version == "2.1" and self.patch_size not in _PRETRAINED_GRID_PIXELS:
            raise ValueError(f"patch_size is {self.patch_size}; V-JEPA 2.1 has patches of 14 or 16 px")


class VJEPA2Encoder(nn.Module):
    """Clips of any multiple of the tubelet and any multiple of the patch in, tokens out.

    Version 2.1 differs from 2 in five ways: paired rotary angles, rows and columns stretched to the grid of
    256 px whatever the image's size, a code for "video" or "image" added to every token, an own patch
    embedding for lone frames, and the last of four norms as the output norm.

    Source: arXiv:2506.09985; the published code of V-JEPA 2 and 2.1, whose numbers these are.
    """

    def __init__(self, config: VJEPA2Config) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embed = PatchEmbed(width, config.patch_size, config.tubelet_size)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.hidden) for _ in range(config.depth)
        )
        if config.version == "2.1":
            self.patch_embed_img = PatchEmbed(width, config.patch_size, 1)
            self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, width))
            self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, width))
            self.norms_block = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(4))
        else:
            self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(
        self, pixel_values: Float[Tensor, "batch frame 3 height width"], layers: tuple[int, ...] = ()
    ) -> list[Float[Tensor, "batch token dim"]]:
        """Outputs of the blocks `layers` (0 is the patch embedding), or of the whole encoder.

        A lone frame is a still tubelet to version 2 and an image to version 2.1.
        """
        config, (_, num_frames, _, height, width) = self.config, pixel_values.shape
        lone = num_frames == 1
        if lone and config.version == "2":
            pixel_values = pixel_values.expand(-1, config.tubelet_size, -1, -1, -1)
        num_tubelets = 1 if lone else num_frames // config.tubelet_size
        rows, columns = height // config.patch_size, width // config.patch_size
        if config.version == "2.1":
            tokens = self.patch_embed_img(pixel_values) if lone else self.patch_embed(pixel_values)
            tokens = tokens + (self.img_mod_embed if lone else self.video_mod_embed)
            norm = self.norms_block[-1]
        else:
            tokens, norm = self.patch_embed(pixel_values), self.norm
        turn = self._turn(num_tubelets, rows, columns, tokens)
        return layer_outputs(tokens, self.blocks, norm, layers, turn)

    def _turn(self, num_tubelets: int, rows: int, columns: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary angles."""
        config = self.config
        positions = grid_positions(num_tubelets, rows, columns, like.device)
        if config.version == "2.1":
            last = _PRETRAINED_GRID_PIXELS[config.patch_size] // config.patch_size - 1
            stretch = torch.tensor([1, last / max(rows - 1, 1), last / max(columns - 1, 1)])
            positions = positions * stretch.to(like.device)[:, None]
        head_dim = config.width // config.num_heads
        angles = rotary_angles(positions, head_dim, interleaved=config.version == "2.1")
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def vjepa2_config(state: Mapping[str, Tensor], num_heads: int) -> VJEPA2Config:
    """The sizes of the encoder that `state` holds; all but the heads can be read from it.

    Args:
        state: tensors by the names of the published files, without `module.` and `backbone.` before them.
        num_heads: attention heads; 12, 16, 16, 22 and 26 for ViT-B, L, H, g and G.

    Raises:
        ValueError: these are not an encoder's tensors, or the heads do not divide its width.
    """
    try:
        patch, hidden = state["patch_embed.proj.weight"], state["blocks.0.mlp.fc1.weight"]
        width, _, tubelet_size, patch_size, _ = patch.shape
    except (KeyError, ValueError) as error:
        raise ValueError(f"these are not the tensors of a V-JEPA 2 encoder: {error}") from None
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    return VJEPA2Config(
        width=width,
        depth=depth,
        num_heads=num_heads,
        hidden=hidden.shape[0],
        patch_size=patch_size,
        tubelet_size=tubelet_size,
        version="2.1" if "video_mod_embed" in state else "2",
    )


def build_vjepa2(
    state: Mapping[str, Tensor], num_heads: int, source: str | Path = "the checkpoint"
) -> VJEPA2Encoder:
    """The encoder that `state` holds, with its weights, frozen and in evaluation mode.

    A `pos_embed` in the file is left alone: V-JEPA 2 has rotary codes instead.

    Args:
        state: as for `vjepa2_config`.
        num_heads: attention heads.
        source: the file, for messages.

    Raises:
        ValueError: as `vjepa2_config`, or naming the first tensor that is missing, unknown or misshapen.
    """
    with torch.device("meta"):
        encoder = VJEPA2Encoder(vjepa2_config(state, num_heads))
    encoder.to_empty(device="cpu")
    load_weights(encoder, {name: t for name, t in state.items() if name != "pos_embed"}, source)
    return encoder.eval().requires_grad_(False)
