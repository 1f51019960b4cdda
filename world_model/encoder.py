"""Frozen encoders: frames in, tokens out, with their preprocessing and fingerprint."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .encoders.options import EncoderOptions
from .encoders.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Frames, Preprocessing
from .vit import VideoViT, ViTConfig
from .weights_io import CONFIG_NAME, load_folder, load_weights, save_folder

WEIGHTS_FOLDER = Path(__file__).resolve().parent / "weights"
_SHIPPED = {"small": WEIGHTS_FOLDER / "encoder_small"}
_BASELINES = ("pixels", "efficientnet-lite0")
_CHECKPOINTS = (".pt", ".pth", ".pth.tar")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns clips into tokens.

    Attributes:
        name: what it is called in results.
    """

    name: str

    @property
    def fingerprint(self) -> str:
        """Changes whenever weights or preprocessing do."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width that `preprocess` gives [px]."""
        ...

    @property
    def grid_size(self) -> int:
        """Patches along a side; a frame has `grid_size ** 2` tokens."""
        ...

    @property
    def width(self) -> int:
        """Numbers a token."""
        ...

    @property
    def tubelet_size(self) -> int:
        """Frames a token spans; 1 is an image encoder, which sees each frame of a clip on its own."""
        ...

    @property
    def num_frames(self) -> int:
        """Frames of the longest clips it was trained on; an image encoder (1) takes clips of any length."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """What `preprocess` does, as data."""
        ...

    def preprocess(self, frames: Frames) -> Float[Tensor, "batch time 3 size size"]:
        """Frames of any size as pixel values of the encoder's own."""
        ...

    def __call__(
        self, pixel_values: Float[Tensor, "batch time 3 height width"]
    ) -> Float[Tensor, "batch token dim"]:
        """Tokens of clips, in the order (time, row, column); a lone frame is a still clip."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write what `load_encoder` reads into `folder`."""
        ...


class JEPAEncoder(nn.Module):
    """The teacher of a V-JEPA pretraining, frozen: its weights and its mode never change.

    Tokens are the outputs of `feature_layers`, each layer-normed, side by side.
    """

    _mean: Tensor
    _scale: Tensor

    def __init__(self, config: ViTConfig, feature_layers: tuple[int, ...], name: str = "jepa") -> None:
        """Build with random weights; `load` puts trained ones in."""
        super().__init__()
        self.name = name
        self.config = config
        self.set_feature_layers(feature_layers)
        self.vit = VideoViT(config)
        self.training_record: dict[str, Any] = {}
        self.register_buffer("_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("_scale", 1 / (torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255), persistent=False)
        self.requires_grad_(False)
        super().train(False)

    def set_feature_layers(self, layers: tuple[int, ...]) -> None:
        """Choose whose outputs make the tokens.

        Raises:
            ValueError: the encoder has no such layers.
        """
        if not layers or min(layers) < 0 or max(layers) > self.config.depth:
            raise ValueError(
                f"feature_layers are {layers}; the encoder's layers are 0 to {self.config.depth}"
            )
        self.feature_layers = tuple(layers)

    def train(self, mode: bool = True) -> JEPAEncoder:
        """Stay frozen, whatever a parent module does."""
        del mode
        return self

    @property
    def fingerprint(self) -> str:
        """40 hexadecimal digits over weights, sizes, layers and preprocessing."""
        digest = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode())
        for name, tensor in sorted(self.vit.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().half().numpy().tobytes())
        return digest.hexdigest()[:40]

    @property
    def image_size(self) -> int:
        """Height and width of the input [px]."""
        return self.config.image_size

    @property
    def grid_size(self) -> int:
        """Patches along a side of a frame."""
        return self.config.grid_size

    @property
    def width(self) -> int:
        """Numbers a token."""
        return self.config.width * len(self.feature_layers)

    @property
    def tubelet_size(self) -> int:
        """Frames a token spans."""
        return self.config.tubelet_size

    @property
    def num_frames(self) -> int:
        """Longest clip [frames]."""
        return self.config.num_frames

    @property
    def preprocessing(self) -> Preprocessing:
        """What `preprocess` does, as data."""
        return Preprocessing(self.image_size, self.image_size)

    def preprocess(self, frames: Frames) -> Float[Tensor, "batch time 3 size size"]:
        """Centre-crop to a square, resize with antialiasing, scale to ImageNet's mean and std."""
        return (square_frames(frames, self.image_size, self._mean.device) - self._mean) * self._scale

    @torch.no_grad()
    def forward(
        self, pixel_values: Float[Tensor, "batch time 3 height width"]
    ) -> Float[Tensor, "batch token dim"]:
        """Encode clips of a multiple of the tubelet's frames, or lone frames (repeated to fill a tubelet)."""
        if pixel_values.shape[1] == 1:
            pixel_values = pixel_values.expand(-1, self.config.tubelet_size, -1, -1, -1)
        outputs = enumerate(self.vit.layers(pixel_values, depth=max(self.feature_layers)))
        layers = [tokens for number, tokens in outputs if number in self.feature_layers]
        return torch.cat([F.layer_norm(layer, layer.shape[-1:]) for layer in layers], dim=-1)

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and fp16 `model.safetensors` into `folder`."""
        config = {**self._settings(), "name": self.name, "training": self.training_record}
        tensors = {name: tensor.half() for name, tensor in self.vit.state_dict().items()}
        save_folder(Path(folder), "encoder", config, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> JEPAEncoder:
        """Read what `save` wrote.

        Raises:
            ValueError: the folder is missing, damaged or holds something else.
        """
        folder = Path(folder)
        config, tensors = load_folder(folder, "encoder")
        try:
            encoder = cls(ViTConfig(**config["vit"]), tuple(config["feature_layers"]), str(config["name"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{str(folder)!r} has a damaged config: {error!r}") from error
        load_weights(encoder.vit, tensors, folder)
        encoder.training_record = dict(config.get("training", {}))
        return encoder

    def _settings(self) -> dict[str, Any]:
        preprocessing = {
            "crop": "centre square",
            "resize": "bilinear antialiased",
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
        }
        config = self.config
        # Parts that an encoder has not are left out: fingerprints stay what they were before there were any.
        parts = {"whole_": config.whole_after, "stem_": config.stem_width, "standardise": config.standardise}
        absent = tuple(name for name, there in parts.items() if not there)
        vit = {name: value for name, value in asdict(config).items() if not name.startswith(absent)}
        return {
            "vit": vit,
            "feature_layers": list(self.feature_layers),
            "preprocessing": preprocessing,
        }


def square_frames(
    frames: Frames, image_size: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "batch time 3 size size"]:
    """Frames cropped to their central square and resized, in grey levels 0 to 255."""
    tensor = torch.as_tensor(frames, device=device)
    if tensor.ndim != 5 or tensor.shape[-1] != 3 or tensor.dtype != torch.uint8:
        raise ValueError(
            f"frames must be (batch, time, height, width, 3) uint8, got {tuple(tensor.shape)} {tensor.dtype}"
        )
    side = min(tensor.shape[2:4])
    top, left = (tensor.shape[2] - side) // 2, (tensor.shape[3] - side) // 2
    pixels = tensor[:, :, top : top + side, left : left + side].permute(0, 1, 4, 2, 3).float()
    if side == image_size:
        return pixels
    flat = F.interpolate(
        pixels.flatten(0, 1),
        size=(image_size, image_size),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    return rearrange(flat, "(b t) c h w -> b t c h w", b=len(tensor))


def encoder_names() -> tuple[str, ...]:
    """Names that `load_encoder` knows besides folders, files and ids of the hub."""
    return (*_SHIPPED, "random", *_BASELINES)


def load_encoder(name_or_path: str | Path, *, device: str = "cpu", **options: object) -> Encoder:
    """Load a frozen encoder.

    Args:
        name_or_path: "small", the one in the package; "random", the same with untrained weights, and "pixels"
            and "efficientnet-lite0", to compare with; a folder that `wm-pretrain` or an encoder's `save`
            wrote; a folder of the transformers library, or a model's id on its hub, such as
            "facebook/vjepa2-vitl-fpc64-256", which is only downloaded where the hub's cache lacks it; or a
            `.pt` or `.pth.tar` file of V-JEPA 1, 2, 2.1 or 2-AC, or I-JEPA.
        device: where it computes.
        options: see `encoders.options.EncoderOptions`: dtype, image_size, crop_fraction, layers, num_heads,
            num_frames, entry.

    Raises:
        ValueError: there is no such encoder, it is damaged, an extra is missing, or an option does not apply.
    """
    known = [entry.name for entry in fields(EncoderOptions)]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"Unknown option {unknown[0]!r}; options are: {', '.join(known)}")
    chosen = EncoderOptions(device=device, **options)  # type: ignore[arg-type]
    name, path = str(name_or_path), Path(name_or_path)
    if name in _SHIPPED or name == "random":
        return _own(name, chosen)
    if name == "pixels":
        from .encoders.pixels import load_raw_pixels

        return load_raw_pixels(chosen)
    if name == "efficientnet-lite0":
        from .encoders.efficientnet import load_efficientnet

        return load_efficientnet(chosen)
    if path.is_dir():
        return _from_folder(path, chosen)
    if path.name.endswith(_CHECKPOINTS):
        from .encoders.jepa_checkpoints import load_checkpoint

        return load_checkpoint(path, chosen)
    if path.exists():
        raise ValueError(f"{name!r} is not a folder, nor a checkpoint ({', '.join(_CHECKPOINTS)})")
    near = difflib.get_close_matches(name, encoder_names(), n=1)
    if not near and _HUB_ID.fullmatch(name):
        from .encoders.huggingface import load_transformers
        from .hub import hub_folder

        return load_transformers(hub_folder(name), name, chosen)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"Unknown encoder {name!r}.{hint} Give a folder, a checkpoint ({', '.join(_CHECKPOINTS)}), "
        f"an id of the hub (owner/name) or one of: {', '.join(encoder_names())}"
    )


def _own(name: str, options: EncoderOptions) -> JEPAEncoder:
    """The encoder of the package, or one of the same sizes with untrained weights."""
    options.allow(name, "layers")
    encoder = JEPAEncoder.load(_SHIPPED["small" if name == "random" else name])
    layers = tuple(options.layers or encoder.feature_layers)
    if name == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = JEPAEncoder(encoder.config, layers, name)
    encoder.set_feature_layers(layers)
    encoder.name = name
    return encoder.to(options.device)


def _from_folder(folder: Path, options: EncoderOptions) -> Encoder:
    """An encoder in a folder: ours, a published one that was saved, or one of the transformers library."""
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        config = None  # whoever reads our own folders says what is wrong with it
    if isinstance(config, dict) and "format" not in config and "model_type" in config:
        from .encoders.huggingface import load_transformers

        return load_transformers(folder, folder.name, options)
    if isinstance(config, dict) and "card" in config:
        from .encoders.published import PublishedEncoder

        return PublishedEncoder.load(folder, options)
    options.allow(str(folder), "layers")
    encoder = JEPAEncoder.load(folder)
    encoder.set_feature_layers(tuple(options.layers or encoder.feature_layers))
    return encoder.to(options.device)
