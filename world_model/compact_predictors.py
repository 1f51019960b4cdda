"""Predictors of compact latents: a residual MLP, gated recurrent units and a causal transformer.

All have one call, `predictor(context (B, history, D), actions (B, steps, A)) -> (B, steps, D)`, give the
change of a latent, and have an output of zero at first: an untrained one imagines that nothing moves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .compact_config import CompactConfig, PredictorKind
from .ensemble import EnsemblePredictor

Context = Float[Tensor, "batch history latent"]
Actions = Float[Tensor, "batch step action"]
Imagined = Float[Tensor, "batch step latent"]


def make_predictor(config: CompactConfig, action_dim: int, proprio_dim: int = 0) -> nn.Module:
    """The predictor of `config`, or its ensemble of them, for so many numbers of action a model step.

    With proprio, so many numbers more follow `config.latent_dim` in each latent.
    """
    config = replace(config, latent_dim=config.latent_dim + proprio_dim, keypoints=0)
    kinds: dict[PredictorKind, type[nn.Module]] = {
        PredictorKind.mlp: CompactPredictor,
        PredictorKind.gated: GatedPredictor,
        PredictorKind.gru: GRUPredictor,
        PredictorKind.transformer: TransformerPredictor,
    }
    kind = kinds[config.predictor]
    if config.ensemble == 1:
        return kind(config, action_dim)
    return EnsemblePredictor([kind(config, action_dim) for _ in range(config.ensemble)])


def fit_scale(predictor: nn.Module, latents: Float[Tensor, "row latent"]) -> None:
    """Tell a gated predictor, or each of an ensemble, how much each number of a latent varies."""
    for module in predictor.modules():
        if isinstance(module, GatedPredictor):
            module.fit_scale(latents)


def scale_of(predictor: nn.Module) -> Tensor | float:
    """What one number of a latent is divided by before errors of all of them are compared; 1 if not gated."""
    return next((m.scale for m in predictor.modules() if isinstance(m, GatedPredictor)), 1.0)


class ResidualMLP(nn.Module):
    """A linear map plus a residual MLP: close to linear dynamics at the start of training."""

    def __init__(self, in_dim: int, width: int, depth: int, out_dim: int) -> None:
        """Build `depth` hidden layers of `width`."""
        super().__init__()
        self.skip = nn.Linear(in_dim, out_dim, bias=False)
        self.enter = nn.Linear(in_dim, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, out_dim)
        nn.init.zeros_(self.skip.weight)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, inputs: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Map the last axis."""
        hidden = F.silu(self.enter(inputs))
        for layer in self.hidden:
            hidden = hidden + F.silu(layer(hidden))
        return self.leave(hidden) + self.skip(inputs)


class GatedMLP(nn.Module):
    """A linear map plus gated residual layers, each a product of two linear maps of what came before.

    How an object turns is how far it is pushed times where, in a frame that turned with it. Sums of units
    come near such products slowly: with push_t's true positions for latents, the T's turn five steps ahead
    was 15 degrees off (median) after 800 steps of training, and here 7.

    Source: Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202 (SwiGLU).
    """

    def __init__(self, in_dim: int, width: int, depth: int, out_dim: int) -> None:
        """Build `depth` gated layers of `width`."""
        super().__init__()
        self.skip = nn.Linear(in_dim, out_dim, bias=False)
        self.enter = nn.Linear(in_dim, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.mixers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, out_dim)
        for tensor in (self.skip.weight, self.leave.weight, self.leave.bias):
            nn.init.zeros_(tensor)

    def forward(self, inputs: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Map the last axis."""
        hidden = self.enter(inputs)
        for norm, gate, mix in zip(self.norms, self.gates, self.mixers, strict=True):
            one, other = gate(norm(hidden)).chunk(2, dim=-1)
            hidden = hidden + mix(F.silu(one) * other)
        return self.leave(hidden) + self.skip(inputs)


class CompactPredictor(nn.Module):
    """The next latent from the last few and an action: its change, from the latest and its differences."""

    layers: type[ResidualMLP | GatedMLP] = ResidualMLP

    def __init__(self, config: CompactConfig, action_dim: int) -> None:
        """Build with an output of zero: at first nothing moves."""
        super().__init__()
        self.history = config.history
        in_dim = config.history * config.latent_dim + action_dim
        self.net = self.layers(in_dim, config.predictor_width, config.predictor_depth, config.latent_dim)

    def forward(self, context: Context, actions: Actions) -> Imagined:
        """Imagine, step by step, the latents that follow `context` under normalised `actions`."""
        latest = context[:, -1]
        changes = list((context[:, 1:] - context[:, :-1]).unbind(1))
        imagined = []
        for step in range(actions.shape[1]):
            change = self.net(torch.cat([latest, *changes, actions[:, step]], dim=-1))
            latest = latest + change
            changes = [*changes[1:], change] if changes else changes
            imagined.append(latest)
        return torch.stack(imagined, dim=1)


class GatedPredictor(CompactPredictor):
    """The same of gated layers, to which every number of a latent is as large as any other.

    Numbers that vary little, as those of an object's turn beside those of its place, are as hard to imagine
    as any, and matter as much to what follows.
    """

    layers = GatedMLP
    scale: Tensor

    def __init__(self, config: CompactConfig, action_dim: int) -> None:
        """Build with an output of zero, for latents of unit variance: see `fit_scale`."""
        super().__init__(config, action_dim)
        self.register_buffer("scale", torch.ones(config.latent_dim))

    def fit_scale(self, latents: Float[Tensor, "row latent"]) -> None:
        """Take the standard deviation of each number."""
        self.scale.copy_(latents.std(dim=0).clamp(min=1e-6))

    def forward(self, context: Context, actions: Actions) -> Imagined:
        """Imagine, step by step, the latents that follow `context` under normalised `actions`."""
        return super().forward(context / self.scale, actions) * self.scale


class GRUPredictor(nn.Module):
    """Gated recurrent units whose memory begins with what the context's latents say of motion.

    A step sees the latest latent, its last change and the action; the memory is never read anew from the
    latents, so that a longer history costs once a rollout.
    """

    def __init__(self, config: CompactConfig, action_dim: int) -> None:
        """Build with an output of zero: at first nothing moves."""
        super().__init__()
        width, dim = config.predictor_width, config.latent_dim
        in_dim = 2 * dim + action_dim
        self.begin = nn.Linear(config.history * dim, config.predictor_depth * width)
        self.cells = nn.ModuleList(
            nn.GRUCell(width if layer else in_dim, width) for layer in range(config.predictor_depth)
        )
        self.skip = nn.Linear(in_dim, dim, bias=False)
        self.leave = nn.Linear(width, dim)
        for tensor in (self.skip.weight, self.leave.weight, self.leave.bias):
            nn.init.zeros_(tensor)

    def forward(self, context: Context, actions: Actions) -> Imagined:
        """Imagine, step by step, the latents that follow `context` under normalised `actions`."""
        latest = context[:, -1]
        changes = context[:, 1:] - context[:, :-1]
        change = changes[:, -1] if changes.shape[1] else torch.zeros_like(latest)
        seen = torch.cat([latest, changes.flatten(1)], dim=-1)
        memory = list(torch.tanh(self.begin(seen)).float().chunk(len(self.cells), dim=-1))
        imagined = []
        for step in range(actions.shape[1]):
            inputs = torch.cat([latest, change, actions[:, step]], dim=-1)
            above = inputs
            for layer, cell in enumerate(self.cells):
                memory[layer] = cell(above, memory[layer].to(above))
                above = memory[layer]
            change = (self.leave(above) + self.skip(inputs)).to(latest)
            latest = latest + change
            imagined.append(latest)
        return torch.stack(imagined, dim=1)


class TransformerPredictor(nn.Module):
    """Causal attention over the last `history` latents, each block scaled, shifted and gated by the action.

    A step goes through the network once: the keys and values of the steps before it are kept, those of the
    last `history - 1`. Where a key lies in the window is told by a learned bias a head and distance, so that
    a plan may be longer than any rollout in training. Actions before the first imagined step are not known,
    and are one learned code.

    Source: LeWorldModel, arXiv:2603.19312 (AdaLN-zero of actions, causal, history 3), there on 192 numbers a
    latent in 6 layers with dropout. Ours also sees a latent's last change, has a linear path beside it and
    gives the change.
    """

    def __init__(self, config: CompactConfig, action_dim: int) -> None:
        """Build with an output of zero: at first nothing moves."""
        super().__init__()
        width, dim = config.predictor_width, config.latent_dim
        self.history = config.history
        self.enter = nn.Linear(2 * dim, width)
        self.act = nn.Sequential(nn.Linear(action_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.unknown_action = nn.Parameter(torch.zeros(width))
        blocks = [
            _ActionBlock(width, config.predictor_heads, config.history) for _ in range(config.predictor_depth)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.skip = nn.Linear(2 * dim + action_dim, dim, bias=False)
        self.leave = nn.Linear(width, dim)
        for tensor in (self.skip.weight, self.leave.weight, self.leave.bias):
            nn.init.zeros_(tensor)

    def forward(self, context: Context, actions: Actions) -> Imagined:
        """Imagine, step by step, the latents that follow `context` under normalised `actions`."""
        blocks: list[Any] = list(self.blocks)
        known = F.silu(self.act(actions))
        unknown = F.silu(self.unknown_action).expand(len(actions), 1, -1)
        known_codes = [block.modulate(known) for block in blocks]
        unknown_codes = [block.modulate(unknown) for block in blocks]
        changes = F.pad(context[:, 1:] - context[:, :-1], (0, 0, 1, 0))
        kept: list[_Kept] = [([], []) for _ in blocks]
        for position in range(context.shape[1] - 1):
            hidden = self.enter(torch.cat([context[:, position], changes[:, position]], dim=-1))
            for block, codes, memory in zip(blocks, unknown_codes, kept, strict=True):
                hidden = block(hidden, codes[:, 0], memory)
        latest, change = context[:, -1], changes[:, -1]
        imagined = []
        for step in range(actions.shape[1]):
            inputs = torch.cat([latest, change], dim=-1)
            hidden = self.enter(inputs)
            for block, codes, memory in zip(blocks, known_codes, kept, strict=True):
                hidden = block(hidden, codes[:, step], memory)
            linear = self.skip(torch.cat([inputs, actions[:, step]], dim=-1))
            change = (self.leave(self.norm(hidden)) + linear).to(latest)
            latest = latest + change
            imagined.append(latest)
        return torch.stack(imagined, dim=1)


_Kept = tuple[list[Tensor], list[Tensor]]
"""Keys and values (B, head, dim) of the steps before, the oldest first."""


class _ActionBlock(nn.Module):
    """Attention and an MLP, scaled, shifted and gated by what an action is coded as; the gates begin at 0."""

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        """Build for a window of so many steps, the newest included."""
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attend = nn.Linear(width, 3 * width)
        self.distance_bias = nn.Parameter(torch.zeros(window, num_heads))
        self.merge = nn.Linear(width, width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.modulate = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(
        self, hidden: Float[Tensor, "batch width"], codes: Float[Tensor, "batch six_width"], kept: _Kept
    ) -> Float[Tensor, "batch width"]:
        """One step; its key and value join those kept, and the oldest leave the window."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = codes.chunk(6, dim=-1)
        parts = self.attend(self.norm(hidden) * (1 + scale) + shift)
        query, key, value = parts.unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        keys, values = kept
        for memory, new in ((keys, key), (values, value)):
            memory.append(new)
            del memory[: -self.window]
        along = torch.stack(keys, dim=1)
        scores = (query.unsqueeze(1) * along).sum(-1) * key.shape[-1] ** -0.5
        bias = self.distance_bias[: len(keys)].flip(0)
        weights = (scores + bias).softmax(dim=1).unsqueeze(-1)
        seen = (weights * torch.stack(values, dim=1)).sum(1).flatten(1)
        hidden = hidden + gate * self.merge(seen)
        widened = F.gelu(self.widen(self.norm(hidden) * (1 + mlp_scale) + mlp_shift))
        return hidden + mlp_gate * self.narrow(widened)
