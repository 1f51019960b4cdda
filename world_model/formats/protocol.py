"""What every format of logged trajectories looks like to whoever reads or converts it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

Kind = Literal["image", "vector", "scalar", "array", "text"]
Progress = Callable[[int, int], None]  # told (episodes done, episodes in all)


def no_progress(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Column:
    """One column of logged trajectories.

    Attributes:
        dtype: numpy's name of it; images are "uint8", texts "str".
        shape: of one row; (H, W, C) for images, () for scalars and texts.
        kind: "image" (decoded frames), "vector", "scalar", "array" (two dimensions or more), or "text".
        lossy: the format keeps it lossily (video, JPEG).
        names: of a vector's entries, as far as they are known.
    """

    dtype: str
    shape: tuple[int, ...]
    kind: Kind
    lossy: bool = False
    names: tuple[str, ...] = ()


@runtime_checkable
class Source(Protocol):
    """Logged trajectories in whatever format, read only and episode by episode.

    Row convention: the action of row t leads from the frame of row t to the frame of row t + 1. Where the
    format keeps an episode's final observation, T steps are T + 1 rows and the last action is NaN (whole
    numbers and texts repeat their last value); where it does not, T steps are T rows and the last action is
    as logged, leading to a frame that nobody kept.

    Attributes:
        path: what was opened.
        format: "native", "stable-worldmodel", "lerobot", "minari", "robomimic", "diffusion-policy", "videos".
        fps: rows a second [Hz], None where nobody says.
        columns: by the names that the format has for them.
        lengths: rows of each episode.
        info: what else the format says (tasks, robot type, env, versions), fit for JSON.
    """

    path: Path
    format: str
    fps: float | None
    columns: Mapping[str, Column]
    lengths: Int[np.ndarray, " episode"]
    info: Mapping[str, Any]

    def read(
        self, episode: int, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        """Rows `start` to `stop` (all when None) of one episode; (row, *shape) each.

        Raises:
            ValueError: no such episode, column or row, or a file is damaged.
        """
        ...

    def close(self) -> None:
        """Close what is open; reading opens it again."""
        ...
