"""Transformer blocks over steps of tokens: full attention inside a step, causal between steps, and no mask.

A step's queries meet the keys of its own and earlier steps only, because no others are handed to them. With a
`FrameCache`, steps come one after another and earlier ones are not computed again.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .encoders.blocks import MLP
from .encoders.rotary import rotate
from .merged_attention import attention, merged_attention

Steps = Float[Tensor, "batch step slot width"]
Heads = Float[Tensor, "batch head length head_dim"]
Turn = tuple[Float[Tensor, "length head_dim"], Float[Tensor, "length head_dim"]]
"""Cosines and sines of the rotary angles of whole steps."""


class LayerCache:
    """One layer's keys and values of the steps seen so far.

    Attributes:
        shared: keys and values that all candidates of a row have in common, never copied for them.
        own: keys and values of the batch's own steps.
    """

    def __init__(self, shared: tuple[Tensor, Tensor] | None = None) -> None:
        """Begin with what is shared, and nothing else."""
        self.shared = shared
        self.own: tuple[Tensor, Tensor] | None = None

    def attend(self, query: Heads, key: Heads, value: Heads, tokens_per_step: int) -> Heads:
        """Append whole steps' keys and values, and attend to all there are, each step to no later one."""
        if self.own is not None:
            key, value = torch.cat([self.own[0], key], dim=2), torch.cat([self.own[1], value], dim=2)
        self.own = key, value
        past = key.shape[2] - query.shape[2]
        mixed = []
        for first in range(0, query.shape[2], tokens_per_step):
            last = first + tokens_per_step
            asked = query[:, :, first:last]
            seen = key[:, :, : past + last], value[:, :, : past + last]
            if self.shared is None:
                mixed.append(attention(asked, *seen))
            else:
                mixed.append(merged_attention(asked, *seen, *self.shared))
        return torch.cat(mixed, dim=2) if len(mixed) > 1 else mixed[0]


class FrameCache:
    """What a transformer keeps of the steps it has seen.

    Attributes:
        layers: one cache a layer.
        num_steps: steps seen.
    """

    def __init__(self, depth: int) -> None:
        """Begin with nothing seen."""
        self.layers = [LayerCache() for _ in range(depth)]
        self.num_steps = 0

    def branch(self) -> FrameCache:
        """A cache for any number of candidates a row that have these steps in common; nothing is copied."""
        branch = FrameCache(0)
        branch.layers = [LayerCache(layer.own) for layer in self.layers]
        branch.num_steps = self.num_steps
        return branch

    @property
    def num_bytes(self) -> int:
        """Memory of the batch's own keys and values, the shared ones left out [bytes]."""
        tensors = [tensor for layer in self.layers for tensor in layer.own or ()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Attention(nn.Module):
    """Multi-head attention; tensor names are those of the V-JEPA code."""

    def __init__(self, width: int, num_heads: int, head_dim: int, *, bias: bool = True) -> None:
        """Build `num_heads` heads of `head_dim`."""
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * num_heads * head_dim, bias=bias)
        self.proj = nn.Linear(num_heads * head_dim, width)

    def forward(self, steps: Steps, cache: LayerCache, turn: Turn | None) -> Steps:
        """Mix tokens of these steps and of those in the cache."""
        qkv = self.qkv(steps)
        query, key, value = rearrange(
            qkv, "b t s (three h d) -> three b h (t s) d", three=3, h=self.num_heads
        )
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        mixed = cache.attend(query, key, value, steps.shape[2])
        return self.proj(rearrange(mixed, "b h (t s) d -> b t s (h d)", t=steps.shape[1]))


class Block(nn.Module):
    """A pre-norm transformer block over steps."""

    def __init__(
        self, width: int, num_heads: int, head_dim: int, hidden: int, *, bias: bool = True, eps: float = 1e-6
    ) -> None:
        """Build for tokens of `width`; `hidden` is the MLP's."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, num_heads, head_dim, bias=bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, hidden)

    def forward(self, steps: Steps, cache: LayerCache, turn: Turn | None) -> Steps:
        """Mix tokens, then transform each."""
        steps = steps + self.attn(self.norm1(steps), cache, turn)
        changes = self.mlp(self.norm2(steps).flatten(1, 2))
        return steps + changes.unflatten(1, steps.shape[1:3])


def run_blocks(blocks: nn.ModuleList, steps: Steps, cache: FrameCache | None, turn: Turn | None) -> Steps:
    """Send steps through the blocks; a cache is extended by them.

    Args:
        blocks: of `Block`.
        steps: those after the ones in `cache`.
        cache: None if there are none before, and none will follow.
        turn: rotary positions of these steps; None for blocks without any.
    """
    cache = FrameCache(len(blocks)) if cache is None else cache
    for block, layer in zip(blocks, cache.layers, strict=True):
        steps = block(steps, layer, turn)
    cache.num_steps += steps.shape[1]
    return steps


def init_blocks(blocks: nn.ModuleList) -> None:
    """Truncated-normal weights (std .02), biases 0, and outputs scaled down with depth, as in V-JEPA."""
    for depth, block in enumerate(blocks, start=1):
        assert isinstance(block, Block)
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            block.attn.proj.weight.div_((2 * depth) ** 0.5)
            block.mlp.fc2.weight.div_((2 * depth) ** 0.5)
