"""What predictors over patch tokens have in common: one step after another, the past computed once.

Shapes: tokens (B, T, P, D) are the patches of frames, actions (B, T, A) and proprio (B, T, S) are in the
units of the env. The action of a step leads from its frame to the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .frame_causal import Block, FrameCache, Steps, Turn, run_blocks

Tokens = Float[Tensor, "batch step token dim"]
Actions = Float[Tensor, "batch step action"]
States = Float[Tensor, "batch step state"]
Codes = Float[Tensor, "batch step code"]
"""What is carried of the proprio from step to step; see `TokenPredictor.code`."""


class TokenPredictor(nn.Module, ABC):
    """The tokens of the next frame from those of the frames up to now, actions and proprio.

    Attributes:
        blocks: the transformer.
        grid_size: patches along a side of a frame.
        token_dim: numbers a token.
        state_dim: numbers of proprio; 0 without any.
        tokens_per_step: those of a frame, and what goes with them.
        max_steps: longest sequence.
        config: sizes.
    """

    blocks: nn.ModuleList
    action_offset: Tensor
    action_scale: Tensor
    state_offset: Tensor
    state_scale: Tensor
    token_offset: Tensor
    token_scale: Tensor
    grid_size: int
    token_dim: int
    state_dim: int
    tokens_per_step: int
    max_steps: int
    config: Any

    def add_normalisers(self, action_dim: int, state_dim: int) -> None:
        """Make room for what `fit_normalisers` finds; until then, numbers are taken as they are."""
        self.register_buffer("action_offset", torch.zeros(action_dim))
        self.register_buffer("action_scale", torch.ones(action_dim))
        self.register_buffer("state_offset", torch.zeros(state_dim))
        self.register_buffer("state_scale", torch.ones(state_dim))
        self.register_buffer("token_offset", torch.zeros(self.grid_size**2, self.token_dim))
        self.register_buffer("token_scale", torch.ones(self.token_dim))

    @torch.no_grad()
    def fit_normalisers(
        self,
        tokens: Float[Tensor, "sample token dim"],
        actions: Float[Tensor, "row action"],
        states: Float[Tensor, "row state"] | None = None,
    ) -> None:
        """Take mean and std of training rows; numbers that never change are only shifted.

        The network sees tokens as deviations from the mean at their place: what never changes, such as the
        background, is gone before anything is learned.
        """
        self.token_offset.copy_(tokens.mean(dim=0))
        usual = (tokens - self.token_offset).square().mean(dim=(0, 1)).sqrt()
        self.token_scale.copy_(1 / usual.clamp(min=1e-3))
        for name, rows in (("action", actions), ("state", states)):
            if rows is not None:
                std = rows.std(dim=0)
                getattr(self, f"{name}_offset").copy_(rows.mean(dim=0))
                getattr(self, f"{name}_scale").copy_(torch.where(std > 1e-6, 1 / std, torch.ones_like(std)))

    def standardise(self, tokens: Tokens) -> Tokens:
        """Tokens as the network sees them."""
        return (tokens - self.token_offset) * self.token_scale

    def normalise_actions(self, actions: Actions) -> Actions:
        """Actions as the network sees them."""
        return (actions - self.action_offset) * self.action_scale

    def normalise_states(self, states: States) -> States:
        """Proprio as the network sees it."""
        return (states - self.state_offset) * self.state_scale

    @abstractmethod
    def code(self, states: States) -> Codes:
        """What is carried from step to step of the proprio: `advance` takes it and gives the next."""

    @abstractmethod
    def embed(self, tokens: Tokens, actions: Actions, codes: Codes | None, first_step: int) -> Steps:
        """The transformer's input."""

    @abstractmethod
    def next_tokens(self, hidden: Steps, tokens: Tokens) -> Tokens:
        """Tokens of the frames that follow, from the transformer's output."""

    @abstractmethod
    def next_codes(self, hidden: Steps, actions: Actions, codes: Codes) -> Codes:
        """Codes of the steps that follow."""

    @abstractmethod
    def code_loss(self, codes: Codes, states: States) -> Float[Tensor, ""]:
        """How far imagined codes are from those of the true proprio; 0 where they need no training."""

    @abstractmethod
    def token_loss(self, imagined: Tokens, true: Tokens) -> Float[Tensor, ""]:
        """How far imagined tokens are from true ones."""

    def cache_numbers_per_step(self) -> int:
        """Numbers that a `FrameCache` keeps of one step of one sequence."""
        first = self.blocks[0]
        assert isinstance(first, Block)
        return len(self.blocks) * self.tokens_per_step * 2 * first.attn.proj.in_features

    def feed_on(self, tokens: Tokens) -> Tokens:
        """What of `next_tokens` is compared with true tokens, and fed on."""
        return tokens

    def turn(self, first_step: int, num_steps: int) -> Turn | None:
        """Rotary positions, for predictors that have some."""
        return None

    def run(
        self, tokens: Tokens, actions: Actions, codes: Codes | None, cache: FrameCache | None = None
    ) -> Steps:
        """The transformer's output for steps that follow those in `cache`, which they extend.

        Raises:
            ValueError: there are more steps than the predictor has positions for.
        """
        first, count = 0 if cache is None else cache.num_steps, tokens.shape[1]
        if first + count > self.max_steps:
            raise ValueError(
                f"{first + count} steps of context and plan are too many: this predictor has positions for "
                f"{self.max_steps}; shorten the horizon or the history"
            )
        hidden = self.embed(tokens, actions, codes, first)
        return run_blocks(self.blocks, hidden, cache, self.turn(first, count))

    def advance(
        self, tokens: Tokens, actions: Actions, codes: Codes | None, cache: FrameCache | None = None
    ) -> tuple[Tokens, Codes | None]:
        """Tokens and codes of the frame after each of these; see `run`."""
        hidden = self.run(tokens, actions, codes, cache)
        following = None if codes is None else self.next_codes(hidden, actions, codes)
        return self.feed_on(self.next_tokens(hidden, tokens)), following

    def forward(
        self, tokens: Float[Tensor, "batch length dim"], actions: Actions, states: States | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Tokens of the frame after each given one, every frame from itself and those before it.

        Args:
            tokens: of T frames, patch after patch, frame after frame.
            actions: (B, T, A).
            states: (B, T, S); None for predictors without proprio.

        Raises:
            ValueError: shapes do not fit each other or the predictor.
        """
        steps, patches = actions.shape[1], self.grid_size**2
        if tokens.shape[1:] != (steps * patches, self.token_dim):
            raise ValueError(
                f"tokens are {tuple(tokens.shape)}; {steps} actions and {patches} patches a frame need "
                f"(batch, {steps * patches}, {self.token_dim})"
            )
        if self.state_dim and (states is None or states.shape[1:] != (steps, self.state_dim)):
            raise ValueError(
                f"proprio is {None if states is None else tuple(states.shape)}; this predictor needs "
                f"(batch, {steps}, {self.state_dim})"
            )
        codes = self.code(states) if states is not None and self.state_dim else None
        frames = tokens.unflatten(1, (steps, patches))
        return self.next_tokens(self.run(frames, actions, codes), frames).flatten(1, 2)

    def imagine(
        self,
        context: Tokens,
        past_actions: Float[Tensor, "batch past action"],
        states: States | None,
        actions: Float[Tensor, "batch candidate horizon action"],
    ) -> tuple[Float[Tensor, "batch candidate horizon token dim"], int]:
        """The tokens that follow a context under many candidates, and the bytes that the caches took.

        All but the last frame of the context go through the network once a row, whatever the number of
        candidates (the last frame's step holds the candidate's first action); so does each imagined frame,
        once a candidate, with the keys and values before it kept.

        Args:
            context: C frames.
            past_actions: the C - 1 between them.
            states: their proprio.
            actions: N candidates of H.
        """
        candidates, horizon = actions.shape[1:3]
        codes = self.code(states) if states is not None else None
        cache = FrameCache(len(self.blocks))
        if context.shape[1] > 1:
            past = None if codes is None else codes[:, :-1]
            self.run(context[:, :-1], past_actions, past, cache)
        branch = cache.branch()
        latest = context[:, -1:].repeat_interleave(candidates, dim=0)
        code = None if codes is None else codes[:, -1:].repeat_interleave(candidates, dim=0)
        flat = actions.flatten(0, 1)
        imagined = []
        for step in range(horizon):
            latest, code = self.advance(latest, flat[:, step : step + 1], code, branch)
            imagined.append(latest)
        return torch.cat(imagined, dim=1).unflatten(0, (-1, candidates)), cache.num_bytes + branch.num_bytes
