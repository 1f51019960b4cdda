"""Photometric views of clips: what light, camera and something in the way may do to a picture."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_GAIN, _BIAS, _MIX, _OCCLUDER = 0.5, 0.6, 0.15, 0.35


def photometric_view(
    pixel_values: Float[Tensor, "clip frame 3 height width"],
    changed: Bool[Tensor, " whole_batch"],
    generator: torch.Generator,
    part: slice = slice(None),
) -> Float[Tensor, "clip frame 3 height width"]:
    """Give `changed` clips another light, other colours, and an occluder; alike in all frames of a clip.

    Pixel values are of zero mean and unit variance, as an encoder's `preprocess` gives them. Gain and bias
    are drawn for each channel, colours mixed a little, and in every second clip a rectangle of one colour,
    up to a third of the frame's side, hides what is behind it. Positions are never changed.

    Args:
        pixel_values: the clips of `part`.
        changed: which clips of the whole batch are changed.
        generator: draws for the whole batch, whatever the part.
        part: which of the batch's clips are given.
    """
    num_clips = len(changed)

    def uniform(*shape: int) -> Tensor:
        return (2 * torch.rand(num_clips, *shape, generator=generator) - 1)[part]

    gain = 1 + _GAIN * (0.5 * uniform(3) + 0.5 * uniform(1))
    mix = torch.diag_embed(gain) + _MIX * uniform(3, 3)
    bias = _BIAS * (uniform(1) + 0.5 * uniform(3))
    colour = 2 * uniform(3)
    size = _OCCLUDER * (0.3 + 0.7 * uniform(2).abs())
    corner = (1 - size) * (0.5 + 0.5 * uniform(2))
    hides = uniform(1, 1) > 0

    chosen = changed[part].nonzero().squeeze(1)
    height, width = pixel_values.shape[-2:]
    rows, columns = torch.arange(height) / height, torch.arange(width) / width
    in_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + size[:, :1])
    in_columns = (columns >= corner[:, 1:]) & (columns < corner[:, 1:] + size[:, 1:])
    hidden = (in_rows.unsqueeze(2) & in_columns.unsqueeze(1) & hides)[chosen, None, None]

    def per_channel(values: Tensor) -> Tensor:
        return values[chosen].view(-1, 1, 3, 1, 1).to(pixel_values)

    lit = torch.einsum("nij,ntjhw->ntihw", mix[chosen].to(pixel_values), pixel_values[chosen])
    views = pixel_values.clone()
    views[chosen] = torch.where(hidden.to(views.device), per_channel(colour), lit + per_channel(bias))
    return views
