"""Goal pictures from people: every readable one is taken, every other one is one clear line."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wm_plan.goal_image import read_goal_image


def ramp(height: int = 32, width: int = 32) -> np.ndarray:
    rows = np.linspace(0, 255, height, dtype=np.uint8)[:, None, None]
    columns = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    return np.concatenate([rows + 0 * columns, columns + 0 * rows, 0 * (rows + columns)], axis=2).astype(
        np.uint8
    )


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_a_png_is_read_bit_for_bit(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_goal_image(save(tmp_path / "a.png", ramp())), ramp())


def test_a_jpeg_is_read_whatever_its_name(tmp_path: Path) -> None:
    pixels = read_goal_image(save(tmp_path / "a.png", ramp(), format="JPEG", quality=95))
    assert np.abs(pixels.astype(int) - ramp()).mean() < 8


def test_grey_sixteen_bit_and_palette_pictures_become_rgb(tmp_path: Path) -> None:
    grey = ramp()[:, :, 0]
    wide = grey.astype(np.uint16) * 257
    for name, pixels in (("l.png", grey), ("i16.png", wide)):
        np.testing.assert_array_equal(
            read_goal_image(save(tmp_path / name, pixels)), np.repeat(grey[:, :, None], 3, 2)
        )
    Image.fromarray(ramp()).convert("P").save(tmp_path / "p.png")
    assert read_goal_image(tmp_path / "p.png").shape == (32, 32, 3)


def test_transparency_is_laid_on_black(tmp_path: Path) -> None:
    rgba = np.full((20, 20, 4), 255, np.uint8)
    rgba[:10, :, 3] = 0
    pixels = read_goal_image(save(tmp_path / "a.png", rgba))
    assert pixels[:10].max() == 0
    assert pixels[10:].min() == 255


def test_a_cameras_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    path = save(tmp_path / "a.jpg", ramp(), exif=exif, quality=95)
    shown = np.rot90(ramp(), -1)
    assert np.abs(read_goal_image(path).astype(int) - shown).mean() < 8


def test_a_wide_picture_is_cropped_around_its_centre_with_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", ramp(20, 40))
    with pytest.warns(UserWarning, match=r"is 40 x 20, not square; its central 20 x 20 is used"):
        pixels = read_goal_image(path)
    np.testing.assert_array_equal(pixels, ramp(20, 40)[:, 10:30])


def cut_short(path: Path) -> None:
    whole = save(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def broken_chunk(path: Path) -> None:
    whole = bytearray(save(path, ramp()).read_bytes())
    whole[60] ^= 0xFF
    path.write_bytes(bytes(whole))


def text(path: Path) -> None:
    path.write_text("not a picture")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def one_pixel(path: Path) -> None:
    save(path, np.zeros((1, 1, 3), np.uint8))


def very_wide(path: Path) -> None:
    save(path, np.zeros((20, 20_000, 3), np.uint8))


def bomb(path: Path) -> None:
    """A PNG header of 60,000 x 60,000 pixels with hardly any data."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def gif(path: Path) -> None:
    save(path, ramp(), format="GIF")


def test_a_name_that_no_file_can_have_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_goal_image(tmp_path / ("x" * 300))
    with pytest.raises(ValueError, match="is no file"):
        read_goal_image("/dev/null")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (cut_short, "is damaged or cut short"),
        (broken_chunk, "is damaged or cut short"),
        (text, "is not a PNG or JPEG picture"),
        (empty, "is not a PNG or JPEG picture"),
        (gif, "is not a PNG or JPEG picture"),
        (one_pixel, "is 1 x 1 pixels; a side must have at least 16"),
        (very_wide, "is 20000 x 20 pixels; a side may have 8192 at most"),
        (bomb, "is too large"),
    ],
)
def test_what_is_no_usable_picture_is_said_in_one_line(make, said: str, tmp_path: Path) -> None:
    path = tmp_path / "goal.png"
    make(path)
    with pytest.raises(ValueError, match=said) as caught:
        read_goal_image(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
