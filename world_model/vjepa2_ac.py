"""The action-conditioned predictor of V-JEPA 2: a step is an action, a pose and the patches of a frame.

Source: V-JEPA 2, arXiv:2506.09985, section on the action-conditioned world model; tensor names are those of
the published weights. Ours builds no mask, keeps keys and values, and has two options of its own, both off in
published weights: `residual` and a learned next pose.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .encoders.rotary import grid_positions, rotary_angles
from .frame_causal import Block, Steps, Turn, init_blocks
from .pose import next_gripper_pose
from .token_predictor import Actions, Codes, States, TokenPredictor, Tokens


class NextState(StrEnum):
    """Where the pose of an imagined step comes from."""

    gripper = "gripper"
    """Pose and action of a gripper, 7 numbers each, composed as in the paper."""
    add = "add"
    """Pose plus action, number by number."""
    learned = "learned"
    """Predicted, from the output at the pose's token."""


@dataclass
class VJEPA2ACConfig:
    """Sizes of the predictor; the published ones are in brackets.

    Attributes:
        token_dim: numbers an encoder token [1408].
        grid_size: patches along a side of a frame [16].
        action_dim: numbers an action [7].
        state_dim: numbers of proprio, 0 for none: a step then has no token for it [7].
        width: of the predictor's tokens [1024].
        depth: blocks [24].
        num_heads: heads a block [16].
        mlp_ratio: hidden width of a block's MLP over `width` [4].
        max_steps: longest sequence of frames [num_frames / tubelet].
        next_state: how the pose goes on ["gripper"].
        residual: predict the change of the tokens, which begins at 0, and give each place a learned code,
            which tokens that are seen as deviations from what is usual there have lost [False].
    """

    token_dim: int = 1408
    grid_size: int = 16
    action_dim: int = 7
    state_dim: int = 7
    width: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    max_steps: int = 32
    next_state: NextState = NextState.gripper
    residual: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        for name in ("token_dim", "grid_size", "action_dim", "width", "depth", "num_heads", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"width {self.width} must be a multiple of twice num_heads {self.num_heads}: "
                "rotary positions need heads of even width"
            )
        sizes = (self.action_dim, self.state_dim)
        if self.state_dim and self.next_state is NextState.gripper and sizes != (7, 7):
            raise ValueError(f"next_state 'gripper' needs 7 actions and 7 numbers of proprio, got {sizes}")
        if self.state_dim and self.next_state is NextState.add and self.action_dim != self.state_dim:
            raise ValueError(f"next_state 'add' needs as many actions as numbers of proprio, got {sizes}")


class VJEPA2ACPredictor(TokenPredictor):
    """A transformer over (action, pose, patches) of each step.

    It takes layer-normed tokens. `forward` gives tokens before the layer norm, as the published code does;
    `advance` and `imagine` give them normed.
    """

    def __init__(self, config: VJEPA2ACConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        self.token_dim, self.grid_size = config.token_dim, config.grid_size
        self.state_dim, self.max_steps = config.state_dim, config.max_steps
        self.num_conditions = 2 if config.state_dim else 1
        self.tokens_per_step = self.num_conditions + config.grid_size**2
        width, head_dim = config.width, config.width // config.num_heads
        self.predictor_embed = nn.Linear(config.token_dim, width)
        self.action_encoder = nn.Linear(config.action_dim, width)
        if config.state_dim:
            self.state_encoder = nn.Linear(config.state_dim, width)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, head_dim, int(width * config.mlp_ratio))
            for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor_proj = nn.Linear(width, config.token_dim)
        self.add_normalisers(config.action_dim, config.state_dim)
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        init_blocks(self.blocks)
        if config.residual:
            nn.init.zeros_(self.predictor_proj.weight)
            self.places = nn.Parameter(0.5 * torch.randn(config.grid_size**2, width))
        if config.state_dim and config.next_state is NextState.learned:
            self.state_head = nn.Linear(width, config.state_dim)
            nn.init.zeros_(self.state_head.weight)
            nn.init.zeros_(self.state_head.bias)

    def code(self, states: States) -> Codes:
        """The pose itself, in the units of the env."""
        return states

    def turn(self, first_step: int, num_steps: int) -> Turn:
        """Rotary positions of whole steps; action and pose have a time alone."""
        device, head_dim = self.action_offset.device, self.config.width // self.config.num_heads
        angles = []
        for step in range(first_step, first_step + num_steps):
            places = grid_positions(1, self.grid_size, self.grid_size, device)
            places[0] = step
            time_alone = places[:1, : self.num_conditions]
            angles += [rotary_angles(part, head_dim, interleaved=False) for part in (time_alone, places)]
        turn = torch.cat(angles)
        return turn.cos().to(self.action_offset.dtype), turn.sin().to(self.action_offset.dtype)

    def embed(self, tokens: Tokens, actions: Actions, codes: Codes | None, first_step: int) -> Steps:
        """Action, pose and patches, in this order."""
        parts = [self.action_encoder(self.normalise_actions(actions)).unsqueeze(2)]
        if codes is not None:
            parts.append(self.state_encoder(self.normalise_states(codes)).unsqueeze(2))
        patches = self.predictor_embed(self.standardise(tokens))
        return torch.cat([*parts, patches + self.places if self.config.residual else patches], dim=2)

    def next_tokens(self, hidden: Steps, tokens: Tokens) -> Tokens:
        """Tokens of the frames that follow, before the layer norm."""
        change = self.predictor_proj(self.predictor_norm(hidden[:, :, self.num_conditions :]))
        return tokens + change / self.token_scale if self.config.residual else change

    def feed_on(self, tokens: Tokens) -> Tokens:
        """Layer-normed tokens: so are the targets."""
        return normed(tokens)

    def next_codes(self, hidden: Steps, actions: Actions, codes: Codes) -> Codes:
        """The poses that follow."""
        match self.config.next_state:
            case NextState.gripper:
                return next_gripper_pose(codes, actions)
            case NextState.add:
                return codes + actions
            case _:
                change = self.state_head(self.predictor_norm(hidden[:, :, self.num_conditions - 1]))
                return codes + change / self.state_scale

    def token_loss(self, imagined: Tokens, true: Tokens) -> Float[Tensor, ""]:
        """Mean absolute error."""
        return (imagined - true).abs().mean()

    def code_loss(self, codes: Codes, states: States) -> Float[Tensor, ""]:
        """Mean absolute error in standard deviations of the log; 0 unless poses are learned."""
        if self.config.next_state is not NextState.learned:
            return codes.new_zeros(())
        return ((codes - states) * self.state_scale).abs().mean()


def normed(tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Layer norm without weights, as V-JEPA's targets have it."""
    return F.layer_norm(tokens, tokens.shape[-1:])
