"""Looking at episodes: a contact sheet of frames, and a video with the actions beneath."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image as PillowImage
from PIL import ImageDraw

from wm_plan.pictures import BLUE, GREY, INK, load_font

from .bounds import Bounds, action_bounds
from .statistics import ColumnStatistics
from .streaming import blocks

if TYPE_CHECKING:
    from wm_plan.world_model.formats import Source

_TILE, _GAP, _CAPTION, _BARS = 128, 6, 20, 48
_MAX_BARS = 32
_DEFAULT_FPS = 10.0

Frame = UInt8[np.ndarray, "height width 3"]


def cameras_of(source: Source) -> list[str]:
    """The columns that hold frames, the main camera first.

    Raises:
        ValueError: there is none.
    """
    from wm_plan.world_model.formats import default_columns

    images = [name for name, column in source.columns.items() if column.kind == "image"]
    if not images:
        raise ValueError(f"{source.path} has no frames to show; it has {', '.join(source.columns)}")
    main = default_columns(source).get("pixels", images[0])
    return sorted(images, key=lambda name: name != main)


def contact_sheet(source: Source, episodes: Sequence[int], path: Path, num_frames: int = 8) -> None:
    """Write a PNG: a row for each episode and camera, with frames from its first to its last."""
    cameras = cameras_of(source)
    width = _GAP + num_frames * (_TILE + _GAP)
    height = _GAP + len(episodes) * len(cameras) * (_TILE + _CAPTION + _GAP)
    page = PillowImage.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(page), load_font(12)
    top = _GAP
    for episode in episodes:
        length = int(source.lengths[episode])
        rows = np.unique(np.linspace(0, length - 1, num_frames).round().astype(int)).tolist()
        for camera in cameras:
            text = f"episode {episode}   {camera}   rows {', '.join(map(str, rows))}"
            draw.text((_GAP, top + 2), text, fill=INK, font=font)
            for place, row in enumerate(rows):
                frame = _rgb(source.read(episode, [camera], row, row + 1)[camera][0])
                left = _GAP + place * (_TILE + _GAP)
                page.paste(_tile(frame), (left, top + _CAPTION))
            top += _TILE + _CAPTION + _GAP
    page.save(path)


def write_clip(source: Source, episodes: Sequence[int], path: Path) -> None:
    """Write an H.264 mp4 of episodes, one after another: all cameras side by side, actions beneath.

    It plays at the dataset's own rate, or at 10 frames a second where nobody says it.
    """
    import imageio.v3 as iio

    fps = round(source.fps) if source.fps and source.fps >= 1 else _DEFAULT_FPS
    with iio.imopen(path, "w", plugin="pyav") as video:
        video.init_video_stream("libx264", fps=fps, pixel_format="yuv420p")
        for episode in episodes:
            for page in _pages(source, episode):
                video.write_frame(page)


def _pages(source: Source, episode: int) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The pages of one episode, as they are read."""
    from wm_plan.world_model.formats import default_columns

    cameras = cameras_of(source)
    action = default_columns(source).get("action")
    low, high = _action_range(source, episode, action) if action else (np.zeros(0), np.zeros(0))
    tile = 2 * _TILE
    width = len(cameras) * (tile + _GAP) + _GAP
    height = _CAPTION + tile + _GAP + (_BARS if action else 0)
    size = (width + width % 2, height + height % 2)
    font = load_font(13)
    for start, values in blocks(source, episode, [*cameras, *([action] if action else [])]):
        for index in range(len(values[cameras[0]])):
            page = PillowImage.new("RGB", size, "white")
            draw = ImageDraw.Draw(page)
            draw.text((_GAP, 2), f"episode {episode}  row {start + index}", fill=INK, font=font)
            for place, camera in enumerate(cameras):
                left = _GAP + place * (tile + _GAP)
                page.paste(_tile(_rgb(values[camera][index]), tile), (left, _CAPTION))
            if action:
                entries = np.ravel(values[action][index]).astype(np.float64)[:_MAX_BARS]
                _draw_bars(draw, entries, low, high, _CAPTION + tile + _GAP, width)
            yield np.asarray(page)


def _action_range(source: Source, episode: int, action: str) -> Bounds:
    """The action's bounds, or what the episode spans where they are unknown or infinite."""
    if (bounds := action_bounds(source, action)) and np.isfinite(bounds).all():
        return bounds
    seen = ColumnStatistics()
    for _, values in blocks(source, episode, [action]):
        seen.add(values[action])
    there = seen.count > 0
    return np.where(there, seen.low, 0.0), np.where(there, seen.high, 0.0)


def _draw_bars(
    draw: ImageDraw.ImageDraw, entries: np.ndarray, low: np.ndarray, high: np.ndarray, top: int, width: int
) -> None:
    """One bar for each entry of the action, from the middle of its range up or down."""
    half, room = (_BARS - _GAP) / 2, (width - 2 * _GAP) / len(entries)
    draw.line([(_GAP, top + half), (width - _GAP, top + half)], fill=GREY)
    for entry, value in enumerate(entries):
        middle, reach = (low[entry] + high[entry]) / 2, max(1e-9, (high[entry] - low[entry]) / 2)
        if np.isfinite(value):
            end = top + half - half * np.clip((value - middle) / reach, -1, 1)
            left = _GAP + entry * room
            ends = sorted((top + half, end))
            draw.rectangle([left + 1, ends[0], left + max(2, room - 2), ends[1]], fill=BLUE)


def _rgb(frame: UInt8[np.ndarray, "height width channel"]) -> Frame:
    """Three channels, whatever the camera gives."""
    if frame.shape[-1] == 1:
        return np.repeat(frame, 3, axis=-1)
    return frame[..., :3]


def _tile(frame: Frame, side: int = _TILE) -> PillowImage.Image:
    """A frame as large as fits into a square, centred in it."""
    picture = PillowImage.fromarray(frame)
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    small = picture.resize((size[0], size[1]), PillowImage.Resampling.LANCZOS)
    page = PillowImage.new("RGB", (side, side), "white")
    page.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
    return page
