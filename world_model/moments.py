"""What a state head sees of logged rows: the tokens of every camera, side by side, and proprio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .latent_rows import LatentRows

Moment = tuple[Tensor, Tensor | None]
"""Tokens (..., token, dim) and proprio (..., proprio), as `StateHead` takes them."""

_BLOCK_ROWS = 1024


class Moments:
    """Logged rows as a state head takes them: `moments[rows]` reads them.

    Args:
        views: cached tokens of each camera, in the order of the model's `views`.
        proprio: what the robot felt, or None.
        device: where what is read goes.
    """

    def __init__(
        self,
        views: Sequence[LatentRows | np.ndarray],
        proprio: Float[np.ndarray, "row proprio"] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Keep where they are; nothing is read yet."""
        self.views = list(views)
        self.proprio, self.device = proprio, device

    def __len__(self) -> int:
        return len(self.views[0])

    def __getitem__(self, rows: Int[np.ndarray, "*chosen"] | slice) -> Moment:
        """Read rows."""
        parts = [torch.from_numpy(np.array(view[rows])) for view in self.views]
        tokens = (torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]).to(self.device)
        if self.proprio is None:
            return tokens, None
        return tokens, torch.from_numpy(self.proprio[rows]).to(self.device)

    def seen_otherwise(self, first_view: LatentRows | np.ndarray) -> Moments:
        """The same rows with other tokens of the first camera."""
        return Moments([first_view, *self.views[1:]], self.proprio, self.device)

    def blocks(self, num_rows: int = _BLOCK_ROWS) -> Iterator[Moment]:
        """All rows in order."""
        for start in range(0, len(self), num_rows):
            yield self[start : start + num_rows]


def joined(first: Moment, second: Moment) -> Moment:
    """Two batches of moments as one."""
    proprio = None if first[1] is None or second[1] is None else torch.cat([first[1], second[1]])
    return torch.cat([first[0], second[0]]), proprio


def partly_hidden(
    tokens: Float[Tensor, "window step token dim"],
    num_views: int,
    rate: float,
    generator: torch.Generator,
    batch_size: int | None = None,
    share: slice = slice(None),
) -> Float[Tensor, "window step token dim"]:
    """Hide (NaN) all cameras but one of some windows of a batch, each with probability `rate`.

    A goal is often an image of one camera: the latent must do without the others.
    Given only a share of a batch of `batch_size`, it hides what it would hide in the whole.
    """
    whole = len(tokens) if batch_size is None else batch_size
    lead = (len(tokens), *[1] * (tokens.ndim - 1))
    if num_views > 1:
        hide = (torch.rand(whole, generator=generator) < rate)[share]
        kept = torch.randint(num_views, (whole,), generator=generator)[share]
        owner = torch.arange(num_views).repeat_interleave(tokens.shape[-1] // num_views)
        hidden = hide.view(lead) & (owner != kept.view(lead))
        tokens = tokens.masked_fill(hidden.to(tokens.device), torch.nan)
    return tokens
