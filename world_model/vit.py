"""The video vision transformer: frames become tubelet patches, patches become tokens."""

from __future__ import annotations

from collections.abc import Iterator
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
        stem_width: channels of a patch's small patches, between two layers of its embedding; 0 for one
            linear map of the whole patch.
        stem_patch: height and width of a small patch [px]; divides `patch_size`.
        standardise: give each clip's channels zero mean and unit variance first, so that its light counts
            little.
        whole_after: block after which every token is also told what its whole frame shows; 0 for never.
        whole_dim: channels of a token that this takes.
        whole_width: its hidden width.
    """

    image_size: int = 96
    patch_size: int = 12
    tubelet_size: int = 2
    num_frames: int = 4
    width: int = 192
    depth: int = 4
    num_heads: int = 3
    mlp_ratio: float = 4.0
    stem_width: int = 0
    stem_patch: int = 4
    standardise: bool = False
    whole_after: int = 0
    whole_dim: int = 24
    whole_width: int = 256

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if not 0 <= self.whole_after <= self.depth:
            raise ValueError(f"whole_after must be from 0 to {self.depth} (depth), got {self.whole_after}")
        for name in (
            "image_size", "patch_size", "tubelet_size", "num_frames", "width", "depth", "num_heads",
            "whole_dim", "whole_width",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}; "
                f"try {self.image_size // self.patch_size * self.patch_size or self.patch_size}"
            )
        if (
            self.stem_width < 0
            or self.stem_patch < 1
            or (self.stem_width and self.patch_size % self.stem_patch)
        ):
            raise ValueError(
                f"stem_width must be at least 0, and stem_patch divide patch_size {self.patch_size}; "
                f"got {self.stem_width} and {self.stem_patch}"
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


_LOUD = 2.0
"""How much larger than usual a `WholeFrame`'s first weights are, so that it is heard among the tokens."""


class WholeFrame(nn.Module):
    """Tells every token what its whole frame shows, by weights of each place's own.

    Attention finds where something is only by learning to point there; in frames of a fixed camera a matrix
    over all places reads it ten times sooner. Places that are hidden count as nothing.
    """

    def __init__(self, config: ViTConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.num_places = config.grid_size**2
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.reduce = nn.Linear(config.width, config.whole_dim)
        self.gather = nn.Linear(self.num_places * config.whole_dim, config.whole_width)
        self.spread = nn.Linear(config.whole_width, config.width)
        with torch.no_grad():
            self.gather.weight.mul_(_LOUD)
            self.spread.weight.mul_(2 * _LOUD)

    def forward(
        self, tokens: Float[Tensor, "batch kept dim"], index: Int[Tensor, "batch kept"] | None = None
    ) -> Float[Tensor, "batch kept dim"]:
        """Add to tokens what their frames show; `index` says which tokens they are, all when None."""
        seen = F.gelu(self.reduce(self.norm(tokens)))
        if index is None:
            frames = seen.unflatten(1, (-1, self.num_places))
            return (tokens.unflatten(1, frames.shape[1:3]) + self._told(frames)[:, :, None]).flatten(1, 2)
        num_frames = int(index.max()) // self.num_places + 1
        places = seen.new_zeros(len(seen), num_frames * self.num_places, seen.shape[-1])
        places = places.scatter(1, index.unsqueeze(-1).expand_as(seen), seen)
        told = self._told(places.unflatten(1, (num_frames, self.num_places)))
        return tokens + gather_tokens(told, index // self.num_places)

    def _told(self, frames: Float[Tensor, "batch frame place dim"]) -> Float[Tensor, "batch frame out"]:
        return self.spread(F.gelu(self.gather(frames.flatten(2))))


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
        self.patch_embed = _stem(config) if config.stem_width else nn.Conv3d(3, config.width, patch, patch)
        num_tubelets = config.num_frames // config.tubelet_size
        positions = sincos_positions(num_tubelets, config.grid_size, config.width)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(
            Block(config.width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.apply(init_linear)
        if config.stem_width:
            for part in self.patch_embed.modules():
                if isinstance(part, nn.Conv3d):
                    nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
        self.whole = WholeFrame(config) if config.whole_after else None

    def embed(
        self, pixel_values: Float[Tensor, "batch frame 3 height width"]
    ) -> Float[Tensor, "batch token dim"]:
        """Patches with their position codes, before any block; token order is (time, row, column)."""
        clips = pixel_values.transpose(1, 2)
        if self.config.standardise:
            centred = clips - clips.mean(dim=(2, 3, 4), keepdim=True)
            clips = centred / (centred.square().mean(dim=(2, 3, 4), keepdim=True) + 1e-2).sqrt()
        patches = self.patch_embed(clips)
        tokens = rearrange(patches, "b d t h w -> b (t h w) d")
        return tokens + self.positions[: tokens.shape[1]]

    def forward(
        self,
        pixel_values: Float[Tensor, "batch frame 3 height width"],
        visible: Int[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch kept dim"]:
        """Encode a clip; with `visible`, only these tokens go through the blocks."""
        *_, last = self.layers(pixel_values, visible)
        return self.norm(last)

    def layers(
        self,
        pixel_values: Float[Tensor, "batch frame 3 height width"],
        visible: Int[Tensor, "batch kept"] | None = None,
        depth: int | None = None,
    ) -> Iterator[Float[Tensor, "batch kept dim"]]:
        """Tokens after the patch embedding and after each block, up to `depth` of them."""
        tokens = self.embed(pixel_values)
        if visible is not None:
            tokens = gather_tokens(tokens, visible)
        yield tokens
        for number, block in enumerate(self.blocks[:depth], start=1):
            tokens = block(tokens)
            if self.whole is not None and number == self.config.whole_after:
                tokens = self.whole(tokens, visible)
            yield tokens


def _stem(config: ViTConfig) -> nn.Sequential:
    """Embedding of patches in two layers; patches see nothing of one another, so that they can be hidden.

    Source: the hMLP stem of Touvron et al., arXiv:2203.09795.
    """
    small = (config.tubelet_size, config.stem_patch, config.stem_patch)
    rest = (1, config.patch_size // config.stem_patch, config.patch_size // config.stem_patch)
    return nn.Sequential(
        nn.Conv3d(3, config.stem_width, small, small),
        nn.GELU(),
        nn.Conv3d(config.stem_width, config.width, rest, rest),
    )


def init_linear(module: nn.Module) -> None:
    """Truncated-normal weights (std .02) and zero biases, as in V-JEPA."""
    if isinstance(module, nn.Linear | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
