"""Seeing what an encoder sees: its tokens as colours, the nearest frames, where else a patch is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image as PillowImage
from PIL import ImageDraw
from torch import Tensor

from .world_model import Encoder

_TILE, _GAP, _MARGIN = 144, 6, 12
"""Sizes of a picture [px]."""
_INK, _PAPER = (29, 36, 51), (255, 255, 255)

Frames = UInt8[np.ndarray, "frame height width 3"]
Tokens = Float[Tensor, "frame token dim"]
OtherFrames = UInt8[np.ndarray, "other height width 3"]


def frame_tokens(encoder: Encoder, frames: Frames, batch_size: int = 16) -> Tokens:
    """Tokens of frames, each on its own, on the CPU."""
    parts = [
        encoder(encoder.preprocess(frames[start : start + batch_size, None])).cpu()
        for start in range(0, len(frames), batch_size)
    ]
    return torch.cat(parts)


def what_moves(tokens: Tokens) -> Tokens:
    """Tokens less the usual one of their place, and less what a whole frame then has in common.

    Medians: where something passes, it leaves no trace in the other frames.
    """
    own = tokens - tokens.median(dim=0).values
    return own - own.median(dim=1, keepdim=True).values


def pca_colours(tokens: Tokens) -> UInt8[np.ndarray, "frame token 3"]:
    """The three directions in which all tokens together vary most, as red, green and blue.

    A colour means the same in every frame; its limits are the 1st and the 99th percentile.
    """
    flat = tokens.flatten(0, 1).double()
    centred = flat - flat.mean(dim=0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:].flip(1)
    axes = axes * torch.sign(axes.sum(dim=0) + 1e-12)  # a direction has no sign of its own
    scores = centred @ axes
    low, high = torch.quantile(scores, 0.01, dim=0), torch.quantile(scores, 0.99, dim=0)
    shares = ((scores - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    return (shares * 255).round().to(torch.uint8).reshape(*tokens.shape[:2], 3).numpy()


def nearest_frames(
    query: Tokens, others: Float[Tensor, "other token dim"], num: int
) -> Int[Tensor, "frame nearest"]:
    """Indices of the `others` nearest to each query, by the distance of all their tokens, nearest first."""
    return torch.cdist(query.flatten(1), others.flatten(1)).topk(num, largest=False).indices


def similarity_map(tokens: Tokens, frame: int, token: int) -> Float[Tensor, "frame token"]:
    """Similarity of one token to every token of every frame, from -1 to 1.

    Of directions (cosine), and in size: a token that is next to nothing is like no other.
    """
    one = tokens[frame, token]
    size = tokens.norm(dim=-1) / one.norm().clamp(min=1e-12)
    return F.cosine_similarity(tokens, one, dim=-1) * size.clamp(max=1)


def draw_pca(path: Path, encoder: Encoder, frames: Frames) -> None:
    """Write a PNG: frames, their tokens as colours, and the same of what moves."""
    tokens = frame_tokens(encoder, frames)
    rows = [
        frames,
        _maps(pca_colours(tokens), encoder),
        _maps(pca_colours(what_moves(tokens)), encoder),
    ]
    names = [
        "frames",
        f"tokens of {encoder.name}, first three components",
        "less what is always there, and what the whole frame has in common",
    ]
    _write(path, rows, names, smooth=(True, False, False))


def draw_neighbours(path: Path, encoder: Encoder, queries: Frames, others: OtherFrames, num: int = 6) -> None:
    """Write a PNG: each query beside the frames among `others` that are nearest to it, nearest first."""
    both = frame_tokens(encoder, np.concatenate([queries, others]))
    nearest = nearest_frames(both[: len(queries)], both[len(queries) :], min(num, len(others)))
    rows = [
        np.concatenate([query[None], others[found]]) for query, found in zip(queries, nearest, strict=True)
    ]
    names = [f"a frame, and the {rows[0].shape[0] - 1} nearest of {len(others)} to {encoder.name}"]
    _write(path, rows, names + [""] * (len(rows) - 1), smooth=(True,) * len(rows))


def draw_similarity(path: Path, encoder: Encoder, frames: Frames, places: list[tuple[float, float]]) -> None:
    """Write a PNG: for each place of the first frame, how similar every patch of every frame is to its patch.

    Args:
        path: of the PNG.
        encoder: whose tokens.
        frames: of a video.
        places: row and column as fractions of the height and width.
    """
    tokens = what_moves(frame_tokens(encoder, frames))
    grid = encoder.grid_size
    rows, names = [frames], ["frames; a ring marks the patch that the row below compares with"]
    marks: list[tuple[int, int, float, float]] = []
    for row, column in places:
        place = min(int(row * grid), grid - 1), min(int(column * grid), grid - 1)
        similar = similarity_map(tokens, 0, place[0] * grid + place[1]).clamp(min=0)
        shade = (similar * 255).round().to(torch.uint8).numpy()
        rows.append(
            _maps(np.stack([shade, (shade * 0.7).astype(np.uint8), 80 - shade // 4], axis=-1), encoder)
        )
        names.append(f"similarity to the patch at row {row:.2f}, column {column:.2f} (dark 0, bright 1)")
        middle = (place[0] + 0.5) / grid, (place[1] + 0.5) / grid
        marks += [(0, 0, *middle), (len(rows) - 1, 0, *middle)]
    _write(path, rows, names, smooth=(True, *(False,) * len(places)), marks=marks)


def _maps(
    values: UInt8[np.ndarray, "frame token 3"], encoder: Encoder
) -> UInt8[np.ndarray, "frame row column 3"]:
    """Values of tokens as small pictures."""
    return values.reshape(len(values), encoder.grid_size, encoder.grid_size, 3)


def _write(
    path: Path,
    rows: list[UInt8[np.ndarray, "_ _ _ 3"]],
    names: list[str],
    smooth: tuple[bool, ...],
    marks: list[tuple[int, int, float, float]] | None = None,
) -> None:
    """Rows of square tiles, each under its name."""
    columns = max(len(row) for row in rows)
    captions = [20 if name else 0 for name in names]
    width = 2 * _MARGIN + columns * (_TILE + _GAP) - _GAP
    height = 2 * _MARGIN + sum(captions) + len(rows) * (_TILE + _GAP) - _GAP
    sheet = PillowImage.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        if name:
            draw.text((_MARGIN, top), name, fill=_INK, font_size=13)
        top += captions[index]
        kind = PillowImage.Resampling.BICUBIC if smooth[index] else PillowImage.Resampling.NEAREST
        for column, tile in enumerate(row):
            left = _MARGIN + column * (_TILE + _GAP)
            sheet.paste(PillowImage.fromarray(tile).resize((_TILE, _TILE), kind), (left, top))
            for where, which, down, right in marks or []:
                if (where, which) == (index, column):
                    x, y = left + right * _TILE, top + down * _TILE
                    draw.ellipse((x - 6, y - 6, x + 6, y + 6), outline=(255, 255, 255), width=2)
                    draw.ellipse((x - 8, y - 8, x + 8, y + 8), outline=_INK, width=2)
        top += _TILE + _GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
