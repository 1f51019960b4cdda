"""A published encoder, frozen, behind the `Encoder` protocol; what differs between them is data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..weights_io import load_folder, load_weights, save_folder
from .options import EncoderOptions
from .preprocessing import Frames, Preprocessing


@dataclass(frozen=True)
class EncoderCard:
    """What is to know of an encoder besides its weights: JSON.

    Attributes:
        family: who builds it: see `build_backbone`.
        architecture: sizes, as the family has them.
        preprocessing: from frames to pixel values.
        patch_size: height and width of a patch [px].
        tubelet_size: frames a patch spans; 1 is an image encoder, which sees each frame on its own.
        num_frames: frames of the longest clips it was trained on.
        token_width: numbers a layer gives for a token.
        depth: its blocks.
        layers: blocks whose outputs make the tokens, each layer-normed; () is the output of the whole.
        dtype: what it computes in.
        layer_widths: numbers of a token of each layer, layer 0 first, where they differ.
    """

    family: str
    architecture: dict[str, Any]
    preprocessing: Preprocessing
    patch_size: int
    tubelet_size: int
    num_frames: int
    token_width: int
    depth: int
    layers: tuple[int, ...] = ()
    dtype: str = "float32"
    layer_widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse sizes and layers that do not fit."""
        size, patch = self.preprocessing.image_size, self.patch_size
        if size % patch:
            near = max(1, round(size / patch)) * patch
            raise ValueError(f"image_size {size} is no multiple of the patch size {patch}; try {near}")
        if self.layers and not 0 <= min(self.layers) <= max(self.layers) <= self.depth:
            raise ValueError(f"layers are {self.layers}; the encoder's layers are 0 to {self.depth}")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers are {self.layers}; each may stand there once")

    def chosen(self, options: EncoderOptions) -> EncoderCard:
        """The card with a user's choices in the place of what was published."""
        return replace(
            self,
            preprocessing=self.preprocessing.resized(options.image_size, options.crop_fraction),
            layers=self.layers if options.layers is None else tuple(options.layers),
            dtype=options.dtype,
        )


class PublishedEncoder(nn.Module):
    """A frozen encoder of any family. Its weights and its mode never change.

    Source: the tokens are those of the published code, to rounding; see `docs/encoders.md`.
    """

    def __init__(self, backbone: nn.Module, card: EncoderCard, name: str) -> None:
        """Freeze `backbone`, which gives a list of tokens for (pixel values, layers)."""
        super().__init__()
        self.name = name
        self.card = card
        self.backbone = backbone.to(getattr(torch, card.dtype)).eval().requires_grad_(False)
        self._fingerprint: str | None = None
        super().train(False)

    def train(self, mode: bool = True) -> PublishedEncoder:
        """Stay frozen, whatever a parent module does."""
        del mode
        return self

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.backbone.parameters(), torch.zeros(0)).device

    @property
    def fingerprint(self) -> str:
        """40 hexadecimal digits over weights, sizes, layers and preprocessing."""
        if self._fingerprint is None:
            digest = hashlib.sha256(json.dumps(asdict(self.card), sort_keys=True).encode())
            for name, tensor in sorted(self.backbone.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
            self._fingerprint = digest.hexdigest()[:40]
        return self._fingerprint

    @property
    def preprocessing(self) -> Preprocessing:
        """From frames to pixel values."""
        return self.card.preprocessing

    @property
    def image_size(self) -> int:
        """Height and width of the input [px]."""
        return self.card.preprocessing.image_size

    @property
    def grid_size(self) -> int:
        """Patches along a side of a frame."""
        return self.image_size // self.card.patch_size

    @property
    def width(self) -> int:
        """Numbers a token."""
        card = self.card
        if card.layer_widths:
            return sum(card.layer_widths[layer] for layer in card.layers)
        return card.token_width * max(len(card.layers), 1)

    @property
    def tubelet_size(self) -> int:
        """Frames a patch spans."""
        return self.card.tubelet_size

    @property
    def num_frames(self) -> int:
        """Frames of the longest clips it was trained on."""
        return self.card.num_frames

    def preprocess(self, frames: Frames) -> Float[Tensor, "batch time 3 size size"]:
        """Frames of any size as pixel values, on the encoder's device."""
        return self.card.preprocessing(frames, self.device)

    @torch.no_grad()
    def forward(
        self, pixel_values: Float[Tensor, "batch time 3 height width"]
    ) -> Float[Tensor, "batch token dim"]:
        """Tokens in the order (time, row, column); a lone frame is a still clip.

        Raises:
            ValueError: a clip is no multiple of the tubelet's frames.
        """
        batch, steps = pixel_values.shape[:2]
        if steps > 1 and steps % self.tubelet_size:
            raise ValueError(
                f"clips of {steps} frames do not fit {self.name!r}: "
                f"give lone frames, or a multiple of {self.tubelet_size}"
            )
        pixel_values = pixel_values.to(self.device, getattr(torch, self.card.dtype))
        if self.tubelet_size == 1:
            pixel_values = pixel_values.flatten(0, 1).unsqueeze(1)
        outputs = [tokens.float() for tokens in self.backbone(pixel_values, self.card.layers)]
        if self.card.layers:
            outputs = [F.layer_norm(tokens, tokens.shape[-1:]) for tokens in outputs]
        tokens = torch.cat(outputs, dim=-1)
        return tokens.reshape(batch, -1, tokens.shape[-1])

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into `folder`; weights are kept as they are."""
        config = {"name": self.name, "card": asdict(self.card)}
        save_folder(Path(folder), "encoder", config, self.backbone.state_dict())

    @classmethod
    def load(cls, folder: str | Path, options: EncoderOptions | None = None) -> PublishedEncoder:
        """Read what `save` wrote.

        Raises:
            ValueError: the folder is missing, damaged or holds something else; or an option does not apply.
        """
        folder = Path(folder)
        config, tensors = load_folder(folder, "encoder")
        try:
            entries = dict(config["card"])
            pixels = dict(entries["preprocessing"])
            pixels["mean"], pixels["std"] = tuple(pixels["mean"]), tuple(pixels["std"])
            entries["preprocessing"] = Preprocessing(**pixels)
            for key in ("layers", "layer_widths"):
                entries[key] = tuple(entries[key])
            card = EncoderCard(**entries)
            name = str(config["name"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(folder)!r} has a damaged config: {error!r}") from error
        if options is not None:
            options.allow(str(folder), "dtype", "image_size", "crop_fraction", "layers")
            dtype = options.dtype if "dtype" in options.given() else card.dtype
            card = card.chosen(replace(options, dtype=dtype))
        backbone = build_backbone(card)
        load_weights(backbone, tensors, folder)
        return cls(backbone, card, name).to(options.device if options else "cpu")


def build_backbone(card: EncoderCard) -> nn.Module:
    """The module of a card's family, its weights still to be loaded.

    Raises:
        ValueError: there is no such family.
    """
    from .efficientnet import EfficientNetLite0
    from .huggingface import transformers_backbone
    from .pixels import RawPixels
    from .position_table import PositionTableConfig, PositionTableEncoder
    from .vjepa2 import VJEPA2Config, VJEPA2Encoder

    sizes = card.architecture
    try:
        if card.family == "vjepa2":
            return VJEPA2Encoder(VJEPA2Config(**sizes))
        if card.family == "position-table":
            return PositionTableEncoder(PositionTableConfig(**sizes))
        if card.family == "transformers":
            return transformers_backbone(sizes, card.preprocessing.image_size)
        if card.family == "efficientnet-lite0":
            return EfficientNetLite0()
        if card.family == "pixels":
            return RawPixels(card.patch_size)
    except TypeError as error:
        raise ValueError(f"the architecture of a {card.family!r} encoder is damaged: {error}") from error
    known = "vjepa2, position-table, transformers, efficientnet-lite0, pixels"
    raise ValueError(f"Unknown family of encoders {card.family!r}; known: {known}")
