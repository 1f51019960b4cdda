"""How formats lay rows out (grey, channels first, floats from 0 to 255, JPEG), and how they become ours.

Frames are (H, W, C) uint8 here, whatever a file has; everything else keeps its dtype and shape.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Shaped, UInt8

from .protocol import Column, Kind

_MIN_SIDE = 8
_MIN_SIDE_GREY = 32
_CHANNELS = (1, 3, 4)
_MAX_PIXELS = 2**25

Order = Literal["hwc", "chw", "hw", "jpeg"]


@dataclass(frozen=True)
class RowLayout:
    """What a stored row is, and how it becomes ours.

    Attributes:
        column: what it becomes.
        dtype: numpy's name of what is stored.
        shape: of what is stored.
        order: the axes of an image, or "jpeg" for a file; None for what is taken as it is.
        scale: what float pixels are multiplied by.
    """

    column: Column
    dtype: str
    shape: tuple[int, ...]
    order: Order | None = None
    scale: float | None = None

    def fits(self, dtype: np.dtype, shape: Sequence[int]) -> bool:
        """Whether rows of this dtype and shape, in any byte order, have this layout."""
        return (dtype.name, tuple(shape)) == (self.dtype, self.shape)

    def to_rows(self, stored: Shaped[np.ndarray, "row ..."]) -> Shaped[np.ndarray, "row ..."]:
        """Stored rows as rows of the column.

        Raises:
            ValueError: a float frame has values that no pixel has, or a JPEG is damaged.
        """
        if self.order is None:
            return stored
        if self.order == "jpeg":
            return decode_jpegs(stored, self.column.shape)
        if self.order == "chw":
            stored = np.moveaxis(stored, 1, -1)
        if self.order == "hw":
            stored = stored[..., None]
        if self.scale is not None:
            stored = stored * np.float32(self.scale) if self.scale != 1 else stored
            if stored.size and not (stored.min() >= -0.5 and stored.max() < 255.5):
                raise ValueError(
                    f"frames reach from {stored.min():g} to {stored.max():g}; they must stay in 0 to 255"
                )
            stored = np.rint(stored)
        return np.ascontiguousarray(stored, dtype=np.uint8)


def layout_of(
    dtype: np.dtype, shape: Sequence[int], samples: Shaped[np.ndarray, "row ..."] | None = None
) -> RowLayout | None:
    """The layout of rows with this dtype and shape; None if they are neither numbers nor truth values.

    Three axes with 1, 3 or 4 channels last (or first), or two long ones, are a uint8 image; floats with 3
    channels are one too: from 0 to 1 if all `samples` are and some are fractions, else from 0 to 255.
    """
    stored = shape = tuple(int(side) for side in shape)
    if dtype.kind not in "biuf":
        return None
    scale, lossy = None, False
    order = _image_order(shape) if dtype == np.uint8 else None
    if dtype.kind == "f" and len(shape) == 3 and 3 in (shape[0], shape[-1]):
        order, scale = _image_order(shape), 1.0
        if samples is not None and samples.size and samples.max() <= 1 and (samples % 1 != 0).any():
            scale, lossy = 255.0, True
    if order is None:
        kinds: dict[int, Kind] = {0: "scalar", 1: "vector"}
        return RowLayout(Column(dtype.name, shape, kinds.get(len(shape), "array")), dtype.name, stored)
    if order == "chw":
        shape = (*shape[1:], shape[0])
    if order == "hw":
        shape = (*shape, 1)
    return RowLayout(Column("uint8", shape, "image", lossy=lossy), dtype.name, stored, order, scale)


def _image_order(shape: tuple[int, ...]) -> Order | None:
    if len(shape) == 2 and min(shape) >= _MIN_SIDE_GREY:
        return "hw"
    if len(shape) == 3 and shape[2] in _CHANNELS and min(shape[:2]) >= _MIN_SIDE:
        return "hwc"
    if len(shape) == 3 and shape[0] in _CHANNELS and min(shape[1:]) >= _MIN_SIDE:
        return "chw"
    return None


def jpeg_layout(first: bytes) -> RowLayout:
    """The layout of rows that are JPEG files, from the first of them.

    Raises:
        ValueError: it is no JPEG.
    """
    frame = _decode_jpeg(first, None)
    return RowLayout(Column("uint8", frame.shape, "image", lossy=True), "uint8", (), "jpeg")


def decode_jpegs(
    files: Shaped[np.ndarray, "row ..."], shape: tuple[int, ...]
) -> UInt8[np.ndarray, "row height width channel"]:
    """Frames of this shape from JPEG files: bytes, or rows of bytes.

    Raises:
        ValueError: one is damaged, or of another shape.
    """
    frames = np.empty((len(files), *shape), np.uint8)
    for row, content in enumerate(files):
        frames[row] = _decode_jpeg(bytes(content), shape)
    return frames


def _decode_jpeg(content: bytes, shape: tuple[int, ...] | None) -> np.ndarray:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content), formats=["JPEG"])
        if shape is not None and (image.height, image.width) != shape[:2]:
            raise ValueError(
                f"a JPEG is {image.height} x {image.width}, the first was {shape[0]} x {shape[1]}"
            )
        frame = np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a JPEG is damaged: {error}") from error
    frame = frame[..., None] if frame.ndim == 2 else frame
    if shape is not None and frame.shape != shape:
        raise ValueError(f"a JPEG has {frame.shape[-1]} channels, the first had {shape[-1]}")
    return frame
