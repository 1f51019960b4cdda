"""The video vision transformer: frames become tubelet patches, patches become tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass
class ViTConfig:
    """Sizes of a video vision transformer.

    Attributes:
        image_size: height and width of the square input [px].
        patch_size: height and width of a patch [px]; divides `image_size`.
        tubelet_size: frames a patch spans.
        num_frames: longest clip [frames] that has position codes.
        width: token width; divisible by `num_heads` and by 2.
        depth: transformer blocks.
        num_heads: attention heads a block.
        mlp_ratio: hidden width of a block's MLP over `width`.
    """

    image_size: int = 96
    patch_size: int = 12
    tubelet_size: int = 2
    num_frames: int = 4
    width: int = 192
    depth: int = 4
    num_heads: int = 3
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        for name in ("image_size", "patch_size", "tubelet_size", "num_frames", "width", "depth", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}; "
                f"try {self.image_size // self.patch_size * self.patch_size or self.patch_size}"
            )
        if self.num_frames % self.tubelet_size:
            raise ValueError(
                f"num_frames {self.num_frames} is no multiple of tubelet_size {self.tubelet_size}"
            )
        if self.width % self.num_heads or self.width % 2:
            raise ValueError(f"width {self.width} must be even and a multiple of num_heads {self.num_heads}")

    @property
    def grid_size(self) -> int:
        """Patches along a side of a frame."""
        return self.image_size // self.patch_size


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, num_heads: int) -> None:
        """Build for tokens of `width` with `num_heads` heads of equal size."""
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Mix tokens."""
        q, k, v = rearrange(self.qkv(tokens), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        if (
            q.device.type == "cpu" and q.dtype == torch.bfloat16
        ):  # the fused kernel is four times slower there
            mixed = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1).to(v.dtype) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        """Build for tokens of `width`."""
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Mix tokens, then transform each."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


def sincos_positions(num_tubelets: int, grid_size: int, width: int) -> Float[Tensor, "token dim"]:
    """Fixed sine-cosine codes of (time, row, column), a third of the width each.

    Source: V-JEPA, arXiv:2404.08471, appendix on position embeddings.
    """
    axis_width = 2 * (width // 6)
    widths = (width - 2 * axis_width, axis_width, axis_width)
    codes = []
    for axis_positions, dim in zip(
        torch.meshgrid(
            torch.arange(num_tubelets), torch.arange(grid_size), torch.arange(grid_size), indexing="ij"
        ),
        widths,
        strict=True,
    ):
        frequencies = 10_000.0 ** (-torch.arange(dim // 2) / (dim / 2))
        angles = axis_positions.reshape(-1, 1) * frequencies
        codes.append(torch.cat([angles.sin(), angles.cos()], dim=1))
    return torch.cat(codes, dim=1)


def gather_tokens(
    tokens: Float[Tensor, "batch token dim"], index: Int[Tensor, "batch kept"]
) -> Float[Tensor, "batch kept dim"]:
    """The tokens at `index`, row by row."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class VideoViT(nn.Module):
    """A vision transformer over tubelets, with fixed position codes."""

    positions: Tensor

    def __init__(self, config: ViTConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        patch = (config.tubelet_size, config.patch_size, config.patch_size)
        self.patch_embed = nn.Conv3d(3, config.width, kernel_size=patch, stride=patch)
        num_tubelets = config.num_frames // config.tubelet_size
        positions = sincos_positions(num_tubelets, config.grid_size, config.width)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(
            Block(config.width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.apply(init_linear)

    def embed(
        self, pixel_values: Float[Tensor, "batch frame 3 height width"]
    ) -> Float[Tensor, "batch token dim"]:
        """Patches with their position codes, before any block; token order is (time, row, column)."""
        patches = self.patch_embed(pixel_values.transpose(1, 2))
        tokens = rearrange(patches, "b d t h w -> b (t h w) d")
        return tokens + self.positions[: tokens.shape[1]]

    def forward(
        self,
        pixel_values: Float[Tensor, "batch frame 3 height width"],
        visible: Int[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch kept dim"]:
        """Encode a clip; with `visible`, only these tokens go through the blocks."""
        tokens = self.embed(pixel_values)
        if visible is not None:
            tokens = gather_tokens(tokens, visible)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


def init_linear(module: nn.Module) -> None:
    """Truncated-normal weights (std .02) and zero biases, as in V-JEPA."""
    if isinstance(module, nn.Linear | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
