"""Raw pixels as tokens: what an encoder has to beat."""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .options import EncoderOptions
from .preprocessing import Preprocessing
from .published import EncoderCard, PublishedEncoder


class RawPixels(nn.Module):
    """A patch's pixel values are its token."""

    def __init__(self, patch_size: int) -> None:
        """Build for patches of `patch_size` px."""
        super().__init__()
        self.patch_size = patch_size

    def forward(
        self, pixel_values: Float[Tensor, "batch 1 3 height width"], layers: tuple[int, ...] = ()
    ) -> list[Float[Tensor, "batch token dim"]]:
        """Tokens in the order (row, column)."""
        del layers
        pixels = pixel_values.squeeze(1)
        patch = self.patch_size
        return [rearrange(pixels, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)]


def load_raw_pixels(options: EncoderOptions) -> PublishedEncoder:
    """Frames at 96 px in patches of 12 px, scaled to ImageNet's mean and std: the layout of "small"."""
    options.allow("pixels", "image_size", "crop_fraction", "dtype")
    card = EncoderCard("pixels", {}, Preprocessing(96, 96), 12, 1, 1, 3 * 12 * 12, depth=0)
    card = card.chosen(options)
    return PublishedEncoder(RawPixels(card.patch_size), card, "pixels").to(options.device)
