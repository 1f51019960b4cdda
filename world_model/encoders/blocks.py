"""The transformer block that Meta's JEPA checkpoints share, under the names of their tensors."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .rotary import rotate


class Attention(nn.Module):
    """Multi-head self-attention, with or without rotary position codes."""

    def __init__(self, width: int, num_heads: int, *, bias: bool = True) -> None:
        """Build for tokens of `width`."""
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "batch token dim"],
        turn: tuple[Float[Tensor, "token head_dim"], Float[Tensor, "token head_dim"]] | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Mix tokens; `turn` holds the cosines and sines of their rotary angles."""
        q, k, v = rearrange(self.qkv(tokens), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))


class MLP(nn.Module):
    """Two linear maps with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        """Build for tokens of `width`."""
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Transform each token."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int, hidden: int, *, bias: bool = True) -> None:
        """Build for tokens of `width`, with `hidden` numbers inside the MLP."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads, bias=bias)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, hidden)

    def forward(
        self,
        tokens: Float[Tensor, "batch token dim"],
        turn: tuple[Float[Tensor, "token head_dim"], Float[Tensor, "token head_dim"]] | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Mix tokens, then transform each."""
        tokens = tokens + self.attn(self.norm1(tokens), turn)
        return tokens + self.mlp(self.norm2(tokens))


class PatchEmbed(nn.Module):
    """One token a patch: a convolution whose step is its size."""

    def __init__(self, width: int, patch_size: int, tubelet_size: int) -> None:
        """Build for tokens of `width`; with a `tubelet_size` of 0, of single images."""
        super().__init__()
        self.tubelet_size = tubelet_size
        size = (patch_size, patch_size)
        self.proj: nn.Conv2d | nn.Conv3d
        if tubelet_size:
            self.proj = nn.Conv3d(3, width, (tubelet_size, *size), (tubelet_size, *size))
        else:
            self.proj = nn.Conv2d(3, width, size, size)

    def forward(
        self, pixel_values: Float[Tensor, "batch frame 3 height width"]
    ) -> Float[Tensor, "batch token dim"]:
        """Tokens in the order (time, row, column)."""
        if self.tubelet_size:
            return rearrange(self.proj(pixel_values.transpose(1, 2)), "b d t h w -> b (t h w) d")
        return rearrange(self.proj(pixel_values.squeeze(1)), "b d h w -> b (h w) d")


def layer_outputs(
    embedded: Float[Tensor, "batch token dim"],
    blocks: nn.ModuleList,
    norm: nn.Module,
    layers: tuple[int, ...],
    turn: tuple[Float[Tensor, "token head_dim"], Float[Tensor, "token head_dim"]] | None = None,
) -> list[Float[Tensor, "batch token dim"]]:
    """Run `blocks`; give what each of `layers` puts out (0 is the input), or without any the normed end."""
    tokens, outputs = embedded, {0: embedded}
    for index, block in enumerate(blocks[: max(layers)] if layers else blocks, start=1):
        tokens = block(tokens, turn)
        if index in layers:
            outputs[index] = tokens
    return [outputs[index] for index in layers] if layers else [norm(tokens)]
