"""The predictor of DINO-WM: a frame-causal transformer over patches that carry action and proprio.

Source: DINO-WM, arXiv:2411.04983. Two things differ from it. The context grows as steps are imagined, up
to `max_steps`, where the paper's slides: keys and values can then be kept, and nothing seen is forgotten. And
the predicted embedding of proprio, one a patch, is averaged over the patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .frame_causal import Block, Steps, init_blocks
from .token_predictor import Actions, Codes, States, TokenPredictor, Tokens


@dataclass
class DinoWMConfig:
    """Sizes of the predictor; the defaults but `residual` are the paper's.

    Attributes:
        token_dim: numbers an encoder token.
        grid_size: patches along a side of a frame.
        action_dim: numbers an action.
        state_dim: numbers of proprio; 0 for none.
        action_width: numbers of an embedded action; the paper tiles 10.
        state_width: numbers of embedded proprio.
        depth: blocks.
        num_heads: heads a block.
        head_dim: width of a head.
        mlp_width: hidden width of a block's MLP.
        max_steps: longest sequence of frames; each has position codes of its own.
        residual: predict the change of tokens and proprio, which begins at 0; False has the paper's output,
            that of a final norm.
    """

    token_dim: int = 384
    grid_size: int = 14
    action_dim: int = 2
    state_dim: int = 0
    action_width: int = 10
    state_width: int = 10
    depth: int = 6
    num_heads: int = 16
    head_dim: int = 64
    mlp_width: int = 2048
    max_steps: int = 16
    residual: bool = True

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        for name, value in vars(self).items():
            if value < 1 and name not in ("state_dim", "residual"):
                raise ValueError(f"{name} must be at least 1, got {value}")


class DinoWMPredictor(TokenPredictor):
    """A transformer over patches that carry action and proprio.

    A place and a step have a code each, which are added up; the paper has one for every place of every step.
    """

    def __init__(self, config: DinoWMConfig) -> None:
        """Build with random weights; a `residual` one predicts at first that nothing changes."""
        super().__init__()
        self.config = config
        self.token_dim, self.grid_size = config.token_dim, config.grid_size
        self.state_dim, self.max_steps = config.state_dim, config.max_steps
        self.tokens_per_step = config.grid_size**2
        state_width = config.state_width if config.state_dim else 0
        self.carried = config.token_dim + state_width
        width = self.carried + config.action_width
        self.action_encoder = nn.Linear(config.action_dim, config.action_width)
        if config.state_dim:
            self.state_encoder = nn.Linear(config.state_dim, state_width)
        self.places = nn.Parameter(torch.randn(config.grid_size**2, width))
        self.times = nn.Parameter(torch.zeros(config.max_steps, 1, width))
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.head_dim, config.mlp_width, bias=False, eps=1e-5)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.add_normalisers(config.action_dim, config.state_dim)
        init_blocks(self.blocks)
        if config.residual:
            self.change = nn.Linear(width, self.carried)
            nn.init.zeros_(self.change.weight)
            nn.init.zeros_(self.change.bias)

    def code(self, states: States) -> Codes:
        """The embedding of proprio."""
        return self.state_encoder(self.normalise_states(states))

    def embed(self, tokens: Tokens, actions: Actions, codes: Codes | None, first_step: int) -> Steps:
        """Patches, then proprio, then the action, side by side, plus positions."""
        tiled = [self.action_encoder(self.normalise_actions(actions))]
        if codes is not None:
            tiled.insert(0, codes)
        places = tokens.shape[2]
        parts = [self.standardise(tokens), *(part.unsqueeze(2).expand(-1, -1, places, -1) for part in tiled)]
        return torch.cat(parts, dim=-1) + self.places + self.times[first_step : first_step + tokens.shape[1]]

    def next_tokens(self, hidden: Steps, tokens: Tokens) -> Tokens:
        """The part of the output that stands where tokens do."""
        standard = self._output(hidden)[..., : self.token_dim] / self.token_scale
        return tokens + standard if self.config.residual else standard + self.token_offset

    def next_codes(self, hidden: Steps, actions: Actions, codes: Codes) -> Codes:
        """The part of the output that stands where proprio does."""
        following = self._output(hidden)[..., self.token_dim : self.carried].mean(dim=2)
        return codes + following if self.config.residual else following

    def _output(self, hidden: Steps) -> Float[Tensor, "batch step slot output"]:
        """Standardised tokens and codes, or their changes."""
        return self.change(self.norm(hidden)) if self.config.residual else self.norm(hidden)

    def token_loss(self, imagined: Tokens, true: Tokens) -> Float[Tensor, ""]:
        """Mean squared error."""
        return (imagined - true).square().mean()

    def code_loss(self, codes: Codes, states: States) -> Float[Tensor, ""]:
        """Mean squared error of embeddings; the true ones are not trained by it."""
        return (codes - self.code(states).detach()).square().mean()
