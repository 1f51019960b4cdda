"""Read a goal picture that a person gives: any PNG or JPEG, checked before anything expensive happens."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

MIN_SIDE = 16
"""Shortest side that is taken [pixels]: below it a pose cannot be seen."""

MAX_SIDE = 8192
"""Longest side that is taken [pixels]: 8192 x 8192 is 200 MB decoded."""

FORMATS = ("PNG", "JPEG")


def read_goal_image(path: Path | str) -> UInt8[np.ndarray, "side side 3"]:
    """Give the picture as a square RGB array of its own size.

    Grey, 16-bit, palette and CMYK pictures become RGB; transparency is laid on black, and a camera's EXIF
    rotation is applied. A picture that is not square is cropped around its centre, with a warning.

    Raises:
        ValueError: the file is missing, damaged or no PNG or JPEG, or its sides are out of range.
    """
    what = f"goal image {str(path)!r}"
    if not os.path.isfile(path):  # pathlib would raise for a name that is too long or a folder that is closed
        problem = (
            "is a folder"
            if os.path.isdir(path)
            else "is no file"
            if os.path.exists(path)
            else "does not exist"
        )
        raise ValueError(f"{what} {problem}. Give a PNG or JPEG file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:  # reads the header only
                _check_sides(what, *image.size)
                image.load()
                pixels = _as_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ValueError(f"{what} is not a PNG or JPEG picture. Give a PNG or JPEG file.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(
            f"{what} is too large; a side may have {MAX_SIDE} pixels at most. Shrink it."
        ) from None
    except PermissionError:
        raise ValueError(f"{what} may not be read. Check its permissions.") from None
    except (OSError, SyntaxError, EOFError) as error:  # Pillow raises SyntaxError for a broken PNG chunk
        raise ValueError(f"{what} is damaged or cut short ({error}). Save it again.") from None
    return _centre_square(what, pixels)


def _check_sides(what: str, width: int, height: int) -> None:
    given = f"{what} is {width} x {height} pixels"
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{given}; a side must have at least {MIN_SIDE}. Give a larger picture.")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{given}; a side may have {MAX_SIDE} at most. Shrink it and try again.")


def _as_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    if (
        image.mode.startswith("I") or image.mode == "F"
    ):  # 16-bit grey: Pillow's own conversion clips it to white
        grey = np.asarray(image, dtype=np.float32)
        scale = 65535.0 if image.mode.startswith("I") else max(float(grey.max()), 1.0)
        grey8 = np.clip(np.round(grey / scale * 255.0), 0, 255).astype(np.uint8)
        return np.repeat(grey8[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, rgba)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _centre_square(
    what: str, pixels: UInt8[np.ndarray, "height width 3"]
) -> UInt8[np.ndarray, "side side 3"]:
    height, width = pixels.shape[:2]
    if height == width:
        return pixels
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    warnings.warn(
        f"{what} is {width} x {height}, not square; its central {side} x {side} is used",
        UserWarning,
        stacklevel=3,
    )
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])
