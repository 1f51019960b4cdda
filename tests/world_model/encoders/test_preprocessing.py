"""Frames become pixel values as the published evaluation code makes them."""

import numpy as np
import pytest
import torch

from wm_plan.world_model.encoders.preprocessing import Preprocessing


def gradient(height: int, width: int) -> np.ndarray:
    """A frame whose red grows to the right and whose green grows downwards."""
    frame = np.zeros((1, 1, height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(0, 255, width)
    frame[..., 1] = np.linspace(0, 255, height)[:, None]
    return frame


def plain(size: int, resize: int, **settings: object) -> Preprocessing:
    return Preprocessing(size, resize, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), **settings)


def test_a_frame_of_the_right_size_is_only_scaled() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (2, 3, 8, 8, 3), dtype=np.uint8)
    scaled = Preprocessing(8, 8, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))(frames)
    expected = (frames / 255 - [0.5, 0.25, 0.0]) / [0.5, 1.0, 2.0]
    np.testing.assert_allclose(scaled.permute(0, 1, 3, 4, 2), expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64)])
def test_the_centre_of_a_wide_or_tall_frame_is_kept(height: int, width: int) -> None:
    pixels = plain(28, 32)(gradient(height, width))[0, 0]
    assert pixels.shape == (3, 28, 28)
    long, short = (0, 1) if width > height else (1, 0)
    kept = 28 / 32
    for channel, share in ((short, kept), (long, kept * 64 / 96)):
        values = pixels[channel].amax() - pixels[channel].amin()
        assert values == pytest.approx(share, abs=0.04)
        assert pixels[channel].mean() == pytest.approx(0.5, abs=0.02)


def test_squashing_keeps_the_whole_frame() -> None:
    pixels = plain(32, 32, squash=True)(gradient(64, 96))[0, 0]
    for channel in pixels[:2]:
        assert channel.min() < 0.02
        assert channel.max() > 0.98


def test_another_size_keeps_the_share_that_is_cropped() -> None:
    published = plain(224, 256)
    assert (published.resized(112, None).image_size, published.resized(112, None).resize) == (112, 128)
    assert (published.resized(None, 1.0).image_size, published.resized(None, 1.0).resize) == (224, 224)


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ValueError, match="a crop of 32 px cannot be cut from frames of 16 px"):
        plain(32, 16)
    with pytest.raises(ValueError, match="interpolation is 'nearest'"):
        plain(32, 32, interpolation="nearest")
    with pytest.raises(ValueError, match="crop_fraction must be above 0 and at most 1, got 1.5"):
        plain(32, 32).resized(None, 1.5)
    call = getattr(Preprocessing.__call__, "__wrapped__", Preprocessing.__call__)  # past the type checks
    with pytest.raises(
        ValueError, match=r"frames must be \(batch, time, height, width, 3\) uint8, got \(1, 8, 8, 3\)"
    ):
        call(plain(8, 8), torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
